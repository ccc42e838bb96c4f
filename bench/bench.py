"""How fast the apps are, against a textbook app, a bare route, a bare SQLite commit and a bare page.

What is measured runs on one core, and the load generator (wrk) on another. The runs of all servers
are interleaved, so that whatever else the machine does meets them all; what counts are the
medians and their ratios. Writes OUTPUT, as JSON. Needs Linux and two cores.
"""

import argparse
import contextlib
import json
import math
import os
import secrets
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from users_backend.database import Database

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
SERVER_CORE, LOAD_CORE = sorted(os.sched_getaffinity(0))[:2]
GUNICORN = ("gunicorn", "--worker-class", "gthread", "--threads", "16")  # as our frontend runs
UVICORN = ("uvicorn", "--no-access-log", "--log-level", "warning", "--loop", "uvloop", "--http", "httptools")


@dataclass
class Server:
    """A server process with a database of its own."""

    command: tuple[str, ...]
    rows: int = 0
    url: str = ""  # of a database that is there already; without it, a SQLite file of its own
    core: int | str = SERVER_CORE
    load_core: int | str = LOAD_CORE
    backend: "Server | None" = None  # whom it asks; started before it
    path: str = "/users"  # that answers when it has started
    port: int = 0
    next_id: int = 10_000_000
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self, folder: Path) -> None:
        """Start on its core; return when it answers."""
        folder.mkdir()
        if self.rows and not self.url:
            fill(folder / "users.db", self.rows)
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        environment = {
            "DATABASE_URL": self.url or f"sqlite:///{folder}/users.db",
            "COPIES_KEPT": "0,0,0",  # a copy would slow what is measured then
            "PORT": str(self.port),
            "UVICORN_PORT": str(self.port),
            "GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{self.port}",
            "HOST": "127.0.0.1",
            "PYTHONPATH": f"{ROOT}/apps/backend/src:{ROOT}/apps/frontend/src:{HERE}",
        }
        if self.backend:
            environment |= {"BACKEND_URL": f"http://127.0.0.1:{self.backend.port}", "SECRET_KEY": secrets.token_hex()}
        with open(folder / "log", "w") as log:
            self.process = subprocess.Popen(
                ["taskset", "--cpu-list", str(self.core), sys.executable, "-m", *self.command],
                env=os.environ | environment,
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 30
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}{self.path}").close()
                return
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                sys.exit(f"{' '.join(self.command)} does not answer. Its log is {folder}/log.")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the process, by its own pid."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait()

    def memory(self) -> float:
        """Resident memory in MiB (VmRSS of proc(5))."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def load(self, clients: int, seconds: int, what: str) -> subprocess.Popen[str]:
        """Start a load on this server: "post", "get" (ids from 1 to `rows`), "page" or "list"."""
        number = self.rows
        if what == "post":
            number = self.next_id
            self.next_id += 10_000_000  # more than one run can use
        command: list[object] = [
            "taskset",
            "--cpu-list",
            self.load_core,
            "wrk",
            "--threads",
            "1",
            "--connections",
            clients,
            "--duration",
            f"{seconds}s",
            "--timeout",
            "30s",
        ]
        command += ["--script", HERE / "load.lua", f"http://127.0.0.1:{self.port}", "--", what, number]
        return subprocess.Popen(
            list(map(str, command)),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )


def result(load: subprocess.Popen[str]) -> dict[str, float]:
    """Wait for a load; what load.lua reports of it."""
    text = load.communicate()[1]
    if load.returncode:
        sys.exit(f"wrk failed: {text}")
    answer: dict[str, float] = json.loads(text)
    answer["per_second"] = (answer["requests"] - answer["refused"]) / answer["seconds"]
    return answer


def fill(path: Path, rows: int) -> None:
    """Make a database as the backend does, with users from 1 to `rows`."""
    database = Database(path)
    with database.connection as connection:
        connection.execute(
            "WITH RECURSIVE numbers(n) AS (VALUES (1) UNION ALL SELECT n + 1 FROM numbers LIMIT ?) "
            "INSERT INTO users SELECT n, 'Ana Maria ' || n, 'ana maria ' || n FROM numbers",
            [rows],
        )
    database.close()


class BareCommits:
    """The floor of a durable write: INSERT and COMMIT in a process that does nothing else."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.connection = Database(folder / "users.db").connection
        self.next_id = 1

    def p50_ms(self, seconds: int) -> float:
        """The median of one commit, in milliseconds."""
        times = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            start = time.perf_counter()
            self.connection.execute("BEGIN IMMEDIATE")
            self.connection.execute("INSERT INTO users VALUES (?, 'Ana Maria', 'ana maria')", [self.next_id])
            self.connection.execute("COMMIT")
            times.append(time.perf_counter() - start)
            self.next_id += 1
        return statistics.median(times) * 1000


