"""What the benchmarks with the real OpenFL 1.6 share: its environment, servers of both kinds, and its own clients.

The clients are always OpenFL's, unmodified; what is compared is the server. Without ``--openfl-python`` there are no
clients of that kind, and ours stand in for them at ours, so that the script can be tried.
"""

from __future__ import annotations

import argparse
import itertools
import socket
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _harness import options_of
from _processes import PeakMemory, Program, together
from _sides import OURS

__all__ = ["DISCARDS", "OPENFL", "OpenFL", "Rounds", "openfl_arguments"]

OPENFL, DISCARDS = "OpenFL 1.6", "discards"
HERE = Path(__file__).parent
SERVERS = {
    OURS: HERE / "_ours" / "rounds.py",
    OPENFL: HERE / "_openfl16" / "aggregator.py",
    DISCARDS: HERE / "_openfl16" / "discard.py",
}
TASKS = ["aggregated_model_validation", "train", "locally_tuned_model_validation"]
UUIDS = {"aggregator_uuid": "aggregator_plan.yaml_1", "federation_uuid": "plan.yaml_1"}
VERSIONS = (
    "from importlib.metadata import version as v; print(*(f'{n} {v(n)}' for n in ('openfl', 'grpcio', 'protobuf')))"
)


def openfl_arguments(description: str | None, *, rounds: int) -> argparse.Namespace:
    """Parse what these benchmarks understand."""
    parser = options_of(description, rounds=rounds)
    parser.add_argument(
        "--openfl-python", metavar="PATH", help="a Python with openfl==1.6; without it only ours is measured"
    )
    parser.add_argument("--only", metavar="WORD", default="", help="only cases whose name has this word")
    options = parser.parse_args()
    if options.pairs < 0:
        parser.error(f"--pairs: expected 1 or more, got {options.pairs}")
    options.pairs = options.pairs or (2 if options.small else rounds)
    return options


@dataclass(frozen=True, slots=True)
class Rounds:
    """What one federation took, in seconds, and the server's memory in bytes at most.

    ``server_work`` and ``clients_work`` are processor seconds of a round, the start of the processes left out.
    """

    length: list[float]
    """From the first task of a round to the first of the next; the first round, with the start of all, is left out."""
    first: list[float]
    """From when the last result of a round begins to be handed in until somebody has a task of the next."""
    every: list[float]
    """The same until everybody has one."""
    memory: int
    server_work: float
    clients_work: float

    @property
    def median(self) -> float:
        """The median length of a round."""
        return statistics.median(self.length)


class OpenFL:
    """Starts servers and clients; a context manager."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.peer_versions: str | None = None
        self._stack = ExitStack()

    def __enter__(self) -> OpenFL:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        python = self.options.openfl_python
        if python:
            said = subprocess.run([python, "-c", VERSIONS], check=True, stdout=subprocess.PIPE, text=True)
            self.peer_versions = said.stdout.strip()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def sides(self, *others: str) -> tuple[str, ...]:
        """Return ours and those of the others that can be measured."""
        return (OURS, *others) if self.options.openfl_python else (OURS,)

    @contextmanager
    def server(self, side: str, **settings: Any) -> Iterator[Program]:
        """Start the server of a side."""
        folder = tempfile.mkdtemp(dir=self.folder)
        python = sys.executable if side == OURS else self.options.openfl_python
        settings = {"folder": folder, "port": _free_port(), "stubs": str(HERE / "_openfl16"), **UUIDS, **settings}
        with Program(python, SERVERS[side], settings) as program:
            yield program

    @contextmanager
    def clients(self, script: str, server: Program, **settings: Any) -> Iterator[Program]:
        """Start a process with OpenFL's clients, or with ours if there is no OpenFL."""
        python, folder = self.options.openfl_python, HERE / "_openfl16"
        if not python:
            python, folder = sys.executable, HERE / "_ours"
        settings = {"port": server.ready["port"], "stubs": str(HERE / "_openfl16"), **UUIDS, **settings}
        with Program(python, folder / script, settings) as program:
            yield program

    def play(
        self, side: str, *, collaborators: int, tensors: int, parameters: int, rounds: int, processes: int = 2
    ) -> Rounds:
        """Let one federation run: ``tensors`` of ``parameters`` each, and the collaborators spread over processes."""
        names = [f"c{number}" for number in range(collaborators)]
        model = [f"w{number}" for number in range(tensors)]
        common = {"collaborators": names, "tensors": model, "tasks": TASKS, "rounds": rounds}
        with ExitStack() as stack:
            server = stack.enter_context(self.server(side, parameters=parameters, **common))
            clients = [
                stack.enter_context(
                    self.clients(
                        "collaborators.py", server, names=names[which::processes], tensors=model, delta_updates=True
                    )
                )
                for which in range(min(processes, collaborators))
            ]
            before = [program.processor_seconds() for program in (server, *clients)]
            with PeakMemory(server, every=0.05) as memory:
                _, answers = together(clients, "run")
            after = [program.processor_seconds() for program in (server, *clients)]
            work = [(end - start) / rounds for start, end in zip(before, after, strict=True)]
            notes = {kind: _by_round(answers, kind) for kind in ("began", "handed")}
        if len(notes["began"]) != rounds or any(len(times) != collaborators for times in notes["began"]):
            sys.exit(f"wrong result: {side} gave {[len(times) for times in notes['began']]} tasks in {rounds} rounds")
        starts = [min(times) for times in notes["began"]]
        ends = [max(times) for times in notes["handed"]]
        return Rounds(
            [late - early for early, late in itertools.pairwise(starts[1:])],
            [start - end for end, start in zip(ends, starts[1:], strict=False)],
            [max(times) - end for end, times in zip(ends, notes["began"][1:], strict=False)],
            memory.peak,
            work[0],
            sum(work[1:]),
        )


def _by_round(answers: Sequence[Mapping[str, Any]], kind: str) -> list[list[float]]:
    """Return the times of all collaborators, a list for each round."""
    found: dict[int, list[float]] = {}
    for answer in answers:
        for times in answer[kind].values():
            for number, when in times.items():
                found.setdefault(int(number), []).append(when)
    return [found[number] for number in sorted(found)]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
