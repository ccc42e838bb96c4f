"""What the files of this repository say of each other is true."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ["apps/backend/requirements.txt", "apps/frontend/requirements.txt", "requirements-dev.txt"]


def pins(lock: str) -> dict[str, str]:
    """The pinned version of each package, where one is the same on every Python."""
    return dict(re.findall(r"^([\w.-]+)==(\S+) \\$", (ROOT / lock).read_text(), re.MULTILINE))


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
