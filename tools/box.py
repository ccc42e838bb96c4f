"""Builds a box of one's own, and the catalogue that tells Vagrant which versions of it there are.

It is made from the image of Ubuntu's for clouds or, where Ubuntu's server cannot be reached, from Debian's packages.
Both files lie in boxes/SYSTEM/PROVIDER/ as they would on a web server: box.json, and a folder with package.box for each
version. The catalogue's form is Vagrant's (https://developer.hashicorp.com/vagrant/docs/boxes/format):
`vagrant box outdated` and `vagrant box update` read it, and compare the checksum of what they download.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import up
from doctor import CACHE, ROOT, Stop, has_kvm, told

BOXES = ROOT / "boxes"
SYSTEMS = {"ubuntu": "ubuntu-24.04", "debian": "debian-13"}
PACKAGES = {
    "ubuntu": ["mmdebstrap", "debian-archive-keyring", "gpgv", "qemu-system-x86", "qemu-utils", "python3-vmdkstream"],
    "debian": ["mmdebstrap", "debian-archive-keyring", "extlinux", "e2fsprogs", "qemu-utils", "python3-vmdkstream"],
}
IMAGE = "https://cloud-images.ubuntu.com/releases/24.04/release/ubuntu-24.04-server-cloudimg-amd64.img"
TIMEOUT = 30  # seconds without an answer


class Unreachable(Stop):
    """Ubuntu's server does not answer."""


def check(version: str) -> None:
    """Raises Stop for what would fail only minutes later."""
    if not shutil.which("apt-get") or platform.machine() not in ("x86_64", "amd64"):
        raise Stop(
            f"a box is made on Debian or Ubuntu (x86_64); this is {platform.system()} ({platform.machine()}). Run "
            "`make box` on such a machine, and copy the folder boxes from there."
        )
    if os.geteuid() != 0 and not shutil.which("sudo"):
        raise Stop("it mounts the box's disk, and there is no sudo here. Run `make box` as root.")
    if not re.fullmatch(r"\d+(\.\d+)*", version):
        raise Stop(f'VERSION is "{version}"; it must be numbers with dots between them, such as 1.0.2.')


def fetch(url: str, file: Path) -> None:
    """Downloads a file, by the proxy of the environment. Raises Unreachable, or Stop if it cannot be written."""
    part = file.with_name(file.name + ".part")
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response, open(part, "wb") as output:
            shutil.copyfileobj(response, output)
        part.replace(file)
    except (URLError, HTTPException, TimeoutError, ConnectionError) as error:
        raise Unreachable(f"{url} could not be fetched ({getattr(error, 'reason', error)}).") from error
    except OSError as error:
        raise Stop(f"{file} could not be written ({error.strerror}). Make room, and run it again.") from error
    finally:
        part.unlink(missing_ok=True)


def keyring() -> Path:
    """The keys with which Ubuntu signs its images."""
    return ROOT / up.build("ubuntu-keyring", "ubuntu-keyring", ".gpg")


def ubuntu_image() -> Path:
    """The image as Ubuntu's server has it now, out of the cache unless there is a newer one.

    Ubuntu signs the list of its images' checksums. Raises Stop if the signature or the image is not what it must be, and
    Unreachable.
    """
    folder, name = IMAGE.rsplit("/", 1)
    with tempfile.TemporaryDirectory() as work:
        sums, signature = Path(work, "SHA256SUMS"), Path(work, "SHA256SUMS.gpg")
        for file in (sums, signature):
            fetch(f"{folder}/{file.name}", file)
        up.install_packages(PACKAGES["ubuntu"])
        verify = ["gpgv", "--keyring", str(keyring()), str(signature), str(sums)]
        if subprocess.run(verify, check=False, capture_output=True).returncode != 0:
            raise Stop(
                f"{folder}/SHA256SUMS is not signed by Ubuntu. Somebody between this computer and Ubuntu changed it: "
                "try another network. `make box SYSTEM=debian` needs nothing from there."
            )
        listed = re.search(rf"^([0-9a-f]{{64}}) [ *]{re.escape(name)}$", sums.read_text(), re.MULTILINE)
    if not listed:
        raise Stop(f"{folder}/SHA256SUMS does not list {name}. `make box SYSTEM=debian` does without it.")
    image = CACHE / name
    if not (image.exists() and up.sha256(image) == listed[1]):
        with up.step(f"Downloading {name}, 600 MB"):
            fetch(IMAGE, image)
        if up.sha256(image) != listed[1]:
            image.unlink()
            raise Stop(f"{name} was damaged on its way: it has not the checksum that Ubuntu signed. Run it again.")
    return image


