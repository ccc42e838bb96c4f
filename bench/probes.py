"""What the kernel has counted of processes, disk and loopback, and what the last two can do. Linux only."""

import contextlib
import os
import re
import socket
import threading
import time
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def cpu(pid: int) -> float:
    """CPU seconds of a process and of its children that have ended; none of one that has just ended itself."""
    try:
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:15])) / TICK
    except FileNotFoundError:
        return 0


def busy() -> float:
    """CPU seconds of the whole machine: user, nice, system, irq, softirq, and what the host took."""
    fields = list(map(int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]))
    return (sum(fields) - fields[3] - fields[4]) / TICK


def flushes(folder: Path) -> int:
    """Flushes that the disk of this folder has done. The kernel counts them for whole disks only."""
    device = folder.stat().st_dev
    disk = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}").resolve()
    return int(((disk.parent if (disk / "partition").exists() else disk) / "stat").read_text().split()[15])


def loopback_bytes() -> int:
    return int(re.findall(r"lo: *(\d+)", Path("/proc/net/dev").read_text())[0])


def flushes_possible(folder: Path) -> float:
    """Flushes a second of a process that does nothing else: it writes 8 KiB, as PostgreSQL's log does, and waits."""
    with (folder / "flushes").open("wb", buffering=0) as file:
        before, start = flushes(folder), time.perf_counter()
        while (seconds := time.perf_counter() - start) < 2:
            os.pwrite(file.fileno(), bytes(8192), 0)
            os.fdatasync(file.fileno())
        return (flushes(folder) - before) / seconds


def loopback_possible() -> float:
    """Bytes a second through one connection on 127.0.0.1 that carries nothing else."""
    block = bytes(1 << 18)
    with socket.create_server(("127.0.0.1", 0)) as listener, contextlib.ExitStack() as stack:
        sender = stack.enter_context(socket.create_connection(listener.getsockname()))
        receiver = stack.enter_context(listener.accept()[0])
        reader = threading.Thread(target=lambda: all(iter(lambda: receiver.recv(len(block)), b"")))
        reader.start()
        before, start = loopback_bytes(), time.perf_counter()
        while (seconds := time.perf_counter() - start) < 1:
            sender.sendall(block)
        sender.shutdown(socket.SHUT_WR)
        reader.join()
        return (loopback_bytes() - before) / seconds
