"""Brings the VM up: with VirtualBox by `vagrant up` alone, without it through QEMU.

Without VirtualBox, on Debian, it installs Vagrant and QEMU, builds a box and the
images' base from the distribution's packages, and then runs the same `vagrant up`.
Run again, it finds everything in place and is done in seconds.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import doctor
from doctor import BUNDLED_BOX, CACHE, ROOT, Stop, has_kvm, read_settings

SUDO = ["sudo"] if hasattr(os, "geteuid") and os.geteuid() != 0 else []  # Windows has neither
# Not with env(1): a password in it would be in sudo's log, in ps(1), and in the message of a failure.
WITH_PROXY = [*SUDO, "--preserve-env=http_proxy,https_proxy,no_proxy"] if SUDO else []

# The programs that only QEMU's way needs. libvirt-daemon-system brings the service, dnsmasq-base
# the VM's addresses, mmdebstrap, extlinux and qemu-utils the box.
PACKAGES = [
    "vagrant", "vagrant-libvirt", "qemu-system-x86", "qemu-utils", "libvirt-daemon-system",
    "libvirt-clients", "dnsmasq-base", "iptables", "mmdebstrap", "debian-archive-keyring",
    "extlinux", "e2fsprogs",
]  # fmt: skip
SUITES = {"debian-13": "trixie", "debian-12": "bookworm"}
IN_THE_BOX = "ansible-core"  # this machine unpacks it faster than an emulated one
# virtiofsd became a package of its own after Debian 12.
VIRTIOFSD = ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]


@contextmanager
def step(name: str) -> Iterator[None]:
    """Prints one line for a step: its name, then how many seconds it took."""
    print(f"{name} ...", flush=True)
    start = time.monotonic()
    yield
    print(f"{name}: done in {time.monotonic() - start:.0f} s", flush=True)


def run(command: list[str], failure: str) -> str:
    """Runs a command quietly and returns what it printed.

    Raises Stop with `failure` and the command's last lines when it fails.
    """
    # Not subprocess.run, which after a Ctrl-C would kill what sudo runs, and may not.
    with subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        output, _ = process.communicate()
    if process.returncode != 0:
        last_lines = "\n  ".join(output.splitlines()[-12:])
        raise Stop(f"{failure}\nThe last lines of `{' '.join(command[:4])} ...`:\n  {last_lines}")
    return output


def sha256(file: Path) -> str:
    """SHA-256, in hexadecimal digits."""
    return run(["sha256sum", str(file)], f"{file} could not be read.").split()[0]


def forget_what_is_gone() -> None:
    """Removes machine.yml where a file that it names is gone: both are made again."""
    file = CACHE / "machine.yml"
    if file.exists() and not all((ROOT / name).exists() for name in re.findall(r'"(\.cache/.+)"', file.read_text())):
        file.unlink()


def check_machine() -> bool:
    """Whether there is VirtualBox. Prints what `make doctor` would note, and raises Stop for what it would call wrong."""
    situation = doctor.look()
    for topic, check in doctor.BEFORE.items():
        for level, text in check(situation):
            if level == doctor.WRONG:
                raise Stop(doctor.shareable(text))
            if level == doctor.NOTE:
                print(doctor.line(level, topic, text), flush=True)
    return situation.virtualbox


def install_packages(packages: list[str]) -> None:
    """Installs those of the distribution's packages that are missing."""
    query = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package}\n", *packages],
        check=False,  # it fails when one of them is unknown
        text=True,
        capture_output=True,
    )
    missing = [package for package in packages if f"installed {package}" not in query.stdout.splitlines()]
    if not missing:
        return
    with step(f"Installing {', '.join(missing)}"):
        run(
            [*WITH_PROXY, "sh", "roles/machine/files/install-packages", *missing],
            "This computer lacks packages. Behind a company proxy, set http_proxy and https_proxy.",
        )


def install() -> None:
    """Installs what QEMU's way needs."""
    install_packages(PACKAGES)
    if not any(map(os.path.exists, VIRTIOFSD)):
        install_packages(["virtiofsd"])


