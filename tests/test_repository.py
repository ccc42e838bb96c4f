"""What the files of this repository say of each other is true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ["apps/backend/requirements.txt", "apps/frontend/requirements.txt", "requirements-dev.txt"]


def pins(lock: str) -> dict[str, str]:
    """The pinned version of each package, where one is the same on every Python."""
    return dict(re.findall(r"^([\w.-]+)==(\S+) \\$", (ROOT / lock).read_text(), re.MULTILINE))


def test_readme_names_every_make_target_and_no_other() -> None:
    targets = set(re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", (ROOT / "README.md").read_text())) == targets - {"help"}


def test_the_text_beside_the_data_names_make_targets_that_there_are_in_both_languages() -> None:
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE)
    english, portuguese = (ROOT / "data/README.txt").read_text(encoding="utf-8").split("\n\n\n")
    named = [set(re.findall(r"`make ([a-z]+)", text)) for text in (english, portuguese)]
    assert {"db", "backup", "restore"} < named[0] == named[1] <= set(targets)


def test_the_links_of_readme_lead_to_files() -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_has_hashes_and_no_index_is_named(lock: str) -> None:
    text = (ROOT / lock).read_text()
    packages = re.split(r"^(?=[\w.-]+==)", text, flags=re.MULTILINE)[1:]
    assert packages
    assert all("--hash=sha256:" in package for package in packages)
    assert not re.search(r"index|https?://", text)


def test_apps_and_tools_fit_into_one_environment() -> None:
    backend, frontend, tools = map(pins, LOCKS)
    for one, other in ((backend, frontend), (backend, tools), (frontend, tools)):
        both = one.keys() & other.keys()
        assert {name: one[name] for name in both} == {name: other[name] for name in both}
