"""The tutorials, followed literally: as far as that goes without a VM, where they add a service; and what follows them."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from shutil import copy, copytree, rmtree

import doctor
import pytest
from machine import ask
from tutorial import Reader, Step, follow, run, server, steps, write

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
TUTORIAL = ROOT / "docs/add-a-service.md"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """What reading the settings needs, in a folder of its own."""
    copytree(ROOT / "vagrant", tmp_path / "vagrant")
    copy(ROOT / "settings.yml", tmp_path)
    return tmp_path


def test_the_service_greets_the_users_of_the_real_backend(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [step for step in steps(TUTORIAL) if step.language not in ("sh", "text")]
    *whole, change, removal = files
    promises = [step.content for step in steps(TUTORIAL) if step.language == "text"]
    for step in whole:
        write(step, project)

    monkeypatch.setattr(doctor, "ROOT", project)
    services = doctor.read_settings()["services"]
    assert list(services) == ["backend", "frontend", "greeter"]
    service = services["greeter"]
    assert service["environment"]["BACKEND_URL"] == f"http://backend:{services['backend']['port']}"

    # The image's own commands, with its /app where the files are.
    source = project / service["source"]
    dockerfile = (source / "Dockerfile").read_text()
    health, command = (json.loads(line.replace("/app/", f"{source}/")) for line in re.findall(r"CMD (.*)", dockerfile))

    database = f"sqlite:///{project}/users.db"
    python_path = str(ROOT / "apps/backend/src")
    with server([sys.executable, "-m", "users_backend"], DATABASE_URL=database, PYTHONPATH=python_path) as backend:
        assert ask(f"{backend}/users", '{"id": 1, "name": "Ana"}')[0] == 201
        with server(command, BACKEND_URL=backend) as greeter:
            assert ask(f"{greeter}/") == (200, promises[0])
            port = greeter.rpartition(":")[2]
            subprocess.run(health, check=True, env=os.environ | {"PORT": port, "NO_PROXY": "*", "no_proxy": "*"})
        write(change, project)
        with server(command, BACKEND_URL=backend) as greeter:
            assert ask(f"{greeter}{service['health_path']}")[0] == 200
            assert ask(f"{greeter}/") == (200, promises[1])
    with server(command, BACKEND_URL=backend) as greeter:  # which has ended
        status, text = ask(f"{greeter}/")
        assert status == 502
        assert "The backend does not answer" in text

    write(removal, project)
    assert (project / "settings.local.yml").read_text() == ""


def test_the_commands_ask_for_what_the_settings_say() -> None:
    commands = "".join(step.content for step in steps(TUTORIAL) if step.language == "sh")
    settings = next(step.content for step in steps(TUTORIAL) if step.path == "settings.local.yml")
    port = re.search(r"host_port: (\d+)", settings)
    assert port
    assert set(re.findall(r"127\.0\.0\.1:(\d+)", commands)) == {port[1]}


def test_the_first_change_goes_from_the_database_to_the_form_and_back(tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    with reader.apps() as (backend, _):
        assert ask(f"{backend}/users", '{"id": 1, "name": "before"}')[0] == 201
    output = follow(ROOT / "docs/first-change.md", tmp_path, reader.environment, reader.execute)
    assert "4 passed" in output  # two tests, each on both databases
    with reader.apps() as (backend, _):
        assert json.loads(ask(f"{backend}/users")[1])[0] == {"id": 1, "name": "before"}

    # Back, as its end says.
    rmtree(tmp_path / "apps")
    copytree(ROOT / "apps", tmp_path / "apps")
    with reader.apps() as (backend, _):
        assert ask(f"{backend}/users")[0] == 503
        (tmp_path / "users.db").rename(tmp_path / "users-with-city.db")
        [copied] = (tmp_path / "backups").glob("users-*-1.db.gz")
        run(f"{sys.executable} -m users_backend.admin restore {copied.name}", tmp_path, reader.environment)
        assert ask(f"{backend}/users") == (200, '[{"id":1,"name":"before"}]')


@pytest.mark.parametrize(
    ("command", "words"),
    [("echo Hello, Bia!", "promises 'Hello, Ana!.*this came:\nHello, Bia!"), ("exit 3", "ended with 3")],
)
def test_a_broken_promise_is_told_with_what_came_instead(tmp_path: Path, command: str, words: str) -> None:
    (tmp_path / "before.yml").write_text("{}")
    (tmp_path / "tutorial.md").write_text(f"```sh\n{command}\n```\n\n```text\nHello, Ana!\n```\n")
    with pytest.raises(AssertionError, match=words):
        follow(tmp_path / "tutorial.md", tmp_path, {"PATH": os.environ["PATH"], "SETTINGS_LOCAL": "before.yml"})


@pytest.mark.parametrize("present", ["one\n", "  two\n", "two\ntwo\n"])
def test_only_whole_lines_that_are_there_once_can_be_changed(tmp_path: Path, present: str) -> None:
    (tmp_path / "a").write_text(present)
    with pytest.raises(AssertionError, match="has not once what the tutorial changes:\ntwo"):
        write(Step("diff", "a", "-two\n+three\n"), tmp_path)
