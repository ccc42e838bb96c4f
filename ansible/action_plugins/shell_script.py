"""Runs a script of sh on the machine, by standard input: a password in it is in no command line, and in no log of sudo.

Arguments: text, the script; changes, the names of what it changes, which --diff shows. Where it fails, what it wrote to
standard error is the message. With --check, nothing runs.

A module is a program of Python's, packed here and unpacked there, which takes longer than most of our scripts.
"""

from __future__ import annotations

from typing import Any

from ansible.plugins.action import ActionBase


class ActionModule(ActionBase):
    _VALID_ARGS = frozenset(["text", "changes"])

    def run(self, tmp: None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        result: dict[str, Any] = super().run(tmp, task_vars) | {"changed": True}
        if self._task.diff and (changes := self._task.args.get("changes")):
            result["diff"] = {"prepared": "\n".join(changes)}
        if self._task.check_mode:
            return result
        # Ansible's own way with bytes that are not UTF-8.
        text = self._task.args["text"].encode(errors="surrogateescape")
        done = self._low_level_execute_command("/bin/sh", in_data=text)
        if done["rc"] != 0:
            reason = done["stderr"].strip() or f"The script ended with status {done['rc']} and said nothing."
            return result | {"failed": True, "msg": reason}
        return result | done
