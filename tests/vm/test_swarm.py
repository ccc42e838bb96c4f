"""ansible/swarm.yml on three machines: QEMU alone, a network between them that nobody else is in, and Docker already
installed (the role docker's own tests install it).

Without an order given, the tests build on each other: the later ones use what the earlier ones have deployed.
"""

import itertools
import json
import os
import re
import subprocess
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

import pytest
import up
import yaml
from machine import EMULATION, Machine, free_port, insecure_key
from test_commands import commands

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/test-swarm"
ENVIRONMENT = os.environ | {
    "PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}",
    "SETTINGS_LOCAL": str((WORK / "settings.yml").relative_to(ROOT)),
}
BROWSER = urllib.request.build_opener(urllib.request.ProxyHandler({}))
DOCKER = "docker.io,docker-cli,docker-buildx,iptables"
# What docs/swarm.md promises of a machine that is lost: after so many seconds, no request fails any more.
LOST_SECONDS = 30
CLIENTS = 8

pytestmark = pytest.mark.timeout(5400)  # seconds; software emulation is slow


class Node:
    """One of the three; `number` is the last of its address among them."""

    def __init__(self, number: int, key: Path) -> None:
        self.name, self.address, self.mac = f"node{number}", f"10.99.0.{number}", f"52:54:00:99:00:0{number}"
        self.ports = {8000: free_port(), 8080: free_port()}
        self.ssh = Machine(free_port(), key)
        self.disk = WORK / f"{self.name}.qcow2"
        subprocess.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", WORK / "box.img", self.disk], check=True
        )
        self.start()

    def start(self) -> None:
        """Switch it on."""
        ports = {22: self.ssh.port} | self.ports
        forwards = ",".join(f"hostfwd=tcp:127.0.0.1:{here}-:{there}" for there, here in ports.items())
        command = ["qemu-system-x86_64", *EMULATION, "-smp", "1", "-m", "1536", "-display", "none", "-serial", "none"]
        command += ["-drive", f"file={self.disk},if=virtio,cache=unsafe", "-monitor", "none"]
        command += ["-nic", f"user,model=virtio-net-pci,{forwards}"]
        command += ["-nic", f"socket,model=virtio-net-pci,mac={self.mac},mcast=230.0.0.1:12399,localaddr=127.0.0.1"]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL)

    def cut_power(self) -> None:
        """Switch it off as a power cut does."""
        self.process.kill()
        self.process.wait()

    def docker(self, command: str) -> str:
        """What one of Docker's commands prints there."""
        return self.ssh.says(f"sudo docker {command}")


