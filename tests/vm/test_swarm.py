"""ansible/swarm.yml on three machines: Linux in user mode (Debian's user-mode-linux), which needs no virtualisation and
is much faster than software emulation; a network that nobody else is in; and Docker already installed (the role docker's
own tests install it).

Without an order given, the tests build on each other: the later ones use what the earlier ones have deployed.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import up
import yaml
from machine import BROWSER, Machine, insecure_key, network, of_this_computer, run_here, users
from test_commands import commands

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/test-swarm"
DOCKER = "docker.io,docker-cli,docker-buildx,iptables"
# docs/swarm.md says that Swarm notices a lost machine after some 20 seconds. From then on, no request may fail.
LOST_SECONDS = 30
CLIENTS = 3

pytestmark = pytest.mark.timeout(5400)  # seconds; the images are built on one processor

# Its DHCP server gives each machine the address that hosts.yml names.
BRIDGE, PREFIX = "users-swarm", "10.99.0"
DHCP = f"<range start='{PREFIX}.1' end='{PREFIX}.3'/>" + "".join(
    f"<host mac='52:54:00:99:00:0{number}' ip='{PREFIX}.{number}'/>" for number in (1, 2, 3)
)


class Node:
    """One of the three; `number` is the last of its address."""

    def __init__(self, number: int, key: Path) -> None:
        self.name, self.address, self.mac = f"node{number}", f"10.99.0.{number}", f"52:54:00:99:00:0{number}"
        self.tap, self.disk = f"{BRIDGE}-{number}", WORK / f"{self.name}.cow"
        self.ssh = Machine(22, key, self.address)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Switch it on."""
        [modules] = Path("/usr/lib/uml/modules").iterdir()  # of its kernel, which is not the one in the box
        command = ["linux.uml", "mem=1536M", f"ubd0={self.disk},{WORK}/box.raw", "root=/dev/ubda", "rw"]
        command += [f"eth0=tuntap,{self.tap},{self.mac}", "con=null", "ssl=null", f"systemd.hostname={self.name}"]
        command += [f"systemd.mount-extra=none:/usr/lib/modules/{modules.name}:hostfs:{modules}"]
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True)
        with suppress(subprocess.TimeoutExpired):
            ended = f"linux.uml has ended with {self.process.wait(5)}"
            raise AssertionError(f"{ended}; that of Debian 12 cannot work on a processor that has AMX (/proc/cpuinfo)")

    def connect(self) -> None:
        """Wait for its first start, and give it its name."""
        self.ssh.wait()
        name = f"echo 127.0.1.1 {self.name} | sudo tee --append /etc/hosts && sudo hostnamectl hostname {self.name}"
        self.ssh.says(name)

    def cut_power(self) -> None:
        """Switch it off as a power cut does."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def docker(self, command: str) -> str:
        """What one of Docker's commands prints there."""
        return self.ssh.says(f"sudo docker {command}")


def playbook(*, tags: str = "all", fails: bool = False, **settings: Any) -> str:
    """Run the playbook with the guide's settings and these besides."""
    [guide] = re.findall(r"```yaml\n(services:.*?)```", (ROOT / "docs/swarm.md").read_text(), re.DOTALL)
    merged = yaml.safe_load(guide)
    for name, changed in settings.pop("services", {}).items():
        service = merged["services"].setdefault(name, {})
        service |= changed | {"environment": service.get("environment", {}) | changed.get("environment", {})}
    local = WORK / "settings.yml"
    local.write_text(yaml.dump(merged | of_this_computer() | settings))
    command = ("ansible-playbook", "-i", WORK / "hosts.yml", "ansible/swarm.yml", "--tags", tags)
    return run_here(*command, settings=local, fails=fails)


def write_inventory(managers: list[Node], workers: list[Node]) -> None:
    groups = {
        group: {"hosts": {node.name: node.ssh.way_in() for node in nodes}}
        for group, nodes in (("managers", managers), ("workers", workers))
    }
    (WORK / "hosts.yml").write_text(yaml.dump(groups))


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    """Three machines in one network, of which the first is on."""
    subprocess.run(["rm", "-rf", WORK], check=True)
    WORK.mkdir(parents=True)
    up.install()
    up.install_packages(["user-mode-linux"])
    box = up.build("build-box", "debian-13-docker", ".box", "--include", DOCKER)
    subprocess.run(["tar", "--extract", "--file", ROOT / box, "box.img"], check=True, cwd=WORK)
    subprocess.run(["qemu-img", "convert", "-O", "raw", "box.img", "box.raw"], check=True, cwd=WORK)
    key = insecure_key(WORK)
    machines = [Node(number, key) for number in (1, 2, 3)]
    with network(BRIDGE, PREFIX, DHCP), cables(machines):
        try:
            machines[0].start()
            machines[0].connect()
            # The kernel in user mode has what Docker needs of iptables, but not of its successor.
            chosen = " && ".join(
                f"sudo update-alternatives --set {ip} /usr/sbin/{ip}-legacy" for ip in ("iptables", "ip6tables")
            )
            machines[0].ssh.says(f"{chosen} && sudo systemctl reset-failed docker && sudo systemctl start docker")
            yield machines
        finally:
            for node in machines:
                node.cut_power()
    subprocess.run(["rm", "-rf", WORK], check=True)


