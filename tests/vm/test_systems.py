"""The playbook on each of Debian's releases that the roles know, in containers (container.py): by the Ansible that the
release has, as in the VM; and over SSH from this computer, as on any machine, then with https in front of it.

Ubuntu is not among them: where these tests are made, its packages cannot be had.
"""

import os
import re
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import acme
import pytest
import up
import yaml
from container import ADDRESS, GATEWAY, Container, fresh

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(1800)  # seconds; a fresh machine installs and builds all


def test_its_own_ansible_sets_it_up() -> None:
    """That of Debian 13 is used by test_container.py."""
    with fresh(ROOT / ".cache/test-container", "debian-12") as machine:
        machine.settings()
        machine.playbook()
        asked = "import urllib.request as r; print(r.urlopen('http://127.0.0.1:8000/healthz').read().decode())"
        assert machine.says(f'python3 -c "{asked}"') == '{"frontend_status":"ok","backend_status":"ok"}\n'
        assert " changed=0 " in machine.playbook()


# --- Over SSH, each test on what the one before has left ------------------------------


@pytest.fixture(scope="module", params=up.SUITES)
def lab(request: pytest.FixtureRequest) -> Iterator[Container]:
    """A machine in a lab, which shares no folder with this computer."""
    with fresh(ROOT / ".cache/test-container", request.param, share=False) as machine:
        (machine.project / "hosts.yml").write_text(yaml.dump({"all": {"hosts": {"lab": machine.way_in()}}}))
        subprocess.run(["chmod", "-R", "go=", machine.project / "apps"], check=True)  # by a strict umask
        yield machine


