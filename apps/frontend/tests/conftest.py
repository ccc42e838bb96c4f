"""Fixtures: the app against a stand-in backend, and the two real apps as processes."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from users_frontend import create_app
from users_frontend.settings import Settings

APPS = Path(__file__).parents[2]
SECRET_KEY = "only-for-tests-only-for-tests-only-for-tests"


@dataclass
class StandIn:
    """A server on a real socket that plays the backend where the real one never would.

    `say` scripts the answer to one call; each call received is in `calls`.
    """

    url: str
    answers: dict[str, Callable[[BaseHTTPRequestHandler], None]] = field(default_factory=dict)
    calls: list[dict[str, Any]] = field(default_factory=list)

    def say(
        self,
        call: str,
        status: int,
        body: object = None,
        *,
        raw: bytes | None = None,
        headers: dict[str, str] | None = None,
        pause: float = 0,
    ) -> None:
        """Answer `call`, such as "GET /users", after `pause` seconds."""
        data = json.dumps(body).encode() if raw is None else raw

        def answer(handler: BaseHTTPRequestHandler) -> None:
            time.sleep(pause)
            handler.send_response(status)
            for name, value in (headers or {}).items():
                handler.send_header(name, value)
            handler.send_header("Content-Length", str(len(data)))
            handler.end_headers()
            handler.wfile.write(data)

        self.answers[call] = answer

    def cut(self, call: str, sent: bytes = b"") -> None:
        """Close the connection in the middle of `call`, after the bytes `sent`."""

        def answer(handler: BaseHTTPRequestHandler) -> None:
            handler.wfile.write(sent)
            handler.close_connection = True

        self.answers[call] = answer


class StandInHandler(BaseHTTPRequestHandler):
    """Looks up what the test scripted for this method and path."""

    protocol_version = "HTTP/1.1"
    stand_in: StandIn

    def do_GET(self) -> None:
        """Answer a GET, and any other method."""
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        call = f"{self.command} {self.path.partition('?')[0]}"
        self.stand_in.calls.append(
            {"call": call, "path": self.path, "headers": dict(self.headers), "body": json.loads(body) if body else None}
        )
        try:
            self.stand_in.answers[call](self)
        except BrokenPipeError:  # the frontend gave up waiting: that was the test
            self.close_connection = True

    do_POST = do_PUT = do_DELETE = do_GET

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: pytest shows what matters."""


@pytest.fixture(scope="session")
def stand_in_server() -> Iterator[StandIn]:
    """A stand-in backend, one for all tests."""
    result = StandIn("")
    handler = type("Handler", (StandInHandler,), {"stand_in": result})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    result.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.005,))
    thread.start()
    yield result
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def stand_in(stand_in_server: StandIn) -> StandIn:
    """The stand-in backend with no users, ready to be scripted."""
    stand_in_server.answers.clear()
    stand_in_server.calls.clear()
    stand_in_server.say("GET /users", 200, [])
    return stand_in_server


@pytest.fixture(scope="session")
def app() -> Callable[..., Flask]:
    """A function `app(BACKEND_URL=…)` that returns the app with these settings."""
    return lambda **environment: create_app(Settings.from_environment({"SECRET_KEY": SECRET_KEY, **environment}))


@pytest.fixture(scope="session")
def stand_in_app(app: Any, stand_in_server: StandIn) -> Flask:
    """The app whose backend is the stand-in and has a second to answer."""
    made: Flask = app(BACKEND_URL=stand_in_server.url, BACKEND_TIMEOUT="1")
    return made


@pytest.fixture
def client(stand_in_app: Flask, stand_in: StandIn) -> FlaskClient:
    """A visitor of the app whose backend is the stand-in."""
    return stand_in_app.test_client()


@pytest.fixture
def lonely_client(app: Any) -> FlaskClient:
    """A client of the app when nothing listens where the backend should be."""
    client: FlaskClient = app(BACKEND_URL=f"http://127.0.0.1:{find_port()}").test_client()
    return client


def find_port() -> int:
    """Return a TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
def page_text() -> Callable[[str], str]:
    """A function that returns the text of a page: tags dropped, white space joined."""
    return lambda html: " ".join(re.sub(r"<[^>]+>", "", html).split())


@dataclass
class App:
    """One of the two apps as a real process."""

    url: str
    process: subprocess.Popen[str]

    def stop(self) -> tuple[int, str]:
        """Send SIGTERM; return the exit code and all that it wrote."""
        self.process.send_signal(signal.SIGTERM)
        output, _ = self.process.communicate(timeout=15)
        return self.process.returncode, output


@pytest.fixture(scope="session")
def run() -> Callable[..., Any]:
    """A context manager `run("users_backend", PORT=…)`: the app, answering."""

    @contextmanager
    def start(package: str, **environment: str) -> Iterator[App]:
        app = package.removeprefix("users_")
        port = environment.setdefault("PORT", str(find_port()))
        process = subprocess.Popen(
            [sys.executable, "-m", package],
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(APPS / app / "src"),
                "HOST": "127.0.0.1",
                "SECRET_KEY": SECRET_KEY,
                **environment,
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        url = f"http://127.0.0.1:{port}"
        try:
            _wait_for(f"{url}/healthz", process)
            yield App(url, process)
        finally:
            process.kill()
            process.communicate()

    return start


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    for _ in range(1200):
        try:
            direct.open(url, timeout=5).close()
            return
        except OSError:
            if process.poll() is not None:
                pytest.fail(f"it ended at once: {process.communicate()[0]}")
            time.sleep(0.05)
    pytest.fail(f"nothing answers at {url}")
