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
    if not re.fullmatch(r"https?://([\w-]{1,63}(\.[\w-]{1,63})*|\[[0-9a-fA-F:.]+])(:[0-9]+)?/?", text, re.ASCII):
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


def _host_names(text: str) -> frozenset[str]:
    names = [name.strip().lower() for name in text.split(",")]
    if not all(re.fullmatch(r"[0-9a-z.-]+", name) for name in names):
        raise ValueError
    return frozenset(names)


def _secret(text: str) -> str:
    if len(text) < 32:
        raise ValueError
    return text


def _setting(default: str, parse: Callable[[str], Any], meaning: str, allowed: str, *, secret: bool = False) -> Any:
    return field(repr=not secret, metadata={"default": default, "parse": parse, "meaning": meaning, "allowed": allowed})


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Every setting; its environment variable is the name in capitals."""

    secret_key: str = _setting(
        "",
        _secret,
        "signs the cookies",
        """what `python3 -c "import secrets; print(secrets.token_hex(32))"` prints, or another text """
        "of 32 characters or more that nobody else knows",
        secret=True,
    )
    backend_url: str = _setting(
        "http://backend:8080", _url, "where the backend listens", "http://NAME:PORT or https://…"
    )
    backend_timeout: int = _setting(
        "5", _whole_number(1, 60), "seconds to wait for its answer", "a whole number from 1 to 60"
    )
    host: str = _setting("0.0.0.0", _address, "the address to listen on", "an IP address, such as 127.0.0.1")
    port: int = _setting("8000", _whole_number(1, 65535), "the port to listen on", "a whole number from 1 to 65535")
    allowed_hosts: frozenset[str] = _setting(
        "localhost,frontend",
        _host_names,
        "names that browsers may call this server by",
        "host names with commas between; IP addresses need not be listed",
    )
    threads: int = _setting("16", _whole_number(1, 256), "requests served at a time", "a whole number from 1 to 256")
    log_level: str = _setting("INFO", _level, "the least important line to log", "DEBUG, INFO, WARNING or ERROR")

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> "Settings":
        """Read the settings; an empty or missing variable means the default.

        Raises SettingsError for the first value that is not allowed.
        """
        values = {}
        for each in fields(cls):
            key = each.name.upper()
            text = environment.get(key, "").strip() or each.metadata["default"]
            try:
                values[each.name] = each.metadata["parse"](text)
            except ValueError:
                # A secret must not end up in a log.
                shown = f"{key}={text!r}" if each.repr or not text else f"This {key}"
                raise SettingsError(f"{shown} is not allowed. Use {each.metadata['allowed']}.") from None
        return cls(**values)

    @classmethod
    def help(cls) -> str:
        """Return the table of settings that `--help` prints."""
        return "\n".join(
            f"  {each.name.upper():<16} {each.metadata['meaning']}: {each.metadata['allowed']}"
            f" ({'default ' + each.metadata['default'] if each.metadata['default'] else 'needed'})"
            for each in fields(cls)
        )
