"""Copies: made and put back while the real server runs and others write, and what is wrong with some."""

import gzip
import itertools
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from unittest.mock import Mock

import httpx
import psycopg
import pytest
from users_backend import copies
from users_backend.copies import HOURLY, Copy, Hourly, Kept
from users_backend.database import Database, StoreError


def admin(server, *arguments, under=()):
    """Run the program as a person does, beside the running server, or under another program."""
    return subprocess.run(
        [*under, sys.executable, "-W", "error", "-m", "users_backend.admin", *arguments],
        env={"PYTHONPATH": ":".join(sys.path), **server.settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def unpack(copy, folder):
    path = folder / "unpacked.db"
    path.write_bytes(gzip.decompress(Path(copy).read_bytes()))
    return path


def ids(path):
    if not isinstance(path, Path):
        with psycopg.connect(**path.parameters) as server:
            return {user_id for (user_id,) in server.execute("SELECT id FROM users")}
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        return {user_id for (user_id,) in connection.execute("SELECT id FROM users")}


class Writers:
    """Clients that add users until the end; `saved` has those that were acknowledged."""

    def __init__(self, server, count=8):
        self.saved = set()
        self._count = count
        self._next = itertools.count(1)
        self._end = threading.Event()
        self._server = server

    def __enter__(self):
        self._pool = ThreadPoolExecutor(self._count)
        self._done = [self._pool.submit(self._write) for _ in range(self._count)]
        return self

    def __exit__(self, *_):
        self._end.set()
        for done in self._done:
            done.result()
        self._pool.shutdown()

    def _write(self):
        with httpx.Client(base_url=self._server.http.base_url, timeout=10, trust_env=False) as http:
            while not self._end.is_set():
                user_id = next(self._next)
                if http.post("/users", json={"id": user_id, "name": "Ana"}).status_code == 201:
                    self.saved.add(user_id)

    def wait_for(self, count):
        deadline = time.monotonic() + 30
        wanted = len(self.saved) + count
        while len(self.saved) < wanted:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_a_copy_made_while_others_write_has_all_that_was_acknowledged_before(start_either, tmp_path):
    server = start_either(LOG_LEVEL="warning")
    with Writers(server) as writers:
        for _ in range(3):
            writers.wait_for(100)
            before = set(writers.saved)
            result = admin(server, "backup")
            assert result.returncode == 0, result.stderr
            copy = copies.find(server.database)[0]
            found = ids(unpack(copy.path, tmp_path))
            assert before <= found
            assert copy.users == len(found)
            assert f"{copy.users:,} users copied to {copy.path} (" in result.stdout
    assert server.log.read_text() == ""  # a copy is no change by another program


def test_a_restore_while_others_write_loses_nothing_that_was_acknowledged(start_either, tmp_path):
    server = start_either(LOG_LEVEL="error")
    server.http.post("/users", json={"id": 1_000_000, "name": "Bia"})
    assert admin(server, "backup").returncode == 0
    with Writers(server) as writers:
        writers.wait_for(100)
        result = admin(server, "restore", "newest")
        assert result.returncode == 0, result.stderr
        writers.wait_for(100)
    [kept] = [copy for copy in copies.find(server.database) if copy.why == copies.BEFORE_RESTORE]
    assert result.stdout.endswith(f"To undo that: make restore COPY={kept.path.name}\n")
    before, after = ids(unpack(kept.path, tmp_path)), ids(server.database)
    assert len(after) < len(writers.saved)
    assert writers.saved | {1_000_000} == before | after
    assert before & after == {1_000_000}


def test_what_a_restore_replaced_can_be_restored(start_either):
    server = start_either()
    server.http.post("/users", json={"id": 1, "name": "Ana"})
    assert admin(server, "backup").returncode == 0
    server.http.put("/users/1", json={"name": "Bia"})
    undo = admin(server, "restore", "newest").stdout.rpartition("COPY=")[2].strip()
    assert server.http.get("/users/1").json()["name"] == "Ana"
    assert admin(server, "restore", undo).returncode == 0
    assert server.http.get("/users/1").json()["name"] == "Bia"
    # "newest" is the newest that was made on purpose, not what the restores kept.
    assert admin(server, "restore", "newest").returncode == 0
    assert server.http.get("/users/1").json()["name"] == "Ana"


def foreign(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE notes (text)")


def newer(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")


def damaged(path):
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE users (id, name)")
        connection.execute("PRAGMA user_version = 1")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (foreign, "belongs to another program"),
        (newer, "schema version 99"),
        (damaged, "is damaged"),
        (lambda path: path.write_bytes(b"no database" * 1000), "is not a SQLite database"),
    ],
)
def test_a_copy_that_is_none_is_refused_and_nothing_changes(start_either, tmp_path, content, words):
    server = start_either()
    server.http.post("/users", json={"id": 1, "name": "Ana"})
    folder = copies.folder(server.database)
    folder.mkdir()
    content(tmp_path / "content")
    copy = folder / "users-20261124T130000Z-1.db.gz"
    copy.write_bytes(gzip.compress((tmp_path / "content").read_bytes()))
    result = admin(server, "restore", copy.name)
    assert result.returncode == 1
    assert words in result.stderr
    assert server.http.get("/users").json() == [{"id": 1, "name": "Ana"}]
    assert {path.name for path in folder.iterdir()} == {copy.name, ".lock"}


@pytest.mark.parametrize("cut", [0, 10, 100])
def test_a_copy_that_is_cut_off_is_refused(start_either, cut):
    server = start_either()
    server.http.post("/users", json={"id": 1, "name": "Ana"})
    copy = copies.make(server.database).path
    copy.write_bytes(copy.read_bytes()[:cut])
    result = admin(server, "restore", "newest")
    assert result.returncode == 1
    assert "is damaged" in result.stderr or "is not" in result.stderr or "belongs" in result.stderr
    assert server.http.get("/users/1").status_code == 200


@pytest.mark.parametrize("place", [0, 4096])
def test_in_place_of_a_damaged_database_comes_the_copy_and_the_server_needs_no_restart(
    start_server, check_problem, place
):
    server = start_server()
    server.http.post("/users", json={"id": 1, "name": "Ana"})
    assert admin(server, "backup").returncode == 0
    server.stop()
    with server.database.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 4096)
    damage = server.database.read_bytes()
    server = start_server()
    check_problem(server.http.get("/users"), 503)

    result = admin(server, "restore", "newest")
    assert result.returncode == 0, result.stderr
    assert server.http.get("/users").json() == [{"id": 1, "name": "Ana"}]
    [kept] = copies.folder(server.database).glob("*-damaged.db")
    assert f"The damaged file is {kept}" in result.stdout
    assert kept.read_bytes() == damage


def test_a_damaged_database_that_the_server_still_uses_is_not_taken_away(start_server):
    server = start_server()
    server.http.post("/users", json={"id": 1, "name": "Ana"})
    assert admin(server, "backup").returncode == 0
    with server.database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    damage = server.database.read_bytes()
    result = admin(server, "restore", "newest")
    assert result.returncode == 1
    assert "Restart the backend, which then lets go of the file, and restore again." in result.stderr
    assert server.database.read_bytes() == damage
    assert not list(copies.folder(server.database).glob("*-damaged.db"))

    server.stop()
    server = start_server()
    assert admin(server, "restore", "newest").returncode == 0
    assert server.http.get("/users").json() == [{"id": 1, "name": "Ana"}]


def test_a_lost_database_comes_back(start_server):
    server = start_server()
    server.http.post("/users", json={"id": 1, "name": "Ana"})
    assert admin(server, "backup").returncode == 0
    server.stop()
    server.database.unlink()
    assert admin(server, "restore", "newest").stdout.endswith("put back.\n")
    assert start_server().http.get("/users").json() == [{"id": 1, "name": "Ana"}]


def holds(path):
    """The ids in a database; or why there are none."""
    try:
        return ids(path) if path.exists() else "lost"
    except sqlite3.DatabaseError as error:
        return str(error)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="strace is for Linux alone")
