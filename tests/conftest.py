"""What several tests need: a real forward proxy, and templates of the roles."""

import re
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.plugins.loader import init_plugin_loader
from ansible.template import Templar, trust_as_template

ROOT = Path(__file__).resolve().parents[1]
USER, PASSWORD = "ana.silva", "Pass-word1.x"  # tinyproxy takes no others than letters, digits, hyphens and dots


@dataclass
class ForwardProxy:
    """A running tinyproxy that wants a user and a password."""

    address: str
    log: Path
    secrets = (PASSWORD, PASSWORD.replace("-", "%2D"))  # the password, and the way it is written in the URL

    @property
    def url(self) -> str:
        return f"http://{USER}:{self.secrets[1]}@{self.address}"

    def reached(self) -> set[str]:
        """The hosts to which it has led somebody who knew the password."""
        return set(re.findall(r'Established connection to host "([^"]+)"', self.log.read_text()))


@pytest.fixture
def forward_proxy(tmp_path: Path) -> Iterator[Callable[[str], ForwardProxy]]:
    """Starts a proxy that listens on an address of this machine."""
    with ExitStack() as cleanup:

        def start(ip: str) -> ForwardProxy:
            with socket.create_server((ip, 0)) as free:
                port = free.getsockname()[1]
            log, config = tmp_path / "tinyproxy.log", tmp_path / "tinyproxy.conf"
            config.write_text(
                f'Listen {ip}\nPort {port}\nBasicAuth {USER} {PASSWORD}\nLogFile "{log}"\nLogLevel Connect\n'
            )
            process = cleanup.enter_context(subprocess.Popen(["tinyproxy", "-d", "-c", str(config)]))
            cleanup.callback(process.terminate)
            for _ in range(100):
                with socket.socket() as client:
                    if client.connect_ex((ip, port)) == 0:
                        return ForwardProxy(f"{ip}:{port}", log)
                time.sleep(0.1)
            pytest.fail(f"tinyproxy did not start: {log.read_text()}")

        yield start


@pytest.fixture(scope="session")
def render() -> Any:
    """Renders a template of a role, or an expression, with the role's defaults and these variables."""
    init_plugin_loader([])

    def run(role: str, template: str, **variables: object) -> str:
        folder, loader = ROOT / "roles" / role, DataLoader()
        given: dict[str, object] = {"ansible_check_mode": False, "ansible_search_path": [str(folder)]}
        for part in ("defaults", "vars"):
            if (folder / part / "main.yml").exists():
                given |= loader.load_from_file(str(folder / part / "main.yml"), trusted_as_template=True)
        if "{{" not in template:
            template = f"{{{{ lookup('ansible.builtin.template', '{template}') }}}}"
        return Templar(loader, given | variables).template(trust_as_template(template))

    return run
