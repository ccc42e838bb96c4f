"""`python -m users_frontend` as a real process."""

import http.client
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from users_frontend.settings import Settings

SRC = str(Path(__file__).parents[1] / "src")


def start(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the program until it ends by itself."""
    return subprocess.run(
        [sys.executable, "-m", "users_frontend", *arguments],
        check=False,
        env={"PYTHONPATH": SRC, "SECRET_KEY": "0123456789abcdef0123456789abcdef", **environment},
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


def test_without_a_secret_key_it_does_not_start() -> None:
    ended = start(SECRET_KEY="")
    assert ended.returncode == 2
    assert ended.stderr.startswith("SECRET_KEY='' is not allowed. Use what `python3 -c ")
    assert ended.stderr.count("\n") == 1


def test_help_explains_every_setting() -> None:
    ended = start("--help")
    assert ended.returncode == 0
    for key in Settings.__dataclass_fields__:
        assert key.upper() in ended.stdout


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


def test_one_click_can_be_followed_in_both_logs(run: Any, tmp_path: Path) -> None:
    with (
        run("users_backend", DATABASE_URL=f"sqlite:///{tmp_path}/users.db") as backend,
        run("users_frontend", BACKEND_URL=backend.url) as frontend,
    ):
        subprocess.run(
            ["curl", "-s", "-H", "X-Request-ID: my-click", f"{frontend.url}/", "-F", "id=1", "-F", "name=Ana"],
            check=True,
        )
        for app, method, path, status in ((frontend, "POST", "/", 303), (backend, "POST", "/users", 201)):
            lines = [json.loads(each) for each in app.stop()[1].splitlines() if "my-click" in each]
            assert [(each["method"], each["path"], each["status"]) for each in lines] == [(method, path, status)]
            assert "Ana" not in str(lines)


def test_a_request_of_http_1_0_needs_no_host(frontend: Any) -> None:
    answer = subprocess.check_output(["curl", "-s", "-0", "-H", "Host:", f"{frontend.url}/healthz"], text=True)
    assert answer == '{"frontend_status":"ok","backend_status":"ok"}'


def test_a_form_that_was_cut_off_changes_nothing(frontend: Any, stand_in: Any) -> None:
    connection = http.client.HTTPConnection(frontend.url.removeprefix("http://"), timeout=5)
    connection.putrequest("POST", "/")
    connection.putheader("Content-Type", "application/x-www-form-urlencoded")
    connection.putheader("Content-Length", "60")
    connection.endheaders(b"id=41&name=Maria+da+Si")
    connection.sock.shutdown(socket.SHUT_WR)
    assert connection.getresponse().status == 400
    connection.close()
    assert "POST /users" not in [each["call"] for each in stand_in.calls]


def test_it_finishes_the_request_it_is_in_when_told_to_end(frontend: Any, stand_in: Any) -> None:
    stand_in.say("POST /users", 201, {"id": 1, "name": "Ana"}, pause=0.5)
    curl = subprocess.Popen(
        ["curl", "-s", "-F", "id=1", "-F", "name=Ana", f"{frontend.url}/"], stdout=subprocess.PIPE, text=True
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


@pytest.mark.parametrize("silent", [True, False], ids=["it never answers", "nobody listens"])
def test_a_crowd_on_a_stopped_backend_makes_nobody_wait_longer_than_its_timeout(run: Any, silent: bool) -> None:
    def visit(timeout: float) -> None:
        connection = http.client.HTTPConnection(frontend.url.removeprefix("http://"), timeout=timeout)
        try:
            connection.request("GET", "/")
            assert b"Create user</button>" in connection.getresponse().read()
        except TimeoutError:
            pass  # impatient: the visitor presses reload
        finally:
            connection.close()

    def impatient() -> None:
        while time.monotonic() < end:
            visit(timeout=0.3)

    with socket.create_server(("127.0.0.1", 0), backlog=256) as backend:
        address = f"http://127.0.0.1:{backend.getsockname()[1]}"
        if not silent:
            backend.close()
        # Nobody reads the log here: it must not fill its pipe.
        with run("users_frontend", BACKEND_URL=address, BACKEND_TIMEOUT="1", LOG_LEVEL="ERROR") as frontend:
            end = time.monotonic() + 2.5
            crowd = [threading.Thread(target=impatient) for _ in range(64)]
            for each in crowd:
                each.start()
            waited = []
            while time.monotonic() < end:
                began = time.monotonic()
                visit(timeout=20)
                waited.append(time.monotonic() - began)
            for each in crowd:
                each.join()
    assert max(waited) < 1 + 1, "a second is the timeout, another for this busy machine"
