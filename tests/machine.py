"""What tests do to VMs from outside: cut off Vagrant's, end libvirt, reach those that are booted without Vagrant."""

import contextlib
import json
import os
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import up
from doctor import ROOT

EMULATION = ["-accel", "kvm", "-cpu", "host"] if up.has_kvm() else ["-accel", "tcg,thread=multi", "-cpu", "qemu64"]

VIRSH = ["virsh", "--connect", "qemu:///system"]
LIBVIRTD, VIRTLOGD = Path("/run/libvirtd.pid"), Path("/run/virtlogd.pid")
NETWORK = "192.168.121.0/24"  # vagrant-libvirt's own
BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # past any proxy
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


def run_here(*command: str | Path, settings: Path, fails: bool = False) -> str:
    """Run a command in this folder with these settings, and return what it prints; the test shows it."""
    print(f"\n$ {' '.join(map(str, command))}", flush=True)
    path = f"{ROOT}/.venv/bin:{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "SETTINGS_LOCAL": str(settings.relative_to(ROOT))}
    result = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(result.stdout, flush=True)
    assert (result.returncode != 0) is fails, result.stdout[-3000:]
    return result.stdout


def of_this_computer() -> dict[str, Any]:
    """The settings that a machine of the tests needs here: a base image, and the way through this network."""
    base = up.build("build-base-image", "python-base", ".tar.gz")
    return {"image": {"base": "users-base:test", "base_archive": base}, "network": up.company_network()}


def ask(url: str, body: str | None = None, seconds: float = 30) -> tuple[int, str]:
    """Status and text of an answer, of errors too. Raise OSError or HTTPException without one."""
    try:
        with BROWSER.open(url, body and body.encode(), timeout=seconds) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def users(api: str) -> dict[int, str]:
    """All users, as the API at this address shows them."""
    rows: dict[int, str] = {}
    while True:
        status, text = ask(f"{api}/users?limit=1000&after={max(rows, default=0)}")
        assert status == 200, text
        if text == "[]":
            return rows
        rows |= {user["id"]: user["name"] for user in json.loads(text)}


# A machine of Vagrant's for vagrant/*.rb: what it is told is printed, and the guest does what the script makes it do.
RUBY = """
require "./vagrant/settings"
ui = Object.new
%i[info success warn].each { |level| ui.define_singleton_method(level) { |text| puts "#{level}: #{text}" } }
guest = Object.new
machine = Struct.new(:ui, :state, :communicate).new(ui, Struct.new(:id).new(:STATE), guest)
"""


def run_ruby(script: str, folder: Path, *arguments: str | Path, state: str = "running") -> str:
    """What a script says to that machine, which is in this state."""
    command = ["ruby", "-e", RUBY.replace("STATE", state) + script, *arguments]
    return subprocess.run(command, check=True, cwd=folder, text=True, stdout=subprocess.PIPE, timeout=30).stdout


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def serving(handler: Callable[..., Any], port: int = 0, pem: Path | None = None) -> Iterator[ThreadingHTTPServer]:
    """A web server on 127.0.0.1 while it lasts, by TLS with the key and the certificate of a file."""
    with ThreadingHTTPServer(("127.0.0.1", port), handler) as server:
        if pem:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(pem)
            server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=[0.05])
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def new_certificate(file: Path, name: str = "IP:127.0.0.1", days: int = 2) -> Path:
    """A key and a certificate for it, in one file, that nobody trusts."""
    request = f"req -newkey rsa:2048 -nodes -subj /CN=test -addext subjectAltName={name} -keyout {file} -out {file}.csr"
    subprocess.run(["openssl", *request.split()], check=True, capture_output=True)
    sign = f"x509 -req -days {days} -in {file}.csr -signkey {file} -copy_extensions copy"
    certificate = subprocess.run(["openssl", *sign.split()], check=True, capture_output=True).stdout
    file.write_bytes(file.read_bytes() + certificate)
    return file


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
