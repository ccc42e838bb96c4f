"""Logs as JSON, one object in each line, on standard output."""

import asyncio
import json
import logging
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any


def _line(created: float, level: str, message: str, fields: Mapping[str, Any]) -> str:
    time = datetime.fromtimestamp(created, UTC).isoformat(timespec="milliseconds")
    return json.dumps({"time": time, "level": level, "message": message, **fields}) + "\n"


class JsonFormatter(logging.Formatter):
    """Time, level and message; an exception's traceback is inside the line."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON, without its end."""
        fields = dict(getattr(record, "fields", {}))
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return _line(record.created, record.levelname.lower(), record.getMessage(), fields)[:-1]


class RequestLog:
    """A line for each request, at the level "info".

    The standard library's way takes as long as reading a user; so these lines are made
    here, and all of one turn of the event loop leave with one write.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._enabled = logging.getLogger(__name__).isEnabledFor(logging.INFO)

    def add(self, created: float, fields: Mapping[str, Any]) -> None:
        """Write a line for a request that came at `created`, in seconds since 1970."""
        if not self._enabled:
            return
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(_line(created, "info", "request", fields))

    def _write(self) -> None:
        sys.stdout.write("".join(self._lines))
        sys.stdout.flush()
        self._lines.clear()


def configure(level: str) -> None:
    """Send the logs of this program and of uvicorn to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
