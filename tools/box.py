"""Builds a box of one's own, and the catalogue that tells Vagrant which versions of it there are.

Both lie in boxes/PROVIDER/ as they would on a web server: box.json, and a folder with package.box for each version.
The catalogue's form is Vagrant's (https://developer.hashicorp.com/vagrant/docs/boxes/format): `vagrant box outdated`
and `vagrant box update` read it, and compare the checksum of what they download.
"""

import argparse
import json
import os
import platform
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import up
from doctor import ROOT, Stop

BOXES = ROOT / "boxes"
NAME = "users/debian-13"
PACKAGES = ["mmdebstrap", "debian-archive-keyring", "extlinux", "e2fsprogs", "qemu-utils", "python3-vmdkstream"]


def check(provider: str, version: str) -> None:
    """Raises Stop for what would fail only minutes later."""
    if not shutil.which("apt-get") or platform.machine() not in ("x86_64", "amd64"):
        raise Stop(
            f"a box is made from Debian's packages, on Debian or Ubuntu (x86_64); this is {platform.system()} "
            f"({platform.machine()}). Run `make box` on such a machine, and copy the folder boxes from there."
        )
    if os.geteuid() != 0 and not shutil.which("sudo"):
        raise Stop("it mounts the box's disk, and there is no sudo here. Run `make box` as root.")
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise Stop(f'VERSION is "{version}"; it must be numbers with dots between them, such as 1.0.2.')
    if (BOXES / provider / version).exists():
        raise Stop(
            f"boxes/{provider}/{version} is there already. Give another VERSION: "
            "whoever has this one would never notice that it changed."
        )


def catalogue(file: Path, provider: str, version: str, url: str, checksum: str) -> None:
    """Adds a version to box.json, or makes the file. The versions before it stay as they are."""
    content: dict[str, Any] = {"name": NAME, "versions": []}
    if file.exists():
        content = json.loads(file.read_text())
    box = {
        "name": provider,
        "url": f"{url.rstrip('/')}/{version}/package.box",
        "checksum_type": "sha256",
        "checksum": checksum,
        "architecture": "amd64",  # Vagrant 2.4 and newer
        "default_architecture": True,
    }
    content["versions"].append({"version": version, "providers": [box]})
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(file)


def make(provider: str, version: str, url: str) -> None:
    """Builds boxes/`provider`/`version`/package.box, which people will find below `url`."""
    check(provider, version)
    up.install_packages(PACKAGES)
    folder = BOXES / provider / version
    folder.mkdir(parents=True)
    box = folder / "package.box"
    try:
        with up.step(f"Building {box.relative_to(ROOT)} from Debian's packages"):
            up.run_recipe("build-box", box, "--provider", provider, "--version", version, "--include", up.IN_THE_BOX)
    except Stop:
        folder.rmdir()
        raise
    checksum = up.run(["sha256sum", str(box)], "The box could not be read.").split()[0]
    url = url or (BOXES / provider).as_uri()
    catalogue(BOXES / provider / "box.json", provider, version, url, checksum)
    print(
        f"It has {box.stat().st_size / 1e6:.0f} MB. In settings.local.yml it is used so:\n\n"
        f"  {'vm' if provider == 'virtualbox' else provider}:\n"
        f"    box: {NAME}\n"
        f"    box_url: {url.rstrip('/')}/box.json\n"
    )


def main() -> int:
    """Returns the exit status: 0 when the box is made, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("provider", choices=["virtualbox", "libvirt"])
    parser.add_argument("--version", default=time.strftime("%Y%m%d.%H%M", time.gmtime()), help="default: the time")
    parser.add_argument("--url", default="", help="where boxes/PROVIDER will be found; default: here")
    arguments = parser.parse_args()
    try:
        make(arguments.provider, arguments.version, arguments.url)
    except Stop as stop:
        print(f"make box stopped: {stop}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
