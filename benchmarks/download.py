"""How fast does a collaborator get one tensor from an aggregator, ours against grpcio with an answer that lies ready?

Both end with a numpy array that is a view of what came. Ours looks the tensor up, and encodes it once a round. Server
and client are processes, over TCP on the loopback.
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
                with used.count(side, nbytes / GB):
                    seconds = side.all("download")
                return nbytes / seconds / GB

            with bench.aggregators(nbytes // FLOAT, [["one"]], tls=tls) as sides:
                for side in sides.values():
                    side.all("download", check=True)
                rounds = max(2, round(options.pairs * share))
                rows.append(Measurement(case, "GB/s", interleaved(sides, rounds, job)))
                notes |= used.notes()
        report_sides("download: one float32 tensor to one collaborator", rows, bench, notes=notes)


if __name__ == "__main__":
    main()
