"""The tables of docs/scale.md, made from the figures that scale.py has measured."""

import math
from pathlib import Path
from typing import Any

LOADS = {"get": "read one user", "page": "read a page of 100", "post": "save a user"}
MAIN = "1000000"  # the rows whose loads are shown in full
FULL = 0.9

# What the table of users supposes; docs/scale.md says it in words.
USERS = (1000, 1_000_000, 100_000_000)
REQUESTS_A_DAY, BUSIEST_HOUR = 20, 0.1
MIX = {"get": 0.8, "page": 0.1, "post": 0.1}
PROCESS_FILL = 0.6  # of a core, that one backend may use in that hour

Figures = dict[str, Any]


def renew(path: Path, document: dict[str, Figures]) -> None:
    """Put the tables between their marks."""
    text = path.read_text(encoding="utf-8")
    for make in (machine, limits, rows, users):
        before, start, rest = text.partition(f"<!-- {make.__name__}, by bench/scale.py -->\n")
        text = before + start + make(document) + rest[rest.index("<!-- end -->") :]
    path.write_text(text, encoding="utf-8")


def table(heading: str, lines: list[list[str]]) -> str:
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return f"| {heading} |\n|{'---|' * len(heading.split(' | '))}\n{body}"


def machine(document: dict[str, Figures]) -> str:
    """What was measured on which machine."""
    runs: dict[str, list[str]] = {}
    for number, figures in document.items():
        text = (
            f"{figures['what']}. A process that does nothing else gets {figures['flushes']:,.0f} flushes a second from "
        )
        text += f"the disk, and {size(figures['loopback'])} a second through 127.0.0.1."
        if figures["busy before"] > 0.05:
            text += f" **Other programs kept the cores {min(figures['busy before'], 1):.0%} busy: speeds are too low.**"
        runs.setdefault(text, []).append(f"{int(number):,}")
    return "".join(f"- {' and '.join(numbers)} users: {text}\n" for text, numbers in runs.items())


def limits(document: dict[str, Figures]) -> str:
    """Each load of each setup, and what is full then."""
    figures = document.get(MAIN) or next(iter(document.values()))
    lines = []
    for what, title in LOADS.items():
        for setup, loads in figures["loads"].items():
            load = loads[what]
            micro = [f"{load[part] / load['per_second'] * 1e6:,.0f}" for part in ("backends", "postgres", "load")]
            lines.append(
                [title, setup, f"{load['per_second']:,.0f}", f"{load['p50_ms']:.1f}; {load['p99_ms']:.1f}"]
                + ["; ".join(f"{load[part]:.2f}" for part in ("backends", "postgres", "load")), "; ".join(micro)]
                + [f"{load['flushes']:,.0f} ({load['flushes'] / figures['flushes']:.0%})"]
                + [f"{load['bytes'] / 1e6:.1f} MB ({load['bytes'] / figures['loopback']:.0%})", full(load, figures)]
            )
    heading = "what | database, backends | a second | ms: half, 99 of 100 | cores: backends; database; wrk"
    return table(f"{heading} | µs of CPU a request: the same | flushes a second | network a second | full", lines)


def full(load: Figures, figures: Figures) -> str:
    """What has no more to give; or else what is nearest to that."""
    shares = {
        "all cores": load["machine"] / figures["cores"],
        "the core of a backend process": load["backend_most"],
        "the core of a PostgreSQL process": load["postgres_most"],
        "the disk's flushes": load["flushes"] / figures["flushes"],
        "the network": load["bytes"] / figures["loopback"],
    }
    most = max(shares, key=lambda name: shares[name])
    named = [name for name in shares if shares[name] >= FULL]
    return ", ".join(named) or f"nothing; most of all {most}, {shares[most]:.0%}"


def rows(document: dict[str, Figures]) -> str:
    """One backend with more and more users, and what they weigh."""
    lines = []
    for number, figures in document.items():
        for database, sizes in figures["sizes"].items():
            loads = figures["loads"].get(f"{database}, 1 backend")
            speeds = [f"{loads[what]['per_second']:,.0f}" for what in LOADS] if loads else ["not measured"] * 3
            lines.append(
                [f"{int(number):,}", database, *speeds, size(sizes["bytes"])]
                + [f"{seconds(sizes[f'{kind}_seconds'])}, {size(sizes[f'{kind}_bytes'])}" for kind in ("plain", "copy")]
                + [seconds(sizes["check_seconds"]) if "check_seconds" in sizes else "none"]
            )
    heading = "users | database | reads of one a second | pages of 100 a second | saved a second | size"
    return table(f"{heading} | plain copy, `pg_dump` | `make backup` | check at each start", lines)


def users(document: dict[str, Figures]) -> str:
    """What so many users ask for, computed from the CPU time that a request takes."""
    lines = []
    for count in USERS:
        rate = count * REQUESTS_A_DAY * BUSIEST_HOUR / 3600
        measured = max(int(number) for number, each in document.items() if each["loads"] and int(number) <= count)
        loads = document[str(measured)]["loads"]

        def cores(setup: str, part: str, loads: Figures = loads, rate: float = rate) -> float:
            parts = [share * loads[setup][what][part] / loads[setup][what]["per_second"] for what, share in MIX.items()]
            return float(rate * sum(parts))

        lite, backends = cores("SQLite, 1 backend", "backends"), cores("PostgreSQL, 4 backends", "backends")
        most = max(loads[setup]["post"]["per_second"] for setup in loads if "PostgreSQL" in setup)
        lines.append(
            [f"{count:,}", amount(rate), f"{amount(rate * MIX['post'])} of {amount(most)}"]
            + [amount(lite) + (": too much for one" if lite > PROCESS_FILL else ""), amount(backends)]
            + [f"{max(1, math.ceil(backends / PROCESS_FILL))}", amount(cores("PostgreSQL, 4 backends", "postgres"))]
            + [f"{measured:,} users"]
        )
    heading = (
        "users | requests a second | saves among them, of those that PostgreSQL did here | SQLite: cores of its backend"
    )
    heading += " | PostgreSQL: cores of its backends | so many backends | cores of the database | from figures for"
    return table(heading, lines)


def amount(count: float) -> str:
    if count < 0.01:
        return "under 0.01"
    return f"{count:,.0f}" if count >= 10 else f"{count:.2g}"


def size(count: float) -> str:
    units = ["B", "kB", "MB", "GB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.{1 if count < 10 else 0}f} {units[0]}"


def seconds(count: float) -> str:
    return f"{count:,.0f} s" if count >= 10 else f"{count:.2g} s"