@pytest.mark.parametrize("call", ["fsync", "fdatasync"])
@pytest.mark.parametrize("state", ["there", "lost", "damaged"])
def test_wherever_the_disk_fails_a_restore_it_tells_the_truth_and_at_the_end_all_is_on_the_disk(
    start_server, tmp_path, state, call
):
    server = start_server()
    server.http.post("/users", json={"id": 1, "name": "Ana"})
    copy = copies.make(server.database).path.name
    server.http.post("/users", json={"id": 2, "name": "Bia"})
    server.stop()
    content = server.database.read_bytes()
    if state == "damaged":
        content = content[:4096] + b"\xff" * 4096
    trace = tmp_path / "trace"
    for number in itertools.count(1):
        for file in tmp_path.glob("users.db*"):
            file.unlink()
        if state != "lost":
            server.database.write_bytes(content)
        before = holds(server.database)
        strace = ["strace", "-f", "-y", "-s", "500", f"--output={trace}", "--trace=rename,fsync,fdatasync"]
        result = admin(server, "restore", copy, under=[*strace, f"--inject={call}:error=EIO:when={number}"])
        after = holds(server.database)
        if result.returncode == 0:
            assert after == {1}
        elif "not known whether it was saved" in result.stderr:
            assert after in (before, {1})
        else:
            assert "Nothing was saved" in result.stderr
            assert after == before
        if "INJECTED" not in trace.read_text():
            break
    assert result.returncode == 0
    # What gets a name is on the disk before, and its name after.
    calls = re.findall(r'(fsync|rename)\((?:\d+<(.+?)>|"(.+?)", "(.+?)")\)', trace.read_text())
    named = [index for index, each in enumerate(calls) if each[0] == "rename"]
    assert named
    for index in named:
        _, _, old, new = calls[index]
        assert calls[index - 1][:2] == ("fsync", old)
        assert calls[index + 1][:2] == ("fsync", str(Path(new).parent))


