"""Follows a tutorial literally: reads its fenced blocks, writes its files, runs its commands.

What a block means follows from its language: `sh` is commands, `text` what the commands before it print, `diff` lines
to replace in a file, and everything else a whole file. The paragraph before it names the file, first and in backticks.
"""

import json
import re
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import yaml

BLOCK = re.compile(
    r"(?:^(?P<paragraph>(?:(?!```).+\n)+)\n)?^```(?P<language>\w+)\n(?P<content>(?:.*\n)*?)```$", re.MULTILINE
)
SETTINGS = "settings.local.yml"


class Step(NamedTuple):
    """One fenced block. `path` is what the paragraph before it has in backticks, if anything."""

    language: str
    path: str
    content: str


def steps(tutorial: Path) -> list[Step]:
    """The blocks in their order."""
    found = []
    for block in BLOCK.finditer(tutorial.read_text(encoding="utf-8")):
        path = re.search(r"`([^`]+)`", block["paragraph"] or "")
        found.append(Step(block["language"], path[1] if path else "", block["content"]))
    return found


def write(step: Step, folder: Path) -> None:
    """Write or change the file of a step."""
    file = folder / step.path
    text = step.content
    if step.language == "diff":
        old, new = ("".join(line[1:] for line in text.splitlines(True) if line[0] in signs) for signs in ("- ", "+ "))
        text, times = re.subn(f"^{re.escape(old)}", lambda _: new, file.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert times == 1, f"{step.path} has not once what the tutorial changes:\n{old}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def follow(
    tutorial: Path, folder: Path, environment: dict[str, str], execute: Callable[[str], str] | None = None
) -> str:
    """Do all that the tutorial says, in `folder`. Return what its last commands printed.

    Commands are run as they stand, unless `execute` does something better with them.

    SETTINGS_LOCAL in the environment names the file that stands for settings.local.yml: the settings of the tutorial
    are laid over those that it has now.
    """
    local = folder / environment["SETTINGS_LOCAL"]
    present = yaml.safe_load(local.read_text())
    output = ""
    with tempfile.TemporaryDirectory() as own:  # the reader's settings.local.yml, as the tutorial shows it
        for step in steps(tutorial):
            if step.language == "sh":
                output = execute(step.content) if execute else run(step.content, folder, environment)
            elif step.language == "text":
                # An answer over HTTP need not end its last line.
                assert step.content.rstrip("\n") in output, (
                    f"The tutorial promises {step.content!r}; this came:\n{output}"
                )
            elif step.path == SETTINGS:
                write(step, Path(own))
                over = yaml.safe_load((Path(own) / SETTINGS).read_text()) or {}
                local.write_text(json.dumps(merge(present, over)))  # JSON is YAML
            else:
                write(step, folder)
    return output


def run(commands: str, folder: Path, environment: dict[str, str]) -> str:
    """Run the lines of a block in one shell; what they print is seen at once, and returned."""
    output = ""
    with subprocess.Popen(
        ["sh", "-eux", "-c", commands], cwd=folder, env=environment, encoding="utf-8", stdout=subprocess.PIPE
    ) as process:
        assert process.stdout
        for line in process.stdout:
            print(line, end="", flush=True)
            output += line
    assert process.returncode == 0, f"It ended with {process.returncode}:\n{commands}\n{output[-4000:]}"
    return output


def merge(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """As vagrant/settings.rb does it."""
    both = {key: merge(under[key], over[key]) for key in under.keys() & over.keys() if isinstance(over[key], dict)}
    return under | over | both
