"""One federation on the stage: its programs, their logs, and when each round began. Standard library only.

A program of this folder gets settings as a line (``parameters`` of the model in `TENSORS` tensors, ``collaborators``,
``rounds``, ``folder``, ``tuned``), starts its servers, and says under which processes they are; asked to ``run`` it
plays the federation and answers when each round began.

A collaborator stamps the time into a file of its own when its task begins, so that what is measured is the same for
all: from the first collaborator that begins a round to the first one that begins the next.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["TENSORS", "Stage", "free_port", "play", "stamp"]

TENSORS = 8
STAMPS = "ROUND_STAMPS"  # the variable that names the folder of the stamps
LAST_LINES = 25


def stamp(name: str) -> None:
    """Note that a task of the collaborator ``name`` begins."""
    with (Path(os.environ[STAMPS]) / name).open("a", encoding="ascii") as file:
        file.write(f"{time.time()}\n")


def free_port() -> int:
    """Return a TCP port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Stage:
    """The programs of one federation; all end with it. ``variables`` are added to the environment of each."""

    def __init__(self, settings: Mapping[str, Any], **variables: str) -> None:
        self.settings = settings
        self.folder = Path(settings["folder"])
        self._stamps = self.folder / "stamps"
        self._stamps.mkdir(parents=True)
        home = self.folder / "home"
        home.mkdir()
        here = Path(__file__).parent
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        fixed = {"HOME": str(home), "TMPDIR": str(self.folder), "PYTHONPATH": str(here), STAMPS: str(self._stamps)}
        self.environment = kept | fixed | variables
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, name: str, *command: str | Path, cwd: Path | None = None, **variables: str) -> int:
        """Start a program and return its process id."""
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [str(part) for part in command],
                cwd=cwd or self.folder,
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process.pid

    def run(self, name: str, *command: str | Path, cwd: Path | None = None, **variables: str) -> None:
        """Start a program and wait for its end. Raises RuntimeError if that is no good one."""
        self.start(name, *command, cwd=cwd, **variables)
        if self.processes.pop().wait():
            raise RuntimeError(f"{name} failed\n{self.endings()}")

    def listening(self, port: int, seconds: float = 60.0) -> None:
        """Return once somebody listens on ``port``: the program that was started last."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.processes[-1].poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.1)
        raise RuntimeError(f"nobody listens on port {port} after {seconds:g} s\n{self.endings()}")

    def rounds(self) -> dict[str, Any]:
        """Return when each round began, once every collaborator has begun its last task."""
        count, rounds = self.settings["collaborators"], self.settings["rounds"]
        end = time.monotonic() + self.settings["patience"]
        while True:
            times = [
                [float(line) for line in path.read_text(encoding="ascii").split()] for path in self._stamps.iterdir()
            ]
            if len(times) == count and min(map(len, times)) >= rounds:
                break
            done = max(map(len, times), default=0)
            if time.monotonic() > end:
                raise TimeoutError(f"round {done} of {rounds} was the last one to begin\n{self.endings()}")
            time.sleep(0.05)
        return {"began": [min(one) for one in zip(*times, strict=False)]}

    def endings(self) -> str:
        """Return the last lines of every log."""
        found = []
        for log in sorted(self.folder.glob("*.log")):
            lines = log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
            found.append("\n".join([f"--- {log.name}", *lines]))
        return "\n".join(found)

    def close(self) -> None:
        """Kill what still runs, with all that it started in turn: nobody else has our folder in the environment."""
        mark = f"{STAMPS}={self._stamps}\0".encode()
        found = True
        while found:
            found = False
            for path in Path("/proc").glob("[0-9]*/environ"):
                try:
                    if mark in path.read_bytes() + b"\0" and not _ended(path.parent):
                        os.kill(int(path.parent.name), signal.SIGKILL)
                        found = True
                except OSError:
                    pass  # it ended meanwhile, or is somebody else's
            time.sleep(0.1)
        for process in self.processes:
            process.wait()


def _ended(process: Path) -> bool:
    return process.joinpath("stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0] == "Z"


def play(begin: Callable[[Stage], tuple[Sequence[int | str], Callable[[], None]]], **variables: str) -> None:
    """Be a program of the benchmark: ``begin`` starts the servers, and returns where they are and what starts the rest.

    A server is told by its process id, or by words of its command line if it is still to be started.
    """
    settings: dict[str, Any] = json.loads(sys.stdin.readline())
    stage = Stage(settings, **variables)
    try:
        try:
            servers, start = begin(stage)
            print(json.dumps({"servers": list(servers)}), flush=True)
            for _ in sys.stdin:
                start()
                print(json.dumps(stage.rounds()), flush=True)
        except Exception:
            print(json.dumps({"error": traceback.format_exc()}), flush=True)
    finally:
        stage.close()
