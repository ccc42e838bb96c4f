"""How long the playbook takes, against a shell script that does the same by hand (by_hand.sh).

Each has a fresh VM from the same box, one after the other. Prints seconds and ratios. Without virtualisation in the
CPU it takes half an hour.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from doctor import CACHE, ROOT, read_settings

WORK = CACHE / "bench"
SETTINGS = """\
data_dir: .cache/bench/data
cache_dir: ""
services:
  backend: {host_port: 38080}
  frontend: {host_port: 38000}
"""
ENVIRONMENT = {
    "LIBVIRT_DEFAULT_URI": "qemu:///system",
    "SETTINGS_LOCAL": ".cache/bench/settings.yml",
    "VAGRANT_DOTFILE_PATH": str(WORK / "vagrant"),
}
CHANGED = ROOT / "apps/frontend/src/users_frontend/__init__.py"

INSTALL, AGAIN, CHANGE = "everything", "with nothing to do", "one app changed"
TARGETS = [
    # the playbook's measure, what it is compared with, at most
    (INSTALL, INSTALL, "by hand", 1.25),
    (AGAIN, INSTALL, "playbook", 0.10),
    (CHANGE, CHANGE, "by hand", 1.5),
]


def seconds(*command: str) -> float:
    """Run a Vagrant command; how long it took."""
    start = time.monotonic()
    subprocess.run(["vagrant", "--no-tty", *command], check=True, cwd=ROOT)
    return time.monotonic() - start


@contextmanager
def fresh_vm() -> Iterator[None]:
    """A VM with the shared folders and nothing else; destroyed afterwards."""
    seconds("destroy", "--force")
    try:
        seconds("up", "--no-provision")
        seconds("provision", "--provision-with", "mount")
        yield
    finally:
        seconds("destroy", "--force")


@contextmanager
def changed_app() -> Iterator[None]:
    """The frontend with another line in its source."""
    before = CHANGED.read_bytes()
    try:
        CHANGED.write_bytes(before + b"# Changed by bench/provisioning.py\n")
        yield
    finally:
        CHANGED.write_bytes(before)


def by_hand(action: str) -> float:
    """Run by_hand.sh in the VM; how long it took."""
    settings = read_settings()
    variables = {
        "base_image": settings["image"]["base"],
        "base_archive": settings["image"]["base_archive"],
        "ca_certificate": settings["network"]["ca_certificate"],
    }
    words = [
        "sudo",
        "env",
        *(f"{name}={value}" for name, value in variables.items()),
        "sh",
        "/vagrant/bench/by_hand.sh",
    ]
    return seconds("ssh", "--command", shlex.join([*words, action]))


def measure() -> dict[str, dict[str, float]]:
    """Both ways, each in a VM of its own; seconds."""
    results: dict[str, dict[str, float]] = {INSTALL: {}, AGAIN: {}, CHANGE: {}}
    with fresh_vm():
        results[INSTALL]["by hand"] = by_hand("install")
        with changed_app():
            results[CHANGE]["by hand"] = by_hand("frontend")
    with fresh_vm():
        results[INSTALL]["playbook"] = seconds("provision", "--provision-with", "site")
        results[AGAIN]["playbook"] = seconds("provision", "--provision-with", "site")
        with changed_app():
            results[CHANGE]["playbook"] = seconds("provision", "--provision-with", "site")
    return results


def main() -> None:
    """Measure and report."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    (WORK / "settings.yml").write_text(SETTINGS)
    os.environ.update(ENVIRONMENT)
    subprocess.run([sys.executable, "tools/up.py", "--prepare-only"], check=True, cwd=ROOT)
    results = measure()
    for title, by_name in results.items():
        print(f"\n{title}")
        for name, value in by_name.items():
            print(f"  {name:10} {value:8.1f} s")
    print("\nRatios")
    for title, other_title, other, wanted in TARGETS:
        ratio = results[title]["playbook"] / results[other_title][other]
        verdict = "met" if ratio <= wanted else "MISSED"
        print(f"  {title}: playbook / {other}, {other_title} = {ratio:.2f}, target <= {wanted}: {verdict}")


if __name__ == "__main__":
    main()
