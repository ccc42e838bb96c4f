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
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from users_backend.database import Database, StoreError, explain
from users_backend.users import User, fold

# Requests that may wait for the disk; the next one is told to come back later.
QUEUE_SIZE = 1000

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Statement:
    sql: str
    parameters: tuple[Any, ...]
    writes: bool
    answer: asyncio.Future[Any]


class Store:
    """The users in one SQLite file, which is opened, and reopened, when needed.

    Every method raises StoreError when the data cannot be used.
    """

    def __init__(self, path: Path, on_commit: Callable[[int], None] = lambda writes: None) -> None:
        """Start the thread. `on_commit` gets the number of writes in each commit."""
        self.path = path
        self._on_commit = on_commit
        self._queue: queue.Queue[_Statement | None] = queue.Queue(QUEUE_SIZE)
        self._database: Database | None = None
        self._last_failure = ""
        self._thread = threading.Thread(target=self._run, name="store", daemon=True)
        self._thread.start()

    def waiting(self) -> int:
        """How many requests are in the queue."""
        return self._queue.qsize()

    async def add(self, user: User) -> bool:
        """Save a new user. False: the id is taken, nothing has changed."""
        return (
            await self._write(
                "INSERT INTO users (id, name, name_folded) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                user.id,
                user.name,
                fold(user.name),
            )
            == 1
        )

    async def rename(self, user: User) -> bool:
        """Save a new name for the user with this id. False: there is none."""
        return (
            await self._write(
                "UPDATE users SET name = ?, name_folded = ? WHERE id = ?",
                user.name,
                fold(user.name),
                user.id,
            )
            == 1
        )

    async def remove(self, user_id: int) -> bool:
        """Delete the user with this id. False: there is none."""
        return await self._write("DELETE FROM users WHERE id = ?", user_id) == 1

    async def get(self, user_id: int) -> User | None:
        """The user with this id, or None."""
        users = await self._read("SELECT id, name FROM users WHERE id = ?", user_id)
        return users[0] if users else None

    async def find(self, *, limit: int, after: int = 0, name: str = "") -> list[User]:
        """At most `limit` users by id, with ids above `after` and names that contain `name`."""
        return await self._read(
            "SELECT id, name FROM users WHERE id > ? AND instr(name_folded, ?) ORDER BY id LIMIT ?",
            after,
            fold(name),
            limit,
        )

    async def check(self) -> None:
        """Raise StoreError unless the database answers."""
        await self._read("SELECT id, name FROM users LIMIT 1")

    async def close(self) -> None:
        """Answer what waits, then close the file."""
        await asyncio.to_thread(self._queue.put, None)
        await asyncio.to_thread(self._thread.join)

    async def _write(self, sql: str, *parameters: Any) -> int:
        """Run a statement; the number of rows that it has changed."""
        changed: int = await self._submit(sql, parameters, writes=True)
        return changed

    async def _read(self, sql: str, *parameters: Any) -> list[User]:
        """Run a query of ids and names."""
        rows = await self._submit(sql, parameters, writes=False)
        return [User.model_construct(id=user_id, name=name) for user_id, name in rows]

    async def _submit(self, sql: str, parameters: tuple[Any, ...], *, writes: bool) -> Any:
        answer = asyncio.get_running_loop().create_future()
        try:
            self._queue.put_nowait(_Statement(sql, parameters, writes, answer))
        except queue.Full:
            raise StoreError("Too many requests are waiting. Try again in a second.") from None
        return await answer

    # What follows runs in the thread.

    def _run(self) -> None:
        running = True
        while running:
            # Only this thread takes, so at least qsize() more are there.
            batch = [self._queue.get()]
            batch += [self._queue.get_nowait() for _ in range(self._queue.qsize())]
            running = None not in batch
            statements = [statement for statement in batch if statement]
            # Reads first, apart: they wait for no disk, and a full one does not
            # fail them. All callers still wait, so any order is a fair one.
            for writes in (False, True):
                group = [statement for statement in statements if statement.writes is writes]
                if group:
                    self._reply(group, self._transact(group))
        self._close()

    def _transact(self, group: Sequence[_Statement]) -> list[Any]:
        """Run the statements in one transaction; a result or an exception for each."""
        try:
            if self._database is None:
                self._database = Database(self.path)
                logger.info("Database %s is open", self.path)
            connection = self._database.connection
            connection.execute("BEGIN")
            results = [_execute(connection, statement) for statement in group]
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - this thread must outlive any error
            # Closing undoes the transaction. The next group opens the file again,
            # and so recovers by itself when the cause is gone.
            self._close()
            return [self._failure(error) for _ in group]
        self._last_failure = ""
        if group[0].writes:
            self._on_commit(len(group))
        return results

    def _failure(self, error: Exception) -> StoreError:
        failure = explain(error, self.path)
        if str(failure) != self._last_failure:
            logger.error("%s", failure)
            self._last_failure = str(failure)
        return failure

    def _reply(self, group: Sequence[_Statement], results: Sequence[Any]) -> None:
        # One call for the whole group: waking up the event loop is what costs.
        loop = group[0].answer.get_loop()
        loop.call_soon_threadsafe(_resolve, group, results)

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


def _resolve(group: Sequence[_Statement], results: Sequence[Any]) -> None:
    for statement, result in zip(group, results, strict=True):
        if statement.answer.done():  # the caller has gone away
            continue
        if isinstance(result, Exception):
            statement.answer.set_exception(result)
        else:
            statement.answer.set_result(result)
