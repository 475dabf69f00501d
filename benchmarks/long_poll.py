"""What memory does an envoy that waits for an experiment cost the server, and how soon are all awake after a submit?

Each envoy waits in WaitExperiment over a connection of its own, on the loopback; the clients are ours with every
server, in processes of their own. Memory is the growth of what the server made itself (``RssAnon``) per envoy, from
when a few were connected to when all wait. The clock for waking starts when an experiment for all of them is submitted
(with grpcio's servers: when the waiting calls are let go, without any experiment) and stops when the last one has its
name, the clients' own work included.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from _harness import expect
from _processes import Program, together
from _sides import HERE, OURS, Bench, Measurement, network_arguments, report_sides

KIB, MIB = 2**10, 2**20
FIRST = 10  # envoys that are connected before the memory is counted
WAIT_SECONDS = 60.0
# case, envoys, mutual TLS, processes of clients, on all sides
CASES = [
    ("1,000", 1_000, False, 1, True),
    ("1,000, mTLS", 1_000, True, 1, True),
    ("10,000", 10_000, False, 2, False),
    ("10,000, mTLS", 10_000, True, 2, False),
]
SMALL = [("30", 30, False, 1, True), ("30, mTLS", 30, True, 2, True)]


@dataclass(slots=True)
class Crowd:
    """A server and the envoys of it."""

    name: str
    server: Program
    processes: list[Program]
    names: Sequence[str]
    number: int = 0
    waking: list[float] = field(default_factory=list)

    def park(self) -> None:
        """Let all wait, and return when the server has all their calls."""
        together(self.processes, "wait")
        end = time.monotonic() + WAIT_SECONDS
        while (parked := self.server.ask("parked")["parked"]) < len(self.names):
            expect(time.monotonic() < end, f"{parked} of {len(self.names)} envoys wait with {self.name}")
            time.sleep(0.02)

    def wake(self) -> float:
        """Wake all who wait; return the seconds until the last one knew."""
        experiment = f"experiment_{self.number}"
        self.number += 1
        if self.name == OURS:
            start = self.processes[0].ask("submit", experiment=experiment, envoys=list(self.names))["start"]
        else:
            start = self.server.ask("wake", name=experiment)["start"]
        _, answers = together(self.processes, "woken", experiment=experiment)
        if self.name == OURS:
            self.processes[0].ask("remove", experiment=experiment)
        return max(float(answer["last"]) for answer in answers) - float(start)


def measure(
    bench: Bench, case: str, envoys: int, tls: bool, processes: int, sides: Sequence[str], pairs: int
) -> tuple[list[Measurement], dict[str, float]]:
    names = [f"envoy_{number}" for number in range(envoys)]
    memory: dict[str, list[float]] = {}
    notes: dict[str, float] = {}
    with ExitStack() as stack:
        crowds: list[Crowd] = []
        for side in sides:
            settings = {"kind": "director"} if side == OURS else {"workers": envoys + 50}
            server = stack.enter_context(bench.server(side, tls=tls, parameters=1, **settings))
            clients = []
            for mine in (names[i::processes] for i in range(processes)):
                values = {"port": server.ready["port"], "names": mine, "tls": bench.client_tls(mine) if tls else None}
                clients.append(stack.enter_context(Program(sys.executable, HERE / "_ours" / "envoys.py", values)))
            crowd = Crowd(side, server, clients, names)
            crowds.append(crowd)
            together(clients, "connect", count=FIRST)
            before = server.anonymous()
            seconds, _ = together(clients, "connect", count=envoys)
            crowd.park()
            memory[side] = [(server.anonymous() - before) / (envoys - FIRST * processes) / KIB]
            notes[f"{case}: seconds to connect and register all, {side}"] = seconds
            notes[f"{case}: MiB of the server's memory in all, {side}"] = server.anonymous() / MIB
            crowd.wake()
        for number in range(pairs):
            for crowd in crowds[:: 1 if number % 2 else -1]:
                crowd.park()
                crowd.waking.append(crowd.wake())
        rows = [
            Measurement(f"{case} envoys: memory of each", "KiB", memory, more_is_better=False),
            Measurement(
                f"{case} envoys: all woken", "s", {crowd.name: crowd.waking for crowd in crowds}, more_is_better=False
            ),
        ]
    return rows, notes


def main() -> None:
    options = network_arguments(__doc__, rounds=5)
    rows: list[Measurement] = []
    notes: dict[str, float] = {}
    with Bench(options) as bench:
        for case, envoys, tls, processes, everywhere in SMALL if options.small else CASES:
            if not bench.wanted(case):
                continue
            sides = bench.sides if everywhere else (OURS,)
            more, told = measure(bench, case, envoys, tls, processes, sides, options.pairs)
            rows += more
            notes |= told
        report_sides("long poll: envoys that wait for an experiment", rows, bench, notes=notes)


if __name__ == "__main__":
    main()