def playbook(lab: Container, *options: str, fails: bool = False, **settings: Any) -> str:
    """Run it from here, with these settings; what it prints."""
    lab.settings(**settings)
    environment = os.environ | {"PATH": f"{ROOT}/.venv/bin:{os.environ['PATH']}", "ANSIBLE_CONFIG": "ansible.cfg"}
    done = subprocess.run(
        ["ansible-playbook", "-i", "hosts.yml", "ansible/site.yml", *options],
        check=False,
        cwd=lab.project,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    assert (done.returncode != 0) is fails, done.stdout
    return " ".join(done.stdout.split())


def test_over_ssh_the_services_are_the_machines_alone(lab: Container) -> None:
    lab.says("sudo mkdir --parents /data/lost+found && sudo touch /data/theirs")
    assert "/data is not empty, and belongs to another user than the services', whose id" in playbook(lab, fails=True)
    lab.says("[ $(stat --format %u /data/theirs) = 0 ] && sudo rm /data/theirs")
    twin = {"source": "apps/frontend", "port": 8090, "host_port": 8090, "health_path": "/healthz"}
    twin |= {"environment": {"BACKEND_URL": "http://backend:8080"}, "secrets": ["SECRET_KEY"]}
    playbook(lab, services={"twin": twin})
    assert " changed=0 " in playbook(lab, services={"twin": twin})
    assert re.findall(r"(\S+):80[089]0 ", lab.says("ss -Hltn")) == ["127.0.0.1"] * 3
    lab.says("sudo apt-get install -qy --no-install-recommends curl")
    lab.says("curl -fsS -F id=1 -F name=Bia 127.0.0.1:8000/")
    read = "import sqlite3; print(*sqlite3.connect('/data/users.db').execute('SELECT name FROM users'))"
    assert lab.says(f'python3 -c "{read}"') == "('Bia',)\n"


def test_the_commands_of_the_guide_fetch_a_copy_and_put_it_back(lab: Container) -> None:
    guide = (ROOT / "docs/any-machine.md").read_text().split("## Backup")[1]
    guide = guide.replace("ssh ubuntu@203.0.113.10", " ".join(map(str, lab.words(""))))
    fetch, put_back = re.findall(r"```sh\n(.*?)```", guide, re.DOTALL)
    subprocess.run(["sh", "-ec", fetch], check=True, cwd=lab.work)
    copy = max((lab.work / "backups").glob("users-*-1.db.gz")).name
    lab.says("curl -fsS -X DELETE 127.0.0.1:8080/users/1")
    put_back = re.sub("copy=.*", f"copy={copy}", put_back)
    subprocess.run(["sh", "-ec", put_back], check=True, cwd=lab.work)
    assert '"Bia"' in lab.says("curl -fsS 127.0.0.1:8080/users/1")


def test_from_another_machine_only_https_and_a_password_lead_in(lab: Container, tmp_path: Path) -> None:
    """This computer is the other machine, and has the authority."""
    said = playbook(lab, fails=True, host_ip="0.0.0.0")
    assert "so that whoever is in the network could read, change and delete users: https.domain is not set." in said

    for caddy in ("sudo mkdir /etc/caddy", "sudo apt-get install -qy caddy"):  # no package's, and its own
        lab.says(f"{caddy} && echo ':8001' | sudo tee /etc/caddy/Caddyfile")
        said = playbook(lab, fails=True, https={"domain": "localhost"})
        assert "This machine's Caddy has settings of its own, /etc/caddy/Caddyfile, which would be lost. Take" in said
        lab.says("grep 8001 /etc/caddy/Caddyfile && sudo rm -r /etc/caddy")

    domain, password, users = "users.example.com", "just for the test", tmp_path / "https-users"
    users.write_text(subprocess.check_output(["htpasswd", "-niB", "ana"], input=password, text=True))
    with acme.authority(tmp_path, GATEWAY) as authority:
        https = {"domain": domain, "users_file": str(users)}
        https |= {"acme_url": authority.url, "acme_ca_certificate": str(authority.certificate)}
        said = playbook(lab, fails=True, host_ip="0.0.0.0", https=https)  # every name leads to this machine
        assert f"There is no certificate for {domain}. {GATEWAY}:{acme.DIRECTORY}-dir says: " in said
        assert re.search(rf"(dial tcp|Failed to connect to) {GATEWAY}:(80|443)\b", said)
        assert "mend the domain's A and AAAA records" in said
        authority.find_names_at(ADDRESS)
        playbook(lab, host_ip="0.0.0.0", https=https)
        assert " changed=0 " in playbook(lab, host_ip="0.0.0.0", https=https)
        playbook(lab, "--tags=proxy")
        lab.says("! systemctl --quiet is-active caddy")
        playbook(lab, host_ip="0.0.0.0", https=https)
        root = tmp_path / "root.pem"
        root.write_text(authority.root())

    def curl(url: str, *options: str) -> str:
        """What this computer gets: the status and, if any, where it is sent to."""
        names = [word for port in (80, 443, 8444) for word in ("--resolve", f"{domain}:{port}:{ADDRESS}")]
        shown = ["--output", "/dev/null", "--write-out", "%{http_code} %{redirect_url}"]
        command = ["curl", "-sS", "--noproxy", "*", "--cacert", root, *names, *shown, *options, url]
        return subprocess.run(command, check=True, text=True, stdout=subprocess.PIPE).stdout.strip()

    login = ("--user", f"ana:{password}")
    assert curl(f"http://{domain}/status") == f"301 https://{domain}/status"
    for url in (f"https://{domain}/", f"https://{domain}:8444/users"):
        assert curl(url) == curl(url, "--user", "ana:wrong") == "401"
        assert curl(url, *login) == "200"
    curl(f"https://{domain}/", *login, "-F", "id=2", "-F", "name=Caio")
    assert curl(f"https://{domain}:8444/users/2", *login) == "200", "the form reached the service"
    for port in (8000, 8080):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((ADDRESS, port), timeout=10)
    assert "8444" in lab.says("sudo nft list table inet users_https")

    playbook(lab)
    assert not {80, 443, 8444} & {int(port) for port in re.findall(r":(\d+) ", lab.says("ss -Hltn"))}
    lab.says("! sudo nft list table inet users_https && curl -fsS 127.0.0.1:8000/healthz")
