"""Ours beside grpcio: servers and clients as processes, one job for all, interleaved rounds, one table.

A *side* is a pair of server and clients: ours, grpcio's synchronous server with threads, or grpc.aio. Without
``--peer-python`` there is only ours, and the columns of the others say "not measured". In each round every side does
the job once, in an order that turns; the figure to quote is the ratio to the better of the two grpcio sides.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from _harness import machine, options_of
from _processes import TICKS, PeakMemory, Program, together

from openfl_aio.testing.ca import ThrowawayCA

__all__ = [
    "AIO",
    "GB",
    "HERE",
    "OURS",
    "SYNC",
    "Bench",
    "Measurement",
    "PeakMemory",
    "Processors",
    "Side",
    "interleaved",
    "network_arguments",
    "report_sides",
    "together",
]

OURS, SYNC, AIO = "ours", "grpcio sync", "grpc.aio"
KINDS = {SYNC: "sync", AIO: "aio"}
GB = 1e9
MIB = 2**20
QUIET_SECONDS = 10.0
HERE = Path(__file__).parent
PROTO = HERE.parent / "proto"
# glibc keeps what it got from the system, so that a process writes to fresh pages only once
KEEP_MEMORY = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40), "MALLOC_ARENA_MAX": "1"}
VERSIONS = (
    "import grpc, google.protobuf, sys; print(grpc.__version__, google.protobuf.__version__, sys.version.split()[0])"
)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One row: values by side, one a round. A side that is missing was not measured."""

    case: str
    unit: str
    values: Mapping[str, Sequence[float]]
    more_is_better: bool = True
    peers: tuple[str, ...] = (SYNC, AIO)  # who is beside ours
    slowest: bool = False  # the worst round counts, not the median

    def figure(self, side: str) -> float | None:
        """Return the figure of a side: its median, or its worst round."""
        values = self.values.get(side)
        if not values:
            return None
        return max(values) if self.slowest else statistics.median(values)

    @property
    def best_peer(self) -> str | None:
        """The better of the others, None if there is none."""
        figures = {side: figure for side in self.peers if (figure := self.figure(side)) is not None}
        if not figures:
            return None
        return (max if self.more_is_better else min)(figures, key=lambda side: figures[side])

    def ratios(self) -> list[float]:
        """How many times as good as the better of the others ours was, round by round, sorted."""
        peer = self.best_peer
        if peer is None:
            return []
        pairs = list(zip(self.values[OURS], self.values[peer], strict=False))
        return sorted(ours / theirs if self.more_is_better else theirs / ours for ours, theirs in pairs)

    def summary(self) -> dict[str, Any]:
        """Return what the table and the file say of this row."""
        ratios = self.ratios()
        return {
            "case": self.case,
            "unit": self.unit,
            "rounds": {side: list(values) for side, values in self.values.items()},
            "figures": {side: self.figure(side) for side in (OURS, *self.peers)},
            "best_peer": self.best_peer,
            "ratio": statistics.median(ratios) if ratios else None,
            "ratio_min": ratios[0] if ratios else None,
            "ratio_max": ratios[-1] if ratios else None,
        }


def network_arguments(
    description: str | None, *, rounds: int, more: Callable[[argparse.ArgumentParser], None] | None = None
) -> argparse.Namespace:
    """Parse what every benchmark of the network understands; ``more`` adds options to that."""
    parser = options_of(description, rounds=rounds)
    parser.add_argument(
        "--peer-python", metavar="PATH", help="a Python with grpcio and grpcio-tools; without it only ours is measured"
    )
    parser.add_argument("--only", metavar="WORD", default="", help="only cases whose name has this word")
    if more is not None:
        more(parser)
    options = parser.parse_args()
    if options.pairs < 0:
        parser.error(f"--pairs: expected 1 or more, got {options.pairs}")
    options.pairs = options.pairs or (2 if options.small else rounds)
    return options


