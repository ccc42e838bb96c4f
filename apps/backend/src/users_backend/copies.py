"""Copies of the database: made while it is in use, checked before they count, thinned out, and put back.

They lie in the folder `backups` beside a SQLite file, and those of PostgreSQL in COPIES_DIR; each is a SQLite
file compressed with gzip, wherever the users come from, and so can be restored into either database. A name says when a copy was
made (UTC), how many users it holds and, in some, why: `users-20261124T130000Z-250-hourly.db.gz`.
"""

import fcntl
import gzip
import logging
import os
import re
import shutil
import sqlite3
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from users_backend.database import (
    MIGRATIONS,
    Damaged,
    Database,
    InUse,
    StoreError,
    damaged,
    explain,
    hold,
    open_connection,
    uri,
)
from users_backend.settings import Server

if TYPE_CHECKING:
    from users_backend import postgres

    Connection = sqlite3.Connection | postgres.Connection

HOURLY = "hourly"  # made by the server itself, which also deletes them; the others stay
BEFORE_RESTORE = "before-restore"
BEFORE_UPGRADE = "before-upgrade"

# Somebody may have made others in one of them, by hand or with ANALYZE.
TABLES_OF_BOTH = """
    SELECT name FROM main.sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite_%'
    INTERSECT SELECT name FROM restored.sqlite_schema WHERE type = 'table'
"""

# How long a copy waits for a change that is being written.
LOCK_SECONDS = 10

# Until the server makes a copy after a start, if the last hour has none.
FIRST_SECONDS = 60

# For a copy that is being made when the server ends.
CLOSE_SECONDS = 3

_NAME = re.compile(r"users-(\d{8}T\d{6}Z)-(\d+)(?:-([a-z-]+))?\.db\.gz", re.ASCII)
_TIME = "%Y%m%dT%H%M%SZ"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Copy:
    """A copy, as its name describes it."""

    path: Path
    made: datetime
    users: int
    why: str


@dataclass(frozen=True)
class Kept:
    """How many hourly copies stay: the last one of each of so many hours, days and weeks."""

    hours: int
    days: int
    weeks: int

    def choose(self, copies: list[Copy]) -> set[Copy]:
        """Those of these copies that stay."""
        chosen: set[Copy] = set()
        for count, period in ((self.hours, "%Y%m%d%H"), (self.days, "%Y%m%d"), (self.weeks, "%G%V")):
            last: dict[str, Copy] = {}
            for copy in sorted(copies, key=lambda copy: copy.made, reverse=True):
                last.setdefault(copy.made.strftime(period), copy)
            chosen |= set(list(last.values())[:count])
        return chosen


def folder(database: Path | Server) -> Path:
    """Where the copies of a database lie."""
    return database.copies if isinstance(database, Server) else database.parent / "backups"


def find(database: Path | Server) -> list[Copy]:
    """The copies of a database, the newest first."""
    copies = []
    for path in folder(database).glob("*"):
        if match := _NAME.fullmatch(path.name):
            with suppress(ValueError):  # a day that there is not: the name was given by hand
                copies.append(Copy(path, _time(match[1]), int(match[2]), match[3] or ""))
    return sorted(copies, key=lambda copy: copy.made, reverse=True)


def make(database: Path | Server, why: str = "") -> Copy:
    """Copy a database, which may be in use. Raise StoreError; then there is no copy."""
    require(database)
    with workplace(database) as work:
        return _make(database, why, work)


def restore(database: Path | Server, copy: Path) -> Path | None:
    """Put a copy in the place of a database, which may be in use; where what was there before is kept.

    The copy is checked first and brought to the present schema. Raise StoreError; then nothing has changed.
    """
    with workplace(database) as work:
        restored = work / "restored.db"
        _unpack(copy, restored)
        check(restored, copy)
        with closing(Database(restored)):
            pass
        if isinstance(database, Server):
            return _exchange_on_server(database, restored, work)
        if not _is_there(database):
            # A server that runs has let go of the lost file or will, and then opens this one.
            _journal(database).unlink(missing_ok=True)  # of the lost file: SQLite would write its pages into this one
            _put(restored, database)
            return None
        try:
            return _exchange(database, restored, work)
        except Damaged:
            return _replace_damaged(database, restored)


def keep(connection: "Connection", database: Path | Server, why: str) -> Copy:
    """Copy what an open connection reads, wherever its path leads by now. Raise an error; then there is no copy.

    Not in the workplace: who has that may wait for a person, and the server cannot.
    """
    folder(database).mkdir(exist_ok=True)
    with _emptied(folder(database) / ".lost") as work:
        write_all(connection, work / "copy.db")
        return _pack(database, why, work)


def require(database: Path | Server) -> None:
    """Raise StoreError where there is no database; before a file is made where only a mount is missing."""
    if isinstance(database, Path) and not _is_there(database):
        raise StoreError(
            f"There is no database {database}. Start the backend, which makes it, or correct DATABASE_URL."
        )


