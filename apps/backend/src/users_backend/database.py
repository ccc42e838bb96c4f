"""Opening the SQLite file: checks, exclusive lock, durability, schema."""

import contextlib
import errno
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# Step n brings a file from schema version n-1 to n. Append; never edit a released step.
MIGRATIONS = (
    """
    CREATE TABLE users (
        id INTEGER PRIMARY KEY CHECK (id BETWEEN 1 AND 9007199254740991),
        name TEXT NOT NULL CHECK (length(name) BETWEEN 1 AND 200),
        name_folded TEXT NOT NULL -- what searches look at: no case, no accents
    ) STRICT
    """,
)

# After COMMIT the one .db file is complete and on the disk. Write-ahead logging
# would be faster alone, but is unsafe on the shared folders of virtual machines.
PRAGMAS = {
    "journal_mode": "truncate",
    "synchronous": 2,  # FULL
    "fullfsync": 1,  # macOS: fsync alone does not reach the disk there
}


class StoreError(Exception):
    """The data cannot be used now; the message says why and what to do."""


class DiskFull(StoreError):
    """No space is left for the change; nothing of it was saved."""


class Unknown(StoreError):
    """Nobody can say whether the change was saved."""


class InUse(StoreError):
    """Another backend process uses the database."""


class Damaged(StoreError):
    """The file is no whole SQLite database."""


class Connection(sqlite3.Connection):
    """A connection, in which each statement is a transaction of its own until BEGIN."""

    path: Path

    def commit(self) -> None:
        """End a transaction. Raise Unknown when nobody can say whether it was saved."""
        try:
            super().commit()
        except sqlite3.Error as error:
            # What fails after all writes may be the last step, with which all is saved; SQLite does not say which.
            if _code(error) == sqlite3.SQLITE_IOERR and error.sqlite_errorcode != sqlite3.SQLITE_IOERR_WRITE:
                raise unknown(self.path, error) from error
            raise


def open_connection(path: Path, mode: str, *, timeout: float) -> Connection:
    """Open a file; with the mode `rwc`, one that need not exist. Raise sqlite3.Error.

    `timeout` is how many seconds to wait for what others have locked.
    """
    connection = sqlite3.connect(uri(path, mode), uri=True, timeout=timeout, isolation_level=None, factory=Connection)
    connection.path = path
    return connection


def uri(path: Path, mode: str) -> str:
    """A file as SQLite knows it. Source: https://sqlite.org/uri.html"""
    return f"{path.absolute().as_uri()}?mode={mode}"


