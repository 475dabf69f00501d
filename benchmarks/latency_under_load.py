"""How slow is the slowest of 50 small calls a second while 8 collaborators upload 128 MiB each and the round is aggregated?

A small call is GetExperimentDescription, made when it is due whether or not the last one is answered, by a process of
its own; what it took is counted from when it was due. The collaborators are in two processes. Ours keeps the uploads in
its journal and aggregates them; grpcio looks at the bytes and drops them. All on the loopback, in plaintext.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack

from _sides import GB, OURS, Bench, Measurement, Side, network_arguments, report_sides

FLOAT = 4
MIB = 2**20
PROCESSES = 2


def main() -> None:
    options = network_arguments(__doc__, rounds=5)
    nbytes, count = (MIB, 2) if options.small else (128 * MIB, 8)
    names = [f"collaborator_{number}" for number in range(count)]
    lists = [names[i::PROCESSES] for i in range(PROCESSES)]
    slowest: dict[str, list[float]] = {}
    median: dict[str, list[float]] = {}
    rate: dict[str, list[float]] = {}
    with Bench(options) as bench, bench.aggregators(nbytes // FLOAT, lists) as sides, ExitStack() as stack:
        callers = {
            name: stack.enter_context(bench.client(name, side.server.ready["port"], [names[0]], 1, tls=False))
            for name, side in sides.items()
        }

        def play(side: Side) -> tuple[list[float], float]:
            """Play one round; return what the small calls took, and the seconds of the uploads."""
            callers[side.name].ask("tiny_start", rate=50)
            seconds = side.all("upload")
            side.next_task()  # answered when the round is aggregated
            return callers[side.name].ask("tiny_stop")["seconds"], seconds

        for side in sides.values():
            side.next_task()
            play(side)
        for number in range(options.pairs):
            for side in list(sides.values())[:: 1 if number % 2 else -1]:
                calls, seconds = play(side)
                slowest.setdefault(side.name, []).append(max(calls) * 1e3)
                median.setdefault(side.name, []).append(statistics.median(calls) * 1e3)
                rate.setdefault(side.name, []).append(count * nbytes / seconds / GB)
        rows = [
            Measurement("slowest call of all rounds", "ms", slowest, more_is_better=False, slowest=True),
            Measurement("slowest call of a round, median", "ms", slowest, more_is_better=False),
            Measurement("median call", "ms", median, more_is_better=False),
            Measurement(f"{count} uploads of {nbytes // MIB} MiB together", "GB/s", rate),
        ]
        counted = sides[OURS].server.ask("statistics")
        stalls = {f"ours, {name}": float(value) for name, value in counted.items() if "stall" in name}
        report_sides("latency under load: small calls beside uploads", rows, bench, notes=stalls)


if __name__ == "__main__":
    main()
