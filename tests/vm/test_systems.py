"""The playbook on each of Debian's releases that the roles know, in a container (container.py): once by the Ansible that
the release has, as in the VM, and once over SSH from this computer, as on any machine.

Ubuntu is not among them: where these tests are made, its packages cannot be had.
"""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import up
import yaml
from container import Container, fresh

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(1800)  # seconds; a fresh machine installs and builds all


@pytest.fixture(params=up.SUITES)
def machine(request: pytest.FixtureRequest) -> Iterator[Container]:
    with fresh(ROOT / ".cache/test-container", request.param) as new:
        new.settings()
        yield new


def both_answer(machine: Container) -> bool:
    asked = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/healthz').read().decode())"
    return machine.says(f'python3 -c "{asked}"') == '{"frontend_status":"ok","backend_status":"ok"}\n'


def test_its_own_ansible_sets_it_up(machine: Container) -> None:
    machine.playbook()
    assert both_answer(machine)
    assert " changed=0 " in machine.playbook()


def test_a_newer_ansible_sets_it_up_over_ssh(machine: Container) -> None:
    (machine.project / "hosts.yml").write_text(yaml.dump({"all": {"hosts": {"machine": machine.way_in()}}}))
    command = ["ansible-playbook", "-i", "hosts.yml", "ansible/site.yml"]
    environment = os.environ | {"PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}", "ANSIBLE_CONFIG": "ansible.cfg"}
    for recap in ("failed=0", "changed=0"):
        done = subprocess.run(
            command, check=False, cwd=machine.project, env=environment, text=True, stdout=subprocess.PIPE
        )
        assert done.returncode == 0 and f" {recap} " in done.stdout, done.stdout
        assert both_answer(machine)
    assert "127.0.0.1:8080->" in machine.says("sudo docker ps"), "the ports are nobody else's"
