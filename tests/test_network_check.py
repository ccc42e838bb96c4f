"""roles/machine/files/network_check.py against real servers, a real TLS server and a real forward proxy."""

import os
import socket
import socketserver
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from machine import new_certificate, serving

SCRIPT = Path(__file__).resolve().parents[1] / "roles/machine/files/network_check.py"


class Handler(BaseHTTPRequestHandler):
    """Answers each path that begins with a number with that status, and others with 200."""

    def do_GET(self) -> None:
        first = self.path.split("/")[1]
        self.send_response(int(first) if first.isdecimal() else 200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve(certificate: Path | None = None) -> Iterator[str]:
    """A server on 127.0.0.1; returns its address."""
    with serving(Handler, pem=certificate) as server:
        yield f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"


@pytest.fixture
def server() -> Iterator[str]:
    with serve() as url:
        yield url


@pytest.fixture
def closed_port() -> Iterator[str]:
    """An address that refuses each connection: bound, and nobody listens."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    return new_certificate(tmp_path / "company.pem")


def check(*wanted: str, **environment: str) -> list[str]:
    """Run the check with nothing but this environment. Returns its lines."""
    command = [sys.executable, str(SCRIPT), *wanted]
    result = subprocess.run(
        command, check=False, env={"PATH": os.environ["PATH"]} | environment, text=True, capture_output=True
    )
    assert result.stderr == ""
    assert result.returncode == (1 if result.stdout else 0)
    return result.stdout.splitlines()


def test_a_host_that_answers_is_not_mentioned(server: str) -> None:
    assert check("pip", pip_index_url=server) == []


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_host_that_wants_a_login_or_has_no_such_page_is_there(server: str, status: str) -> None:
    assert check("pip", pip_index_url=f"{server}/{status}") == []


def test_so_is_one_that_has_no_such_page_behind_a_proxy(server: str, forward_proxy: Callable[[str], Any]) -> None:
    proxy = forward_proxy("127.0.0.1")
    assert check("pip", pip_index_url=f"{server}/404", http_proxy=proxy.url) == []
    assert proxy.reached() == {"127.0.0.1"}


def test_a_host_that_answers_with_an_error_is_named_with_it(server: str) -> None:
    (line,) = check("pip", pip_index_url=f"{server}/503")
    assert line.startswith("127.0.0.1 (Python's packages) does not answer. It answers 503.")


def test_a_name_that_nobody_knows() -> None:
    (line,) = check("pip", pip_index_url="https://index.invalid/simple")
    assert line.startswith("index.invalid (Python's packages) does not answer. Its name is not known here")
    assert line.endswith("in a company, set network.https_proxy.")


def test_a_port_that_refuses(closed_port: str) -> None:
    (line,) = check("pip", pip_index_url=f"http://{closed_port}")
    assert "There is no connection to it ([Errno 111] Connection refused)." in line
    assert line.endswith("in a company, set network.http_proxy.")


def test_something_that_does_not_speak_http(certificate: Path) -> None:
    with serve(certificate) as url:
        (line,) = check("pip", pip_index_url=url.replace("https", "http"))
    assert "There is no connection to it" in line

    class SSH(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(b"SSH-2.0-OpenSSH_10.0\r\n")
            self.request.recv(1000)

    with serving(SSH) as server:
        (line,) = check("pip", pip_index_url=f"http://127.0.0.1:{server.server_port}")
    assert "It does not speak HTTP, or its address is not valid. Check its address in the settings." in line


def test_a_certificate_that_is_not_trusted_until_it_is(certificate: Path) -> None:
    with serve(certificate) as url:
        (line,) = check("pip", pip_index_url=url)
        assert "Its certificate is not trusted (self-signed certificate)." in line
        assert "network.ca_certificate" in line
        assert check("pip", pip_index_url=url, SSL_CERT_FILE=str(certificate)) == []


def test_a_clock_that_is_wrong_is_not_taken_for_a_company(tmp_path: Path) -> None:
    yesterday = new_certificate(tmp_path / "yesterday.pem", days=-1)
    with serve(yesterday) as url:
        (line,) = check("pip", pip_index_url=url, SSL_CERT_FILE=str(yesterday))
    assert "is not valid today (certificate has expired), and here it is 20" in line
    assert line.endswith("set the clock.")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_through_a_proxy_that_wants_a_password(
    scheme: str, certificate: Path, forward_proxy: Callable[[str], Any]
) -> None:
    proxy = forward_proxy("127.0.0.1")
    with serve(certificate if scheme == "https" else None) as url:
        for wrong in (f"http://{proxy.address}", f"http://ana.silva:wrong@{proxy.address}"):
            (line,) = check("pip", pip_index_url=url, **{f"{scheme}_proxy": wrong})
            assert f"The proxy {proxy.address} wants a user and a password" in line
            assert f"network.{scheme}_proxy" in line
            assert "wrong" not in line
        assert proxy.reached() == set()
        known = {f"{scheme}_proxy": proxy.url, "SSL_CERT_FILE": str(certificate)}
        assert check("pip", pip_index_url=url, **known) == []
        assert proxy.reached() == {"127.0.0.1"}


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_host_that_the_proxy_does_not_reach(scheme: str, forward_proxy: Callable[[str], Any]) -> None:
    proxy = forward_proxy("127.0.0.1")
    (line,) = check("pip", pip_index_url=f"{scheme}://index.invalid", **{f"{scheme}_proxy": proxy.url})
    assert line.startswith(f"index.invalid (Python's packages) does not answer. The proxy {proxy.address} answers 500")
    assert "network.no_proxy" in line


def test_a_proxy_that_cannot_be_reached(server: str, closed_port: str) -> None:
    (line,) = check("pip", pip_index_url=server, http_proxy=f"http://ana:secret@{closed_port}")
    assert f"The proxy {closed_port} cannot be reached" in line
    assert "Check network.http_proxy." in line
    assert "secret" not in line


@pytest.mark.parametrize("address", ["socks5://ana:sec/ret@{}", "http://ana:sec/ret@{}x"])
def test_an_address_that_can_be_no_proxys(server: str, closed_port: str, address: str) -> None:
    (line,) = check("pip", pip_index_url=server, http_proxy=address.format(closed_port))
    assert f"The proxy {address.format(closed_port).partition('@')[2]} does not speak HTTP, or its address" in line
    assert line.endswith("Check network.http_proxy.")


def test_hosts_of_no_proxy_are_asked_directly(server: str, closed_port: str) -> None:
    assert check("pip", pip_index_url=server, http_proxy=f"http://{closed_port}", no_proxy="a.example,127.0.0.1") == []


def test_without_an_index_that_is_set_the_default_of_pip_is_asked(closed_port: str) -> None:
    from pip._internal.models.index import PyPI

    (line,) = check("pip", https_proxy=f"http://{closed_port}")
    assert line.startswith(f"{PyPI.netloc} (Python's packages) does not answer.")


def test_a_login_of_an_index_is_neither_needed_nor_shown(server: str, closed_port: str) -> None:
    assert check("pip", pip_index_url=server.replace("//", "//ana:secret@")) == []
    (line,) = check("pip", pip_index_url=f"http://ana:secret@{closed_port}")
    assert "secret" not in line


def test_the_package_mirrors_are_those_that_apt_asks(tmp_path: Path) -> None:
    for folder in ("etc/apt/apt.conf.d", "etc/apt/preferences.d", "etc/apt/sources.list.d", "var/lib/dpkg"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(f'Dir "{tmp_path}";\nDir::State::status "/dev/null";\n')
    mirrors = tmp_path / "mirrors.list"
    mirrors.write_text("http://second.invalid/debian\tpriority:1\n")
    (tmp_path / "etc/apt/sources.list").write_text(
        "deb http://first.invalid/debian trixie main\n"
        "deb http://first.invalid/debian-security trixie-security main\n"
        f"deb mirror+file:{mirrors} trixie main\n"
    )
    config = {"APT_CONFIG": str(tmp_path / "apt.conf")}
    lines = check("apt", **config)
    hosts = [line.partition(" does not answer.")[0] for line in lines]
    assert sorted(hosts) == [
        "first.invalid (the distribution's packages)",
        "second.invalid (the distribution's packages)",
    ]

    (tmp_path / "cached").write_text("apt\n")
    assert check("apt", images="users-backend", cached=str(tmp_path / "cached"), **config) == []


def test_the_registry_is_the_one_in_the_name_of_the_image_or_the_mirror(server: str) -> None:
    (line,) = check("registry", base_image="registry.invalid/python:3.13", registry_mirror=server)
    assert line.startswith("registry.invalid (the base image) does not answer.")
    assert check("registry", base_image="python:3.13", registry_mirror=f"{server}/401") == []
    (line,) = check("registry", base_image="team/python:3.13", registry_mirror="https://mirror.invalid")
    assert line.startswith("mirror.invalid (the base image) does not answer.")


def test_each_host_that_does_not_answer_has_a_line() -> None:
    settings = {"pip_index_url": "http://index.invalid", "base_image": "registry.invalid/python"}
    assert [line.split()[0] for line in check("pip", "registry", **settings)] == ["index.invalid", "registry.invalid"]


def test_it_trusts_what_apt_and_docker_trust_and_is_no_stricter() -> None:
    code = "import network_check, ssl; c = network_check.trust(); print(c.cert_store_stats()['x509_ca'] > 0, "
    code += "ssl.VERIFY_X509_STRICT in ssl.VerifyFlags(c.verify_flags))"
    # Python's own places are left out: only Debian's bundle remains.
    environment = {"PYTHONPATH": str(SCRIPT.parent), "SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}
    assert subprocess.check_output([sys.executable, "-B", "-c", code], env=environment) == b"True False\n"


@pytest.mark.parametrize(
    ("kept", "named"),
    [
        (None, ["index.invalid", "registry.invalid"]),
        ("", ["index.invalid", "registry.invalid"]),
        ("apt users-backend:0123 users-frontend:4567", []),
        ("users-backend:0123", ["index.invalid", "registry.invalid"]),  # one of two
        ("apt users-backend:0123 registry.invalid/python:3.13", ["index.invalid"]),
    ],
)
def test_what_a_cache_has_is_not_asked_for(tmp_path: Path, kept: str | None, named: list[str]) -> None:
    if kept is not None:
        (tmp_path / "cached").write_text("\n".join(kept.split()))
    settings = {"pip_index_url": "http://index.invalid", "base_image": "registry.invalid/python:3.13"}
    settings |= {"images": "users-backend users-frontend", "cached": str(tmp_path / "cached")}
    lines = check("pip", "registry", **settings)
    assert [line.split()[0] for line in lines] == named
