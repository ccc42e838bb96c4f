"""Files that cannot be opened: they stay as they are, the server stays up and recovers."""

import contextlib
import sqlite3

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
    unusable(server, check_problem, "not a SQLite database. Move it away")
    assert path.read_bytes() == content
    path.unlink()
    recovered(server)


@pytest.mark.parametrize(
    ("statements", "words"),
    [
        (["CREATE TABLE users (id)", "PRAGMA user_version = 99"], "schema version 99.*newer backend"),
        (["CREATE TABLE songs (title)"], "belongs to another program"),
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


def test_a_read_only_folder_is_named_and_the_server_recovers(start_server, check_problem, tmp_path):
    server = start_server(tmp_path / "data" / "users.db")
    server.database.parent.mkdir(mode=0o500)
    unusable(server, check_problem, "not writable")
    server.database.parent.chmod(0o700)
    recovered(server)


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


def test_the_reason_is_logged_once(start_server, tmp_path):
    server = start_server(tmp_path / "missing" / "users.db")
    for _ in range(3):
        server.http.get("/readyz")
    assert server.log.read_text().count("does not exist") == 1