@dataclass(slots=True)
class Side:
    """One server and its clients."""

    name: str
    server: Program
    clients: list[Program] = field(default_factory=list)

    def next_task(self) -> None:
        """Let every client ask for its next task: the round before is aggregated then."""
        together(self.clients, "next_task")

    def settle(self) -> None:
        """Return when the server does nothing any more, such as writing the model of the round before."""
        end = time.monotonic() + QUIET_SECONDS
        used = -1.0
        while used != (used := self.server.processor()) and time.monotonic() < end:
            time.sleep(3 / TICKS)

    def used(self) -> tuple[float, float]:
        """Return the seconds of processor time that the server, and that the clients, have used so far."""
        return self.server.processor(), sum(client.processor() for client in self.clients)

    def all(self, op: str, **values: Any) -> float:
        """Let every client do ``op``; return the seconds until the last one is done."""
        if len(self.clients) == 1:
            seconds: float = self.clients[0].ask(op, **values)["seconds"]  # without the way to us and back
            return seconds
        return together(self.clients, op, **values)[0]


class Reported(Protocol):
    """What a report says of its script: the options, and what the peers are."""

    options: argparse.Namespace
    peer_versions: str | None


class Bench:
    """What lives as long as the script: a folder, the peers' stubs, certificates. A context manager."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self._stack = ExitStack()
        self._authority: ThrowawayCA | None = None

    def __enter__(self) -> Bench:
        self.folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._stubs = self.folder / "stubs"
        self.peer_versions: str | None = None
        if self.options.peer_python:
            self._generate()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @property
    def sides(self) -> tuple[str, ...]:
        """The names of the sides that can be measured."""
        return (OURS, SYNC, AIO) if self.options.peer_python else (OURS,)

    def wanted(self, case: str) -> bool:
        """Return whether a case of this name was asked for."""
        return self.options.only in case

    def _generate(self) -> None:
        self._stubs.mkdir()
        sources = sorted(str(path) for path in PROTO.rglob("*.proto"))
        command = [self.options.peer_python, "-m", "grpc_tools.protoc", f"-I{PROTO}"]
        command += [f"--python_out={self._stubs}", f"--grpc_python_out={self._stubs}", *sources]
        subprocess.run(command, check=True)
        found = subprocess.run(
            [self.options.peer_python, "-c", VERSIONS], check=True, stdout=subprocess.PIPE, text=True
        )
        grpcio, protobuf, python = found.stdout.split()
        self.peer_versions = f"grpcio {grpcio}, protobuf {protobuf}, Python {python}"

    def authority(self) -> ThrowawayCA:
        """Return the certificate authority of this run, made when it is first needed."""
        if self._authority is None:
            self._authority = ThrowawayCA(self.folder / "pki")
        return self._authority

    def server_tls(self) -> dict[str, str]:
        """Return the paths of the server's certificate, key and authority."""
        return _paths(self.authority().server())

    def client_tls(self, names: Sequence[str]) -> dict[str, dict[str, str]]:
        """Return the paths for each client."""
        return {name: _paths(self.authority().client(name)) for name in names}

    def server(self, side: str, *, tls: bool, **settings: Any) -> Program:
        """Start the server of a side; the caller enters it."""
        paths = self.server_tls() if tls else None
        if side == OURS:
            folder = tempfile.mkdtemp(dir=self.folder)
            return Program(sys.executable, HERE / "_ours" / "server.py", {"tls": paths, "folder": folder, **settings})
        kind = {"kind": KINDS[side], "stubs": str(self._stubs), "tls": paths}
        return Program(self.options.peer_python, HERE / "_peers" / "server.py", {"workers": 64} | settings | kind)

    def client(
        self, side: str, port: int, names: Sequence[str], parameters: int, *, tls: bool, keep_memory: bool = False
    ) -> Program:
        """Start clients of a side, all in one process, one connection for each name; the caller enters it."""
        variables = KEEP_MEMORY if keep_memory else None
        settings = {"port": port, "names": list(names), "parameters": parameters}
        settings |= {"tls": self.client_tls(names) if tls else None}
        if side == OURS:
            return Program(sys.executable, HERE / "_ours" / "client.py", settings, variables=variables)
        settings |= {"kind": KINDS[side], "stubs": str(self._stubs)}
        return Program(self.options.peer_python, HERE / "_peers" / "client.py", settings, variables=variables)

    @contextmanager
    def aggregators(
        self, parameters: int, processes: Sequence[Sequence[str]], *, tls: bool = False, keep_memory: bool = False
    ) -> Iterator[dict[str, Side]]:
        """Start every side: an aggregator with one tensor, and a client process for each list of names."""
        with ExitStack() as stack:
            sides: dict[str, Side] = {}
            names = [name for process in processes for name in process]
            for name in self.sides:
                server = stack.enter_context(
                    self.server(
                        name,
                        tls=tls,
                        **({"kind": "aggregator", "collaborators": names} if name == OURS else {}),
                        parameters=parameters,
                    )
                )
                sides[name] = Side(name, server)
                for process in processes:
                    client = self.client(
                        name, server.ready["port"], process, parameters, tls=tls, keep_memory=keep_memory
                    )
                    sides[name].clients.append(stack.enter_context(client))
            yield sides


