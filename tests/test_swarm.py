"""What the role `service` makes of the settings for a Docker Swarm; tests/vm/test_swarm.py has a real one."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import up
import yaml
from machine import write_program

ROOT = Path(__file__).resolve().parents[1]
GUIDE = (ROOT / "docs/swarm.md").read_text()
FOLDER = {"source": "/data/backups", "target": "/data/backups"}


def settings(**services: dict[str, Any]) -> dict[str, Any]:
    """The services of settings.yml as the guide has them changed, and these besides."""
    found = yaml.safe_load((ROOT / "settings.yml").read_text())["services"]
    [guide] = re.findall(r"```yaml\n(services:.*?)```", GUIDE, re.DOTALL)
    for changed in (yaml.safe_load(guide)["services"], services):
        for name, service in changed.items():
            before = found.setdefault(name, {})
            environment = before.get("environment", {}) | service.get("environment", {})
            found[name] = before | service | {"environment": environment}
    return found


def variables(services: dict[str, Any]) -> dict[str, Any]:
    """The role's, when it renders the stack."""
    lines = [f"wants {name} users-{name}:0123456789ab" for name in services]
    return {"service_list": services, "service_swarm_leader": "localhost", "service_state": {"stdout_lines": lines}}


@pytest.fixture(scope="module")
def services(render: Any) -> Any:
    """Those of the stack, with the guide's settings and a few values besides."""
    given = variables(settings(backend={"memory": "300m", "environment": {"PRICE": "5$ or ${X}"}}))
    given |= {"service_digest": "d", "service_host_name": "users.example"}
    return yaml.safe_load(render("service", "stack.yml.j2", **given))["services"]


def test_each_container_has_the_limits_that_its_unit_gives_it(services: Any) -> None:
    for name, service in services.items():
        assert service["image"] == f"users-{name}:0123456789ab"
        assert (service["user"], service["read_only"], service["cap_drop"]) == ("1000:1000", True, ["ALL"])
        memory = "300m" if name == "backend" else "256m"
        assert service["deploy"]["resources"]["limits"] == {"memory": memory, "pids": 256}
    assert {name: service.get("ports") for name, service in services.items()} == {
        "database": None, "backend": ["8080:8080"], "frontend": ["8000:8000"],
    }  # fmt: skip


def test_a_service_with_data_stays_where_that_is_and_never_runs_twice(services: Any) -> None:
    deploy = {name: service["deploy"] for name, service in services.items()}
    assert deploy["database"]["placement"] == {"constraints": ["node.labels.users.data == true"]}
    assert deploy["database"]["replicas"] == 1
    assert deploy["database"]["update_config"]["order"] == "stop-first"
    for name in ("backend", "frontend"):
        assert "placement" not in deploy[name]
        assert deploy[name]["replicas"] == 2
        assert deploy[name]["update_config"]["order"] == "start-first"


def test_the_environment_is_the_same_as_under_systemd(services: Any) -> None:
    environment = services["backend"]["environment"]
    assert {"PORT=8080", "DATABASE_URL=postgresql://users@database/users"} <= set(environment)
    assert "ALLOWED_HOSTS=localhost,backend,users.example" in environment
    assert "PRICE=5$$ or $${X}" in environment, "a single one begins a variable of Compose's"


def test_a_secret_becomes_a_variable_of_the_program_that_the_image_names(services: Any, tmp_path: Path) -> None:
    assert services["backend"]["secrets"] == [{"source": "users-database.PGPASSWORD", "target": "PGPASSWORD"}]
    assert services["frontend"]["command"] == "${COMMAND_frontend}"
    words = services["backend"]["entrypoint"]
    entrypoint = [word.replace("$$", "$").replace("/run/secrets", str(tmp_path)) for word in words]
    for name, value in (("PGPASSWORD", "a b'c\"$d"), ("SECRET_KEY", "*")):
        (tmp_path / name).write_text(value)
    ask = [sys.executable, "-c", "import os; print(os.environ['PGPASSWORD'], os.environ['SECRET_KEY'], os.getpid())"]
    with subprocess.Popen([*entrypoint, *ask], stdout=subprocess.PIPE, text=True) as process:
        said = process.communicate()[0]
    assert said == f"a b'c\"$d * {process.pid}\n", "the program itself gets Swarm's signals"


def test_without_the_database_nothing_asks_for_its_password(render: Any) -> None:
    services = {name: service for name, service in settings().items() if name != "database"}
    rendered = yaml.safe_load(render("service", "stack.yml.j2", **variables(services), service_digest="d"))
    assert rendered["secrets"] == {"users-frontend.SECRET_KEY": {"external": True}}
    assert "secrets" not in rendered["services"]["backend"]


@pytest.mark.parametrize(
    ("backend", "doubtful"),
    [
        ({"volumes": [FOLDER]}, ["backend"]),
        ({"volumes": [FOLDER | {"on_each_machine": True}]}, []),
        ({"volumes": []}, []),
    ],
)
def test_copies_of_a_service_with_a_folder_are_refused_unless_each_machine_shall_have_one(
    render: Any, backend: dict[str, Any], doubtful: list[str]
) -> None:
    given = variables(settings(backend=backend))
    assert json.loads(render("service", "{{ service_doubtful | to_json }}", **given)) == doubtful


