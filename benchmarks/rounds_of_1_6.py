"""How long is a round of collaborators of OpenFL 1.6, unmodified, at our aggregator and at the real one?

A round has OpenFL's three tasks and no training: the model comes down, goes up as it came, and is averaged. Its time is
from the first task that anybody gets in it to the first one of the next, in the middle of a federation. Ours keeps
its journal and writes its models; OpenFL writes its models. The collaborators are threads of a few processes; 32 of
them and the real server take 17 GiB of memory together.

Beside it: how long from when the last result of a round begins to be handed in until every collaborator has a task of
the next round, with a model so small that only waiting counts.
"""

from __future__ import annotations

import sys

from _openfl import OPENFL, OpenFL, openfl_arguments
from _sides import Measurement, report_sides

MILLION = 10**6
MIB = 2**20
# case, collaborators, tensors, parameters of each, processes of collaborators
CASES = [
    ("tiny x 8", 8, 1, 1000, 2),
    ("10 M x 8", 8, 10, MILLION, 4),
    ("10 M x 16", 16, 10, MILLION, 4),
    ("10 M x 32", 32, 10, MILLION, 4),
]
SMALL = [("tiny x 2", 2, 2, 1000, 2)]


def main() -> None:
    options = openfl_arguments(__doc__, rounds=4)
    rows, notes = [], {}
    with OpenFL(options) as bench:
        for case, collaborators, tensors, parameters, processes in SMALL if options.small else CASES:
            if options.only not in case:
                continue
            values, turns = {}, {}
            for side in bench.sides(OPENFL):
                played = bench.play(
                    side,
                    collaborators=collaborators,
                    tensors=tensors,
                    parameters=parameters,
                    # the first round has the start of all processes in it, and of the last no end is seen
                    rounds=options.pairs + 2,
                    processes=processes,
                )
                values[side], turns[side] = played.length, played.every
                if not options.small:  # a federation takes minutes, and what was measured should not be lost
                    print(f"{case}, {side}: {played.median:.3g} s a round", file=sys.stderr, flush=True)
                notes[f"{case}: memory of the server at most, MiB, {side}"] = played.memory / MIB
                notes[f"{case}: processor seconds of a round, server, {side}"] = played.server_work
                notes[f"{case}: processor seconds of a round, collaborators, {side}"] = played.clients_work
            rows.append(Measurement(case, "s a round", values, more_is_better=False, peers=(OPENFL,)))
            if parameters < MILLION:
                case = f"{case}, last result to everybody's next task"
                rows.append(Measurement(case, "s", turns, more_is_better=False, peers=(OPENFL,)))
        title = "a round without training, parameters x collaborators of OpenFL 1.6"
        report_sides(title, rows, bench, notes=notes, compared=OPENFL)


if __name__ == "__main__":
    main()
