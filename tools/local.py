"""Runs both apps on this machine, without a VM, until Ctrl-C.

Environment variables: FRONTEND_PORT (8000), BACKEND_PORT (8080), DATA_DIR (data): the folder of users.db.
"""

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from doctor import ROOT, Stop, get, holder_of_port

HOST = "127.0.0.1"
PATIENCE = 30  # seconds until both apps must answer


def port(key: str, default: int) -> int:
    """The free port that the environment variable `key` names. Raises Stop for any other value."""
    value = os.environ.get(key) or str(default)
    if not value.isascii() or not value.isdigit() or not 1 <= int(value) <= 65535:
        raise Stop(f"{key} is {value!r}; it must be a port number from 1 to 65535.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, int(value)))
        except OSError as error:
            program = holder_of_port(int(value)) or "the program that has it"
            raise Stop(
                f"Port {value} of this machine cannot be used ({error.strerror}). Stop {program} "
                f"(if it is the VM: `make down`), or choose another port: {key}={int(value) % 50000 + 10000} make local"
            ) from error
    return int(value)


def data_folder() -> Path:
    """The folder of users.db, made if it is not there. Raises Stop where that fails."""
    folder = (ROOT / (os.environ.get("DATA_DIR") or "data")).resolve()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Stop(
            f"DATA_DIR is {folder}, and that folder cannot be made ({error.strerror}). Choose another."
        ) from error
    return folder


def start(app: str, **environment: str) -> subprocess.Popen[bytes]:
    """Starts one app in its own process."""
    source = ROOT / "apps" / app / "src"
    return subprocess.Popen(
        [sys.executable, "-m", f"users_{app}"],
        env=os.environ | {"PYTHONPATH": str(source), "HOST": HOST} | environment,
        # Ctrl-C reaches this program alone, which stops the apps in order.
        start_new_session=True,
    )


def wait_until_healthy(app: str, process: subprocess.Popen[bytes], url: str) -> None:
    """Raises Stop when the app ends, or does not answer within PATIENCE."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Stop(f"The {app} ended with status {process.returncode}; its message stands above.")
        try:
            get(f"{url}/healthz")
            return
        except OSError:
            time.sleep(0.1)
    raise Stop(f"The {app} did not answer at {url}/healthz within {PATIENCE} s; its messages stand above.")


def main() -> int:
    """Returns the exit status: 0 after Ctrl-C, else 1."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    ends = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)  # the last when the terminal is closed
    for end in ends:  # a shell's background job starts with SIGINT ignored
        signal.signal(end, signal.default_int_handler)
    processes: dict[str, subprocess.Popen[bytes]] = {}
    try:
        ports = {"backend": port("BACKEND_PORT", 8080), "frontend": port("FRONTEND_PORT", 8000)}
        urls = {app: f"http://{HOST}:{number}" for app, number in ports.items()}
        data = data_folder()
        extra = {
            "backend": {"DATABASE_URL": f"sqlite:///{data / 'users.db'}"},
            "frontend": {"BACKEND_URL": urls["backend"], "SECRET_KEY": secrets.token_hex(32)},
        }
        for app, number in ports.items():
            processes[app] = start(app, PORT=str(number), **extra[app])
        for app, process in processes.items():
            wait_until_healthy(app, process, urls[app])
        print(f"\n  The form:  {urls['frontend']}\n  The API:   {urls['backend']}/docs")
        print(f"  The data:  {data / 'users.db'}\n\nCtrl-C stops both.\n", flush=True)
        while all(process.poll() is None for process in processes.values()):
            time.sleep(0.2)
        ended = next(app for app, process in processes.items() if process.poll() is not None)
        raise Stop(f"The {ended} ended with status {processes[ended].returncode}; its messages stand above.")
    except KeyboardInterrupt:
        return 0
    except Stop as stop:
        print(f"\nmake local stopped: {stop}", file=sys.stderr)
        return 1
    finally:
        for end in ends:
            signal.signal(end, signal.SIG_IGN)  # a second Ctrl-C would leave the backend behind
        # The frontend first: nobody shall meet a page whose backend is gone.
        for app in reversed(list(processes)):
            processes[app].terminate()
            processes[app].wait()


if __name__ == "__main__":
    sys.exit(main())
