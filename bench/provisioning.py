"""How long the playbook takes, against a shell script that does the same by hand (by_hand.sh).

Each has a fresh machine, one after the other: a container with the VM's system (tests/container.py), which is as fast as
this computer, while what an emulated processor would show is mostly the emulation. Prints seconds, medians where a step
can be repeated, and ratios. Debian or Ubuntu, as root.
"""

import argparse
import shlex
import statistics
import time
from collections.abc import Callable

from container import Container, fresh  # type: ignore[import-not-found]  # of the tests, unread by mypy
from doctor import CACHE

ROUNDS = 5

INSTALL, AGAIN, CHANGE = "everything", "with nothing to do", "one app changed"
TARGETS = [
    # the playbook's measure, what it is compared with, at most
    (INSTALL, INSTALL, "by hand", 1.25),
    (AGAIN, INSTALL, "playbook", 0.10),
    (CHANGE, CHANGE, "by hand", 1.5),
]


def seconds(action: Callable[[], object]) -> float:
    """How long it takes."""
    start = time.monotonic()
    action()
    return time.monotonic() - start


def change(machine: Container) -> None:
    """Give the frontend another line in its source."""
    with open(machine.project / "apps/frontend/src/users_frontend/__init__.py", "a") as source:
        source.write("# changed\n")


def after_a_change(machine: Container, action: Callable[[], object]) -> float:
    """The median of how long it takes after each of several changes."""
    taken = []
    for _ in range(ROUNDS):
        change(machine)
        taken.append(seconds(action))
    return statistics.median(taken)


def measure() -> dict[str, dict[str, float]]:
    """Both ways, each in a machine of its own; seconds."""
    results: dict[str, dict[str, float]] = {INSTALL: {}, AGAIN: {}, CHANGE: {}}
    with fresh(CACHE / "bench/provisioning") as machine:
        settings = machine.settings()
        variables = {
            "base_image": settings["image"]["base"],
            "base_archive": settings["image"]["base_archive"],
            "ca_certificate": settings["network"]["ca_certificate"],
        }
        given = shlex.join(f"{name}={value}" for name, value in variables.items())
        script = f"sudo env {given} sh /vagrant/bench/by_hand.sh"
        results[INSTALL]["by hand"] = seconds(lambda: machine.says(f"{script} install"))
        results[CHANGE]["by hand"] = after_a_change(machine, lambda: machine.says(f"{script} frontend"))
    with fresh(CACHE / "bench/provisioning") as machine:
        machine.settings()
        results[INSTALL]["playbook"] = seconds(machine.playbook)
        results[AGAIN]["playbook"] = statistics.median(seconds(machine.playbook) for _ in range(ROUNDS))
        results[CHANGE]["playbook"] = after_a_change(machine, machine.playbook)
    return results


def main() -> None:
    """Measure and report."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    results = measure()
    for title, by_name in results.items():
        print(f"\n{title}")
        for name, value in by_name.items():
            print(f"  {name:10} {value:8.2f} s")
    print("\nRatios")
    for title, other_title, other, wanted in TARGETS:
        ratio = results[title]["playbook"] / results[other_title][other]
        verdict = "met" if ratio <= wanted else "MISSED"
        print(f"  {title}: playbook / {other}, {other_title} = {ratio:.2f}, target <= {wanted}: {verdict}")


if __name__ == "__main__":
    main()
