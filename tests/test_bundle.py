"""`make bundle` with a box, packages and images that are small; vagrant/cache.sh, git, tar and Vagrant are the real ones."""

import hashlib
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bundle
import pytest
import up
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from machine import copy_project, run_with_vagrant
from test_vagrantfile import STAND_IN as VIRTUALBOX

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
SECRET = os.urandom(16).hex()  # which these files do not have
BASE = "users-base:89ab"

# Plays a Vagrant whose VM is the folder `vm`: what `vagrant ssh` is told runs here, with that VM's apt and docker.
VAGRANT = """#!/bin/sh
here=$(dirname "$0")
case "$*" in
    *status*) echo 1,default,state,running ;;
    *"ssh --command sudo bash /vagrant/"*)
        command=$(echo "$4" | sed "s,sudo ,,; s,/vagrant/,$here/../project/,g")
        APT_CONFIG=$here/../vm/apt.conf PATH=$here/../vm/bin:$PATH sh -c "$command" ;;
    *) exit 1 ;;
esac
"""
DOCKER = """#!/bin/sh
cd "$(dirname "$0")/.."
case "$*" in
    ps*) grep -v users-base images || : ;;
    *--format*) echo sha256:ID ;;
    save*) cat images.tar ;;
esac
""".replace("ID", "1d" * 32)


def status_of(*packages: str) -> bytes:
    """What dpkg says where these packages are installed, each NAME VERSION."""
    lines = (
        "Package: {}\nStatus: install ok installed\nMaintainer: A <a@example.com>\nArchitecture: amd64\nVersion: {}\n"
    )
    return "\n".join(lines.format(*package.split()) for package in packages).encode()


def tar(**files: bytes) -> bytes:
    """An archive in which these files are; __ in a name is a slash."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name.replace("__", "/"))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return output.getvalue()


def write(file: Path, content: str | bytes, mode: int = 0o644) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    file.chmod(mode)


def git(project: Path, *arguments: str) -> None:
    subprocess.run(["git", "-c", "user.name=a", "-c", "user.email=a@example.com", *arguments], check=True, cwd=project)


def make_bundle(project: Path, tools: str = "bin", **options: Any) -> tuple[int, str]:
    """Runs the program with these stand-ins; returns its exit status and what it said."""
    environment = {
        "PATH": f"{project.parent}/{tools}:{os.environ['PATH']}",
        "HOME": str(project.parent),
        "VAGRANT_HOME": str(project.parent / "home"),
    }
    command = [sys.executable, "tools/bundle.py"]
    result = subprocess.run(
        command, check=False, cwd=project, env=environment, text=True, capture_output=True, **options
    )
    return result.returncode, result.stdout + result.stderr


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which somebody worked, its running VM, and its bundle."""
    folder = tmp_path_factory.mktemp("bundle")
    project, vm = folder / "project", folder / "vm"
    copy_project(project)
    git(project, "init", "--quiet")
    git(project, "add", ".")
    git(project, "commit", "--quiet", "--message", "all")
    write(project / "LICENSE", "changed, and not committed")
    (project / "CHANGELOG.md").unlink()
    for name in ("data/users.db", "hosts.yml", "https-users", ".env", "company.pem", ".cache/company.crt"):
        write(project / name, SECRET)
    network = f"network: {{http_proxy: 'http://ana:{SECRET}@proxy.example.com:3128'}}\n"
    write(project / ".cache/machine.yml", network)
    write(project / "base.tar.gz", tar(var__lib__dpkg__status=status_of("base-files 13")))
    write(project / "my.box", tar(**{
        "metadata.json": b'{"provider": "virtualbox"}',
        "dpkg-status": status_of("openssh-server 1:10.0p1-7", "systemd 257.8-1"),
        "box.ovf": b"<Envelope><MacAddress>080027000001</MacAddress></Envelope>",
        "Vagrantfile": b'Vagrant.configure("2") { |config| config.vm.base_mac = "080027000001" }',
    }))  # fmt: skip
    image = f"image: {{base: '{BASE}', base_archive: base.tar.gz}}\n"
    write(project / "settings.local.yml", f"vm: {{box: mine, box_url: my.box}}\n{image}")

    write(vm / "etc/os-release", "ID=debian\nVERSION_ID=13\n")
    write(vm / "apt.conf", f'Dir "{vm}";\n')
    write(vm / "var/cache/apt/archives/docker.io_1%3a26.1.5_amd64.deb", "a package")
    for name in ("var/lib/apt/lists", "etc/apt/apt.conf.d"):
        (vm / name).mkdir(parents=True)
    write(vm / "bin/docker", DOCKER, 0o755)
    write(vm / "images", "\n".join([*images_of(project), BASE]) + "\n")
    layer = tar(**{
        "usr/lib/os-release": b'NAME="Ubuntu"\nID=ubuntu\n',
        "var/lib/dpkg/status": status_of("python3 3.13.5-1", "base-files 13"),
    })  # fmt: skip
    write(vm / "images.tar", tar(**{"manifest.json": b"[]", "blobs__sha256__1": layer, "blobs__sha256__2": tar(a=b"")}))

    write(project / ".vagrant/machines/default/virtualbox/id", "1")
    write(folder / "bin/vagrant", VAGRANT, 0o755)
    write(folder / "bin/VBoxManage", VIRTUALBOX, 0o755)
    write(folder / "virtualbox/VBoxManage", VIRTUALBOX, 0o755)
    status, said = make_bundle(project)
    assert status == 0, said
    assert "images.tar: 0.0 MB, 2 packages, SHA-256 " in said
    assert ".cache/bundle.box: 0.0 MB, 2 packages, SHA-256 " in said
    return folder


