"""What tests do to VMs from outside: cut off Vagrant's, end libvirt, reach those that are booted without Vagrant."""

import contextlib
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import up
from doctor import ROOT

EMULATION = ["-accel", "kvm", "-cpu", "host"] if up.has_kvm() else ["-accel", "tcg,thread=multi", "-cpu", "qemu64"]

VIRSH = ["virsh", "--connect", "qemu:///system"]
LIBVIRTD, VIRTLOGD = Path("/run/libvirtd.pid"), Path("/run/virtlogd.pid")
NETWORK = "192.168.121.0/24"  # vagrant-libvirt's own
RULE = "users-test"  # how our rule is called in the firewall


def pid(file: Path) -> int | None:
    """The process that a pid file names, if it is alive."""
    if not file.exists():
        return None
    process = int(file.read_text())
    return process if Path(f"/proc/{process}").exists() else None


@contextlib.contextmanager
def libvirt_as_before() -> Iterator[None]:
    """In the end, libvirt's daemons run only if they did so before."""
    running = {file: pid(file) for file in (LIBVIRTD, VIRTLOGD)}
    try:
        yield
    finally:
        if not running[LIBVIRTD] and pid(LIBVIRTD):
            for network in subprocess.check_output([*VIRSH, "net-list", "--name"], text=True).split():
                subprocess.run([*VIRSH, "net-destroy", network], check=True)  # ends its dnsmasq
        for file, before in running.items():
            process = pid(file)
            if process and process != before:
                os.kill(process, signal.SIGTERM)


@contextlib.contextmanager
def cut_off(network: str = NETWORK) -> Iterator[None]:
    """While it lasts, no VM of Vagrant's, or of another network, reaches any other machine than this one."""
    rule = ["FORWARD", "--source", network, "--match", "comment", "--comment", RULE, "--jump", "REJECT"]
    subprocess.run([*up.SUDO, "iptables", "--insert", *rule], check=True)
    try:
        yield
    finally:
        let_out()


def let_out() -> None:
    """Take the rule of `cut_off` away, also one of a run that was cut off itself."""
    for line in subprocess.check_output([*up.SUDO, "iptables", "--list-rules", "FORWARD"], text=True).splitlines():
        if RULE in line:
            subprocess.run([*up.SUDO, "iptables", "--delete", *shlex.split(line)[1:]], check=True)


@contextlib.contextmanager
def network(name: str, prefix: str, dhcp: str) -> Iterator[None]:
    """While it lasts, libvirt's network of that name: PREFIX.0/24, with a way out, and these leases."""
    definition = f"""
<network>
  <name>{name}</name>
  <forward mode='nat'/>
  <bridge name='{name}' stp='off'/>
  <ip address='{prefix}.254' netmask='255.255.255.0'><dhcp>{dhcp}</dhcp></ip>
</network>"""
    with libvirt_as_before():
        up.start_libvirt()
        subprocess.run([*VIRSH, "net-destroy", name], check=False, capture_output=True)  # of a run that was cut off
        subprocess.run([*VIRSH, "net-create", "/dev/stdin"], check=True, input=definition, text=True)
        try:
            yield
        finally:
            subprocess.run([*VIRSH, "net-destroy", name], check=True)


def copy_project(to: Path) -> None:
    """Copy the files that git tracks or would, as they are now."""
    files = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.check_output(files, cwd=ROOT, text=True).rstrip("\0").split("\0"):
        if (ROOT / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, to / name)


def write_program(file: Path, text: str) -> None:
    """Put a program, mostly a stand-in, where a PATH will lead to it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


def run_with_vagrant(
    command: list[str], folder: Path, home: Path, tools: Path | str = "", **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run the real Vagrant, or what runs it, in a folder, with a home of its own and the programs in `tools`."""
    own = {"PATH": f"{tools}:{os.environ['PATH']}", "HOME": str(home), "VAGRANT_HOME": str(home / "home")}
    own |= {"VAGRANT_CHECKPOINT_DISABLE": "1"} | environment
    return subprocess.run(
        command, check=False, cwd=folder, env=own, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def insecure_key(work: Path) -> Path:
    """Vagrant's own copy of the well-known key, where 2.4 puts it or, before that, 2.3."""
    home = work / "home"
    environment = os.environ | {"VAGRANT_HOME": str(home), "VAGRANT_CHECKPOINT_DISABLE": "1"}
    subprocess.run(["vagrant", "global-status"], check=True, cwd="/", env=environment, stdout=subprocess.DEVNULL)
    new, old = home / "insecure_private_keys/vagrant.key.rsa", home / "insecure_private_key"
    return new if new.exists() else old


class Machine:
    """The booted box, as Vagrant reaches it."""

    def __init__(self, port: int, key: Path, host: str = "127.0.0.1") -> None:
        self.port, self.key, self.host = port, key, host

    def words(self, command: str, *options: str) -> list[str | Path]:
        """The command here that runs one in the VM as the user vagrant."""
        quiet = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectTimeout=60")
        given = [word for option in (*quiet, "IdentitiesOnly=yes", *options) for word in ("-o", option)]
        return ["ssh", *given, "-i", self.key, "-p", str(self.port), f"vagrant@{self.host}", command]

    def ssh(self, command: str, *options: str, seconds: int = 600) -> subprocess.CompletedProcess[str]:
        """Run one there, which may take so long."""
        words = self.words(command, *options)
        return subprocess.run(
            words, check=False, text=True, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds
        )

    def says(self, command: str) -> str:
        """What a command prints, which must succeed."""
        result = self.ssh(command)
        assert result.returncode == 0, result
        return result.stdout

    def wait(self, other_than: str = "") -> str:
        """Wait for it to answer, after a reboot under another number of its boot, which is returned."""
        deadline = time.monotonic() + 900
        while time.monotonic() < deadline:
            with contextlib.suppress(subprocess.TimeoutExpired):  # a connection that was made too early may hang
                number = self.ssh("cat /proc/sys/kernel/random/boot_id", seconds=90).stdout
                if number and number != other_than:
                    return number
            time.sleep(1)
        raise AssertionError("no answer over SSH")

    def way_in(self) -> dict[str, object]:
        """Its variables in an inventory of Ansible's."""
        return {
            "ansible_host": self.host,
            "ansible_port": self.port,
            "ansible_user": "vagrant",
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null",
        }
