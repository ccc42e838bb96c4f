"""The settings, read from environment variables once, at start."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar
from urllib.parse import unquote

T = TypeVar("T")

# What `--help` prints and what a refused value is told, so the two never differ.
DEFAULTS = {
    "DATABASE_URL": "sqlite:////data/users.db",
    "HOST": "0.0.0.0",
    "PORT": "8080",
    "ALLOWED_HOSTS": "localhost,backend",
    "COPIES_KEPT": "24,7,4",
    "COPIES_DIR": "/data/backups",
    "LOG_LEVEL": "info",
}
ALLOWED = {
    "DATABASE_URL": "sqlite:////absolute/path.db, sqlite:///relative/path.db or postgresql://user@host:port/database; "
    "the password of PostgreSQL comes from PGPASSWORD, or stands behind the user, as in user:password@host",
    "HOST": "an IP address or host name to listen on, such as 127.0.0.1 or 0.0.0.0",
    "PORT": "a whole number from 1 to 65535",
    "ALLOWED_HOSTS": "host names that browsers and programs may call this server by, with commas between; "
    "IP addresses need not be listed",
    "COPIES_KEPT": "three numbers: how many hourly, daily and weekly ones to keep of the copies of the database that are "
    "made every hour, such as 24,7,4; 0,0,0 makes none",
    "COPIES_DIR": "the absolute path of the folder for copies of a PostgreSQL database; those of a SQLite file lie in "
    "the folder backups beside it",
    "LOG_LEVEL": "one of debug, info, warning, error",
}


class SettingsError(Exception):
    """A setting has a value that is not allowed; the message is one line."""


@dataclass(frozen=True)
class Server:
    """A database on a PostgreSQL server. As text, it is the URL without the password."""

    url: str
    copies: Path  # the folder
    parameters: Mapping[str, str] = field(repr=False)  # for libpq, with the password if the URL has one

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class Settings:
    """Checked settings; `load` makes them."""

    database: Path | Server
    host: str
    port: int
    allowed_hosts: frozenset[str]
    copies_kept: tuple[int, int, int]  # hourly, daily, weekly
    log_level: str


def load(environ: Mapping[str, str]) -> Settings:
    """Read and check every setting. Raise SettingsError on the first bad one."""

    def read(key: str, parse: Callable[[str], T]) -> T:
        value = environ.get(key, DEFAULTS[key])
        try:
            return parse(value)
        except ValueError:
            value = re.sub(r".*@|password=.*", "***", value)  # it may hold a password
            raise SettingsError(f"{key}={value!r} is not allowed. Use {ALLOWED[key]}.") from None

    copies = read("COPIES_DIR", _folder)
    return Settings(
        database=read("DATABASE_URL", lambda value: _database(value, copies)),
        host=read("HOST", _host),
        port=read("PORT", _port),
        allowed_hosts=read("ALLOWED_HOSTS", _host_names),
        copies_kept=read("COPIES_KEPT", _copies_kept),
        log_level=read("LOG_LEVEL", _log_level),
    )


def _database(value: str, copies: Path) -> Path | Server:
    return _postgres(value, copies) if value.startswith("postgres") else _sqlite_path(value)


def _postgres(value: str, copies: Path) -> Server:
    """A URL as libpq reads it. The host may be the %2Ffolder of a socket, or an IPv6 address in brackets.

    Source: https://www.postgresql.org/docs/15/libpq-connect.html#LIBPQ-CONNSTRING-URIS
    """
    match = re.fullmatch(
        r"postgres(?:ql)?://(?P<user>[^\s:@/?#]+)(?::(?P<password>[^\s:@/?#]*))?@(?P<host>[\w.%-]+|\[[0-9A-Fa-f:.]+\])"
        r"(?::(?P<port>[0-9]+))?/(?P<dbname>[^\s:@/?#&]+)(?:\?sslmode=(?P<sslmode>[a-z-]+))?",
        value,
        re.ASCII,
    )
    if not match or re.search("%(?![0-9A-Fa-f]{2})|%00", value):
        raise ValueError
    if match["port"]:
        _port(match["port"])
    parameters = {key: unquote(text) for key, text in match.groupdict().items() if text}
    parameters["host"] = parameters["host"].strip("[]")
    url = f"postgresql://{match['user']}@{match['host']}:{match['port'] or 5432}/{match['dbname']}"
    return Server(url, copies, parameters)


def _folder(value: str) -> Path:
    if not value.startswith("/") or "\0" in value:
        raise ValueError
    return Path(value)


def _sqlite_path(value: str) -> Path:
    """Three slashes start a relative path, four an absolute one, as in SQLAlchemy."""
    match = re.fullmatch(r"sqlite:///([^?\x00]*[^?\x00/])", value)
    if not match or match[1] == ":memory:":
        raise ValueError
    return Path(match[1])


def _host(value: str) -> str:
    if not re.fullmatch(r"[0-9A-Za-z.:_-]+", value):
        raise ValueError
    return value


def _port(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= 65535:
        raise ValueError
    return int(value)


def _host_names(value: str) -> frozenset[str]:
    names = [name.strip().lower() for name in value.split(",")]
    if not all(re.fullmatch(r"[0-9a-z.-]+", name) for name in names):
        raise ValueError
    return frozenset(names)


def _copies_kept(value: str) -> tuple[int, int, int]:
    match = re.fullmatch(r"([0-9]{1,4}),([0-9]{1,4}),([0-9]{1,4})", value)
    if not match:
        raise ValueError
    return int(match[1]), int(match[2]), int(match[3])


def _log_level(value: str) -> str:
    if value not in ("debug", "info", "warning", "error"):
        raise ValueError
    return value
