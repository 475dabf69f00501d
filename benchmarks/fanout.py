"""How fast do 32 collaborators get the same tensor at once, and how much does the server's memory grow by it?

The rate is that of all together. The memory is what the server made itself (``RssAnon``), its highest value less what
it had before the first answer: one encoded tensor is in it. The collaborators are in two processes, each over a
connection of its own, in plaintext on the loopback. Their memory, unlike the server's, is kept by the allocator: to
write to fresh pages for 32 tensors on one machine takes longer than to send them.
"""

from __future__ import annotations

from _sides import GB, Bench, Measurement, PeakMemory, Processors, Side, interleaved, network_arguments, report_sides

FLOAT = 4
MIB = 2**20
PROCESSES = 2


def main() -> None:
    options = network_arguments(__doc__, rounds=5)
    nbytes, clients = (MIB, 4) if options.small else (64 * MIB, 32)
    names = [f"collaborator_{number}" for number in range(clients)]
    case = f"{nbytes // MIB} MiB to {clients}"
    used = Processors(case, "seconds of processor time per GB")
    lists = [names[i::PROCESSES] for i in range(PROCESSES)]
    with Bench(options) as bench, bench.aggregators(nbytes // FLOAT, lists, keep_memory=True) as sides:
        grown: dict[str, list[float]] = {}
        for side in sides.values():
            idle = side.server.anonymous()
            with PeakMemory(side.server) as memory:
                side.all("download", check=True)
                side.all("download")
            grown[side.name] = [(memory.peak - idle) / MIB]

        def job(side: Side) -> float:
            with used.count(side, clients * nbytes / GB):
                seconds = side.all("download")
            return clients * nbytes / seconds / GB

        values = interleaved(sides, options.pairs, job, warm_up=0)
        rows = [
            Measurement(case, "GB/s", values),
            Measurement("growth of the server's memory", "MiB", grown, more_is_better=False),
        ]
        report_sides("fan-out: one tensor to many collaborators at once", rows, bench, notes=used.notes())


if __name__ == "__main__":
    main()
