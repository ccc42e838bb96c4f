"""What docs/hardening.md says is so, in the running VM.

Environment variable: SSH_CONFIG, what `vagrant ssh-config` printed.
"""

import json
import re
import runpy
from collections.abc import Callable
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = yaml.safe_load((ROOT / "settings.yml").read_text())
SERVICES = {name: service for name, service in SETTINGS["services"].items() if service.get("enabled", True)}
DOCUMENT = (ROOT / "docs/hardening.md").read_text()
looks_like_secrets = runpy.run_path(str(ROOT / "tests/test_secrets.py"))["found"]

pytestmark = pytest.mark.timeout(600)  # seconds; software emulation is slow


# --- The CIS Docker Benchmark --------------------------------------------------------


def keys_and_values(text: str) -> dict[str, str]:
    """What a file such as /proc/1/status holds."""
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))


@pytest.fixture(scope="module")
def services(vm: Any) -> list[SimpleNamespace]:
    """All that the checks look at, once for each service; what is true for the whole machine is in each."""
    command = vm.check_output("tr '\\0' '\\n' < /proc/$(systemctl show --property MainPID --value docker)/cmdline")
    file = vm.file("/etc/docker/daemon.json").content_string
    machine = {
        "info": json.loads(vm.check_output("docker info --format '{{json .}}'")),
        "bridge": json.loads(vm.check_output("docker network inspect bridge"))[0],
        # The names of dockerd's options, whether they are in its file or on its command line.
        "options": {*json.loads(file)} | {word.lstrip("-").partition("=")[0] for word in command.split("\n")[1:]},
        "settings": file + command,
        "programs": vm.check_output("cat /etc/systemd/system/users-*.service /usr/local/sbin/users-deploy"),
    }
    facts = []
    for name in SERVICES:
        container = json.loads(vm.check_output(f"docker inspect users-{name}"))[0]
        image, process = container["Config"]["Image"], container["State"]["Pid"]
        history = vm.check_output(f"docker history --no-trunc --format '{{{{json .CreatedBy}}}}' {image}")
        facts.append(
            SimpleNamespace(
                name=name,
                source=ROOT / SERVICES[name]["source"],
                port=SERVICES[name]["port"],
                container=container,
                host=container["HostConfig"],
                mounts=container["Mounts"],
                status=keys_and_values(vm.check_output(f"cat /proc/{process}/status")),
                limits=vm.check_output(f"cat /proc/{process}/limits"),
                processes=vm.check_output(f"docker top users-{name}"),
                image=json.loads(vm.check_output(f"docker image inspect {image}"))[0],
                # What our Dockerfile adds after its first line, which follows those of the base image.
                steps=list(takewhile(lambda step: "-perm /6000" not in step, map(json.loads, history.splitlines()))),
                installed=vm.check_output(
                    f"docker exec users-{name} python -c 'import importlib.metadata as m;"
                    ' print(*(d.name + "==" + d.version for d in m.distributions()))\''
                ).split(),
                # As root, and without the options of the unit, so that dockerd's own settings show.
                plain=vm.check_output(
                    f"docker run --rm --network none --user 0 {image} sh -c "
                    "'grep NoNewPrivs: /proc/self/status; find / -xdev -type f -perm /6000'"
                ).splitlines(),
                **machine,
            )
        )
    return facts


def normal(requirement: str) -> str:
    """name==version with the name as PEP 503 writes it."""
    name, _, version = requirement.partition("==")
    return re.sub(r"[-_.]+", "-", name).lower() + "==" + version


def locked(source: Path) -> set[str]:
    """The packages that an app's requirements allow."""
    lines = (source / "requirements.txt").read_text().splitlines()
    return {normal(line.split()[0].rstrip(";")) for line in lines if "==" in line and not line.startswith(" ")}


SYSTEM_FOLDERS = re.compile(r"/(boot|dev|etc|lib|proc|sys|usr|run|var/run)?(/|$)")