def images_of(project: Path) -> list[str]:
    """The images that the role builds of the project, by the program's own account."""
    names = [str(file.relative_to(project)) for file in project.glob("apps/**/*") if file.is_file()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bundle, "ROOT", project)
        return [bundle.image(service, f"apps/{service}", BASE, names) for service in ("backend", "frontend")]


@pytest.fixture
def project(made: Path, tmp_path: Path) -> Path:
    """A copy of that project, whose VM is gone, and whose packages and images were kept."""
    shutil.copytree(made, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".vagrant"))
    return tmp_path / "project"


@pytest.fixture
def unpacked(made: Path, tmp_path: Path) -> Path:
    """The folder on another computer."""
    subprocess.run(["tar", "-xf", made / "project/users-bundle.tar"], check=True, cwd=tmp_path)
    return tmp_path / "users-bundle"


def digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_it_has_the_files_of_git_as_they_are_the_box_and_the_cache_and_nothing_else(made: Path, unpacked: Path) -> None:
    assert [file.name for file in unpacked.parent.iterdir()] == ["users-bundle"]
    there = {str(file.relative_to(unpacked)) for file in unpacked.rglob("*") if file.is_file()}
    cache = {
        f".cache/guest/{name}" for name in ("packages.tar", "images.tar", "packages.tar.sha256", "images.tar.sha256")
    }
    tracked = set(subprocess.check_output(["git", "ls-files"], cwd=made / "project", text=True).splitlines())
    added = {".cache/machine.yml", ".cache/bundle.box", "base.tar.gz", "bundle.cdx.json", *cache}
    assert there == tracked - {"CHANGELOG.md"} | added
    assert (unpacked / "LICENSE").read_text() == "changed, and not committed"
    assert SECRET.encode() not in (made / "project/users-bundle.tar").read_bytes()
    with tarfile.open(made / "project/users-bundle.tar") as archive:
        assert {(entry.uid, entry.uname, entry.gid, entry.gname) for entry in archive} == {(0, "", 0, "")}
    assert os.access(unpacked / "tools/venv", os.X_OK)
    assert not os.access(unpacked / "README.md", os.X_OK)


def test_its_list_is_valid_cyclonedx_and_has_each_file_and_package(unpacked: Path) -> None:
    text = (unpacked / "bundle.cdx.json").read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None
    listed = json.loads(text)["components"]
    files = {each["name"]: each["hashes"] for each in listed}
    there = [file for file in unpacked.rglob("*") if file.is_file() and file.name != "bundle.cdx.json"]
    assert files == {str(file.relative_to(unpacked)): [{"alg": "SHA-256", "content": digest(file)}] for file in there}

    held = {
        each["name"]: {
            one.get("purl", f"{one['name']}:{one.get('version')}"): one for one in each.get("components", [])
        }
        for each in listed
    }
    assert {"pkg:deb/debian/openssh-server@1:10.0p1-7?arch=amd64", "pkg:deb/debian/systemd@257.8-1?arch=amd64"} < set(
        held[".cache/bundle.box"]
    )
    docker = held[".cache/guest/packages.tar"]["pkg:deb/debian/docker.io@1:26.1.5?arch=amd64"]
    assert docker["hashes"] == [{"alg": "SHA-256", "content": hashlib.sha256(b"a package").hexdigest()}]
    images = held[".cache/guest/images.tar"]
    assert {BASE, "pkg:deb/ubuntu/python3@3.13.5-1?arch=amd64"} < set(images)
    assert images[BASE]["hashes"] == [{"alg": "SHA-256", "content": "1d" * 32}]
    for app in ("backend", "frontend"):
        pins = (ROOT / f"apps/{app}/requirements.txt").read_text()
        listed_ = held[f"apps/{app}/requirements.txt"]
        assert {f"{one['name']}=={one['version']}" for one in listed_.values()} == set(
            re.findall(r"^[^ ]+==[^ ]+", pins, re.MULTILINE)
        )
    refs = [one["bom-ref"] for each in listed for one in [each, *each.get("components", [])]]
    assert len(set(refs)) == len(refs)


