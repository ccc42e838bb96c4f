"""Where the time of `vagrant up` goes: for a first VM, the next one, and the next one without a network.

Each run starts a new VM; the last two find what the first one kept (cache_dir). Writes docs/start.json, made of what
.cache/timing.json says after each, and draws it as docs/start.svg. Without virtualisation in the CPU it takes half an
hour.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import up
from doctor import CACHE, ROOT
from matplotlib import pyplot
from provisioning import ENVIRONMENT, SETTINGS, WORK, seconds

GUEST = ".cache/bench/guest"
FIRST, NEXT, OFFLINE = "first", "next", "next, without a network"
NETWORK = "192.168.121.0/24"  # vagrant-libvirt's own
DATA, PICTURE = ROOT / "docs/start.json", ROOT / "docs/start.svg"


@contextmanager
def cut_off() -> Iterator[None]:
    """While it lasts, a VM reaches no other machine than this one."""
    rule = ["FORWARD", "--source", NETWORK, "--jump", "REJECT"]
    subprocess.run([*up.SUDO, "iptables", "--insert", *rule], check=True)
    try:
        yield
    finally:
        subprocess.run([*up.SUDO, "iptables", "--delete", *rule], check=True)


def measure() -> dict[str, Any]:
    """The three runs, as .cache/timing.json has them."""
    runs = {}
    seconds("destroy", "--force")
    shutil.rmtree(ROOT / GUEST, ignore_errors=True)
    for name in (FIRST, NEXT, OFFLINE):
        with cut_off() if name == OFFLINE else nullcontext():
            seconds("up")
        runs[name] = json.loads((CACHE / "timing.json").read_text())
        seconds("destroy", "--force")
    return runs


def plot(runs: dict[str, Any]) -> None:
    """A bar for each run, a part of it for each step."""
    parts = {
        name: {k: v for k, v in run["parts"].items() if k != "playbook"} | run["steps"] for name, run in runs.items()
    }
    longest = sorted(
        {step for run in parts.values() for step in run}, key=lambda s: -max(r.get(s, 0) for r in parts.values())
    )
    figure, axis = pyplot.subplots(figsize=(9, 3.2), layout="constrained")
    names, left = [*parts][::-1], [0.0] * len(parts)
    for step in longest:
        widths = [parts[name].get(step, 0) for name in names]
        axis.barh(names, widths, left=left, label=step)
        left = [start + width for start, width in zip(left, widths, strict=True)]
    for row, (name, end) in enumerate(zip(names, left, strict=True)):
        axis.text(end, row, f" {runs[name]['seconds']} s", va="center")
    axis.set_xlabel("seconds")
    axis.margins(x=0.1)
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(fontsize=8, ncols=3, loc="upper center", bbox_to_anchor=(0.45, -0.25), frameon=False)
    figure.savefig(PICTURE, metadata={"Date": None})


def main() -> None:
    """Measure, write, draw."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "settings.yml").write_text(SETTINGS.replace('cache_dir: ""', f"cache_dir: {GUEST}"))
    os.environ.update(ENVIRONMENT)
    subprocess.run([sys.executable, "tools/up.py", "--prepare-only"], check=True, cwd=ROOT)
    runs = measure()
    DATA.write_text(json.dumps(runs, indent=2) + "\n")
    plot(runs)
    for name, run in runs.items():
        print(f"{name}: {run['seconds']} s, {run['seconds'] / runs[FIRST]['seconds']:.2f} of the first")


if __name__ == "__main__":
    main()
