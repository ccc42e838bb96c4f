"""vagrant/cache.sh with the real apt, in folders that apt takes for the roots of VMs; docker is a stand-in."""

import hashlib
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from machine import run_ruby, serving, write_program

ROOT = Path(__file__).resolve().parents[1]
SCRIPT = ROOT / "vagrant/cache.sh"
IMAGES = ["users-backend:0123", "users-frontend:4567", "users-base:89ab"]

# Plays a Docker in which the services run on the images that the file `docker-images` of the VM lists.
DOCKER = """#!/bin/sh
cd "$VM"
case "$*" in
    ps*) grep -v users-base docker-images || : ;;
    "image inspect --format"*) eval "image=\\${$#}"; grep -qx "$image" docker-images && echo "sha256:id-of-$image" ;;
    "image inspect"*) grep -qx "$3" docker-images ;;
    save*) shift; echo "$@"; [ ! -e docker-breaks ] ;;
    load*) eval "archive=\\${$#}"; tr ' ' '\\n' < "$archive" > docker-images ;;
esac
"""


class Site(SimpleHTTPRequestHandler):
    """A distribution's mirror."""

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[ThreadingHTTPServer]:
    """A mirror with one package, greeting, for this machine's apt."""
    source, site = tmp_path / "greeting", tmp_path / "mirror"
    (source / "DEBIAN").mkdir(parents=True)
    control = "Package: greeting\nVersion: 1:2.0\nArchitecture: all\nMaintainer: A <a@example.com>\nDescription: a\n"
    (source / "DEBIAN/control").write_text(control)
    site.mkdir()
    subprocess.run(["dpkg-deb", "--build", source, site / "greeting.deb"], check=True, capture_output=True)
    package = (site / "greeting.deb").read_bytes()
    checksum = hashlib.sha256(package).hexdigest()
    index = f"{control}Filename: ./greeting.deb\nSize: {len(package)}\nSHA256: {checksum}\n\n"
    (site / "Packages").write_text(index)
    with serving(partial(Site, directory=site)) as server:
        yield server


