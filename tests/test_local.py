"""`make local`: both real apps on this machine, and what it says when they cannot run."""

import os
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from machine import free_port

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def ports() -> dict[str, str]:
    """Two free ports, as make local takes them."""
    return {"BACKEND_PORT": str(free_port()), "FRONTEND_PORT": str(free_port())}


@contextmanager
def make_local(**environment: str) -> Iterator[subprocess.Popen[str]]:
    """The program of `make local`; it is stopped at the end whatever happens."""
    with subprocess.Popen(
        [sys.executable, "tools/local.py"],
        cwd=ROOT,
        env=os.environ | environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()


def refusal(**environment: str) -> str:
    """What it says before it ends with status 1."""
    with make_local(**environment) as process:
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in output
    return output


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_user_of_the_form_is_in_the_file_and_a_signal_stops_both(
    ports: dict[str, str], tmp_path: Path, signal_number: signal.Signals
) -> None:
    with make_local(**ports, DATA_DIR=str(tmp_path / "new")) as process:
        assert process.stdout
        for line in process.stdout:
            if "Ctrl-C stops both" in line:
                break
        form = urllib.parse.urlencode({"id": 1, "name": "Ana"}).encode()
        browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(), urllib.request.ProxyHandler({}))
        with browser.open(f"http://127.0.0.1:{ports['FRONTEND_PORT']}/", form, timeout=30) as response:
            assert "<bdi>Ana</bdi>, was created" in response.read().decode()
        process.send_signal(signal_number)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)  # of somebody in a hurry
        process.communicate(timeout=30)
    assert process.returncode == 0
    for port in ports.values():
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(port))) != 0, "an app outlived make local"
    database = sqlite3.connect(tmp_path / "new/users.db")
    assert database.execute("SELECT id, name FROM users").fetchall() == [(1, "Ana")]
    database.close()


def test_a_busy_port_is_named_with_the_variable_that_changes_it(ports: dict[str, str], tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", int(ports["FRONTEND_PORT"]))):
        message = refusal(**ports, DATA_DIR=str(tmp_path))
    assert f"Port {ports['FRONTEND_PORT']} of this machine cannot be used (Address already in use)" in message
    assert f"(process {os.getpid()})" in message
    assert "FRONTEND_PORT=" in message


@pytest.mark.parametrize("value", ["http", "0", "65536", "-1", "٣"])
def test_a_bad_port_is_refused(value: str, tmp_path: Path) -> None:
    message = refusal(BACKEND_PORT=value, DATA_DIR=str(tmp_path))
    assert f"BACKEND_PORT is {value!r}; it must be a port number from 1 to 65535." in message


def test_a_data_folder_that_cannot_be_made_is_refused(ports: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    message = refusal(**ports, DATA_DIR=str(tmp_path / "file/data"))
    assert "cannot be made (Not a directory). Choose another." in message


def test_the_environment_is_made_again_where_an_upgrade_has_taken_its_python(tmp_path: Path) -> None:
    for name in ("Makefile", "apps", "tools"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = tmp_path / ".venv/bin/python"
    (tmp_path / ".venv/apps").touch()

    def make() -> str:
        return subprocess.check_output(["make", "--dry-run", ".venv/apps"], cwd=tmp_path, text=True)

    python.symlink_to("/bin/true")  # a Python that has pip
    assert "is up to date" in make()
    for gone in ("/bin/false", tmp_path / "nothing"):
        python.unlink()
        python.symlink_to(gone)
        assert "tools/venv" in make()


def test_the_environment_is_made_whatever_the_folder_is_called_and_what_fails_is_told(tmp_path: Path) -> None:
    folder = tmp_path / "C# $x 'João"
    (folder / "tools").mkdir(parents=True)
    shutil.copy(ROOT / "tools/venv", folder / "tools")
    (folder / "none.txt").touch()
    (folder / "one.txt").write_text(f"nobody-has-this==1 --hash=sha256:{64 * '0'}\n")
    environment = os.environ | {"PIP_NO_INDEX": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}

    def install(requirements: str) -> subprocess.CompletedProcess[str]:
        command = ["tools/venv", requirements]
        return subprocess.run(command, check=False, cwd=folder, env=environment, text=True, capture_output=True)

    made = install("none.txt")
    assert made.returncode == 0, made.stderr
    assert (folder / ".venv/bin/python").exists()
    failed = install("one.txt")
    assert failed.returncode == 1
    assert "The Python packages could not be installed. Check the network; behind a company proxy" in failed.stderr