def snapshot(database: Path | Server, path: Path) -> None:
    """Write the users as they are now into a database of their own. Raise StoreError."""
    with explained(database), closing(connect(database) if isinstance(database, Path) else writer(database)) as source:
        if isinstance(source, sqlite3.Connection):
            source.execute("PRAGMA schema_version")  # waits for LOCK_SECONDS; backup() would wait for ever
        else:
            source.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        write_all(source, path)


def check(path: Path, source: Path) -> int:
    """The number of users in a whole database of ours. Raise StoreError for any other, calling it `source`."""
    with explained(source), closing(connect(path)) as connection:
        [[damage]] = connection.execute("PRAGMA integrity_check(1)")
        if damage != "ok":
            raise damaged(source, damage)
        [[version]] = connection.execute("PRAGMA user_version")
        if not 1 <= version <= len(MIGRATIONS):
            raise StoreError(
                f"{source} has schema version {version}, and this backend knows 1 to {len(MIGRATIONS)}: "
                "it belongs to another program or to a newer backend."
            )
        [[users]] = connection.execute("SELECT count(*) FROM users")
        return int(users)


def connect(path: Path, mode: str = "rw") -> sqlite3.Connection:
    """Open a file, by default one that exists. Raise sqlite3.Error."""
    return open_connection(path, mode, timeout=LOCK_SECONDS)


def writer(database: Path | Server) -> "Connection":
    """A connection for changes to a database of the present schema. Raise StoreError, or its errors."""
    if isinstance(database, Server):
        from users_backend import postgres  # here: its library needs memory

        return postgres.open_users(database, lock_seconds=LOCK_SECONDS)
    connection = connect(database)
    require_present_schema(connection, database)
    connection.execute("PRAGMA journal_mode = TRUNCATE")
    return connection


def begin(connection: "Connection") -> None:
    """Begin a transaction in which nobody else writes; others may read."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("BEGIN IMMEDIATE")
    else:
        connection.execute("BEGIN")
        connection.execute("LOCK TABLE users IN SHARE ROW EXCLUSIVE MODE")


def require_present_schema(connection: sqlite3.Connection, database: Path) -> None:
    """Raise StoreError where users cannot be saved yet."""
    [[version]] = connection.execute("PRAGMA main.user_version")
    if version != len(MIGRATIONS):
        raise StoreError(f"The database {database} has another schema. Start the backend once, then try again.")


class Hourly:
    """Makes a copy at each full hour, in a thread, and deletes those that need not stay."""

    def __init__(self, database: Path | Server, kept: Kept) -> None:
        """Start the thread, if any copy is to be kept."""
        self._database = database
        self._kept = kept
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="hourly", daemon=True)
        if any((kept.hours, kept.days, kept.weeks)):
            self._thread.start()

    def close(self) -> None:
        """Make no other copy. One that takes longer than CLOSE_SECONDS is given up: it has no name yet."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)

    def _run(self) -> None:
        while not self._end.wait(self._pause()):
            with suppress(OSError):
                make_hourly(self._database, self._kept)

    def _pause(self) -> float:
        now = time.time()
        last = 0.0
        with suppress(OSError):  # the folder may not answer
            last = max((copy.made.timestamp() for copy in _hourly(self._database)), default=0)
        return FIRST_SECONDS if now - last >= 3600 else 3600 - now % 3600


def make_hourly(database: Path | Server, kept: Kept) -> None:
    """Make a copy, unless this hour has one, and delete the hourly ones that need not stay. A failure is logged."""
    try:
        require(database)
        with workplace(database) as work:
            # Of another backend on the same database, while this one waited for the folder.
            if any(_hour(copy.made) == _hour(datetime.now(UTC)) for copy in _hourly(database)):
                return
            copy = _make(database, HOURLY, work)
    except StoreError as error:
        logger.error("The hourly copy was not made. %s", error)
        return
    logger.info("Copied %d users to %s", copy.users, copy.path)
    hourly = _hourly(database)
    for old in set(hourly) - kept.choose(hourly):
        old.path.unlink()


def _hourly(database: Path | Server) -> list[Copy]:
    """The hourly copies but those of a clock that was ahead: they are neither the last ones nor too many."""
    return [copy for copy in find(database) if copy.why == HOURLY and copy.made <= datetime.now(UTC)]


def _hour(time: datetime) -> datetime:
    """When the hour of that time began."""
    return time.replace(minute=0, second=0, microsecond=0)


def _make(database: Path | Server, why: str, work: Path) -> Copy:
    snapshot(database, work / "copy.db")
    return _pack(database, why, work)


def _pack(database: Path | Server, why: str, work: Path) -> Copy:
    """Make a copy of `copy.db`."""
    plain, packed = work / "copy.db", work / "copy.db.gz"
    users = check(plain, database if isinstance(database, Path) else plain)
    with plain.open("rb") as source, gzip.open(packed, "wb", 6) as target:
        shutil.copyfileobj(source, target, 1 << 20)
    others = {copy.made for copy in find(database)}
    while (made := datetime.now(UTC).replace(microsecond=0)) in others:
        time.sleep(0.1)
    path = folder(database) / f"users-{made.strftime(_TIME)}-{users}{why and '-' + why}.db.gz"
    _name(packed, path)
    return Copy(path, made, users, why)