# By the number in docker-bench-security 1.6.0: what is true for each service `s` where it is met.
CHECKS: dict[str, Callable[[Any], object]] = {
    # The daemon
    "2.2": lambda s: s.bridge["Options"]["com.docker.network.bridge.enable_icc"] == "false",
    "2.3": lambda s: not s.info["Debug"] and not s.options & {"debug", "D", "log-level", "l"},
    "2.4": lambda s: "iptables" not in s.options,
    "2.5": lambda s: (
        all(index["Secure"] for index in s.info["RegistryConfig"]["IndexConfigs"].values())
        and not s.options & {"insecure-registry", "insecure-registries"}
    ),
    "2.6": lambda s: s.info["Driver"] == "overlay2",
    "2.7": lambda s: "tcp://" not in s.settings,
    "2.8": lambda s: re.search(r"^Max open files +8192 +8192 ", s.limits, re.MULTILINE),
    "2.10": lambda s: not s.options & {"cgroup-parent", "exec-opt", "exec-opts"},
    "2.11": lambda s: not s.options & {"storage-opt", "storage-opts"},
    "2.14": lambda s: s.plain[0].split() == ["NoNewPrivs:", "1"],
    "2.17": lambda s: {"name=seccomp,profile=builtin", "name=seccomp,profile=default"} & {*s.info["SecurityOptions"]},
    "2.18": lambda s: not s.info["ExperimentalBuild"],
    # The images
    "4.1": lambda s: s.image["Config"]["User"] == "1000:1000",
    "4.2": lambda s: re.fullmatch(r"python:[\w.-]+", SETTINGS["image"]["base"]),
    "4.3": lambda s: not any(step.startswith("RUN") for step in s.steps),
    "4.6": lambda s: s.image["Config"]["Healthcheck"]["Test"][0] == "CMD",
    "4.7": lambda s: not any("update" in step for step in s.steps),
    "4.8": lambda s: s.plain[1:] == [],
    "4.9": lambda s: not any(step.startswith("ADD") for step in s.steps),
    "4.10": lambda s: not looks_like_secrets((s.source / "Dockerfile").read_text() + "\n".join(s.steps)),
    "4.11": lambda s: s.installed and {*map(normal, s.installed)} <= locked(s.source),
    # The containers
    "5.1": lambda s: s.info["Swarm"]["LocalNodeState"] == "inactive",
    "5.2": lambda s: s.container["AppArmorProfile"] == "docker-default",
    "5.4": lambda s: [int(s.status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")] == [0, 0, 0, 0],
    "5.5": lambda s: s.host["Privileged"] is False,
    "5.6": lambda s: not any(mount["RW"] and SYSTEM_FOLDERS.match(mount["Source"]) for mount in s.mounts),
    "5.7": lambda s: "sshd" not in s.processes,
    "5.8": lambda s: all(int(p["HostPort"]) >= 1024 for ports in s.host["PortBindings"].values() for p in ports),
    "5.9": lambda s: [*s.host["PortBindings"]] == [*s.container["Config"]["ExposedPorts"]] == [f"{s.port}/tcp"],
    "5.10": lambda s: s.host["NetworkMode"] == "users",
    "5.11": lambda s: s.host["Memory"] == 256 * 1024 * 1024,
    "5.13": lambda s: s.host["ReadonlyRootfs"] is True,
    "5.16": lambda s: s.host["PidMode"] == "",
    "5.17": lambda s: s.host["IpcMode"] == "private",
    "5.18": lambda s: not s.host["Devices"] and not s.host["DeviceRequests"],
    "5.19": lambda s: {limit["Name"] for limit in s.host["Ulimits"] or []} <= {"nofile"},
    "5.20": lambda s: not any("shared" in mount["Propagation"] for mount in s.mounts),
    "5.21": lambda s: s.host["UTSMode"] == "",
    "5.22": lambda s: s.status["Seccomp"] == "2",  # a filter
    "5.23": lambda s: "docker exec" not in s.programs,
    "5.24": lambda s: "docker exec" not in s.programs,
    "5.25": lambda s: s.host["CgroupParent"] == "",
    "5.26": lambda s: s.status["NoNewPrivs"] == "1",
    "5.27": lambda s: s.container["State"]["Health"]["Status"] in ("starting", "healthy"),
    "5.29": lambda s: s.host["PidsLimit"] == 256,
    "5.30": lambda s: [*s.container["NetworkSettings"]["Networks"]] == ["users"] and not s.bridge["Containers"],
    "5.31": lambda s: s.host["UsernsMode"] == "",
    "5.32": lambda s: not any(mount["Source"].endswith(".sock") for mount in s.mounts),
}


@pytest.mark.parametrize("number", CHECKS)
def test_the_check_is_met_by_every_service(services: list[SimpleNamespace], number: str) -> None:
    assert [service.name for service in services if not CHECKS[number](service)] == []


def test_the_document_has_every_check_and_calls_met_what_is_verified_here() -> None:
    rows = re.findall(r"^\| (\d\.\d+) \|.*\| (met|not met|not applicable) \| \S.* \|$", DOCUMENT, re.MULTILINE)
    assert [number for number, _ in rows] == [
        f"{section}.{n}" for section, last in ((2, 18), (4, 12), (5, 32)) for n in range(1, last + 1)
    ]
    assert [number for number, state in rows if state == "met"] == [*CHECKS]
    assert f"{len(CHECKS)} of {len(rows)} are met" in DOCUMENT


# --- The machine ---------------------------------------------------------------------


@pytest.mark.parametrize("service", SERVICES)
def test_systemd_calls_the_unit_ok(vm: Any, service: str) -> None:
    vm.check_output(f"systemd-analyze security --no-pager --threshold=20 users-{service}")  # 20: 2.0 of 10


def test_the_kernel_stays_the_one_that_the_shared_folders_were_built_for(vm: Any) -> None:
    packages = vm.check_output("dpkg-query --show --showformat='${db:Status-Status} ${Package}\\n' 'linux-image*'")
    installed = {line.split()[1] for line in packages.splitlines() if line.startswith("installed ")}
    assert "linux-image-" + vm.check_output("uname -r") in installed
    assert installed - {*vm.check_output("apt-mark showhold").split()} == set()


# --- Secrets -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "command",
    [
        "journalctl --quiet --no-pager --output cat",
        "docker image ls --quiet | xargs docker image inspect",
        "docker image ls --quiet | xargs --max-args 1 docker history --no-trunc",
        # What every user of the machine may read.
        "find /etc/users /etc/systemd /etc/docker /etc/apt/apt.conf.d /usr/local/sbin -type f -perm /4 -exec cat {} +",
        "systemctl show --no-pager docker 'users-*'",
        "ps -e -o args",
    ],
)
def test_no_secret_is_in(vm: Any, command: str) -> None:
    # They are compared here: sudo logs the commands that it runs.
    files = vm.check_output("cat /etc/users/*/secret.*")
    secrets = [line.partition("=")[2] for line in files.splitlines()]
    assert secrets
    lines = vm.check_output(command).splitlines()
    assert lines
    assert [line for line in lines if looks_like_secrets(line) or any(secret in line for secret in secrets)] == []


def test_only_root_reads_the_secrets_and_speaks_to_dockerd(vm: Any) -> None:
    assert vm.check_output("find /etc/users -mindepth 1 -type d -perm /077") == ""
    assert vm.check_output("find /etc/users -mindepth 1 -type f -perm /077") == ""
    assert vm.check_output("stat --format '%a %U' /run/docker.sock") == "660 root"
    assert vm.group("docker").members == []
