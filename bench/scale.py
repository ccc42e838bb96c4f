"""What one, two and four backends answer, and what is full then: CPU, the disk's flushes, or the network.

Each number of rows has a SQLite file with one backend and a database of a real PostgreSQL with up to four. All of them,
and the load generator, share the cores of this machine: for others, compute with the CPU time of a request. Writes
OUTPUT.json, and the tables in OUTPUT.md between their marks; rows that are not measured now keep their figures. Needs
Linux, and Debian's postgresql.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import resource
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from conftest import Postgres  # type: ignore[import-not-found]  # of the backend's tests, unread by mypy
from probes import busy, cpu, flushes, flushes_possible, loopback_bytes, loopback_possible
from scale_tables import LOADS, renew

from bench import ROOT, Server, result

SETUPS = {"SQLite, 1 backend": 1, "PostgreSQL, 1 backend": 1, "PostgreSQL, 2 backends": 2, "PostgreSQL, 4 backends": 4}
CLIENTS = 64  # of all backends together
CORES = os.sched_getaffinity(0)


def machine(folder: Path, postgres: Postgres) -> dict[str, Any]:
    """What the figures were measured on."""
    before = busy()
    time.sleep(2)
    processor = re.findall(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = int(Path("/proc/meminfo").read_text().split()[1])
    [[version]] = postgres.run("SELECT current_setting('server_version')")
    return {
        "what": f"{len(CORES)} cores ({(processor or [platform.machine()])[0]}), {memory / 1e6:.0f} GB of memory, Python "
        f"{platform.python_version()}, SQLite {sqlite3.sqlite_version}, PostgreSQL {str(version).split()[0]}",
        "cores": len(CORES),
        "busy before": (busy() - before) / 2 / len(CORES),
        "flushes": flushes_possible(folder),
        "loopback": loopback_possible(),
    }


def snapshot(servers: list[Server], postgres: Postgres, folder: Path) -> dict[str, Any]:
    first = postgres.process.pid
    pids = [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]
    loads = resource.getrusage(resource.RUSAGE_CHILDREN)  # of the wrk processes that have ended
    return {
        "backends": {server.port: cpu(server.process.pid) for server in servers},
        "postgres": {pid: cpu(pid) for pid in pids},
        "load": loads.ru_utime + loads.ru_stime,
        "machine": busy(),
        "flushes": flushes(folder),
        "bytes": loopback_bytes(),
    }


def sample(servers: list[Server], what: str, seconds: int, postgres: Postgres, folder: Path) -> dict[str, float]:
    """Load these servers at once; all figures of it."""
    before = snapshot(servers, postgres, folder)
    loads = [server.load(CLIENTS // len(servers), seconds, what) for server in servers]
    answers = [result(load) for load in loads]
    after = snapshot(servers, postgres, folder)
    passed = max(answer["seconds"] for answer in answers)
    figures = {key: (after[key] - before[key]) / passed for key in ("load", "machine", "flushes", "bytes")}
    parts = {
        key: [(after[key][one] - before[key].get(one, 0)) / passed for one in after[key]]
        for key in ("backends", "postgres")
    }
    if wrong := sum(answer["refused"] + answer["broken"] for answer in answers):
        print(f"  {wrong:.0f} requests failed", file=sys.stderr)
    return figures | {
        "per_second": sum(answer["per_second"] for answer in answers),
        "p50_ms": statistics.median(answer["p50_ms"] for answer in answers),
        "p99_ms": max(answer["p99_ms"] for answer in answers),
        "backends": sum(parts["backends"]),
        "backend_most": max(parts["backends"]),
        "postgres": sum(parts["postgres"]),
        "postgres_most": max(parts["postgres"]),
    }


def sizes(server: Server, folder: Path, postgres: Postgres) -> dict[str, float]:
    """Bytes of a database; seconds and bytes of a plain copy, and of the backend's own, packed and checked."""
    start = time.perf_counter()
    if server.url:
        [[size]] = postgres.run("SELECT pg_database_size(current_database())", server.url.rpartition("/")[2])
        subprocess.run(["pg_dump", "--format=custom", f"--file={folder}/plain", server.url], check=True)
        figures = {"bytes": float(str(size)), "plain_seconds": time.perf_counter() - start}
    else:
        with contextlib.closing(sqlite3.connect(folder / "users.db")) as source:
            with contextlib.closing(sqlite3.connect(folder / "plain")) as target:
                source.backup(target)
            figures = {"bytes": (folder / "users.db").stat().st_size, "plain_seconds": time.perf_counter() - start}
            start = time.perf_counter()
            source.execute("PRAGMA quick_check(1)")  # as the backend does at each start
            figures["check_seconds"] = time.perf_counter() - start
    figures["plain_bytes"] = (folder / "plain").stat().st_size
    (folder / "plain").unlink()
    environment = {"DATABASE_URL": server.url or f"sqlite:///{folder}/users.db", "COPIES_DIR": f"{folder}/backups"}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "users_backend.admin", "backup"], check=True, env=os.environ | environment)
    figures["copy_seconds"] = time.perf_counter() - start
    [copy] = (folder / "backups").glob("*.gz")
    return figures | {"copy_bytes": copy.stat().st_size}


