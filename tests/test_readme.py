"""The README's commands are the ones CI runs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_ci_ends_with_the_test_command_of_the_readme() -> None:
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").strip().splitlines()[-1]
    assert "nox --session tests" in command
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_embedding_example_runs_as_it_stands() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## Embed it")[1]
    code = section.split("```python\n")[1].split("```")[0]
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    assert ran.returncode == 0, ran.stderr
    listening, model = ran.stdout.splitlines()
    assert listening.startswith("listening on 127.0.0.1:")
    assert float(model.split("[")[1].split("]")[0]) == pytest.approx(2.0, abs=0.01)
