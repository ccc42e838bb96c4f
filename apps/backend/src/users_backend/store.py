"""The users, kept in SQLite by one thread that owns the only connection.

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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from users_backend.database import Database, StoreError, explain, is_locked, leaves_file_usable
from users_backend.users import MAX_ID, User, fold

# Requests that may wait for the disk; the next one is told to come back later.
QUEUE_SIZE = 1000

# How long a request waits for another program that has locked the file, and how often it tries.
LOCK_SECONDS = 1.5
LOCK_RETRY_SECONDS = 0.02

# Those who have just written together come back together: a commit that waits this long
# for all of them costs less than a commit more.
GATHER_SECONDS = 0.0003

# Rows that a search looks at before it lets others in: about a millisecond.
SLICE = 20_000

# A user as the API shows it. SQLite writes it, in a fraction of Python's time.
_JSON = "json_object('id', id, 'name', name)"

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Statement:
    sql: str
    parameters: tuple[Any, ...]
    writes: bool
    answer: asyncio.Future[Any]
    deadline: float  # of time.monotonic()


class Store:
    """The users in one SQLite file, which is opened, and reopened, when needed.

    Every method raises StoreError when the data cannot be used.
    """

    def __init__(self, path: Path, on_commit: Callable[[int], None] = lambda writes: None) -> None:
        """Start the thread. `on_commit` gets the number of writes in each commit."""
        self.path = path
        self.waiting = 0  # requests without an answer yet
        self._on_commit = on_commit
        self._collected: list[_Statement] = []
        self._queue: queue.SimpleQueue[list[_Statement] | None] = queue.SimpleQueue()
        self._database: Database | None = None
        self._last_failure = ""
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    async def add(self, user: User) -> bool:
        """Save a new user. False: the id is taken, nothing has changed."""
        sql = "INSERT INTO users (id, name, name_folded) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        return await self._write(sql, user.id, user.name, fold(user.name)) == 1

    async def rename(self, user: User) -> bool:
        """Save a new name for the user with this id. False: there is none."""
        sql = "UPDATE users SET name = ?, name_folded = ? WHERE id = ?"
        return await self._write(sql, user.name, fold(user.name), user.id) == 1

    async def remove(self, user_id: int) -> bool:
        """Delete the user with this id. False: there is none."""
        return await self._write("DELETE FROM users WHERE id = ?", user_id) == 1

    async def get(self, user_id: int) -> str | None:
        """The user with this id as JSON, or None."""
        rows = await self._read(f"SELECT {_JSON} FROM users WHERE id = ?", user_id)
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
                f"SELECT group_concat({_JSON}, char(10)) FROM (SELECT id, name FROM users "
                "WHERE id > ? AND id <= ? AND instr(name_folded, ?) ORDER BY id LIMIT ?)"
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

    async def close(self) -> None:
        """Answer what waits, then close the file."""
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
        self._collected.append(_Statement(sql, parameters, writes, answer, time.monotonic() + LOCK_SECONDS))
        self.waiting += 1
        return answer

    def _hand_over(self) -> None:
        self._queue.put(self._collected)
        self._collected = []

    def _resolve(self, group: Sequence[_Statement], results: Sequence[Any]) -> None:
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
        locked_out: list[_Statement] = []  # by another program; they try again
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
        self._close()

    def _take(self, timeout: float | None, gather: float) -> list[list[_Statement] | None]:
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

    def _answer(self, group: list[_Statement]) -> list[_Statement]:
        """Run the statements and answer them; those that should be tried again."""
        again: list[_Statement] = []
        try:
            results = self._transact(group)
            self._last_failure = ""
        except Exception as error:  # noqa: BLE001 - this thread must outlive any error
            if is_locked(error):
                now = time.monotonic()
                again = [statement for statement in group if statement.deadline > now]
                group = [statement for statement in group if statement.deadline <= now]
            results = [self._failure(error) for _ in group]
        if group:
            # One call for the whole group: waking up the event loop is what costs.
            group[0].answer.get_loop().call_soon_threadsafe(self._resolve, group, results)
        return again

    def _transact(self, group: Sequence[_Statement]) -> list[Any]:
        """Run the statements in one transaction; a result or an exception for each."""
        writes = group[0].writes
        try:
            if self._database is None:
                self._database = Database(self.path)
                logger.info("Database %s is open", self.path)
            connection = self._database.connection
            connection.execute("BEGIN IMMEDIATE" if writes else "BEGIN")
            results = [_execute(connection, statement) for statement in group]
            connection.execute("COMMIT")
        except Exception as error:
            # Closing undoes the transaction, too. The next group opens the file again,
            # and so recovers by itself when the cause is gone.
            if self._database and leaves_file_usable(error):
                self._database.connection.rollback()
            else:
                self._close()
            raise
        if writes:
            self._on_commit(len(group))
        return results

    def _failure(self, error: Exception) -> StoreError:
        failure = explain(error, self.path)
        if str(failure) != self._last_failure:
            logger.error("%s", failure)
            self._last_failure = str(failure)
        return failure

    def _close(self) -> None:
        if self._database:
            self._database.close()
            self._database = None


def _execute(connection: sqlite3.Connection, statement: _Statement) -> Any:
    """Run one statement; its rows or row count, or the exception that is its own."""
    try:
        cursor = connection.execute(statement.sql, statement.parameters)
        return cursor.rowcount if statement.writes else cursor.fetchall()
    except (sqlite3.IntegrityError, sqlite3.DataError, OverflowError, ValueError) as error:
        return error  # a value that SQLite refuses; the other statements go on
