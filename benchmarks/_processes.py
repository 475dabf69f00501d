"""Programs that a benchmark starts and asks: JSON lines over their standard input and output, and what they use.

The first line that a program gets are its settings. It prints one line when it is ready, then answers one line for each
line it gets, ``{"op": ..., ...}`` with ``{...}`` or ``{"error": traceback}``. It ends with its standard input.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["TICKS", "PeakMemory", "Program", "together"]

TICKS = os.sysconf("SC_CLK_TCK")
END_SECONDS = 20.0
MIB = 2**20


class Program:
    """One process, from its start until the context is left. ``ready`` is what it said when it was."""

    def __init__(
        self, python: str, script: Path, settings: Mapping[str, Any], *, variables: Mapping[str, str] | None = None
    ) -> None:
        root = Path(__file__).parents[1]  # so that the package is found when it is not installed
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "GRPC_VERBOSITY": "ERROR"}
        environment |= variables or {}
        self._process = subprocess.Popen(
            [python, str(script)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        self.name = f"{script.parent.name}/{script.name}"
        self._send(settings)
        self.ready = self.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.close()
        except OSError:
            pass  # it ended before us
        try:
            self._process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def processor_seconds(self) -> float:
        """Return what the process has computed so far, its kernel's work for it included. It must still run."""
        times = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(times[11]) + int(times[12])) / os.sysconf("SC_CLK_TCK")

    def begin(self, op: str, **values: Any) -> None:
        """Ask without waiting; `result` waits."""
        self._send({"op": op, **values})

    def _send(self, values: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(dict(values)) + "\n")
        self._process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Return the next answer. A program that failed ends the benchmark with its traceback."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.name} ended with code {self._process.wait()} before it answered")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            sys.exit(f"{self.name}: {answer['error']}")
        return answer

    def ask(self, op: str, **values: Any) -> dict[str, Any]:
        """Ask and return the answer."""
        self.begin(op, **values)
        return self.result()

    def anonymous(self) -> int:
        """Return the bytes of memory that no file backs: what the process itself made."""
        for line in Path(f"/proc/{self.pid}/status").read_text(encoding="ascii").splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
        sys.exit("this needs Linux: /proc has no RssAnon")

    def processor(self) -> float:
        """Return the seconds of processor time used so far, all threads, in user and system mode."""
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS


def together(programs: Sequence[Program], op: str, **values: Any) -> tuple[float, list[dict[str, Any]]]:
    """Ask all at once; return the seconds until the last one answered, and the answers."""
    start = time.perf_counter()
    for program in programs:
        program.begin(op, **values)
    answers = [program.result() for program in programs]
    return time.perf_counter() - start, answers


class PeakMemory:
    """Watches a program's memory while the context is entered; ``peak`` is in bytes."""

    def __init__(self, program: Program, every: float = 0.01) -> None:
        self._program = program
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0

    def __enter__(self) -> Self:
        self._look()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        if kind is None:
            self._look()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            try:
                self._look()
            except OSError:
                return  # it ended

    def _look(self) -> None:
        self.peak = max(self.peak, self._program.anonymous())
