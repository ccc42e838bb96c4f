"""What can go wrong with a PostgreSQL server: each has a sentence, nothing is lost, and nobody restarts the backend."""

import contextlib
import gzip
import itertools
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import httpx
import psycopg
import pytest
from users_backend import copies, database, settings
from users_backend import migrate as migration
from users_backend import postgres as pg

ANA = {"id": 1, "name": "Ana"}


def refused(server, check_problem, words, status=503):
    """Every call has the sentence, and nothing the password."""
    path = [("GET", "/users"), ("GET", "/users/1"), ("POST", "/users")]
    answers = [server.http.request(method, path, json=ANA if method == "POST" else None) for method, path in path]
    for answer in [server.http.get("/readyz"), *answers]:
        check_problem(answer, status, words)
        assert "correct-horse" not in answer.text
    assert server.http.get("/healthz").text == "ok"
    log = server.log.read_text()
    assert "correct-horse" not in log
    assert "Traceback" not in log


def works(server):
    assert server.http.get("/readyz").text == "ok"
    response = server.http.post("/users", json=ANA)
    assert response.status_code in (201, 409), response.text
    assert server.http.get("/users").json() == [ANA]


def test_there_are_as_many_schema_versions_as_for_sqlite():
    assert len(pg.MIGRATIONS) == len(database.MIGRATIONS)


def test_a_server_that_comes_later_is_used_without_a_restart(start_server, own_postgres, check_problem):
    url = own_postgres.new()
    own_postgres.stop()
    server = start_server(url)
    refused(server, check_problem, "cannot be reached.*Connection refused.*Start it, or correct host and port")
    own_postgres.start()
    works(server)


def test_the_first_requests_after_a_restart_simply_work(start_server, own_postgres):
    server = start_server(own_postgres.new())
    works(server)
    for number in (signal.SIGINT, signal.SIGQUIT):
        own_postgres.stop(number)
        own_postgres.start()
        assert server.http.put("/users/1", json={"name": "Bia"}).status_code == 200
        own_postgres.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'users-backend'"
        )
        assert server.http.get("/users/1").json()["name"] == "Bia"
        assert server.http.put("/users/1", json={"name": "Ana"}).status_code == 200


def test_reads_and_writes_have_their_connections_before_the_first_request(start_server, own_postgres):
    start_server(own_postgres.new())
    sql = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'users-backend'"
    assert own_postgres.run(sql) == [(2,)]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (lambda server: server.url("postgres", "wrong"), "does not let this user in .*password authentication failed"),
        (lambda server: server.url("nowhere"), "nowhere does not exist on its server. Create it with createdb"),
        (lambda server: server.new("ENCODING LATIN1 TEMPLATE template0"), "is encoded in LATIN1"),
        (lambda server: f"postgresql://users:{server.PASSWORD}@127.0.0.1:9/x", "cannot be reached"),
        (lambda server: f"postgresql://users:{server.PASSWORD}@no-such-host.invalid/x", "cannot be reached"),
    ],
)
def test_what_does_not_lead_to_a_database_is_said_in_a_sentence(start_server, postgres, check_problem, url, words):
    refused(start_server(url(postgres)), check_problem, words)


def test_the_password_may_come_from_pgpassword(start_server, postgres):
    url = postgres.new()
    works(start_server(url.replace(":correct-horse@", "@"), PGPASSWORD=postgres.PASSWORD))


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("CREATE TABLE users (id integer)", "belongs to another program"),
        (
            "CREATE TABLE users_schema AS SELECT 99 AS version",
            f"schema version 99; this backend knows up to {len(database.MIGRATIONS)}. Run a newer",
        ),
    ],
)
def test_a_database_of_others_or_of_a_newer_backend_is_left_alone(start_server, postgres, check_problem, sql, words):
    url = postgres.new()
    postgres.run(sql, url.rpartition("/")[2])
    refused(start_server(url), check_problem, words)


def test_a_user_who_may_not_make_tables_is_told_so(start_server, postgres, check_problem):
    url = postgres.new()
    postgres.run(f"CREATE ROLE guest LOGIN PASSWORD '{postgres.PASSWORD}'")
    refused(start_server(url.replace("//users:", "//guest:")), check_problem, "lacks a permission .*ALTER DATABASE")


def test_too_many_connections(start_server, own_postgres, check_problem):
    url = own_postgres.new()
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                stack.enter_context(contextlib.closing(psycopg.connect(url)))
        server = start_server(url)
        refused(server, check_problem, "has too many connections.*raise max_connections")
    works(server)


