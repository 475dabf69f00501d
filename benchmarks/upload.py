"""How fast does an aggregator take in one tensor from a collaborator, ours with its journal, against grpcio without one?

Ours checks the upload, indexes it, keeps it in the journal's file in a folder of the temporary directory, and answers
when it is ready to be aggregated; the round that it ends is aggregated, and its model written, before the next upload
begins, outside of the clock. grpcio receives, parses the chunks and looks at their bytes through a view, no more.
Server and client are processes, over TCP on the loopback.
"""

from __future__ import annotations

from _sides import GB, Bench, Measurement, Processors, Side, interleaved, network_arguments, report_sides

FLOAT = 4
MIB = 2**20
# case, bytes, mutual TLS, share of the rounds
CASES = [("128 MiB", 128 * MIB, False, 1.0), ("1 GiB", 1024 * MIB, False, 0.4), ("128 MiB, mTLS", 128 * MIB, True, 1.0)]
SMALL = [("64 KiB", MIB // 16, False, 1.0), ("4 MiB, mTLS", 4 * MIB, True, 1.0)]


def main() -> None:
    options = network_arguments(__doc__, rounds=9)
    rows: list[Measurement] = []
    notes: dict[str, float] = {}
    with Bench(options) as bench:
        for case, nbytes, tls, share in SMALL if options.small else CASES:
            if not bench.wanted(case):
                continue
            used = Processors(case, "seconds of processor time per GB")

            def job(side: Side, nbytes: int = nbytes, used: Processors = used) -> float:
                side.next_task()
                side.settle()
                with used.count(side, nbytes / GB):
                    seconds = side.all("upload")
                return nbytes / seconds / GB

            with bench.aggregators(nbytes // FLOAT, [["one"]], tls=tls) as sides:
                rounds = max(2, round(options.pairs * share))
                rows.append(Measurement(case, "GB/s", interleaved(sides, rounds, job)))
                notes |= used.notes()
        report_sides("upload: one float32 tensor from one collaborator", rows, bench, notes=notes)


if __name__ == "__main__":
    main()
