"""`make doctor`, run as its user does: real ports, files, servers and certificates. What a VM would need here,
Vagrant, VirtualBox and apt, are stand-ins on a PATH that holds nothing else.
"""

import ast
import contextlib
import http.server
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import doctor
import pytest
from machine import free_port, new_certificate, serving, write_program

import box

ROOT = Path(__file__).resolve().parents[1]
PASSWORD = "open-sesame"

# Plays Vagrant: the file `state` says how the VM is, the file `inside` what a command in it prints.
VAGRANT = f"""#!{sys.executable}
import pathlib, subprocess, sys

folder = pathlib.Path(__file__).parent
call = " ".join(sys.argv[1:])
with open(folder / "calls", "a") as calls:
    calls.write(call + "\\n")
if call == "--version":
    print("Vagrant 2.4.9")
elif "status" in call:
    state = (folder / "state").read_text()
    if state == "hanging":
        child = subprocess.Popen(["/bin/sleep", "600"])
        (folder / "child").write_text(str(child.pid))
        child.wait()
    if " " in state:
        sys.exit(state)
    print("1700000000,default,state," + state)
elif "ssh" in call:
    print((folder / "inside").read_text(), end="")
"""
INSIDE = """\
unit docker active
unit users-backend active
unit users-frontend active
container users-backend Up 2 hours (healthy)
container users-frontend Up 2 hours (healthy)
vm Debian GNU/Linux 13 (trixie), kernel 6.12, Docker version 26.1.5, 17G of disk free
"""


class Project:
    """A copy of what the doctor reads, in its user's home."""

    def __init__(self, home: Path, site: str) -> None:
        self.home = home
        self.folder = home / "project"
        self.tools = home / "bin"
        self.tools.mkdir()
        shutil.copytree(ROOT / "tools", self.folder / "tools")
        shutil.copytree(ROOT / "vagrant", self.folder / "vagrant")
        shutil.copytree(ROOT / "roles", self.folder / "roles")
        shutil.copy(ROOT / "settings.yml", self.folder)
        for tool in ("ruby", "lsof", "ss", "sudo"):
            found = shutil.which(tool)
            if found:
                (self.tools / tool).symlink_to(found)
        self.stand_in("vagrant", VAGRANT)
        self.stand_in("apt-get", f'#!/bin/sh\necho "$@" >> "$0-calls"\necho {site}\n')
        self.ports = free_port(), free_port()
        self.settings: dict[str, Any] = {
            "network": {"pip_index_url": site},
            "services": {"backend": {"host_port": self.ports[0]}, "frontend": {"host_port": self.ports[1]}},
        }

    def stand_in(self, name: str, text: str) -> None:
        write_program(self.tools / name, text)

    def vm(self, state: str, inside: str = INSIDE) -> None:
        """From now on there is a VM, in this state."""
        machine = self.folder / ".vagrant/machines/default/libvirt"
        machine.mkdir(parents=True)
        (machine / "id").write_text("11111111-2222-3333-4444-555555555555")
        (self.tools / "state").write_text(state)
        (self.tools / "inside").write_text(inside)

    def run(self, tool: str, *arguments: str, **environment: str) -> tuple[int, str]:
        """Exit status and output of one of the tools."""
        (self.folder / "settings.local.yml").write_text(json.dumps(self.settings))
        result = subprocess.run(
            [sys.executable, f"tools/{tool}", *arguments],
            check=False,
            cwd=self.folder,
            env={"PATH": str(self.tools), "HOME": str(self.home)} | environment,
            text=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=60,
        )
        assert "Traceback" not in result.stdout
        assert PASSWORD not in result.stdout
        assert str(self.home) not in result.stdout
        return result.returncode, result.stdout

    def doctor(self, *arguments: str, **environment: str) -> tuple[int, list[str]]:
        """Exit status and the lines of the report, each as `level topic text`."""
        status, output = self.run("doctor.py", *arguments, **environment)
        return status, [" ".join(line.split()) for line in output.splitlines()]


@contextlib.contextmanager
def serve(port: int = 0, status: int = 200, certificate: Path | None = None, says: bytes = b"ok") -> Iterator[int]:
    """A web server that answers every request so; its port."""

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(says)

        do_CONNECT = do_GET

        def log_message(self, *_: Any) -> None:
            pass

    with serving(Answers, port, certificate) as server:
        yield server.server_port


@pytest.fixture
def site() -> Iterator[int]:
    with serve() as port:
        yield port