OURS, SMALL, LARGE = "ours", "ours, 1,000 rows", "ours, 1,000,000 rows"
TEXTBOOK, CROWDED, FLOOR = "textbook app", "textbook app, crowded", "bare route"
BACKEND, FRONTEND, BARE_PAGE = "the frontend's backend", "our frontend", "bare page"

POST_16, POST_64 = "POST a second, 16 clients", "POST a second, 64 clients"
GET, PAGE = "GET by id a second, 16 clients", "GET of 100 users a second, 16 clients"
LIST = "list pages of 100 users a second, 16 clients"
LATENCY, P99 = "POST of 1 client, median ms", "GET while 64 clients POST, p99 ms"
IDLE, MILLION = "resident MiB, idle", "resident MiB, after a million requests"

# What is measured with wrk alone: clients, load, servers.
RATES = {
    POST_16: (16, "post", (OURS, TEXTBOOK, FLOOR)),
    POST_64: (64, "post", (OURS, CROWDED, FLOOR)),
    GET: (16, "get", (SMALL, LARGE, TEXTBOOK, FLOOR)),
    PAGE: (16, "page", (SMALL, TEXTBOOK, FLOOR)),
    LIST: (16, "list", (FRONTEND, BARE_PAGE)),
}

# One median divided by another, or by a number: at least or at most this.
TARGETS: list[tuple[str, str, str | int, str, float]] = [
    (POST_16, OURS, TEXTBOOK, ">=", 12),
    (POST_64, OURS, FLOOR, ">=", 0.70),
    (LATENCY, OURS, "bare commit", "<=", 1.15),
    (GET, SMALL, TEXTBOOK, ">=", 15),
    (GET, SMALL, FLOOR, ">=", 0.70),
    (GET, LARGE, SMALL, ">=", 0.90),
    (PAGE, SMALL, TEXTBOOK, ">=", 12),
    (PAGE, SMALL, FLOOR, ">=", 0.70),
    (LIST, FRONTEND, BARE_PAGE, ">=", 0.60),
    (P99, SMALL, 25, "<=", 1),
    (IDLE, SMALL, TEXTBOOK, "<=", 0.7),
    (MILLION, SMALL, "before them", "<=", 1.02),
]

Results = dict[str, dict[str, list[float]]]