def test_a_read_only_database(start_server, postgres, check_problem):
    url = postgres.new()
    name = url.rpartition("/")[2]
    postgres.run(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    server = start_server(url)
    refused(server, check_problem, "is read-only.*Nothing was saved")
    postgres.run(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    works(server)


def test_a_server_that_does_not_wait_for_its_disk_is_refused(start_server, own_postgres, check_problem):
    def set_fsync(value):
        own_postgres.run(f"ALTER SYSTEM SET fsync = {value}")
        own_postgres.run("SELECT pg_reload_conf()")
        while own_postgres.run("SHOW fsync") != [(value,)]:
            time.sleep(0.05)

    url = own_postgres.new()
    set_fsync("off")
    server = start_server(url)
    refused(server, check_problem, "runs with fsync = off.*power cut.*Set fsync = on in its postgresql.conf and reload")
    set_fsync("on")
    works(server)


def test_sessions_are_durable_whatever_the_default_is(start_server, postgres):
    url = postgres.new()
    name = url.rpartition("/")[2]
    postgres.run(f"ALTER DATABASE {name} SET synchronous_commit = off")
    with contextlib.closing(postgres_connection(url)) as connection:
        assert connection.execute("SHOW synchronous_commit").fetchone() == ("on",)
    works(start_server(url))


def postgres_connection(url):
    return pg.connect(settings.load({"DATABASE_URL": url}).database)


def test_rows_that_another_program_holds_delay_a_write_and_no_read(start_server, postgres, check_problem):
    server = start_server(postgres.new())
    works(server)
    with psycopg.connect(server.url) as other:
        other.execute("UPDATE users SET name = 'Bia' WHERE id = 1")
        with ThreadPoolExecutor() as pool:
            write = pool.submit(server.http.put, "/users/1", json={"name": "Eva"})
            time.sleep(0.2)
            assert server.http.get("/users/1").json() == ANA
            check_problem(write.result(), 503, "Another program holds users.*Nothing was saved")
        other.rollback()
    assert server.http.put("/users/1", json={"name": "Eva"}).status_code == 200


def test_a_query_that_takes_too_long_is_given_up(start_server, postgres, check_problem):
    server = start_server(postgres.new())
    works(server)
    with psycopg.connect(server.url) as other:
        other.execute("LOCK TABLE users")
        response = server.http.get("/users/1")  # waits for the lock, and no longer
        check_problem(response, 503, "Another program holds users")
    assert server.http.get("/users/1").json() == ANA
    name = server.url.rpartition("/")[2]
    # As slow as a search through many millions of users.
    postgres.run("ALTER TABLE users RENAME TO kept", name)
    postgres.run("CREATE VIEW users AS SELECT kept.* FROM kept, pg_sleep(10)", name)
    check_problem(server.http.get("/users"), 503, "did not finish within 4 seconds")


def test_a_full_disk_is_507(start_server, postgres, check_problem):
    server = start_server(postgres.new())
    works(server)
    name = server.url.rpartition("/")[2]
    # What the server says when it cannot make a file larger.
    postgres.run(
        "CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql "
        "AS $$ BEGIN RAISE 'could not extend file: No space left on device' USING ERRCODE = 'disk_full'; END $$",
        name,
    )
    postgres.run("CREATE TRIGGER t BEFORE INSERT ON users FOR EACH ROW EXECUTE FUNCTION full_disk()", name)
    full = "The disk of the server .* is full. Nothing was saved. Free some space"
    check_problem(server.http.post("/users", json={"id": 2, "name": "Bia"}), 507, full)
    assert server.http.get("/users").json() == [ANA]
    postgres.run("DROP TRIGGER t ON users", name)
    assert server.http.post("/users", json={"id": 2, "name": "Bia"}).status_code == 201


def test_backends_that_start_together_make_one_schema_and_serve_the_same_users(start_server, postgres):
    url = postgres.new()
    with ThreadPoolExecutor(4) as pool:
        servers = list(pool.map(lambda _: start_server(url), range(4)))
    assert not any("error" in server.log.read_text() for server in servers)
    ids = range(1, 41)
    for user_id in ids:
        assert servers[0].http.post("/users", json={"id": user_id, "name": "Ana"}).status_code == 201

    def change(server):
        with ThreadPoolExecutor(16) as pool:
            calls = [pool.submit(server.http.put, f"/users/{n}", json={"name": "Bia"}) for n in random.sample(ids, 40)]
            return {call.result().status_code for call in calls}

    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(change, servers)) == [{200}] * 4
    assert {user["name"] for user in servers[3].http.get("/users").json()} == {"Bia"}


def test_an_older_schema_is_copied_and_then_brought_up_by_one_of_several_backends(
    start_server, postgres, tmp_path, monkeypatch
):
    server = start_server(postgres.new())
    works(server)
    server.stop()
    steps = len(database.MIGRATIONS)
    for module in (database, copies, pg):
        as_slow_as_with_many = "ALTER TABLE users ADD COLUMN note TEXT; SELECT pg_sleep(1)"
        monkeypatch.setattr(module, "MIGRATIONS", (*module.MIGRATIONS, as_slow_as_with_many))
    opening = partial(pg.open_users, lock_seconds=0.5, statement_seconds=0.5)
    with ThreadPoolExecutor(4) as pool:
        for opened in pool.map(opening, [server.database] * 4):
            with contextlib.closing(opened):
                assert opened.execute("SELECT id, name, note FROM users").fetchall() == [(1, "Ana", None)]
    [kept] = copies.find(server.database)
    assert (kept.why, kept.users) == (copies.BEFORE_UPGRADE, 1)
    (tmp_path / "kept.db").write_bytes(gzip.decompress(kept.path.read_bytes()))
    with contextlib.closing(sqlite3.connect(tmp_path / "kept.db")) as before:
        assert before.execute("PRAGMA user_version").fetchone() == (steps,)
        assert before.execute("SELECT id, name, name_folded FROM users").fetchall() == [(1, "Ana", "ana")]


# --- COMMIT without an answer --------------------------------------------------------


class Cable:
    """A TCP proxy to a server that breaks every connection when the words have passed."""

    def __init__(self, port):
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._target = port
        self.mend()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for source, target in ((client, server), (server, client)):
                    threading.Thread(target=self._copy, args=(source, target, source is client), daemon=True).start()

    def _copy(self, source, target, forth):
        with contextlib.suppress(OSError), source, target:
            while data := source.recv(65536):
                if forth and self.break_before and self.break_before in data:
                    break
                last = forth and self.break_after and self.break_after in data
                self._mute |= bool(last)  # the server does it, and its answer comes to nobody
                if forth or not self._mute:
                    target.sendall(data)
                if last:
                    time.sleep(0.3)
                    break
            for side in (source, target):
                side.shutdown(socket.SHUT_RDWR)

    def mend(self):
        """Break no connection any more."""
        self.break_before = self.break_after = None
        self._mute = False

    def close(self):
        self._listener.close()


@pytest.fixture
def cable(postgres):
    cable = Cable(postgres.port)
    yield cable
    cable.close()


@pytest.mark.parametrize(("where", "saved"), [("break_before", False), ("break_after", True)])
def test_when_the_answer_to_commit_is_lost_nobody_claims_to_know(
    start_server, postgres, cable, check_problem, where, saved
):
    url = postgres.new().replace(f":{postgres.port}/", f":{cable.port}/") + "?sslmode=disable"
    server = start_server(url)
    works(server)
    setattr(cable, where, b"COMMIT")
    body = check_problem(
        server.http.post("/users", json={"id": 2, "name": "Bia"}), 504, "not known whether it was saved"
    )
    assert "Nothing was saved" not in body["detail"]
    cable.mend()
    assert (server.http.get("/users/2").status_code == 200) == saved


def test_a_connection_that_breaks_before_commit_is_made_again(start_server, postgres, cable):
    url = postgres.new().replace(f":{postgres.port}/", f":{cable.port}/") + "?sslmode=disable"
    server = start_server(url)
    works(server)
    cable.break_before = b"BEGIN"
    with ThreadPoolExecutor() as pool:
        write = pool.submit(server.http.put, "/users/1", json={"name": "Bia"})
        time.sleep(0.3)
        cable.mend()
        assert write.result().status_code == 200


def test_a_connection_that_cannot_leave_its_pipeline_is_given_up(postgres):
    server = settings.load({"DATABASE_URL": postgres.new()}).database
    with contextlib.closing(pg.open_users(server)) as connection:
        with pytest.raises(psycopg.OperationalError, match="cannot exit pipeline") as caught, connection.pipeline():
            # Its answer is nobody's, and comes when the end of the pipeline has been sent.
            connection.pgconn.send_query_params(b"SELECT pg_sleep(1)", [])
        assert not connection.closed
        assert connection.is_lost(caught.value)


# --- The move from SQLite ------------------------------------------------------------


def migrate(server, url):
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "users_backend.admin", "migrate", url],
        env={"PYTHONPATH": ":".join(sys.path), **server.settings},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_move_loses_no_user_and_keeps_writers_out_until_the_switch(start_server, postgres, check_problem):
    server = start_server(LOG_LEVEL="error")
    for user_id, name in ((1, "Ana"), (2, 'Zoé "Z"\\'), (2**53 - 1, "😀" * 200)):
        assert server.http.post("/users", json={"id": user_id, "name": name}).status_code == 201
    before = server.http.get("/users").json()
    content = server.database.read_bytes()
    url = postgres.new()
    with migrate(server, url) as moving:
        lines = [moving.stdout.readline() for _ in range(9)]
        assert [line.split("SHA-256")[0].strip() for line in lines[:2]] == ["3 users"] * 2
        assert lines[0].split()[3] == lines[1].split()[3]
        assert lines[-1].startswith("      DATABASE_URL: postgresql://users@127")
        assert server.http.get("/users").json() == before
        check_problem(server.http.post("/users", json={"id": 3, "name": "Eva"}), 503, "Another program holds")
        moved = start_server(url)
        assert moved.http.get("/users").json() == before
        assert moved.http.get("/users?name=zoe").json() == before[1:2]
        output = moving.communicate("\n", timeout=60)[0]
    assert moving.returncode == 0
    assert "correct-horse" not in "".join(lines) + output
    assert server.database.read_bytes() == content

    with migrate(server, url) as again:  # the same users are no reason to refuse
        assert "All users are on the server" in again.communicate("", timeout=60)[0]
    assert server.http.post("/users", json={"id": 3, "name": "Eva"}).status_code == 201
    with migrate(server, url) as late:
        assert "has 3 users already, and others than the file" in late.communicate("", timeout=60)[0]
    assert late.returncode == 1
    assert moved.http.get("/users").json() == before


