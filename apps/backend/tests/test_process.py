"""The process: arguments, settings, signals, crashes, a disk that refuses."""

import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection
from pathlib import Path

import httpx
import pytest
from psycopg.conninfo import conninfo_to_dict
from users_backend import settings


def run(*arguments, **environment):
    """Run the program to its end, for the cases in which it does not serve."""
    path = os.pathsep.join(sys.path)
    return subprocess.run(
        [sys.executable, "-m", "users_backend", *arguments],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_explains_every_setting():
    result = run("--help")
    assert result.returncode == 0
    for key, default in settings.DEFAULTS.items():
        assert key in result.stdout
        assert settings.ALLOWED[key] in result.stdout
        assert default in result.stdout


def test_an_unknown_argument_is_refused():
    result = run("--prot=80")
    assert result.returncode == 2
    assert "unrecognized arguments: --prot=80" in result.stderr


def test_a_bad_setting_is_refused_in_one_line():
    result = run(PORT="eighty")
    assert result.returncode == 2
    assert result.stderr == ("PORT='eighty' is not allowed. Use a whole number from 1 to 65535.\n")


def test_a_busy_port_is_refused_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        result = run(HOST="127.0.0.1", PORT=port)
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1
    assert f"PORT={port}: Address already in use" in result.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("DATABASE_URL", ""),
        ("DATABASE_URL", "users.db"),
        ("DATABASE_URL", "postgresql://db/users"),
        ("DATABASE_URL", "postgresql://db:5432/users"),
        ("DATABASE_URL", "postgresql:///users"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "sqlite:///"),
        ("DATABASE_URL", "sqlite:///:memory:"),
        ("DATABASE_URL", "sqlite:////data/"),
        ("DATABASE_URL", "sqlite:////data/users.db?mode=ro"),
        ("HOST", ""),
        ("HOST", "http://localhost"),
        ("PORT", ""),
        ("PORT", "0"),
        ("PORT", "65536"),
        ("PORT", "-1"),
        ("PORT", "80.0"),
        ("PORT", "٨٠"),
        ("COPIES_DIR", ""),
        ("COPIES_DIR", "backups"),
        ("LOG_LEVEL", "INFO"),
        ("LOG_LEVEL", "verbose"),
    ],
)
def test_a_bad_value_names_the_key_the_value_and_what_is_allowed(key, value):
    with pytest.raises(settings.SettingsError) as caught:
        settings.load({key: value})
    assert str(caught.value) == f"{key}={value!r} is not allowed. Use {settings.ALLOWED[key]}."


@pytest.mark.parametrize(
    "value",
    [
        "postgresql://ana:s3cret/x@db/users",
        "postgresql://ana:s3cret@db.example",
        "postgresql://ana:s3cret%zz@db.example/users",
        "postgresql://ana:s3cret@db.example:70000/users",
        "postgresql://ana:s3cret@db.example/users?host=other",
        "postgresql://ana@db/users?password=s3cret",
        "postgres//ana:s3cret@db.example/users",
        "mysql://ana:s3cret@db.example/users",
    ],
)
def test_a_bad_url_is_refused_without_its_password(value):
    with pytest.raises(
        settings.SettingsError, match="is not allowed. Use sqlite.* or postgresql://user@host"
    ) as caught:
        settings.load({"DATABASE_URL": value})
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    ("value", "shown", "parameters"),
    [
        (
            "postgresql://ana@db/users",
            "postgresql://ana@db:5432/users",
            {"user": "ana", "host": "db", "dbname": "users"},
        ),
        (
            f"postgres://ana:{'p%40s%3As'}@[::1]:5433/u%20s?sslmode=require",
            "postgresql://ana@[::1]:5433/u%20s",
            {"user": "ana", "password": "p@s:s", "host": "::1", "port": "5433", "dbname": "u s", "sslmode": "require"},
        ),
        (
            "postgresql://ana@%2Frun%2Fpostgresql/users",
            "postgresql://ana@%2Frun%2Fpostgresql:5432/users",
            {"user": "ana", "host": "/run/postgresql", "dbname": "users"},
        ),
    ],
)
def test_the_url_of_a_server_is_read_as_libpq_does_and_shown_without_its_password(value, shown, parameters):
    server = settings.load({"DATABASE_URL": value, "COPIES_DIR": "/copies"}).database
    assert (str(server), str(server.copies), dict(server.parameters)) == (shown, "/copies", parameters)
    assert conninfo_to_dict(value) == parameters
    assert "p@s" not in repr(server)


