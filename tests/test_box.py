"""The box of `make box`, as far as that goes without VirtualBox and without a VM: what the OVF may say, what VirtualBox
reads of the disk, and a real Vagrant that takes a box from the catalogue and updates it.

The rules for the OVF are those of DMTF's schema DSP8023 1.1.1, whose file no package brings along, so they are written
down here (xmllint, with that file, agreed about this OVF and about wrong ones); what VirtualBox accepts is what its
reader does (src/VBox/Main/xml/ovfreader.cpp and ApplianceImplImport.cpp, 7.0), and how it reads the disk is in
vmdkStreamReadSequential (src/VBox/Storage/VMDK.cpp).
"""

import hashlib
import json
import os
import re
import shutil
import struct
import subprocess
import tarfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from unittest.mock import Mock
from xml.etree import ElementTree

import pytest
import up
from doctor import Stop
from machine import free_port, run_with_vagrant, serving, write_program

import box

ROOT = Path(__file__).resolve().parents[1]
OVF = ElementTree.parse(ROOT / "box/box.ovf").getroot()
CIM = "http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2"
SPACES = {
    "ovf": "http://schemas.dmtf.org/ovf/envelope/1",
    "rasd": f"{CIM}/CIM_ResourceAllocationSettingData",
    "vssd": f"{CIM}/CIM_VirtualSystemSettingData",
}
NAMES = {f"{{{uri}}}": f"{prefix}:" for prefix, uri in SPACES.items()}

# For each element its children, in their order: ? may be missing, + may come several times.
SCHEMA = {
    "ovf:Envelope": "ovf:References ovf:DiskSection ovf:NetworkSection ovf:VirtualSystem",
    "ovf:References": "ovf:File",
    "ovf:DiskSection": "ovf:Info ovf:Disk",
    "ovf:NetworkSection": "ovf:Info ovf:Network",
    "ovf:VirtualSystem": "ovf:Info ovf:OperatingSystemSection ovf:VirtualHardwareSection",
    "ovf:OperatingSystemSection": "ovf:Info ovf:Description?",
    "ovf:VirtualHardwareSection": "ovf:Info ovf:System ovf:Item+",
    "ovf:System": "vssd:ElementName vssd:InstanceID vssd:VirtualSystemIdentifier? vssd:VirtualSystemType?",
    "ovf:Item": "rasd:Address? rasd:AddressOnParent? rasd:AllocationUnits? rasd:AutomaticAllocation? rasd:Caption? "
    "rasd:Connection? rasd:Description? rasd:ElementName rasd:HostResource? rasd:InstanceID rasd:Parent? "
    "rasd:ResourceSubType? rasd:ResourceType rasd:VirtualQuantity?",
}
ATTRIBUTES = {
    "ovf:File": {"id", "href"},
    "ovf:Disk": {"diskId", "fileRef", "capacity", "format"},
    "ovf:Network": {"name"},
    "ovf:VirtualSystem": {"id"},
    "ovf:OperatingSystemSection": {"id"},
}
SECTOR, GRAIN = 512, 65536  # bytes


def short(name: str) -> str:
    """{namespace}Name as prefix:Name."""
    for long, prefix in NAMES.items():
        name = name.replace(long, prefix)
    return name


def items() -> dict[int, dict[str, str]]:
    """The hardware, by rasd:ResourceType."""
    found = {}
    for item in OVF.findall(".//ovf:Item", SPACES):
        values = {short(child.tag).removeprefix("rasd:"): child.text or "" for child in item}
        found[int(values["ResourceType"])] = values
    return found