class VM:
    """A folder with the files of a VM's root that the script and apt touch."""

    def __init__(self, root: Path, cache: Path, mirror: ThreadingHTTPServer) -> None:
        self.root, self.cache = root, cache
        for folder in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "var/lib/apt/lists", "run"):
            (root / folder).mkdir(parents=True)
        (root / "var/cache/apt/archives/partial").mkdir(parents=True)
        (root / "etc/os-release").write_text("ID=debian\nVERSION_ID=13\n")
        (root / "status").touch()
        conf = f'Dir "{root}";\nDir::State::status "{root}/status";\nAPT::Sandbox::User "root";\nDebug::NoLocking "true";\n'
        (root / "apt.conf").write_text(conf)
        (root / "etc/apt/sources.list").write_text(f"deb [trusted=yes] http://127.0.0.1:{mirror.server_port} ./\n")
        write_program(root / "bin/docker", DOCKER)
        (root / "docker-images").touch()
        write_program(root / "bin/sync", '#!/bin/sh\ncp "$VM/docker-images" "$VM/on-disk"\n')
        cache.mkdir(exist_ok=True)

    def run(self, *command: str | Path, fails: bool = False) -> str:
        environment = {"PATH": f"{self.root}/bin:{os.environ['PATH']}", "APT_CONFIG": f"{self.root}/apt.conf"}
        result = subprocess.run(
            command,
            check=False,
            env=environment | {"VM": str(self.root)},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        assert (result.returncode != 0) is fails, result.stdout
        return result.stdout

    def provision(self) -> None:
        """Fetch the package, and have the images."""
        self.run("apt-get", "update")
        self.run("apt-get", "install", "--yes", "--download-only", "greeting")
        (self.root / "docker-images").write_text("\n".join(IMAGES) + "\n")

    def keep(self, **options: bool) -> str:
        return self.run("bash", SCRIPT, "keep", self.cache, IMAGES[2], **options)

    def restore(self) -> tuple[str, list[str]]:
        """What it says, and what need not be fetched then."""
        said = self.run("bash", SCRIPT, "restore", self.cache)
        return said, (self.root / "var/cache/users-cache").read_text().split()


@pytest.fixture
def vm(tmp_path: Path, mirror: ThreadingHTTPServer) -> VM:
    """A VM that was provisioned, and whose packages and images were kept."""
    vm = VM(tmp_path / "first", tmp_path / "cache", mirror)
    vm.provision()
    vm.keep()
    return vm


@pytest.fixture
def next_vm(tmp_path: Path, vm: VM, mirror: ThreadingHTTPServer) -> VM:
    return VM(tmp_path / "next", vm.cache, mirror)


def files(folder: Path) -> dict[str, tuple[int, int]]:
    return {file.name: (file.stat().st_ino, file.stat().st_mtime_ns) for file in folder.iterdir()}


def test_the_next_vm_has_packages_and_images_without_the_network(next_vm: VM, mirror: ThreadingHTTPServer) -> None:
    mirror.socket.close()
    said, at_hand = next_vm.restore()
    assert at_hand == ["apt", *sorted(IMAGES[:2]), IMAGES[2]]
    assert said == f"Taken from the cache: packages {' '.join(IMAGES)}.\n"
    next_vm.run("apt-get", "install", "--yes", "--download-only", "greeting")
    next_vm.run("bash", SCRIPT, "load", next_vm.cache)
    assert (next_vm.root / "on-disk").read_text().split() == IMAGES  # where a power cut leaves them


def test_what_has_not_changed_is_not_written_again(vm: VM, next_vm: VM) -> None:
    before = files(vm.cache)
    assert set(before) == {"packages.tar", "packages.tar.sha256", "images.tar", "images.tar.sha256"}
    assert vm.keep() == ""
    next_vm.restore()
    next_vm.run("bash", SCRIPT, "load", next_vm.cache)
    assert next_vm.keep() == ""
    assert files(vm.cache) == before


def test_what_has_changed_is_written_and_nothing_else(vm: VM) -> None:
    before = files(vm.cache)
    (vm.root / "docker-images").write_text("users-backend:new\n")
    assert vm.keep().startswith("images.tar of the cache is new: ")
    assert {name for name, state in files(vm.cache).items() if before[name] != state} == {
        "images.tar",
        "images.tar.sha256",
    }
    assert (vm.cache / "images.tar").read_text() == "users-backend:new\n"


@pytest.mark.parametrize(
    ("archive", "left"), [("packages.tar", IMAGES), ("images.tar", ["apt"])], ids=["packages", "images"]
)
def test_a_truncated_archive_is_noticed_removed_and_made_anew(
    vm: VM, next_vm: VM, archive: str, left: list[str]
) -> None:
    with open(vm.cache / archive, "r+b") as file:
        file.truncate((vm.cache / archive).stat().st_size // 2)
    said, at_hand = next_vm.restore()
    assert f"{archive} of the cache is damaged: it was removed, and what it held is fetched again.\n" in said
    assert at_hand == left
    assert {file.name for file in vm.cache.iterdir() if archive in file.name} == set()
    assert [*next_vm.root.glob("var/cache/apt/archives/*.deb")] == [] or archive == "images.tar"
    assert f"{archive} of the cache is new: " in vm.keep()


def test_an_archive_without_its_checksum_is_not_trusted(vm: VM, next_vm: VM) -> None:
    (vm.cache / "images.tar.sha256").unlink()
    said, at_hand = next_vm.restore()
    assert "images.tar of the cache is damaged" in said
    assert at_hand == ["apt"]


def test_images_that_the_vm_no_longer_has_are_not_put_back_among_later_ones(next_vm: VM) -> None:
    next_vm.restore()
    next_vm.run("bash", SCRIPT, "load", next_vm.cache)
    (next_vm.root / "docker-images").write_text("users-backend:new\n")
    next_vm.run("bash", SCRIPT, "load", next_vm.cache)
    assert (next_vm.root / "docker-images").read_text() == "users-backend:new\n"


def test_an_archive_that_changed_since_it_was_read_is_read_again(vm: VM, next_vm: VM) -> None:
    next_vm.restore()
    images = vm.cache / "images.tar"
    images.write_text("x" * images.stat().st_size)
    assert "images.tar of the cache is damaged" in next_vm.run("bash", SCRIPT, "load", vm.cache)
    assert (next_vm.root / "docker-images").read_text() == ""


def test_what_another_release_kept_is_removed(next_vm: VM) -> None:
    (next_vm.root / "etc/os-release").write_text("ID=ubuntu\nVERSION_ID=24.04\n")
    said, at_hand = next_vm.restore()
    assert said.count("of the cache is not of this system, ubuntu 24.04 ") == 2
    assert at_hand == []
    assert files(next_vm.cache) == {}


def test_packages_that_are_not_what_the_lists_name_must_be_fetched(vm: VM, next_vm: VM) -> None:
    for package in (vm.root / "var/cache/apt/archives").glob("*.deb"):
        package.write_bytes(b"another")
    vm.keep()
    assert next_vm.restore()[1] == IMAGES


@pytest.mark.parametrize("network", [True, False])
def test_old_lists_are_renewed_where_the_network_is_there(
    vm: VM, next_vm: VM, mirror: ThreadingHTTPServer, network: bool
) -> None:
    week_ago = (vm.cache / "packages.tar").stat().st_mtime - 8 * 24 * 3600
    os.utime(vm.cache / "packages.tar", (week_ago, week_ago))
    if not network:
        mirror.socket.close()
    said, at_hand = next_vm.restore()
    assert ("are older than 7 days and could not be renewed: they serve as they are." in said) is not network
    assert "apt" in at_hand


def test_an_image_that_cannot_be_saved_replaces_nothing(vm: VM) -> None:
    before = (vm.cache / "images.tar").read_bytes()
    (vm.root / "docker-images").write_text("users-backend:new\n")
    (vm.root / "docker-breaks").touch()
    said = vm.keep(fails=True)
    assert re.search(r"images\.tar could not be written; its disk has +[\d.]+[KMGT]? free$", said)
    assert (vm.cache / "images.tar").read_bytes() == before
    assert not (vm.cache / "images.tar.part").exists()


def test_a_vm_in_which_no_service_runs_is_not_kept(vm: VM) -> None:
    (vm.root / "docker-images").write_text("")
    shutil.rmtree(vm.root / "var/cache/apt/archives")
    before = files(vm.cache)
    assert vm.keep(fails=True) == "No service runs in this VM.\n"
    assert files(vm.cache) == before


def test_a_folder_that_is_not_shared_is_told(vm: VM) -> None:
    assert "There is no folder /nowhere." in vm.run("bash", SCRIPT, "keep", "/nowhere", "", fails=True)


KEEP = """
require "./vagrant/cache"
guest.define_singleton_method(:ready?) { READY }
guest.define_singleton_method(:sudo) { |command, **_, &output| BEHAVIOUR }
Cache.send(:remove_const, :SECONDS)
Cache::SECONDS = 1
Cache.keep(machine, { "cache_dir" => "DIR", "image" => { "base" => "python:3.13-slim" } })
"""
COMMAND = "bash /vagrant/vagrant/cache.sh keep /vagrant/.cache/test-guest python:3.13-slim"


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("output.call(:stdout, command); 0", f"success: {COMMAND}"),
        ("0", "success: Nothing in it is new."),
        ('output.call(:stderr, "No service runs in this VM."); 1', "(No service runs in this VM). The next VM fetches"),
        ('raise "no way in"', "warn: The cache was not renewed (no way in). The next VM fetches what it lacks."),
        ("sleep 60", "warn: The cache was not renewed (execution expired). The next VM fetches what it lacks."),
    ],
    ids=["new", "unchanged", "refused", "unreachable", "hanging"],
)
def test_destroy_goes_on_whatever_becomes_of_the_cache(tmp_path: Path, behaviour: str, said: str) -> None:
    assert said in destroy(tmp_path, behaviour)
    assert (tmp_path / ".cache/test-guest").is_dir()


@pytest.mark.parametrize("different", [{"state": "poweroff"}, {"folder": ""}])
def test_a_vm_that_is_off_is_not_asked_nor_where_nothing_shall_be_kept(
    tmp_path: Path, different: dict[str, str]
) -> None:
    assert destroy(tmp_path, 'raise "asked"', **different) == ""
    assert not (tmp_path / ".cache").exists()


def test_a_vm_without_ssh_is_not_waited_for(tmp_path: Path) -> None:
    assert "(the VM does not answer)" in destroy(tmp_path, "sleep 60", ready="false")


def destroy(
    project: Path, behaviour: str, state: str = "running", folder: str = ".cache/test-guest", ready: str = "true"
) -> str:
    """What is said before a VM in this state is destroyed, whose communicator behaves so."""
    shutil.copytree(ROOT / "vagrant", project / "vagrant")
    script = KEEP.replace("BEHAVIOUR", behaviour).replace("DIR", folder).replace("READY", ready)
    return run_ruby(script, project, state=state)