def test_without_a_database_or_a_copy_it_says_what_to_do(start_server):
    server = start_server()
    server.stop()
    assert admin(server, "list").stdout.endswith("yet. `make backup` makes one.\n")
    assert "There is no copy newest in" in admin(server, "restore", "newest").stderr
    server.database.unlink()
    before = {*server.database.parent.iterdir()}
    for arguments in (["backup"], ["import", "csv"], ["export", "csv"]):
        result = admin(server, *arguments)
        assert result.returncode == 1
        assert {*server.database.parent.iterdir()} == before
    assert result.stderr == (
        f"There is no database {server.database}. Start the backend, which makes it, or correct DATABASE_URL.\n"
    )


def test_a_database_that_another_program_holds_is_not_waited_for_without_end(start_server, monkeypatch):
    monkeypatch.setattr(copies, "LOCK_SECONDS", 0.1)
    database = start_server().database
    with closing(sqlite3.connect(database)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(StoreError, match="Another program holds"):
            copies.make(database)


def test_the_list_shows_time_users_and_size_newest_first(start_either):
    server = start_either()
    for user_id in (1, 2):
        server.http.post("/users", json={"id": user_id, "name": "Ana"})
        assert admin(server, "backup").returncode == 0
    lines = admin(server, "list").stdout.splitlines()
    assert [line.split("UTC")[1].split()[:2] for line in lines[:2]] == [["2", "users"], ["1", "user"]]
    assert "make restore COPY=newest" in lines[-1]


def test_what_a_killed_one_left_is_cleared_away(start_either):
    server = start_either()
    left = copies.folder(server.database) / ".work"
    left.mkdir(parents=True)
    (left / "copy.db").write_bytes(b"half of it")
    assert admin(server, "backup").returncode == 0
    assert not left.exists()


# --- Those made of a file that the running server has lost ---------------------------

REMOVED = "removed or emptied while the backend ran.*`make restore COPY=newest`"


def kept(server, why, folder):
    """The ids in all copies of this kind."""
    found = [copy for copy in copies.find(server.database) if copy.why == why]
    return found, {user_id for copy in found for user_id in ids(unpack(copy.path, folder))}


def add(server, user_id):
    assert server.http.post("/users", json={"id": user_id, "name": "Ana"}).status_code == 201


def eventually(answers):
    """Ask again: when nobody writes, the server looks only once a second."""
    deadline = time.monotonic() + 60
    while not answers():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_files_replaced_under_load_lose_nothing_that_was_acknowledged(start_server, tmp_path):
    server = start_server(LOG_LEVEL="error")
    with Writers(server, 32) as writers:
        for number in range(3):
            writers.wait_for(300)
            other = tmp_path / "other.db"
            Database(other).close()
            other.replace(server.database)
            eventually(lambda number=number: len(copies.find(server.database)) == number + 1)
        writers.wait_for(300)
    present = ids(server.database)
    found, before = kept(server, "replaced", tmp_path)
    assert len(found) == 3
    assert len(present) >= 300
    assert not present & before
    assert writers.saved <= present | before
    assert server.log.read_text().count("was replaced while it was in use. All that it held") == 3


def test_a_file_removed_under_load_is_kept_and_nothing_begins_in_its_place(start_server, check_problem, tmp_path):
    server = start_server(LOG_LEVEL="error")
    with Writers(server, 32) as writers:
        writers.wait_for(300)
        server.database.unlink()
        eventually(lambda: server.http.get("/readyz").status_code == 503)
    for path in ("/readyz", "/users", "/users/1"):
        check_problem(server.http.get(path), 503, REMOVED)
    check_problem(server.http.post("/users", json={"id": 1, "name": "Ana"}), 503, REMOVED)
    assert not server.database.exists()
    [copy], before = kept(server, "removed", tmp_path)
    assert writers.saved <= before
    log = server.log.read_text()
    assert log.count(f"was removed while it was in use. All that it held, {len(before)} users, is kept as") == 1
    assert copy.path.name in log

    result = admin(server, "restore", "newest")
    assert result.returncode == 0, result.stderr
    assert server.http.get("/readyz").text == "ok"
    add(server, 1_000_000)
    assert ids(server.database) == before | {1_000_000}


def test_a_file_replaced_by_one_that_is_no_good_is_not_written_on(start_server, check_problem, tmp_path):
    server = start_server()
    add(server, 1)
    (tmp_path / "other").write_bytes(b"no database" * 1000)
    (tmp_path / "other").replace(server.database)
    check_problem(
        server.http.post("/users", json={"id": 2, "name": "Ana"}), 503, "not a SQLite database. `make restore` lists"
    )
    assert server.database.read_bytes() == b"no database" * 1000
    assert kept(server, "replaced", tmp_path)[1] == {1}
    assert admin(server, "restore", "newest").returncode == 0
    add(server, 2)
    assert ids(server.database) == {1, 2}


def test_a_removed_file_is_noticed_where_nobody_writes(start_server, check_problem, tmp_path):
    server = start_server()
    add(server, 1)
    server.database.unlink()
    eventually(lambda: server.http.get("/users/1").status_code == 503)
    check_problem(server.http.get("/readyz"), 503, REMOVED)
    assert kept(server, "removed", tmp_path)[1] == {1}


def test_a_file_moved_away_and_put_back_is_used_again(start_server, check_problem, tmp_path):
    server = start_server()
    add(server, 1)
    away = server.database.rename(tmp_path / "away.db")
    check_problem(server.http.post("/users", json={"id": 2, "name": "Ana"}), 503, REMOVED)
    away.rename(server.database)
    add(server, 2)
    assert ids(server.database) == {1, 2}
    assert kept(server, "removed", tmp_path)[1] == {1}


def test_a_copy_can_be_restored_before_the_server_has_missed_its_file(start_server, tmp_path):
    server = start_server()
    add(server, 1)
    assert admin(server, "backup").returncode == 0
    add(server, 2)
    server.database.unlink()
    result = admin(server, "restore", "newest")
    assert result.returncode == 0, result.stderr
    add(server, 3)
    assert ids(server.database) == {1, 3}
    assert kept(server, "replaced", tmp_path)[1] == {1, 2}


def test_a_file_that_is_emptied_is_no_new_beginning(start_server, check_problem):
    server = start_server()
    add(server, 1)
    assert admin(server, "backup").returncode == 0
    with server.database.open("w"):
        pass
    check_problem(server.http.post("/users", json={"id": 2, "name": "Ana"}), 503, REMOVED)
    check_problem(server.http.get("/users"), 503, REMOVED)
    assert server.database.stat().st_size == 0
    result = admin(server, "restore", "newest")
    assert result.returncode == 0, result.stderr
    assert server.http.get("/users").json() == [{"id": 1, "name": "Ana"}]


def test_a_server_that_ends_keeps_a_lost_file_that_nobody_asked_for(start_server, tmp_path):
    server = start_server()
    add(server, 1)
    server.database.unlink()
    server.stop()
    assert kept(server, "removed", tmp_path)[1] == {1}


def test_a_lost_file_stays_open_until_it_can_be_kept(start_server, check_problem, tmp_path):
    (tmp_path / "data").mkdir()
    server = start_server(tmp_path / "data" / "users.db")
    add(server, 1)
    shutil.rmtree(tmp_path / "data")
    check_problem(server.http.post("/users", json={"id": 2, "name": "Ana"}), 503, "cannot be kept as a copy yet.*writ")
    for path in ("/readyz", "/users", "/readyz"):
        check_problem(server.http.get(path), 503, "cannot be kept as a copy yet")
    (tmp_path / "data").mkdir()
    check_problem(server.http.post("/users", json={"id": 2, "name": "Ana"}), 503, REMOVED)
    assert kept(server, "removed", tmp_path)[1] == {1}


def test_a_journal_that_a_lost_file_left_changes_no_restored_one(start_server, tmp_path):
    server = start_server()
    add(server, 1)
    assert admin(server, "backup").returncode == 0
    add(server, 2)
    server.stop()
    journal = tmp_path / "users.db-journal"
    with closing(sqlite3.connect(server.database, isolation_level=None)) as connection:
        connection.execute("PRAGMA synchronous = OFF")  # the journal counts from its first byte
        connection.execute("BEGIN")
        connection.execute("DELETE FROM users WHERE id = 1")
        left = journal.read_bytes()  # as of a server that was killed here
    server.database.unlink()
    journal.write_bytes(left)
    result = admin(server, "restore", "newest")
    assert result.returncode == 0, result.stderr
    assert ids(server.database) == {1}


# --- Those made every hour -----------------------------------------------------------


def hours_ago(hours):
    made = datetime(2026, 11, 24, 13, tzinfo=UTC) - timedelta(hours=hours)
    return Copy(Path(f"{hours}"), made, 1, HOURLY)


def test_of_hourly_copies_stay_the_last_ones_of_hours_days_and_weeks():
    year = [hours_ago(hours) for hours in range(24 * 365)]
    kept = sorted(int(copy.path.name) for copy in Kept(24, 7, 4).choose(year))
    # 24 November 2026 is a Tuesday: days end 14 hours, weeks 38 hours before 13:00.
    days = [14 + 24 * n for n in range(6)]
    weeks = [38 + 24 * 7 * n for n in range(3)]
    assert kept == sorted({*range(24), *days, *weeks})
    assert Kept(0, 0, 0).choose(year) == set()


@pytest.mark.parametrize(("day", "found"), [("20990101", 2), ("20260231", 1)])
def test_a_copy_of_a_day_that_has_not_come_or_never_will_stops_no_hourly_ones(start_server, day, found):
    server = start_server()
    strange = copies.make(server.database).path
    strange.rename(strange.with_name(f"users-{day}T000000Z-1-hourly.db.gz"))
    assert copies.Hourly(server.database, Kept(0, 0, 0))._pause() == copies.FIRST_SECONDS
    copies.make_hourly(server.database, Kept(24, 7, 4))
    assert len(copies.find(server.database)) == found
    pause = copies.Hourly(server.database, Kept(0, 0, 0))._pause()
    assert round(time.time() + pause) % 3600 == 0  # the next one is of the next full hour


def test_copies_of_a_clock_that_was_ahead_count_for_nothing_and_stay(start_server, monkeypatch):
    server = start_server()
    server.http.post("/users", json={"id": 1, "name": "Ana"})
    for made in ("20990101T000000Z", "20200101T135959Z"):
        path = copies.make(server.database).path
        path.rename(path.with_name(f"users-{made}-1-hourly.db.gz"))
    server.http.delete("/users/1")
    now = Mock(wraps=datetime, now=lambda zone: datetime(2020, 1, 1, 13, 30, tzinfo=zone))
    monkeypatch.setattr(copies, "datetime", now)
    copies.make_hourly(server.database, Kept(1, 0, 0))
    assert [(copy.made.minute, copy.users) for copy in copies.find(server.database)] == [(0, 1), (59, 1), (30, 0)]
    assert "of 2020-01-01 13:59:59 UTC put back" in admin(server, "restore", "newest").stdout


def test_a_table_of_ones_own_is_restored_with_the_users(start_server):
    server = start_server()
    with closing(sqlite3.connect(server.database)) as connection:
        connection.executescript("""CREATE TABLE "my notes" (text); INSERT INTO "my notes" VALUES ('Olá')""")
        copy = copies.make(server.database).path
        connection.executescript('DELETE FROM "my notes"')
        copies.restore(server.database, copy)
        assert connection.execute('SELECT text FROM "my notes"').fetchall() == [("Olá",)]


def test_a_copy_with_tables_that_somebody_else_made_is_restored(start_either, tmp_path):
    server = start_either()
    server.http.post("/users", json={"id": 1, "name": "Ana"})
    copy, file = copies.make(server.database).path, tmp_path / "copy.db"
    file.write_bytes(gzip.decompress(copy.read_bytes()))
    with closing(sqlite3.connect(file)) as connection:
        connection.executescript("CREATE TABLE notes (text); CREATE INDEX i ON notes (text); ANALYZE")
    copy.write_bytes(gzip.compress(file.read_bytes()))
    server.http.delete("/users/1")
    copies.restore(server.database, copy)
    assert server.http.get("/users").json() == [{"id": 1, "name": "Ana"}]


def test_the_hourly_copy_replaces_older_ones_and_touches_no_other(start_either):
    server = start_either()
    server.stop()
    by_hand = copies.make(server.database).path
    old = by_hand.with_name("users-20261124T010000Z-1-hourly.db.gz")
    also_by_hand = by_hand.with_name("users-20261124T000000Z-1.db.gz")
    for path in (old, also_by_hand):
        path.write_bytes(by_hand.read_bytes())
    copies.make_hourly(server.database, Kept(1, 1, 1))
    paths = {copy.path for copy in copies.find(server.database)}
    assert {by_hand, also_by_hand} < paths
    assert old not in paths
    assert len(paths) == 3


def test_the_server_makes_one_soon_after_its_start_if_the_last_hour_has_none(start_server, monkeypatch):
    server = start_server()
    monkeypatch.setattr(copies, "FIRST_SECONDS", 0.01)
    hourly = Hourly(server.database, Kept(24, 7, 4))
    deadline = time.monotonic() + 60
    while not copies.find(server.database):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    hourly.close()
    assert [copy.why for copy in copies.find(server.database)] == [HOURLY]
    time.sleep(0.1)
    hourly = Hourly(server.database, Kept(24, 7, 4))
    time.sleep(0.1)
    hourly.close()
    assert len(copies.find(server.database)) == 1


def test_of_several_backends_on_one_server_one_makes_the_hourly_copy(postgres, start_server):
    servers = [start_server(url) for url in [postgres.new()] * 2]
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(copies.make_hourly, server.database, Kept(24, 7, 4)) for server in servers * 2]:
            done.result()
    assert [copy.why for copy in copies.find(servers[0].database)] == [HOURLY]


