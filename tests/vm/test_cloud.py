"""cloud/user-data.yml on a real VM, which finds it as on a cloud and fetches the project from a git server.

The VM is QEMU alone, without Vagrant, and nobody logs in to it. cloud-init reads the user data from a disk (its
source NoCloud); the test sees what the machine prints on its serial console, and the two ports.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import up
from machine import BROWSER, EMULATION, free_port, of_this_computer

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".cache/test-cloud"
FRONTEND, BACKEND = 28000, 28080

pytestmark = pytest.mark.timeout(2400)  # seconds; software emulation is slow


def git(*arguments: str | Path) -> None:
    subprocess.run(["git", *arguments], check=True, cwd=ROOT)


@contextmanager
def git_server() -> Iterator[str]:
    """Serves WORK; yields its address as the VM sees it."""
    port = free_port()
    program = Path(subprocess.check_output(["git", "--exec-path"], text=True).strip(), "git-daemon")
    options = ["--export-all", f"--base-path={WORK}", "--listen=127.0.0.1", f"--port={port}"]
    with subprocess.Popen([program, *options]) as server:
        try:
            yield f"git://10.0.2.2:{port}"
        finally:
            server.terminate()


@contextmanager
def boot(name: str) -> Iterator[str]:
    """Switches the VM on, and off by its power button; yields what its console shows until cloud-init is done."""
    console = WORK / f"{name}.log"
    console.touch()
    forwards = f"hostfwd=tcp:127.0.0.1:{FRONTEND}-:8000,hostfwd=tcp:127.0.0.1:{BACKEND}-:8080"
    command = ["qemu-system-x86_64", *EMULATION, "-smp", "2", "-m", "2048", "-display", "none"]
    command += ["-drive", f"file={WORK}/disk.qcow2,if=virtio,cache=unsafe"]
    # The folder as a second disk, with a FAT file system.
    command += ["-drive", f"format=vvfat,dir={WORK}/seed,label=CIDATA,readonly=on,if=virtio"]
    command += ["-nic", f"user,model=virtio-net-pci,{forwards}"]
    command += ["-serial", f"file:{console}", "-monitor", "stdio"]
    with subprocess.Popen(command, text=True, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as vm:
        try:
            while not re.search(r"Cloud-init v\. \S+ finished", text := console.read_text(errors="replace")):
                assert vm.poll() is None, "QEMU ended"
                time.sleep(2)
            yield text
            assert vm.stdin
            vm.stdin.write("system_powerdown\n")
            vm.stdin.flush()
            vm.wait(300)
        finally:
            print("\n".join(console.read_text(errors="replace").splitlines()[-100:]))
            vm.kill()


def answer(port: int, path: str, data: bytes | None = None) -> bytes:
    """What the service says, given two minutes to start."""
    for _ in range(60):
        with suppress(OSError), BROWSER.open(f"http://127.0.0.1:{port}{path}", data=data, timeout=30) as response:
            return bytes(response.read())
        time.sleep(2)
    pytest.fail(f"nothing answers on port {port}")


@pytest.fixture(autouse=True)
def machine() -> Iterator[None]:
    """A fresh disk with Debian and cloud-init, and a repository with what lies in this folder now."""
    shutil.rmtree(WORK, ignore_errors=True)
    WORK.mkdir(parents=True)
    up.install()
    emulated = () if up.has_kvm() else ("mitigations=off", "tsc=reliable")
    box = up.build("build-box", "debian-13-cloud", ".box", "--include", "cloud-init", *emulated)
    subprocess.run(["tar", "--extract", "--file", ROOT / box, "box.img"], check=True, cwd=WORK)
    (WORK / "box.img").rename(WORK / "disk.qcow2")

    here = of_this_computer()
    repository = WORK / "project.git"
    git("init", "--quiet", "--bare", repository)
    served = ["--git-dir", repository, "--work-tree", ROOT, "-c", "user.name=test", "-c", "user.email=test@example.com"]
    git(*served, "add", "--all")
    git(*served, "add", "--force", here["image"]["base_archive"], *filter(None, [here["network"]["ca_certificate"]]))
    git(*served, "commit", "--quiet", "--message", "test")

    settings = {"host_ip": "0.0.0.0", "open_to_the_network_without_password": True} | here
    user_data = (ROOT / "cloud/user-data.yml").read_text()
    with git_server() as server:
        for old, new in (
            ("https://github.com/YOUR-NAME/YOUR-REPOSITORY.git", f"{server}/project.git"),
            ("host_ip: 127.0.0.1\n", json.dumps(settings) + "\n"),  # JSON is YAML
            # An update that finds nothing new, and what cloud-init says of the file.
            ("- users-update\n", "- users-update\n  - users-update\n  - cloud-init schema --system\n"),
        ):
            assert user_data.count(old) == 1
            user_data = user_data.replace(old, new)
        (WORK / "seed").mkdir()
        (WORK / "seed/user-data").write_text(user_data)
        (WORK / "seed/meta-data").write_text("instance-id: test\n")
        # A cloud's own part: here the file system fills the disk already, and cloud-init fails to enlarge it.
        (WORK / "seed/vendor-data").write_text("#cloud-config\nresize_rootfs: false\n")
        yield
    shutil.rmtree(WORK)


def test_a_new_machine_serves_by_itself_and_keeps_its_users_when_switched_off() -> None:
    with boot("first") as text:
        first, second = re.findall(r"localhost +: ok=.*", text)
        assert "failed=0" in first
        assert "changed=0 " in second and "failed=0" in second
        assert "Valid schema user-data" in text
        assert "Failed to start" not in text
        assert json.loads(answer(FRONTEND, "/healthz")) == {"frontend_status": "ok", "backend_status": "ok"}
        answer(BACKEND, "/users", b'{"id": 1, "name": "Ana"}')

    with boot("second") as text:
        assert "PLAY RECAP" not in text, "the playbook ran again, so the services did not start by themselves"
        assert json.loads(answer(BACKEND, "/users/1")) == {"id": 1, "name": "Ana"}
        assert b"Ana" in answer(FRONTEND, "/")
