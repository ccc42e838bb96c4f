"""The users, kept in a database by a thread that owns the only connection.

Requests queue their statements. The thread takes all that wait and runs them in
one transaction, so that 64 concurrent writers share one wait for the disk; and
only after its COMMIT does each caller get its own answer.
"""

import asyncio
import logging
import queue
import sqlite3
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from users_backend import copies
from users_backend.database import (
    Database,
    DiskFull,
    StoreError,
    Unknown,
    explain,
    is_locked,
    leaves_file_usable,
    moved,
    unknown,
)
from users_backend.settings import Server
from users_backend.users import MAX_ID, User, fold

# Requests that may wait for the disk; the next one is told to come back later.
QUEUE_SIZE = 1000

# How long a request waits for another program that has locked the file, and how often it tries.
LOCK_SECONDS = 1.5
LOCK_RETRY_SECONDS = 0.02

# Those who have just written together come back together: a commit that waits this long
# for all of them costs less than a commit more.
GATHER_SECONDS = 0.0003

# How often it is looked, while nobody writes, whether the path still leads to the open file:
# on a shared folder the question goes to the laptop.
LOOK_SECONDS = 1

# Rows that a search looks at before it lets others in: about a millisecond.
SLICE = 20_000

CHANGED = (
    "Another program has written into the database %s, which is now checked. `make restore` and `make import` may "
    "write; a program on the computer that shares the folder must not: locks do not cross a shared folder, so that "
    "program and this one overwrite each other's users."
)

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Statement:
    """What a request asks of the database."""

    sql: str
    parameters: tuple[Any, ...]
    writes: bool
    answer: asyncio.Future[Any]
    deadline: float  # of time.monotonic()


class Users(ABC):
    """What can be asked of the users, whichever database keeps them.

    Every method raises StoreError when the data cannot be used.
    """

    # Where the languages of the databases differ: a user as the API shows it (the database writes it, in a
    # fraction of Python's time), some of them on a line each, and whether a name contains the parameter.
    JSON: str
    LINES: str
    CONTAINS: str

    waiting: int  # requests without an answer yet

    async def add(self, user: User) -> bool:
        """Save a new user. False: the id is taken, nothing has changed."""
        sql = "INSERT INTO users (id, name, name_folded) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        return await self._write(sql, user.id, user.name, fold(user.name)) == 1

    async def rename(self, user: User, was: str | None = None) -> bool:
        """Save a new name for the user with this id. False: there is none, or none that is called `was`."""
        sql = "UPDATE users SET name = ?, name_folded = ? WHERE id = ? AND name = coalesce(?, name)"
        return await self._write(sql, user.name, fold(user.name), user.id, was) == 1

    async def remove(self, user_id: int, was: str | None = None) -> bool:
        """Delete the user with this id. False: there is none, or none that is called `was`."""
        return await self._write("DELETE FROM users WHERE id = ? AND name = coalesce(?, name)", user_id, was) == 1

    async def get(self, user_id: int) -> str | None:
        """The user with this id as JSON, or None."""
        rows = await self._read(f"SELECT {self.JSON} FROM users WHERE id = ?", user_id)
        return rows[0][0] if rows else None

    async def find(self, *, limit: int, after: int = 0, name: str = "") -> list[str]:
        """At most `limit` users by id, each as JSON, with ids above `after` and names that contain `name`.

        Without a name, any page costs the same: the ids are the table's own order. A name
        has no index: one that finds substrings in any script would cost every write more
        than a search costs here. The rows are read in slices, and others are served between.
        """
        found: list[str] = []
        while len(found) < limit and after < MAX_ID:
            last = await self._end_of_slice(after) if name else MAX_ID
            # One row for the whole page: Python would make 100 steps, each with a switch of threads.
            # No line break can be in a user's JSON.
            sql = (
                f"SELECT {self.LINES} FROM (SELECT id, name FROM users "
                f"WHERE id > ? AND id <= ? AND {self.CONTAINS} ORDER BY id LIMIT ?) AS page"
            )
            [(lines,)] = await self._read(sql, after, last, fold(name), limit - len(found))
            found += lines.split("\n") if lines else []
            after = last
        return found

    async def _end_of_slice(self, after: int) -> int:
        """The id up to which a search may look at once."""
        sql = "SELECT id FROM users WHERE id > ? ORDER BY id LIMIT 1 OFFSET ?"
        rows = await self._read(sql, after, SLICE - 1)
        return rows[0][0] if rows else MAX_ID

    async def check(self) -> None:
        """Raise StoreError unless the database answers."""
        await self._read("SELECT 1 FROM users LIMIT 1")

    @abstractmethod
    async def close(self) -> None:
        """Answer what waits, then let go of the database."""

    @abstractmethod
    async def _write(self, sql: str, *parameters: Any) -> int:
        """Run a statement; the number of rows that it has changed."""

    @abstractmethod
    async def _read(self, sql: str, *parameters: Any) -> list[Any]:
        """Run a query; its rows."""


