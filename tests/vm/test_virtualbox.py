"""The boxes for VirtualBox without VirtualBox: the disk taken out of package.box boots under QEMU, on the hardware that its
OVF names, and the whole playbook passes on Debian's.

Ubuntu's box is made from a stand-in for Ubuntu's image: Debian with cloud-init and netplan, and as Ubuntu delivers it,
without anything that Vagrant expects. What only VirtualBox can show is in docs/check-virtualbox.md.
"""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import up
import yaml
from machine import EMULATION, Machine, free_port, insecure_key, of_this_computer, run_here
from test_box import items, read_stream, ubuntu_server

import box

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/test-virtualbox"
SCREEN = ROOT / ".cache/test-virtualbox.ppm"
# As vagrant 2.3 and 2.4 ask for the folder /data of our Vagrantfile (cap/mount_virtualbox_shared_folder.rb).
MOUNT = "mount -t vboxsf -o dmode=755,fmode=644,uid=1000,gid=1000{} data /mnt"
OF_UBUNTU = {  # what of box.ovf is another in Ubuntu's box
    "debian-13": "ubuntu-24.04",
    "Debian 13": "Ubuntu 24.04",
    "Debian_64": "Ubuntu_64",
    'OperatingSystemSection ovf:id="96"': 'OperatingSystemSection ovf:id="94"',
}
NOT_VIRTUALBOX = "vboxsf: make sure you are inside a VirtualBox VM"  # fs/vboxsf/super.c, after it has read the options

pytestmark = pytest.mark.timeout(4800)  # seconds; software emulation is slow


run = partial(run_here, settings=WORK / "settings.yml")


def image() -> Path:
    """The stand-in for Ubuntu's image."""
    recipes = WORK / "recipes"
    shutil.copytree(ROOT / "box", recipes)
    (recipes / "for-vagrant").write_text(
        "#!/bin/sh\nset -eu\nrm /etc/systemd/network/80-dhcp.network\nmkdir -p /boot/grub\n"
        """echo 'GRUB_CMDLINE_LINUX_DEFAULT="console=tty1 console=ttyS0"' > /etc/default/grub.d/50-cloudimg-settings.cfg\n"""
    )
    packages = "cloud-init,netplan.io,grub2-common,openssh-server"
    emulated = () if up.has_kvm() else ("mitigations=off", "tsc=reliable")
    run(recipes / "debian-disk", WORK, "virtualbox", "trixie", packages, "console=ttyS0", *emulated)
    (WORK / "root").rmdir()
    run("qemu-img", "convert", "-O", "qcow2", WORK / "disk.raw", WORK / "image")
    (WORK / "disk.raw").unlink()
    return WORK / "image"


@pytest.fixture(scope="module", params=box.SYSTEMS.values())
def system(request: pytest.FixtureRequest) -> str:
    """What is in the box."""
    return str(request.param)


