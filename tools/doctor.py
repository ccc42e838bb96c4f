"""Examines this computer and, when it runs, the VM: each line is `ok`, `note` or `wrong`, and says what to do.

It changes nothing, and what it prints may be pasted into a bug report: no passwords, no environment, the home
directory as ~. It needs Python 3.8 or newer and nothing else, on Windows, macOS and Linux. `make up` makes the
same checks before it begins.
"""

from __future__ import annotations  # for Python 3.8

import argparse
import errno
import http.client
import json
import os
import platform
import re
import shlex
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache"

sys.path.append(str(ROOT / "roles/machine/files"))
import network_check  # which also runs in the VM, by itself

CACHED = ["packages.tar", "images.tar"]  # in cache_dir, as vagrant/cache.sh writes them
BUNDLED_BOX = ".cache/bundle.box"  # where a bundle has its box (tools/bundle.py)
OS_RELEASE = Path("/etc/os-release")
OLDEST_VAGRANT = (2, 3, 4)  # as in the Vagrantfile
DISK_NEEDED = 10  # GB: packages 1, the box three times (built, unpacked, imported) 2, the VM's disk 4, spare 3
MEMORY_NEEDED = 3  # GB: the VM has 2
NETWORK_PATIENCE = 5  # seconds until a host must answer
# Folders of programs that keep the same files on several computers.
SYNCHRONIZED = re.compile(
    r"OneDrive( - .*)?|Dropbox( .*)?|Nextcloud|Google ?Drive|(My|Meu) Drive|iCloudDrive|Mobile Documents|CloudStorage",
    re.IGNORECASE,
)

OK, NOTE, WRONG = "ok", "note", "wrong"


class Stop(Exception):
    """The work cannot go on; the message says what happened and what to do next."""


class NoRuby(Stop):
    """The settings cannot be checked here."""


class Finding(NamedTuple):
    level: str
    text: str


class Situation(NamedTuple):
    """What the checks have in common."""

    virtualbox: bool  # the way: VirtualBox, or else QEMU
    settings: Any
    settings_finding: Finding
    vm: str  # Vagrant's word for the VM's state, such as running; "not_created", or "" where Vagrant does not say
    vm_problem: str  # why it does not
    patience: float  # seconds that a call of vagrant gets


# --- Asking other programs -----------------------------------------------------------


