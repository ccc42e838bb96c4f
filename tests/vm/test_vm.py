"""The stack on real VMs: what a target of the Makefile runs of this are steps, in this order.

In `make test` there is one VM, that of a company, made by Molecule and then used as after `make up`. The other targets
begin with `make up`; that of `make offline` then makes a second VM out of what the first one has left.
"""

import contextlib
import gzip
import json
import os
import re
import shlex
import shutil
import sqlite3
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torture
import up
import yaml
from commands import IN_THE_VM
from machine import BROWSER, LIBVIRTD, cut_off, let_out, libvirt_as_before, pid, users
from playwright.sync_api import Error as PageError
from playwright.sync_api import Page, expect, sync_playwright
from tutorial import follow

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/test"
DATABASE = WORK / "data/users.db"
ENVIRONMENT = os.environ | {
    "LIBVIRT_DEFAULT_URI": "qemu:///system",
    "SETTINGS_LOCAL": "tests/vm/settings.yml",
    "VAGRANT_DOTFILE_PATH": str(WORK / "vagrant"),
    "SSH_CONFIG": str(WORK / "ssh-config"),
    "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
}

CACHED = {"cache_dir": ".cache/test/guest"}  # where a VM keeps what the next one needs
API = "http://127.0.0.1:18080"
GATEWAY = "192.168.121.1"  # this machine's address in vagrant-libvirt's own network

pytestmark = pytest.mark.timeout(4800)  # seconds; software emulation is slow


