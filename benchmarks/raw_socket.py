"""How many bytes a second does one asyncio connection carry on this machine, with no HTTP/2 and no messages on it?

It is the limit that `upload.py` and `download.py` can come near and not pass: one process writes views of memory that
is warm, another one receives into one buffer and forgets. With TLS it is asyncio's own, both sides with certificates.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack

from _processes import Program
from _sides import GB, HERE, OURS, Bench, Measurement, Side, interleaved, network_arguments, report_sides

MIB = 2**20


def main() -> None:
    options = network_arguments(__doc__, rounds=9)
    nbytes = 4 * MIB if options.small else 1024 * MIB
    script = HERE / "_ours" / "raw.py"
    rows: list[Measurement] = []
    with Bench(options) as bench, ExitStack() as stack:
        for case, tls in ((f"{nbytes // MIB} MiB", False), (f"{nbytes // MIB} MiB, mTLS", True)):
            if not bench.wanted(case):
                continue
            paths = bench.server_tls() if tls else None
            server = stack.enter_context(Program(sys.executable, script, {"role": "server", "tls": paths}))
            paths = bench.client_tls(["one"])["one"] if tls else None
            settings = {"role": "client", "tls": paths, "port": server.ready["port"]}
            client = stack.enter_context(Program(sys.executable, script, settings))
            values = interleaved(
                {OURS: Side(OURS, server, [client])},
                options.pairs,
                lambda side: nbytes / side.all("upload", nbytes=nbytes) / GB,
            )
            rows.append(Measurement(case, "GB/s", values))
        report_sides("raw socket: one asyncio connection, nothing on it", rows, bench)


if __name__ == "__main__":
    main()