def test_each_element_of_the_ovf_has_the_children_and_attributes_that_the_schema_wants_in_its_order() -> None:
    assert OVF.tag == f"{{{SPACES['ovf']}}}Envelope"
    for element in OVF.iter():
        name = short(element.tag)
        children = [short(child.tag) for child in element]
        for rule in SCHEMA.get(name, "").split():
            wanted = rule.rstrip("?+")
            assert rule.endswith("?") or children[:1] == [wanted], f"{name} has no {wanted} in its place"
            while children[:1] == [wanted]:
                children.pop(0)
                if not rule.endswith("+"):
                    break
        assert children == [], f"not in {name}, or not in this place"
        attributes = {short(attribute) for attribute in element.attrib}
        assert attributes == {f"ovf:{attribute}" for attribute in ATTRIBUTES.get(name, set())}, name
        assert len(element) or (element.text or "").strip() or attributes, f"{name} is empty"


def test_the_ovf_names_hardware_that_virtualbox_makes_and_its_own_files() -> None:
    hardware = items()
    assert set(hardware) == {3, 4, 10, 17, 20}  # processors, memory, network card, disk, SATA controller
    numbers = [item["InstanceID"] for item in hardware.values()]
    assert len(set(numbers)) == len(numbers) == 5
    assert hardware[4]["AllocationUnits"] == "byte * 2^20"  # others are refused
    assert hardware[20]["ResourceSubType"] == "AHCI"  # this, VirtioSCSI or NVMe
    assert hardware[17]["Parent"] == hardware[20]["InstanceID"]
    assert (hardware[10]["ResourceSubType"], hardware[10]["Connection"]) == ("E1000", "NAT")
    assert OVF.find(".//ovf:Network", SPACES).attrib == {f"{{{SPACES['ovf']}}}name": "NAT"}
    # An E1000 is Intel's 82540EM, which QEMU has as well, only in an OVF of VirtualBox's own kind.
    assert OVF.find(".//vssd:VirtualSystemType", SPACES).text == "virtualbox-2.2"
    file, disk = OVF.find(".//ovf:File", SPACES).attrib, OVF.find(".//ovf:Disk", SPACES).attrib
    file, disk = ({short(key): value for key, value in each.items()} for each in (file, disk))
    assert file["ovf:href"] == "box.vmdk"
    assert disk["ovf:fileRef"] == file["ovf:id"]
    assert hardware[17]["HostResource"] == f"ovf:/disk/{disk['ovf:diskId']}"
    assert int(disk["ovf:capacity"]) == 20 * 2**30  # what build-box truncates the disk to
    assert disk["ovf:format"].endswith("vmdk.html#streamOptimized")


def read_stream(vmdk: Path) -> Iterator[tuple[int, bytes]]:
    """The grains of a stream-optimised VMDK with their numbers, read as VirtualBox does: forward only, to the end."""
    last = -1
    with open(vmdk, "rb") as file:
        magic, version, flags, _, grain, _, _, tables, _, _, overhead = struct.unpack("<4sIIQQQQIQQQ", file.read(72))
        assert (magic, version, flags & 0x30000) == (b"KDMV", 3, 0x30000)  # compressed, with markers
        assert grain * SECTOR == GRAIN
        file.seek(overhead * SECTOR)
        while True:
            number, size, kind = struct.unpack("<QII", file.read(16))
            if size:
                file.seek(-4, os.SEEK_CUR)
                assert number // grain > last, "not in order"
                last = number // grain
                yield last, zlib.decompress(file.read(size))
                file.seek(-file.tell() % SECTOR, os.SEEK_CUR)
                continue
            # Behind its marker: nothing (end), a grain table, the grain directory, or the footer.
            skip = {0: 0, 1: tables * 4, 2: number * SECTOR, 3: SECTOR}[kind]
            file.seek(SECTOR - 16 + skip, os.SEEK_CUR)
            if kind == 0:
                assert file.read() == b""
                return


