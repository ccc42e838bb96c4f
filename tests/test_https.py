"""https in front of the services: the role's files given to the real Caddy, nftables and a real ACME server, without a VM.

systemctl and journalctl are stand-ins: the one starts Caddy as a process, the other shows its log.
"""

import http.client
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import acme
import pytest
import up
from machine import free_port, new_certificate, serving, write_program

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[1]
DOMAIN = "users.example.com"
PASSWORD = "just for the test"
TOOLS = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
LIMIT = 1_000_000  # bytes of a request


class Service(BaseHTTPRequestHandler):
    """Answers what it was asked."""

    def do_POST(self) -> None:
        if self.rfile.read(int(self.headers.get("Content-Length", 0))):
            self.do_GET()

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps([self.path, dict(self.headers)]).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def service() -> Iterator[int]:
    """The port of a service on the loopback."""
    with serving(Service) as server:
        yield server.server_port


def line(password: str) -> list[str]:
    """What the guide's command writes into the file of who may enter."""
    return subprocess.check_output(["htpasswd", "-niB", "ana"], input=password, text=True).split()


@pytest.fixture(scope="module")
def users() -> list[str]:
    return line(PASSWORD)


class Proxy:
    """The role's Caddyfile on ports of the test, and what its start says."""

    def __init__(self, folder: Path, render: Any, service: int, users: list[str]) -> None:
        self.folder, self.render = folder, render
        self.http, self.https = free_port(), free_port()
        self.variables: dict[str, object] = {
            "proxy_domain": DOMAIN,
            "proxy_users": users,
            "proxy_listen_address": "127.0.0.1",
            "proxy_services": {"frontend": {"port": service, "https_port": self.https}, "inside": {"port": 1}},
        }
        self.pid, self.log, self.file = folder / "pid", folder / "log", folder / "Caddyfile"
        tools = folder / "bin"
        start = f"caddy run --adapter caddyfile --config {self.file} > {self.log} 2>&1 & echo $! > {self.pid}"
        for name, script in {
            "systemctl": f"[ $1 != restart ] || {{ {start}; sleep 1; kill -0 $(cat {self.pid}); }}",
            "journalctl": f"cat {self.log}",
        }.items():
            write_program(tools / name, f"#!/bin/sh\n{script}\n")
        homes = {"XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)}
        self.environment = os.environ | homes | {"PATH": f"{tools}:{os.environ['PATH']}"}

    def caddyfile(self, **variables: object) -> str:
        self.variables |= variables
        text = self.render("proxy", "Caddyfile.j2", **self.variables)
        ports = f"{{\n\thttp_port {self.http}\n\thttps_port {self.https}\n\trenew_interval 1s"
        return str(text.replace("{", ports, 1).replace("/etc/caddy/acme-ca.pem", str(self.folder / "acme.pem")))

    def start(self, seconds: int = 30, **variables: object) -> str:
        """What start.py complains of."""
        self.file.write_text(self.caddyfile(**variables))
        command = [sys.executable, "roles/proxy/files/start.py", str(self.variables["proxy_domain"]), "127.0.0.1"]
        command += [str(self.https), str(seconds)]
        result = subprocess.run(
            command, check=False, cwd=ROOT, env=self.environment, text=True, stderr=subprocess.PIPE, timeout=60
        )
        assert result.returncode == bool(result.stderr)
        return result.stderr

    def stop(self) -> None:
        if self.pid.exists():
            process = int(self.pid.read_text())
            try:
                os.kill(process, signal.SIGTERM)
                while Path(f"/proc/{process}/cmdline").read_bytes():
                    time.sleep(0.1)
            except (ProcessLookupError, FileNotFoundError):
                pass

    def certificate(self, authority: str) -> dict[str, Any]:
        """The one that it shows, if this authority (PEM) issued it. Raises ssl.SSLError otherwise."""
        context = ssl.create_default_context(cadata=authority)
        name = str(self.variables["proxy_domain"])
        with (
            socket.create_connection(("127.0.0.1", self.https), timeout=10) as connection,
            context.wrap_socket(connection, server_hostname=name) as tls,
        ):
            return dict(tls.getpeercert() or {})

    def ask(self, path: str = "/", login: str = "", body: Any = None, **more: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of an answer. A body in parts has no length that is announced."""
        context = ssl._create_unverified_context()
        connection = http.client.HTTPSConnection("127.0.0.1", self.https, timeout=10, context=context)
        headers = {"Host": str(self.variables["proxy_domain"]), **more}
        if login:
            headers["Authorization"] = f"Basic {b64encode(login.encode()).decode()}"
        connection.request("POST" if body else "GET", path, body, headers)
        answer = connection.getresponse()
        result = answer.status, dict(answer.headers), answer.read()
        connection.close()
        return result


@pytest.fixture
def proxy(tmp_path: Path, render: Any, service: int, users: list[str]) -> Iterator[Proxy]:
    made = Proxy(tmp_path, render, service, users)
    yield made
    made.stop()


LOCAL = {"proxy_domain": "localhost"}


def root_of(proxy: Proxy) -> str:
    """The certificate of the machine's own authority."""
    return (proxy.folder / "caddy/pki/authorities/local/root.crt").read_text()


@pytest.mark.parametrize(
    "variables",
    [
        LOCAL,
        LOCAL | {"proxy_users": [], "proxy_listen_address": "0.0.0.0"},
        {"proxy_acme_url": "https://acme.example/dir", "proxy_email": "ana@example.com"},
    ],
)
def test_the_distributions_caddy_understands_every_line(proxy: Proxy, variables: dict[str, object]) -> None:
    proxy.file.write_text(proxy.caddyfile(**variables))
    command = ["caddy", "validate", "--adapter", "caddyfile", "--config", str(proxy.file)]
    result = subprocess.run(command, check=False, env=proxy.environment, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("domain", "kind"), [("localhost", "DNS"), ("pc.lab.example", "DNS"), ("127.0.0.1", "IP Address")]
)
def test_the_machines_own_authority_issues_a_certificate_for_any_name(proxy: Proxy, domain: str, kind: str) -> None:
    assert proxy.start(proxy_domain=domain) == ""
    assert proxy.certificate(root_of(proxy))["subjectAltName"] == ((kind, domain),)
    # Browsers keep it for every port of the name: it would shut all else that listens on localhost.
    assert "Strict-Transport-Security" not in proxy.ask()[1]


def test_who_has_no_password_gets_nothing_and_who_has_one_gets_the_service(proxy: Proxy) -> None:
    assert proxy.start(**LOCAL) == ""
    for login in ("", "ana:wrong", "bia:" + PASSWORD):
        status, headers, body = proxy.ask("/users?limit=1", login)
        assert (status, body) == (401, b"")
        assert headers["Www-Authenticate"].startswith("Basic ")
    status, _, body = proxy.ask("/users?limit=1", f"ana:{PASSWORD}")
    path, headers = json.loads(body)
    assert (status, path, headers["Host"]) == (200, "/users?limit=1", "localhost")
    assert headers["X-Forwarded-Proto"] == "https"
    assert "Authorization" not in headers, "the service needs not know the password"


def test_a_changed_password_is_one_more_line(proxy: Proxy, users: list[str]) -> None:
    assert proxy.start(**LOCAL, proxy_users=line("the old one") + users) == ""
    assert proxy.ask(login="ana:the old one")[0] == 401
    assert proxy.ask(login=f"ana:{PASSWORD}")[0] == 200


def test_a_body_above_the_limit_is_refused_and_one_below_is_not(proxy: Proxy) -> None:
    assert proxy.start(**LOCAL) == ""
    login = f"ana:{PASSWORD}"
    announced = {"Content-Length": str(LIMIT + 1)}
    assert proxy.ask(login=login, body=iter([]), **announced)[::2] == (413, b"A request may have 1000000 bytes here.")
    assert proxy.ask(login=login, body=LIMIT * b"a")[0] == 200
    assert proxy.ask(login=login, body=iter([b"a" * (LIMIT + 1)]))[0] in (413, 502)


def test_a_service_that_does_not_answer_is_told(proxy: Proxy) -> None:
    services = {"frontend": {"port": free_port(), "https_port": proxy.https}}
    assert proxy.start(proxy_services=services, **LOCAL) == ""
    status, _, said = proxy.ask(login=f"ana:{PASSWORD}")
    assert status == 502
    assert said.startswith(b"The service behind this address does not answer.")
    assert b"`journalctl -u users-frontend`" in said
    assert proxy.ask()[::2] == (401, b""), "who has no password is told nothing"


def test_http_is_redirected(proxy: Proxy) -> None:
    assert proxy.start(**LOCAL) == ""
    connection = http.client.HTTPConnection("127.0.0.1", proxy.http, timeout=10)
    connection.request("GET", "/users?limit=1", headers={"Host": "another.example"})
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Location"]) == (301, "https://localhost/users?limit=1")
    connection.close()


def test_an_acme_authority_issues_a_certificate_and_renews_it(proxy: Proxy) -> None:
    with acme.authority(proxy.folder, "127.0.0.1", (proxy.http, proxy.https), seconds=20) as authority:
        settings = {"proxy_acme_url": authority.url, "proxy_acme_ca_certificate": str(authority.certificate)}
        assert proxy.start(**settings) == ""
        first = proxy.certificate(authority.root())
        assert first["subjectAltName"] == (("DNS", DOMAIN),)
        assert proxy.ask()[0] == 401
        assert proxy.ask()[1]["Strict-Transport-Security"] == "max-age=15768000"
        # Where the role looks for it.
        issuer = proxy.render("proxy", "{{ proxy_issuer }}", **proxy.variables)
        [found] = (proxy.folder / "caddy/certificates").glob(f"{issuer}*/{DOMAIN}/{DOMAIN}.crt")
        assert found.read_text().startswith("-----BEGIN CERTIFICATE")
        deadline = time.monotonic() + 40
        while proxy.certificate(authority.root())["serialNumber"] == first["serialNumber"]:
            assert time.monotonic() < deadline, proxy.log.read_text()
            time.sleep(1)


def test_a_domain_that_does_not_point_here_is_told_with_the_words_of_the_authority(proxy: Proxy) -> None:
    with acme.authority(proxy.folder, "127.0.0.1", (proxy.http, proxy.https)) as authority:
        authority.find_names_at("127.0.0.99")
        settings = {"proxy_acme_url": authority.url, "proxy_acme_ca_certificate": str(authority.certificate)}
        said = proxy.start(**settings | {"proxy_domain": "users.invalid"})
    assert said.startswith("There is no certificate for users.invalid. 127.0.0.1:14000-dir says: ")
    assert "127.0.0.99:" in said
    assert "mend the domain's A and AAAA records, or open the ports in the firewall" in said


@pytest.mark.parametrize(
    ("domain", "address", "sentence"),
    [
        ("users.invalid", "0.0.0.0", "This machine finds no address for users.invalid."),
        ("localhost", "0.0.0.0", "Seen from this machine, localhost leads to 127.0.0.1"),
        ("users.invalid", "127.0.0.1", "Caddy listens on 127.0.0.1 alone, as host_ip says: set host_ip: 0.0.0.0."),
    ],
)
def test_an_authority_that_does_not_answer_is_told_with_what_may_help(
    proxy: Proxy, domain: str, address: str, sentence: str
) -> None:
    (proxy.folder / "bin/systemctl").write_text("#!/bin/sh\n")
    proxy.log.write_text("Started Caddy.\n7\n")
    command = [sys.executable, "roles/proxy/files/start.py", domain, address, str(free_port()), "1"]
    result = subprocess.run(command, check=False, cwd=ROOT, env=proxy.environment, text=True, capture_output=True)
    assert f"There is no certificate for {domain}. The authority has not answered within 1 s.\n" in result.stderr
    assert sentence in result.stderr


def test_a_certificate_that_has_expired_is_none(proxy: Proxy, tmp_path: Path) -> None:
    """Caddy goes on with one that cannot be renewed; here, a server stands in for it."""
    (tmp_path / "bin/systemctl").write_text("#!/bin/sh\n")
    proxy.log.touch()
    for days, complaint in ((1, None), (-1, f"There is no certificate for {DOMAIN}.")):
        with serving(Service, proxy.https, new_certificate(tmp_path / "pem", f"DNS:{DOMAIN}", days)):
            said = proxy.start(3)
        assert said.startswith(complaint) if complaint else said == ""


def test_a_caddy_that_does_not_start_is_told_with_its_log(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", proxy.https)):
        said = proxy.start(**LOCAL)
    assert said.startswith("Caddy, which answers https, does not start.")
    assert "address already in use" in said


def state(proxy: Proxy, **variables: object) -> list[str]:
    """What the role finds to do on this machine."""
    script = proxy.render("proxy", "{{ lookup('template', 'templates/state.sh.j2') }}", **proxy.variables | variables)
    return subprocess.run(
        ["sh"], check=False, input=script, env=proxy.environment, text=True, stdout=subprocess.PIPE
    ).stdout.splitlines()


def test_a_port_that_another_program_has_is_found_with_its_name_but_caddys_own_is_not(proxy: Proxy) -> None:
    with socket.create_server(("127.0.0.1", proxy.https)):
        [line] = [line for line in state(proxy) if line.startswith(f"taken {proxy.https} ")]
    assert re.fullmatch(rf"taken \d+ by \S+ \(process {os.getpid()}\)", line)
    assert proxy.start(**LOCAL) == ""
    assert not [line for line in state(proxy) if line.startswith(f"taken {proxy.https} ")]


def test_what_is_as_it_should_be_needs_no_task(proxy: Proxy) -> None:
    """Each thing that the role looks at, one after the other put right."""
    expected = state(proxy, **LOCAL)
    assert [line for line in expected if not line.startswith(("taken", "missing caddy", "missing nft"))] == [
        "wrong /etc/caddy/Caddyfile",
        "wrong /etc/caddy/limits.nft",
        "wrong /etc/systemd/system/caddy.service.d/users.conf",
        "missing certificate",
    ]
    assert proxy.start(**LOCAL) == ""
    storage = {"proxy_storage": str(proxy.folder / "caddy")}
    assert "missing certificate" not in state(proxy, **storage)
    assert "missing certificate" in state(proxy, **storage, proxy_acme_url="https://acme.example/dir")


# --- The limit of connections --------------------------------------------------------

# One process that answers, one that calls; the namespace has no other network than its own loopback.
CALL = """
import socket, sys, threading
server = socket.create_server(("127.0.0.1", 443), backlog=500)
made = []
for _ in range(150):
    client = socket.socket()
    client.settimeout(0.05)
    made.append(client.connect_ex(("127.0.0.1", 443)) == 0)
print(sum(made))
"""


def test_an_address_that_makes_too_many_connections_is_slowed_down(tmp_path: Path, render: Any) -> None:
    rules = tmp_path / "limits.nft"
    # "1": as Ansible before 2.19, such as Ubuntu 24.04's, passes a number on.
    services = {"frontend": {"port": 8000, "https_port": 443}}
    rules.write_text(render("proxy", "limits.nft.j2", proxy_services=services, proxy_connections_per_second="1"))
    nft = f"/usr/sbin/nft -f {shlex.quote(str(rules))}"
    inside = f"{nft} && {nft} && /sbin/ip link set lo up && {sys.executable} -c {shlex.quote(CALL)}"
    namespace = [*up.SUDO, "unshare", "--net", "sh", "-ec", inside]
    result = subprocess.run(namespace, check=False, text=True, capture_output=True)
    assert result.returncode == 0, result.stderr
    assert 5 <= int(result.stdout) < 40, "the five at once, and one for each second that passed"


# --- Who may enter -------------------------------------------------------------------

OPEN = "open_to_the_network_without_password: true"


@pytest.fixture
def play(tmp_path: Path) -> Callable[..., str]:
    """What the playbook says with these settings, before it does anything."""

    def run(settings: str, *options: str) -> str:
        (tmp_path / "settings.yml").write_text(settings)
        command = [
            "ansible-playbook",
            "-i",
            "localhost,",
            "-c",
            "local",
            "-e",
            "ansible_become=false",
            "--tags",
            "none",
        ]
        command += [*options, "ansible/site.yml"]
        environment = os.environ | {"SETTINGS_LOCAL": str(tmp_path / "settings.yml"), "PATH": TOOLS}
        return subprocess.run(command, check=False, cwd=ROOT, env=environment, text=True, capture_output=True).stdout

    return run


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("host_ip: 0.0.0.0", "https.domain is not set. docs/https.md has the steps."),
        (f"{{host_ip: 0.0.0.0, https: {{domain: {DOMAIN}}}}}", "https.users_file is not set."),
        (f"{{host_ip: 10.0.0.1, https: {{domain: {DOMAIN}, users_file: FILE}}}}", "people names nobody."),
    ],
)
def test_the_play_opens_no_door_without_https_and_a_password(
    play: Callable[..., str], tmp_path: Path, settings: str, sentence: str
) -> None:
    (tmp_path / "people").write_text("# our team\n")
    said = " ".join(play(settings.replace("FILE", str(tmp_path / "people"))).split())
    assert "so that whoever is in the network could read, change and delete users:" in said
    assert sentence in said
    assert "failed=1" in said


@pytest.mark.parametrize(
    "settings",
    [
        "host_ip: 127.0.0.1",
        f"{{host_ip: 0.0.0.0, {OPEN}}}",
        f"{{host_ip: 0.0.0.0, https: {{domain: {DOMAIN}, users_file: FILE}}}}",
    ],
)
def test_the_play_goes_on_with_a_password_or_where_the_person_wants_none(
    play: Callable[..., str], tmp_path: Path, users: list[str], settings: str
) -> None:
    (tmp_path / "people").write_text("\ufeff" + "\r\n".join([*users, "", "# our team"]))  # as Windows writes it
    assert "failed=0" in play(settings.replace("FILE", str(tmp_path / "people")))


@pytest.mark.parametrize("wrong", ["bia:in-plain-words", "bia:$apr1$7bV4GbKL$m1lbYeQHdcIe5yBMt3iT91", "Ana Bia:HASH"])
def test_a_line_that_would_let_nobody_in_is_named_and_not_shown(
    play: Callable[..., str], tmp_path: Path, users: list[str], wrong: str
) -> None:
    wrong = wrong.replace("HASH", users[0].partition(":")[2])
    (tmp_path / "people").write_text("\n".join(["# our team", *users, wrong, wrong]))
    said = " ".join(play(f"https: {{domain: {DOMAIN}, users_file: {tmp_path / 'people'}}}").split())
    assert f"Line 3 of {tmp_path / 'people'} is not NAME:HASH with a hash made by bcrypt" in said
    assert wrong.partition(":")[2] not in said
    assert "failed=1" in said


def test_the_vaults_password_is_asked_for_where_it_is_missing(play: Callable[..., str], tmp_path: Path) -> None:
    people = tmp_path / "people"
    people.write_text("$ANSIBLE_VAULT;1.1;AES256\n6161\n")
    said = " ".join(play(f"https: {{domain: {DOMAIN}, users_file: {people}}}").split())
    assert "no vault secrets found" in said
    assert "failed=1" in said


def test_a_file_that_ansible_vault_encrypts_is_read(play: Callable[..., str], tmp_path: Path, users: list[str]) -> None:
    people, password = tmp_path / "people", tmp_path / "password"
    people.write_text("\n".join(users))
    password.write_text("of the vault")
    vault = ["ansible-vault", "encrypt", "--vault-password-file", str(password), str(people)]
    subprocess.run(vault, check=True, capture_output=True, env=os.environ | {"PATH": TOOLS})
    assert "ana" not in people.read_text()
    settings = f"{{host_ip: 0.0.0.0, https: {{domain: {DOMAIN}, users_file: {people}}}}}"
    assert "failed=0" in play(settings, "--vault-password-file", str(password))


# --- make trust ----------------------------------------------------------------------


def test_make_trust_fetches_the_certificate_of_the_authority_and_says_what_to_do(proxy: Proxy, tmp_path: Path) -> None:
    assert proxy.start(**LOCAL) == ""
    write_program(tmp_path / "bin/vagrant", f'#!/bin/sh\necho "$*" >&2\ncat {tmp_path}/caddy/${{3##*/caddy/}}\n')
    made = tmp_path / "https-root.crt"
    command = ["make", "trust", f"ROOT_CERTIFICATE={made}"]
    result = subprocess.run(command, check=True, cwd=ROOT, env=proxy.environment, text=True, capture_output=True)
    assert proxy.certificate(made.read_text())["subjectAltName"] == (("DNS", "localhost"),)
    assert f"Written: {made}" in result.stdout
    assert "docs/https.md" in result.stdout


def test_make_trust_without_https_says_what_is_missing(proxy: Proxy, tmp_path: Path) -> None:
    write_program(tmp_path / "bin/vagrant", "#!/bin/sh\nexit 1\n")
    command = ["make", "trust", f"ROOT_CERTIFICATE={tmp_path}/root"]
    result = subprocess.run(command, check=False, cwd=ROOT, env=proxy.environment, text=True, capture_output=True)
    assert result.returncode != 0
    assert "There is no authority of its own in the VM, or no VM that runs." in result.stderr
    assert not [*tmp_path.glob("root*")]


# --- Graded by a scanner -------------------------------------------------------------


def test_a_scanner_finds_nothing_that_would_cost_the_best_grade(proxy: Proxy) -> None:
    with acme.authority(proxy.folder, "127.0.0.1", (proxy.http, proxy.https)) as authority:
        settings = {"proxy_acme_url": authority.url, "proxy_acme_ca_certificate": str(authority.certificate)}
        assert proxy.start(**settings) == ""
        (proxy.folder / "root.pem").write_text(authority.root())
    report = proxy.folder / "report.json"
    command = [
        "testssl",
        "--quiet",
        "--warnings",
        "off",
        "--color",
        "0",
        "--ip",
        "127.0.0.1",
        "--jsonfile",
        str(report),
    ]
    command += [
        "--add-ca",
        str(proxy.folder / "root.pem"),
        "--protocols",
        "--std",
        "--fs",
        "--server-defaults",
        "--headers",
        "--vulnerable",
    ]
    result = subprocess.run([*command, f"{DOMAIN}:{proxy.https}"], check=False, text=True, capture_output=True)
    findings = {each["id"]: each for each in json.loads(report.read_text())}
    assert findings["TLS1_3"]["severity"] == "OK", result.stdout
    bad = {name for name, each in findings.items() if each["severity"] in ("MEDIUM", "HIGH", "CRITICAL", "WARN")}
    # The test's authority is unknown, issues for an hour and revokes nothing; other headers are the services' own.
    ours = {"cert_chain_of_trust", "cert_expirationStatus", "cert_notAfter", "cert_revocation", "security_headers"}
    assert bad - ours - {"engine_problem"} == set(), result.stdout