@contextmanager
def cables(machines: list[Node]) -> Iterator[None]:
    """From each machine to the network's bridge."""
    cut(machines)  # of a run that was cut off
    try:
        for node in machines:
            subprocess.run([*up.SUDO, "ip", "tuntap", "add", node.tap, "mode", "tap"], check=True)
            subprocess.run([*up.SUDO, "ip", "link", "set", node.tap, "master", BRIDGE, "up"], check=True)
        yield
    finally:
        cut(machines)


def cut(machines: list[Node]) -> None:
    """Take away what there is of the cables."""
    for node in machines:
        subprocess.run([*up.SUDO, "ip", "link", "delete", node.tap], check=False, capture_output=True)


class Load:
    """Clients that read and write through all nodes given; what failed, and when."""

    def __init__(self, nodes: list[Node]) -> None:
        self.nodes, self.ids = nodes, itertools.count(int(time.time() * 1000))
        self.saved: dict[int, str] = {}
        self.failures: list[tuple[float, str]] = []
        self.done = 0
        self.end = threading.Event()

    def ask(self, url: str, data: bytes | None = None) -> bool:
        """Whether the answer is a good one. Each request is a connection of its own."""
        begun = time.monotonic()
        try:
            with BROWSER.open(urllib.request.Request(url, data), timeout=20) as answer:
                answer.read()
            self.done += 1
            return True
        except (OSError, HTTPException) as error:
            said = error.read().decode()[-300:] if isinstance(error, urllib.error.HTTPError) else ""
            self.failures.append((begun, f"{url}: {error!r} {said}"))
            return False

    def client(self, number: int) -> None:
        for turn in itertools.count(number):
            if self.end.wait(1):  # seconds; else the machines would do nothing but answer
                return
            node, user_id = self.nodes[turn % len(self.nodes)], next(self.ids)
            page, api = (f"http://{node.address}:{port}" for port in (8000, 8080))
            if number % 2:
                saved = self.ask(page, urllib.parse.urlencode({"id": user_id, "name": "Ana"}).encode())
            else:
                saved = self.ask(f"{api}/users", json.dumps({"id": user_id, "name": "Ana"}).encode())
            if saved:
                self.saved[user_id] = "Ana"
                self.ask(f"{api}/users/{user_id}")
            self.ask(f"{page}/status")


