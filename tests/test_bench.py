"""`make bench`, short: the figures are for people to read, but the benchmark must run and say them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.mark.slow
def test_the_benchmark_measures_compares_and_draws(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, ROOT / "bench/bench.py", "--rounds=1", "--seconds=1", "--rows=2000", "--requests=100"]
        + [f"--output={tmp_path}/bench"],
        env=os.environ | {"PYTHONPATH": str(ROOT / "apps/backend/src")},
        check=True,
    )
    document = json.loads((tmp_path / "bench.json").read_text())
    assert all(ratio["ratio"] > 0 for ratio in document["ratios"])
    assert len(document["ratios"]) == 12
    for by_name in document["values"].values():
        assert all(min(values) >= 0 and len(values) == 1 for values in by_name.values())
    assert document["values"]["POST a second, 16 clients"]["ours"][0] > 0
    assert (tmp_path / "bench.svg").read_text().count("<svg") == 1
