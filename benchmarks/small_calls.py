"""How many GetTasks a second does a stock grpcio client get answered over one connection, by ours and by grpcio?

Every server is called by both of grpcio's clients, blocking and aio, with 1, 64 and 256 calls in flight; the faster one
counts. Ours is the real aggregator; grpcio's servers answer with the same tasks, unchecked. The last rows are our own
client with our own server; without ``--peer-python`` there is nothing else.
"""

from __future__ import annotations

from contextlib import ExitStack

from _sides import AIO, OURS, SYNC, Bench, Measurement, Side, network_arguments, report_sides

IN_FLIGHT = (1, 64, 256)
PEERS = (SYNC, AIO)


def main() -> None:
    options = network_arguments(__doc__, rounds=5)
    seconds = 0.1 if options.small else 1.5
    levels = IN_FLIGHT[:2] if options.small else IN_FLIGHT
    rows: list[Measurement] = []
    notes: dict[str, float] = {}
    with Bench(options) as bench, ExitStack() as stack:
        sides: dict[str, Side] = {}
        for name in bench.sides:
            settings = {"kind": "aggregator", "collaborators": ["one"]} if name == OURS else {}
            server = stack.enter_context(bench.server(name, tls=False, parameters=1, **settings))
            kinds = PEERS if bench.options.peer_python else ()
            clients = [
                stack.enter_context(bench.client(kind, server.ready["port"], ["one"], 1, tls=False)) for kind in kinds
            ]
            sides[name] = Side(name, server, clients)
        own = stack.enter_context(bench.client(OURS, sides[OURS].server.ready["port"], ["one"], 1, tls=False))
        for level in levels:
            if bench.options.peer_python:
                found: dict[tuple[str, str], list[float]] = {}
                for _ in range(options.pairs):
                    for side in sides.values():
                        for kind, client in zip(PEERS, side.clients, strict=True):
                            rate = client.ask("rate", in_flight=level, seconds=seconds)["rate"]
                            found.setdefault((side.name, kind), []).append(rate)
                best: dict[str, list[float]] = {}
                for name in sides:
                    fastest = max(PEERS, key=lambda kind: sorted(found[name, kind])[options.pairs // 2])
                    best[name] = found[name, fastest]
                    notes[f"{level} in flight: the faster client with {name} is {fastest}; calls/s"] = sorted(
                        best[name]
                    )[options.pairs // 2]
                rows.append(Measurement(f"{level} in flight, grpcio client", "calls/s", best))
        for level in levels:
            rates = [own.ask("rate", in_flight=level, seconds=seconds)["rate"] for _ in range(options.pairs)]
            rows.append(Measurement(f"{level} in flight, our client", "calls/s", {OURS: rates}))
        report_sides("small calls: GetTasks over one connection", rows, bench, notes=notes)


if __name__ == "__main__":
    main()