@pytest.fixture
def login_proxy() -> Iterator[int]:
    with serve(status=407) as port:
        yield port


@pytest.fixture
def strict_proxy() -> Iterator[int]:
    with serve(status=403) as port:
        yield port


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return new_certificate(tmp_path / "company.pem")


@pytest.fixture
def tls_site(certificate: Path) -> Iterator[int]:
    with serve(certificate=certificate) as port:
        yield port


@pytest.fixture
def project(tmp_path: Path, site: int) -> Project:
    return Project(tmp_path, f"http://127.0.0.1:{site}/debian")


@pytest.fixture
def services(project: Project) -> Iterator[None]:
    """Both services, on the ports of the settings."""
    with serve(project.ports[0]), serve(project.ports[1]):
        yield


@pytest.fixture
def closed_port() -> int:
    return free_port()


def starting(lines: list[str], start: str) -> list[str]:
    return [line for line in lines if line.startswith(start)]


# --- This computer -------------------------------------------------------------------


def test_before_the_first_start_nothing_is_wrong(project: Project, site: int) -> None:
    start = time.monotonic()
    status, lines = project.doctor()
    assert time.monotonic() - start < 10
    assert starting(lines, "wrong") == []
    assert status == 0
    assert [topic for topic in doctor.BEFORE if not any(f" {topic} " in line for line in lines)] == []
    assert "ok system Vagrant 2.4.9" in lines
    assert "ok share ~/project/data is made at the first start" in lines
    assert f"ok ports {project.ports[0]} (backend) is free" in lines
    assert f"ok network 127.0.0.1:{site} answers" in lines
    assert "note VM not created: `vagrant up` or `make up` makes it" in lines
    assert (project.tools / "calls").read_text() == "--version\n"  # Vagrant is slow: not asked in vain
    assert not (project.folder / "data").exists()


def test_with_nothing_installed_it_still_works_and_says_what_to_install(project: Project) -> None:
    shutil.rmtree(project.tools)
    project.tools.mkdir()
    status, lines = project.doctor()
    assert status == 1
    [line] = starting(lines, "wrong system")
    assert "Vagrant and VirtualBox are not both installed" in line
    assert starting(lines, "note settings The settings were not checked: no Ruby")
    assert starting(lines, "ok ports 8080 (backend)") or starting(lines, "wrong ports Port 8080")


def test_it_needs_no_newer_python_than_it_says() -> None:
    ast.parse((ROOT / "tools/doctor.py").read_text(), feature_version=(3, 8))


