"""The demonstration as its user starts it: real processes, of which none is left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_time

SECONDS = 60.0


def start(folder: Path, *, rounds: int) -> subprocess.Popen[str]:
    """Start a demonstration of two sites in ``folder``."""
    return subprocess.Popen(
        [sys.executable, "-m", "openfl_aio", "demo", "--json", "--collaborators", "2", "--rounds", str(rounds),
         "--keep", str(folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )  # fmt: skip


def processes_of(folder: Path) -> dict[int, str]:
    """Return the processes that work in ``folder`` or name it, their command lines by id."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            here = os.readlink(process / "cwd")
        except OSError:
            continue  # ended meanwhile
        if command and (here.startswith(str(folder)) or str(folder) in command):
            found[int(process.name)] = command
    return found


def test_a_kept_folder_serves_again_and_no_process_is_left(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    for _ in range(2):
        demo = start(folder, rounds=3)
        try:
            out, err = demo.communicate(timeout=SECONDS)
        finally:
            demo.kill()
        assert demo.returncode == 0, err
        assert processes_of(folder) == {}
        result = json.loads(out)
        assert result["alone"].keys() == result["samples"].keys() == {"site_1", "site_2"}
        accuracies = [result["federated"], result["central"], *result["alone"].values()]
        assert all(0.1 < accuracy <= 1.0 for accuracy in accuracies)
        assert result["federation_wins"] is (result["federated"] > max(result["alone"].values()))
        assert 0.0 < result["seconds"] < SECONDS
    assert {path.name for path in folder.glob("*.log")} == {"director.log", "site_1.log", "site_2.log"}


def test_an_interrupt_in_the_middle_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "kept"
    demo = start(folder, rounds=1000)
    try:
        limit = time.monotonic() + SECONDS
        # the child of an envoy is where the rounds are worked on
        while not any("openfl_aio.envoy.child" in command for command in processes_of(folder).values()):
            assert demo.poll() is None, demo.communicate()[1]
            assert time.monotonic() < limit
            time.sleep(0.05)
        demo.send_signal(signal.SIGINT)
        out, err = demo.communicate(timeout=SECONDS)
    finally:
        demo.kill()
    assert demo.returncode == 130, err
    assert out == ""
    assert "Traceback" not in err
    assert processes_of(folder) == {}
