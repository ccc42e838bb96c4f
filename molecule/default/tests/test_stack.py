"""The running stack, seen from both sides: inside the VM over SSH, and from the laptop.

Environment variables: those of conftest.py, and SETTINGS_LOCAL, the settings of the VM.
"""

import json
import os
import random
import re
import sqlite3
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = yaml.safe_load((ROOT / os.environ["SETTINGS_LOCAL"]).read_text())
PORTS = {name: service["host_port"] for name, service in SETTINGS["services"].items()}
DATABASE = ROOT / SETTINGS["data_dir"] / "users.db"

pytestmark = pytest.mark.timeout(600)  # seconds; software emulation is slow


def laptop(service: str, path: str, data: dict[str, str] | str | None = None) -> tuple[int, str]:
    """Ask a service from the laptop's side. Returns status and text, of errors too."""
    body = urllib.parse.urlencode(data) if isinstance(data, dict) else data
    # The notice after a redirect travels in a cookie.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPCookieProcessor())
    try:
        request = urllib.request.Request(f"http://127.0.0.1:{PORTS[service]}{path}", body and body.encode())
        with opener.open(request, timeout=30) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


# --- Inside the VM -------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["/vagrant", "/data"])
def test_the_folders_are_shared(vm: Any, folder: str) -> None:
    assert vm.mount_point(folder).exists
    assert vm.mount_point(folder).filesystem in ("virtiofs", "vboxsf")


def test_the_data_belongs_to_the_user_of_the_containers(vm: Any) -> None:
    assert vm.file("/data/users.db").uid == 1000


def test_the_secret_key_is_kept_where_only_root_reads_it(vm: Any) -> None:
    file = vm.file("/etc/users/frontend/secret.SECRET_KEY")
    assert (file.mode, file.user) == (0o600, "root")
    assert re.fullmatch(r"SECRET_KEY=[0-9a-fA-F]{64}\n", file.content_string)
    assert file.content_string.strip() in vm.check_output("docker exec users-frontend env").splitlines()


def test_nothing_failed(vm: Any) -> None:
    assert vm.check_output("systemctl --failed --quiet --plain --no-legend") == ""


# --- From the laptop -----------------------------------------------------------------


def test_a_user_of_the_form_is_in_the_api_and_in_the_file_on_the_laptop() -> None:
    user_id, name = random.randrange(2, 2**53), "Çelma 漢字 🙂"
    status, page = laptop("frontend", "/", {"id": str(user_id), "name": name})
    assert status == 200  # after the redirect
    assert f"<bdi>{name}</bdi>, was created" in page

    status, user = laptop("backend", f"/users/{user_id}")
    assert (status, json.loads(user)) == (200, {"id": user_id, "name": name})
    with sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True) as database:
        assert database.execute("SELECT name FROM users WHERE id = ?", [user_id]).fetchone() == (name,)


def test_a_duplicate_is_refused_on_both_urls() -> None:
    user_id = random.randrange(2, 2**53)
    assert laptop("backend", "/users", json.dumps({"id": user_id, "name": "Ana"}))[0] == 201
    assert laptop("backend", "/users", json.dumps({"id": user_id, "name": "Bia"}))[0] == 409
    status, page = laptop("frontend", "/", {"id": str(user_id), "name": "Bia"})
    assert status == 409
    assert 'value="Bia"' in page


def wait_until(what: str, is_true: Callable[[], bool]) -> None:
    """Wait for two minutes at most: software emulation is slow."""
    deadline = time.monotonic() + 120
    while not is_true():
        if time.monotonic() > deadline:
            pytest.fail(f"after two minutes still not true: {what}")
        time.sleep(0.5)


def frontend(path: str) -> str:
    """What it answers; nothing while it starts again, as it does a moment after each of its files was saved."""
    try:
        return laptop("frontend", path)[1]
    except OSError:
        return ""


def both_are_well() -> bool:
    return frontend("/healthz").count('"ok"') == 2


def test_a_stopped_backend_is_a_page_and_comes_back(vm: Any) -> None:
    vm.check_output("systemctl stop users-backend")
    try:
        status, page = laptop("frontend", "/", {"id": "7", "name": "Ana Só"})
        assert status in (502, 503, 504)
        assert 'value="Ana Só"' in page
        assert "Traceback" not in page
    finally:
        vm.check_output("systemctl start users-backend")
    wait_until("both are well", both_are_well)


def test_without_the_share_the_backend_says_why_writes_nothing_and_waits_for_it(vm: Any) -> None:
    vm.check_output("systemctl stop users-backend && umount /data && systemctl mask --runtime --now data.mount")
    try:
        assert vm.run("systemctl start users-backend").rc != 0
        time.sleep(5)  # it is tried again meanwhile
        # Between two starts it shows no line of the log.
        status = "systemctl status --no-pager --full --lines 0 users-backend"
        message = 'Status: "/data is not shared with the laptop, so backend does not start.'
        wait_until("the status says why", lambda: message in vm.run(status).stdout)
        assert vm.check_output("ls -A /data") == ""
        assert laptop("frontend", "/healthz")[1].count('"nok"') == 1
    finally:
        vm.check_output("systemctl unmask --runtime data.mount")
    # Nobody starts it: it finds the share by itself.
    wait_until("both are well", both_are_well)
    assert vm.mount_point("/data").exists


# --- Live code -----------------------------------------------------------------------


@contextmanager
def appended(file: Path, text: str) -> Iterator[None]:
    """A file of the project with some text more, as if somebody had typed it."""
    before = file.read_text()
    file.write_text(before + text)
    try:
        yield
    finally:
        file.write_text(before)


@pytest.mark.parametrize(("file", "path"), [("templates/base.html", "/"), ("static/style.css", "/static/style.css")])
def test_what_is_saved_shows_in_the_browser(file: str, path: str) -> None:
    typed = "<!-- typed a moment ago -->"  # a comment in both languages
    with appended(ROOT / "apps/frontend/src/users_frontend" / file, typed):
        wait_until("the new one is there", lambda: typed in frontend(path))
    wait_until("the old one is back", lambda: bool(old := frontend(path)) and typed not in old)


def test_a_syntax_error_is_in_the_log_and_heals_when_it_is_mended(vm: Any) -> None:
    with appended(ROOT / "apps/backend/src/users_backend/users.py", "\ndef oops(:\n"):
        wait_until("the backend is gone", lambda: '"nok"' in frontend("/healthz"))
        log = "journalctl --unit users-backend --lines 50 --output cat --no-pager"
        wait_until("the log says why", lambda: "SyntaxError" in vm.check_output(log))
    wait_until("both are well", both_are_well)