def measure(folder: Path, rounds: int, seconds: int, rows: int, requests: int) -> Results:
    """All runs of all servers: values by measure and server."""
    servers = {
        OURS: Server(("users_backend",)),
        SMALL: Server(("users_backend",), rows=1000),
        LARGE: Server(("users_backend",), rows=rows),
        TEXTBOOK: Server((*UVICORN, "textbook:app")),
        # 64 clients take all of its pool's connections, and it does not recover: a process of its own.
        CROWDED: Server((*UVICORN, "textbook:app")),
        FLOOR: Server((*UVICORN, "floor:app")),
    }
    # It has a core of its own: what is measured is the frontend, and the load is light.
    servers[BACKEND] = Server(("users_backend",), rows=1000, core=LOAD_CORE)
    servers[FRONTEND] = Server(("users_frontend",), backend=servers[BACKEND], path="/")
    servers[BARE_PAGE] = Server((*GUNICORN, "page:app"), path="/")
    results: Results = defaultdict(lambda: defaultdict(list))
    with contextlib.ExitStack() as stack:
        for name, server in servers.items():
            server.start(folder / name)
            stack.callback(server.stop)
        for name in (SMALL, TEXTBOOK):
            results[IDLE][name].append(servers[name].memory())
        seed_textbook(servers[TEXTBOOK], folder / TEXTBOOK / "users.db")
        servers[FLOOR].rows = 1000
        bare = BareCommits(folder / "commits")
        for number in range(1, rounds + 1):
            print(f"Round {number} of {rounds}", file=sys.stderr)
            for title, (clients, what, names) in RATES.items():
                for name in names:
                    answer = result(servers[name].load(clients, seconds, what))
                    results[title][name].append(answer["per_second"])
                    if answer["refused"] or answer["broken"]:
                        print(f"  {title}, {name}: {answer}", file=sys.stderr)
            results[LATENCY]["bare commit"].append(bare.p50_ms(seconds))
            results[LATENCY][OURS].append(result(servers[OURS].load(1, seconds, "post"))["p50_ms"])
            writers = servers[SMALL].load(64, seconds + 1, "post")
            results[P99][SMALL].append(result(servers[SMALL].load(4, seconds, "get"))["p99_ms"])
            result(writers)
        print(f"{requests} requests, for the memory", file=sys.stderr)
        results[MILLION]["before them"].append(servers[SMALL].memory())
        done = 0.0
        while done < requests:
            done += result(servers[SMALL].load(64, seconds, "get"))["requests"]
        results[MILLION][SMALL].append(servers[SMALL].memory())
    return results


def seed_textbook(server: Server, path: Path) -> None:
    """Give the textbook app as many users as the small server has."""
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO user VALUES (?, ?)", ((n, f"Ana Maria {n}") for n in range(1, 1001)))
    server.rows = 1000


def report(results: Results) -> list[dict[str, Any]]:
    """Print medians and ratios; the ratios as data."""
    medians = {title: {name: statistics.median(v) for name, v in by.items()} for title, by in results.items()}
    for title, by_name in medians.items():
        print(f"\n{title}")
        for name, value in by_name.items():
            low, high = min(results[title][name]), max(results[title][name])
            print(f"  {name:22} {value:10,.2f}   (from {low:,.2f} to {high:,.2f})")
    print("\nRatios of the medians")
    ratios = []
    for title, name, other, sign, wanted in TARGETS:
        base = medians[title][other] if isinstance(other, str) else other
        ratio = medians[title][name] / base if base else math.inf  # the other one has answered nothing
        met = ratio >= wanted if sign == ">=" else ratio <= wanted
        print(f"  {title}: {name} / {other} = {ratio:.2f}, target {sign} {wanted}: {'met' if met else 'MISSED'}")
        ratios.append({"measure": title, "of": name, "to": other, "ratio": ratio, "target": f"{sign} {wanted}"})
    return ratios


def main() -> None:
    """Measure, report, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each server (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="length of a run (default %(default)s)")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large database (default %(default)s)")
    parser.add_argument("--requests", type=int, default=1_000_000, help="requests for the memory (default %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / ".cache/bench.json", help="OUTPUT")
    options = parser.parse_args()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    os.sched_setaffinity(0, {SERVER_CORE})  # where the bare commits must run, too
    # Beside the project, on the disk that `make local` would use; /tmp may be memory.
    with tempfile.TemporaryDirectory(dir=options.output.parent) as folder:
        results = measure(Path(folder), options.rounds, options.seconds, options.rows, options.requests)
    ratios = report(results)
    document = {"rounds": options.rounds, "seconds": options.seconds, "values": results, "ratios": ratios}
    options.output.write_text(json.dumps(document, indent=1) + "\n")
    print(f"\nWritten: {options.output}")


if __name__ == "__main__":
    main()
