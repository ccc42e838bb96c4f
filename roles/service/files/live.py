"""Runs a command, and starts it again whenever a file of a folder changes.

Usage: python3 live.py FOLDER COMMAND ...

It looks at times and sizes, twice a second: a folder that another computer shares sends no events. (watchfiles
compares whole seconds when it polls, and misses the second of two quick saves.)
"""

import os
import signal
import subprocess
import sys
import threading
import time

INTERVAL = 0.5  # seconds between two looks
END_WITHIN = 5  # seconds after SIGTERM
TRY_AGAIN = 10  # seconds after a command has ended by itself


def state(folder: str) -> dict[str, tuple[int, int]]:
    """The time of change (ns) and the size of each file; hidden files and caches do not count."""
    files = {}
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if name != "__pycache__" and not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            path = os.path.join(place, name)
            try:
                stat = os.stat(path)
            except FileNotFoundError:  # an editor's own, and gone already
                continue
            files[path] = (stat.st_mtime_ns, stat.st_size)
    return files


def run(folder: str, command: list[str], end: threading.Event) -> str:
    """Run the command until it must start again. Returns why, or nothing at the end."""
    before = state(folder)
    process = subprocess.Popen(command)
    try:
        while (now := state(folder)) == before:
            if end.wait(INTERVAL):
                return ""
            if process.poll() is not None:
                print(
                    f"`{' '.join(command)}` ended with status {process.returncode}; the lines above say why. "
                    f"It starts again when a file in {folder} is saved, or in {TRY_AGAIN} seconds.",
                    flush=True,
                )
                deadline = time.monotonic() + TRY_AGAIN
                while time.monotonic() < deadline and state(folder) == before and not end.wait(INTERVAL):
                    pass
                return "it had ended"
        return f"{min(dict(before.items() ^ now.items()))} changed"
    finally:
        process.terminate()
        try:
            process.wait(END_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main(folder: str, *command: str) -> None:
    """Run until SIGTERM or Ctrl-C."""
    # An exception in the handler could come while the command is being started, and leave it behind.
    end = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    while not end.is_set():
        why = run(folder, list(command), end)
        if not end.is_set():
            print(f"`{' '.join(command)}` starts again: {why}.", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