def test_the_defaults_without_ruby_are_those_with_ruby(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SETTINGS_LOCAL", "none.yml")

    def numbers_and_texts(settings: Any, key: str = "") -> Iterator[tuple[str, Any]]:
        if isinstance(settings, dict):
            for name, value in settings.items():
                yield from numbers_and_texts(value, f"{key}.{name}")
        elif type(settings) in (int, str) and not key.startswith((".image.base_archive", ".network", ".libvirt")):
            yield key, settings  # .cache/machine.yml has the others

    with_ruby = dict(numbers_and_texts(doctor.read_settings()))
    without = dict(numbers_and_texts(doctor.default_settings()))
    assert with_ruby[".services.frontend.host_port"] == 8000
    del with_ruby[".image.base"], with_ruby[".user_id"]
    assert {key: without[key] for key in with_ruby} == with_ruby
    assert list(doctor.default_settings()["services"]) == ["backend", "frontend"]  # and none that is not enabled
    assert doctor.default_settings()["network"]["no_proxy"] == ""


def test_a_wrong_setting_is_named_and_not_shown_where_it_may_be_secret(project: Project) -> None:
    project.settings["services"]["backend"]["environment"] = {"API_KEY": f"{PASSWORD}\nand more"}
    status, lines = project.doctor()
    assert status == 1
    assert starting(
        lines, "wrong settings The setting services.backend.environment.API_KEY is wrong: it must be one line"
    )


def test_an_old_vagrant_is_told(project: Project) -> None:
    project.stand_in("vagrant", "#!/bin/sh\necho Vagrant 2.2.19\n")
    status, lines = project.doctor()
    assert status == 1
    assert starting(lines, "wrong system Vagrant 2.2.19 is too old: install 2.3.4 or newer")


def test_a_busy_port_is_told_with_its_program_and_its_setting(project: Project) -> None:
    with socket.create_server(("127.0.0.1", project.ports[1])):
        status, lines = project.doctor()
    assert status == 1
    [line] = starting(lines, "wrong")
    assert line.startswith(f"wrong ports Port {project.ports[1]} of this computer is already in use by ")
    assert f"(process {os.getpid()})" in line
    assert "write services.frontend.host_port into settings.local.yml" in line


def test_a_busy_port_of_https_is_told_where_https_is_on(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        project.settings["services"]["frontend"]["https_host_port"] = port
        _, lines = project.doctor()
        assert not starting(lines, f"wrong ports Port {port}")
        project.settings["https"] = {"domain": "localhost"}
        _, lines = project.doctor()
    [line] = starting(lines, f"wrong ports Port {port} of this computer is already in use by ")
    assert "write services.frontend.https_host_port into settings.local.yml" in line


def test_an_address_of_another_computer_is_told(project: Project) -> None:
    project.settings["host_ip"] = "192.0.2.1"  # reserved for documentation, RFC 5737
    project.settings["open_to_the_network_without_password"] = True
    status, lines = project.doctor()
    assert status == 1
    assert starting(lines, "wrong ports 192.0.2.1 is no address of this computer. Change host_ip")


def test_make_up_stops_at_the_same_finding_before_it_installs_anything(project: Project) -> None:
    with socket.create_server(("127.0.0.1", project.ports[1])):
        status, output = project.run("up.py")
    assert status == 1
    assert f"make up stopped: Port {project.ports[1]} of this computer is already in use by " in output
    assert not (project.tools / "apt-get-calls").exists()


def test_virtualbox_is_the_way_where_it_is_installed(project: Project, site: int) -> None:
    project.stand_in("VBoxManage", "#!/bin/sh\necho 7.1.4r165100\n")
    project.settings["vm"] = {"box_url": f"http://127.0.0.1:{site}/own.box"}
    project.settings["network"]["pip_index_url"] = "http://127.0.0.1:9/"  # the box's host is another one
    _, lines = project.doctor(http_proxy=f"http://me:{PASSWORD}@127.0.0.1:{site}")
    assert "ok system VirtualBox 7.1.4r165100" in lines
    assert starting(lines, "note box bento/ubuntu-24.04 is not there yet: the first start downloads it")
    assert starting(lines, "note network This computer uses a proxy, and the VM does not know of it")
    assert f"ok network 127.0.0.1:{site} answers" in lines

    (project.home / ".vagrant.d/boxes/bento-VAGRANTSLASH-ubuntu-24.04").mkdir(parents=True)
    _, lines = project.doctor()
    assert "ok box bento/ubuntu-24.04 is there" in lines
    assert not starting(lines, f"ok network 127.0.0.1:{site}")


# --- The data folder -----------------------------------------------------------------


def test_a_data_folder_that_is_none_is_told(project: Project) -> None:
    (project.folder / "data").touch()
    status, lines = project.doctor()
    assert status == 1
    assert starting(lines, "wrong share ~/project/data cannot be written to (Not a directory)")


def test_a_file_that_is_no_database_is_told(project: Project) -> None:
    (project.folder / "data").mkdir()
    (project.folder / "data/users.db").write_text("id;name\n1;Ana\n")
    status, lines = project.doctor()
    assert status == 1
    assert starting(
        lines, "wrong share ~/project/data/users.db is not an SQLite database. `make restore` lists the copies"
    )


def test_a_database_in_another_program_or_in_wal_mode_is_told(project: Project) -> None:
    (project.folder / "data").mkdir()
    database = sqlite3.connect(project.folder / "data/users.db")
    database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY)")
    status, lines = project.doctor()
    assert status == 0
    [line] = starting(lines, "note share ~/project/data/users.db is open in ")
    assert f"(process {os.getpid()})" in line
    assert starting(lines, "ok share ~/project/data can be written to; users.db has 0.0 MB")

    assert database.execute("PRAGMA journal_mode=WAL").fetchone() == ("wal",)
    database.close()
    status, lines = project.doctor()
    assert status == 1
    assert starting(lines, "wrong share ~/project/data/users.db was switched to WAL mode")
    assert not starting(lines, "note share")


@pytest.mark.parametrize(
    ("folder", "part"),
    [
        ("OneDrive/users/data", "OneDrive"),
        ("OneDrive - Empresa Ltda/data", "OneDrive - Empresa Ltda"),
        ("Library/Mobile Documents/com~apple~CloudDocs/data", "Mobile Documents"),
        ("Library/CloudStorage/GoogleDrive/data", "CloudStorage"),
        ("dropboxes/data", ""),
    ],
)
def test_a_data_folder_that_is_synchronized_with_other_computers_is_told(
    project: Project, folder: str, part: str
) -> None:
    project.settings["data_dir"] = f"~/{folder}"
    status, lines = project.doctor()
    assert status == 0
    told = [line.split(", which copies users.db")[0] for line in starting(lines, "note share")]
    assert told == [f"note share ~/{folder} is in {part}"] * bool(part)


def test_a_data_folder_that_leads_to_a_synchronized_one_is_told(project: Project) -> None:
    (project.home / "Dropbox").mkdir()
    (project.folder / "data").symlink_to(project.home / "Dropbox")
    assert starting(project.doctor()[1], "note share ~/project/data is in Dropbox, which copies users.db")


# --- The network ---------------------------------------------------------------------


def test_each_host_that_does_not_answer_is_named_with_the_likely_cause(
    project: Project, tls_site: int, closed_port: int
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        project.stand_in("apt-get", f"#!/bin/sh\necho http://127.0.0.1:{port}/debian\n")
        project.settings["network"] = {
            "apt_mirror": f"https://127.0.0.1:{tls_site}/debian",
            "pip_index_url": f"http://127.0.0.1:{closed_port}/simple/",
            "registry_mirror": "http://registry.invalid",  # no such name anywhere, RFC 2606
        }
        status, lines = project.doctor()
    assert status == 1
    assert starting(lines, f"wrong network 127.0.0.1:{port} does not answer. There is no connection to it (timed out)")
    assert starting(lines, f"wrong network 127.0.0.1:{tls_site} does not answer. Its certificate is not trusted (self-")
    assert starting(
        lines, f"wrong network 127.0.0.1:{closed_port} does not answer. There is no connection to it ([Errno"
    )
    assert starting(lines, "wrong network registry.invalid does not answer. Its name is not known here")


def test_the_company_certificate_of_the_settings_is_trusted(project: Project, tls_site: int, certificate: Path) -> None:
    project.settings["network"]["apt_mirror"] = f"https://127.0.0.1:{tls_site}/debian"
    project.settings["network"]["ca_certificate"] = "company.crt"
    shutil.copy(certificate, project.folder / "company.crt")
    status, lines = project.doctor()
    assert f"ok network 127.0.0.1:{tls_site} answers" in lines
    assert status == 0

    (project.folder / "company.crt").write_text("-----BEGIN CERTIFICATE-----\nno\n")
    status, lines = project.doctor()
    assert starting(lines, "wrong network network.ca_certificate: company.crt holds no certificate in PEM form")
    assert status == 1


def test_a_proxy_is_blamed_for_what_it_does_and_its_password_is_never_printed(
    project: Project, site: int, tls_site: int, closed_port: int, login_proxy: int, strict_proxy: int
) -> None:
    """Project.run looks for the password."""
    project.settings["network"]["apt_mirror"] = f"https://127.0.0.1:{tls_site}/debian"
    status, lines = project.doctor(
        http_proxy=f"http://me:{PASSWORD}@127.0.0.1:{closed_port}", https_proxy=f"http://127.0.0.1:{login_proxy}"
    )
    assert status == 1
    assert starting(
        lines, f"wrong network 127.0.0.1:{site} does not answer. The proxy 127.0.0.1:{closed_port} cannot be reached"
    )
    assert starting(
        lines,
        f"wrong network 127.0.0.1:{tls_site} does not answer. The proxy 127.0.0.1:{login_proxy} wants a user and a",
    )

    project.settings["network"]["http_proxy"] = f"http://me:{PASSWORD}@127.0.0.1:{strict_proxy}"
    _, lines = project.doctor()
    assert starting(
        lines, f"wrong network 127.0.0.1:{site} does not answer. The proxy 127.0.0.1:{strict_proxy} answers 403 for it"
    )

    project.settings["network"]["no_proxy"] = "localhost, 127.0.0.1"
    _, lines = project.doctor()
    assert f"ok network 127.0.0.1:{site} answers" in lines

    project.settings["network"] = {"http_proxy": f"me:{PASSWORD}@127.0.0.1"}
    _, lines = project.doctor()
    assert starting(lines, "wrong settings The setting network.http_proxy is ***@127.0.0.1")


def test_the_proxy_that_apt_has_of_its_own_counts_for_its_mirrors(
    project: Project, site: int, strict_proxy: int
) -> None:
    project.stand_in("apt-config", f"#!/bin/sh\necho \"http='http://127.0.0.1:{strict_proxy}'\"\n")
    project.settings["network"]["pip_index_url"] = f"http://localhost:{site}/simple/"
    _, lines = project.doctor()
    assert starting(
        lines, f"wrong network 127.0.0.1:{site} does not answer. The proxy 127.0.0.1:{strict_proxy} answers 403"
    )
    assert f"ok network localhost:{site} answers" in lines


def fill_cache(project: Project) -> Path:
    cache = project.folder / ".cache/guest"
    cache.mkdir(parents=True)
    for name in doctor.CACHED:
        (cache / name).write_bytes(bytes(1_500_000))
    return cache


def test_a_network_that_is_away_is_no_mistake_where_the_cache_has_what_a_vm_needs(
    project: Project, closed_port: int
) -> None:
    project.settings["network"]["pip_index_url"] = f"http://127.0.0.1:{closed_port}/"
    cache = fill_cache(project)
    status, lines = project.doctor()
    assert status == 0
    assert starting(lines, f"note network 127.0.0.1:{closed_port} does not answer. ")
    assert "ok cache .cache/guest has 3 MB for the next VM; `make clean-cache` empties it" in lines

    project.stand_in("VBoxManage", "#!/bin/sh\necho 7.1.4r165100\n")  # whose box is not there yet
    assert starting(project.doctor()[1], f"wrong network 127.0.0.1:{closed_port} does not answer. ")
    project.settings["vm"] = {"box_url": ".cache/bundle.box"}
    (project.folder / ".cache/bundle.box").touch()
    assert starting(project.doctor()[1], f"note network 127.0.0.1:{closed_port} does not answer. ")
    (cache / "images.tar").unlink()
    (project.tools / "VBoxManage").unlink()
    assert starting(project.doctor()[1], f"wrong network 127.0.0.1:{closed_port} does not answer. ")


def test_clean_cache_removes_the_archives_and_nothing_else(project: Project) -> None:
    cache = fill_cache(project)
    (cache / "packages.tar.sha256").touch()
    (cache / "images.tar.part").touch()
    (cache / "mine").touch()
    (cache.parent / box.IMAGE.rsplit("/", 1)[1]).write_bytes(bytes(1_000_000))
    assert project.run("clean_cache.py") == (0, ".cache/guest is empty now: 4 MB were freed.\n")
    assert [file.name for file in cache.iterdir()] == ["mine"]
    assert list(cache.parent.glob("ubuntu*")) == []
    assert "ok cache .cache/guest is empty: `vagrant destroy` fills it" in project.doctor()[1]


# --- The VM --------------------------------------------------------------------------


@pytest.mark.usefixtures("services")
def test_a_running_vm_is_looked_into_with_one_call(project: Project) -> None:
    project.vm("running")
    (project.tools / "lsof").unlink()  # nor do they tell of the VM of another user, such as libvirt's
    (project.tools / "ss").unlink()
    status, lines = project.doctor()
    assert starting(lines, "wrong") == []
    assert status == 0
    assert f"ok ports {project.ports[0]} (backend) is held by the VM" in lines
    assert starting(lines, "ok VM running: Debian GNU/Linux 13 (trixie), kernel 6.12")
    for unit in ("docker", "users-backend", "users-frontend"):
        assert f"ok VM unit {unit}: active" in lines
    assert "ok VM container users-frontend: Up 2 hours (healthy)" in lines
    assert f"ok health frontend answers at http://127.0.0.1:{project.ports[1]}/healthz: ok" in lines
    calls = (project.tools / "calls").read_text().splitlines()
    assert len([call for call in calls if " ssh " in call]) == 1


@pytest.mark.usefixtures("services")
def test_a_service_without_a_port_is_looked_at_in_the_vm_alone(project: Project) -> None:
    project.settings["services"]["database"] = {"enabled": True}
    project.vm("running", INSIDE + "unit users-database active\ncontainer users-database Up 1 second (healthy)\n")
    lines = project.doctor()[1]
    assert "ok VM container users-database: Up 1 second (healthy)" in lines
    assert [line for line in lines if "database" in line and " VM " not in line] == []


@pytest.mark.usefixtures("services")
def test_a_service_whose_image_has_no_healthcheck_is_well_while_it_runs(project: Project) -> None:
    project.settings["services"]["database"] = {"enabled": True}
    project.vm("running", INSIDE + "unit users-database active\ncontainer users-database Up About an hour\n")
    lines = project.doctor()[1]
    assert starting(lines, "wrong VM") == []
    assert "ok VM container users-database: Up About an hour" in lines


@pytest.mark.usefixtures("services")
def test_a_port_that_another_program_holds_is_told_while_the_vm_runs(project: Project) -> None:
    project.vm("running")
    status, lines = project.doctor()
    assert status == 1
    assert starting(lines, f"wrong ports Port {project.ports[0]} of this computer is already in use by ")


def test_what_does_not_run_in_the_vm_is_told(project: Project) -> None:
    inside = INSIDE.replace("users-backend active", "users-backend activating")
    inside = inside.replace("container users-backend Up 2 hours (healthy)\n", "missing /data\n")
    inside = inside.replace("users-frontend Up 2 hours (healthy)", "users-frontend Up 2 hours (unhealthy)")
    project.vm("running", inside)
    status, lines = project.doctor()
    assert status == 1
    assert starting(lines, "wrong VM The folder /data is not shared with the VM. Run `vagrant reload`")
    assert starting(lines, "wrong VM unit users-backend: activating. `make logs` says why")
    assert starting(lines, "wrong VM container users-backend: there is none")
    assert starting(lines, "wrong VM container users-frontend: Up 2 hours (unhealthy)")
    assert starting(lines, f"wrong ports The VM runs, but nothing listens on port {project.ports[0]} (backend)")
    assert starting(lines, f"wrong health backend does not answer at http://127.0.0.1:{project.ports[0]}/healthz")


def test_a_service_that_has_just_started_and_one_that_calls_another_not_well_are_told(project: Project) -> None:
    project.vm(
        "running", INSIDE.replace("users-backend Up 2 hours (healthy)", "users-backend Up 1 s (health: starting)")
    )
    says = b'{"frontend_status":"ok","backend_status":"nok"}'
    with serve(project.ports[1], says=says):
        _, lines = project.doctor()
    assert "note VM container users-backend: Up 1 s (health: starting)" in lines
    url = f"http://127.0.0.1:{project.ports[1]}/healthz"
    assert f"wrong health frontend answers at {url}: {says.decode()}" in lines


def test_services_for_the_whole_network_are_asked_where_windows_asks_them_too(project: Project) -> None:
    project.settings |= {"host_ip": "0.0.0.0", "open_to_the_network_without_password": True}
    project.vm("running", INSIDE)
    _, lines = project.doctor()
    assert starting(lines, f"wrong health backend does not answer at http://127.0.0.1:{project.ports[0]}/healthz")


def test_a_vm_without_ssh_is_told(project: Project) -> None:
    project.vm("running", "ssh: connect to host 192.0.2.1 port 22: No route to host\n")
    status, lines = project.doctor()
    assert status == 1
    assert starting(lines, "wrong VM The VM runs, but `vagrant ssh` does not get in: ssh: connect to host 192.0.2.1")


def test_a_vm_that_is_off_is_no_mistake_nor_is_a_network_that_is_away(project: Project, closed_port: int) -> None:
    project.vm("poweroff")
    project.settings["network"]["pip_index_url"] = f"http://127.0.0.1:{closed_port}/"
    status, lines = project.doctor()
    assert status == 0
    assert "note VM poweroff: `vagrant up` starts it" in lines
    assert starting(lines, f"note network 127.0.0.1:{closed_port} does not answer. ")


def test_a_vagrant_that_hangs_is_ended_with_what_it_started(project: Project) -> None:
    project.vm("hanging")
    start = time.monotonic()
    status, lines = project.doctor("--timeout", "3")
    assert time.monotonic() - start < 15
    assert status == 1
    assert "wrong VM Whether the VM runs is not known. `vagrant status` did not answer within 3 s." in lines
    child = int((project.tools / "child").read_text())
    state = Path(f"/proc/{child}/stat")
    assert not state.exists() or state.read_text().split()[2] == "Z", "its child still runs"


def test_why_vagrant_fails_is_shown(project: Project) -> None:
    project.vm("The provider could not be reached.")
    status, lines = project.doctor()
    assert status == 1
    assert starting(lines, "wrong VM Whether the VM runs is not known. `vagrant status` failed: The provider could not")
