"""Where the time of a first `make up` goes, and of the next ones: docs/performance.md shows what this prints.

Three VMs one after the other, in a copy of this project: one with nothing there yet, not even the box; one with what
`vagrant destroy` has kept of it; one with that and without a network. Without virtualisation in the CPU it takes half
an hour. Needs root (Debian, QEMU), for the firewall.
"""

import argparse
import json
import os
import shutil
import subprocess
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from doctor import CACHE, ROOT
from machine import copy_project, cut_off  # type: ignore[import-not-found]  # of the tests, unread by mypy

COPY = CACHE / "bench/starts"
SETTINGS = """\
services:
  backend: {host_port: 38080}
  frontend: {host_port: 38000}
"""
STARTS = ["nothing is there", "from the cache", "from the cache, no network"]
LAPTOP = "box and base image, built on the laptop"
SLOW_LINE = 10  # Mbit/s
# What of the playbook is shown by itself, by how the names of its steps begin.
PARTS = {"role docker": "Docker", "images": "images", "services": "services until healthy"}


def run(*command: str, environment: dict[str, str]) -> float:
    """Run a command in the copy; how many seconds it took."""
    start = time.monotonic()
    subprocess.run(command, check=True, cwd=COPY, env=os.environ | environment)
    return time.monotonic() - start


def received() -> int:
    """The bytes that this machine has got by its network cards, for itself and for its VMs."""
    cards = [card for card in Path("/sys/class/net").iterdir() if (card / "device").exists()]
    return sum(int((card / "statistics/rx_bytes").read_text()) for card in cards)


def start(environment: dict[str, str]) -> dict[str, Any]:
    """One `make up`: the megabytes that it fetched, and the seconds of each part."""
    before = received()
    seconds = run("make", "up", environment=environment)
    timing = json.loads((COPY / ".cache/timing.json").read_text())
    parts = {LAPTOP: seconds - timing["seconds"]} | timing["parts"]
    for name, part in PARTS.items():
        for step, took in timing["steps"].items():
            if step.startswith(name):
                parts[part] = parts.get(part, 0) + took
                parts["playbook"] -= took
    parts["the rest of the playbook"] = parts.pop("playbook")
    fetched = (received() - before) / 1e6
    return {"fetched": round(fetched), "parts": {part: round(took, 1) for part, took in parts.items()}}


def measure() -> dict[str, dict[str, Any]]:
    """The three starts; nothing is left of their VMs."""
    environment = {
        "LIBVIRT_DEFAULT_URI": "qemu:///system",
        "SETTINGS_LOCAL": "settings.local.yml",
        "VAGRANT_HOME": str(COPY / ".cache/vagrant"),  # which has no box yet
    }
    shutil.rmtree(COPY, ignore_errors=True)
    copy_project(COPY)
    (COPY / "settings.local.yml").write_text(SETTINGS)
    results = {}
    for name in STARTS:
        try:
            with cut_off() if "no network" in name else nullcontext():
                results[name] = start(environment)
        finally:
            run("vagrant", "--no-tty", "destroy", "--force", environment=environment)
    shutil.rmtree(COPY)
    return results


def gantt(results: dict[str, dict[str, Any]]) -> str:
    """One row for each part that takes a second, as a drawing of Mermaid's for Markdown."""
    lines = ["```mermaid", "gantt", "    dateFormat x", "    axisFormat %s s"]
    for name, result in results.items():
        lines.append(f"    section {name}")
        begin = "0, "
        for part, seconds in result["parts"].items():
            if seconds >= 1:
                lines.append(f"    {part}, {seconds:.0f} s :{begin}{seconds:.0f}s")
                begin = ""  # where the one before ended
    return "\n".join([*lines, "```"])


def main() -> None:
    """Measure, unless that was done, and say what became of the time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--again", action="store_true", help="say what FIGURES has, and start no VM")
    parser.add_argument("--figures", type=Path, default=ROOT / "docs/starts.json")
    options = parser.parse_args()
    if not options.again:
        options.figures.write_text(json.dumps(measure(), indent=1) + "\n")
    results = json.loads(options.figures.read_text())
    seconds = {name: sum(each["parts"].values()) for name, each in results.items()}
    slowly = {name: seconds[name] + results[name]["fetched"] * 8 / SLOW_LINE for name in STARTS}
    for name in STARTS:
        print(
            f"{name}: {seconds[name]:.0f} s, {seconds[name] / seconds[STARTS[0]]:.2f} of the first; "
            f"{results[name]['fetched']} MB fetched, by {SLOW_LINE} Mbit/s it would be about "
            f"{slowly[name]:.0f} s, {slowly[name] / slowly[STARTS[0]]:.2f} of the first"
        )
    print(gantt(results))


if __name__ == "__main__":
    main()
