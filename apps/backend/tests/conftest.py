"""Real parts only: the server is the real process, on a real port, with a real file or a real PostgreSQL."""

import itertools
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest
import users_backend
from users_backend import settings

SOURCE = Path(users_backend.__file__).parents[1]

# The background job of a shell starts with Ctrl-C ignored, and what it starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# As in its container, the server may not write where permissions forbid it; root could.
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []


class Server:
    """A backend process; `http` talks to it."""

    def __init__(self, database: Path | str, log: Path, **environment: str) -> None:
        """Start it on a SQLite file, or on the URL of a PostgreSQL database."""
        # Held until the server listens: servers that start at the same time would else
        # now and then be given the same port, and one test would ask the other's server.
        reservation = socket.socket()
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        port = reservation.getsockname()[1]
        self.url = database if isinstance(database, str) else f"sqlite:///{database}"
        self.settings = {"DATABASE_URL": self.url, "COPIES_DIR": str(log.parent / "backups")} | environment
        self.database = settings.load(self.settings).database
        self.log = log
        with reservation, log.open("a") as output:
            self.process = subprocess.Popen(
                [*UNPRIVILEGED, sys.executable, "-W", "error", "-m", "users_backend"],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(SOURCE), "HOST": "127.0.0.1", "PORT": str(port), **self.settings},
            )
            self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
            self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                assert self.http.get("/healthz").text == "ok"
                return
            except httpx.TransportError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.02)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal, to this process only, and return the exit code."""
        self.http.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(10)


class Postgres:
    """A PostgreSQL server on a port of 127.0.0.1; the user `users` has a password."""

    PASSWORD = "correct-horse"  # of this server, which only tests use

    def __init__(self, folder: Path) -> None:
        """Make a cluster and start it."""
        # As Debian installs it, or whatever else is on the PATH.
        installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda path: int(path.parts[4]))
        program = str(installed[-1] if installed else shutil.which("postgres"))
        self.folder = folder
        self.log = folder / "log"
        self._numbers = itertools.count(1)
        # It refuses to run as root, and needs a folder of its own user's.
        self._as_user = []
        if os.getuid() == 0:
            os.chown(folder, 65534, 65534)
            self._as_user = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        self._program = program
        (folder / "password").write_text(self.PASSWORD)
        (folder / "password").chmod(0o644)
        subprocess.run(
            [*self._as_user, program.replace("bin/postgres", "bin/initdb"), "--pgdata", folder / "data"]
            + ["--username=users", "--auth=scram-sha-256", "--pwfile", folder / "password"]
            + ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"],
            cwd=folder,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.start()

    def url(self, name: str, password: str = PASSWORD) -> str:
        """The URL of a database on it."""
        return f"postgresql://users:{password}@127.0.0.1:{self.port}/{name}"

    def new(self, options: str = "") -> str:
        """The URL of a new, empty database."""
        name = f"test{next(self._numbers)}"
        self.run(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def run(self, sql: str, name: str = "postgres") -> list[tuple[object, ...]]:
        """Run one statement; its rows."""
        with psycopg.connect(self.url(name), autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def start(self) -> None:
        """Start it; return when it takes connections."""
        with self.log.open("a") as log:
            self.process = subprocess.Popen(
                [*self._as_user, self._program, "-D", self.folder / "data", "-p", str(self.port)]
                + ["-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "max_connections=40"],
                cwd=self.folder,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while True:
            try:
                self.run("SELECT 1")
                return
            except psycopg.OperationalError:
                assert self.process.poll() is None, self.log.read_text()
                assert time.monotonic() < deadline, self.log.read_text()
                time.sleep(0.05)

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Send a signal to its first process; SIGINT ends all connections, and then it."""
        self.process.send_signal(number)
        self.process.wait(20)


def _postgres() -> Iterator[Postgres]:
    with tempfile.TemporaryDirectory() as folder:
        server = Postgres(Path(folder))
        yield server
        if server.process.poll() is None:
            server.stop()


# One for all tests that do not harm it, and one for a test that does.
postgres = pytest.fixture(_postgres, scope="session", name="postgres")
own_postgres = pytest.fixture(_postgres, name="own_postgres")

StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers that this test alone uses; by default on `users.db` in tmp_path."""
    servers = []

    def start(database: Path | str = tmp_path / "users.db", **environment: str) -> Server:
        servers.append(Server(database, tmp_path / "server.log", **environment))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(params=["sqlite", "postgres"])
def start_either(request: pytest.FixtureRequest, start_server: StartServer) -> StartServer:
    """The same on each of both databases; all servers of one test share theirs."""
    if request.param == "sqlite":
        return start_server
    return partial(start_server, request.getfixturevalue("postgres").new())


@pytest.fixture(scope="session", params=["sqlite", "postgres"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not harm it, on each of both databases."""
    folder = tmp_path_factory.mktemp("shared")
    database = folder / "users.db" if request.param == "sqlite" else request.getfixturevalue("postgres").new()
    server = Server(database, folder / "server.log")
    yield server
    server.stop()


@pytest.fixture
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of the shared server, which starts this test without users."""
    for user in server.http.get("/users?limit=1000").json():
        server.http.delete(f"/users/{user['id']}")
    yield server.http


CheckProblem = Callable[..., dict[str, object]]


@pytest.fixture
def check_problem() -> CheckProblem:
    """Assert that a response is an error in the one shape; return its body."""

    def check(response: httpx.Response, status: int, words: str = "") -> dict[str, object]:
        assert response.status_code == status, response.text
        assert response.headers["content-type"] == "application/problem+json"
        body: dict[str, object] = response.json()
        expected = {"type", "title", "status", "detail", "request_id"}
        assert set(body) == expected | ({"errors"} if status == 422 else set())
        assert body["type"] == "about:blank"
        assert body["status"] == status
        assert body["request_id"] == response.headers["x-request-id"]
        assert re.search(words, str(body["detail"])), body
        return body

    return check