def test_an_inventory_without_managers_is_refused(tmp_path: Path) -> None:
    hosts = tmp_path / "hosts.yml"
    hosts.write_text("workers: {hosts: {localhost: {ansible_connection: local}}}")
    command = ["ansible-playbook", "-i", str(hosts), "ansible/swarm.yml", "--tags", "none"]
    result = subprocess.run(command, check=False, cwd=ROOT, text=True, capture_output=True)
    assert result.returncode != 0
    assert "The inventory has no group `managers`. docs/swarm.md shows how it looks." in " ".join(
        (result.stdout + result.stderr).split()
    )


# A stand-in for Docker, which says of each machine what its variables in the inventory say.
DOCKER = """#!/bin/sh
case $1 in
    info) echo "$STATE" ;;
    node) [ "${STATE#active true}" = "$STATE" ] || printf '%s\\n' $MEMBERS ;;
esac
"""
JOIN = """
- hosts: all
  gather_facts: false
  environment: {STATE: "{{ state }}", MEMBERS: "{{ members | default('') }}", PATH: "{{ path }}"}
  roles: [{role: swarm, swarm_managers: [one]}]
"""
LEADS = {"state": "active true id1", "members": "id1 id2"}
WORKS = {"state": "active false id2"}
OUT_OF_REACH = {"state": "", "ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 1}


@pytest.mark.parametrize(
    ("hosts", "refusal"),
    [
        ({"one": LEADS, "two": WORKS, "three": OUT_OF_REACH}, None),
        ({"one": LEADS, "two": {"state": "active false id9"}}, "This machine is in another swarm than one. If that"),
        ({"one": {"state": "inactive false"}, "two": OUT_OF_REACH},
         "No manager of a swarm answers, and two cannot be reached, who may be in one, with the data."),
        ({"one": {"state": "locked false"}}, "Docker says that this machine is locked in its swarm. `docker info`"),
    ],
)  # fmt: skip
def test_what_would_make_two_swarms_of_one_is_refused(
    tmp_path: Path, hosts: dict[str, Any], refusal: str | None
) -> None:
    write_program(tmp_path / "docker", DOCKER)
    (tmp_path / "join.yml").write_text(JOIN)
    here = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    path = f"{tmp_path}:{os.environ['PATH']}"
    inventory = {"all": {"hosts": {name: here | {"path": path} | given for name, given in hosts.items()}}}
    (tmp_path / "hosts.yml").write_text(yaml.dump(inventory))
    command = ["ansible-playbook", "-i", tmp_path / "hosts.yml", tmp_path / "join.yml"]
    environment = os.environ | {"ANSIBLE_ROLES_PATH": str(ROOT / "roles")}
    result = subprocess.run(command, check=False, cwd=ROOT, env=environment, text=True, capture_output=True)
    said = " ".join(result.stdout.split())
    if refusal:
        assert refusal in said
    else:
        assert "failed=1" not in said
    assert "changed=1" not in said


# In a network of its own, and the other machine is one, too.
NETWORK = """
export PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
unshare --net sleep 60 &
other=$!
trap 'kill $other' EXIT
until [ "$(readlink /proc/$other/ns/net)" != "$(readlink /proc/self/ns/net)" ]; do sleep 0.1; done
ip link add name here type veth peer name there netns $other
ip address add 10.9.0.1/24 dev here && ip link set here up
nsenter --net --target $other sh -c 'ip address add 10.9.0.2/24 dev there && ip link set there up'
"""
LISTEN = "import socket, time; s = [socket.create_server(('', port)) for port in (8000, 9000)]; print(flush=True); time.sleep(60)"
CALL = """
import socket, sys
for address in sys.argv[1:]:
    with socket.socket() as client:
        client.settimeout(1)
        host, port = address.split(':')
        print(address, 'open' if client.connect_ex((host, int(port))) == 0 else 'closed')
"""


@pytest.mark.parametrize("listens", ["127.0.0.1", "0.0.0.0"])
def test_the_ports_that_swarm_opens_are_closed_to_other_machines(tmp_path: Path, render: Any, listens: str) -> None:
    given = variables({"page": {"port": 8000}, "database": {}})
    (tmp_path / "ports").write_text(render("service", "ports.sh.j2", **given, service_listen_address=listens))
    (tmp_path / "listen.py").write_text(LISTEN)
    (tmp_path / "call.py").write_text(CALL)
    python = shlex.quote(sys.executable)
    inside = f"""{NETWORK}
        sh ports && sh ports    # at each start of dockerd
        {python} listen.py > started &
        trap "kill $! $other" EXIT
        until [ -s started ]; do sleep 0.1; done
        nsenter --net --target $other {python} call.py 10.9.0.1:8000 10.9.0.1:9000
        {python} call.py 127.0.0.1:8000 10.9.0.1:8000
    """
    namespace = [*up.SUDO, "unshare", "--net", "sh", "-ec", inside]
    result = subprocess.run(namespace, check=False, cwd=tmp_path, text=True, capture_output=True)
    seen = "closed" if listens.startswith("127.") else "open"
    assert result.stdout.splitlines() == [
        f"10.9.0.1:8000 {seen}", "10.9.0.1:9000 open", "127.0.0.1:8000 open", "10.9.0.1:8000 open",
    ], result.stderr  # fmt: skip
