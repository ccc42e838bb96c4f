"""What the files of this repository say of each other is true."""

import os
import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = [
    "apps/backend/requirements.txt",
    "apps/frontend/requirements.txt",
    "requirements-bundle.txt",
    "requirements-dev.txt",
]


def pins(lock: str) -> dict[str, str]:
    """The pinned version of each package, where one is the same on every Python."""
    return dict(re.findall(r"^([\w.-]+)==(\S+) \\$", (ROOT / lock).read_text(), re.MULTILINE))


def test_the_text_beside_the_data_names_make_targets_that_there_are_in_both_languages() -> None:
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    english, portuguese = (ROOT / "data/README.txt").read_text(encoding="utf-8").split("\n\n\n")
    named = [set(re.findall(r"`make ([a-z]+)", text)) for text in (english, portuguese)]
    assert {"db", "backup", "restore"} < named[0] == named[1] <= set(targets)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes_and_no_index_is_named(lock: str) -> None:
    text = (ROOT / lock).read_text()
    packages = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert packages
    assert all("--hash=sha256:" in package for package in packages)
    assert not re.search(r"index|https?://", text)


def test_apps_and_tools_fit_into_one_environment() -> None:
    for one, other in combinations(map(pins, LOCKS), 2):
        both = one.keys() & other.keys()
        assert {name: one[name] for name in both} == {name: other[name] for name in both}


@pytest.mark.parametrize(("hook", "command"), [("pre-commit", "lint"), ("pre-push", "check")])
def test_git_runs_the_checks_and_a_failed_one_stops_it(hook: str, command: str, tmp_path: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
        return subprocess.run(
            ["git", *identity, *arguments],
            check=False,
            cwd=tmp_path / "clone",
            env=environment,
            capture_output=True,
            text=True,
        )

    shutil.copytree(ROOT / ".githooks", tmp_path / "clone/.githooks")
    git("init", "--quiet")
    git("init", "--quiet", "--bare", str(tmp_path / "server"))
    git("config", "core.hooksPath", ".githooks")
    (tmp_path / "clone/Makefile").write_text(
        f'lint check:\n\t@[ -z "$$GIT_INDEX_FILE" ] && echo $@ >> log; test $@ != {command}\n'
    )
    commit = git("commit", "--quiet", "--allow-empty", "--message", "change")
    assert (commit.returncode == 0) is (hook == "pre-push")
    if hook == "pre-push":
        assert git("push", str(tmp_path / "server"), "HEAD:main").returncode != 0
    assert (tmp_path / "clone/log").read_text().split() == ["lint", "check"][: 1 + (hook == "pre-push")]
