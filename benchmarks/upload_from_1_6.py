"""How fast does a client of OpenFL 1.6, unmodified, upload one tensor to our aggregator, to the real one, and to nobody?

Ours has its journal on: an upload is in a file when it is answered, and the round that it ends is aggregated, and its
model written, before the next upload begins, outside of the clock. The real aggregator keeps it in memory, and it
aggregates inside of the call. The third server only takes the chunks and throws them away, so that it shows what
the client can do at best. The client makes its message inside of the clock.
"""

from __future__ import annotations

import statistics
from contextlib import ExitStack

from _openfl import DISCARDS, OPENFL, OpenFL, openfl_arguments
from _processes import Program
from _sides import OURS, Measurement, Side, report_sides

MIB = 2**20
FLOAT = 4
# case, bytes, uploads (OpenFL's server needs a minute for the last)
CASES = [("16 MiB", 16 * MIB, 1.0), ("128 MiB", 128 * MIB, 0.6), ("512 MiB", 512 * MIB, 0.4)]
SMALL = [("1 MiB", MIB, 1.0)]


def main() -> None:
    options = openfl_arguments(__doc__, rounds=5)
    rows: list[Measurement] = []
    notes: dict[str, float] = {}
    with OpenFL(options) as bench:
        for case, nbytes, share in SMALL if options.small else CASES:
            if options.only not in case:
                continue
            uploads = max(2, round(options.pairs * share))
            common = {"collaborators": ["one"], "tensors": ["w0"], "tasks": ["train"], "rounds": 1000}
            sides = bench.sides(OPENFL, DISCARDS)
            values: dict[str, list[float]] = {side: [] for side in sides}
            with ExitStack() as stack:
                clients: dict[str, tuple[Side, Program]] = {}
                for side in sides:
                    server = stack.enter_context(bench.server(side, parameters=nbytes // FLOAT, **common))
                    client = stack.enter_context(
                        bench.clients("uploader.py", server, names=["one"], parameters=nbytes // FLOAT)
                    )
                    clients[side] = Side(side, server), client
                for number in range(uploads):
                    for side in sides[number % len(sides) :] + sides[: number % len(sides)]:
                        measured, client = clients[side]
                        client.ask("next_task")
                        measured.settle()
                        values[side].append(nbytes / MIB / client.ask("upload")["seconds"])
            rows.append(Measurement(case, "MiB/s", values, peers=(OPENFL, DISCARDS)))
            if DISCARDS in values:
                at_best = statistics.median(values[DISCARDS])
                for side in (OURS, OPENFL):
                    notes[f"{case}: {side}, in shares of what is discarded"] = statistics.median(values[side]) / at_best
                gain = statistics.median(values[OURS]) / statistics.median(values[OPENFL])
                notes[f"{case}: times as fast as {OPENFL}"] = gain
        report_sides(
            "upload of one float32 tensor by a client of OpenFL 1.6", rows, bench, notes=notes, compared="the best"
        )


if __name__ == "__main__":
    main()
