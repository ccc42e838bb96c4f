"""live.py of role service: real processes and files. What it must do is start the new code soon and never give up."""

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOON = 2  # seconds from a save to the new code


class Live:
    """The program on a folder with one file, app.py."""

    def __init__(self, folder: Path) -> None:
        self.app = folder / "app.py"
        self.save("first")
        self.process = subprocess.Popen(
            [sys.executable, ROOT / "roles/service/files/live.py", folder, sys.executable, self.app],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self.lines.put(line)

    def save(self, word: str) -> None:
        self.app.write_text(f"import time\nprint('{word} runs', flush=True)\ntime.sleep(60)\n")

    def wait_for(self, words: str, seconds: float = 10) -> None:
        """Read on until a line has these words."""
        deadline = time.monotonic() + seconds
        while words not in self.lines.get(timeout=max(0.01, deadline - time.monotonic())):
            pass


@pytest.fixture
def live(tmp_path: Path) -> Iterator[Live]:
    program = Live(tmp_path)
    program.wait_for("first runs")
    yield program
    with program.process:
        program.process.terminate()
        program.reader.join()


def test_two_saves_within_one_second_are_both_seen(live: Live) -> None:
    while time.time() % 1 > 0.05:  # right after a second has begun
        time.sleep(0.01)
    live.save("twice")
    time.sleep(0.7)
    live.save("again")  # as long as the word before: neither the size nor the second tells
    live.wait_for("again runs", SOON)


def test_a_new_and_a_removed_file_count_but_not_a_hidden_one_or_a_cache(live: Live, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text("new")
    live.wait_for("page.html changed", SOON)
    live.wait_for("first runs", SOON)
    (tmp_path / "page.html").unlink()
    live.wait_for("page.html changed", SOON)
    live.wait_for("first runs", SOON)
    (tmp_path / ".app.py.swp").write_text("an editor's")
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__/app.pyc").write_text("Python's")
    with pytest.raises(queue.Empty):
        live.wait_for("", SOON)


def test_a_syntax_error_is_in_the_log_and_heals_with_the_next_save(live: Live) -> None:
    live.app.write_text("def oops(:\n")
    live.wait_for("SyntaxError", SOON)
    live.wait_for("ended with status 1; the lines above say why. It starts again when a file in", SOON)
    live.save("mended")
    live.wait_for("mended runs", SOON)


def test_what_ends_by_itself_starts_again_though_nothing_changed(live: Live) -> None:
    child = subprocess.check_output(["ps", "--ppid", str(live.process.pid), "-o", "pid="], text=True)
    os.kill(int(child), signal.SIGKILL)
    live.wait_for("ended with status -9")
    live.wait_for("first runs", 15)


def test_what_does_not_end_when_told_to_is_ended(live: Live) -> None:
    live.app.write_text(
        "import signal, time\nsignal.signal(15, signal.SIG_IGN)\nprint('deaf runs', flush=True)\ntime.sleep(60)\n"
    )
    live.wait_for("deaf runs")
    [deaf] = subprocess.check_output(["ps", "--ppid", str(live.process.pid), "-o", "pid="], text=True).split()
    live.save("second")
    live.wait_for("second runs")
    assert not Path("/proc", deaf).exists()


def test_sigterm_ends_both(live: Live) -> None:
    child = (
        Path("/proc")
        / subprocess.check_output(["ps", "--ppid", str(live.process.pid), "-o", "pid="], text=True).strip()
    )
    live.process.terminate()
    assert live.process.wait(5) == 0
    assert not child.exists()