def vagrant(folder: Path, tools: Path, *arguments: str) -> str:
    """Runs the real Vagrant, with a home of its own and VirtualBox's stand-in; returns what it says."""
    return run_with_vagrant(["vagrant", "--no-tty", *arguments], folder, folder.parent, tools).stdout


def test_vagrant_takes_the_box_out_of_the_unpacked_folder_unless_it_is_damaged(made: Path, unpacked: Path) -> None:
    ports = "services: {backend: {host_port: 28080}, frontend: {host_port: 28000}}\n"
    (unpacked / "settings.local.yml").write_text(ports)
    box = unpacked / ".cache/bundle.box"
    name, whole = f"users/bundle-{digest(box)[:12]}", box.read_bytes()
    box.write_bytes(whole + b"\0")
    up_ = ("up", "--provider", "virtualbox")
    said = " ".join(vagrant(unpacked, made / "virtualbox", *up_).split())
    assert "checksum of the downloaded box did not match the expected" in said
    box.write_bytes(whole)
    said = vagrant(unpacked, made / "virtualbox", *up_)
    assert f"Successfully added box '{name}' (v0) for 'virtualbox'" in said
    assert "The stand-in for VirtualBox boots no machine." in said


def test_packages_and_images_come_out_as_the_vm_will_look_for_them(unpacked: Path) -> None:
    """cache.sh believes only what has the right checksum."""
    command = ["bash", str(unpacked / "vagrant/cache.sh"), "load", str(unpacked / ".cache/guest")]
    environment = {"PATH": f"{unpacked.parent}/bin:{os.environ['PATH']}", "APT_CONFIG": str(unpacked / "apt.conf")}
    write(unpacked / "apt.conf", f'Dir "{unpacked}";\n')
    write(unpacked / "etc/os-release", "ID=debian\nVERSION_ID=13\n")
    write(unpacked / "var/cache/users-cache", "users-backend:1\n")
    write(unpacked.parent / "bin/docker", "#!/bin/sh\necho loaded\n", 0o755)
    assert subprocess.check_output(command, env=environment, text=True) == "loaded\n"


