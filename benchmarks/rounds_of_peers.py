"""How long is a round without training, and what memory has the server, ours beside Flower, NVFlare, OpenFL 1.6 and 1.9?

Each system runs the same federation with its own programs on this machine: a server, a process for each collaborator,
federated averaging, and a task that hands the model in as it came. A round is the time from the first collaborator
that begins it to the first one that begins the next; the figure is the median of the rounds after the first. All but
NVFlare's, which has its certificates, are in plaintext. Peers come from environments of their own: give each one's
Python by ``--peer NAME=PATH`` (names: flower, nvflare, openfl-1.6, openfl-1.9); without any there is only ours.

As they come, or with ``--tuned``: OpenFL's ``client_reconnect_interval`` and NVFlare's ``task_request_interval`` are
shorter. Of Flower no setting was found that shortens a round: the pauses of 3 s in its grid and nodes are in its code.
Memory is the most that the server's processes had together, with the files that they map and without.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from _harness import machine
from _processes import Program
from _sides import HERE, OURS, network_arguments

MIB = 2**20
MILLION = 10**6
ROUNDS = HERE / "_peers" / "rounds"
PROGRAMS = {"flower": "flower.py", "nvflare": "flare.py", "openfl-1.6": "fx.py", "openfl-1.9": "fx.py"}
# case, parameters, collaborators
CASES = [
    ("10 M x 8", 10 * MILLION, 8),
    ("32 M x 4", 32 * MILLION, 4),
    ("1 M x 16", MILLION, 16),
    ("tiny x 4", 1000, 4),
    ("256 M x 2", 256 * MILLION, 2),
]
SMALL = [("tiny x 2", 1000, 2)]


@dataclass(frozen=True, slots=True)
class Played:
    """What one system made of one case: seconds of each round, and bytes of the server at most."""

    seconds: list[float]
    resident: int
    anonymous: int
    why: str = ""  # it could not be played

    @property
    def median(self) -> float | None:
        """Seconds of a round, None if there was none."""
        return statistics.median(self.seconds) if self.seconds else None


class Tree:
    """Watches the memory of processes and all their descendants while the context is entered."""

    def __init__(self, roots: list[int | str], every: float = 0.1) -> None:
        self._roots = roots
        self._every = every
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.resident = self.anonymous = 0

    def __enter__(self) -> Tree:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(self._every):
            resident = anonymous = 0
            for process in self._processes():
                try:
                    text = (process / "status").read_text(encoding="ascii", errors="replace")
                except OSError:
                    continue  # it ended
                sizes = dict(line.split(":", 1) for line in text.splitlines())
                resident += _kib(sizes.get("VmRSS")) * 1024
                anonymous += _kib(sizes.get("RssAnon")) * 1024
            self.resident = max(self.resident, resident)
            self.anonymous = max(self.anonymous, anonymous)

    def _processes(self) -> list[Path]:
        parents: dict[int, int] = {}
        found: set[int] = {root for root in self._roots if isinstance(root, int)}
        words = [root.encode() for root in self._roots if isinstance(root, str)]
        for process in Path("/proc").glob("[0-9]*"):
            try:
                stat = (process / "stat").read_text(encoding="ascii", errors="replace")
                command = (process / "cmdline").read_bytes() if words else b""
            except OSError:
                continue
            parents[int(process.name)] = int(stat.rpartition(")")[2].split()[1])
            if any(word in command for word in words):
                found.add(int(process.name))
        grown = True
        while grown:
            more = {pid for pid, parent in parents.items() if parent in found} - found
            found |= more
            grown = bool(more)
        return [Path("/proc") / str(pid) for pid in found]


def _kib(text: str | None) -> int:
    return int(text.split()[0]) if text else 0


def play(system: str, python: str, parameters: int, collaborators: int, options: argparse.Namespace) -> Played:
    """Let ``system`` run one federation."""
    script = "ours.py" if system == OURS else PROGRAMS[system]
    with tempfile.TemporaryDirectory(prefix="rounds", ignore_cleanup_errors=True) as folder:
        settings = {
            "parameters": parameters,
            "collaborators": collaborators,
            "rounds": options.pairs + 2,  # the first one has the start of all processes in it, and of the last no end
            "folder": folder,
            "tuned": options.tuned,
            "patience": options.patience,
        }
        with ExitStack() as stack:
            try:
                program = stack.enter_context(Program(python, ROUNDS / script, settings))
                with Tree(program.ready["servers"]) as tree:
                    began = program.ask("run")["began"]
            except SystemExit as exc:  # how a program says that it failed
                why = str(exc)
                print(f"{system}: {why}", file=sys.stderr, flush=True)
                return Played([], 0, 0, _reason(why))
    return Played([late - early for early, late in itertools.pairwise(began[1:])], tree.resident, tree.anonymous)


def _reason(text: str) -> str:
    """Return the line of a traceback that says what happened."""
    lines = [line for line in text.partition("--- ")[0].splitlines() if line and not line.startswith((" ", "\t"))]
    return lines[-1] if lines else "it ended without a word"


def main() -> None:
    options = network_arguments(__doc__, rounds=5, more=add_options)
    peers = dict(one.split("=", 1) for one in options.peer)
    unknown = sorted(set(peers) - set(PROGRAMS))
    if unknown:
        sys.exit(f"--peer: expected {', '.join(PROGRAMS)}, got {', '.join(unknown)}")
    systems = {OURS: sys.executable} | peers
    measurements: list[dict[str, Any]] = []
    print("a round without training: seconds, and the server's memory at most (with mapped files / without)")
    record = machine() | {"peers": peers or None, "tuned": options.tuned}
    print(f"{record['processor']}, {record['cpus']} CPUs, {record['python']}, {record['system']}")
    for case, parameters, collaborators in SMALL if options.small else CASES:
        if options.only not in case:
            continue
        played = {}
        for system, python in systems.items():
            played[system] = one = play(system, python, parameters, collaborators, options)
            print(f"{case:10} {system:11} {describe(one)}", flush=True)
            time.sleep(0.5)
        for system in PROGRAMS.keys() - peers.keys():
            print(f"{case:10} {system:11} not measured: no --peer {system}=PYTHON")
        measurements.append(summary(case, played))
        print(f"{case:10} {ratios(measurements[-1])}", flush=True)
    if options.json is not None:
        result = {"title": "rounds of peers", "small": options.small, "machine": record, "measurements": measurements}
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--peer", action="append", default=[], metavar="NAME=PYTHON", help="a peer's own Python")
    parser.add_argument("--tuned", action="store_true", help="with what their documentation says makes them faster")
    parser.add_argument(
        "--patience", type=float, default=300.0, metavar="S", help="seconds that one federation may take"
    )


def describe(one: Played) -> str:
    if one.median is None:
        return f"not measured: {one.why}"
    spread = f"{min(one.seconds):.3f} to {max(one.seconds):.3f}"
    return f"{one.median:8.3f} s ({spread}), {one.resident / MIB:6.0f} / {one.anonymous / MIB:6.0f} MiB"


def summary(case: str, played: dict[str, Played]) -> dict[str, Any]:
    """Return what the file says of a case: the best peer is the one with the shortest round."""
    figures: dict[str, float | None] = dict.fromkeys(PROGRAMS)
    figures |= {system: one.median for system, one in played.items()}
    timed = {system: figure for system, figure in figures.items() if figure is not None and system != OURS}
    best = min(timed, key=lambda system: timed[system]) if timed else None
    ours = figures[OURS]
    memory = {system: [one.resident, one.anonymous] for system, one in played.items()}
    found = best is not None and ours is not None
    return {
        "case": case,
        "unit": "s",
        "figures": figures,
        "rounds": {system: one.seconds for system, one in played.items()},
        "why": {system: one.why for system, one in played.items() if one.why},
        "memory": memory,
        "best_peer": best,
        "ratio": timed[best] / ours if found else None,  # type: ignore[index, operator]
        "memory_ratio": memory[best][0] / memory[OURS][0] if found else None,  # type: ignore[index]
    }


def ratios(row: dict[str, Any]) -> str:
    if row["ratio"] is None:
        return "beside the best peer: not measured"
    return (
        f"beside {row['best_peer']}, the best peer: {row['ratio']:.1f} times as fast, "
        f"its memory {row['memory_ratio']:.1f} times ours"
    )


if __name__ == "__main__":
    main()