def ask(command: list[str], patience: float = 10) -> tuple[int, str]:
    """Runs a command and returns its exit status and what it printed; 127 where there is no such program,
    124 where it took longer than `patience` seconds."""
    with tempfile.TemporaryFile() as output:  # a pipe would be held open by what the command leaves behind
        try:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env={**os.environ, "VAGRANT_CHECKPOINT_DISABLE": "1"},  # no look for a newer Vagrant
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError:
            return 127, ""
        try:
            status = process.wait(patience)
        except subprocess.TimeoutExpired:
            status = 124
        finally:
            if process.poll() is None:
                stop(process)
        output.seek(0)
        return status, output.read().decode("utf-8", "replace").replace("\r", "")


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and those that it started."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], check=False, capture_output=True)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def told(name: str, work: Callable[[], int | None]) -> int:
    """Does the work of a make target. Returns its exit status, and says why that is 1 or 130."""
    try:
        return work() or 0
    except Stop as stop:
        print(f"{name} stopped: {stop}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"\n{name} was interrupted. Run it again.", file=sys.stderr)
        return 130


def last_line(output: str) -> str:
    return (output.strip().splitlines() or ["it said nothing"])[-1]


def holder(*what: str) -> str:
    """The program that lsof(8) finds: "NAME (process N)"; "" where the system does not tell."""
    _, output = ask(["lsof", "-nP", "-Fpc", *what])
    found = re.search(r"^p(\d+)\nc(.+)$", output, re.MULTILINE)
    return f"{found[2]} (process {found[1]})" if found else ""


def holder_of_port(port: int) -> str:
    """As `holder`, of the program that listens there."""
    if by_lsof := holder(f"-iTCP:{port}", "-sTCP:LISTEN"):
        return by_lsof
    _, output = ask(["ss", "-Hltnp", f"sport = :{port}"])
    if found := re.search(r'users:\(\("([^"]+)",pid=(\d+)', output):
        return f"{found[1]} (process {found[2]})"
    _, output = ask(["netstat", "-ano", "-p", "TCP"])  # Windows
    if found := re.search(rf":{port}\s+\S+\s+LISTENING\s+(\d+)", output):
        _, output = ask(["tasklist", "/FI", f"PID eq {found[1]}", "/FO", "CSV", "/NH"])
        name = re.match(r'"([^"]+)"', output.strip())
        return f"{name[1] if name else 'a program'} (process {found[1]})"
    return ""


def is_vm(program: str) -> bool:
    """Whether a holder is what a VM consists of; "" may be: other users' programs are not told."""
    return program.startswith(("qemu", "virtiofsd", "VBox")) or not program


# --- The settings --------------------------------------------------------------------


def ruby() -> str | None:
    """The Ruby that Vagrant brings along on Windows and macOS, or the one on PATH."""
    vagrant = shutil.which("vagrant")
    if vagrant:
        embedded = Path(vagrant).resolve().parent.parent / "embedded"
        for found in [*embedded.glob("bin/ruby"), *embedded.glob("*/bin/ruby.exe")]:
            return str(found)
    return shutil.which("ruby")


def read_settings() -> Any:
    """The merged settings, by the same code that the Vagrantfile uses. Raises Stop for a bad one, NoRuby without it."""
    script = "begin; puts Settings.load.to_json; rescue Settings::Error => e; puts e.message; exit 3; end"
    status, output = ask([ruby() or "ruby", "-rjson", "-r./vagrant/settings", "-e", script])
    if status == 3:
        # The value in the message is somebody's, and may be a password.
        raise Stop(
            re.sub(r"(\.environment\S*) is .*; it must", r"\1 is wrong: it must", output.strip(), flags=re.DOTALL)
        )
    if status != 0:
        raise NoRuby("The settings were not checked: no Ruby that can read them (Vagrant's own will, at `vagrant up`).")
    return json.loads(last_line(output))  # Ruby's warnings may stand above it


def default_settings() -> Any:
    """The `key: value` lines of settings.yml, nested by their indentation; what else YAML can say is not there."""
    top: dict[str, Any] = {}
    groups = [(-1, top)]
    for line in (ROOT / "settings.yml").read_text(encoding="utf-8").splitlines():
        found = re.fullmatch(r"( *)(\w+):(.*?)(\s#.*)?", line)
        if found:
            while groups[-1][0] >= len(found[1]):
                groups.pop()
            text = found[3].strip().strip('"')
            value: Any = int(text) if text.isdigit() else text if found[3].strip() else {}
            groups[-1][1][found[2]] = value
            if value == {}:
                groups.append((len(found[1]), value))
    top["services"] = {name: each for name, each in top["services"].items() if each.get("enabled") != "false"}
    return top


def with_port(settings: Any) -> Any:
    """The services that this computer reaches; the others have no port on it."""
    return {name: service for name, service in settings["services"].items() if "host_port" in service}


def forwards(settings: Any) -> Iterator[tuple[str, str, str, int]]:
    """What leads from this computer to the services: name, setting, address and port, as vagrant/settings.rb has it."""
    for name, service in with_port(settings).items():
        yield name, f"services.{name}.host_port", address_of_ports(settings), service["host_port"]
        if settings["https"]["domain"] and "https_port" in service and "https_host_port" in service:
            key = f"services.{name}.https_host_port"
            yield f"{name}, https", key, settings["host_ip"], service["https_host_port"]


def look_at_settings() -> tuple[Any, Finding]:
    """The settings, or the defaults where they cannot be had; and what is to say of them."""
    try:
        return read_settings(), Finding(OK, "they are valid")
    except NoRuby as problem:
        return default_settings(), Finding(NOTE, f"{problem} Here the defaults are taken.")
    except Stop as problem:
        return default_settings(), Finding(WRONG, str(problem))


def look(patience: float = 30) -> Situation:
    """Finds out which way is taken here, with which settings, and how the VM is."""
    settings, finding = look_at_settings()
    state, why = "not_created", ""
    dotfiles = ROOT / (os.environ.get("VAGRANT_DOTFILE_PATH") or ".vagrant")
    if any(dotfiles.glob("machines/*/*/id")):  # Vagrant takes seconds to say so
        status, output = ask(["vagrant", "--machine-readable", "status"], patience)
        found = re.search(r",state,(\w+)", output)
        state = found[1] if found else ""
        if status == 124:
            why = f"`vagrant status` did not answer within {patience:g} s."
        elif status == 127:
            why = "Vagrant is not installed (any more)."
        elif not found:
            why = f"`vagrant status` failed: {last_line(output)}"
    virtualbox = shutil.which("vagrant") and (shutil.which("VBoxManage") or os.environ.get("VBOX_MSI_INSTALL_PATH"))
    return Situation(bool(virtualbox), settings, finding, state, why, patience)


# --- This computer -------------------------------------------------------------------


def check_system(situation: Situation) -> Iterator[Finding]:
    """Operating system and versions, and whether a VM can be had here."""
    release = OS_RELEASE.read_text() if OS_RELEASE.exists() else ""
    found = re.search(r'^PRETTY_NAME="?([^"\n]*)', release, re.MULTILINE)
    system = found[1] if found and platform.system() == "Linux" else platform.system()
    _, version = ask(["git", "describe", "--always", "--dirty"])
    python = f"Python {platform.python_version()}"
    yield Finding(OK, f"{system}, {platform.platform()}; {python}; this project {version.strip() or 'without git'}")
    if tuple(map(int, platform.python_version_tuple()[:2])) < (3, 11):
        yield Finding(NOTE, "`make local` would need Python 3.11 or newer; the VM does not.")

    if shutil.which("vagrant"):
        _, output = ask(["vagrant", "--version"], situation.patience)
        found = re.search(r"Vagrant (\d+)\.(\d+)\.(\d+)", output)
        if not found:
            yield Finding(WRONG, f"`vagrant --version` does not work: {last_line(output)}. Install Vagrant again.")
        elif tuple(map(int, found.groups())) < OLDEST_VAGRANT:
            oldest = ".".join(map(str, OLDEST_VAGRANT))
            yield Finding(WRONG, f"{found[0]} is too old: install {oldest} or newer, from vagrantup.com.")
        else:
            yield Finding(OK, found[0])
    if situation.virtualbox:
        folder = os.environ.get("VBOX_MSI_INSTALL_PATH", "")
        _, output = ask([shutil.which("VBoxManage") or os.path.join(folder, "VBoxManage.exe"), "--version"])
        found = re.search(r"^\d+\.\d+\S*", output, re.MULTILINE)
        if found:
            yield Finding(OK, f"VirtualBox {found[0]}")
        else:
            yield Finding(
                WRONG, f"`VBoxManage --version` does not work: {last_line(output)}. Install VirtualBox again."
            )
        return

    # Ubuntu has no Vagrant any more, and its last one is too old.
    if platform.system() != "Linux" or not shutil.which("apt-get") or "ubuntu" in release:
        yield Finding(
            WRONG,
            f"Vagrant and VirtualBox are not both installed, and this system ({system}) is not Debian, whose packages "
            "could replace them. Install both and run `vagrant up`:\n"
            "  macOS:    brew install --cask virtualbox vagrant\n"
            "  Windows:  winget install Oracle.VirtualBox Hashicorp.Vagrant\n"
            "  Linux:    your distribution's packages, or virtualbox.org and vagrantup.com\n"
            "Without a VM, `make local` runs both apps on the machine itself.",
        )
        return
    if platform.machine() not in ("x86_64", "amd64"):
        yield Finding(
            WRONG,
            f"The box built here is for x86_64; this machine is {platform.machine()}. "
            "Install VirtualBox and Vagrant, or run `make local`, which needs no VM.",
        )
    if os.geteuid() != 0 and not shutil.which("sudo"):
        yield Finding(
            WRONG, "Installing Vagrant and QEMU needs root, and there is no sudo here. Run `make up` as root."
        )
    _, output = ask(["qemu-system-x86_64", "--version"])
    found = re.search(r"version (\S+)", output)
    if found and shutil.which("vagrant"):
        yield Finding(OK, f"no VirtualBox; QEMU {found[1]}")
    else:
        yield Finding(NOTE, "VirtualBox is not there: `make up` installs Vagrant and QEMU where they are missing.")


def has_kvm() -> bool:
    """True where the CPU can virtualise and the kernel offers it. The device alone may exist and not work."""
    return cpu_virtualises() and os.path.exists("/dev/kvm")


def cpu_virtualises() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = cpuinfo.read_text().split() if cpuinfo.exists() else []
    return "vmx" in flags or "svm" in flags


def check_virtualisation(situation: Situation) -> Iterator[Finding]:
    """Whether the CPU runs a VM itself."""
    firmware = "Turn it on in the firmware (BIOS: VT-x, AMD-V or SVM; in a VM: nested virtualisation)."
    if sys.platform == "win32":
        import ctypes

        if ctypes.windll.kernel32.IsProcessorFeaturePresent(21):  # PF_VIRT_FIRMWARE_ENABLED
            yield Finding(OK, "the CPU virtualises")
        else:
            yield Finding(NOTE, f"Windows offers no virtualisation, or Hyper-V holds it: VMs are slow. {firmware}")
    elif platform.system() == "Darwin":
        if ask(["sysctl", "-n", "kern.hv_support"])[1].strip() == "1":
            yield Finding(OK, "the CPU virtualises")
        else:
            yield Finding(WRONG, "This Mac's CPU offers no virtualisation, which VirtualBox needs.")
    elif situation.virtualbox:
        if cpu_virtualises():
            yield Finding(OK, "the CPU virtualises")
        else:
            yield Finding(WRONG, f"The CPU offers no virtualisation (no vmx, no svm); VirtualBox needs it. {firmware}")
    elif has_kvm():
        yield Finding(OK, "the CPU virtualises, and /dev/kvm is there")
    else:
        reason = "/dev/kvm is missing" if cpu_virtualises() else "no vmx, no svm in /proc/cpuinfo"
        yield Finding(
            NOTE,
            f"This CPU offers no virtualisation here ({reason}): QEMU emulates one. "
            f"Expect about a quarter of an hour for the first start. {firmware}",
        )


def check_memory(situation: Situation) -> Iterator[Finding]:
    """Memory of this computer, and how much of it is free."""
    total, free = memory()
    text = f"This machine has {total:.1f} GB of memory"
    if total < MEMORY_NEEDED:
        yield Finding(WRONG, f"{text}; the VM needs {MEMORY_NEEDED} GB. Run `make local`, which needs no VM.")
    elif free is None or situation.vm == "running":
        yield Finding(OK, text)
    elif free * 1e9 < situation.settings["vm"]["memory"] * 2**20:
        yield Finding(NOTE, f"{text}, of which {free:.1f} GB are free: less than vm.memory. Close some programs.")
    else:
        yield Finding(OK, f"{text}, of which {free:.1f} GB are free")


def memory() -> tuple[float, float | None]:
    """GB of memory, and how much of that is free (None on macOS, where that cannot be said simply)."""
    if sys.platform == "win32":
        import ctypes

        # MEMORYSTATUSEX: two 32-bit numbers (its size, load), then seven of 64 bits: total, free, ...
        status = (ctypes.c_uint64 * 8)()
        ctypes.cast(status, ctypes.POINTER(ctypes.c_uint32))[0] = ctypes.sizeof(status)
        ctypes.windll.kernel32.GlobalMemoryStatusEx(ctypes.byref(status))
        return status[1] / 1e9, status[2] / 1e9
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    if not os.path.exists("/proc/meminfo"):
        return total, None
    found = re.search(r"MemAvailable: +(\d+)", Path("/proc/meminfo").read_text())
    return total, int(found[1]) * 1024 / 1e9 if found else None


def check_disk(situation: Situation) -> Iterator[Finding]:
    """Free space where the VM and its box lie."""
    built = situation.vm != "not_created" or (CACHE / "machine.yml").exists()
    needed = 1 if built else DISK_NEEDED
    qemu = platform.system() == "Linux" and not situation.virtualbox
    folders = [folder for folder in (Path("/var") if qemu else Path(os.path.expanduser("~")), ROOT) if folder.is_dir()]
    for folder in {os.stat(folder).st_dev: folder for folder in folders}.values():  # each disk once
        free = shutil.disk_usage(folder).free / 1e9
        text = f"The disk of {folder} has {free:.1f} GB free"
        if free < needed:
            yield Finding(WRONG, f"{text}; the VM needs {needed} GB. Make room first.")
        else:
            yield Finding(OK, text)


def check_settings(situation: Situation) -> Iterator[Finding]:
    """Whether settings.yml and what is laid over it are valid."""
    yield situation.settings_finding


def check_ports(situation: Situation) -> Iterator[Finding]:
    """Whether the services' ports of this computer are free, or the VM's own."""
    for name, key, address, port in forwards(situation.settings):
        another = f"choose another port: write {key} into settings.local.yml (settings.yml shows how)."
        try:
            socket.create_server((address, port)).close()
        except OSError as error:
            program = holder_of_port(port) if error.errno == errno.EADDRINUSE else ""
            if error.errno == errno.EADDRNOTAVAIL:
                yield Finding(WRONG, f"{address} is no address of this computer. Change host_ip in settings.local.yml.")
            elif error.errno != errno.EADDRINUSE:
                yield Finding(WRONG, f"Port {port} of this computer cannot be used ({error.strerror}): {another}")
            elif situation.vm == "running" and is_vm(program):
                yield Finding(OK, f"{port} ({name}) is held by the VM{program and ': ' + program}")
            elif situation.vm in ("paused", "") and is_vm(program):
                yield Finding(NOTE, f"{port} ({name}) is held, probably by the VM{program and ': ' + program}")
            else:
                by = f" by {program}" if program else ""
                yield Finding(
                    WRONG, f"Port {port} of this computer is already in use{by}. Stop that program, or {another}"
                )
            continue
        if situation.vm == "running":
            yield Finding(WRONG, f"The VM runs, but nothing listens on port {port} ({name}). Run `vagrant reload`.")
        else:
            yield Finding(OK, f"{port} ({name}) is free")


def check_box(situation: Situation) -> Iterator[Finding]:
    """Whether the image that the VM starts from is there."""
    name, url = box(situation)
    if not name:
        yield Finding(NOTE, "none yet: `make up` builds one")
    elif box_is_installed(name):
        yield Finding(OK, f"{name} is there")
    elif url and "://" not in url:
        if (ROOT / url).is_file():
            yield Finding(OK, f"{name} comes from {url}")
        else:
            remedy = (
                "Correct vm.box_url in settings.local.yml." if situation.virtualbox else "`make up` builds it anew."
            )
            yield Finding(WRONG if situation.virtualbox else NOTE, f"The box file {url} is not there. {remedy}")
    else:
        yield Finding(NOTE, f"{name} is not there yet: the first start downloads it")


def box(situation: Situation) -> tuple[str, str]:
    """Name and address of the box, as the settings give them."""
    group = situation.settings["vm" if situation.virtualbox else "libvirt"]
    return group["box"], group["box_url"]


def box_is_installed(name: str) -> bool:
    return box_folder(name).is_dir()


def box_folder(name: str) -> Path:
    """Where Vagrant has the versions of a box."""
    home = Path(os.environ.get("VAGRANT_HOME") or os.path.expanduser("~/.vagrant.d"))
    return home / "boxes" / name.replace("/", "-VAGRANTSLASH-")


def cached(settings: Any) -> list[Path]:
    """The files in which vagrant/cache.sh keeps what a VM fetched and built."""
    folder = ROOT / settings["cache_dir"]
    return sorted(file for name in CACHED for file in folder.glob(f"{name}*")) if settings["cache_dir"] else []


def cache_is_full(settings: Any) -> bool:
    """Whether the next VM finds both its packages and its images there."""
    return set(CACHED) <= {file.name for file in cached(settings)}


def check_cache(situation: Situation) -> Iterator[Finding]:
    """Size of what is kept for the next VM."""
    folder, files = situation.settings["cache_dir"], cached(situation.settings)
    if files:
        size = sum(file.stat().st_size for file in files) / 1e6
        yield Finding(OK, f"{folder} has {size:.0f} MB for the next VM; `make clean-cache` empties it")
    else:
        yield Finding(OK, f"{folder} is empty: `vagrant destroy` fills it" if folder else "cache_dir is empty: none")


def check_share(situation: Situation) -> Iterator[Finding]:
    """Whether the folder of the database can be used, and nobody else has the file open."""
    folder = ROOT / Path(situation.settings["data_dir"]).expanduser()
    file = folder / "users.db"
    if part := next(filter(SYNCHRONIZED.fullmatch, folder.resolve().parts), ""):
        yield Finding(
            NOTE,
            f"{folder} is in {part}, which copies users.db while the backend writes into it, and may put an older one "
            "in its place. Stop the VM, and move this project (or data_dir) to a folder outside.",
        )
    if not folder.exists():
        yield Finding(OK, f"{folder} is made at the first start")
        return
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        yield Finding(WRONG, f"{folder} cannot be written to ({error.strerror}). Change its owner, or data_dir.")
        return
    if not file.exists():
        yield Finding(OK, f"{folder} can be written to; users.db is made at the first start")
        return
    program = holder("--", str(file))
    if not is_vm(program):
        yield Finding(
            NOTE,
            f"{file} is open in {program}. Locks do not cross the shared folder: close that program, or let it only "
            "read, while the VM runs.",
        )
    try:
        with open(file, "rb") as database:
            begin = database.read(20)
    except OSError as error:
        yield Finding(WRONG, f"{file} cannot be read ({error.strerror}). Change its owner.")
        return
    if begin and not begin.startswith(b"SQLite format 3\0"):
        yield Finding(
            WRONG,
            f"{file} is not an SQLite database. `make restore` lists the copies that can take its place. "
            "Or move it away; an empty one is made at the next start.",
        )
    elif begin[18:20] == b"\2\2":
        yield Finding(
            WRONG,
            f"{file} was switched to WAL mode by another tool, which shared folders do not bear. Stop the VM, then: "
            'sqlite3 users.db "pragma journal_mode=delete"',
        )
    else:
        yield Finding(OK, f"{folder} can be written to; users.db has {file.stat().st_size / 1e6:.1f} MB")


# --- The network ---------------------------------------------------------------------


def check_network(situation: Situation) -> Iterator[Finding]:
    """Whether the hosts answer that will be asked for packages, images and the box."""
    network = situation.settings["network"]
    own = urllib.request.getproxies()  # of the environment; on Windows and macOS, of the system
    proxies = {scheme: network[f"{scheme}_proxy"] or own.get(scheme, "") for scheme in ("http", "https")}
    if situation.virtualbox and any(own.get(scheme) and not network[f"{scheme}_proxy"] for scheme in proxies):
        yield Finding(
            NOTE,
            "This computer uses a proxy, and the VM does not know of it: set network.http_proxy and "
            "network.https_proxy in settings.local.yml.",
        )
    proxies["no"] = network["no_proxy"] or own.get("no", "")
    if platform.system() == "Darwin" and not any(ssl.get_default_verify_paths()[:2]):
        yield Finding(
            NOTE,
            "No host was asked, since this Python trusts nobody yet: run the 'Install Certificates.command' that came "
            "with it.",
        )
        return
    trust = network_check.trust()
    if network["ca_certificate"]:
        try:
            trust.load_verify_locations(ROOT / network["ca_certificate"])
        except OSError as error:
            file = network["ca_certificate"]
            yield Finding(WRONG, f"network.ca_certificate: {file} holds no certificate in PEM form ({error.strerror}).")

    needed = [(url, {**proxies, **apt_proxies()}) for url in needed_by_apt(situation)]
    needed += [(url, proxies) for url in needed_by_the_rest(situation)]
    with ThreadPoolExecutor(max_workers=max(len(needed), 1)) as pool:
        answers = pool.map(lambda one: (one[0], network_check.trouble(one[0], one[1], trust, NETWORK_PATIENCE)), needed)
    hosts: dict[str, str] = {}
    for url, problem in answers:
        host = urlsplit(url).netloc.rpartition("@")[2]
        hosts[host] = hosts.get(host) or problem
    # The VM has most of it already, or finds it in the cache; but then the box must be there, too.
    name, file = box(situation)
    at_hand = not situation.virtualbox or box_is_installed(name) or bool(file and (ROOT / file).is_file())
    cache = cache_is_full(situation.settings) and at_hand
    level = WRONG if situation.vm == "not_created" and not cache else NOTE
    for host, problem in hosts.items():
        yield Finding(level, f"{host} does not answer. {problem}") if problem else Finding(OK, f"{host} answers")


def needed_by_apt(situation: Situation) -> list[str]:
    """The distribution's package mirrors: this computer's own (QEMU's way), the VM's where the settings name one."""
    sites = [situation.settings["network"]["apt_mirror"]]
    if not situation.virtualbox and shutil.which("apt-get"):
        sites += sorted(set(ask(["apt-get", "indextargets", "--format", "$(SITE)"])[1].split()))
    return [site for site in sites if site.startswith("http")]


def apt_proxies() -> dict[str, str]:
    """The proxies that apt's own configuration names; it counts more than the environment."""
    _, output = ask(["apt-config", "shell", "http", "Acquire::http::Proxy", "https", "Acquire::https::Proxy"])
    named = dict(word.split("=", 1) for word in shlex.split(output) if "=" in word)
    return {scheme: "" if proxy == "DIRECT" else proxy for scheme, proxy in named.items()}


def needed_by_the_rest(situation: Situation) -> list[str]:
    """Where the box, the images' base and Python's packages come from, as far as settings and programs tell."""
    network, image = situation.settings["network"], situation.settings["image"]
    name, url = box(situation)
    registry = image["base"].split("/")[0]
    urls = [
        network_check.index_page(network["pip_index_url"]),
        network["registry_mirror"],
        f"https://{registry}/v2/" if "/" in image["base"] and re.search(r"[.:]", registry) else "",
    ]
    if situation.virtualbox and not box_is_installed(name):
        urls.append(url or os.environ.get("VAGRANT_SERVER_URL") or default_box_server())
    return [url for url in urls if url.startswith("http")]


def default_box_server() -> str:
    """Where Vagrant looks up the name of a box, as its own source has it; "" where that is not found."""
    vagrant = shutil.which("vagrant")
    if vagrant:
        for top in (Path(vagrant).resolve().parent.parent / "embedded/gems", Path("/usr/share/rubygems-integration")):
            for source in top.glob("**/gems/vagrant-*/lib/vagrant/shared_helpers.rb"):
                found = re.search(r'DEFAULT_SERVER_URL = "(\S+)"', source.read_text(encoding="utf-8"))
                if found:
                    return found[1]
    return ""


# --- The VM --------------------------------------------------------------------------


def check_vm(situation: Situation) -> Iterator[Finding]:
    """How the VM is, and what runs in it."""
    if situation.vm_problem:
        yield Finding(WRONG, f"Whether the VM runs is not known. {situation.vm_problem}")
        return
    if situation.vm != "running":
        remedy = {"not_created": "`vagrant up` or `make up` makes it"}.get(situation.vm, "`vagrant up` starts it")
        yield Finding(NOTE, f"{situation.vm.replace('_', ' ')}: {remedy}")
        return
    names = situation.settings["services"]
    script = (
        f"for unit in docker {' '.join(f'users-{name}' for name in names)};"
        " do echo unit $unit $(systemctl is-active $unit); done;"
        " for folder in /vagrant /data; do mountpoint -q $folder || echo missing $folder; done;"
        " sudo docker ps --all --filter name=users- --format 'container {{.Names}} {{.Status}}';"
        " . /etc/os-release; echo vm $PRETTY_NAME, kernel $(uname -r), $(docker --version),"
        " $(df --human-readable --output=avail / | tail -n 1) of disk free"
    )
    status, output = ask(["vagrant", "--no-tty", "ssh", "--command", script], situation.patience)
    units = dict(re.findall(r"^unit (\S+) (.+)$", output, re.MULTILINE))
    containers = dict(re.findall(r"^container (\S+) (.+)$", output, re.MULTILINE))
    about = re.search(r"^vm (.+)$", output, re.MULTILINE)
    if not about:
        reason = f"not within {situation.patience:g} s" if status == 124 else last_line(output)
        yield Finding(WRONG, f"The VM runs, but `vagrant ssh` does not get in: {reason}. Try `vagrant reload`.")
        return
    yield Finding(OK, f"running: {about[1]}")
    for folder in re.findall(r"^missing (\S+)$", output, re.MULTILINE):
        yield Finding(WRONG, f"The folder {folder} is not shared with the VM. Run `vagrant reload`.")
    for unit, state in units.items():
        if state == "active":
            yield Finding(OK, f"unit {unit}: active")
        else:
            yield Finding(WRONG, f"unit {unit}: {state}. `make logs` says why; then `vagrant provision`.")
    for name in names:
        state = containers.get(f"users-{name}", "there is none")
        if re.fullmatch(r"Up [^()]+([(]healthy[)])?", state):  # an image may have no HEALTHCHECK
            yield Finding(OK, f"container users-{name}: {state}")
        elif "starting" in state:
            yield Finding(NOTE, f"container users-{name}: {state}")
        else:
            yield Finding(WRONG, f"container users-{name}: {state}. `make logs` says why.")


def check_health(situation: Situation) -> Iterator[Finding]:
    """Whether the services answer on this side, as a browser would ask."""
    if situation.vm != "running":
        return
    for name in with_port(situation.settings):
        url = health_url(situation.settings, name)
        try:
            text = get(url)
        except OSError as error:
            yield Finding(WRONG, f"{name} does not answer at {url} ({error}). Look at it with `make logs`.")
            continue
        yield Finding(WRONG if '"nok"' in text else OK, f"{name} answers at {url}: {text[:80].strip()}")


def health_url(settings: Any, name: str) -> str:
    service = settings["services"][name]
    address = address_of_ports(settings)
    # All addresses at once are none that Windows connects to.
    from_here = "127.0.0.1" if address == "0.0.0.0" else address
    return f"http://{from_here}:{service['host_port']}{service['health_path']}"


def address_of_ports(settings: Any) -> str:
    """Where the services' own ports listen: with https, the network sees that alone."""
    return "127.0.0.1" if settings["https"]["domain"] else str(settings["host_ip"])


def get(url: str) -> str:
    """The text at a URL of this machine, past any proxy. Raises OSError where there is none."""
    try:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as response:
            return str(response.read(1000).decode("utf-8", "replace"))
    except http.client.HTTPException as error:
        raise OSError(f"what listens there does not speak HTTP: {type(error).__name__}") from error


# --- The report ----------------------------------------------------------------------

BEFORE = {
    "system": check_system,
    "virtual CPU": check_virtualisation,
    "memory": check_memory,
    "disk": check_disk,
    "settings": check_settings,
    "ports": check_ports,
    "share": check_share,
    "box": check_box,
    "cache": check_cache,
    "network": check_network,
}
AFTER = {"VM": check_vm, "health": check_health}


def shareable(text: str) -> str:
    """The text without what stands before an @ in an address, and without the name in the home directory."""
    text = re.sub(r"((?:\w+://)?)\S+@", r"\1***@", text)
    home = os.path.expanduser("~")
    return re.sub(re.escape(home) + r"(?![\w.-])", "~", text) if len(home) > 1 else text


def line(level: str, topic: str, text: str) -> str:
    """One line of the report; a text of several lines goes on below itself."""
    return f"{level:<6} {topic:<12} " + shareable(text).replace("\n", "\n" + " " * 20)


def main() -> int:
    """Returns the exit status: 1 when something is wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--timeout", type=float, default=30, metavar="SECONDS", help="how long to wait for vagrant (30)"
    )
    situation = look(parser.parse_args().timeout)
    if hasattr(sys.stdout, "reconfigure"):  # Windows' consoles know few letters
        sys.stdout.reconfigure(errors="replace")
    levels = []
    for topic, check in {**BEFORE, **AFTER}.items():
        for level, text in check(situation):
            print(line(level, topic, text), flush=True)
            levels.append(level)
    print(f"\n{levels.count(WRONG)} wrong, {levels.count(NOTE)} to note, {levels.count(OK)} ok")
    return 1 if WRONG in levels else 0


if __name__ == "__main__":
    sys.exit(main())
