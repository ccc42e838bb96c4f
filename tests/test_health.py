"""The wait for the services at the end of `vagrant up`: vagrant/health.rb, with real servers."""

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from machine import free_port, serving

ROOT = Path(__file__).resolve().parents[1]
PATH = "/healthz?full=1"
RUBY = """
require "pathname"
require "./vagrant/settings"
require "./vagrant/health"
Health.send(:remove_const, :PATIENCE)
Health::PATIENCE = 3
settings = Settings.load
ui = Object.new
ui.define_singleton_method(:info) { |text| puts text }
begin
  Health.wait(Struct.new(:data_dir, :ui).new(Pathname("."), ui), settings)
rescue Settings::Error => e
  puts e.message
end
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """The settings with one service; the folder is also that of Vagrant's own data on the VM."""
    shutil.copytree(ROOT / "vagrant", tmp_path / "vagrant")
    shutil.copy(ROOT / "settings.yml", tmp_path)
    (tmp_path / "action_provision").write_text("1.5:the-machine")
    return tmp_path


def wait(project: Path, port: int, more: str = "") -> str:
    """What is said after the wait for a service on this port, with these settings besides."""
    services = (
        f"services: {{backend: {{host_port: {port}, health_path: {PATH}}}, frontend: {{enabled: false}}}}\n{more}"
    )
    (project / "settings.local.yml").write_text(services)
    nowhere = {"http_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    command, environment = ["ruby", "-e", RUBY], os.environ | nowhere
    return subprocess.run(
        command, check=True, cwd=project, env=environment, text=True, stdout=subprocess.PIPE, timeout=30
    ).stdout


@contextmanager
def service(port: int, status: int, after: float = 0) -> Iterator[None]:
    """A service that starts after so many seconds, and answers this status at its health's path."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == PATH else 404)
            self.end_headers()

    with ExitStack() as running:
        start = threading.Timer(after, lambda: running.enter_context(serving(Handler, port)))
        start.start()
        try:
            yield
        finally:
            start.join()


def test_a_service_that_is_still_starting_is_waited_for(project: Path) -> None:
    port = free_port()
    with service(port, 200, after=2):
        assert wait(project, port) == f"Waiting until backend answers at http://127.0.0.1:{port}{PATH} ...\n"
        assert wait(project, port) == ""


def test_a_page_that_leads_to_a_login_is_healthy_as_it_is_for_the_playbook(project: Path) -> None:
    port = free_port()
    with service(port, 302):
        assert wait(project, port) == ""


def test_a_service_that_does_not_answer_is_told_with_what_to_do(project: Path) -> None:
    port = free_port()
    said = wait(project, port)
    assert f"\nThe VM runs, but backend does not answer at http://127.0.0.1:{port}{PATH} (" in said
    assert "Connection refused" in said
    assert '(vagrant ssh --command "sudo journalctl --no-pager --unit users-backend --lines 50")' in said
    with service(port, 503):
        assert f"{PATH} (it says 503). " in wait(project, port)


def test_what_does_not_speak_http_there_is_told_as_well(project: Path) -> None:
    def answer() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                connection.sendall(b"SSH-2.0-OpenSSH\r\n")

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        threading.Thread(target=answer, daemon=True).start()
        said = wait(project, port)
        server.shutdown(socket.SHUT_RDWR)
    assert f"The VM runs, but backend does not answer at http://127.0.0.1:{port}{PATH} (wrong status line" in said


def test_a_service_for_the_whole_network_is_asked_where_windows_asks_it_too(project: Path) -> None:
    port = free_port()
    said = wait(project, port, "host_ip: 0.0.0.0\nopen_to_the_network_without_password: true\n")
    assert f"does not answer at http://127.0.0.1:{port}{PATH} (" in said


def test_a_vm_without_services_yet_is_not_asked(project: Path) -> None:
    (project / "action_provision").unlink()
    assert wait(project, free_port()) == ""