def start_libvirt() -> None:
    """Starts libvirt where it does not run, and lets this user talk to it."""
    alive = [*SUDO, "virsh", "--connect", "qemu:///system", "version"]
    if subprocess.run(alive, check=False, capture_output=True).returncode != 0:
        with step("Starting libvirt"):
            failure = "libvirt did not start. Look into /var/log/libvirt/libvirtd.log or `journalctl -u libvirtd`."
            if os.path.isdir("/run/systemd/system"):
                run([*SUDO, "systemctl", "enable", "--now", "libvirtd"], failure)
            else:
                # No systemd as PID 1. Where /dev/kvm exists and cannot work, libvirtd shall not see it: in its
                # place is a device that QEMU's user may not open. If it could, libvirtd would take what it found
                # out without KVM for outdated, and ask QEMU anew at each step of a VM's start.
                no_kvm = "/run/libvirt/no-kvm"
                mount = f"rm -f {no_kvm} && mknod --mode 0 {no_kvm} c 1 3 && mount --bind {no_kvm} /dev/kvm"
                hide = "" if has_kvm() else f"[ ! -e /dev/kvm ] || {{ {mount}; }}; "
                # Nor is there the D-Bus that polkit would ask: the socket's group decides who may connect.
                settings = r'unix_sock_group = "libvirt"\nunix_sock_rw_perms = "0770"\nauth_unix_rw = "none"\n'
                config = "/run/libvirt/make-up.conf"
                run([*SUDO, "sh", "-c", f"mkdir -p /run/libvirt && printf '{settings}' > {config}"], failure)
                run([*SUDO, "virtlogd", "--daemon"], failure)
                start = f"{hide}exec libvirtd --daemon --config {config}"
                run([*SUDO, "unshare", "--mount", "sh", "-c", start], failure)
            run(alive, failure)
    if SUDO and "libvirt" not in run(["id", "-nG"], "Your groups could not be read.").split():
        user = run(["id", "-un"], "Your user name could not be read.").strip()
        run([*SUDO, "usermod", "--append", "--groups", "libvirt", user], "You could not be added to group libvirt.")
        print("You are now in the group libvirt; log out and in once before you call vagrant yourself.")


def run_recipe(recipe: str, output: Path, *arguments: str) -> None:
    """Runs box/`recipe` as root, so that it writes `output`."""
    run(
        [*WITH_PROXY, str(ROOT / "box" / recipe), str(output), *arguments],
        f"box/{recipe} failed. It fetches packages; check the network and the free disk space.",
    )


def build(recipe: str, name: str, suffix: str, *arguments: str) -> str:
    """Runs box/`recipe` if its output is not in the cache, or damaged there. Returns the file, relative to the project.

    The file's name carries a checksum of the recipes and the arguments, so that a changed one builds anew; the checksum
    of the file itself lies beside it.
    """
    recipes = sorted((ROOT / "box").iterdir())
    made_of = b"".join(file.read_bytes() for file in recipes) + " ".join(arguments).encode()
    digest = hashlib.sha256(made_of).hexdigest()[:12]
    output = CACHE / f"{name}-{digest}{suffix}"
    checksum = Path(f"{output}.sha256")
    if not (output.exists() and checksum.exists() and checksum.read_text() == sha256(output)):
        with step(f"Building {name} from Debian's packages"):
            CACHE.mkdir(exist_ok=True)
            run_recipe(recipe, output, *arguments)
            for old in set(CACHE.glob(f"{name}-{'?' * len(digest)}{suffix}*")) - {output}:  # not name-emulated-DIGEST
                old.unlink()
            checksum.write_text(sha256(output))
    return str(output.relative_to(ROOT))