def listed_versions(file: Path) -> list[dict[str, Any]]:
    """What box.json lists, if there is one."""
    versions: list[dict[str, Any]] = json.loads(file.read_text())["versions"] if file.exists() else []
    return versions


def catalogue(file: Path, name: str, provider: str, version: str, url: str, checksum: str) -> None:
    """Adds a version to box.json, or makes the file. The versions before it stay as they are."""
    box = {
        "name": provider,
        "url": f"{url.rstrip('/')}/{version}/package.box",
        "checksum_type": "sha256",
        "checksum": checksum,
        "architecture": "amd64",  # Vagrant 2.4 and newer
        "default_architecture": True,
    }
    content = {"name": name, "versions": [*listed_versions(file), {"version": version, "providers": [box]}]}
    part = file.with_suffix(".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(file)


def make(provider: str, version: str, url: str = "", system: str = "") -> None:
    """Builds boxes/SYSTEM/`provider`/`version`/package.box, which people will find below `url`.

    Without a `system` it is Ubuntu, or Debian where Ubuntu's server cannot be reached.
    """
    check(version)
    arguments = ["--provider", provider, "--version", version, "--include", up.IN_THE_BOX]
    if system != "debian":
        try:
            arguments += ["--image", str(ubuntu_image()), "--accelerator", "kvm" if has_kvm() else "tcg"]
            system = "ubuntu"
        except Unreachable as reason:
            if system:
                raise
            print(f"{reason} So it is a box of Debian, whose packages are all it needs.", flush=True)
            system = "debian"
    up.install_packages(PACKAGES[system])
    shelf = BOXES / SYSTEMS[system] / provider
    box = shelf / version / "package.box"
    # Not whether it is there: a run that was cut off leaves what nobody can have.
    if version in [each["version"] for each in listed_versions(shelf / "box.json")]:
        raise Stop(
            f"{box.parent.relative_to(ROOT)} is there already. Give another VERSION: "
            "whoever has this one would never notice that it changed."
        )
    box.parent.mkdir(parents=True, exist_ok=True)
    with up.step(f"Building {box.relative_to(ROOT)}"):
        up.run_recipe("build-box", box, *arguments)
    name = f"users/{SYSTEMS[system]}"
    url = url or shelf.as_uri()
    catalogue(shelf / "box.json", name, provider, version, url, up.sha256(box))
    print(
        f"It has {box.stat().st_size / 1e6:.0f} MB. In settings.local.yml it is used so:\n\n"
        f"  {'vm' if provider == 'virtualbox' else provider}:\n"
        f"    box: {name}\n"
        f"    box_url: {url.rstrip('/')}/box.json\n"
    )


def main() -> int:
    """Returns the exit status: 0 when the box is made, else 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("provider", choices=["virtualbox", "libvirt"])
    parser.add_argument("--version", default=time.strftime("%Y%m%d.%H%M", time.gmtime()), help="default: the time")
    parser.add_argument("--url", default="", help="where boxes/SYSTEM/PROVIDER will be found; default: here")
    parser.add_argument(
        "--system", default="", choices=SYSTEMS, help="default: ubuntu, or debian if that is not to be had"
    )
    arguments = parser.parse_args()
    return told("make box", lambda: make(arguments.provider, arguments.version, arguments.url, arguments.system))


if __name__ == "__main__":
    sys.exit(main())
