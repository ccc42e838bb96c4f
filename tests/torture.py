"""Breaks the running stack while 32 clients write, and counts which acknowledged changes are missing afterwards.

Nothing but the failure's own end is done by hand: space is freed, a share comes back, a VM is switched on.
"""

import hashlib
import http.client
import itertools
import json
import os
import random
import re
import socket
import sqlite3
import statistics
import subprocess
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import up
from machine import ask, free_port, users

CLIENTS = 32
BACKEND, FRONTEND = "http://127.0.0.1:18080", "http://127.0.0.1:18000"  # tests/vm/settings.yml
FRONTEND_TIMEOUT = 5  # seconds, its BACKEND_TIMEOUT

REFUSED = (503, 507)  # their sentence ends with: Nothing was saved.
NO_ANSWER = 0
UNKNOWN = (NO_ANSWER, 504)  # it may have been saved, or not


def wait_until(what: str, is_true: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"after {seconds} s still not true: {what}"
        time.sleep(0.2)


def healthy() -> bool:
    """Whether a person could go on working."""
    try:
        return ask(f"{BACKEND}/readyz")[0] == 200 and ask(f"{FRONTEND}/healthz")[1].count('"ok"') == 2
    except (OSError, http.client.HTTPException):
        return False


def seconds_until_healthy(since: float) -> float:
    """Wait until all is well for five seconds; how long after `since` that began."""
    began = deadline = time.monotonic() + 600
    while time.monotonic() < began + 5:
        assert time.monotonic() < deadline, "after ten minutes frontend and backend are still not well"
        if not healthy():
            began = deadline
        elif began == deadline:
            began = time.monotonic()
        time.sleep(0.2)
    return began - since


class Client:
    """Changes users with ids of its own, one after the other, and keeps what the answers said.

    `may_be` has, for each id, the names that its user may have now; None stands for no user. There are two after a
    change of which no answer says whether it was saved. A new user is then sent again until one does, as a person
    would do it; and no such user is changed any more, because a request may still be on its way.
    """

    def __init__(self, number: int) -> None:
        self.may_be: dict[int, tuple[str | None, ...]] = {}
        self.answers: Counter[int] = Counter()  # by status
        self.acknowledged = 0
        self._ids = itertools.count(number << 32)
        self._settled: list[int] = []  # users that can be changed
        self._new: tuple[int, str] | None = None  # a user that is to be created
        self._connection = http.client.HTTPConnection(BACKEND.removeprefix("http://"), timeout=10)

    def write_until(self, end: threading.Event) -> None:
        while not end.is_set():
            if self._new or not self._settled or random.random() < 0.5:
                self._create()
            else:
                self._change()
        self._connection.close()

    def _create(self) -> None:
        user_id, name = self._new = self._new or (next(self._ids), self._name())
        known = self.may_be.get(user_id, (None,))
        status = self._call("POST", "/users", id=user_id, name=name)
        if status == 201 or (status == 409 and name in known):
            self.may_be[user_id] = (name,)
            self.acknowledged += 1
            self._new = None
            if known == (None,):
                self._settled.append(user_id)
        elif status in UNKNOWN:
            self.may_be[user_id] = (None, name)
        else:
            assert status in REFUSED, f"POST of the new user {user_id} was answered {status}"
            self.may_be[user_id] = known

    def _change(self) -> None:
        user_id = self._settled.pop(random.randrange(len(self._settled)))
        if random.random() < 0.5:
            name, status = None, self._call("DELETE", f"/users/{user_id}")
        else:
            name = self._name()
            status = self._call("PUT", f"/users/{user_id}", name=name)
        if status in (200, 204):
            self.may_be[user_id] = (name,)
            self.acknowledged += 1
        elif status in UNKNOWN:
            self.may_be[user_id] += (name,)
        else:  # 404: the user is lost, and `Stack.count_lost` will find that
            assert status in (404, *REFUSED), f"a change of user {user_id} was answered {status}"
        if status == 200 or status in REFUSED:
            self._settled.append(user_id)

    def _name(self) -> str:
        return f"{time.monotonic_ns()} ".ljust(random.randint(20, 200), "é")  # its length moves rows between pages

    def _call(self, method: str, path: str, **body: object) -> int:
        try:
            self._connection.request(method, path, json.dumps(body).encode() if body else None)
            response = self._connection.getresponse()
            response.read()
            status = response.status
        except (OSError, http.client.HTTPException):
            self._connection.close()
            status = NO_ANSWER
        self.answers[status] += 1
        if status in (*UNKNOWN, *REFUSED):
            time.sleep(1)  # as a person would; a crowd that never waits would slow the VM's start down
        return status


class LossyDisk:
    """A disk whose cache loses what was not flushed when `cut` ends it: nbdkit keeps writes until a flush."""

    def __init__(self, name: str, target: str, folder: Path, size: int) -> None:
        self.file = folder / f"{name}.img"
        self.file.write_bytes(b"")
        os.truncate(self.file, size)
        self._port = free_port()
        self.xml = folder / f"{name}.xml"
        self.xml.write_text(
            f"<disk type='network' device='disk'><driver name='qemu' type='raw'/><target dev='{target}' bus='virtio'/>"
            f"<source protocol='nbd'><host name='127.0.0.1' port='{self._port}'/></source>"
            f"<serial>{name}</serial></disk>"
        )

    def start(self) -> None:
        listen = ["--foreground", "--ipaddr", "127.0.0.1", "--port", str(self._port)]
        cache = ["--filter", "cache", "file", str(self.file), "cache=writeback", "cache-min-block-size=4096"]
        self._process = subprocess.Popen(["nbdkit", *listen, *cache])
        wait_until("nbdkit listens", self._listens)

    def _listens(self) -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", self._port)) == 0

    def cut(self) -> None:
        self._process.kill()
        self._process.wait()


@dataclass
class Result:
    """What was seen of one failure."""

    acknowledged: int = 0
    lost: int = 0
    seconds: list[float] = field(default_factory=list)


class Stack:
    """The running VM of tests/vm/test_vm.py, the clients that write to it, and what came of that."""

    def __init__(self, run: Callable[..., str], vm: Callable[[str], str], work: Path) -> None:
        self.run, self.vm, self.work = run, vm, work
        self.data = work / "data"
        self.database = self.data / "users.db"
        self.results: dict[str, Result] = {}
        self._numbers = itertools.count(random.randrange(1 << 20))  # of clients: their ids are nobody else's
        self.complaints: list[str] = []
        machine = (work / "vagrant/machines/default/libvirt/id").read_text()
        self.domain = run("virsh", "domname", machine).strip()
        self.begin()

    def begin(self) -> None:
        """Clients for a database that may have users already, which nobody changes."""
        self.others = users(BACKEND)
        self.form: dict[int, tuple[str | None, ...]] = {}  # sent to the frontend
        self.clients = [Client(next(self._numbers)) for _ in range(CLIENTS)]

    def acknowledged(self) -> int:
        return sum(client.acknowledged for client in self.clients)

    def seen(self, status: int) -> int:
        """How often the clients got this answer."""
        return sum(client.answers[status] for client in self.clients)

    def wait_for(self, status: int) -> None:
        """Wait until one client more gets this answer: the failure has its effect."""
        before = self.seen(status)
        wait_until(f"a client is answered {status or 'nothing'}", lambda: self.seen(status) > before)

    @contextmanager
    def writing(self) -> Iterator[None]:
        end = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            writers = [pool.submit(client.write_until, end) for client in self.clients]
            try:
                self.all_write()
                yield
                self.all_write()
            finally:
                end.set()
                for writer in writers:
                    writer.result()  # an answer that there may not be is why all else went wrong

    def all_write(self) -> None:
        """Wait until the changes of every client are acknowledged."""
        before = [client.acknowledged for client in self.clients]
        wait_until(
            "a change of each client is acknowledged",
            lambda: all(now.acknowledged > then for now, then in zip(self.clients, before, strict=True)),
        )

    def round(self, name: str, fail: Callable[["Stack"], float]) -> None:
        """Let the stack fail under load. `fail` returns when that was over."""
        print(f"\n--- {name}", flush=True)
        before = self.acknowledged()
        with self.writing():
            time.sleep(random.uniform(0, 2))  # no moment is better than another
            seconds = seconds_until_healthy(fail(self))
        self.note(name, self.acknowledged() - before, self.count_lost(name), seconds)

    def note(self, name: str, acknowledged: int, lost: int, seconds: float) -> None:
        result = self.results.setdefault(name, Result())
        result.acknowledged += acknowledged
        result.lost += lost
        result.seconds.append(seconds)
        print(f"--- {name}: {acknowledged} acknowledged, {lost} lost, healthy after {seconds:.1f} s", flush=True)

    def count_lost(self, name: str) -> int:
        """The changes that were acknowledged and are not there; the file must be whole and agree with the API."""
        rows = users(BACKEND)
        with closing(sqlite3.connect(f"file:{self.file_to_read()}?mode=ro", uri=True)) as connection:
            [[damage]] = connection.execute("PRAGMA integrity_check(1)")
            if damage != "ok" or dict(connection.execute("SELECT id, name FROM users")) != rows:
                self.complaints.append(f"{name}: the file does not agree with the API (integrity: {damage})")
        promised: dict[int, tuple[str | None, ...]] = {user_id: (name,) for user_id, name in self.others.items()}
        for may_be in (self.form, *(client.may_be for client in self.clients)):
            promised |= may_be
        wrong = [user_id for user_id, names in promised.items() if rows.get(user_id) not in names]
        self.complaints += [
            f"{name}: user {user_id} should be {promised[user_id]} and is {rows.get(user_id)!r}" for user_id in wrong
        ]
        self.complaints += [f"{name}: nobody sent user {user_id}" for user_id in rows.keys() - promised.keys()]
        if wrong:
            self.begin()  # from what is there: each loss counts once
        return len(wrong)

    def file_to_read(self) -> Path:
        """The database as a file of the laptop, a copy if it does not lie on the share."""
        if "virtiofs" in self.vm("findmnt --noheadings --output FSTYPE /data"):
            return self.database
        copy = self.work / "copy.db"
        self.vm(f"cp /data/users.db /vagrant/.cache/test/{copy.name}")
        return copy

    def share_daemons(self) -> list[str]:
        """The processes on the laptop that serve the VM's /data."""
        for file in Path("/run/libvirt/qemu").glob(f"*-{self.domain}-fs*-fs.pid"):
            pid = file.read_text().strip()
            if os.fsencode(self.data) in Path(f"/proc/{pid}/cmdline").read_bytes():
                return [pid, *Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        raise AssertionError(f"no virtiofsd of {self.domain} shares {self.data}")


# --- The failures: each breaks something, sees that it had its effect, and returns when it was over --------------


def power_cut(stack: Stack, *disks: LossyDisk) -> float:
    for disk in disks:
        disk.cut()  # first: nothing that QEMU still has may reach it
    pid = Path(f"/run/libvirt/qemu/{stack.domain}.pid").read_text()
    stack.run(*up.SUDO, "kill", "-KILL", pid)
    wait_until("libvirt sees that the VM is off", lambda: "shut off" in stack.run("virsh", "domstate", stack.domain))
    stack.wait_for(NO_ANSWER)
    for disk in disks:
        disk.start()
    on = time.monotonic()
    stack.run("vagrant", "up", "--no-provision")
    return on


def panic_kernel(stack: Stack) -> float:
    """Nobody turns the VM off and on again."""
    stack.vm("(sleep 5; echo c > /proc/sysrq-trigger) > /dev/null 2>&1 &")
    stack.wait_for(NO_ANSWER)
    return time.monotonic()


def kill_container(stack: Stack) -> float:
    killed = time.monotonic()
    stack.vm("docker kill --signal KILL users-backend")
    stack.wait_for(NO_ANSWER)
    return killed


def kill_dockerd(stack: Stack) -> float:
    killed = time.monotonic()
    stack.vm("kill -KILL $(cat /run/docker.pid)")
    stack.wait_for(NO_ANSWER)
    return killed


# The backend itself, not what starts it again when its source changes.
PROCESS = "$(docker top users-backend -o pid,args | awk '/ -m users_backend$/ && !/live/ { print $1 }')"


def kill_process(stack: Stack) -> float:
    killed = time.monotonic()
    stack.vm(f"kill -KILL {PROCESS}")
    stack.wait_for(NO_ANSWER)
    return killed


def stop_process(stack: Stack) -> float:
    """Meanwhile the frontend says so, within its timeout."""
    stack.vm(f"kill -STOP {PROCESS}")
    stopped = time.monotonic()
    user_id, name = random.randrange(2, 1 << 32), "Sent while the backend slept"
    stack.form[user_id] = (None, name)
    status, page = ask(f"{FRONTEND}/", urllib.parse.urlencode({"id": user_id, "name": name}))
    took = time.monotonic() - stopped
    assert status == 504 and "did not answer within" in page, f"{status}: {page}"
    assert took < 2 * FRONTEND_TIMEOUT, f"the frontend took {took:.1f} s"  # it also asks for the list
    stack.wait_for(NO_ANSWER)
    time.sleep(max(0, stopped + 30 - time.monotonic()))
    stack.vm(f"kill -CONT {PROCESS}")
    return time.monotonic()


def fill_share(stack: Stack) -> float:
    filler = stack.data / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while file.write(bytes(size)):
                    pass
            except OSError:  # it is full
                pass
    stack.wait_for(507)
    filler.unlink()
    return time.monotonic()


def fill_disk_of_vm(stack: Stack) -> float:
    """The database lies elsewhere: nobody notices."""
    # A file system keeps some blocks for its own, which fallocate does not get. That cat fails shows that it is full.
    size = "$(($(stat --file-system --format '%f*%S' /) - (64 << 20)))"
    stack.vm(f"fallocate --length {size} /filler && ! cat /dev/zero >> /filler")
    refused = sum(stack.seen(status) for status in REFUSED)
    stack.all_write()
    assert sum(stack.seen(status) for status in REFUSED) == refused
    stack.vm("! cat /dev/zero >> /filler")
    stack.vm("rm /filler")
    return time.monotonic()


def freeze_share(stack: Stack) -> float:
    daemons = stack.share_daemons()
    stack.run(*up.SUDO, "kill", "-STOP", *daemons)
    stack.wait_for(NO_ANSWER)
    time.sleep(30)
    stack.run(*up.SUDO, "kill", "-CONT", *daemons)
    return time.monotonic()


def take_share_away(stack: Stack) -> float:
    """The mounted share outlives its place in the tree as long as the container has it."""
    stack.vm("umount --lazy /data && systemctl mask --runtime data.mount && docker kill users-backend")
    stack.wait_for(NO_ANSWER)
    time.sleep(10)
    assert stack.vm("ls -A /data") == "", "something was written where the share was missing"
    log = stack.vm("journalctl --unit users-backend --lines 20 --output cat --no-pager")
    assert "/data is not shared with the laptop" in log, log
    stack.vm("systemctl unmask --runtime data.mount")
    return time.monotonic()


def make_read_only(stack: Stack) -> float:
    stack.run(*up.SUDO, "chmod", "0444", str(stack.database))
    stack.vm("docker kill users-backend")  # what had it open could go on
    stack.wait_for(503)
    stack.run(*up.SUDO, "chmod", "0644", str(stack.database))
    return time.monotonic()


def set_clock_back(stack: Stack) -> float:
    """A service that starts meanwhile starts as ever."""
    stack.vm("timedatectl set-ntp false && date --set '1 day ago' && docker kill users-backend")
    assert int(stack.vm("date +%s")) < time.time() - 80_000
    seconds_until_healthy(0)
    stack.all_write()
    stack.vm(f"date --set @{time.time():.0f} && timedatectl set-ntp true")
    return time.monotonic()


FAILURES = {
    "the kernel's panic": panic_kernel,
    "`kill -9` of the container": kill_container,
    "`kill -9` of dockerd": kill_dockerd,
    "`kill -9` of the backend's process": kill_process,
    "backend stopped for 30 s (SIGSTOP)": stop_process,
    "disk of the share full": fill_share,
    "disk of the VM full": fill_disk_of_vm,
    "share without an answer for 30 s": freeze_share,
    "share gone and back": take_share_away,
    "database file read-only": make_read_only,
    "clock set back a day": set_clock_back,
}


# --- Two failures that need more than that -----------------------------------------------------------------------

TO_LOSSY_DISK = """
set -e
udevadm settle
systemctl stop users-backend
umount /data
cp /etc/fstab /etc/fstab.share
sed -i 's|^[^ ]* /data .*|/dev/disk/by-id/virtio-lossy /data ext4 defaults,nofail 0 0|' /etc/fstab
systemctl daemon-reload
mount /data
sync
systemctl start users-backend
"""
BACK_TO_SHARE = """
set -e
systemctl stop users-backend
umount /data
mv /etc/fstab.share /etc/fstab
systemctl daemon-reload
mount /data
sync
systemctl start users-backend
"""
# Written to the disk itself, past every cache of the VM; only a flush is missing.
MARK = """
set -e
printf %4096s | tr ' ' x | dd of=/dev/disk/by-id/virtio-control bs=4096 iflag=fullblock oflag=direct
dd if=/dev/disk/by-id/virtio-control bs=4096 count=1 iflag=direct | grep -c xxx
"""


def cut_power_of_lossy_disk(stack: Stack, rounds: int) -> None:
    """The database on such a disk, in the place of the share; another one must lose what is never flushed."""
    disk = LossyDisk("lossy", "vdb", stack.work, 512 << 20)
    control = LossyDisk("control", "vdc", stack.work, 1 << 20)
    owner = stack.data.stat()
    stack.run("mkfs.ext4", "-q", "-E", f"root_owner={owner.st_uid}:{owner.st_gid}", str(disk.file))

    def fail(stack: Stack) -> float:
        stack.vm(MARK)
        on = power_cut(stack, disk, control)
        assert not any(control.file.read_bytes()), "the disk kept what was never flushed, so this tests nothing"
        return on

    try:
        for each in (disk, control):
            each.start()
            stack.run("virsh", "attach-device", stack.domain, str(each.xml), "--live", "--config")
        stack.vm(TO_LOSSY_DISK)
        seconds_until_healthy(0)
        stack.begin()
        for _ in range(rounds):
            stack.round("power cut, unflushed writes dropped", fail)
        stack.vm(BACK_TO_SHARE)
        for each in (disk, control):
            stack.run("virsh", "detach-device", stack.domain, str(each.xml), "--live", "--config")
    finally:
        for each in (disk, control):
            each.cut()
    seconds_until_healthy(0)
    stack.begin()


COPY = r"users-\S+\.db\.gz"


def damage_page(stack: Stack) -> None:
    """The page with the highest ids is overwritten. Here the newest copy is what can be had, and all are in it."""
    name = "damaged page, `make restore COPY=newest`"
    print(f"\n--- {name}", flush=True)
    acknowledged = stack.acknowledged()
    with stack.writing():
        time.sleep(2)
    acknowledged = stack.acknowledged() - acknowledged
    before = users(BACKEND)
    copy = re.findall(COPY, stack.run("make", "backup"))[0]

    with closing(sqlite3.connect(f"file:{stack.database}?mode=ro", uri=True)) as connection:
        [[size]] = connection.execute("PRAGMA page_size")
        [[root]] = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'users'")
    with stack.database.open("r+b") as file:
        file.seek((root - 1) * size)
        page = file.read(size)
        assert page[0] == 5, "the table fits on one page"  # https://sqlite.org/fileformat.html, "B-tree Pages"
        file.seek((int.from_bytes(page[8:12]) - 1) * size)
        file.write(b"\xff" * size)
    damaged = hashlib.sha256(stack.database.read_bytes()).hexdigest()

    stack.vm("docker kill users-backend")
    wait_until("the backend reports the damage", lambda: "is damaged" in reason_not_ready())
    assert "It is left as it is. `make restore` lists the copies" in reason_not_ready()
    assert re.findall(COPY, stack.run("make", "restore"))[0] == copy, "the newest copy is not the first to be offered"
    assert hashlib.sha256(stack.database.read_bytes()).hexdigest() == damaged
    start = time.monotonic()
    kept = re.findall(r"The damaged file is /data/(\S+);", stack.run("make", "restore", "COPY=newest"))[0]
    seconds = seconds_until_healthy(start)
    assert hashlib.sha256((stack.data / kept).read_bytes()).hexdigest() == damaged
    stack.note(name, acknowledged, len(before.items() - users(BACKEND).items()), seconds)
    stack.begin()


def reason_not_ready() -> str:
    """What /readyz says with status 503."""
    try:
        status, text = ask(f"{BACKEND}/readyz")
    except (OSError, http.client.HTTPException):
        return ""
    return text if status == 503 else ""


def torture(stack: Stack, rounds: int) -> None:
    """So many power cuts of each kind, and each other failure once."""
    for _ in range(rounds):
        stack.round("power cut", power_cut)
    for name, fail in FAILURES.items():
        stack.round(name, fail)
    cut_power_of_lossy_disk(stack, rounds)
    damage_page(stack)


def report(results: dict[str, Result]) -> str:
    """The table, in Markdown."""
    lines = ["| failure | rounds | acknowledged writes | lost | seconds until healthy: median, longest |"]
    lines.append("|---|---|---|---|---|")
    for name, seen in results.items():
        times = f"{statistics.median(seen.seconds):.0f}, {max(seen.seconds):.0f}"
        lines.append(f"| {name} | {len(seen.seconds)} | {seen.acknowledged:,} | {seen.lost} | {times} |")
    return "\n".join(lines) + "\n"
