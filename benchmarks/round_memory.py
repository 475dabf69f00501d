"""What memory does a round take at the aggregator, with 4, 16 and 64 collaborators that train a tensor of 128 MiB?

All hand in at once, over connections of their own; the aggregator keeps the uploads in its journal on disk, averages
them and opens the next round, and then every collaborator gets the model's delta. Memory is what no file backs, at most,
above that of an aggregator that has no model yet. The weighted average may take two sizes of the tensor and
64 MiB, however many collaborators there are, robust functions 1 GiB; more ends the benchmark with an error.
"""

from __future__ import annotations

import argparse
import shutil
import sys

from _processes import Program
from _sides import HERE, OURS, Bench, Measurement, PeakMemory, network_arguments, report_sides

MIB = 2**20
AVERAGE = "weighted_average"
ROBUST = ("median", "geometric_median", "multi_krum")
COPIES = 8  # on disk besides the uploads, in sizes of the tensor


def add_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--size", type=int, default=0, metavar="MIB", help="size of the tensor (128; 8 with --small)")
    parser.add_argument("--collaborators", type=int, nargs="+", default=[], metavar="N", help="how many (4 16 64)")


def play(bench: Bench, count: int, function: str, nbytes: int, rounds: int) -> tuple[list[float], float]:
    """Return the seconds that each round took, and the peak of the memory in bytes."""
    folder = bench.folder / f"{function}_{count}"
    settings = {"names": [f"c{number}" for number in range(count)], "nbytes": nbytes}
    server_settings = settings | {"role": "server", "folder": str(folder), "function": function}
    script = HERE / "_ours" / "memory.py"
    seconds = []
    with Program(sys.executable, script, server_settings) as server, PeakMemory(server, every=0.005) as memory:
        client_settings = settings | {"role": "clients", "port": server.ready["port"]}
        with Program(sys.executable, script, client_settings) as clients:
            clients.ask("next_task")
            clients.ask("download")
            for _ in range(rounds):
                seconds.append(clients.ask("upload")["seconds"] + clients.ask("next_task")["seconds"])
                clients.ask("download")
    shutil.rmtree(folder)
    return seconds, memory.peak - server.ready["idle"]


def main() -> None:
    options = network_arguments(__doc__, rounds=3, more=add_size)
    mib = options.size or (8 if options.small else 128)
    counts = options.collaborators or ([4, 16] if options.small else [4, 16, 64])
    cases = [(count, AVERAGE) for count in counts] + [(min(16, max(5, counts[-1])), function) for function in ROBUST]
    rows, beyond = [], []
    with Bench(options) as bench:
        free, needed = shutil.disk_usage(bench.folder).free // MIB, (max(counts) + COPIES) * mib
        if free < needed:
            sys.exit(
                f"{bench.folder} has {free} MiB free, {needed} are needed; give fewer collaborators or a smaller size"
            )
        for count, function in cases:
            name = f"{function}, {count} x {mib} MiB"
            if not bench.wanted(name):
                continue
            seconds, peak = play(bench, count, function, mib * MIB, options.pairs)
            allowed = 2 * mib + 64 if function == AVERAGE else max(8 * mib, 128)
            rows.append(Measurement(f"{name}: at most {allowed}", "MiB", {OURS: [peak / MIB]}, more_is_better=False))
            rows.append(Measurement(f"{name}: upload and aggregate", "s", {OURS: seconds}, more_is_better=False))
            if peak > allowed * MIB:
                beyond.append(name)
        report_sides("memory of a round, plaintext, journal on disk", rows, bench)
    if beyond:
        sys.exit(f"more memory than is allowed: {'; '.join(beyond)}")


if __name__ == "__main__":
    main()