def test_the_defaults_are_allowed():
    loaded = settings.load({})
    assert str(loaded.database) == "/data/users.db"
    assert (loaded.host, loaded.port, loaded.log_level) == ("0.0.0.0", 8080, "info")


def test_three_slashes_are_a_relative_path_and_four_an_absolute_one():
    assert str(settings.load({"DATABASE_URL": "sqlite:///a/b.db"}).database) == "a/b.db"
    assert str(settings.load({"DATABASE_URL": "sqlite:////a/b.db"}).database) == "/a/b.db"
    assert str(settings.load({"DATABASE_URL": "sqlite:////C#/é %20/b.db"}).database) == "/C#/é %20/b.db"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_is_a_success_without_a_traceback(start_server, number):
    server = start_server()
    assert server.stop(number) == 0
    assert "Traceback" not in server.log.read_text()


def write_until_gone(server, first, acknowledged):
    """Add users until the server is gone; put each id that was acknowledged in the list."""
    for user_id in range(first, first + 100_000):
        try:
            response = server.http.post("/users", json={"id": user_id, "name": "Ana"})
        except httpx.TransportError:
            return
        assert response.status_code == 201
        acknowledged.append(user_id)


@pytest.mark.slow
def test_who_pauses_for_a_while_still_has_the_connection(start_server):
    server = start_server()
    with closing(HTTPConnection(server.http.base_url.host, server.http.base_url.port)) as client:
        client.request("GET", "/healthz")
        client.getresponse().read()
        connection = client.sock
        time.sleep(7)  # uvicorn's own limit is 5
        client.request("GET", "/healthz")
        assert client.getresponse().read() == b"ok"
        assert client.sock is connection


def test_a_server_that_is_told_to_stop_answers_what_it_has_accepted(start_server):
    server = start_server()
    acknowledged = []
    with ThreadPoolExecutor(16) as pool:
        writers = [pool.submit(write_until_gone, server, 1 + n * 100_000, acknowledged) for n in range(16)]
        while len(acknowledged) < 300 and not any(writer.done() for writer in writers):
            time.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
    for writer in writers:
        writer.result()

    kept, url = set(), "/users?limit=1000"
    again = start_server()
    while url:
        response = again.http.get(url)
        kept |= {user["id"] for user in response.json()}
        url = response.links.get("next", {}).get("url")
    assert len(acknowledged) >= 300
    assert kept == set(acknowledged)


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_a_disk_that_refuses_fails_the_write_and_nothing_else(start_server, check_problem):
    server = start_server(LOG_LEVEL="error")
    # Room for the journal, and for a few pages more in the database.
    size = server.database.stat().st_size + 8 * 1024
    unlimited = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size, unlimited[1]))
    statuses = []
    for user_id in range(1, 60):
        response = server.http.post("/users", json={"id": user_id, "name": "x" * 200})
        statuses.append(response.status_code)
    assert set(statuses) == {201, 503}
    check_problem(response, 503, "cannot be used.*Nothing was saved")
    assert len(server.http.get("/users").json()) == statuses.count(201)

    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, unlimited)
    assert server.http.post("/users", json={"id": 100, "name": "Ana"}).status_code == 201


def test_the_image_asks_for_its_health_past_any_proxy(start_server):
    server = start_server()
    dockerfile = (Path(__file__).parents[1] / "Dockerfile").read_text()
    command = json.loads(re.search(r"^HEALTHCHECK .*\\\n +CMD (.*)", dockerfile, re.MULTILINE)[1])
    environment = {"PORT": str(server.http.base_url.port), "http_proxy": "http://127.0.0.1:9"}

    def healthy():
        return not subprocess.call([sys.executable, *command[1:]], env=environment, stderr=subprocess.DEVNULL)

    assert healthy()
    server.stop()
    assert not healthy()


def test_each_request_is_one_json_line_without_names(start_server):
    server = start_server()
    server.http.post("/users", json={"id": 1, "name": "Secret"}, headers={"x-request-id": "my-1"})
    server.http.get("/users?name=secret")
    server.http.get("/" + "x" * 1000)
    server.stop()
    text = server.log.read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    [post] = [line for line in lines if line.get("method") == "POST"]
    assert post.pop("ms") > 0
    assert post.pop("time").endswith("+00:00")
    assert post == {
        "level": "info",
        "message": "request",
        "method": "POST",
        "path": "/users",
        "status": 201,
        "request_id": "my-1",
    }
    assert "secret" not in text.lower()
    assert max(len(line.get("path", "")) for line in lines) == 200
