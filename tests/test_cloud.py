"""cloud/user-data.yml and docs/any-machine.md, without a machine: what they say is run here, as far as it harms nothing.

tests/vm/test_cloud.py boots a VM with the whole file.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
USER_DATA = (ROOT / "cloud/user-data.yml").read_text()
GUIDE = (ROOT / "docs/any-machine.md").read_text()
REPOSITORY = "https://github.com/YOUR-NAME/YOUR-REPOSITORY.git"
ENVIRONMENT = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def run(*command: str | Path, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, check=False, cwd=cwd, env=ENVIRONMENT, text=True, capture_output=True)


def commit(project: Path) -> None:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.com"]
    for command in (["init", "--quiet"], ["add", "--all"], [*identity, "commit", "--quiet", "--message", "change"]):
        assert run("git", *command, cwd=project).returncode == 0


class Machine:
    """The files of the user data in a folder of the test, and a repository whose playbook tells what it is given.

    That playbook is ours without what would change this machine: the roles, and the rights of root.
    """

    def __init__(self, folder: Path) -> None:
        self.checkout, self.settings, self.script = folder / "opt/users", folder / "settings.yml", folder / "update"
        self.project, self.result = folder / "project", folder / "result.json"
        text = (
            USER_DATA.replace("/opt/users", str(self.checkout))
            .replace("/etc/users-settings.yml", str(self.settings))
            .replace("/usr/local/sbin/users-update", str(self.script))
            .replace(REPOSITORY, self.project.as_uri())
        )
        for file in yaml.safe_load(text)["write_files"]:
            Path(file["path"]).write_text(file["content"])
            Path(file["path"]).chmod(int(file.get("permissions", "0644"), 8))

        for name in ("ansible", "vagrant", "apps"):
            shutil.copytree(ROOT / name, self.project / name, ignore=shutil.ignore_patterns("tests", "__pycache__"))
        for name in ("ansible.cfg", "settings.yml", ".gitignore"):  # the last: Ansible caches its plugins' bytecode
            shutil.copy(ROOT / name, self.project)
        [play] = yaml.safe_load((ROOT / "ansible/site.yml").read_text())
        del play["become"], play["roles"], play["pre_tasks"][1:]
        shown = {name: f"{{{{ {name} }}}}" for name in ("shared", "local", "project_dir")}
        shown |= {"host_ip": "{{ settings.host_ip }}", "roles": "{{ lookup('config', 'DEFAULT_ROLES_PATH')[0] }}"}
        play |= {"gather_facts": False, "tasks": [{"copy": {"content": shown, "dest": str(self.result)}}]}
        (self.project / "ansible/site.yml").write_text(yaml.safe_dump([play]))
        commit(self.project)

    def update(self) -> Any:
        """What the playbook was given."""
        result = run(self.script)
        assert result.returncode == 0, result.stdout + result.stderr
        return json.loads(self.result.read_text())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_cloud_init_knows_it_by_its_first_line_and_ec2_takes_its_length() -> None:
    assert USER_DATA.startswith("#cloud-config\n")
    assert len(USER_DATA.encode()) < 16 * 1024


def test_the_repository_that_nobody_changed_is_told(tmp_path: Path) -> None:
    assert USER_DATA.count(REPOSITORY) == 1
    script = tmp_path / "update"
    script.write_text(yaml.safe_load(USER_DATA)["write_files"][1]["content"])
    result = run("sh", script)
    assert result.returncode == 1
    assert f"still says {REPOSITORY}. Put your repository's address there and run: sudo users-update" in result.stderr


def test_the_playbook_runs_on_a_machine_that_shares_no_folder_and_again_on_what_changed(machine: Machine) -> None:
    first = {
        "shared": False,
        "local": True,
        "project_dir": str(machine.checkout),
        "host_ip": "127.0.0.1",
        "roles": str(machine.checkout / "roles"),
    }
    assert machine.update() == first

    machine.settings.write_text("host_ip: 0.0.0.0\n")
    playbook = machine.project / "ansible/site.yml"
    playbook.write_text(playbook.read_text().replace("shared: '{{ shared }}'", "shared: new"))
    commit(machine.project)
    assert machine.update() == first | {"host_ip": "0.0.0.0", "shared": "new"}


def test_a_failed_update_says_what_to_run_when_it_is_mended(machine: Machine) -> None:
    shutil.rmtree(machine.project)
    result = run(machine.script)
    assert result.returncode == 1
    assert str(machine.project) in result.stdout
    assert result.stderr.endswith("When that is mended, run: sudo users-update\n")


def block(language: str, containing: str) -> str:
    """The block of code in the guide that holds this text."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, re.MULTILINE | re.DOTALL)
    [found] = [text for text in blocks if containing in text]
    return str(found)


def test_the_guides_inventory_and_command_find_the_playbook_and_its_roles(tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.yml"
    inventory.write_text(block("yaml", "ansible_host"))
    command = block("sh", "ansible-playbook").replace("hosts.yml", str(inventory)).strip()
    result = run("sh", "-c", f"{command} --list-hosts --list-tasks")
    assert result.returncode == 0, result.stderr
    assert "lab\n" in result.stdout
    assert "docker : See what Docker needs here" in result.stdout
