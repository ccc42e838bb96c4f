"""Files of every schema version that was released: they open, and what was in them is still there.

`schemas/N.db` is a file of version N with USERS, made by the backend that had it. One that came later never changes.
"""

import asyncio
import gzip
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from users_backend import copies, database
from users_backend.store import Store

SCHEMAS = Path(__file__).parent / "schemas"
USERS = [(1, "Ana"), (2, "João Ção"), (9007199254740991, "Zoë 🙂")]
NEXT = "ALTER TABLE users ADD COLUMN note TEXT"


def users(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT id, name FROM users ORDER BY id").fetchall()


def version(path):
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("PRAGMA user_version").fetchone()[0]


@pytest.fixture
def next_version(monkeypatch):
    """As if the schema had one version more."""
    monkeypatch.setattr(database, "MIGRATIONS", (*database.MIGRATIONS, NEXT))
    monkeypatch.setattr(copies, "MIGRATIONS", database.MIGRATIONS)


def start_and_stop(path):
    async def scenario():
        store = Store(path)
        try:
            await store.check()
        finally:
            await store.close()

    asyncio.run(scenario())


def test_there_is_a_file_of_each_version():
    released = {str(number) for number in range(1, len(database.MIGRATIONS) + 1)}
    assert {path.stem for path in SCHEMAS.glob("*.db")} == released


@pytest.mark.parametrize("file", sorted(SCHEMAS.glob("*.db")), ids=lambda file: file.stem)
def test_it_opens_is_brought_to_the_next_version_and_kept_as_it_was(file, tmp_path, next_version):
    path = Path(shutil.copy(file, tmp_path / "users.db"))
    start_and_stop(path)
    assert users(path) == USERS
    assert version(path) == len(database.MIGRATIONS)

    [kept] = copies.find(path)
    assert (kept.why, kept.users) == ("before-upgrade", len(USERS))
    before = tmp_path / "before.db"
    before.write_bytes(gzip.decompress(kept.path.read_bytes()))
    assert version(before) == int(file.stem)
    assert users(before) == USERS


def test_an_old_copy_is_restored_into_the_present_version(tmp_path, next_version):
    path = Path(shutil.copy(SCHEMAS / "1.db", tmp_path / "users.db"))
    start_and_stop(path)
    [kept] = copies.find(path)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM users")
    copies.restore(path, kept.path)
    assert users(path) == USERS
    assert version(path) == len(database.MIGRATIONS)


def test_without_the_copy_nothing_is_changed(tmp_path, next_version):
    path = Path(shutil.copy(SCHEMAS / "1.db", tmp_path / "users.db"))
    (tmp_path / "backups").write_text("in the way")
    with pytest.raises(database.StoreError):
        start_and_stop(path)
    assert version(path) == 1
    assert users(path) == USERS