def run(*command: str, fails: bool = False, cwd: Path = ROOT, **environment: str) -> str:
    """Run a command and return what it prints, which is seen at once, and its end once more if it went wrong."""
    print(f"\n$ {' '.join(command)}", flush=True)
    lines = []
    with subprocess.Popen(
        command, cwd=cwd, env=ENVIRONMENT | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    if bool(process.returncode) != fails:
        pytest.fail(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(lines[-80:])}", pytrace=False)
    return "".join(lines)


# The data folder is a disk of its own, a small one, so that a test can fill it.
DISK = WORK / "data.img"
MOUNT = f"mountpoint -q {DATABASE.parent} || {{ mount -o loop {DISK} {DATABASE.parent}; rm -df {DATABASE.parent}/lost+found; }}"
UNMOUNT = f"! mountpoint -q {DATABASE.parent} || umount --lazy {DATABASE.parent}"  # a process may still be ending


def mount(command: str) -> None:
    """Mount or unmount it, for libvirt too: started by `make up`, it may have mounts of its own."""
    for process in filter(None, (os.getpid(), pid(LIBVIRTD))):
        run(*up.SUDO, "nsenter", "--mount", "--target", str(process), "sh", "-ec", command)


@pytest.fixture(scope="module", autouse=True)
def vm_host() -> Iterator[None]:
    """A clean start, and at the end neither a VM nor a daemon that was not there before."""
    with libvirt_as_before():
        if (WORK / "vagrant").exists():  # left by a run that was cut off
            run("python3", "tools/up.py", "--prepare-only")
            let_out()
            run("vagrant", "destroy", "--force")
            mount(UNMOUNT)
        shutil.rmtree(WORK, ignore_errors=True)
        DATABASE.parent.mkdir(parents=True)
        run("truncate", "--size", "256M", str(DISK))
        run("mkfs.ext4", "-q", "-m", "0", "-E", f"root_owner={os.getuid()}:{os.getgid()}", str(DISK))
        mount(MOUNT)
        yield
        try:
            run("vagrant", "destroy", "--force")
        finally:
            mount(UNMOUNT)


def post(user_id: int, name: str) -> None:
    """Create a user."""
    user = json.dumps({"id": user_id, "name": name}).encode()
    BROWSER.open(urllib.request.Request(f"{API}/users", data=user, method="POST")).close()


def settings_with(**changes: object) -> dict[str, str]:
    """The environment in which the settings of the tests have these changes."""
    given = yaml.safe_load((ROOT / ENVIRONMENT["SETTINGS_LOCAL"]).read_text())
    file = WORK / "settings.yml"
    file.write_text(yaml.dump(given | changes))
    return {"SETTINGS_LOCAL": str(file.relative_to(ROOT))}


def names(database: Path) -> dict[int, str]:
    """The users 1 to 5 of a database."""
    with contextlib.closing(sqlite3.connect(f"file:{database}?mode=ro", uri=True)) as connection:
        return dict(connection.execute("SELECT id, name FROM users WHERE id <= 5"))


def vm(command: str) -> str:
    """Run a command as root in Molecule's VM, and return what it prints."""
    return run("ssh", "-F", str(WORK / "ssh-config"), "default", f"sudo sh -c {shlex.quote(command)}")


# What shows the proxy that apt, dockerd, builds and containers use.
COMPANY = [
    "cat /etc/apt/apt.conf.d/*",
    "tr '\\0' '\\n' < /proc/$(cat /run/docker.pid)/environ",
    "cat /etc/users/config.json",
    "docker inspect users-backend",
    "docker inspect users-frontend",
]
VERSION = "docker inspect --format '{{.Config.Labels.settings}}' users-frontend"


def test_molecule_test_in_a_company_whose_proxy_is_the_only_way_out(forward_proxy: Any) -> None:
    run("molecule", "destroy")  # it remembers the VM of a run that was cut off, and would make no other
    run("molecule", "create")
    with cut_off():
        run("vagrant", "provision", "--provision-with", "ansible")  # our own box brings it along
        vm("apt-get purge -qy ansible-core")  # others do not
        next((WORK / "vagrant").glob("machines/*/*/users_provisioned")).unlink()  # as if the first time had failed
        output = run("vagrant", "up", fails=True)
        assert "(the distribution's packages) does not answer. " in output
        assert "set network.http_proxy." in output

        proxy = forward_proxy(GATEWAY)
        wrong = f"http://ana:Pa$$w0rd$x@{proxy.address}"
        run("vagrant", "up", fails=True, **settings_with(network={"http_proxy": wrong}))  # it begins again
        assert wrong in vm("cat /etc/apt/apt.conf.d/*")
        company = settings_with(network={"http_proxy": proxy.url, "https_proxy": proxy.url})
        run("vagrant", "provision", "--provision-with", "ansible", **company)
        run("molecule", "test", "--destroy", "never", **company)
        for command in COMPANY:
            assert proxy.url in vm(command)
        assert len(proxy.reached()) > 1, "apt and pip fetch from different hosts"
        in_the_company = vm(VERSION)

    run("vagrant", "provision", "--provision-with", "site")  # in the VM, as users do, and without those settings
    for command in COMPANY:
        assert proxy.address not in vm(command)
    assert vm(f"grep -rlsF {proxy.address} /etc /opt /run /usr/local /var/lib/docker/containers || :") == ""
    assert "frontend is one version back" in run("make", "rollback", "SERVICE=frontend")
    assert vm(VERSION) == in_the_company


@pytest.fixture(scope="module")
def running_stack() -> None:
    """The VM of the test before, or a new one."""
    run("make", "up")
    write_ssh_config()


def write_ssh_config() -> None:
    with open(WORK / "ssh-config", "w") as file:
        subprocess.run(["vagrant", "ssh-config"], check=True, cwd=ROOT, env=ENVIRONMENT, stdout=file)


@pytest.mark.usefixtures("running_stack")
def test_the_commands_of_the_documents_work() -> None:
    for command in IN_THE_VM:
        run("sh", "-c", command.replace("THAT_NUMBER", "healthz"))


@contextlib.contextmanager
def browser(**environment: str) -> Iterator[Page]:
    """A page of a real browser."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=shutil.which("chromium"),
            args=["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"],
            env=os.environ | environment,
        )
        yield chromium.new_page()
        chromium.close()


def fill(page: Page, user_id: int, name: str) -> None:
    """Create a user on the page."""
    page.get_by_label("User ID").fill(str(user_id))
    page.get_by_label("User name").fill(name)
    page.get_by_role("button").first.click()
    expect(page.get_by_text(f"User {user_id}, {name}, was created")).to_be_visible()


@pytest.mark.usefixtures("running_stack")
def test_a_user_created_in_a_browser_is_copied_restored_exported_and_imported() -> None:
    with browser() as page:
        page.goto("http://127.0.0.1:18000/")
        fill(page, 1, "Ana")

    ana = urllib.request.Request("http://127.0.0.1:18080/users/1", method="DELETE")
    [copy] = re.findall(r"copied to /data/backups/(\S+) ", run("make", "backup"))
    BROWSER.open(ana).close()
    assert copy in run("make", "restore")
    # By its name: at a full hour, the newest is another one.
    assert "To undo that: make restore COPY=users-" in run("make", "restore", f"COPY={copy}")
    BROWSER.open(ana.full_url).close()
    run("make", "export", f"FILE={WORK}/users.json")
    assert {"id": 1, "name": "Ana"} in json.loads((WORK / "users.json").read_text())
    assert " 0 refused." in run("make", "import", f"FILE={WORK}/users.json")
    assert [*(DATABASE.parent / "backups").glob("users-*-hourly.db.gz")]


@pytest.mark.usefixtures("running_stack")
def test_the_tutorial_adds_a_service_and_removes_it() -> None:
    service = ROOT / "apps/greeter"
    assert not service.exists(), f"{service} is there already: move it away."
    if 1 not in names(DATABASE):  # what the tutorial begins with
        post(1, "Ana")
    settings = WORK / "settings.yml"
    shutil.copy(ROOT / ENVIRONMENT["SETTINGS_LOCAL"], settings)
    try:
        local = ENVIRONMENT | {"SETTINGS_LOCAL": str(settings.relative_to(ROOT))}
        output = follow(ROOT / "docs/add-a-service.md", ROOT, local)
    finally:
        shutil.rmtree(service, ignore_errors=True)
    assert "users-frontend.service" in output
    assert "users-greeter" not in output


@pytest.mark.timeout(6 * 3600)  # the longest of all
@pytest.mark.usefixtures("running_stack")
def test_nothing_acknowledged_is_lost_whatever_fails() -> None:
    """And renew the table of the document."""
    stack = torture.Stack(run, vm, WORK)
    torture.torture(stack, int(os.environ["ROUNDS"]))
    table = torture.report(stack.results)
    print(f"\n{table}")
    assert stack.complaints == []
    assert not any(result.lost for result in stack.results.values())
    document = ROOT / "docs/reliability.md"
    document.write_text(re.sub(r"(^\|.*\n)+", lambda _: table, document.read_text(), count=1, flags=re.MULTILINE))


@pytest.mark.usefixtures("running_stack")
def test_the_database_moves_to_the_vms_own_disk_and_destroy_leaves_a_copy() -> None:
    services = yaml.safe_load((ROOT / ENVIRONMENT["SETTINGS_LOCAL"]).read_text())["services"]
    services["backend"]["volumes"] = [
        {"source": "/var/lib/users", "target": "/data"},
        {"source": "/data/backups", "target": "/data/backups", "shared": "/data"},
    ]
    own_disk = settings_with(services=services, **CACHED)
    post(3, "Rui")
    run("make", "backup")
    run("vagrant", "provision", "--provision-with", "site", **own_disk)
    run("make", "restore", "COPY=newest", **own_disk)
    post(5, "Eva")

    said = run("make", "bundle", **own_disk)
    for name in ("bundle.box", "packages.tar", "images.tar"):
        assert re.search(rf"/{name}: .* MB, \d+ packages, SHA-256 ", said)
    said = run("make", "destroy", **own_disk)
    assert "The copy stays in .cache/test/data/backups." in said
    assert "Nothing in it is new." in said, "the bundle has had it kept"
    copy = max((DATABASE.parent / "backups").glob("users-*.db.gz"))
    (WORK / "copy.db").write_bytes(gzip.decompress(copy.read_bytes()))
    assert names(WORK / "copy.db") == {3: "Rui", 5: "Eva"}
    assert names(DATABASE) == {3: "Rui"}, "the one on the laptop was not touched, and outlives the VM"


def test_make_up_out_of_a_bundle_needs_no_network() -> None:
    """The test before has made the bundle, of a VM that it then destroyed."""
    run("tar", "-xf", "users-bundle.tar", "-C", str(WORK))
    there = WORK / "users-bundle"
    given = yaml.safe_load((ROOT / ENVIRONMENT["SETTINGS_LOCAL"]).read_text())
    del given["cache_dir"]
    (there / "settings.local.yml").write_text(yaml.dump(given | {"data_dir": str(DATABASE.parent)}))
    local: Any = {"cwd": there, "SETTINGS_LOCAL": "settings.local.yml"}
    box = yaml.safe_load((there / ".cache/machine.yml").read_text())["libvirt"]["box"]
    try:
        use_unpacked(local)
    finally:
        run("make", "destroy", **local)
        run("vagrant", "box", "remove", "--force", box, **local)
        for volume in subprocess.check_output(["virsh", "vol-list", "default"], text=True, env=ENVIRONMENT).split():
            if volume.startswith(box.replace("/", "-VAGRANTSLASH-")):
                run("virsh", "vol-delete", "--pool", "default", volume)
        (ROOT / "users-bundle.tar").unlink()


def use_unpacked(local: Any) -> None:
    """Bring the VM up in a folder that came as a bundle, without a network, and use it."""
    with cut_off():
        output = run("make", "up", **local)
        with open(local["cwd"] / "apps/frontend/src/users_frontend/__init__.py", "a") as source:
            source.write("# changed\n")
        assert "  images (frontend " in run("vagrant", "provision", **local)
    assert "Building " not in output
    assert "Successfully added box 'users/bundle-" in output
    assert "Taken from the cache: packages users-backend:" in output
    assert re.search(r"TASK \[service : Build the images that are missing.*\n.*skipping: ", output)
    assert "WHERE THE TIME WENT" in output
    timing = json.loads((local["cwd"] / ".cache/timing.json").read_text())
    assert set(timing["parts"]) == {"Vagrant and the VM", "playbook"}
    assert f"{timing['seconds']} s in all: " in output
    assert {"role docker", "services, until they are healthy"} < set(timing["steps"])

    with browser() as page:
        page.goto("http://127.0.0.1:18000/")
        fill(page, 1, "Ana")

    again = run("make", "up", **local)
    assert "Building " not in again and "TASK [" not in again, "a second `make up` found work to do"


@pytest.mark.usefixtures("running_stack")
def test_all_users_move_into_postgresql_in_one_more_container() -> None:
    write_ssh_config()
    post(2, "Bia")
    before, file = users(API), names(DATABASE)
    services = yaml.safe_load((ROOT / ENVIRONMENT["SETTINGS_LOCAL"]).read_text())["services"]
    services["database"] = {"enabled": True}
    local = settings_with(services=services)
    run("vagrant", "provision", "--provision-with", "site", **local)

    command, pipe = ["make", "migrate-to-postgres"], subprocess.PIPE
    with subprocess.Popen(
        command, cwd=ROOT, env=ENVIRONMENT | local, text=True, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT
    ) as moving:
        assert moving.stdout
        said = ""
        for line in moving.stdout:
            said += line
            if line.startswith("To give up"):
                break
        assert "All users are on the server" in said, said
        with pytest.raises(urllib.error.HTTPError, match="503"):
            post(4, "Davi")
        services["backend"]["environment"] = {"DATABASE_URL": "postgresql://users@database/users"}
        services["database"]["memory"] = "300m"  # a new version, which is tried on an empty folder first
        settings_with(services=services)
        run("vagrant", "provision", "--provision-with", "site", **local)
        said += moving.stdout.read()
    assert moving.returncode == 0, said
    assert "The backend has restarted." in said

    [there, here] = re.findall(r"^([\d,]+) users?  (SHA-256 \w+)  ", said, re.MULTILINE)
    assert there == here
    assert users(API) == before
    run("curl", "-fsS", "--noproxy", "*", "-F", "id=4", "-F", "name=Davi", "http://127.0.0.1:18000/")
    psql = "docker exec users-database psql --host 127.0.0.1 --username users --tuples-only --no-align users --command"
    count = int(there[0].replace(",", ""))
    assert vm(f"{psql} 'SELECT count(*), max(name) FILTER (WHERE id = 4) FROM users'") == f"{count + 1}|Davi\n"
    assert vm("docker port users-database") == ""
    assert names(DATABASE) == file, "the file was not touched"

    run("make", "backup", **local)
    BROWSER.open(urllib.request.Request("http://127.0.0.1:18080/users/4", method="DELETE")).close()
    assert users(API) == before
    run("make", "restore", "COPY=newest", **local)
    assert users(API)[4] == "Davi"


@pytest.mark.usefixtures("running_stack")
def test_https_is_trusted_after_the_commands_of_the_guide_and_outlives_a_stop_and_a_pause(tmp_path: Path) -> None:
    services = yaml.safe_load((ROOT / ENVIRONMENT["SETTINGS_LOCAL"]).read_text())["services"]
    services["frontend"]["https_host_port"], services["backend"]["https_host_port"] = 18443, 18444
    local = settings_with(services=services, https={"domain": "localhost"})
    [reload] = re.findall(r"^vagrant reload .*", (ROOT / "docs/https.md").read_text(), re.MULTILINE)
    run("sh", "-c", reload, **local)
    try:
        run("make", "trust", **local)
        home = {"HOME": str(tmp_path)}
        with browser(**home) as page, pytest.raises(PageError, match="ERR_CERT_AUTHORITY_INVALID"):
            page.goto("https://localhost:18443/")
        [trust] = re.findall(r"`(certutil -d sql:.* https-root\.crt)`", (ROOT / "docs/https.md").read_text())
        run("sh", "-c", trust, **home)
        run("make", "down", **local)
        run("make", "up", **local)
        with browser(**home) as page:
            page.goto("https://localhost:18443/")
            fill(page, 6, "Gil")
        machine = run("virsh", "list", "--name").strip()
        run("virsh", "suspend", machine)  # as with a laptop that is shut
        time.sleep(60)
        run("virsh", "resume", machine)
        url = "https://localhost:18444/users/6"
        assert "Gil" in run("curl", "-fsS", "--noproxy", "*", "--cacert", "https-root.crt", url)
        run("curl", "-fsS", "--noproxy", "*", "--cacert", "https-root.crt", "-X", "DELETE", url)
    finally:
        (ROOT / "https-root.crt").unlink(missing_ok=True)
