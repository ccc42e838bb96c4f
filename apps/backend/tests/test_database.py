"""Files that cannot be opened: they stay as they are, the server stays up and recovers."""

import contextlib
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from users_backend.database import MIGRATIONS

ANA = {"id": 1, "name": "Ana"}


def execute(path, *statements):
    with contextlib.closing(sqlite3.connect(path)) as connection:
        answers = [connection.execute(statement).fetchall() for statement in statements]
        connection.commit()
    return answers[-1]


def unusable(server, check_problem, words):
    """All that needs the database answers 503 with a reason; the rest is well."""
    assert server.http.get("/healthz").text == "ok"
    assert server.http.get("/docs").status_code == 200
    for method, path in [
        ("GET", "/readyz"),
        ("GET", "/users"),
        ("GET", "/users/1"),
        ("POST", "/users"),
        ("PUT", "/users/1"),
        ("DELETE", "/users/1"),
    ]:
        json = {"POST": ANA, "PUT": {"name": "Bia"}}.get(method)
        response = server.http.request(method, path, json=json)
        problem = check_problem(response, 503, words)
        assert str(server.database) in problem["detail"]
        assert response.headers["retry-after"] == "1"


def recovered(server):
    assert server.http.get("/readyz").status_code == 200
    assert server.http.post("/users", json=ANA).status_code == 201
    assert execute(server.database, "SELECT id, name FROM users") == [(1, "Ana")]


def test_a_new_file_is_strict_durable_and_readable_by_other_tools(start_server):
    server = start_server()
    recovered(server)
    [[sql]] = execute(server.database, "SELECT sql FROM sqlite_schema WHERE name = 'users'")
    assert sql.strip().endswith("STRICT")
    assert execute(server.database, "PRAGMA user_version") == [(len(MIGRATIONS),)]
    assert execute(server.database, "PRAGMA journal_mode") == [("delete",)]  # so: not WAL
    assert (server.database.parent / "users.db-journal").stat().st_size == 0


def test_a_missing_folder_is_not_created_and_the_server_recovers(start_server, check_problem, tmp_path):
    server = start_server(tmp_path / "missing" / "users.db")
    unusable(server, check_problem, "does not exist. Create or mount it")
    assert not server.database.parent.exists()
    server.database.parent.mkdir()
    recovered(server)


@pytest.mark.parametrize("content", [b"hello", b"not a database, but long enough\n" * 100])
def test_a_file_that_is_no_database_is_untouched(start_server, check_problem, tmp_path, content):
    path = tmp_path / "users.db"
    path.write_bytes(content)
    server = start_server()
    unusable(server, check_problem, "not a SQLite database. `make restore` lists")
    assert path.read_bytes() == content
    path.unlink()
    recovered(server)


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["CREATE TABLE users (id)", "PRAGMA user_version = 99"], "schema version 99.*newer backend"),
        (["CREATE TABLE songs (title)"], "belongs to another program"),
        (["CREATE TABLE songs (title)", "PRAGMA user_version = 1"], "belongs to another program"),
        (["CREATE TABLE users (id, email)", "PRAGMA user_version = 1"], "belongs to another program"),
    ],
)
def test_a_newer_or_foreign_database_is_untouched(start_server, check_problem, tmp_path, statements, words):
    path = tmp_path / "users.db"
    # In WAL mode, so that even a change of the journal mode would show.
    execute(path, "PRAGMA journal_mode = wal", *statements)
    before = path.read_bytes()
    server = start_server()
    unusable(server, check_problem, words)
    assert path.read_bytes() == before


def test_a_file_in_wal_mode_is_brought_back_to_a_rollback_journal(start_server, tmp_path):
    server = start_server()
    server.stop()
    execute(tmp_path / "users.db", "PRAGMA journal_mode = wal")
    recovered(start_server())
    assert execute(tmp_path / "users.db", "PRAGMA journal_mode") == [("delete",)]


def test_a_second_server_on_the_same_file_refuses_and_takes_over(start_server, check_problem):
    first, second = start_server(), start_server()
    unusable(second, check_problem, "Another backend process uses")
    assert first.http.get("/readyz").status_code == 200
    first.stop()
    recovered(second)