def run(*command: str | Path, fails: bool = False) -> str:
    """Run a command here and return what it prints; the test shows it."""
    print(f"\n$ {' '.join(map(str, command))}", flush=True)
    result = subprocess.run(
        command, check=False, cwd=ROOT, env=ENVIRONMENT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    print(result.stdout, flush=True)
    assert (result.returncode != 0) is fails, result.stdout[-3000:]
    return result.stdout


def playbook(*, fails: bool = False, **settings: Any) -> str:
    """Run the playbook with the guide's settings and these besides."""
    [guide] = re.findall(r"```yaml\n(services:.*?)```", (ROOT / "docs/swarm.md").read_text(), re.DOTALL)
    merged = yaml.safe_load(guide)
    for name, changed in settings.pop("services", {}).items():
        service = merged["services"].setdefault(name, {})
        service |= changed | {"environment": service.get("environment", {}) | changed.get("environment", {})}
    base = up.build("build-base-image", "python-base", ".tar.gz")
    merged |= {"image": {"base": "users-base:test", "base_archive": base}, "network": up.company_network(), **settings}
    (WORK / "settings.yml").write_text(yaml.dump(merged))
    return run("ansible-playbook", "-i", WORK / "hosts.yml", "ansible/swarm.yml", fails=fails)


def write_inventory(managers: list[Node], workers: list[Node]) -> None:
    groups = {
        group: {"hosts": {node.name: node.ssh.way_in() | {"swarm_address": node.address} for node in nodes}}
        for group, nodes in (("managers", managers), ("workers", workers))
    }
    (WORK / "hosts.yml").write_text(yaml.dump(groups))


@pytest.fixture(scope="module")
def nodes() -> Iterator[list[Node]]:
    """Three machines that reach each other."""
    subprocess.run(["rm", "-rf", WORK], check=True)
    WORK.mkdir(parents=True)
    up.install()
    emulated = () if up.has_kvm() else ("mitigations=off", "tsc=reliable")
    box = up.build("build-box", "debian-13-docker", ".box", "--include", DOCKER, *emulated)
    subprocess.run(["tar", "--extract", "--file", ROOT / box, "box.img"], check=True, cwd=WORK)
    key = insecure_key(WORK)
    started: list[Node] = []
    try:
        for number in (1, 2, 3):
            started.append(Node(number, key))
        for node in started:
            node.ssh.wait()
            network = f"[Match]\\nMACAddress={node.mac}\\n[Network]\\nAddress={node.address}/24\\n"
            node.ssh.says(
                f"printf '{network}' | sudo tee /etc/systemd/network/10-nodes.network && sudo networkctl reload"
                f" && echo 127.0.1.1 {node.name} | sudo tee --append /etc/hosts && sudo hostnamectl hostname {node.name}"
            )
        yield started
    finally:
        for node in started:
            node.cut_power()
        subprocess.run(["rm", "-rf", WORK], check=True)


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
        try:
            with BROWSER.open(urllib.request.Request(url, data), timeout=20) as answer:
                answer.read()
            self.done += 1
            return True
        except (OSError, HTTPException) as error:
            said = error.read().decode()[-300:] if isinstance(error, urllib.error.HTTPError) else ""
            self.failures.append((time.monotonic(), f"{url}: {error!r} {said}"))
            return False

    def client(self, number: int) -> None:
        for turn in itertools.count(number):
            if self.end.is_set():
                return
            node, user_id = self.nodes[turn % len(self.nodes)], next(self.ids)
            page, api = (f"http://127.0.0.1:{node.ports[port]}" for port in (8000, 8080))
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
        time.sleep(5)
    finally:
        clients.end.set()
        for thread in threads:
            thread.join()
    print(f"{clients.done} requests, {len(clients.failures)} failed", *clients.failures[:20], sep="\n")
    assert clients.done > 20
    here = users(nodes[0])
    assert clients.saved.items() <= here.items()


def users(node: Node) -> dict[int, str]:
    """All users, as the API of a node shows them."""
    rows: dict[int, str] = {}
    while True:
        url = f"http://127.0.0.1:{node.ports[8080]}/users?limit=1000&after={max(rows, default=0)}"
        with BROWSER.open(url, timeout=30) as answer:
            page = json.load(answer)
        if not page:
            return rows
        rows |= {user["id"]: user["name"] for user in page}


OPEN = {"host_ip": "0.0.0.0", "open_to_the_network_without_password": True}


def copy_images(source: Node, targets: list[Node]) -> None:
    """The playbook builds the same images on each machine; in emulation that is half an hour, and one has shown it."""
    images = source.docker("image ls --format '{{.Repository}}:{{.Tag}}'").split()
    archive = WORK / "images.tar"
    with archive.open("wb") as file:
        subprocess.run(source.ssh.words(f"sudo docker save {' '.join(images)}"), check=True, stdout=file)
    with ExitStack() as loading:
        for target in targets:
            file = loading.enter_context(archive.open("rb"))
            load = loading.enter_context(subprocess.Popen(target.ssh.words("sudo docker load"), stdin=file))
            loading.callback(load.wait)


def test_machines_become_a_swarm_that_serves_on_each_but_to_nobody_else(nodes: list[Node]) -> None:
    write_inventory(nodes[:1], [])
    assert "failed=0" in playbook()
    copy_images(nodes[0], nodes[1:])
    write_inventory(nodes[:1], nodes[1:])
    said = playbook()
    assert "failed=0" in said and "unreachable=0" in said
    assert set(re.findall(r"changed=(\d+)", playbook())) == {"0"}
    first, second, _ = nodes
    assert first.docker("node ls --format '{{.Hostname}} {{.ManagerStatus}}'").split("\n")[:3] == [
        "node1 Leader", "node2 ", "node3 ",
    ]  # fmt: skip
    for node in nodes:
        assert json.loads(node.ssh.says("python3 -c \"import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/healthz').read().decode())\"")) == {
            "frontend_status": "ok", "backend_status": "ok",
        }  # fmt: skip
    closed = "import socket; s = socket.socket(); s.settimeout(5); print(s.connect_ex(('10.99.0.1', {})))"
    for port in (8000, 8080):
        assert second.ssh.says(f'python3 -c "{closed.format(port)}"') != "0\n"
    assert second.ssh.says(f'python3 -c "{closed.format(22)}"') == "0\n", "the way there"


def test_the_commands_of_the_guide(nodes: list[Node]) -> None:
    in_use = [node for node in nodes if node.docker("ps --quiet --filter name=users_backend")]
    for command in commands(ROOT / "docs/swarm.md"):
        if " exec " in command:
            assert "copy" in in_use[-1].ssh.says(command)
        elif command.startswith("sudo docker"):
            assert nodes[0].ssh.says(f"timeout 10 {command} || [ $? = 124 ]")  # one follows what is new


def test_an_update_under_load_fails_no_request(nodes: list[Node]) -> None:
    playbook(**OPEN)
    with load(nodes[:2]) as clients:
        playbook(services={name: {"environment": {"LOG_LEVEL": "warning"}} for name in ("backend", "frontend")}, **OPEN)
    assert clients.failures == []


def test_a_broken_version_is_taken_back_and_nobody_notices(nodes: list[Node]) -> None:
    with load(nodes[:2]) as clients:
        said = playbook(fails=True, services={"frontend": {"environment": {"LOG_LEVEL": "nonsense"}}}, **OPEN)
    assert "frontend: the new version did not become healthy. The version before serves again." in said
    assert "LOG_LEVEL" in said
    assert clients.failures == []


def test_more_and_fewer_containers_under_load_fail_no_request(nodes: list[Node]) -> None:
    with load(nodes[:2]) as clients:
        playbook(services={"backend": {"replicas": 4}, "frontend": {"replicas": 3}}, **OPEN)
        assert "4/4" in nodes[0].docker("service ls --filter name=users_backend")
        playbook(**OPEN)
        assert "2/2" in nodes[0].docker("service ls --filter name=users_backend")
    assert clients.failures == []


def test_a_machine_is_lost_under_load_and_comes_back(nodes: list[Node]) -> None:
    first, _, last = nodes
    assert "node3" in first.docker("service ps users_backend users_frontend --filter desired-state=running"), (
        "nothing runs on it"
    )
    with load(nodes[:2]) as clients:
        time.sleep(5)
        lost = time.monotonic()
        last.cut_power()
        deadline = lost + 600
        while re.findall(r"(\d+)/(\d+)", first.docker("service ls")) and any(
            here != there for here, there in re.findall(r"(\d+)/(\d+)", first.docker("service ls"))
        ):
            assert time.monotonic() < deadline
            time.sleep(2)
        print(f"all containers run again after {time.monotonic() - lost:.0f} s")
    late = [failure for failure in clients.failures if failure[0] > lost + LOST_SECONDS]
    print("seconds after the loss:", sorted({round(when - lost) for when, _ in clients.failures}))
    assert not late, late
    last.start()
    last.ssh.wait()
    while "node3 Ready" not in first.docker("node ls --format '{{.Hostname}} {{.Status}}'"):
        assert time.monotonic() < deadline + 600
        time.sleep(2)
    with load(nodes):
        pass
