"""`docker compose up` in the VM, in place of the units: the same two URLs, the same data, the same rights.

Environment variables: those of conftest.py, and SETTINGS_LOCAL, the settings of the VM.
"""

import json
import os
import random
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
DATABASE = ROOT / yaml.safe_load((ROOT / os.environ["SETTINGS_LOCAL"]).read_text())["data_dir"] / "users.db"
PORTS = {"backend": 8080, "frontend": 8000}
# Of a container's settings, those that say what it may do and how much.
RIGHTS = ["CapAdd", "CapDrop", "DnsOptions", "DnsSearch", "Memory", "PidsLimit", "Privileged", "ReadonlyRootfs"]
RIGHTS += ["SecurityOpt", "Tmpfs"]

pytestmark = pytest.mark.timeout(900)  # seconds; software emulation is slow


def base_image() -> str:
    """The base image that the VM has: the one `make up` found out here, else that of the settings."""
    found = ROOT / ".cache/machine.yml"
    settings = yaml.safe_load((found if found.exists() else ROOT / "settings.yml").read_text())
    return str(settings["image"]["base"])


def rights(vm: Any, container: str) -> dict[str, Any]:
    """What Docker lets a container do."""
    found = json.loads(vm.check_output("docker inspect %s", container))[0]
    # "Nothing" is null or an empty list, as the client likes.
    return {"User": found["Config"]["User"]} | {key: found["HostConfig"][key] or None for key in RIGHTS}


@pytest.fixture(scope="module")
def rights_under_systemd(vm: Any) -> dict[str, Any]:
    """What Docker lets the containers of the units do."""
    return {service: rights(vm, f"users-{service}") for service in PORTS}


@pytest.fixture(scope="module")
def compose(vm: Any, rights_under_systemd: dict[str, Any]) -> Iterator[str]:
    """The command `docker compose` for the stack, which runs in place of the units."""
    vm.check_output("apt-get -o DPkg::Lock::Timeout=300 -qy install --no-install-recommends docker-compose curl")
    variables = f"DATA_DIR=/data BASE_IMAGE={base_image()} PIP_CERT=/etc/ssl/certs/ca-certificates.crt"
    command = f"env --chdir=/vagrant {variables} docker compose"
    try:
        vm.check_output("systemctl stop users-frontend users-backend")
        vm.check_output(f"{command} --progress plain up --detach --wait")
        yield command
    finally:
        vm.run(f"{command} down --rmi local")
        vm.check_output("systemctl start users-backend users-frontend")
        vm.check_output(
            "curl -fsS --retry 60 --retry-delay 2 --retry-all-errors 127.0.0.1:8080/readyz 127.0.0.1:8000/healthz"
        )


def test_both_urls_answer(vm: Any, compose: str) -> None:
    assert vm.check_output("curl -fsS 127.0.0.1:8080/healthz") == "ok"
    assert json.loads(vm.check_output("curl -fsS 127.0.0.1:8000/healthz")) == {
        "frontend_status": "ok",
        "backend_status": "ok",
    }


@pytest.mark.parametrize("service", PORTS)
def test_the_port_listens_on_the_loopback_address_alone(vm: Any, compose: str, service: str) -> None:
    assert vm.socket(f"tcp://127.0.0.1:{PORTS[service]}").is_listening
    assert not vm.socket(f"tcp://0.0.0.0:{PORTS[service]}").is_listening


@pytest.mark.parametrize("service", PORTS)
def test_a_container_may_do_what_it_may_under_systemd(
    vm: Any, rights_under_systemd: dict[str, Any], compose: str, service: str
) -> None:
    assert rights(vm, vm.check_output(f"{compose} ps --quiet {service}")) == rights_under_systemd[service]


def test_a_user_of_the_form_is_in_the_api_and_in_the_file_on_the_laptop(vm: Any, compose: str) -> None:
    user_id = random.randrange(2, 2**53)
    answer = vm.check_output(f"curl -fsS --form id={user_id} --form name=Ana 127.0.0.1:8000/")
    assert answer == f"User {user_id}, Ana, was created."
    assert json.loads(vm.check_output(f"curl -fsS 127.0.0.1:8080/users/{user_id}")) == {"id": user_id, "name": "Ana"}
    with sqlite3.connect(f"file:{DATABASE}?mode=ro", uri=True) as database:
        assert database.execute("SELECT name FROM users WHERE id = ?", [user_id]).fetchone() == ("Ana",)
