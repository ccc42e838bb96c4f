"""Real parts only: the server is the real process, on a real port, with a real file."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
import users_backend

SOURCE = Path(users_backend.__file__).parents[1]

# As in its container, the server may not write where permissions forbid it; root could.
UNPRIVILEGED = ["setpriv", "--bounding-set=-dac_override"] if os.getuid() == 0 else []


class Server:
    """A backend process; `http` talks to it."""

    def __init__(self, database: Path, log: Path, **environment: str) -> None:
        # Held until the server listens: servers that start at the same time would else
        # now and then be given the same port, and one test would ask the other's server.
        reservation = socket.socket()
        reservation.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reservation.bind(("127.0.0.1", 0))
        port = reservation.getsockname()[1]
        self.database = database
        self.log = log
        with reservation, log.open("a") as output:
            self.process = subprocess.Popen(
                [*UNPRIVILEGED, sys.executable, "-W", "error", "-m", "users_backend"],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(SOURCE),
                    "DATABASE_URL": f"sqlite:///{database}",
                    "HOST": "127.0.0.1",
                    "PORT": str(port),
                    **environment,
                },
            )
            self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=10, trust_env=False)
            self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
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


StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Start servers that this test alone uses; by default on `users.db` in tmp_path."""
    servers = []

    def start(database: Path = tmp_path / "users.db", **environment: str) -> Server:
        servers.append(Server(database, tmp_path / "server.log", **environment))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for all tests that do not harm it."""
    folder = tmp_path_factory.mktemp("shared")
    server = Server(folder / "users.db", folder / "server.log")
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
