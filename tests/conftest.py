"""What several tests need: a real forward proxy, and templates of the roles."""

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
ANSIBLE = Path(sys.executable).parent / "ansible"
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
def render(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Renders a template of a role, or an expression, with the role's defaults and these variables."""

    tmp_path = tmp_path_factory.mktemp("render")

    def run(role: str, template: str, **variables: object) -> str:
        source, output = ROOT / f"roles/{role}/templates/{template}", tmp_path / "output"
        if "{{" in template:
            source = tmp_path / "expression"
            source.write_text(template)
        defaults = [f"@{ROOT}/roles/{role}/{part}/main.yml" for part in ("defaults", "vars")]
        extra = [argument for file in defaults if Path(file[1:]).exists() for argument in ("--extra-vars", file)]
        subprocess.run(
            [ANSIBLE, "localhost", "--connection", "local", *extra, "--extra-vars", json.dumps(variables)]
            + ["--module-name", "template", "--args", f"src={source} dest={output}"],
            check=True,
            capture_output=True,
            cwd=ROOT / "roles" / role,
        )
        return output.read_text()

    return run
