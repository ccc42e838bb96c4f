"""The box for VirtualBox without VirtualBox: the disk taken out of package.box boots under QEMU, on the hardware that its
OVF names, and the whole playbook passes on it.

What only VirtualBox can show is in docs/check-virtualbox.md.
"""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import up
import yaml
from machine import EMULATION, Machine, free_port, insecure_key
from test_box import items, read_stream

import box

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/test-virtualbox"
SCREEN = ROOT / ".cache/test-virtualbox.ppm"
ENVIRONMENT = os.environ | {
    "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
    "SETTINGS_LOCAL": str((WORK / "settings.yml").relative_to(ROOT)),
}
# As vagrant 2.3 and 2.4 ask for the folder /data of our Vagrantfile (cap/mount_virtualbox_shared_folder.rb).
MOUNT = "mount -t vboxsf -o dmode=755,fmode=644,uid=1000,gid=1000{} data /mnt"
NOT_VIRTUALBOX = "vboxsf: make sure you are inside a VirtualBox VM"  # fs/vboxsf/super.c, after it has read the options

pytestmark = pytest.mark.timeout(4800)  # seconds; software emulation is slow


def run(*command: str | Path) -> str:
    """Run a command here and return what it prints; if it fails, the test shows it."""
    print(f"\n$ {' '.join(map(str, command))}", flush=True)
    result = subprocess.run(
        command, check=False, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(result.stdout, flush=True)
    assert result.returncode == 0, result.stdout[-3000:]
    return result.stdout


@pytest.fixture(scope="module")
def package() -> Iterator[Path]:
    """A folder with what package.box has in it, fresh from `make box`."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    up.install_packages([*box.PACKAGES, "vagrant", "qemu-system-x86"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(box, "BOXES", WORK / "boxes")
        box.make("virtualbox", "1.0.0", "")
    file = WORK / "boxes/virtualbox/1.0.0/package.box"
    run("tar", "--extract", "--file", file, "--directory", WORK)
    yield WORK
    shutil.rmtree(WORK)


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


def test_the_box_holds_what_vagrant_and_virtualbox_look_for(package: Path) -> None:
    assert json.loads((package / "metadata.json").read_text())["provider"] == "virtualbox"
    assert (package / "box.ovf").read_text() == (ROOT / "box/box.ovf").read_text()
    assert sum(1 for _ in read_stream(package / "box.vmdk")) > 1000
    size = (package / "boxes/virtualbox/1.0.0/package.box").stat().st_size
    assert size < 300e6, "docs/how-to.md says how large it is"


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


def test_the_whole_playbook_passes(machine: Machine) -> None:
    first = machine.wait()
    if not up.has_kvm():  # as tools/up.py does: an emulated CPU needs no defences, which double the time
        machine.says("sudo sed -i '/APPEND/s/$/ mitigations=off tsc=reliable/' /boot/extlinux/extlinux.conf")
    machine.ssh("sudo reboot")
    machine.wait(first)

    base = up.build("build-base-image", "python-base", ".tar.gz")
    image = {"base": "users-base:test", "base_archive": base}
    (WORK / "settings.yml").write_text(yaml.dump({"image": image, "network": up.company_network()}))
    (WORK / "hosts.yml").write_text(yaml.dump({"all": {"hosts": {"box": machine.way_in()}}}))
    playbook = ("ansible-playbook", "-i", WORK / "hosts.yml", "ansible/site.yml")
    assert "failed=0" in run(*playbook)
    assert "changed=0 " in run(*playbook)
    healthy = {"frontend_status": "ok", "backend_status": "ok"}
    ask = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8000/healthz').read().decode())"
    assert json.loads(machine.says(f'python3 -c "{ask}"')) == healthy
