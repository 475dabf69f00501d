"""How fast does one tensor that no message can hold go up and down between our peers, and what memory does it take?

One collaborator gets a tensor of 2 GiB (``--size 8192`` for 8 GiB), checks it, and hands it in; the aggregator keeps the
upload in its journal on disk, aggregates it and opens the next round. With OpenFL 1.6 this cannot be measured: it ends
at messages of 1 GiB. Memory is what the server itself made: of the initial model and the journal, which are mapped
from files, it has as much as the system likes.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from _processes import Program
from _sides import GB, HERE, OURS, Bench, Measurement, PeakMemory, network_arguments, report_sides

MIB = 2**20
COPIES = 4  # on disk, in sizes of the model: the initial one, the upload, the model of a round before, and room


def add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=0, metavar="MIB", help="size of the tensor (2048; 8 with --small)")


def main() -> None:
    options = network_arguments(__doc__, rounds=3, more=add_size)
    mib = options.size or (8 if options.small else 2048)
    nbytes = mib * MIB
    seconds: dict[str, list[float]] = {"down": [], "up": [], "next_task": []}
    with Bench(options) as bench:
        free = shutil.disk_usage(bench.folder).free
        if free < COPIES * nbytes:
            sys.exit(f"{bench.folder} has {free // MIB} MiB free, {COPIES * mib} are needed; give a smaller --size")
        settings = {"nbytes": nbytes, "folder": str(bench.folder)}
        with (
            Program(sys.executable, HERE / "_ours" / "large.py", settings | {"role": "server"}) as server,
            Program(
                sys.executable, HERE / "_ours" / "large.py", settings | {"role": "client", "port": server.ready["port"]}
            ) as client,
        ):
            before = server.anonymous()
            client.ask("next_task")
            with PeakMemory(server, every=0.05) as memory:
                for _ in range(options.pairs):
                    for op, values in seconds.items():
                        values.append(client.ask(op)["seconds"])
            after = server.anonymous()
        names = {"down": "down", "up": "up", "next_task": "aggregate, next round"}
        rows = [
            Measurement(f"{mib} MiB {names[op]}", "GB/s", {OURS: [nbytes / one / GB for one in values]})
            for op, values in seconds.items()
        ]
        notes = {
            "memory of the server before, MiB": before / MIB,
            "at most, MiB": memory.peak / MIB,
            "afterwards, MiB": after / MIB,
            "growth at most, in sizes of the tensor": (memory.peak - before) / nbytes,
        }
        report_sides(f"one tensor of {mib} MiB, plaintext, journal on disk", rows, bench, notes=notes)


if __name__ == "__main__":
    main()