@contextmanager
def load(nodes: list[Node]) -> Iterator[Load]:
    """Requests go on meanwhile; in the end, every user that was saved must be there."""
    clients = Load(nodes)
    threads = [threading.Thread(target=clients.client, args=[number]) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    try:
        yield clients
        time.sleep(15)
    finally:
        clients.end.set()
        for thread in threads:
            thread.join()
    print(f"{clients.done} requests, {len(clients.failures)} failed", *clients.failures[:20], sep="\n")
    assert clients.done > 20
    here = users(f"http://{nodes[0].address}:8080")
    assert clients.saved.items() <= here.items()


# How it is changed: what the machines themselves have stays as it is.
CHANGE: Any = {"tags": "swarm,service", "host_ip": "0.0.0.0", "open_to_the_network_without_password": True}


def clone(source: Node, targets: list[Node]) -> None:
    """The playbook would build the same images on each machine, which one has shown."""
    docker = "docker.service docker.socket"
    source.ssh.says(f"sudo systemctl disable {docker}")  # or the others would begin as the same member of the swarm
    source.ssh.ssh("sudo poweroff")
    assert source.process
    source.process.wait(timeout=300)
    for target in targets:
        subprocess.run(["cp", "--sparse=always", source.disk, target.disk], check=True)
    for node in (source, *targets):
        node.start()
    source.ssh.wait()
    for target in targets:
        target.connect()
        target.ssh.says("sudo rm -r /var/lib/docker/swarm /var/lib/docker/containers")
    for node in (source, *targets):
        node.ssh.says(f"sudo systemctl enable --now {docker}")


def wait_for(node: Node, command: str, pattern: str) -> None:
    """Wait until one of Docker's commands prints that."""
    deadline = time.monotonic() + 600
    while not re.search(pattern, node.docker(command)):
        assert time.monotonic() < deadline, command
        time.sleep(2)


def roles(manager: Node) -> list[str]:
    """Each machine's name, and what part it has among the managers."""
    return manager.docker("node ls --format '{{.Hostname}} {{.ManagerStatus}}'").splitlines()


def test_machines_become_a_swarm_that_serves_on_each_but_to_nobody_else(nodes: list[Node]) -> None:
    write_inventory(nodes[:1], [])
    assert "failed=0" in playbook(services={"backend": {"replicas": 1}, "frontend": {"replicas": 1}})
    clone(nodes[0], nodes[1:])
    write_inventory(nodes[:1], nodes[1:])
    said = playbook()
    assert "failed=0" in said and "unreachable=0" in said
    assert set(re.findall(r"changed=(\d+)", playbook())) == {"0"}
    first, second, _ = nodes
    assert roles(first) == ["node1 Leader", "node2 ", "node3 "]
    for node in nodes:
        assert json.loads(node.ssh.says("python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/healthz').read().decode())\"")) == {
            "frontend_status": "ok", "backend_status": "ok",
        }  # fmt: skip
    closed = "import socket; s = socket.socket(); s.settimeout(5); print(s.connect_ex(('10.99.0.1', {})))"
    for port in (8000, 8080):
        assert second.ssh.says(f'python3 -c "{closed.format(port)}"') != "0\n"
    assert second.ssh.says(f'python3 -c "{closed.format(22)}"') == "0\n", "the way there"


def test_where_the_data_is_not_known_no_empty_database_begins(nodes: list[Node]) -> None:
    nodes[0].docker("node update --label-rm users.data node1")
    try:
        assert "The services run, but no machine is marked as the one with their data" in playbook(fails=True)
        assert nodes[0].docker("node ls --quiet --filter node.label=users.data") == ""
    finally:
        nodes[0].docker("node update --label-add users.data=true node1")


def test_the_commands_of_the_guide(nodes: list[Node]) -> None:
    in_use = [node for node in nodes if node.docker("ps --quiet --filter name=users_backend")]
    for command in commands(ROOT / "docs/swarm.md"):
        if " exec " in command:
            assert "copied to /data/backups" in in_use[-1].ssh.says(command)
        elif command.startswith("sudo docker"):
            assert nodes[0].ssh.says(f"timeout 10 {command} || [ $? = 124 ]")  # one follows what is new


def test_an_update_under_load_fails_no_request(nodes: list[Node]) -> None:
    playbook(**CHANGE)
    with load(nodes[:2]) as clients:
        playbook(
            services={name: {"environment": {"LOG_LEVEL": "warning"}} for name in ("backend", "frontend")}, **CHANGE
        )
    assert clients.failures == []


def test_a_broken_version_is_taken_back_and_nobody_notices(nodes: list[Node]) -> None:
    with load(nodes[:2]) as clients:
        said = playbook(fails=True, services={"frontend": {"environment": {"LOG_LEVEL": "nonsense"}}}, **CHANGE)
    assert "frontend: the new version did not become healthy. The version before serves again." in said
    assert "LOG_LEVEL" in said
    assert said.count("fatal: ") == 1, "the other machines have something to say, too"
    assert clients.failures == []


def test_more_and_fewer_containers_under_load_fail_no_request(nodes: list[Node]) -> None:
    with load(nodes[:2]) as clients:
        playbook(services={"backend": {"replicas": 4}, "frontend": {"replicas": 3}}, **CHANGE)
        assert "4/4" in nodes[0].docker("service ls --filter name=users_backend")
        playbook(**CHANGE)
        assert "2/2" in nodes[0].docker("service ls --filter name=users_backend")
    assert clients.failures == []


def test_workers_become_managers(nodes: list[Node]) -> None:
    write_inventory(nodes, [])
    assert "failed=0" in playbook(**CHANGE)
    assert roles(nodes[0]) == ["node1 Leader", "node2 Reachable", "node3 Reachable"]
    assert set(re.findall(r"changed=(\d+)", playbook(**CHANGE))) == {"0"}


def test_a_machine_is_lost_under_load_and_comes_back(nodes: list[Node]) -> None:
    first, _, last = nodes
    assert "node3" in first.docker("service ps users_backend users_frontend --filter desired-state=running"), (
        "nothing runs on it"
    )
    with load(nodes[:2]) as clients:
        time.sleep(5)
        lost = time.monotonic()
        last.cut_power()
        wait_for(first, "node ls --format '{{.Hostname}} {{.Status}}'", "node3 Down")
        print(f"noticed after {time.monotonic() - lost:.0f} s")
        wait_for(first, "service ls --format '{{.Replicas}}'", r"^(?:(\d+)/\1\n)+$")
        print(f"all containers run again after {time.monotonic() - lost:.0f} s")
        time.sleep(LOST_SECONDS)
    late = [failure for failure in clients.failures if failure[0] > lost + LOST_SECONDS]
    print("seconds after the loss:", sorted({round(when - lost) for when, _ in clients.failures}))
    assert not late, late
    last.start()
    last.ssh.wait()
    wait_for(first, "node ls --format '{{.Hostname}} {{.Status}}'", "node3 Ready")
    deadline = time.monotonic() + 300
    while not Load([last]).ask(f"http://{last.address}:8000/healthz"):
        assert time.monotonic() < deadline, "it does not serve again"
        time.sleep(2)
    with load(nodes) as clients:
        pass
    assert clients.failures == []


def test_managers_become_workers(nodes: list[Node]) -> None:
    write_inventory(nodes[:1], nodes[1:])
    assert "failed=0" in playbook(**CHANGE)
    assert roles(nodes[0]) == ["node1 Leader", "node2 ", "node3 "]
