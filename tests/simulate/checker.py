"""What must hold of a schedule, whatever went wrong in it.

What clients saw is judged as after real deaths (`tests.crash.checker`). In addition the server's own log is at hand here:

- an upload that was answered ACCEPTED is in the log once, and a site whose results of a round all were, counts in it;
- each round was closed once, with results that were accepted;
- the model is the one without faults, or where a clock decides who counts, that of whom the log says that they do;
- a call has an answer after a bounded number of attempts, and nothing is left when everybody knows of the end.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.aggregator.closing import States, aggregate_round
from openfl_aio.aggregator.models import GlobalModels
from openfl_aio.aggregator.past import Result, read_lines
from openfl_aio.domain import Metric, ModelKind, Verdict
from openfl_aio.tensors.aggregation import get_aggregation
from openfl_aio.tensors.codec import TensorCodec
from tests.crash.checker import Reference, reference_of
from tests.crash.checker import judge as judge_history
from tests.crash.history import digest_model
from tests.crash.replay import TASKS, ReplayedResult
from tests.simulate.schedule import AGGREGATOR
from tests.simulate.site import initial_model
from tests.simulate.world import Played, play

__all__ = ["MOST_ATTEMPTS", "expected", "judge"]

MOST_ATTEMPTS: Final = 60
"""Of one call. With the half of all attempts lost, a server that is away for 3 s and dies 4 times, one in 10^15 takes more."""


def expected(played: Played) -> Reference:
    """Return what the schedule must give: by playing it without faults, or from who counted."""
    if played.schedule.waits_for_all:
        return reference_of(play(played.schedule.without_faults()).history)
    return _recomputed(played, initial_model())


def judge(played: Played, reference: Reference) -> list[str]:
    """Return every promise that was broken, in words; each kind a few times at most."""
    if played.error:
        return [played.error]
    broken = [*judge_history(played.history, reference), *_log(played), *_acknowledged(played)]
    if played.attempts > MOST_ATTEMPTS:
        broken.append(f"a call took {played.attempts} attempts, expected at most {MOST_ATTEMPTS}")
    if played.left_behind:
        broken.append("everybody knew of the end, but not all was forgotten")
    return broken


def _log(played: Played) -> list[str]:
    """Look at what the server wrote: each result accepted once, each round closed once and with such results."""
    accepted: Counter[tuple[int, str, str]] = Counter()
    closed: dict[int, set[Result]] = {}
    broken = []
    for line in played.lines:
        if "accept" in line:
            accepted[line["accept"], line["by"], line["task"]] += 1
        elif "close" in line:
            number = line["close"]
            if number in closed:
                broken.append(f"round {number} was closed twice")
            closed[number] = {(by, task) for by, task in line["results"]}
    broken += [f"{what} was accepted {count} times" for what, count in accepted.items() if count > 1]
    missing = set(range(played.schedule.rounds)) - set(closed)
    broken += [f"round {number} was never closed" for number in sorted(missing)]
    for number, results in closed.items():
        unknown = sorted(result for result in results if (number, *result) not in accepted)
        broken += [f"{result} counts in round {number} and was never accepted" for result in unknown]
    return broken[:4]


def _acknowledged(played: Played) -> list[str]:
    """Compare what sites were told with what the server wrote."""
    past = read_lines(played.lines)
    done: dict[tuple[int, str], set[str]] = defaultdict(set)
    broken = []
    for ack in played.acks:
        if ack.verdict is not Verdict.ACCEPTED:
            continue
        done[ack.round_number, ack.site].add(ack.task_name)
        if (ack.site, ack.task_name) not in past.accepted.get(ack.round_number, []):
            broken.append(f"an upload was lost: {ack} is not in the log")
    for (number, site), tasks in done.items():
        if tasks == set(TASKS) and not {(site, task) for task in tasks} <= set(past.closed.get(number, [])):
            broken.append(f"{site} had handed in all of round {number} before it was closed, and does not count")
    return broken[:4]


def _recomputed(played: Played, initial: Mapping[str, NDArray[np.float32]]) -> Reference:
    """Aggregate, round after round, what the log says that counts."""
    schedule = played.schedule
    codec, function = TensorCodec(schedule.pipeline), get_aggregation(schedule.aggregation)
    models = GlobalModels(initial, initial_round=0, origin=AGGREGATOR, codec=codec, store_rounds=2)
    closed = read_lines(played.lines).closed
    states: States = {}
    aggregated: list[Metric] = []
    for number in range(schedule.rounds):
        results: dict[str, dict[str, ReplayedResult]] = {}
        for site, task in sorted(closed.get(number, []), key=lambda result: result[::-1]):
            if (site, number, task) in played.history.uploads:
                results.setdefault(task, {})[site] = ReplayedResult(played.history.uploads[site, number, task])
        outcome = aggregate_round(
            number,
            results,
            models.current,
            codec=codec,
            function_of=lambda _: function,
            origin=AGGREGATOR,
            states=states,
            history=models.history(),
        )
        states = outcome.states
        models.close_round(outcome)
        aggregated += [Metric(AGGREGATOR, m.task_name, m.name, m.value, number) for m in outcome.metrics]
    best = models.model(ModelKind.BEST)
    return Reference(
        last=digest_model(models.current),
        best=None if best is None else digest_model(best),
        aggregated=tuple(aggregated),
    )
