"""The stores by themselves: batches, failures of one and of all, a full queue."""

import asyncio
import contextlib
import sqlite3
import threading
from pathlib import Path

import psycopg
import pytest
from users_backend import copies, settings, store
from users_backend.database import Connection, Database, DiskFull, StoreError, Unknown, unknown
from users_backend.store import Store, open_store
from users_backend.users import User

# Changes nothing, and so slowly that a file can be replaced before the COMMIT of its transaction.
COUNT = "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 5000000) SELECT count(*) FROM n"
SLOW_UPDATE = f"UPDATE users SET name = '' WHERE ({COUNT}) = 0"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "users.db"


@pytest.fixture(params=["sqlite", "postgres"])
def database(request, path):
    """One of each."""
    if request.param == "sqlite":
        return path
    return settings.load({"DATABASE_URL": request.getfixturevalue("postgres").new()}).database


@contextlib.asynccontextmanager
async def opening(database, on_commit=lambda writes: None):
    opened = open_store(database, on_commit)
    try:
        await opened.check()
        yield opened
    finally:
        await opened.close()


def user(user_id, name="Ana"):
    return User(id=user_id, name=name)


def rows(path):
    if not isinstance(path, Path):
        with psycopg.connect(**path.parameters) as connection:
            return connection.execute("SELECT id, name FROM users ORDER BY id").fetchall()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT id, name FROM users ORDER BY id").fetchall()


