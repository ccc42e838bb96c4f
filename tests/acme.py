"""A certificate authority that speaks ACME: Debian's pebble, and a DNS server that has one answer for each name."""

import json
import os
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from machine import new_certificate

HERE = urllib.request.ProxyHandler({})
DIRECTORY, ROOTS, DNS, DNS_SETTINGS = 14000, 15000, 8053, 8055  # ports; pebble's usual ones


@dataclass
class Authority:
    """A running one; `certificate` is the file that its own https is trusted by."""

    address: str
    certificate: Path

    @property
    def url(self) -> str:
        return f"https://{self.address}:{DIRECTORY}/dir"

    def root(self) -> str:
        """The certificate (PEM) that what it issues is trusted by."""
        context = ssl.create_default_context(cafile=str(self.certificate))
        opener = urllib.request.build_opener(HERE, urllib.request.HTTPSHandler(context=context))
        with opener.open(f"https://{self.address}:{ROOTS}/roots/0", timeout=5) as response:
            return str(response.read().decode())

    def find_names_at(self, address: str) -> None:
        """From now on, every name leads to this IPv4 address."""
        data = json.dumps({"ip": address}).encode()
        with urllib.request.build_opener(HERE).open(
            f"http://{self.address}:{DNS_SETTINGS}/set-default-ipv4", data, timeout=5
        ):
            pass


@contextmanager
def authority(
    folder: Path, address: str, ports: tuple[int, int] = (80, 443), seconds: int = 3600
) -> Iterator[Authority]:
    """Runs one at an address of this machine. It looks for who asks at these ports (http, https), and its certificates
    are good for so many seconds."""
    certificate, config = new_certificate(folder / "acme.pem", f"IP:{address}"), folder / "pebble.json"
    pebble = {
        "listenAddress": f"{address}:{DIRECTORY}",
        "managementListenAddress": f"{address}:{ROOTS}",
        "certificate": str(certificate),
        "privateKey": str(certificate),
        "httpPort": ports[0],
        "tlsPort": ports[1],
        "certificateValidityPeriod": seconds,
    }
    config.write_text(json.dumps({"pebble": pebble}))
    environment = os.environ | {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    commands = [
        ["pebble-challtestsrv", "-dns01", f"{address}:{DNS}", "-management", f"{address}:{DNS_SETTINGS}"]
        + ["-http01", "", "-https01", "", "-tlsalpn01", "", "-defaultIPv6", "", "-defaultIPv4", address],
        ["pebble", "-strict", "-config", str(config), "-dnsserver", f"{address}:{DNS}"],
    ]
    with ExitStack() as cleanup, (folder / "acme.log").open("w") as log:
        for command in commands:
            process = cleanup.enter_context(subprocess.Popen(command, env=environment, stdout=log, stderr=log))
            cleanup.callback(process.terminate)
        made = Authority(address, certificate)
        for attempt in range(100):
            try:
                made.root()
                made.find_names_at(address)
                break
            except OSError:
                assert attempt < 99, (folder / "acme.log").read_text()
                time.sleep(0.1)
        yield made
