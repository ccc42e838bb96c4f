"""`make bench` and `make scale`, short: the figures are for people to read, but the benchmark must run and say them."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_benchmark_measures_and_compares(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, ROOT / "bench/bench.py", "--rounds=1", "--seconds=1", "--rows=2000", "--requests=100"]
        + [f"--output={tmp_path}/bench.json"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "apps/backend/src")},
        check=True,
    )
    document = json.loads((tmp_path / "bench.json").read_text())
    assert all(ratio["ratio"] > 0 for ratio in document["ratios"])
    assert len(document["ratios"]) == 12
    for by_name in document["values"].values():
        assert all(min(values) >= 0 and len(values) == 1 for values in by_name.values())
    assert document["values"]["POST a second, 16 clients"]["ours"][0] > 0


def compare_starts(figures: Path) -> str:
    """What bench/starts.py says of the figures."""
    command = [sys.executable, ROOT / "bench/starts.py", "--again", f"--figures={figures}"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT}/tools:{ROOT}/tests"}
    return subprocess.run(command, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout


def test_the_starts_are_compared_and_drawn(tmp_path: Path) -> None:
    starts = {
        "nothing is there": {"fetched": 250, "parts": {"images": 300, "Docker": 100}},
        "from the cache": {"fetched": 0, "parts": {"Docker": 100}},
        "from the cache, no network": {"fetched": 0, "parts": {"Docker": 80}},
    }
    (tmp_path / "starts.json").write_text(json.dumps(starts))
    said = compare_starts(tmp_path / "starts.json")
    assert "from the cache: 100 s, 0.25 of the first; 0 MB fetched, by 10 Mbit/s it would be about 100 s, 0.17" in said
    assert "from the cache, no network: 80 s, 0.20 of the first" in said
    assert "section from the cache\n    Docker, 100 s :0, 100s\n" in said
    assert "section nothing is there\n    images, 300 s :0, 300s\n    Docker, 100 s :100s\n" in said


def test_the_document_says_what_the_starts_took() -> None:
    lines, fence, drawing = compare_starts(ROOT / "docs/starts.json").partition("```mermaid")
    first, *later = lines.splitlines()
    section = (ROOT / "docs/performance.md").read_text().partition("## A first start")[2]
    said = r": (\d+ s), (\d\.\d\d) of the first; (\d+ MB) fetched, by \d+ Mbit/s it would be about (\d+ s), (\d\.\d\d)"
    for line in [first, *later]:
        found = re.search(said, line)
        assert found
        assert all(figure in section for figure in found.groups() if figure not in ("1.00", "0 MB"))
    assert len(later) == 2
    assert fence + drawing in section


SCALE = [sys.executable, str(ROOT / "bench/scale.py")]
PATHS = os.environ | {"PYTHONPATH": f"{ROOT}/apps/backend/src:{ROOT}/apps/backend/tests"}


def copy_of_scale(folder: Path) -> Path:
    for ending in ("json", "md"):
        shutil.copy(ROOT / f"docs/scale.{ending}", folder)
    return folder / "scale.md"


def test_the_tables_of_scale_are_made_from_its_figures(tmp_path: Path) -> None:
    document = copy_of_scale(tmp_path)
    emptied, tables = re.subn(r"(by bench/scale.py -->\n)(?:.*\n)*?(?=<!-- end)", r"\1", document.read_text())
    assert tables == 4
    document.write_text(emptied)
    subprocess.run([*SCALE, "--rows", f"--output={tmp_path}/scale"], env=PATHS, check=True)
    for ending in ("json", "md"):
        assert (tmp_path / f"scale.{ending}").read_text() == (ROOT / f"docs/scale.{ending}").read_text()


@pytest.mark.slow
def test_scale_loads_one_two_and_four_backends_and_says_what_is_full(tmp_path: Path) -> None:
    document = copy_of_scale(tmp_path)
    (tmp_path / "scale.json").unlink()
    command = [*SCALE, "--rows=1000", "--rounds=1", "--seconds=1", f"--output={tmp_path}/scale"]
    subprocess.run(command, env=PATHS, check=True)
    figures = json.loads((tmp_path / "scale.json").read_text())["1000"]
    assert figures["flushes"] > 0
    assert len(figures["loads"]) == 4
    for loads in figures["loads"].values():
        assert all(load["per_second"] > 0 and load["backends"] > 0 and load["load"] > 0 for load in loads.values())
        assert loads["post"]["flushes"] > 0
    # PostgreSQL checkpoints and vacuums beside SQLite's load, too: the work of the load before it.
    sqlite, *postgresql = [loads["post"]["postgres"] for loads in figures["loads"].values()]
    assert min(postgresql) > sqlite
    assert all(sizes["copy_bytes"] > 0 for sizes in figures["sizes"].values())
    assert document.read_text().count("| save a user |") == 4