def _exchange(database: Path, restored: Path, work: Path) -> Path:
    """Put other rows into a database, in one transaction; the copy of those before."""
    with explained(database), closing(connect(database)) as connection:
        connection.execute("PRAGMA journal_mode = TRUNCATE")
        connection.execute("ATTACH ? AS restored", [uri(restored, "ro")])
        begin(connection)  # from here on nobody else writes, so that the copy misses nothing
        kept = _make(database, BEFORE_RESTORE, work).path
        require_present_schema(connection, database)
        for [table] in connection.execute(TABLES_OF_BOTH).fetchall():
            connection.execute(f'DELETE FROM main."{table}"')
            connection.execute(f'INSERT INTO main."{table}" SELECT * FROM restored."{table}"')
        connection.commit()
        return kept


def _exchange_on_server(server: Server, restored: Path, work: Path) -> Path:
    """The same for PostgreSQL."""
    from users_backend import postgres

    with (
        explained(server),
        closing(postgres.open_users(server, lock_seconds=LOCK_SECONDS)) as connection,
        closing(connect(restored)) as source,
    ):
        begin(connection)
        write_all(connection, work / "copy.db")
        kept = _pack(server, BEFORE_RESTORE, work).path
        postgres.read_all(source, connection)
        connection.commit()
        return kept


def write_all(source: "Connection", target_path: Path) -> None:
    """Write all that a connection reads into a SQLite file.

    From SQLite with its backup, all pages in one step: in several it would begin anew after each write.

    Meanwhile others may read the source, and writers wait. Source: https://sqlite.org/backup.html
    """
    if not isinstance(source, sqlite3.Connection):
        from users_backend import postgres

        postgres.write_all(source, target_path)
        return
    with closing(connect(target_path, "rwc")) as target:
        target.execute("PRAGMA synchronous = FULL")
        target.execute("PRAGMA journal_mode = TRUNCATE")
        source.backup(target)


def _unpack(copy: Path, path: Path) -> None:
    try:
        with gzip.open(copy) as source, path.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise StoreError(f"The copy {copy} is damaged ({error}). Nothing was changed. Choose another one.") from error


def _replace_damaged(database: Path, restored: Path) -> Path:
    """Put another file in the place of a damaged one; where that is kept. Raise StoreError."""
    try:
        with explained(database), hold(database):
            kept = _set_aside(database)
            _journal(database).unlink(missing_ok=True)
            _put(restored, database)
            return kept
    except InUse as error:
        raise StoreError(
            f"The database {database} is damaged, which the backend has not met yet, and goes on using it. "
            "Restart the backend, which then lets go of the file, and restore again."
        ) from error


def _put(source: Path, target: Path) -> None:
    """Copy a file, whole or not at all: the copies may lie on another disk."""
    new = target.with_name(f"{target.name}.new")
    shutil.copyfile(source, new)
    _name(new, target)


def _name(file: Path, path: Path) -> None:
    """Rename a file once all of it is on the disk; then bring the name there, too."""
    _sync(file)
    file.replace(path)
    with suppress(OSError):  # some shared folders cannot, which SQLite bears, too
        _sync(path.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _set_aside(database: Path) -> Path:
    """Copy a damaged file as it is, with its journal."""
    kept = folder(database) / f"users-{datetime.now(UTC).strftime(_TIME)}-damaged.db"
    _put(database, kept)
    if _journal(database).exists():
        _put(_journal(database), _journal(kept))
    return kept


def _is_there(database: Path) -> bool:
    """Whether there is a database, and not only an empty file."""
    return database.exists() and database.stat().st_size > 0


def _journal(database: Path) -> Path:
    return database.with_name(database.name + "-journal")


def _time(text: str) -> datetime:
    return datetime.strptime(text, _TIME).replace(tzinfo=UTC)


@contextmanager
def workplace(database: Path | Server, name: str = "") -> Iterator[Path]:
    """A folder on the disk of the copies that one process at a time uses, empty at first and gone afterwards.

    Those of another name are others'.
    """
    with explained(folder(database)):
        folder(database).mkdir(exist_ok=True)
        with (folder(database) / f"{name}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with _emptied(folder(database) / f"{name}.work") as work:
                yield work


@contextmanager
def _emptied(work: Path) -> Iterator[Path]:
    shutil.rmtree(work, ignore_errors=True)  # of a process that was killed
    work.mkdir()
    try:
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)


@contextmanager
def explained(place: Path | Server) -> Iterator[None]:
    """Raise what a database and the system say as a StoreError that says what to do."""
    try:
        yield
    except (OSError, sqlite3.Error) as error:
        raise explain(error, folder(place) if isinstance(place, Server) else place) from error
    except Exception as error:
        if isinstance(place, Server):
            from users_backend import postgres

            if isinstance(error, postgres.Error):
                raise postgres.explain(error, place) from error
        raise