def measure(rows: int, options: argparse.Namespace, folder: Path, postgres: Postgres) -> dict[str, Any]:
    """Sizes and loads of one number of rows."""
    name = f"rows{rows}"
    postgres.run(f"CREATE DATABASE {name}")
    all_cores = ",".join(map(str, CORES))
    # Each backend saves ids of its own, above those that are there.
    servers = [
        Server(("users_backend",), rows, url, all_cores, all_cores, next_id=number * 10**12)
        for number, url in enumerate(["", *[postgres.url(name)] * max(SETUPS.values())], start=1)
    ]
    samples: dict[str, dict[str, list[dict[str, float]]]] = defaultdict(lambda: defaultdict(list))
    with contextlib.ExitStack() as stack:
        for number, server in enumerate(servers):
            server.start(folder / f"{name}-{number}")
            stack.callback(server.stop)
        values = "n, 'Ana Maria ' || n, 'ana maria ' || n"
        postgres.run(f"INSERT INTO users SELECT {values} FROM generate_series(1, {rows}) AS n", name)
        postgres.run("VACUUM ANALYZE users", name)
        postgres.run("CHECKPOINT")
        kept = {
            database: sizes(servers[number], folder / f"{name}-{number}", postgres)
            for number, database in enumerate(("SQLite", "PostgreSQL"))
        }
        for number in range(1, options.rounds + 1):
            print(f"{rows:,} rows, round {number} of {options.rounds}", file=sys.stderr)
            for setup, count in SETUPS.items():
                loaded = servers[:1] if "SQLite" in setup else servers[1 : 1 + count]
                for what in LOADS:
                    samples[setup][what].append(sample(loaded, what, options.seconds, postgres, folder))
    medians = {
        setup: {
            what: {key: statistics.median(one[key] for one in each) for key in each[0]} for what, each in by.items()
        }
        for setup, by in samples.items()
    }
    return {"sizes": kept, "loads": medians}


def main() -> None:
    """Measure, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[1000, 1_000_000], help="(default 1000 and 1000000)")
    parser.add_argument("--rounds", type=int, default=3, help="of each load; 0: only sizes (default %(default)s)")
    parser.add_argument("--seconds", type=int, default=4, help="length of a load (default %(default)s)")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/scale", help="OUTPUT, without ending")
    options = parser.parse_args()
    file = options.output.with_suffix(".json")
    document = json.loads(file.read_text()) if file.exists() else {}
    (ROOT / ".cache").mkdir(exist_ok=True)
    # Beside the project, on the disk that `make local` would use; /tmp may be memory.
    with tempfile.TemporaryDirectory(dir=ROOT / ".cache") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if options.rows:
            folder.chmod(0o711)  # PostgreSQL, which is never root, must come to its own folder
            (folder / "postgres").mkdir()
            postgres = Postgres(folder / "postgres")
            stack.callback(postgres.stop)
            about = machine(folder, postgres)
        for rows in options.rows:
            document[str(rows)] = about | measure(rows, options, folder, postgres)
    ordered = dict(sorted(document.items(), key=lambda item: int(item[0])))
    # Four digits: more were not measured.
    document = json.loads(json.dumps(ordered), parse_float=lambda number: float(f"{float(number):.4g}"))
    file.write_text(json.dumps(document, indent=1) + "\n")
    if (page := options.output.with_suffix(".md")).exists():
        renew(page, document)


if __name__ == "__main__":
    main()