def disk_image(folder: Path) -> tuple[Path, dict[int, bytes]]:
    """A raw disk of 80 MiB with data here and there, and those grains."""
    data = {number: hashlib.sha256(bytes([number % 251])).digest() * (GRAIN // 32) for number in (0, 1, 511, 512, 1100)}
    raw = folder / "disk.raw"
    with open(raw, "wb") as file:
        for number, content in data.items():
            file.seek(number * GRAIN)
            file.write(content)
        file.truncate(80 * 2**20)
    return raw, data


def test_virtualbox_can_read_the_stream_to_its_end_and_qemu_reads_the_same_disk(tmp_path: Path) -> None:
    raw, data = disk_image(tmp_path)
    converter = next(line for line in (ROOT / "box/build-box").read_text().splitlines() if "VMDKstream" in line)
    script = converter.replace("$work", str(tmp_path))
    subprocess.run(["sh", "-ec", script], check=True)
    vmdk = tmp_path / "box.vmdk"
    assert dict(read_stream(vmdk)) == data
    subprocess.run(["qemu-img", "compare", "-f", "raw", "-F", "vmdk", raw, vmdk], check=True)


@pytest.mark.slow
@pytest.mark.timeout(300)  # seconds; a slow computer needs two minutes
def test_a_disk_is_whole_although_its_mount_lives_on_elsewhere(tmp_path: Path) -> None:
    up.install_packages(box.PACKAGES["debian"])
    with subprocess.Popen([*up.SUDO, ROOT / "box/debian-disk", tmp_path, "libvirt", "trixie", ""]) as build:
        while not os.path.ismount(tmp_path / "root"):
            assert build.poll() is None
            time.sleep(0.1)
        # What is mounted now is so in its namespace, too.
        with subprocess.Popen([*up.SUDO, "unshare", "--mount", "cat"], stdin=subprocess.PIPE):
            assert build.wait() == 0
            disk = ["debugfs", tmp_path / "disk.raw", "-R"]
            assert b"ssh-keygen" in subprocess.check_output([*disk, "cat /usr/local/sbin/host-keys"])
            assert b"needs_recovery" not in subprocess.check_output([*disk, "features"])


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["build-base-image", "build-box", "ubuntu-keyring"])
def test_a_recipe_without_a_network_fails_and_leaves_nothing(tmp_path: Path, recipe: str) -> None:
    up.install_packages(box.PACKAGES["debian"])
    command = [*up.SUDO, "unshare", "--net", ROOT / "box" / recipe, tmp_path / "output"]
    failed = subprocess.run(command, check=False, stderr=subprocess.PIPE, text=True)
    assert failed.returncode != 0
    assert "apt-get update" in failed.stderr
    assert list(tmp_path.iterdir()) == []


# --- make box, with a recipe that takes no minutes -----------------------------------


@pytest.fixture
def boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose recipe makes a box without a disk; returns its folder of boxes. No server of Ubuntu's answers."""
    write_program(
        tmp_path / "box/build-box",
        '#!/bin/sh\nset -eu\ncd "${1%/*}"\n'
        'printf \'{"provider": "%s", "version": "%s"}\' "$3" "$5" > metadata.json\n'
        'tar -cf package.box metadata.json ${9:+--absolute-names --transform "s,.*/,," "$9"}\nrm metadata.json\n',
    )
    monkeypatch.setattr(box, "ROOT", tmp_path)
    monkeypatch.setattr("up.ROOT", tmp_path)
    monkeypatch.setattr(box, "BOXES", tmp_path / "boxes")
    monkeypatch.setattr(box, "CACHE", tmp_path / ".cache")
    (tmp_path / ".cache").mkdir()
    monkeypatch.setattr(box, "PACKAGES", {"ubuntu": ["gpgv"], "debian": ["tar"]})
    monkeypatch.setattr(box, "IMAGE", f"http://127.0.0.1:{free_port()}/ubuntu.img")
    return tmp_path / "boxes"


def test_make_box_writes_the_box_and_lists_it_with_its_checksum(
    boxes: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    box.make("virtualbox", "1.0.0", "https://boxes.example.com/")
    box.make("virtualbox", "1.1.0", "https://boxes.example.com")
    content = json.loads((boxes / "debian-13/virtualbox/box.json").read_text())
    assert content["name"] == "users/debian-13"
    assert [version["version"] for version in content["versions"]] == ["1.0.0", "1.1.0"]
    for version in content["versions"]:
        (provider,) = version["providers"]
        file = boxes / f"debian-13/virtualbox/{version['version']}/package.box"
        assert provider["name"] == "virtualbox"
        assert provider["url"] == f"https://boxes.example.com/{version['version']}/package.box"
        assert provider["checksum_type"] == "sha256"
        assert provider["checksum"] == hashlib.sha256(file.read_bytes()).hexdigest()
    said = capsys.readouterr().out
    assert "box_url: https://boxes.example.com/box.json" in said
    assert re.search(r"SHA256SUMS could not be fetched \(.*refused\)\. So it is a box of Debian, whose packages", said)


def test_a_version_is_never_made_twice(boxes: Path) -> None:
    box.make("virtualbox", "1.0.0")
    with pytest.raises(Stop, match=r"boxes/debian-13/virtualbox/1\.0\.0 is there already\. Give another VERSION"):
        box.make("virtualbox", "1.0.0")


def test_a_version_whose_making_was_cut_off_is_made_again(boxes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(box.up, "sha256", Mock(side_effect=KeyboardInterrupt))
        box.make("virtualbox", "1.0.0")
    assert (boxes / "debian-13/virtualbox/1.0.0/package.box").exists()
    box.make("virtualbox", "1.0.0")
    assert '"version": "1.0.0"' in (boxes / "debian-13/virtualbox/box.json").read_text()


def test_a_version_that_vagrant_would_refuse_is_refused(boxes: Path) -> None:
    with pytest.raises(Stop, match=r'VERSION is "v1"; it must be numbers with dots'):
        box.make("virtualbox", "v1", "")
    assert not boxes.exists()


def test_a_failed_build_leaves_nothing_and_says_why(boxes: Path) -> None:
    (boxes.parent / "box/build-box").write_text("#!/bin/sh\necho the mirror is on fire\nexit 1\n")
    with pytest.raises(Stop, match=r"(?s)box/build-box failed.*the mirror is on fire"):
        box.make("virtualbox", "1.0.0")
    assert list((boxes / "debian-13/virtualbox/1.0.0").iterdir()) == []


def test_another_system_is_told_where_to_build(boxes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    with pytest.raises(Stop, match=r"on Debian or Ubuntu \(x86_64\); this is Linux \(arm64\)\. Run `make box` on such"):
        box.make("virtualbox", "1.0.0")


def test_the_recipe_refuses_a_provider_that_it_does_not_know(tmp_path: Path) -> None:
    recipe = [ROOT / "box/build-box", tmp_path / "package.box", "--provider", "vmware"]
    result = subprocess.run(recipe, check=False, text=True, capture_output=True)
    assert result.returncode == 2
    assert result.stderr == "build-box: the provider is libvirt or virtualbox, not vmware\n"
    assert list(tmp_path.iterdir()) == []


# --- make box from Ubuntu's image ----------------------------------------------------


@contextmanager
def web_server(folder: Path) -> Iterator[str]:
    """Serves a folder; yields its address."""
    with serving(partial(SimpleHTTPRequestHandler, directory=folder)) as server:
        yield f"http://127.0.0.1:{server.server_port}"


@contextmanager
def ubuntu_server(folder: Path, image: Path) -> Iterator[str]:
    """A stand-in for Ubuntu's server, which has one image and signs with a key of the test's; yields its address.

    Beside `folder` with what is served lies keyring.gpg.
    """
    folder.mkdir(parents=True)
    shutil.copy(image, folder / "ubuntu.img")
    digest = hashlib.sha256(image.read_bytes()).hexdigest()
    (folder / "SHA256SUMS").write_text(f"{'0' * 64} *other-ubuntu.img\n{digest} *ubuntu.img\n")
    home = folder.parent / "gnupg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--quiet", "--batch", "--homedir", home]
    key = [*gpg, "--passphrase", "", "--quick-generate-key", "test", "ed25519", "sign"]
    sign = [*gpg, "--detach-sign", "--output", folder / "SHA256SUMS.gpg", folder / "SHA256SUMS"]
    try:
        for command in (key, sign, [*gpg, "--output", folder.parent / "keyring.gpg", "--export"]):
            subprocess.run(command, check=True)
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "gpg-agent"], check=True)
    with web_server(folder) as url:
        yield url


@pytest.fixture
def ubuntu(boxes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder that the stand-in for Ubuntu's server serves."""
    image = tmp_path / "image"
    image.write_text("Ubuntu's disk")
    with ubuntu_server(tmp_path / "server/files", image) as url:
        monkeypatch.setattr(box, "IMAGE", f"{url}/ubuntu.img")
        monkeypatch.setattr(box, "keyring", lambda: tmp_path / "server/keyring.gpg")
        yield tmp_path / "server/files"


def test_the_box_is_made_from_the_image_that_ubuntu_signed(boxes: Path, ubuntu: Path) -> None:
    box.make("virtualbox", "1.0.0")
    shelf = boxes / "ubuntu-24.04/virtualbox"
    assert json.loads((shelf / "box.json").read_text())["name"] == "users/ubuntu-24.04"
    with tarfile.open(shelf / "1.0.0/package.box") as package:
        assert package.extractfile("ubuntu.img").read() == b"Ubuntu's disk"


def test_an_image_that_is_there_is_not_fetched_again_unless_ubuntu_has_another(boxes: Path, ubuntu: Path) -> None:
    box.make("virtualbox", "1.0.0")
    (ubuntu / "ubuntu.img").unlink()
    box.make("virtualbox", "1.1.0", system="ubuntu")
    (boxes.parent / ".cache/ubuntu.img").write_text("an older one")
    with pytest.raises(Stop, match=r"ubuntu\.img could not be fetched \(File not found\)"):
        box.make("virtualbox", "1.2.0", system="ubuntu")
    box.make("virtualbox", "1.2.0", system="debian")
    assert (boxes / "debian-13/virtualbox/1.2.0/package.box").exists()


def test_an_image_that_ubuntu_did_not_sign_makes_no_box(boxes: Path, ubuntu: Path) -> None:
    image, sums = ubuntu / "ubuntu.img", ubuntu / "SHA256SUMS"
    image.write_text("another disk")
    with pytest.raises(Stop, match=r"ubuntu\.img was damaged on its way: it has not the checksum that Ubuntu signed"):
        box.make("virtualbox", "1.0.0")
    sums.write_text(f"{hashlib.sha256(image.read_bytes()).hexdigest()} *ubuntu.img\n")
    with pytest.raises(Stop, match=r"SHA256SUMS is not signed by Ubuntu.*SYSTEM=debian"):
        box.make("virtualbox", "1.0.0")
    assert not boxes.exists()
    assert list((boxes.parent / ".cache").iterdir()) == []


@pytest.mark.parametrize(("last_act", "end"), [("echo status", 1), ("true", 0)])
def test_a_disk_that_was_switched_off_too_early_or_not_set_up_makes_no_box(
    tmp_path: Path, last_act: str, end: int
) -> None:
    """QEMU is a stand-in, which ends before the disk is written, or without the set-up's last act."""
    write_program(
        tmp_path / "bin/qemu-system-x86_64",
        f"#!/bin/sh\ncd {tmp_path}\necho no such package > log\n: > console\n{last_act} > dpkg-status\nexit {end}\n",
    )
    (tmp_path / "image").write_bytes(bytes(2**20))
    recipe = [ROOT / "box/ubuntu-disk", tmp_path, tmp_path / "image", "tcg", "ansible-core"]
    environment = os.environ | {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}"}
    result = subprocess.run(recipe, check=False, text=True, capture_output=True, env=environment)
    assert result.returncode == 1
    assert result.stderr.endswith("did not set itself up. The last that it said:\nno such package\n")
    assert not (tmp_path / "disk.raw").exists()


def test_a_list_without_the_image_is_said_to_be_one(boxes: Path, ubuntu: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(box, "IMAGE", box.IMAGE.replace("ubuntu.img", "another.img"))
    with pytest.raises(Stop, match=r"SHA256SUMS does not list another\.img"):
        box.make("virtualbox", "1.0.0")


def test_whoever_wants_ubuntu_gets_nothing_else(boxes: Path) -> None:
    with pytest.raises(Stop, match=r"SHA256SUMS could not be fetched \(.*refused\)"):
        box.make("virtualbox", "1.0.0", system="ubuntu")
    assert not boxes.exists()


def test_a_full_disk_is_said_to_be_one(tmp_path: Path, ubuntu: Path) -> None:
    full = tmp_path / "image.part"
    full.symlink_to("/dev/full")
    with pytest.raises(Stop, match=r"image could not be written \(No space left on device\)\. Make room"):
        box.fetch(box.IMAGE, tmp_path / "image")
    assert not full.is_symlink()


@pytest.mark.slow
def test_the_keys_are_those_that_ubuntu_signs_its_images_with() -> None:
    """As Ubuntu publishes their fingerprints; Debian's package has them."""
    up.install_packages(["mmdebstrap", "debian-archive-keyring"])
    command = ["gpg", "--show-keys", "--with-colons", box.keyring()]
    listed = subprocess.check_output(command, text=True)
    assert re.findall(r"^fpr:+(\w+):", listed, re.MULTILINE) == [
        "D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81",  # UEC Image Automatic Signing Key
        "4A3CE3CD565D7EB5C810E2B97FF3F408476CF100",  # Ubuntu Cloud Image Builder
    ]


# --- A real Vagrant ------------------------------------------------------------------


def vagrant(home: Path, *arguments: str) -> str:
    """Run Vagrant, with a home of its own, in a project that uses the box; return what it prints."""
    return run_with_vagrant(["vagrant", "--no-tty", *arguments], home, home).stdout


@pytest.mark.slow
def test_vagrant_takes_the_box_from_the_catalogue_and_updates_it(boxes: Path, tmp_path: Path) -> None:
    """From a web server; and in the form of files, which `make box` without an address writes."""
    shelf = boxes / "debian-13/virtualbox"
    shelf.mkdir(parents=True)
    with web_server(shelf) as url:
        for address, one, two in ((url, "1.0.0", "1.1.0"), ("", "2.0.0", "2.1.0")):
            shelf_url = address or shelf.as_uri()
            box.make("virtualbox", one, address)
            assert f"Successfully added box 'users/debian-13' (v{one}) for 'virtualbox'" in vagrant(
                tmp_path, "box", "add", "--provider", "virtualbox", f"{shelf_url}/box.json"
            )
            assert "A newer version" not in vagrant(tmp_path, "box", "outdated", "--global")
            box.make("virtualbox", two, address)
            assert f"is outdated! Current: {one}. Latest: {two}" in vagrant(tmp_path, "box", "outdated", "--global")
            update = ("box", "update", "--box", "users/debian-13", "--provider", "virtualbox")
            assert f"Successfully added box 'users/debian-13' (v{two}) for 'virtualbox'" in vagrant(tmp_path, *update)
            assert f"(virtualbox, {two})" in vagrant(tmp_path, "box", "list")
            shutil.rmtree(tmp_path / "home")


def test_vagrant_refuses_a_box_that_is_not_the_one_of_the_catalogue(boxes: Path, tmp_path: Path) -> None:
    box.make("virtualbox", "1.0.0")
    with tarfile.open(boxes / "debian-13/virtualbox/1.0.0/package.box", "a") as file:
        file.add(ROOT / "LICENSE", "LICENSE")
    output = vagrant(
        tmp_path, "box", "add", "--provider", "virtualbox", f"{(boxes / 'debian-13/virtualbox').as_uri()}/box.json"
    )
    assert "checksum of the downloaded box did not match the expected" in " ".join(output.split())
    assert "There are no installed boxes!" in vagrant(tmp_path, "box", "list")
