"""Every benchmark runs at a small size, agrees with its own check, and writes what a reader needs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
NEEDS_OPENFL = {"experiment_latency.py"}  # nothing stands in for its frontend
SCRIPTS = sorted(path for path in BENCHMARKS.glob("[!_]*.py") if path.name not in NEEDS_OPENFL)


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


def check_comparisons(result: dict[str, Any]) -> None:
    """Two ways of doing a job within one process, pair by pair."""
    assert result["comparisons"]
    for comparison in result["comparisons"]:
        assert comparison["pairs"] == 2
        assert 0 < comparison["ratio_min"] <= comparison["ratio"] <= comparison["ratio_max"]


def check_measurements(result: dict[str, Any]) -> None:
    """Ours beside grpcio, which is not there in these tests: its columns must say so."""
    assert result["machine"]["peers"] is None
    assert result["measurements"]
    for row in result["measurements"]:
        figures = row["figures"]
        assert figures.pop("ours") > 0
        assert set(figures.values()) == {None}
        assert row["ratio"] is None


@pytest.mark.real_time
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_it_runs_small_and_writes_its_result(script: Path, tmp_path: Path) -> None:
    target = tmp_path / "result.json"
    done = run(script, "--small", "--pairs", "2", "--json", str(target))
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(target.read_text(encoding="utf-8"))
    assert result["small"] is True
    assert result["machine"]["packages"]["numpy"]
    if "comparisons" in result:
        assert "times as fast" in done.stdout
        check_comparisons(result)
    else:
        assert "not measured" in done.stdout
        check_measurements(result)


@pytest.mark.real_time
@pytest.mark.parametrize("script", ["codec.py", "upload.py"])
def test_a_wrong_option_is_told(script: str) -> None:
    done = run(BENCHMARKS / script, "--pairs", "-1")
    assert done.returncode == 2
    assert "expected 1 or more, got -1" in done.stderr


@pytest.mark.real_time
def test_a_program_that_fails_ends_the_benchmark_with_its_traceback(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(
        "import sys\n"
        f"sys.path.insert(0, {str(BENCHMARKS)!r})\n"
        "from _processes import Program\n"
        "from _sides import HERE\n"
        "with Program(sys.executable, HERE / '_ours' / 'raw.py', {'role': 'server', 'tls': None}) as program:\n"
        "    program.ask('no such operation')\n",
        encoding="utf-8",
    )
    done = run(script)
    assert done.returncode == 1
    assert "KeyError: 'no such operation'" in done.stderr
