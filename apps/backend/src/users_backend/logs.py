"""Logs as JSON, one object in each line, on standard output."""

import asyncio
import json
import logging
import sys
from datetime import UTC, datetime


def _timestamp(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


class JsonFormatter(logging.Formatter):
    """Time, level and message, and the `fields` given in `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON; an exception's traceback is inside it."""
        line = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


class RequestLog:
    """A line for each request, at the level "info".

    The standard library's way takes longer than reading a user from the file; so these
    lines are put together here, and all of one turn of the event loop leave with one write.
    """

    def __init__(self) -> None:
        self._lines: list[str] = []
        self._enabled = logging.getLogger(__name__).isEnabledFor(logging.INFO)

    def add(self, created: float, method: str, path: str, status: int, seconds: float, request_id: str) -> None:
        """Write a line for a request that came at `created`, in seconds since 1970, and took `seconds`.

        The query is not for the log: it may hold names.
        """
        if not self._enabled:
            return
        if not self._lines:
            asyncio.get_running_loop().call_soon(self._write)
        self._lines.append(
            f'{{"time": "{_timestamp(created)}", "level": "info", "message": "request", "method": "{method}", '
            f'"path": {json.dumps(path[:200])}, "status": {status}, "ms": {seconds * 1000:.2f}, '
            f'"request_id": "{request_id}"}}\n'
        )

    def _write(self) -> None:
        lines, self._lines = self._lines, []  # before they are written, which may fail
        sys.stdout.write("".join(lines))
        sys.stdout.flush()


def configure(level: str) -> None:
    """Send the logs of this program and of uvicorn to standard output."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(JsonFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