class Lane(ABC):
    """A thread with the only connection to a database, and the queue of what it shall run."""

    def __init__(self) -> None:
        """Start the thread."""
        self.waiting = 0  # requests without an answer yet
        self._collected: list[Statement] = []
        self._queue: queue.SimpleQueue[list[Statement] | None] = queue.SimpleQueue()
        self._last_failure = ""
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Answer what waits, then close the connection."""
        self._hand_over()
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    async def _write(self, sql: str, *parameters: Any) -> int:
        """Run a statement; the number of rows that it has changed."""
        changed: int = await self._submit(sql, parameters, writes=True)
        return changed

    async def _read(self, sql: str, *parameters: Any) -> list[Any]:
        """Run a query; its rows."""
        rows: list[Any] = await self._submit(sql, parameters, writes=False)
        return rows

    def _submit(self, sql: str, parameters: tuple[Any, ...], *, writes: bool) -> asyncio.Future[Any]:
        if self.waiting >= QUEUE_SIZE:
            raise StoreError("Too many requests are waiting. Try again in a second.")
        loop = asyncio.get_running_loop()
        if not self._collected:
            # All requests of one turn of the event loop go together: one wake-up of
            # the thread, and a batch that is not just the first of them.
            loop.call_soon(self._hand_over)
        answer = loop.create_future()
        self._collected.append(Statement(sql, parameters, writes, answer, time.monotonic() + LOCK_SECONDS))
        self.waiting += 1
        return answer

    def _hand_over(self) -> None:
        self._queue.put(self._collected)
        self._collected = []

    def _resolve(self, group: Sequence[Statement], results: Sequence[Any]) -> None:
        self.waiting -= len(group)
        for statement, result in zip(group, results, strict=True):
            if statement.answer.done():  # the caller has gone away
                continue
            if isinstance(result, Exception):
                statement.answer.set_exception(result)
            else:
                statement.answer.set_result(result)

    # What follows runs in the thread.

    def _run(self) -> None:
        locked_out: list[Statement] = []  # by another program; they try again
        running, crowded = True, False
        while running or locked_out:
            batch = locked_out
            for statements in self._take(LOCK_RETRY_SECONDS if locked_out else None, GATHER_SECONDS if crowded else 0):
                if statements is None:
                    running = False
                else:
                    batch += statements
            crowded = sum(statement.writes for statement in batch) > 1
            # Reads first, apart: they wait for no disk, and neither a full one nor a
            # lock fails them. All callers still wait, so any order is a fair one.
            locked_out = []
            for writes in (False, True):
                group = [statement for statement in batch if statement.writes is writes]
                if group:
                    locked_out += self._answer(group)
        try:
            self._close()
        except Exception as error:  # noqa: BLE001 - the end, whatever it is
            self._failure(error)

    def _take(self, timeout: float | None, gather: float) -> list[list[Statement] | None]:
        """Wait for something in the queue; with it, all that is there `gather` seconds later.

        Nothing after `timeout` seconds.
        """
        try:
            first = self._queue.get(timeout=timeout)
        except queue.Empty:
            return []
        if gather:
            time.sleep(gather)
        # Only this thread takes, so at least qsize() more are there.
        return [first, *(self._queue.get_nowait() for _ in range(self._queue.qsize()))]

    def _answer(self, group: list[Statement]) -> list[Statement]:
        """Run the statements and answer them; those that should be tried again."""
        again: list[Statement] = []
        try:
            results = self._transact(group)
            self._last_failure = ""
        except Exception as error:  # noqa: BLE001 - this thread must outlive any error
            if self._may_try_again(error):
                now = time.monotonic()
                again = [statement for statement in group if statement.deadline > now]
                group = [statement for statement in group if statement.deadline <= now]
            results = [self._failure(error) for _ in group]
        if group:
            # One call for the whole group: waking up the event loop is what costs.
            group[0].answer.get_loop().call_soon_threadsafe(self._resolve, group, results)
        return again

    def _failure(self, error: Exception) -> StoreError:
        failure = self._explain(error)
        if str(failure) != self._last_failure:
            logger.error("%s", failure)
            self._last_failure = str(failure)
        return failure

    @abstractmethod
    def _transact(self, group: Sequence[Statement]) -> list[Any]:
        """Run the statements in one transaction; a result or an exception for each. Raise what failed them all."""

    @abstractmethod
    def _may_try_again(self, error: Exception) -> bool:
        """Whether nothing was saved, and what stands in the way may soon be gone."""

    @abstractmethod
    def _explain(self, error: Exception) -> StoreError:
        """The error, new for each caller, that stands for this one."""

    @abstractmethod
    def _close(self) -> None:
        """Close the connection, if there is one. Raise StoreError; then it stays open."""


class Store(Lane, Users):
    """The users in one SQLite file, which is opened, and reopened, when needed."""

    JSON = "json_object('id', id, 'name', name)"
    LINES = f"group_concat({JSON}, char(10))"
    CONTAINS = "instr(name_folded, ?)"

    def __init__(self, path: Path, on_commit: Callable[[int], None] = lambda writes: None) -> None:
        """Start the thread. `on_commit` gets the number of writes in each commit."""
        self.path = path
        self._on_commit = on_commit
        self._database: Database | None = None
        self._may_create = True  # until the file has been open: where one was lost, an empty one would hide that
        self._next_look = 0.0  # of time.monotonic()
        super().__init__()

    def _transact(self, group: Sequence[Statement]) -> list[Any]:
        """Run the statements in one transaction; a result or an exception for each."""
        writes = group[0].writes
        if writes or time.monotonic() >= self._next_look:
            self._look()
        try:
            if self._database is None:
                self._database = Database(
                    self.path,
                    create=self._may_create,
                    before_upgrade=lambda connection: copies.keep(connection, self.path, copies.BEFORE_UPGRADE),
                )
                self._may_create = False
                logger.info("Database %s is open", self.path)
            connection = self._database.connection
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            if writes and self._database.has_changed():
                logger.warning(CHANGED, self.path)
                self._database.recheck()
            results = [_execute(connection, statement) for statement in group]
            if writes:
                connection.commit()
            else:
                connection.rollback()  # what only read has nothing to save
        except Unknown as error:
            with suppress(Exception):  # no other one may deny what was perhaps saved
                self._undo(error)
            raise
        except Exception as error:
            self._undo(error)
            raise
        if writes:
            # What is acknowledged was at the path after its COMMIT. A file that loses its place later, or that
            # a shared folder goes on showing for a second, is noticed by a later look, and the copy that is
            # then kept has all that was acknowledged. It cannot have it when the process is killed before that
            # look, or when the laptop no longer lets the lost file be read.
            try:
                lost = self._look()
            except OSError as error:
                raise unknown(self.path, error) from error
            if lost:
                raise moved(self.path)
            self._on_commit(len(group))
        return results

    def _undo(self, error: Exception) -> None:
        """End a transaction that failed. Raise what stands in the way."""
        if self._database:
            self._database.connection.rollback()
            # The next group opens the file again, and so recovers by itself when the cause is gone.
            if not leaves_file_usable(error):
                self._close()

    def _look(self) -> bool:
        """Whether the open file is no longer at the path; it is then kept as a copy and closed. Raise StoreError."""
        self._next_look = 0.0  # until it succeeds: what stands in the way is told each time
        lost = bool(self._database and self._database.fate())
        if lost:
            self._close()
        self._next_look = time.monotonic() + LOOK_SECONDS
        return lost

    def _may_try_again(self, error: Exception) -> bool:
        return is_locked(error)

    def _explain(self, error: Exception) -> StoreError:
        return explain(error, self.path)

    def _close(self) -> None:
        """Close the file. What is no longer at the path is kept as a copy first. Raise StoreError; then it stays open."""
        if self._database:
            if fate := self._database.fate():
                self._keep(self._database, fate)
            self._database.close()
            self._database = None

    def _keep(self, database: Database, fate: str) -> None:
        happened = f"The database {self.path} was {fate} while it was in use"
        try:
            copy = copies.keep(database.connection, self.path, fate)
            logger.error("%s. All that it held, %d users, is kept as %s.", happened, copy.users, copy.path)
        except Exception as error:
            reason = explain(error, copies.folder(self.path))
            if isinstance(error, OSError) or isinstance(reason, DiskFull):
                raise StoreError(
                    f"The database {self.path} was removed or replaced while it was in use, and what it held "
                    f"cannot be kept as a copy yet ({error}). Make the folder {copies.folder(self.path)} "
                    "writable, with space for it; the backend then goes on by itself."
                ) from error
            # It cannot be read, and waiting would not change that.
            logger.error("%s. What it held cannot be kept: %s", happened, reason)


def _execute(connection: sqlite3.Connection, statement: Statement) -> Any:
    """Run one statement; its rows or row count, or the exception that is its own."""
    try:
        cursor = connection.execute(statement.sql, statement.parameters)
        return cursor.rowcount if statement.writes else cursor.fetchall()
    except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, ValueError) as error:
        return error  # a value that SQLite refuses; the other statements go on


def open_store(database: Path | Server, on_commit: Callable[[int], None]) -> Users:
    """The store for this database."""
    if isinstance(database, Path):
        return Store(database, on_commit)
    from users_backend.postgres import PostgresStore  # here: its library needs memory

    return PostgresStore(database, on_commit)
