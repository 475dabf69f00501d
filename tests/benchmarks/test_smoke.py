"""Every benchmark runs at a small size, agrees with its own check, and writes what a reader needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
SCRIPTS = sorted(BENCHMARKS.glob("[!_]*.py"))


def run(script: Path, *options: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(BENCHMARKS.parent)}
    return subprocess.run(
        [sys.executable, str(script), *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def test_there_are_benchmarks_and_the_readme_lists_each() -> None:
    readme = (BENCHMARKS / "README.md").read_text(encoding="utf-8")
    assert len(SCRIPTS) >= 2
    assert [script.name for script in SCRIPTS if f"| `{script.name}` |" not in readme] == []


@pytest.mark.real_time
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_runs_small_and_writes_its_result(script: Path, tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    done = run(script, "--small", "--pairs", "2", "--json", str(target))
    assert (done.returncode, done.stderr) == (0, "")
    assert "times as fast" in done.stdout
    result = json.loads(target.read_text(encoding="utf-8"))
    assert result["small"] is True
    assert result["machine"]["packages"]["numpy"]
    assert result["comparisons"]
    for comparison in result["comparisons"]:
        assert comparison["pairs"] == 2
        assert 0 < comparison["ratio_min"] <= comparison["ratio"] <= comparison["ratio_max"]


@pytest.mark.real_time
def test_a_wrong_option_is_told() -> None:
    done = run(BENCHMARKS / "codec.py", "--pairs", "-1")
    assert done.returncode == 2
    assert "expected 1 or more, got -1" in done.stderr
