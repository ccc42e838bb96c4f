"""Where the time went: the callback plugin in a real playbook, and what vagrant/timing.rb makes of it."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from machine import run_ruby

ROOT = Path(__file__).resolve().parents[1]
PLAYBOOK = """
- hosts: all
  gather_facts: false
  pre_tasks:
    - name: Read the settings
      ansible.builtin.set_fact: {a: 1}
  roles: [docker, service]
"""
ROLES = {
    "docker/tasks": """
- name: Install
  ansible.builtin.command: sleep 0.3
  notify: Restart
""",
    "docker/handlers": """
- name: Restart
  ansible.builtin.command: sleep 0.3
""",
    "service/tasks": """
- name: Run the handlers
  ansible.builtin.meta: flush_handlers
- name: Build the images that are missing, all at once
  ansible.builtin.shell: sleep 0.2; echo; echo frontend 20; echo back-end 7; echo no number
- name: Bring live what does not run as it should, all at once
  ansible.builtin.shell: echo frontend 3; RESULT
""",
}


@pytest.mark.parametrize("result", ["true", "false"])
def test_a_playbook_ends_with_its_steps_and_their_seconds_also_when_it_fails(tmp_path: Path, result: str) -> None:
    (tmp_path / "playbook.yml").write_text(PLAYBOOK)
    for folder, tasks in ROLES.items():
        (tmp_path / "roles" / folder).mkdir(parents=True)
        (tmp_path / "roles" / folder / "main.yml").write_text(tasks.replace("RESULT", result))
    report = tmp_path / "timing.json"
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "USERS_TIMING": str(report)}
    environment |= {"ANSIBLE_ROLES_PATH": str(tmp_path / "roles"), "PYTHONDONTWRITEBYTECODE": "1"}
    local = ["-i", "localhost,", "-c", "local", "-e", f"ansible_python_interpreter={sys.executable}"]
    command = [Path(sys.executable).parent / "ansible-playbook", *local, tmp_path / "playbook.yml"]
    playbook = subprocess.run(command, check=False, env=environment, text=True, capture_output=True)
    assert (playbook.returncode == 0) is (result == "true"), playbook.stdout
    assert "WARNING" not in playbook.stderr

    timing = json.loads(report.read_text())
    names = ["role docker", "images", "services, until they are healthy", "settings and sources"]
    assert set(names) < set(timing["steps"])
    assert timing["steps"]["role docker"] > 0.5, "with its handler"
    services = {"services, until they are healthy": {"frontend": 3}} if result == "true" else {}
    assert timing["each"] == {"images": {"frontend": 20, "back-end": 7}} | services
    assert sum(timing["steps"].values()) == pytest.approx(timing["playbook"], abs=0.5)

    table = playbook.stdout.split("WHERE THE TIME WENT")[1]
    rows = re.findall(r"^ *([0-9.]+) s  (.+)$", table, re.MULTILINE)
    assert rows[-1] == (str(timing["playbook"]), "in all")
    told = [name for _, name in rows[:-1]]
    assert "images (frontend 20, back-end 7)" in told
    assert ("services, until they are healthy (frontend 3)" in told) is (result == "true")
    assert {name.partition(" (")[0]: float(seconds) for seconds, name in rows[:-1]} == timing["steps"]
    assert [float(seconds) for seconds, _ in rows[:-1]] == sorted(timing["steps"].values(), reverse=True)


def test_the_steps_are_tasks_of_the_roles() -> None:
    tasks = "".join(file.read_text() for file in ROOT.glob("roles/*/tasks/*.yml"))
    steps = re.findall(r'^    "(.+)": ', (ROOT / "ansible/callback_plugins/timing.py").read_text(), re.MULTILINE)
    assert len(steps) == 2
    assert set(steps) <= set(re.findall(r"- name: (.+)", tasks))


def test_a_report_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "playbook.yml").write_text("[{hosts: all, gather_facts: false, tasks: []}]")
    environment = os.environ | {"ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {"USERS_TIMING": str(tmp_path / "file/timing.json"), "COLUMNS": "500"}
    command = [Path(sys.executable).parent / "ansible-playbook", "-i", "localhost,", tmp_path / "playbook.yml"]
    playbook = subprocess.run(command, check=True, env=environment, text=True, capture_output=True)
    warning = " ".join(playbook.stderr.split())
    assert f"The seconds were not written to {tmp_path}/file/timing.json: Not a directory." in warning


REPORT = """
require "./vagrant/timing"
guest.define_singleton_method(:execute) { |command, **_, &output| BEHAVIOUR }
Timing.start
Timing.define_singleton_method(:now) { Process.clock_gettime(Process::CLOCK_MONOTONIC) + 480.7 }
Timing.send(:remove_const, :PATIENCE)
Timing::PATIENCE = 1
Timing.send(:remove_const, :ANSIBLE)
Timing::ANSIBLE = "./ansible.json"
Timing.send(:remove_const, :PLAYBOOK)
Timing::PLAYBOOK = "./playbook.json"
Timing.report(machine)
"""
HERE = "output.call(:stdout, %x[#{command}])"


def report(project: Path, behaviour: str = HERE) -> str:
    """What is said after 481 seconds, in which the files in `project` were written if they are not older."""
    shutil.copytree(ROOT / "vagrant", project / "vagrant")
    return run_ruby(REPORT.replace("BEHAVIOUR", behaviour), project)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What the VM wrote."""
    (tmp_path / "ansible.json").write_text('{"ansible": 75}\n')
    (tmp_path / "playbook.json").write_text(
        '{"playbook": 344.6, "steps": {"role docker": 100.1}, "each": {"images": {"a": 9}}}\n'
    )
    return tmp_path


def test_vagrant_ends_with_the_seconds_of_each_part(project: Path) -> None:
    assert report(project) == "info: 481 s in all: Vagrant and the VM 61, Ansible's installation 75, playbook 345.\n"
    assert json.loads((project / ".cache/timing.json").read_text()) == {
        "seconds": 481,
        "parts": {"Vagrant and the VM": 61, "Ansible's installation": 75, "playbook": 345},
        "steps": {"role docker": 100.1},
        "each": {"images": {"a": 9}},
    }


def test_what_an_earlier_command_took_is_not_counted(project: Path) -> None:
    for name in ("ansible.json", "playbook.json"):
        before = (project / name).stat().st_mtime - 500
        os.utime(project / name, (before, before))
    assert report(project) == "info: 481 s in all: Vagrant and the VM 481.\n"
    assert json.loads((project / ".cache/timing.json").read_text())["steps"] == {}


@pytest.mark.parametrize(
    ("behaviour", "reason"), [("sleep 60", "execution expired"), ('raise "no way in"', "no way in")]
)
def test_a_vm_that_does_not_tell_is_a_warning(project: Path, behaviour: str, reason: str) -> None:
    assert report(project, behaviour) == f"warn: Where the time went is not known: {reason}.\n"
