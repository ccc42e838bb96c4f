"""The store beside a plain dict: whatever is asked in whatever order, both say the same, also after a crash."""

import asyncio
import contextlib
import json
import shutil
import sqlite3
import tempfile
import unicodedata
from pathlib import Path

import psycopg
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test
from users_backend import store
from users_backend.settings import load
from users_backend.store import open_store
from users_backend.users import MAX_ID, User, fold

pytestmark = pytest.mark.slow

# Few, so that operations meet each other.
IDS = st.sampled_from([1, 2, 3, 4, 5, 6, 10, MAX_ID - 1, MAX_ID])

# As the API lets them through: NFC, no white space around them, no control character.
# Most have an "a", or something that is searched like it.
WORDS = [
    "Ana",
    "JOSÉ ÁNGEL",
    "Zoé & Léa",
    "Straße",
    "ﬁnal",
    "Ελλάς",
    "İstanbul",
    "名前",
    "👩‍👩‍👧 à",
    "שלום",
    "100%_",
    "a" * 180,
]
TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=5)
NAMES = st.builds(lambda word, text: unicodedata.normalize("NFC", word + text).strip(), st.sampled_from(WORDS), TEXT)
PARTS = ["a", "Á", "a\u0301", "an", "", "SS", "ſ", "fi", "λας", "i", "前", "👩", "\u200d", "%", "_", "'"]

# The last one: whether it is meant for the user as it is before this and what comes with it.
WRITES = st.tuples(
    st.sampled_from(["add", "add", "rename", "remove"]), st.builds(User, id=IDS, name=NAMES), st.booleans()
)


def ask(opened, operation, user, was):
    """The store's answer to a write, still to be awaited."""
    match operation:
        case "add":
            return opened.add(user)
        case "rename":
            return opened.rename(user, was)
    return opened.remove(user.id, was)


def expect(model, operation, user, was):
    """The model's answer to a write."""
    done = user.id not in model if operation == "add" else model.get(user.id, "") == (was or model.get(user.id))
    if done and operation == "remove":
        del model[user.id]
    elif done:
        model[user.id] = user.name
    return done


def read(path, query="SELECT id, name FROM users ORDER BY id"):
    if not isinstance(path, Path):
        with psycopg.connect(**path.parameters) as connection:
            return connection.execute(query).fetchall()
    with contextlib.closing(sqlite3.connect(path)) as connection:
        return connection.execute(query).fetchall()


class StoreBesideDict(RuleBasedStateMachine):
    """`model` is what the store must hold."""

    def __init__(self):
        super().__init__()
        self.model = {}
        self.resources = contextlib.ExitStack()
        self.folder = Path(self.resources.enter_context(tempfile.TemporaryDirectory()))
        self.loop = self.resources.enter_context(asyncio.Runner())
        self.begin()

    def begin(self):
        """Open a store without users."""
        self.open(self.new_folder() / "users.db")

    def teardown(self):
        self.resources.close()

    def new_folder(self):
        return Path(tempfile.mkdtemp(dir=self.folder))

    def open(self, database):
        self.database = database
        self.store = open_store(database, lambda writes: None)
        self.resources.callback(lambda opened: self.loop.run(opened.close()), self.store)
        self.loop.run(self.store.check())

    @rule(operations=st.lists(WRITES, min_size=1, max_size=10))
    def write(self, operations):
        """Some writes that come together; nothing of an acknowledged one is outside the .db file."""
        operations = [(what, user, self.model.get(user.id) if known else None) for what, user, known in operations]

        async def together():
            return await asyncio.gather(*(ask(self.store, *operation) for operation in operations))

        answers = self.loop.run(together())
        assert answers == [expect(self.model, *operation) for operation in operations]
        assert read(self.seen_by_others()) == sorted(self.model.items())

    def seen_by_others(self):
        """Where all that is acknowledged must be found: in the .db file, and not beside it."""
        return Path(shutil.copy(self.database, self.new_folder()))

    @rule(user_id=IDS)
    def get(self, user_id):
        user = self.loop.run(self.store.get(user_id))
        kept = self.model.get(user_id)
        assert (json.loads(user) if user else None) == ({"id": user_id, "name": kept} if kept else None)

    @rule(limit=st.integers(1, 6), after=st.just(0) | IDS, name=st.sampled_from(PARTS) | NAMES | TEXT)
    def find(self, limit, after, name):
        found = self.loop.run(self.store.find(limit=limit, after=after, name=name))
        expected = [
            {"id": n, "name": kept} for n, kept in sorted(self.model.items()) if n > after and fold(name) in fold(kept)
        ]
        assert [json.loads(user) for user in found] == expected[:limit]

    @rule()
    def crash(self):
        """Go on with the files as a crash now would leave them: nothing is closed before they are copied."""
        folder = shutil.copytree(self.database.parent, self.new_folder(), dirs_exist_ok=True)
        self.open(folder / "users.db")
        assert len(self.loop.run(self.store.find(limit=100))) == len(self.model)
        assert read(self.database) == sorted(self.model.items())
        assert read(self.database, "PRAGMA integrity_check") == [("ok",)]


class PostgresBesideDict(StoreBesideDict):
    """The same for PostgreSQL; a crash is that of its connections."""

    url = ""

    def begin(self):
        server = load({"DATABASE_URL": self.url}).database
        self.open(server)
        with psycopg.connect(**server.parameters) as connection:
            connection.execute("TRUNCATE users")

    def seen_by_others(self):
        return self.database

    @rule()
    def crash(self):
        with psycopg.connect(**self.database.parameters) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'users-backend'"
            )
        assert len(self.loop.run(self.store.find(limit=100))) == len(self.model)


@pytest.mark.timeout(400)  # it passes in seconds; finding the smallest failure takes long
def test_the_store_holds_what_a_dict_would_also_after_crashes(monkeypatch):
    monkeypatch.setattr(store, "SLICE", 2)  # so that few users are many slices
    run_state_machine_as_test(
        StoreBesideDict, settings=settings(max_examples=150, stateful_step_count=15, deadline=None)
    )


@pytest.mark.timeout(400)
def test_postgresql_does_so_too(postgres, monkeypatch):
    monkeypatch.setattr(store, "SLICE", 2)
    monkeypatch.setattr(PostgresBesideDict, "url", postgres.new())
    run_state_machine_as_test(
        PostgresBesideDict, settings=settings(max_examples=30, stateful_step_count=15, deadline=None)
    )
