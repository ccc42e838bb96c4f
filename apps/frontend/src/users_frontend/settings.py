"""The settings, read once from the environment; a bad value stops the start."""

import ipaddress
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit


class SettingsError(ValueError):
    """One line that names the key, the value and what is allowed."""


def _url(text: str) -> str:
    # No path, no query and no password: the address is shown on the page when it fails.
    if not re.fullmatch(r"https?://([\w-]+(\.[\w-]+)*|\[[0-9a-fA-F:.]+])(:[0-9]+)?/?", text, re.ASCII):
        raise ValueError
    if urlsplit(text).port == 0:  # above 65535, urlsplit itself raises ValueError
        raise ValueError
    return text.rstrip("/")


def _address(text: str) -> str:
    return str(ipaddress.ip_address(text))


def _whole_number(first: int, last: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not first <= int(text) <= last:
            raise ValueError
        return int(text)

    return parse


def _level(text: str) -> str:
    if text.upper() not in {"DEBUG", "INFO", "WARNING", "ERROR"}:
        raise ValueError
    return text.upper()


def _setting(default: Any, parse: Callable[[str], Any], meaning: str, allowed: str) -> Any:
    return field(
        default=default,
        metadata={"parse": parse, "meaning": meaning, "allowed": allowed},
    )


@dataclass(frozen=True)
class Settings:
    """Every setting with its default; its environment variable is the name in capitals."""

    backend_url: str = _setting(
        "http://backend:8080",
        _url,
        "where the backend listens",
        "http://NAME:PORT or https://…",
    )
    backend_timeout: int = _setting(
        5,
        _whole_number(1, 60),
        "seconds to wait for its answer",
        "a whole number from 1 to 60",
    )
    host: str = _setting(
        "0.0.0.0",
        _address,
        "the address to listen on",
        "an IP address, such as 127.0.0.1",
    )
    port: int = _setting(
        8000,
        _whole_number(1, 65535),
        "the port to listen on",
        "a whole number from 1 to 65535",
    )
    threads: int = _setting(
        16,
        _whole_number(1, 256),
        "requests served at a time",
        "a whole number from 1 to 256",
    )
    log_level: str = _setting(
        "INFO",
        _level,
        "the least important line to log",
        "DEBUG, INFO, WARNING or ERROR",
    )

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings; an empty or missing variable means the default.

        Raises SettingsError for the first value that is not allowed.
        """
        values = {}
        for each in fields(cls):
            key = each.name.upper()
            if text := environment.get(key, "").strip():
                try:
                    values[each.name] = each.metadata["parse"](text)
                except ValueError:
                    allowed = each.metadata["allowed"]
                    message = f"{key}={text!r} is not allowed. Use {allowed}."
                    raise SettingsError(message) from None
        return cls(**values)

    @classmethod
    def help(cls) -> str:
        """Return the table of settings that `--help` prints."""
        return "\n".join(
            f"  {each.name.upper():<16} {each.metadata['meaning']}: {each.metadata['allowed']} (default {each.default})"
            for each in fields(cls)
        )