def test_a_copy_that_cannot_be_made_is_logged_and_leaves_nothing(start_server, caplog):
    server = start_server()
    server.stop()
    with server.database.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * 4096)
    copies.make_hourly(server.database, Kept(24, 7, 4))
    assert f"The hourly copy was not made. The database {server.database} is damaged" in caplog.text
    assert copies.find(server.database) == []


def test_the_end_of_the_server_waits_for_no_other_copy(start_either, monkeypatch):
    server = start_either()
    monkeypatch.setattr(copies, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(copies, "CLOSE_SECONDS", 0.2)
    with copies.workplace(server.database):  # as another process does on a slow disk
        hourly = Hourly(server.database, Kept(24, 7, 4))
        time.sleep(0.2)
        start = time.monotonic()
        hourly.close()
        assert time.monotonic() - start < 2


def test_the_end_of_the_server_waits_for_the_copy_that_is_being_made(start_server, monkeypatch):
    server = start_server()
    monkeypatch.setattr(copies, "FIRST_SECONDS", 0.01)
    begun, snapshot = threading.Event(), copies.snapshot

    def slow(*arguments):
        begun.set()
        time.sleep(0.3)
        snapshot(*arguments)

    monkeypatch.setattr(copies, "snapshot", slow)
    hourly = Hourly(server.database, Kept(24, 7, 4))
    assert begun.wait(60)
    hourly.close()
    assert [copy.why for copy in copies.find(server.database)] == [HOURLY]


@pytest.fixture
def other_disk():
    """A folder that is not on the disk of the other temporary ones."""
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        yield Path(folder)


def test_the_copies_may_lie_on_another_disk(tmp_path, other_disk):
    database = tmp_path / "users.db"
    assert os.stat(other_disk).st_dev != os.stat(tmp_path).st_dev
    (tmp_path / "backups").symlink_to(other_disk)
    with closing(Database(database)) as opened:
        opened.connection.execute("INSERT INTO users (id, name, name_folded) VALUES (1, 'Ana', 'ana')")
    copy = copies.make(database)
    database.unlink()
    copies.restore(database, copy.path)
    assert ids(database) == {1}
    database.write_bytes(b"no database" * 1000)
    copies.restore(database, copy.path)
    assert ids(database) == {1}