class Database:
    """An open database file that no other backend process has open."""

    def __init__(
        self, path: Path, *, create: bool = True, before_upgrade: Callable[[sqlite3.Connection], object] | None = None
    ) -> None:
        """Open the file, or create it in a folder that exists. Without `create`, it must be one of ours already.

        `before_upgrade` is called before a file of an earlier schema version is changed.

        Raise StoreError, OSError or sqlite3.Error; then the file is as it was.
        A lock that another program holds is an error at once: the caller knows
        whether to try again.
        """
        # A missing folder is a missing mount. Creating it would hide the
        # real data behind a fresh, empty database.
        if not path.parent.is_dir():
            raise StoreError(
                f"The folder of the database {path} does not exist. Create or mount it, "
                "or set DATABASE_URL to a file in another folder."
            )
        # SQLite would open a file here, read-only, and fail at the first write.
        if not os.access(path.parent, os.W_OK | os.X_OK):
            raise StoreError(
                f"The folder of the database {path} is not writable. Let user id {os.getuid()} write there."
            )
        if path.exists() and not os.access(path, os.W_OK):
            raise StoreError(f"The database {path} is read-only. Let user id {os.getuid()} write to it.")
        if not create and not path.exists():
            raise _removed(path)
        with contextlib.ExitStack() as stack:
            stack.enter_context(hold(path))
            self.connection = open_connection(path, "rwc", timeout=0)
            stack.enter_context(contextlib.closing(self.connection))
            self._path, self._identity = path, _identity(path)
            self._version: int = self._ask("PRAGMA data_version")
            self._check(create)
            self._prepare(before_upgrade)
            self._resources = stack.pop_all()

    def close(self) -> None:
        """Close the file, undo an open transaction and release the lock."""
        self._resources.close()

    def fate(self) -> str:
        """What became of the file, "removed" or "replaced", when its path no longer leads to it; else "".

        Asked by path alone: closing any other handle of the file would drop SQLite's locks. SQLite, too,
        compares the inode before each change: where inodes were not stable, nothing could be saved at all.
        On VirtualBox's folders, from what their driver's source says and not verified: a removed file is
        noticed, but one that replaces another gets the same number. There, only what SQLite itself
        notices is left: the size, which is the new file's, against the number of pages.
        """
        try:
            return "" if _identity(self._path) == self._identity else "replaced"
        except (FileNotFoundError, NotADirectoryError):
            return "removed"

    def has_changed(self) -> bool:
        """Whether another program has written into the file since this was asked last."""
        before, self._version = self._version, self._ask("PRAGMA data_version")
        return before != self._version

    def recheck(self) -> None:
        """Check what another program has made of the file, in a transaction that keeps others out. Raise as above."""
        self._check(create=False)
        self._require("journal_mode")

    def _check(self, create: bool) -> None:
        path = self._path
        version = self._ask("PRAGMA user_version")
        if version > len(MIGRATIONS):
            raise StoreError(
                f"The database {path} has schema version {version}; this backend knows "
                f"up to {len(MIGRATIONS)}. Run a newer backend, or set DATABASE_URL to another file."
            )
        ours = "pragma_table_info('users') WHERE name IN ('id', 'name', 'name_folded')"
        # Without a version, any table is somebody else's.
        if self._ask(f"SELECT count(*) FROM {ours if version else 'sqlite_schema'}") != (3 if version else 0):
            raise StoreError(f"The database {path} belongs to another program. Set DATABASE_URL to another file.")
        if version == 0 and not create:
            raise _removed(path)
        damage = self._ask("PRAGMA quick_check(1)")
        if damage != "ok":
            raise damaged(path, damage)

    def _prepare(self, before_upgrade: Callable[[sqlite3.Connection], object] | None) -> None:
        for pragma, wanted in PRAGMAS.items():
            self.connection.execute(f"PRAGMA {pragma} = {wanted}")
            self._require(pragma)
        version = self._ask("PRAGMA user_version")
        missing = MIGRATIONS[version:]
        if version and missing and before_upgrade:
            before_upgrade(self.connection)
        self.connection.execute("BEGIN IMMEDIATE")
        for number, migration in enumerate(missing, start=version + 1):
            self.connection.execute(migration)
            self.connection.execute(f"PRAGMA user_version = {number}")
        # COMMIT waits for readers of other programs even when nothing has changed.
        self.connection.execute("COMMIT" if missing else "ROLLBACK")

    def _require(self, pragma: str) -> None:
        answer, wanted = self._ask(f"PRAGMA {pragma}"), PRAGMAS[pragma]
        if answer != wanted:
            raise StoreError(
                f"The database {self._path} keeps {pragma} at {answer!r} instead of {wanted!r}. "
                "Close other programs that have it open."
            )

    def _ask(self, sql: str) -> Any:
        return self.connection.execute(sql).fetchone()[0]


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Be the only backend process that uses a database. Raise InUse where another one is.

    What is locked is a file beside the database, never the database itself: on POSIX,
    closing a second handle of that file would drop the locks of SQLite.
    """
    with open(f"{path}.lock", "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InUse(
                f"Another backend process uses the database {path}. Stop that one, or set DATABASE_URL to another file."
            ) from None
        yield


def _code(error: Exception) -> int:
    """SQLite's primary result code, or 0 for another error. Source: https://sqlite.org/rescode.html"""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def is_locked(error: Exception) -> bool:
    """Whether the error is a lock that another program holds, and so may soon be gone."""
    return _code(error) == sqlite3.SQLITE_BUSY


def leaves_file_usable(error: Exception) -> bool:
    """Whether the error ends a transaction but says nothing against the open file."""
    return _code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_FULL)


def explain(error: Exception, path: Path) -> StoreError:
    """The StoreError, new for each caller, that stands for this error."""
    if isinstance(error, StoreError):
        return type(error)(str(error))
    if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_READONLY_DBMOVED:
        return moved(path)
    if _code(error) == sqlite3.SQLITE_FULL or getattr(error, "errno", 0) in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(f"The disk of the database {path} is full. Nothing was saved. Free some space and try again.")
    match _code(error):
        case sqlite3.SQLITE_NOTADB:
            return Damaged(
                f"The file {path} is not a SQLite database. `make restore` lists the copies that can take its place; "
                "or move it away, or set DATABASE_URL to another file."
            )
        case sqlite3.SQLITE_CORRUPT:
            return damaged(path, str(error))
        case sqlite3.SQLITE_BUSY:
            return StoreError(
                f"Another program holds the database {path}. Nothing was saved. Close that program and try again."
            )
    return StoreError(
        f"The database {path} cannot be used ({error}). Nothing was saved. "
        "Check the disk and the permissions of the file, then try again."
    )


def moved(path: Path) -> StoreError:
    """The error for a change to a file that has meanwhile lost its place."""
    return StoreError(
        f"The database {path} was removed or replaced at this very moment. Nothing was saved in its place. Try again."
    )


def unknown(path: Path, error: Exception) -> Unknown:
    """The error for a change that failed when it may have been saved already."""
    return Unknown(
        f"The database {path} went out of reach while the change was being saved ({error}), so it is not known "
        "whether it was saved. Read the user, or send the change again."
    )


def _removed(path: Path) -> StoreError:
    return StoreError(
        f"The database {path} was removed or emptied while the backend ran, which begins no other in its place. "
        "Put it back, or a copy with `make restore COPY=newest`; or restart the backend to begin without users."
    )


def _identity(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def damaged(path: Path, damage: str) -> Damaged:
    """The error for a file of which SQLite says this."""
    return Damaged(
        f"The database {path} is damaged ({damage.splitlines()[-1]}). It is left as it is. "
        "`make restore` lists the copies that can take its place."
    )
