"""`make up` where it cannot go on: one sentence each, and what to do next."""

import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from collections import namedtuple
from pathlib import Path

import doctor
import pytest
import up
from machine import write_program

ROOT = Path(__file__).resolve().parents[1]


def test_another_system_is_told_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "system", lambda: "Darwin")
    with pytest.raises(
        up.Stop, match=r"(?s)this system \(Darwin\).*brew install --cask virtualbox vagrant.*make local"
    ):
        up.check_machine()


def test_ubuntu_which_has_no_vagrant_is_told_so_before_anything_is_installed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "os-release").write_text('PRETTY_NAME="Ubuntu 24.04.1 LTS"\nID=ubuntu\nID_LIKE=debian\n')
    monkeypatch.setattr(doctor, "OS_RELEASE", tmp_path / "os-release")
    with pytest.raises(
        up.Stop, match=r"(?s)this system \(Ubuntu 24.04.1 LTS\) is not Debian.*vagrantup.com.*make local"
    ):
        up.check_machine()


def test_a_ctrl_c_leaves_vagrant_the_time_to_clean_up(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`make up`, whose `vagrant` here is a stand-in: a shell that needs a second to end."""
    write_program(
        tmp_path / "vagrant",
        "#!/bin/sh\ntrap 'sleep 1; echo cleaned up; exit 1' INT\necho up\nsleep 9 > /dev/null & wait\n",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    command = [sys.executable, "-c", "import up; raise SystemExit(up.vagrant_up(qemu=False))"]
    with subprocess.Popen(
        command, cwd=ROOT / "tools", text=True, stdout=subprocess.PIPE, start_new_session=True
    ) as made:
        assert made.stdout and [made.stdout.readline() for _ in range(2)] == ["vagrant up ...\n", "up\n"]
        os.killpg(made.pid, signal.SIGINT)
        assert made.stdout.read() == "cleaned up\n"
    assert made.returncode == 1


def test_another_processor_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    with pytest.raises(up.Stop, match=r"for x86_64; this machine is aarch64.*make local"):
        up.check_machine()


def test_no_sudo_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(shutil, "which", lambda tool: None if tool == "sudo" else which(tool))
    with pytest.raises(up.Stop, match="there is no sudo here. Run `make up` as root"):
        up.check_machine()


def test_what_make_up_found_before_is_forgotten_when_a_file_of_it_is_gone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(up, "ROOT", tmp_path)
    monkeypatch.setattr(up, "CACHE", tmp_path / ".cache")
    up.forget_what_is_gone()
    found, base, box = (tmp_path / ".cache" / name for name in ("machine.yml", "base.tar.gz", "any.box"))
    found.parent.mkdir()
    text = '{"libvirt": {"box_url": ".cache/any.box"}, "image": {"base": "a:b", "base_archive": ".cache/base.tar.gz"}}'
    for file in (found, base, box):
        file.write_text(json.dumps(json.loads(text), indent=2))
    up.forget_what_is_gone()
    assert found.exists()
    base.unlink()
    up.forget_what_is_gone()
    assert not found.exists()


def test_a_certificate_may_have_a_comment_that_is_not_utf8(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "own.pem"
    own.write_bytes("# João\n-----BEGIN CERTIFICATE-----\n".encode("latin-1"))
    monkeypatch.setattr(Path, "rglob", lambda *_: [])  # whatever certificates this machine has
    monkeypatch.setenv("PIP_CERT", str(own))
    monkeypatch.setattr(up, "CACHE", tmp_path / "cache")
    assert up.company_network()["ca_certificate"] == ".cache/company.crt"
    assert (tmp_path / "cache/company.crt").read_bytes() == own.read_bytes()


def test_a_small_disk_is_told_how_much_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(doctor, "CACHE", tmp_path)  # nothing was built before
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(20e9, 18e9, 2e9))
    with pytest.raises(up.Stop, match=r"has 2.0 GB free; the VM needs 10 GB. Make room first"):
        up.check_machine()


def test_little_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 250_000}.__getitem__)
    with pytest.raises(up.Stop, match=r"has 1.0 GB of memory; the VM needs 3 GB.*make local"):
        up.check_machine()


def test_a_recipe_has_the_proxy_and_its_failure_does_not_tell_the_password(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(up, "ROOT", tmp_path)
    monkeypatch.setenv("http_proxy", "http://ana:geheim@proxy.example.com:3128")
    write_program(tmp_path / "box/recipe", '#!/bin/sh\necho "$http_proxy" > "$1"\necho no network\nexit 1\n')
    with pytest.raises(up.Stop, match=r"(?s)box/recipe failed.*no network") as stop:
        up.run_recipe("recipe", tmp_path / "output")
    assert "geheim" not in str(stop.value)
    assert "geheim" in (tmp_path / "output").read_text()


def test_unreachable_package_mirrors_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The real apt-get, with a proxy that nobody runs (port 9 is reserved for discarding, RFC 863)."""
    monkeypatch.setattr(up, "PACKAGES", ["no-such-package-of-ours"])
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    (tmp_path / "apt.conf").write_text('Acquire::Retries "0"; Debug::NoLocking "1";')
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    said = r"(?s)Behind a company proxy.*no-such-package-of-ours could not be installed.*Unable to locate package"
    with pytest.raises(up.Stop, match=said):
        up.install()


def test_a_box_is_built_once_and_again_when_its_recipe_changes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recipe = tmp_path / "box/build-box"
    write_program(recipe, '#!/bin/sh\necho "$2" > "$1"\n')
    monkeypatch.setattr(up, "ROOT", tmp_path)
    monkeypatch.setattr(up, "CACHE", tmp_path / ".cache")

    first = tmp_path / up.build("build-box", "debian", ".box", "argument")
    assert first.read_text() == "argument\n"
    time_of_build = first.stat().st_mtime_ns
    assert tmp_path / up.build("build-box", "debian", ".box", "argument") == first
    assert first.stat().st_mtime_ns == time_of_build

    recipe.write_text('#!/bin/sh\necho new > "$1"\n')
    second = tmp_path / up.build("build-box", "debian", ".box", "argument")
    assert {*(tmp_path / ".cache").iterdir()} == {second, Path(f"{second}.sha256")}  # the old one is gone
    assert tmp_path / up.build("build-box", "debian", ".box", "another") != second

    sibling = tmp_path / up.build("build-box", "debian-cloud", ".box", "argument")
    up.build("build-box", "debian", ".box", "a third")
    assert sibling.exists()


@pytest.mark.parametrize("damage", ["", "argumenT\n", None])
def test_a_box_that_is_damaged_or_gone_is_built_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, damage: str | None
) -> None:
    write_program(tmp_path / "box/build-box", '#!/bin/sh\necho "$2" > "$1"\n')
    monkeypatch.setattr(up, "ROOT", tmp_path)
    monkeypatch.setattr(up, "CACHE", tmp_path / ".cache")
    box = tmp_path / up.build("build-box", "debian", ".box", "argument")
    box.unlink() if damage is None else box.write_text(damage)
    up.build("build-box", "debian", ".box", "argument")
    assert box.read_text() == "argument\n"


def test_an_unknown_option_is_refused() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "tools/up.py"), "--fast"], check=False, text=True, capture_output=True
    )
    assert result.returncode == 2
    assert "unrecognized arguments: --fast" in result.stderr