def build_box(system: str = "debian-13") -> str:
    """The box for QEMU with one of SUITES, as `build` returns it."""
    # An emulated CPU speculates on nothing, but the kernel's defences against speculation would still
    # double the time that it takes to start a process there; and its clock is fast only if trusted.
    name, emulated = (system, ()) if has_kvm() else (f"{system}-emulated", ("mitigations=off", "tsc=reliable"))
    return build("build-box", name, ".box", "--suite", SUITES[system], "--include", IN_THE_BOX, *emulated)


def company_network() -> dict[str, str]:
    """The proxy, certificates and package index that this machine uses, for the VM to use too.

    They are read where tools commonly look: the variables of curl, pip and OpenSSL, and the folder
    from which Debian's update-ca-certificates(8) takes a company's certificates.
    """
    proxies = {
        name: os.environ.get(name) or os.environ.get(name.upper(), "")
        for name in ("http_proxy", "https_proxy", "no_proxy")
    }
    files = sorted(Path("/usr/local/share/ca-certificates").rglob("*.crt"))
    variables = [Path(os.environ[key]) for key in ("PIP_CERT", "SSL_CERT_FILE") if os.environ.get(key)]
    certificates = b"\n".join(file.read_bytes() for file in files or variables[:1] if file.is_file())
    if certificates:
        CACHE.mkdir(exist_ok=True)
        (CACHE / "company.crt").write_bytes(certificates)
    return {
        **proxies,
        "ca_certificate": ".cache/company.crt" if certificates else "",
        "pip_index_url": os.environ.get("PIP_INDEX_URL", ""),
    }


def vagrant_up(qemu: bool) -> int:
    """Runs `vagrant up`, with QEMU or VirtualBox, and returns its exit status; its output goes to the terminal as it is."""
    command = ["vagrant", "up"] if sys.stdout.isatty() else ["vagrant", "--no-tty", "up"]
    # A group that was joined a moment ago counts only in a new login; sg(1) is one.
    if qemu and SUDO and not os.access("/run/libvirt/libvirt-sock", os.W_OK) and shutil.which("sg"):
        command = ["sg", "libvirt", "-c", " ".join(command)]
    print("vagrant up ...", flush=True)
    signal.signal(signal.SIGINT, lambda *_: None)  # Vagrant has a Ctrl-C, too: it cleans up, and ends when it has
    return subprocess.call(command, cwd=ROOT)


def prepare_qemu() -> None:
    """Makes this machine ready for a VM without VirtualBox."""
    install()
    settings = read_settings()  # a typo is better told now than after the box is built
    start_libvirt()
    found: dict[str, Any] = {"libvirt": {"driver": "kvm" if has_kvm() else "qemu"}, "network": company_network()}
    if settings["libvirt"]["box_url"] == BUNDLED_BOX and (ROOT / BUNDLED_BOX).exists():
        # This folder came as a bundle: what it brought along serves as it is.
        found["libvirt"] = settings["libvirt"] | found["libvirt"]
        found["image"] = settings["image"]
    else:
        box = build_box()
        base = build("build-base-image", "python-base", ".tar.gz")
        found["libvirt"] |= {"box": f"users/{Path(box).stem}", "box_url": box}
        # A name of its own for each archive: one that Docker has is not imported again.
        name = Path(base).name.removeprefix("python-base-").removesuffix(".tar.gz")
        found["image"] = {"base": f"users-base:{name}", "base_archive": base}
    if SUDO:
        found["user_id"] = os.getuid()  # the files in data/ shall belong to who works with them
    note = "# What `make up` found out about this machine. settings.local.yml has the last word.\n"
    (CACHE / "machine.yml").write_text(note + json.dumps(found, indent=2) + "\n")  # JSON is YAML


def main() -> int:
    """Returns the exit status: 0 when both URLs answer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prepare-only", action="store_true", help="install and build what is missing, start no VM")
    prepare_only = parser.parse_args().prepare_only
    with step("Checking this machine"):
        forget_what_is_gone()
        qemu = not check_machine()
    if qemu:
        prepare_qemu()
    return 0 if prepare_only else vagrant_up(qemu)


if __name__ == "__main__":
    sys.exit(doctor.told("make up", main))
