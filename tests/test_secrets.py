"""Nothing in this repository looks like a private key, a token or a password."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
# What looks like one and is none.
ALLOWED = [
    (ROOT / "box/vagrant.pub").read_text(),  # known to everybody: Vagrant replaces it at the first `vagrant up`
    "0123456789abcdef0123456789abcdef",  # in tests of the frontend
    "http://me:secret@backend",
    "http://USER:PASSWORD@HOST",
]

# What secrets look like. The tests of the VM search its logs, images and files with the same table.
SECRETS = {
    "private key": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY",
    "SSH key": r"\bssh-(?:rsa|dss|ed25519) AAAA[\w+/]{20}",
    "AWS access key": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "GitHub token": r"\b(?:gh[opsru]_[0-9A-Za-z]{36}|github_pat_\w{22})",
    "GitLab token": r"\bglpat-[\w-]{20}",
    "Slack token": r"\bxox[abeoprs]-[\w-]{10}",
    "Google API key": r"\bAIza[\w-]{35}",
    "PyPI token": r"\bpypi-AgE[\w-]{20}",
    "JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10}",
    # Unless a part is a variable, or the host one that RFC 2606 keeps for examples. Ansible's log has stars for a password.
    "password in a URL": r"://[^\s/:@{]+:[^\s/@*{]+@(?!\{|(?:[\w-]+\.)*example(?:\.(?:com|net|org))?\b)",
    # A long value with a digit in it; a call or a variable has a dot, a bracket or a dollar sign instead.
    "value of a secret": r"(?i)(?:passw(?:or)?d|secret(?:_?key)?|token|api_?key)[\"']?\s*[:=]\s*[\"']?"
    r"(?=[a-z_+/-]*[0-9])[\w+/-]{16}",
}


def found(text: str) -> list[str]:
    """Names of what looks like a secret in this text."""
    for allowed in ALLOWED:
        text = text.replace(allowed, "")
    return [name for name, pattern in SECRETS.items() if re.search(pattern, text)]


# In pieces, so that they are not found in this file.
SAMPLES = {
    "private key": "-----BEGIN OPENSSH " + "PRIVATE KEY-----",
    "SSH key": "ssh-ed25519 " + "AAAA" + "C3NzaC1lZDI1NTE5AAAAIKb4 ana@laptop",
    "AWS access key": "aws_access_key_id = AKIA" + "IOSFODNN7EXAMPLE",
    "GitHub token": "GH=ghp_" + 9 * "a1B2",
    "GitLab token": "glpat-" + 5 * "a1B2",
    "Slack token": "xoxb-" + "1234567890-abc",
    "Google API key": "AIza" + 7 * "Sy_-9",
    "PyPI token": "pypi-AgE" + 5 * "IcHl",
    "JSON web token": "bearer eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".dozjgNryP4J3jVmNHl0w",
    "password in a URL": "http_proxy: http://ana:" + "s3cret@proxy.company.net:3128",
    "value of a secret": "SECRET_" + "KEY=" + 4 * "90fb3c1d",
}


@pytest.mark.parametrize("name", SECRETS)
def test_a_planted_secret_is_found(name: str) -> None:
    assert found(f"one line\n  {SAMPLES[name]}\nanother") == [name]


@pytest.mark.parametrize(
    "text",
    [
        "http://a%40b:p@proxy.example:3128",
        "http://user:pass@proxy.example.com:3128",
        "secrets: [SECRET_KEY]",
        "token = secrets.token_urlsafe(32)",
        "SECRET_KEY=$(python -c 'import secrets; print(secrets.token_hex(32))')",
        "--hash=sha256:" + 8 * "01234567",
    ],
)
def test_an_example_or_a_name_is_no_secret(text: str) -> None:
    assert found(text) == []


def test_no_file_of_the_repository_holds_a_secret() -> None:
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
    ).stdout.decode()
    files = [ROOT / name for name in names.rstrip("\0").split("\0") if (ROOT / name).is_file()]
    secrets = {path: found(path.read_bytes().decode(errors="replace")) for path in files}
    assert {str(path.relative_to(ROOT)): names for path, names in secrets.items() if names} == {}
