"""Says at the end of a playbook where the time went. Ansible's own profile_tasks is in a collection, not in ansible-core."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: timing
type: aggregate
short_description: Where the time of a playbook went
description:
  - Prints the seconds of the slowest steps. A step is a role, or one of its tasks that takes long.
options:
  file:
    description: File that gets the seconds of all steps, as one line of JSON.
    type: path
    env: [{name: USERS_TIMING}]
"""
SHOWN = 8  # steps
# Tasks that are a step of their own, by their names.
STEPS = {
    "Build the images that are missing, all at once": "images",
    "Bring live what does not run as it should, all at once": "services, until they are healthy",
}


def step_of(task: Any) -> str:
    """What a task is a part of."""
    name = re.sub("^.* : ", "", task.get_name())  # without its role
    if name in STEPS:
        return STEPS[name]
    role = task._role  # Ansible's own plugins take it from there, too
    return f"role {role.get_name()}" if role else "settings and sources"


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "timing"
    CALLBACK_NEEDS_ENABLED = True  # ansible.cfg does

    def __init__(self) -> None:
        super().__init__()
        self.start = self.last = time.monotonic()
        self.step = "Ansible's start"
        self.seconds: dict[str, float] = {}
        self.each: dict[str, dict[str, int]] = {}

    def begin(self, step: str) -> None:
        """All that passes from now on belongs to this step."""
        now = time.monotonic()
        self.seconds[self.step] = self.seconds.get(self.step, 0) + now - self.last
        self.step, self.last = step, now

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self.begin(step_of(task))

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self.begin(step_of(task))

    def v2_runner_on_ok(self, result: Any) -> None:
        """What is done for all services at once tells the seconds of each."""
        if self.step in STEPS.values():
            told = re.findall(r"^([\w-]+) (\d+)$", result._result.get("stdout", ""), re.MULTILINE)
            self.each[self.step] = {service: int(seconds) for service, seconds in told}

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self.begin("")
        slowest = sorted(self.seconds.items(), key=lambda step: -step[1])
        self._display.banner("WHERE THE TIME WENT")
        for step, seconds in slowest[:SHOWN]:
            each = ", ".join(f"{service} {took}" for service, took in self.each.get(step, {}).items())
            self._display.display(f"{seconds:6.1f} s  {step}{each and f' ({each})'}")
        self._display.display(f"{self.last - self.start:6.1f} s  in all\n")

        file = self.get_option("file")
        if not file:
            return
        steps = {step: round(seconds, 1) for step, seconds in slowest}
        report = {"playbook": round(self.last - self.start, 1), "steps": steps, "each": self.each}
        try:
            Path(file).write_text(json.dumps(report) + "\n")
        except OSError as error:
            self._display.warning(f"The seconds were not written to {file}: {error.strerror}.")
