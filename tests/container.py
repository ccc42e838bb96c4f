"""The VM's system without a VM: the box's disk as a container of systemd's (systemd-nspawn(1)), in which the whole
playbook runs as in the VM, with a systemd, a Docker and an address of its own, and this computer's kernel.

It boots in seconds and is as fast as this computer, which an emulated processor is not. Debian or Ubuntu, as root.
"""

import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import up
from doctor import ROOT
from machine import Machine, copy_project, insecure_key, network

NAME = "users-nspawn"  # of the network and its bridge
PREFIX, ADDRESS, GATEWAY = "10.98.0", "10.98.0.1", "10.98.0.254"  # the last one is this computer's
DHCP = f"<range start='{ADDRESS}' end='{ADDRESS}'/>"
NSPAWN = {
    "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1",  # Docker sets what the kernel does with its network
    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
    "SYSTEMD_SECCOMP": "0",  # Docker's containers need calls that nspawn's own would not
}


class Container(Machine):
    """Folders of this computer, in `work`, may be shared with it: a copy of this project as /vagrant, and /data."""

    def __init__(self, work: Path, share: bool) -> None:
        super().__init__(22, insecure_key(work), ADDRESS)
        self.work, self.project, self.data, self.share = work, work / "project", work / "data", share
        self.process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Switch it on, and wait until it answers."""
        command = [*up.SUDO, "env", *(f"{name}={value}" for name, value in NSPAWN.items())]
        command += ["setpriv", "--pdeathsig=KILL"]  # it ends with who started it, however that ends
        command += ["systemd-nspawn", "--quiet", "--boot", f"--directory={self.work}/root", "--machine=users"]
        command += ["--capability=all", "--link-journal=no", "--console=pipe", f"--network-bridge={NAME}"]
        if self.share:
            command += [f"--bind={self.project}:/vagrant", f"--bind={self.data}:/data"]
        if not os.path.isdir("/run/systemd/system"):
            command += ["--register=no", "--keep-unit"]  # nobody is there who would keep a list of containers
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=null, stdout=null)
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"systemd-nspawn has ended with {self.process.wait(1)}")
        self.wait()

    def cut_power(self) -> None:
        """End all its programs at once."""
        if self.process and self.process.poll() is None:
            inside = subprocess.check_output(["pgrep", "--parent", str(self.process.pid)], text=True).split()
            subprocess.run([*up.SUDO, "kill", "-KILL", *inside], check=True)
            self.process.wait()

    def settings(self, **settings: Any) -> dict[str, Any]:
        """Write the project's settings.local.yml: these, and what this computer's network and the base image want."""
        [base] = self.project.glob(".cache/python-base-*")
        image = {"base": "users-base:test", "base_archive": f".cache/{base.name}"}
        given = {"image": image, "network": up.company_network(), **settings}
        if certificates := given["network"]["ca_certificate"]:
            shutil.copy(ROOT / certificates, self.project / ".cache")
        (self.project / "settings.local.yml").write_text(json.dumps(given))  # JSON is YAML
        return given

    def playbook(self, *options: str, fails: bool = False) -> str:
        """Run the playbook there, as Vagrant does; what it prints."""
        command = ["ansible-playbook", "--inventory", "ansible/inventory.yml", "ansible/site.yml", *options]
        notice = "ServerAliveInterval=5"  # seconds; a container whose power is cut may not end its connections
        done = self.ssh(f"cd /vagrant && sudo ANSIBLE_CONFIG=ansible.cfg {' '.join(command)}", notice)
        assert (done.returncode != 0) is fails, done.stdout
        return done.stdout


@contextlib.contextmanager
def fresh(work: Path, system: str = "debian-13", share: bool = True) -> Iterator[Container]:
    """A container in which nothing is installed yet, in the folder `work`; nothing is left of it."""
    up.install()
    up.install_packages(["systemd-container", "procps"])
    box, base = up.build_box(system), up.build("build-base-image", "python-base", ".tar.gz")
    remove(work)  # of a run that was cut off
    (work / "root").mkdir(parents=True)
    (work / "data").mkdir()
    copy_project(work / "project")
    (work / "project/.cache").mkdir()
    shutil.copy(ROOT / base, work / "project/.cache")
    subprocess.run(["tar", "--extract", "--file", ROOT / box, "box.img"], check=True, cwd=work)
    subprocess.run(["qemu-img", "convert", "-O", "raw", "box.img", "disk.raw"], check=True, cwd=work)
    machine = Container(work, share)
    with network(NAME, PREFIX, DHCP):
        try:
            subprocess.run([*up.SUDO, "mount", "-o", "loop", work / "disk.raw", work / "root"], check=True)
            machine.boot()
            yield machine
        finally:
            machine.cut_power()
            remove(work)


def remove(work: Path) -> None:
    """Take away what there is of one."""
    if os.path.ismount(work / "root"):
        subprocess.run([*up.SUDO, "umount", work / "root"], check=True)
    subprocess.run([*up.SUDO, "rm", "-rf", work], check=True)
