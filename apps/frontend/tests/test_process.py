"""`python -m users_frontend` as a real process."""

import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SRC = str(Path(__file__).parents[1] / "src")


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "users_frontend", *arguments],
        check=False,
        env={"PYTHONPATH": SRC, **environment},
        capture_output=True,
        text=True,
        timeout=20,
    )


@pytest.fixture
def frontend(run: Any, stand_in: Any) -> Iterator[Any]:
    """The real process in front of the stand-in backend."""
    stand_in.say("GET /healthz", 200, raw=b"ok")
    with run("users_frontend", BACKEND_URL=stand_in.url) as app:
        yield app


def test_a_bad_setting_ends_it_with_2_and_one_line() -> None:
    ended = start(PORT="http")
    assert ended.returncode == 2
    assert ended.stderr == "PORT='http' is not allowed. Use a whole number from 1 to 65535.\n"


def test_help_explains_every_setting() -> None:
    ended = start("--help")
    assert ended.returncode == 0
    for key in (
        "BACKEND_URL",
        "BACKEND_TIMEOUT",
        "HOST",
        "PORT",
        "THREADS",
        "LOG_LEVEL",
    ):
        assert key in ended.stdout


def test_it_serves_logs_json_and_ends_at_sigterm(frontend: Any) -> None:
    connection = http.client.HTTPConnection(frontend.url.removeprefix("http://"))
    connection.request("GET", "/", headers={"X-Request-ID": "mine"})
    answer = connection.getresponse()
    assert answer.status == 200
    assert b"Create user</button>" in answer.read()
    connection.close()

    code, output = frontend.stop()
    assert code == 0
    lines = [json.loads(each) for each in output.splitlines() if each.startswith("{")]
    (line,) = [each for each in lines if each["path"] == "/"]
    assert line["status"] == 200
    assert line["request_id"] == "mine"
    assert "Traceback" not in output


def test_it_finishes_the_request_it_is_in_when_told_to_end(frontend: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"}, pause=0.5)
    curl = subprocess.Popen(
        ["curl", "-s", "-F", "id=1", "-F", "name=Ana", f"{frontend.url}/"],
        stdout=subprocess.PIPE,
        text=True,
    )
    while not any(each["call"] == "POST /users" for each in stand_in.calls):
        assert curl.poll() is None
    code, _ = frontend.stop()
    assert code == 0
    assert curl.communicate(timeout=5)[0] == "User 1, Ana, was created.\n"


def test_sixteen_visitors_of_a_slow_backend_wait_together(frontend: Any, stand_in: Any) -> None:
    stand_in.say("GET /users", 200, [], pause=0.5)

    def visit() -> None:
        connection = http.client.HTTPConnection(frontend.url.removeprefix("http://"))
        connection.request("GET", "/")
        statuses.append(connection.getresponse().status)
        connection.close()

    statuses: list[int] = []
    threads = [threading.Thread(target=visit) for _ in range(16)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statuses == [200] * 16
    assert time.monotonic() - began < 4, "one after the other it would take 8 seconds"
