"""Processes that answer questions: a line of JSON in, a line of JSON out; and what the system says about a process."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]
PAGE = os.sysconf("SC_PAGE_SIZE")
TICKS = os.sysconf("SC_CLK_TCK")
MIB = 2**20


class Helper:
    """A module of this package in a process of its own, with its standard error in a file."""

    def __init__(self, module: str, options: dict[str, Any], log: Path) -> None:
        self.log = log
        self._stderr = log.open("ab")
        command = [sys.executable, "-m", f"tests.attacks.{module}", json.dumps(options)]
        self.process: subprocess.Popen[str] = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, text=True
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def hear(self, seconds: float = 30.0) -> dict[str, Any]:
        """Return the next line that it prints. Raises `RuntimeError` if none comes."""
        stdout: IO[str] | None = self.process.stdout
        assert stdout is not None
        readable, _, _ = select.select([stdout], [], [], seconds)
        line = stdout.readline() if readable else ""
        if not line:
            raise RuntimeError(f"no answer from {self.process.args!r}: {self.log.read_text()[-2000:]}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def ask(self, seconds: float = 30.0, **question: Any) -> dict[str, Any]:
        """Send a question and return the answer."""
        self.tell(**question)
        return self.hear(seconds)

    def tell(self, **question: Any) -> None:
        """Send a question whose answer is heard later."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(question) + "\n")
        self.process.stdin.flush()

    def end(self) -> None:
        """Kill it, if it has not ended by itself."""
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()
        self._stderr.close()


def resident(pid: int) -> float:
    """Return the MiB that a process has in memory, 0 for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / MIB
    except (OSError, IndexError):
        return 0.0


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has used."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


class Peak:
    """Watches the memory of a process from a thread, between ``with`` and its end."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.highest = resident(pid)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.02):
            self.highest = max(self.highest, resident(self._pid))


def until_quiet(pid: int, seconds: float, *, below: float) -> float:
    """Wait until a process has at most ``below`` MiB, ``seconds`` at most, and return what it has then."""
    deadline = time.monotonic() + seconds
    while (now := resident(pid)) > below and time.monotonic() < deadline:
        time.sleep(0.1)
    return now