@pytest.fixture(scope="module")
def package(system: str) -> Iterator[Path]:
    """A folder with what package.box has in it, fresh from `make box`."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    up.install_packages(sorted({*box.PACKAGES["ubuntu"], *box.PACKAGES["debian"], "vagrant", "gnupg"}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box, "BOXES", WORK / "boxes")
        if system == box.SYSTEMS["ubuntu"]:
            with ubuntu_server(WORK / "server/files", image()) as url:
                patch.setattr(box, "CACHE", WORK)
                patch.setattr(box, "IMAGE", f"{url}/ubuntu.img")
                patch.setattr(box, "keyring", lambda: WORK / "server/keyring.gpg")
                box.make("virtualbox", "1.0.0", system="ubuntu")
        else:
            box.make("virtualbox", "1.0.0", system="debian")
    run("tar", "--extract", "--file", file_of(system), "--directory", WORK)
    yield WORK
    shutil.rmtree(WORK)


def file_of(system: str) -> Path:
    return WORK / f"boxes/{system}/virtualbox/1.0.0/package.box"


@pytest.fixture(scope="module")
def machine(package: Path) -> Iterator[Machine]:
    """A VM with that disk. QEMU only reads it; what the VM writes goes into a file beside it."""
    run("qemu-img", "create", "-f", "qcow2", "-F", "vmdk", "-b", package / "box.vmdk", package / "disk.qcow2")
    hardware = items()
    controller = {"AHCI": "ich9-ahci"}[hardware[20]["ResourceSubType"]]
    card = {"E1000": "e1000"}[hardware[10]["ResourceSubType"]]
    port = free_port()
    command = ["qemu-system-x86_64", "-machine", "pc", *EMULATION, "-display", "none", "-serial", "none"]
    command += ["-smp", hardware[3]["VirtualQuantity"], "-m", hardware[4]["VirtualQuantity"]]
    command += ["-device", f"{controller},id=controller", "-device", "ide-hd,drive=disk,bus=controller.0"]
    command += ["-drive", f"if=none,id=disk,file={package}/disk.qcow2,cache=unsafe"]
    command += ["-nic", f"user,model={card},hostfwd=tcp:127.0.0.1:{port}-:22", "-monitor", "stdio"]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as vm:
        try:
            found = Machine(port, insecure_key(WORK))
            try:
                found.wait()
            except AssertionError:
                assert vm.stdin
                vm.stdin.write(f"screendump {SCREEN}\n")
                vm.stdin.flush()
                time.sleep(5)
                raise
            yield found
        finally:
            vm.kill()


def test_the_box_holds_what_vagrant_and_virtualbox_look_for(package: Path, system: str) -> None:
    assert json.loads((package / "metadata.json").read_text())["provider"] == "virtualbox"
    ovf, ours = (package / "box.ovf").read_text(), (ROOT / "box/box.ovf").read_text()
    if system == box.SYSTEMS["ubuntu"]:
        for old, new in OF_UBUNTU.items():
            assert old in ours
            ours = ours.replace(old, new)
    assert ovf == ours
    assert f"config.vm.guest = :{system.split('-')[0]}\n" in (package / "Vagrantfile").read_text()
    assert sum(1 for _ in read_stream(package / "box.vmdk")) > 1000
    if system == box.SYSTEMS["debian"]:
        assert file_of(system).stat().st_size < 300e6, "docs/how-to.md says how large it is"


def test_it_boots_with_nothing_failed_and_lets_in_who_has_the_key(machine: Machine) -> None:
    machine.ssh("systemctl is-system-running --wait")
    assert machine.says("systemctl --failed --no-legend") == ""
    assert machine.says("findmnt --noheadings --output SOURCE,FSTYPE /").split() == ["/dev/sda", "ext4"]
    assert machine.says("basename $(readlink /sys/class/net/eth0/device/driver)") == "e1000\n"
    assert machine.says("sudo id -u") == "0\n"
    held = machine.says("apt-mark showhold").split()
    assert held == ["linux-image-" + machine.says("uname -r").strip(), "linux-image-amd64"]
    # Vagrant replaces the key by adding a line and taking this one away.
    assert machine.says("stat --format '%U %a' ~/.ssh ~/.ssh/authorized_keys") == "vagrant 700\nvagrant 600\n"


def test_it_is_a_machine_of_its_own_with_ansible(package: Path, machine: Machine) -> None:
    assert machine.says("hostname") == "users\n"
    assert machine.says("sudo sh -c 'ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub && test -s /etc/machine-id'")
    assert (package / "dpkg-status").read_text() == machine.says("cat /var/lib/dpkg/status")
    assert machine.says("ls -A /var/lib/apt/lists | wc -l; ansible-playbook --version | head -c 7") == "0\nansible"


def test_nobody_gets_in_with_a_password(machine: Machine) -> None:
    refused = machine.ssh("true", "PreferredAuthentications=none,password,keyboard-interactive", "BatchMode=yes")
    assert "Permission denied (publickey)." in refused.stderr
    assert machine.says("sudo cut -d: -f2 /etc/shadow | sort -u") == "!\n!*\n*\n"


def test_the_kernel_brings_shared_folders_and_understands_how_vagrant_asks_for_them(machine: Machine) -> None:
    """As far as that goes without VirtualBox: the driver reads all options, and only then misses the host."""
    assert machine.ssh("ls /sbin/mount.vboxsf").returncode != 0, (
        "the old helper's way is refused by the kernel's driver"
    )
    assert "vboxguest" in machine.says("sudo modprobe vboxsf && grep ^vboxguest /proc/modules")
    for more, understood in ((",_netdev", True), ("", True), (",nonsense=1", False)):
        machine.says("sudo dmesg --clear")
        assert machine.ssh("sudo " + MOUNT.format(more)).returncode != 0
        assert (NOT_VIRTUALBOX in machine.says("sudo dmesg")) is understood, more


@pytest.mark.parametrize("system", [box.SYSTEMS["ubuntu"]], indirect=True)
def test_ubuntu_starts_without_a_cloud_and_without_a_serial_port(machine: Machine) -> None:
    """What box/ubuntu-setup did to the image."""
    assert machine.ssh("cloud-init status").stdout == "status: disabled\n"
    assert machine.says("sudo ls /etc/netplan") == "80-dhcp.yaml\n"
    assert machine.says("id -nu 1000; ls /home") == "vagrant\nvagrant\n"
    grub = machine.says("sudo cat /boot/grub/grub.cfg")
    assert "quiet panic=10" in grub
    assert "ttyS0" not in grub


@pytest.mark.parametrize("system", [box.SYSTEMS["debian"]], indirect=True)
def test_the_whole_playbook_passes(machine: Machine) -> None:
    first = machine.wait()
    if not up.has_kvm():  # as tools/up.py does: an emulated CPU needs no defences, which double the time
        machine.says("sudo sed -i '/APPEND/s/$/ mitigations=off tsc=reliable/' /boot/extlinux/extlinux.conf")
    machine.ssh("sudo reboot")
    machine.wait(first)

    (WORK / "settings.yml").write_text(yaml.dump(of_this_computer()))
    (WORK / "hosts.yml").write_text(yaml.dump({"all": {"hosts": {"box": machine.way_in()}}}))
    playbook = ("ansible-playbook", "-i", WORK / "hosts.yml", "ansible/site.yml")
    assert "failed=0" in run(*playbook)
    assert "changed=0 " in run(*playbook)
    healthy = {"frontend_status": "ok", "backend_status": "ok"}
    ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8000/healthz').read().decode())"
    assert json.loads(machine.says(f'python3 -c "{ask}"')) == healthy
