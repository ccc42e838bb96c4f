"""Follows a tutorial literally: reads its fenced blocks, writes its files, runs its commands.

What a block means follows from its language: `sh` is commands, `text` what the commands before it print, `diff` lines
to replace in a file, and everything else a whole file. The paragraph before it names the file, first and in backticks.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from shutil import copy, copytree
from typing import Any, NamedTuple

import yaml
from machine import ask, free_port

BLOCK = re.compile(
    r"(?:^(?P<paragraph>(?:(?!```).+\n)+)\n)?^```(?P<language>\w+)\n(?P<content>(?:.*\n)*?)```$", re.MULTILINE
)
ROOT = Path(__file__).resolve().parents[1]
SETTINGS = "settings.local.yml"
QUICK = [
    "apps/backend/tests/test_postgres.py::test_a_database_of_others_or_of_a_newer_backend_is_left_alone",
    "apps/backend/tests/test_postgres.py::test_an_older_schema_is_copied_and_then_brought_up_by_one_of_several_backends",
    "apps/backend/tests/test_store.py",
    "apps/backend/tests/test_upgrade.py",
    "apps/frontend/tests/test_pages.py",
]  # of the tests of the apps


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


# --- Without a VM --------------------------------------------------------------------


@contextmanager
def server(command: list[str], **environment: str) -> Iterator[str]:
    """A service on a free port; it must end well when it is asked to."""
    port = str(free_port())
    url = f"http://127.0.0.1:{port}"
    # As in the containers, no proxy stands between the services.
    settings = {"HOST": "127.0.0.1", "PORT": port, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    with subprocess.Popen(command, env=os.environ | settings | environment) as process:
        try:
            for _ in range(300):
                try:
                    assert ask(f"{url}/healthz")[0] == 200
                    break
                except OSError:
                    assert process.poll() is None
                    time.sleep(0.1)
            else:
                raise AssertionError(f"{command} did not answer within 30 s")
            yield url
        finally:
            process.terminate()
    assert process.returncode == 0


class Reader:
    """Somebody who follows a tutorial on a copy of the apps in `folder`, and starts them anew before each command."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for path in ("apps", "pyproject.toml"):
            (copytree if (ROOT / path).is_dir() else copy)(ROOT / path, folder / path)
        (folder / "settings.yml").touch()
        self.environment = os.environ | {
            "SETTINGS_LOCAL": "settings.yml",
            "DATABASE_URL": f"sqlite:///{folder}/users.db",
            "PYTHONPATH": f"{folder}/apps/backend/src:{folder}/apps/frontend/src",
            "NO_PROXY": "*",
            "no_proxy": "*",
        }

    def execute(self, commands: str) -> str:
        """Run commands with the names that things have here, and without what another test does."""
        with self.apps() if "127.0.0.1" in commands else nullcontext(("", "")) as (backend, frontend):
            for name, here in {
                "127.0.0.1:8080": backend.removeprefix("http://"),
                "127.0.0.1:8000": frontend.removeprefix("http://"),
                ".venv/bin/": f"{Path(sys.executable).parent}/",
                "make backup": f"{sys.executable} -m users_backend.admin backup",
                "make lint": "",
                "tests/install-tools": "",
                'pytest -m "not slow" apps': f"pytest {' '.join(QUICK)}",
            }.items():
                commands = commands.replace(name, here)
            return run(commands, self.folder, self.environment)

    @contextmanager
    def apps(self) -> Iterator[tuple[str, str]]:
        """The addresses of both apps, as the files are now."""
        with ExitStack() as running:
            start = [sys.executable, "-m"]
            backend = running.enter_context(server([*start, "users_backend"], **self.environment))
            frontend = [*start, "users_frontend"]
            secret = {"BACKEND_URL": backend, "SECRET_KEY": "-" * 32}
            yield backend, running.enter_context(server(frontend, **(self.environment | secret)))