def test_a_move_that_does_not_bring_all_users_is_refused(start_server, postgres, monkeypatch):
    server = start_server()
    works(server)
    target = settings.load({"DATABASE_URL": postgres.new()}).database
    monkeypatch.setattr(pg, "read_all", lambda source, target: None)
    words = r"holds 0 users .* and the file .* 1 user .*\. Use the file"
    with pytest.raises(database.StoreError, match=words), migration.moved(server.database, target):
        pass


def test_a_copy_of_one_database_is_restored_into_the_other(start_server, postgres):
    server = start_server()
    works(server)
    with contextlib.closing(sqlite3.connect(server.database)) as own:
        own.execute('CREATE TABLE "old users" (name)')
    copy = copies.make(server.database).path
    other = start_server(postgres.new())
    copies.restore(other.database, copy)
    assert other.http.get("/users").json() == [ANA]
    assert other.http.put("/users/1", json={"name": "Bia"}).status_code == 200
    back = copies.make(other.database).path
    copies.restore(server.database, back)
    assert server.http.get("/users?name=BIA").json() == [{"id": 1, "name": "Bia"}]


# --- Crashes under load --------------------------------------------------------------


def write_until_gone(server, known, serial):
    """Change users until a call fails; the id and name of the one that had no answer."""
    with httpx.Client(base_url=server.http.base_url, timeout=10, trust_env=False) as http:
        while True:
            user_id = random.choice(list(known))
            name = f"{next(serial)}"
            try:
                if known[user_id] is None:
                    response = http.post("/users", json={"id": user_id, "name": name})
                elif random.random() < 0.7:
                    response = http.put(f"/users/{user_id}", json={"name": name})
                else:
                    name = None
                    response = http.delete(f"/users/{user_id}")
            except httpx.TransportError:
                return user_id, name
            if response.status_code == 504:
                return user_id, name
            if response.status_code == 503:
                assert "Nothing was saved" in response.text
                return user_id, known[user_id]
            assert response.status_code in (200, 201, 204), response.text
            known[user_id] = name


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=[pytest.mark.slow, pytest.mark.timeout(600)])])
def test_kills_of_server_and_backend_under_load_lose_no_acknowledged_write(start_server, own_postgres, kills):
    url = own_postgres.new()
    known = [dict.fromkeys(range(first, first + 30)) for first in range(1, 16 * 30, 30)]
    serial = itertools.count()
    server = start_server(url, LOG_LEVEL="error")
    for kill in range(kills):
        with ThreadPoolExecutor(16) as pool:
            writers = [pool.submit(write_until_gone, server, own, serial) for own in known]
            time.sleep(random.uniform(0.1, 0.6))
            if kill % 3 != 1:
                own_postgres.stop(signal.SIGKILL)
            if kill % 3 != 0:
                server.stop(signal.SIGKILL)
            unanswered = dict(writer.result() for writer in writers)
        if kill % 3 != 1:
            own_postgres.start()
        if kill % 3 != 0:
            server = start_server(url, LOG_LEVEL="error")
        rows = {user["id"]: user["name"] for user in server.http.get("/users?limit=1000").json()}
        for own in known:
            for user_id, name in own.items():
                assert rows.get(user_id) in (name, unanswered.get(user_id, name))
                own[user_id] = rows.get(user_id)
        assert rows == {user_id: name for own in known for user_id, name in own.items() if name}
    assert next(serial) > kills