def test_a_server_starts_beside_a_program_that_reads(start_server):
    recovered(server := start_server())
    server.stop()
    with contextlib.closing(sqlite3.connect(server.database, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM users").fetchall()
        assert start_server().http.get("/users").json() == [ANA]


def test_a_read_only_folder_is_named_and_the_server_recovers(start_server, check_problem, tmp_path):
    server = start_server(tmp_path / "data" / "users.db")
    server.database.parent.mkdir(mode=0o500)
    unusable(server, check_problem, "not writable")
    server.database.parent.chmod(0o700)
    recovered(server)


def test_a_read_only_file_is_named_and_the_server_recovers(start_server, check_problem):
    server = start_server()
    server.stop()
    server.database.chmod(0o400)
    second = start_server()
    unusable(second, check_problem, "is read-only")
    second.database.chmod(0o600)
    recovered(second)


def test_a_damaged_file_is_reported_and_untouched(start_server, check_problem, tmp_path):
    recovered(first := start_server())
    first.stop()
    path = tmp_path / "users.db"
    with path.open("r+b") as file:
        file.seek(4096)  # the second page: the users themselves
        file.write(b"\xff" * 4096)
    before = path.read_bytes()
    unusable(start_server(), check_problem, "is damaged.*left as it is")
    assert path.read_bytes() == before


CHANGED = "Another program has written into the database"


def full_of_users(server):
    """Users that fill several pages."""
    users = [(user_id, "x" * 200, "x" * 200) for user_id in range(1, 1001)]
    with contextlib.closing(sqlite3.connect(server.database)) as connection, connection:
        connection.executemany("INSERT INTO users (id, name, name_folded) VALUES (?, ?, ?)", users)
    assert server.http.post("/users", json={"id": 2000, "name": "Ana"}).status_code == 201


def test_what_another_program_saves_is_checked_and_said_and_the_server_goes_on(start_server):
    server = start_server()
    recovered(server)
    assert CHANGED not in server.log.read_text()
    for user_id in (10, 20):
        execute(server.database, f"INSERT INTO users (id, name, name_folded) VALUES ({user_id}, 'Eva', 'eva')")
        assert server.http.post("/users", json={"id": user_id + 1, "name": "Bia"}).status_code == 201
    assert [user["id"] for user in server.http.get("/users").json()] == [1, 10, 11, 20, 21]
    assert server.log.read_text().count(CHANGED) == 2


def test_what_another_program_saves_while_a_write_waits_for_it_is_noticed(start_server):
    server = start_server()
    with contextlib.closing(sqlite3.connect(server.database, isolation_level=None)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        connection.execute("INSERT INTO users (id, name, name_folded) VALUES (10, 'Eva', 'eva')")
        with ThreadPoolExecutor() as pool:
            answer = pool.submit(server.http.post, "/users", json=ANA)
            time.sleep(0.3)
            connection.execute("COMMIT")
    assert answer.result().status_code == 201
    assert server.log.read_text().count(CHANGED) == 1


def test_what_another_program_damages_under_the_server_is_not_written_on(start_server, check_problem):
    server = start_server()
    full_of_users(server)
    with server.database.open("r+b") as file:
        file.seek(24)
        counter = int.from_bytes(file.read(4), "big")
        file.seek(24)
        file.write((counter + 1).to_bytes(4, "big"))
        file.seek(10 * 4096)  # a page in the middle, that a new user at the end would not meet
        file.write(b"\xff" * 4096)
    before = server.database.read_bytes()
    for _ in range(2):
        response = server.http.post("/users", json={"id": 2001, "name": "Bia"})
        check_problem(response, 503, "is damaged.*left as it is.*make restore")
    unusable(server, check_problem, "is damaged")
    assert server.database.read_bytes() == before


def test_a_file_that_another_program_switches_to_wal_mode_is_switched_back_before_a_write(start_server):
    server = start_server()
    recovered(server)
    with contextlib.closing(sqlite3.connect(server.database)) as connection:
        assert connection.execute("PRAGMA journal_mode = wal").fetchone() == ("wal",)
        response = server.http.post("/users", json={"id": 2, "name": "Bia"})
        assert "keeps journal_mode at 'wal'" in response.json()["detail"]
    assert server.http.post("/users", json={"id": 2, "name": "Bia"}).status_code == 201
    assert execute(server.database, "PRAGMA journal_mode") == [("delete",)]


@pytest.mark.parametrize("size", [5 * 4096, 100])
def test_what_another_program_cuts_off_under_the_server_is_not_written_on(start_server, check_problem, size):
    server = start_server()
    full_of_users(server)
    os.truncate(server.database, size)
    before = server.database.read_bytes()
    unusable(server, check_problem, "is damaged|is not a SQLite database")
    assert server.database.read_bytes() == before


def test_the_reason_is_logged_once(start_server, tmp_path):
    server = start_server(tmp_path / "missing" / "users.db")
    for _ in range(3):
        server.http.get("/readyz")
    assert server.log.read_text().count("does not exist") == 1
