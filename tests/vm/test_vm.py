"""The two ways to a running stack, each on a real VM that is destroyed afterwards.

Both VMs use one data folder, one after the other: what the first one saved must be there in the second. The tests
are steps on the same VM, in this order.
"""

import collections
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect, sync_playwright
from tutorial import follow

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/test"
DATABASE = WORK / "data/users.db"
DAEMONS = [Path("/run/libvirtd.pid"), Path("/run/virtlogd.pid")]
ENVIRONMENT = os.environ | {
    "LIBVIRT_DEFAULT_URI": "qemu:///system",
    "SETTINGS_LOCAL": "tests/vm/settings.yml",
    "VAGRANT_DOTFILE_PATH": str(WORK / "vagrant"),
    "SSH_CONFIG": str(WORK / "ssh-config"),
    "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
}

pytestmark = pytest.mark.timeout(3600)  # seconds; software emulation is slow


def run(*command: str) -> None:
    """Run a command; what it prints is seen at once, and its end once more if it fails."""
    print(f"\n$ {' '.join(command)}", flush=True)
    lines: collections.deque[str] = collections.deque(maxlen=80)
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if process.returncode:
        pytest.fail(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(lines)}", pytrace=False)


def pid(file: Path) -> int | None:
    """The process that a pid file names, if it is alive."""
    if not file.exists():
        return None
    process = int(file.read_text())
    return process if Path(f"/proc/{process}").exists() else None


@pytest.fixture(scope="module", autouse=True)
def vm_host() -> Iterator[None]:
    """A clean start, and at the end neither a VM nor a daemon that was not there before."""
    running = {file: pid(file) for file in DAEMONS}
    if (WORK / "vagrant").exists():  # left by a run that was cut off
        run("python3", "tools/up.py", "--prepare-only")
        run("vagrant", "destroy", "--force")
    shutil.rmtree(WORK, ignore_errors=True)
    yield
    run("vagrant", "destroy", "--force")
    if not running[DAEMONS[0]] and pid(DAEMONS[0]):
        for network in subprocess.check_output(["virsh", "net-list", "--name"], text=True, env=ENVIRONMENT).split():
            run("virsh", "net-destroy", network)  # ends its dnsmasq
    for file in DAEMONS:
        process = pid(file)
        if process and process != running[file]:
            os.kill(process, signal.SIGTERM)


def test_make_up_ends_with_both_urls_and_a_user_created_in_a_browser() -> None:
    run("make", "up")
    with open(WORK / "ssh-config", "w") as file:
        subprocess.run(["vagrant", "ssh-config"], check=True, cwd=ROOT, env=ENVIRONMENT, stdout=file)
    run(sys.executable, "-m", "pytest", "molecule/default/tests/test_stack.py")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
        )
        page = browser.new_page()
        page.goto("http://127.0.0.1:18000/")
        page.get_by_label("User ID").fill("1")
        page.get_by_label("User name").fill("Ana")
        page.get_by_role("button").first.click()
        expect(page.get_by_text("User 1, Ana, was created")).to_be_visible()
        browser.close()


def test_the_tutorial_adds_a_service_and_removes_it() -> None:
    service = ROOT / "apps/greeter"
    assert not service.exists(), f"{service} is there already: move it away."
    settings = WORK / "settings.yml"
    shutil.copy(ROOT / ENVIRONMENT["SETTINGS_LOCAL"], settings)
    try:
        local = ENVIRONMENT | {"SETTINGS_LOCAL": str(settings.relative_to(ROOT))}
        output = follow(ROOT / "docs/add-a-service.md", ROOT, local)
    finally:
        shutil.rmtree(service, ignore_errors=True)
    assert "users-frontend.service" in output
    assert "users-greeter" not in output


def test_a_second_make_up_finds_nothing_to_do_and_the_data_outlives_the_vm() -> None:
    start = time.monotonic()
    run("make", "up")
    assert time.monotonic() - start < 120, "a second `make up` found work to do"

    run("make", "destroy")
    with sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True) as database:
        assert database.execute("SELECT name FROM users WHERE id = 1").fetchone() == ("Ana",)


def test_molecule_test() -> None:
    run("molecule", "test")
    with sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True) as database:
        assert database.execute("SELECT name FROM users WHERE id = 1").fetchone() == ("Ana",)


def test_vagrant_up_without_virtualbox_and_without_a_box_points_to_make_up(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "vagrant", tmp_path / "vagrant")
    for name in ("Vagrantfile", "settings.yml"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["vagrant", "up", "--provider", "libvirt"]
    result = subprocess.run(command, check=False, cwd=tmp_path, text=True, capture_output=True)
    assert result.returncode != 0
    assert "Run `make up`, which builds one." in result.stdout + result.stderr