def test_make_up_without_virtualbox_builds_nothing_where_a_bundle_was_unpacked(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = (
        "libvirt: {box: mine, box_url: my.box}\n" + (project / "settings.local.yml").read_text().split("\n", 1)[1]
    )
    (project / "settings.local.yml").write_text(settings)
    (project.parent / "bin/VBoxManage").unlink()
    status, said = make_bundle(project)
    assert status == 0, said
    other = tmp_path / "other"
    other.mkdir()
    subprocess.run(["tar", "-xf", project / "users-bundle.tar"], check=True, cwd=other)
    folder = other / "users-bundle"
    for module in (up, up.doctor):
        monkeypatch.setattr(module, "ROOT", folder)
        monkeypatch.setattr(module, "CACHE", folder / ".cache")
    monkeypatch.setattr(up, "install", lambda: None)
    monkeypatch.setattr(up, "start_libvirt", lambda: None)
    monkeypatch.setattr(up, "run_recipe", lambda *_: pytest.fail("a recipe needs the network"))
    monkeypatch.delenv("SETTINGS_LOCAL", raising=False)
    checksum = digest(folder / ".cache/bundle.box")
    for _ in range(2):  # the second time, it finds what it wrote
        up.prepare_qemu()
        found = up.read_settings()
        assert found["libvirt"] == {
            "driver": "kvm" if up.has_kvm() else "qemu",
            "box": f"users/bundle-{checksum[:12]}",
            "box_url": ".cache/bundle.box",
            "box_checksum": checksum,
        }
        assert found["image"] == {"base": BASE, "base_archive": "base.tar.gz"}


def test_a_box_that_vagrant_has_is_packed_the_newest_one(project: Path) -> None:
    for number in ("1.9.0", "1.10.0"):
        shelf = project.parent / f"home/boxes/team-VAGRANTSLASH-box/{number}/virtualbox"
        write(shelf / "metadata.json", '{"provider": "virtualbox"}')
        write(shelf / "box.ovf", number)
    image = (project / "settings.local.yml").read_text().split("\n", 1)[1]
    (project / "settings.local.yml").write_text(
        f"vm: {{box: team/box, box_url: https://boxes.example.com/box.json}}\n{image}"
    )
    status, said = make_bundle(project, "virtualbox")
    assert status == 0, said
    with tarfile.open(project / "users-bundle.tar") as archive:
        box = archive.extractfile("users-bundle/.cache/bundle.box")
        with tarfile.open(fileobj=box) as inner:
            assert inner.extractfile("./box.ovf").read() == b"1.10.0"


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda project: (project / ".cache/guest/images.tar").unlink(), "no packages and images were kept yet. Run `make up`"),
        (lambda project: write(project / ".cache/guest/packages.tar", "half"), "packages.tar of the cache is damaged. Run"),
        (lambda project: write(project / "apps/backend/src/users_backend/api.py", ""), "has no image of backend as the files are"),
        (lambda project: (project / "my.box").unlink(), "the box file my.box is not there."),
        (lambda project: write(project / "settings.local.yml", f"image: {{base: '{BASE}'}}"), "Vagrant has no box bento/ubuntu-24.04 for virtualbox"),
        (lambda project: write(project / "settings.local.yml", "cache_dir: ''"), "cache_dir is empty in the settings"),
        (lambda project: write(project / "settings.local.yml", "cache_dri: ''"), "unknown key, cache_dri"),
        (lambda project: shutil.rmtree(project / ".git"), "git does not know the files of this folder (fatal: not a git"),
    ],
    ids=["no cache", "damaged cache", "changed app", "no box file", "no box", "no cache_dir", "settings", "no git"],
)  # fmt: skip
def test_what_is_missing_is_told_and_the_bundle_of_before_stays(
    project: Path, spoil: Callable[[Path], None], said: str
) -> None:
    before = digest(project / "users-bundle.tar")
    spoil(project)
    status, output = make_bundle(project)
    assert status == 1
    assert output.startswith("make bundle stopped: ")
    assert said in output
    assert digest(project / "users-bundle.tar") == before


def test_a_full_disk_is_told_and_the_bundle_of_before_stays(project: Path) -> None:
    before = digest(project / "users-bundle.tar")
    size = (project / "users-bundle.tar").stat().st_size
    limit = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, size // 2))
    status, said = make_bundle(project, preexec_fn=limit)
    assert status == 1
    assert "users-bundle.tar could not be written (File too large). It takes" in said
    assert "make room, then run `make bundle` again." in said
    assert digest(project / "users-bundle.tar") == before
    assert not [*project.glob("users-bundle.tar.part"), *project.glob(".cache/tmp*")]


def test_a_vm_that_cannot_keep_what_it_has_is_told(project: Path, made: Path) -> None:
    shutil.copytree(made / "project/.vagrant", project / ".vagrant")
    write(project.parent / "vm/images", "users-base:89ab\n")
    status, said = make_bundle(project)
    assert status == 1
    assert "the VM could not keep them: No service runs in this VM. `make doctor` says" in said


def test_an_image_has_the_name_that_the_role_gives_it(render: Any, project: Path) -> None:
    app = project / "apps/backend"
    for name in ("tests/a.py", "src/.hidden", "src/__pycache__/a.pyc", "src/B.py", "src/_a.py", "src/a b.py"):
        write(app / name, name)
    service = {"backend": {"source": "apps/backend"}}
    given = {"service_list": service, "service_source_dir": str(project), "service_base_image": BASE}
    script = render("service", "state.sh.j2", **given)
    environment = os.environ | {"PATH": "/usr/bin:/bin"}
    output = subprocess.run(["sh"], check=False, input=script, env=environment, text=True, capture_output=True).stdout
    assert f"wants backend {images_of(project)[0]}\n" in output