def _paths(config: Any) -> dict[str, str]:
    return {name: str(getattr(config, name)) for name in ("ca", "certificate", "private_key")}


class Processors:
    """Notes the processor time that a job took per unit of work, by side: hardly disturbed by what else runs."""

    def __init__(self, case: str, unit: str, factor: float = 1.0) -> None:
        self._case = case
        self._unit = unit
        self._factor = factor
        self._values: dict[str, list[tuple[float, float]]] = {}

    @contextmanager
    def count(self, side: Side, work: float) -> Iterator[None]:
        """Count what is used in the context, in which ``work`` units are done."""
        before = side.used()
        yield
        after = side.used()
        server, clients = ((late - early) / work for late, early in zip(after, before, strict=True))
        self._values.setdefault(side.name, []).append((server, clients))

    def notes(self) -> dict[str, float]:
        """Return the medians, each under a sentence."""
        found: dict[str, float] = {}
        for side, values in self._values.items():
            for role, used in zip(("server", "clients"), zip(*values, strict=True), strict=True):
                found[f"{self._case}: {self._unit}, {role}, {side}"] = statistics.median(used) * self._factor
        return found


def interleaved(
    sides: Mapping[str, Side], rounds: int, job: Callable[[Side], float], *, warm_up: int = 1
) -> dict[str, list[float]]:
    """Let every side do the job ``rounds`` times, in turns, after a warm-up of each; return what the jobs returned."""
    values: dict[str, list[float]] = {name: [] for name in sides}
    for side in sides.values():
        for _ in range(warm_up):
            job(side)
    names = list(sides)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            values[name].append(job(sides[name]))
    return values


def _cell(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def report_sides(
    title: str,
    rows: Sequence[Measurement],
    bench: Reported,
    *,
    notes: Mapping[str, float] | None = None,
    compared: str = "the better grpcio",
) -> None:
    """Print one table, and write the JSON file if one was asked for. ``notes`` are figures beside the table."""
    sides = (OURS, *rows[0].peers) if rows else (OURS, SYNC, AIO)
    record = machine() | {"peers": bench.peer_versions}
    print(title)
    print(f"{record['processor']}, {record['cpus']} CPUs, {record['python']}, {record['system']}")
    print(f"peers: {bench.peer_versions or 'none'}")
    table: list[tuple[str, ...]] = [("case", "unit", *sides, f"times as good as {compared}")]
    for row in rows:
        one = row.summary()
        ratio = "not measured"
        if one["ratio"] is not None:
            ratio = f"{one['ratio']:.2f} ({one['ratio_min']:.2f} to {one['ratio_max']:.2f})"
        table.append((row.case, row.unit, *(_cell(one["figures"][side]) for side in sides), ratio))
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    for line in table:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())
    for name, value in (notes or {}).items():
        print(f"{name}: {_cell(value)}")
    if bench.options.json is not None:
        result = {
            "title": title,
            "small": bench.options.small,
            "machine": record,
            "measurements": [row.summary() for row in rows],
            "notes": dict(notes or {}),
        }
        bench.options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
