"""roles/machine/files/company-network, and what the real apt makes of the files that it writes."""

import os
import re
import subprocess
from pathlib import Path
from urllib.parse import urljoin

import pytest
from machine import write_program

SCRIPT = Path(__file__).resolve().parents[1] / "roles/machine/files/company-network"
PROXY = "http://ana:p%40ss@proxy.example:3128"
SYSTEMS = {"ubuntu": "ID=ubuntu\nVERSION_CODENAME=noble\n", "debian": "ID=debian\nVERSION_CODENAME=trixie\n"}


class Machine:
    """A folder that apt takes for the root of a machine."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for folder in ("etc/apt/apt.conf.d", "etc/apt/sources.list.d", "etc/apt/preferences.d", "var/lib/apt/lists"):
            (root / folder).mkdir(parents=True)
        (root / "etc/os-release").write_text(SYSTEMS["debian"])
        (root / "apt.conf").write_text(f'Dir "{root}";\nDir::State::status "/dev/null";\n')
        (root / "etc/apt/sources.list").write_text("deb http://distribution.example/debian trixie main\n")

    def run(self, *command: str, **environment: str) -> str:
        """Run a program of apt, or the script."""
        variables = {"PATH": os.environ["PATH"], "APT_CONFIG": str(self.root / "apt.conf")} | environment
        return subprocess.run(command, check=True, env=variables, text=True, stdout=subprocess.PIPE).stdout

    def apply(self, *arguments: str, **settings: str) -> list[str]:
        """Run the script with these settings. Returns the names of the files that it changed."""
        return [Path(line.split()[1]).name for line in self.run("sh", str(SCRIPT), *arguments, **settings).splitlines()]

    def options(self) -> dict[str, str]:
        """How apt reads its proxies."""
        dump = self.run("apt-config", "dump")
        return dict(re.findall(r'^(Acquire::https?::Proxy\S*) "(.*)";$', dump, re.MULTILINE))

    def sources(self) -> list[str]:
        """Which releases apt would fetch."""
        output = self.run("apt-get", "update", "--print-uris", "-o", "Debug::NoLocking=true")
        return re.findall(r"^'(\S+)/InRelease'", output, re.MULTILINE)

    def files(self) -> set[Path]:
        return {file for file in self.root.rglob("*") if file.is_file()}


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_at_home_nothing_is_written(machine: Machine) -> None:
    before = machine.files()
    assert machine.apply() == []
    assert machine.files() == before


def test_apt_takes_the_proxies_with_their_passwords_as_they_are(machine: Machine) -> None:
    assert machine.apply(http_proxy=PROXY, https_proxy="http://other.example:1") == ["90users-network"]
    assert machine.options() == {"Acquire::http::Proxy": PROXY, "Acquire::https::Proxy": "http://other.example:1"}
    assert machine.sources() == ["http://distribution.example/debian/dists/trixie"]


def test_apt_reaches_the_hosts_of_no_proxy_directly_and_is_not_confused_by_others(machine: Machine) -> None:
    machine.apply(http_proxy=PROXY, no_proxy="localhost, 127.0.0.1,::1,*,10.0.0.0/8,.company.example,host.example")
    assert machine.options() == {
        "Acquire::http::Proxy": PROXY,
        "Acquire::http::Proxy::localhost": "DIRECT",
        "Acquire::http::Proxy::127.0.0.1": "DIRECT",
        "Acquire::http::Proxy::host.example": "DIRECT",
    }


@pytest.mark.parametrize("domain", [".company.example", "company.example", "mirror.company.example"])
def test_a_mirror_inside_the_company_is_reached_directly(machine: Machine, domain: str) -> None:
    mirror = "https://ana:p@mirror.company.example:8443/debian"
    machine.apply(https_proxy=PROXY, no_proxy=f"localhost,{domain}", apt_mirror=mirror)
    assert machine.options()["Acquire::https::Proxy::mirror.company.example"] == "DIRECT"


@pytest.mark.parametrize(
    ("system", "mirror", "sources"),
    [
        (
            "ubuntu",
            "http://mirror.example/ubuntu",
            ["ubuntu/dists/noble", "ubuntu/dists/noble-updates", "ubuntu/dists/noble-security"],
        ),
        (
            "debian",
            "https://mirror.example/debian",
            ["debian/dists/trixie", "debian/dists/trixie-updates", "debian-security/dists/trixie-security"],
        ),
        (
            "debian",
            "https://mirror.example/debian/",
            ["debian/dists/trixie", "debian/dists/trixie-updates", "debian-security/dists/trixie-security"],
        ),
    ],
)
def test_apt_asks_the_mirror_alone(machine: Machine, system: str, mirror: str, sources: list[str]) -> None:
    (machine.root / "etc/os-release").write_text(SYSTEMS[system])
    (machine.root / "etc/apt/sources.list.d/extra.sources").write_text(
        "Types: deb\nURIs: http://extra.example\nSuites: x\nComponents: main\n"
    )
    machine.apply(apt_mirror=mirror)
    assert machine.sources() == [urljoin(mirror, f"/{source}") for source in sources]


def test_what_has_a_password_is_for_root_alone(machine: Machine) -> None:
    before = machine.files()
    machine.apply(http_proxy=PROXY, apt_mirror="http://ana:p@mirror.example/debian")
    new = machine.files() - before
    assert [file.stat().st_mode & 0o777 for file in new] == [0o600, 0o600]


def test_the_machine_trusts_the_companys_certificates_until_they_are_taken_away(machine: Machine) -> None:
    own = machine.root / "own.pem"
    own.write_text("-----BEGIN CERTIFICATE-----\n")
    programs = machine.root / "bin"
    renewed = machine.root / "renewed"
    write_program(programs / "update-ca-certificates", f"#!/bin/sh\necho >> {renewed}\n")
    path = f"{programs}:{os.environ['PATH']}"
    trusted = machine.root / "usr/local/share/ca-certificates/users-company.crt"

    assert machine.apply("--check", ca_certificate=str(own), PATH=path) == ["users-company.crt"]
    assert not trusted.exists()
    for _ in range(2):
        machine.apply(ca_certificate=str(own), PATH=path)
    assert trusted.read_text() == own.read_text()
    assert trusted.stat().st_mode & 0o777 == 0o644
    assert machine.apply(PATH=path) == ["users-company.crt"]
    assert not trusted.exists()
    assert renewed.read_text() == "\n\n"


def test_certificates_that_were_written_and_not_yet_trusted_are_so_by_the_next_run(machine: Machine) -> None:
    own, bundle = machine.root / "own.pem", machine.root / "etc/ssl/certs/ca-certificates.crt"
    own.write_text("-----BEGIN CERTIFICATE-----\n")
    bundle.parent.mkdir(parents=True)
    bundle.touch()
    os.utime(bundle, (1, 1))
    program = machine.root / "bin/update-ca-certificates"
    write_program(program, "#!/bin/sh\nkill $PPID\n")  # Ctrl-C, or a power cut
    path = f"{program.parent}:{os.environ['PATH']}"
    with pytest.raises(subprocess.CalledProcessError):
        machine.apply(ca_certificate=str(own), PATH=path)
    program.write_text(f"#!/bin/sh\ntouch {bundle}\n")
    assert machine.apply(ca_certificate=str(own), PATH=path) == ["ca-certificates.crt"]
    assert machine.apply(ca_certificate=str(own), PATH=path) == []


def test_a_second_run_changes_nothing_and_empty_settings_leave_nothing(machine: Machine) -> None:
    before, settings = machine.files(), {"http_proxy": PROXY, "apt_mirror": "http://mirror.example/debian"}
    assert machine.apply(**settings) == ["users-network.list", "90users-network"]
    assert machine.apply(**settings) == []
    assert machine.apply(http_proxy="", apt_mirror="") == ["users-network.list", "90users-network"]
    assert machine.files() == before
    assert machine.sources() == ["http://distribution.example/debian/dists/trixie"]


def test_check_says_what_would_change_and_changes_nothing(machine: Machine) -> None:
    before = machine.files()
    assert machine.apply("--check", http_proxy=PROXY) == ["90users-network"]
    assert machine.files() == before
    machine.apply(http_proxy=PROXY)
    assert machine.apply("--check") == ["90users-network"]
    assert machine.options() == {"Acquire::http::Proxy": PROXY}