@contextlib.contextmanager
def foreign_lock(path, *statements):
    """Another program that holds the file, as `sqlite3 users.db` on a laptop may."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement).fetchall()
        yield
        connection.rollback()


@contextlib.contextmanager
def held(database):
    """Nothing is saved meanwhile."""
    if isinstance(database, Path):
        with foreign_lock(database, "BEGIN EXCLUSIVE"):
            yield
    else:
        with psycopg.connect(**database.parameters) as connection:
            connection.execute("LOCK TABLE users")
            yield


async def held_together(database, *operations):
    """Run the operations as one batch: a lock keeps them all until the last has come."""
    with held(database):
        tasks = [asyncio.create_task(operation) for operation in operations]
        await asyncio.sleep(0.1)
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_waiting_writes_share_one_commit_and_each_gets_its_own_answer(database):
    commits = []

    async def scenario():
        async with opening(database, on_commit=commits.append) as opened:
            return await held_together(
                database,
                opened.add(user(1)),
                opened.add(user(1, "Bia")),
                opened.add(user(2)),
                opened.rename(user(2, "Eva")),
                opened.rename(user(3)),
                opened.remove(3),
            )

    assert asyncio.run(scenario()) == [True, False, True, True, False, False]
    assert commits == [6]
    assert rows(database) == [(1, "Ana"), (2, "Eva")]


def test_a_write_that_the_database_refuses_fails_alone(database):
    insert = "INSERT INTO users (id, name, name_folded) VALUES (?, ?, '')"

    async def scenario():
        async with opening(database) as opened:
            return await held_together(
                database,
                opened.add(user(1)),
                opened._write(insert, 2**63, "too large"),
                opened._write(insert, -1, "not allowed"),
                opened._write(insert, 5, "\ud800"),
                opened.add(user(2)),
            )

    answers = asyncio.run(scenario())
    refused = [OverflowError, sqlite3.IntegrityError, UnicodeEncodeError]
    if not isinstance(database, Path):
        refused = [psycopg.errors.NumericValueOutOfRange, psycopg.errors.CheckViolation, UnicodeEncodeError]
    assert [type(answer) for answer in answers] == [bool, *refused, bool]
    assert rows(database) == [(1, "Ana"), (2, "Ana")]


def test_a_full_disk_fails_the_write_keeps_nothing_of_it_and_the_next_one_works(path):
    async def scenario():
        async with opening(path) as opened:
            await opened._write("PRAGMA max_page_count = 1")  # no more than it has now
            many = [opened.add(user(n, "x" * 200)) for n in range(1, 301)]
            answers = await asyncio.gather(*many, return_exceptions=True)
            kept = rows(path)
            assert await opened.add(user(1000))
            return answers, kept

    answers, kept = asyncio.run(scenario())
    acknowledged = [n for n, answer in enumerate(answers, start=1) if answer is True]
    failures = [answer for answer in answers if answer is not True]
    assert [user_id for user_id, _ in kept] == acknowledged
    assert failures
    assert all(isinstance(failure, DiskFull) for failure in failures)
    assert "Free some space" in str(failures[0])


def test_a_failed_commit_fails_its_whole_batch_and_the_next_one_works(path, monkeypatch):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)

    async def scenario():
        async with opening(path) as opened:
            # A reader lets the batch write, and stops it at COMMIT.
            with foreign_lock(path, "BEGIN", "SELECT * FROM users"):
                answers = await asyncio.gather(*(opened.add(user(n)) for n in range(1, 10)), return_exceptions=True)
                assert await opened.find(limit=10) == []
            assert await opened.add(user(100))
            return answers

    answers = asyncio.run(scenario())
    assert all(isinstance(answer, StoreError) for answer in answers), answers
    assert "Another program holds" in str(answers[0])
    assert rows(path) == [(100, "Ana")]


def test_a_full_queue_refuses_and_answers_what_it_accepted(database, monkeypatch):
    monkeypatch.setattr(store, "QUEUE_SIZE", 3)

    async def scenario():
        async with opening(database) as opened:
            return await held_together(database, *(opened.add(user(n)) for n in range(1, 6)))

    answers = asyncio.run(scenario())
    assert answers[:3] == [True] * 3
    assert ["Too many requests" in str(answer) for answer in answers[3:]] == [True, True]


def test_close_answers_what_waits(database):
    async def scenario():
        opened = open_store(database, lambda writes: None)
        tasks = [asyncio.create_task(opened.add(user(n))) for n in range(1, 101)]
        await asyncio.sleep(0)
        await opened.close()
        return await asyncio.gather(*tasks)

    assert asyncio.run(scenario()) == [True] * 100
    assert len(rows(database)) == 100
    assert "store" not in [thread.name for thread in threading.enumerate()]


def test_close_waits_for_another_program_as_a_write_does(path):
    async def scenario():
        opened = open_store(path, lambda writes: None)
        await opened.check()
        with foreign_lock(path, "BEGIN IMMEDIATE"):
            adding = asyncio.create_task(opened.add(user(1)))
            await asyncio.sleep(0.1)
            closing = asyncio.create_task(opened.close())
            await asyncio.sleep(0.1)
        await closing
        return await asyncio.wait_for(adding, 5)

    assert asyncio.run(scenario()) is True
    assert rows(path) == [(1, "Ana")]


def test_a_failure_is_logged_once_and_again_when_it_comes_back(path, monkeypatch, caplog):
    monkeypatch.setattr(store, "LOCK_SECONDS", 0.1)

    async def scenario():
        async with opening(path) as opened:
            for _ in range(2):
                with foreign_lock(path, "BEGIN EXCLUSIVE"):
                    for _ in range(2):
                        with pytest.raises(StoreError, match="Another program holds"):
                            await opened.check()
                await opened.check()

    asyncio.run(scenario())
    assert caplog.text.count("Another program holds") == 2


def test_a_deadlock_with_another_program_is_tried_again(postgres, monkeypatch):
    monkeypatch.setattr(store, "LOCK_SECONDS", 30)
    server = settings.load({"DATABASE_URL": postgres.new()}).database

    async def scenario():
        async with opening(server) as opened:
            assert await opened.add(user(1)) and await opened.add(user(2))
            with psycopg.connect(**server.parameters) as other:
                other.execute("UPDATE users SET name = 'Bia' WHERE id = 2")
                renaming = asyncio.gather(*(opened.rename(user(n, "Eva")) for n in (1, 2)))
                await asyncio.sleep(0.3)  # it has user 1, and waits for user 2
                await asyncio.to_thread(other.execute, "UPDATE users SET name = 'Bia' WHERE id = 1")
            return await renaming

    assert asyncio.run(scenario()) == [True, True]
    assert rows(server) == [(1, "Eva"), (2, "Eva")]


def test_a_caller_that_has_gone_away_does_not_disturb_the_others(database):
    async def scenario():
        async with opening(database) as opened:
            gone = asyncio.create_task(opened.add(user(1)))
            await asyncio.sleep(0)
            gone.cancel()
            assert await opened.add(user(2))

    asyncio.run(scenario())
    assert rows(database)[-1] == (2, "Ana")


def test_what_was_committed_into_a_file_that_is_replaced_meanwhile_is_not_acknowledged(path, tmp_path):
    other = tmp_path / "other.db"
    Database(other).close()

    async def scenario():
        async with opening(path) as opened:
            first = asyncio.create_task(opened.add(user(1)))
            second = asyncio.create_task(opened._write(SLOW_UPDATE))
            while not (path.parent / "users.db-journal").stat().st_size:
                await asyncio.sleep(0.001)
            other.replace(path)
            assert not first.done()
            answers = await asyncio.gather(first, second, return_exceptions=True)
            assert await opened.add(user(2))
            return answers

    answers = asyncio.run(scenario())
    assert ["replaced at this very moment" in str(answer) for answer in answers] == [True, True]
    assert rows(path) == [(2, "Ana")]
    assert [(copy.why, copy.users) for copy in copies.find(path)] == [("replaced", 1)]


def test_what_was_committed_where_nobody_can_look_any_more_is_neither_acknowledged_nor_denied(path, tmp_path):
    folder = tmp_path / "share"
    folder.mkdir()
    path = folder / "users.db"

    async def scenario():
        async with opening(path) as opened:
            first = asyncio.create_task(opened.add(user(1)))
            second = asyncio.create_task(opened._write(SLOW_UPDATE))
            while not (folder / "users.db-journal").stat().st_size:
                await asyncio.sleep(0.001)
            folder.rename(tmp_path / "away")
            folder.symlink_to(folder)  # a circle, so that every look is an error of the system
            answers = await asyncio.gather(first, second, return_exceptions=True)
            folder.unlink()
            (tmp_path / "away").rename(folder)
            assert await opened.add(user(2))
            return answers

    for answer in asyncio.run(scenario()):
        assert isinstance(answer, Unknown)
        assert "not known whether it was saved" in str(answer)
    assert rows(path) == [(1, "Ana"), (2, "Ana")]


def test_a_folder_that_goes_away_during_commit_leaves_the_outcome_open(path, tmp_path, monkeypatch):
    folder = tmp_path / "share"
    folder.mkdir()
    path = folder / "users.db"
    commit = Connection.commit

    def cut_off(connection):
        commit(connection)
        folder.rename(tmp_path / "away")
        folder.symlink_to(folder)  # a circle, so that every look is an error of the system
        raise unknown(path, OSError("Transport endpoint is not connected"))

    async def scenario():
        async with opening(path) as opened:
            monkeypatch.setattr(Connection, "commit", cut_off)
            with pytest.raises(Unknown, match="not known whether it was saved"):
                await opened.add(user(1))
            monkeypatch.undo()
            folder.unlink()
            (tmp_path / "away").rename(folder)
            assert await opened.add(user(2))

    asyncio.run(scenario())
    assert rows(path) == [(1, "Ana"), (2, "Ana")]


def test_a_file_that_sqlite_finds_replaced_is_kept_too(path, tmp_path, monkeypatch):
    other = tmp_path / "other.db"
    Database(other).close()
    look = Store._look

    def replace_after_look(self):
        result = look(self)
        if other.exists():
            other.replace(path)
        return result

    async def scenario():
        async with opening(path) as opened:
            assert await opened.add(user(1))
            monkeypatch.setattr(Store, "_look", replace_after_look)
            with pytest.raises(StoreError, match="replaced at this very moment"):
                await opened.add(user(2))
            assert await opened.add(user(2))

    asyncio.run(scenario())
    assert rows(path) == [(2, "Ana")]
    assert [(copy.why, copy.users) for copy in copies.find(path)] == [("replaced", 1)]
