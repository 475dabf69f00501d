"""The run that was never killed, of a federation in which a clock decides who counts.

Who counted in which round is not told by anybody, but it can be found: only one choice of sites gives the model that the
clients got. It must be a choice that fits what they saw: whoever had handed in everything while the round was open
counts, and whoever handed in nothing before it was over does not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from openfl_aio.aggregator.closing import RoundOutcome, States, aggregate_round
from openfl_aio.aggregator.models import GlobalModels
from openfl_aio.config import default_tasks
from openfl_aio.domain import Metric, ModelKind
from openfl_aio.tensors.aggregation import AggregationFunction, get_aggregation
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.wire.incremental import TensorRecord
from tests.crash.catalogue import Case
from tests.crash.checker import AGGREGATOR, Reference
from tests.crash.history import Fetched, History, Model, Tasks, Upload, Uploaded, digest, digest_model

__all__ = ["TASKS", "ReplayedResult", "replay"]

TASKS = tuple(task.name for task in default_tasks())


@dataclass(frozen=True, slots=True)
class _Record:
    data_size: int
    tensors: tuple[TensorRecord, ...]


class ReplayedResult:
    """An upload as the aggregation sees it."""

    def __init__(self, upload: Upload) -> None:
        self._tensors = upload.tensors
        records = [
            TensorRecord(
                name=tensor.name,
                round_number=tensor.round_number,
                lossless=tensor.lossless,
                report=tensor.report,
                tags=tensor.tags,
                metadata=tensor.metadata,
                offset=index,  # it only tells them apart here
                nbytes=memoryview(tensor.data).nbytes,
            )
            for index, tensor in enumerate(upload.tensors)
        ]
        self.record = _Record(upload.data_size, tuple(records))

    def tensor(self, record: TensorRecord) -> EncodedTensor:
        return self._tensors[record.offset]

    def unload(self, record: TensorRecord) -> None:
        """It lies nowhere else."""


@dataclass(slots=True)
class _Seen:
    """What the clients saw of one round."""

    in_time: set[str] = field(default_factory=set)  # sites that had handed in everything while it was open
    late: set[str] = field(default_factory=set)  # sites that handed in something only when it was over


def replay(case: Case, history: History, initial: Mapping[str, NDArray[np.float32]]) -> tuple[Reference, list[str]]:
    """Return what the choices that fit the history give, and what does not fit."""
    codec, function = TensorCodec(case.pipeline), get_aggregation(case.aggregation)
    models = GlobalModels(initial, initial_round=0, origin=AGGREGATOR, codec=codec, store_rounds=2)
    observed = _observed(history)
    last = next(
        (seen.digest for call in history.calls if isinstance(seen := call.seen, Model) and seen.kind == "last"), ""
    )
    states: States = {}
    aggregated: list[Metric] = []
    for number in range(case.rounds):
        found = None
        for sites in _choices(case, history, number):
            outcome = _aggregate(number, sites, history, models, states, codec, function)
            if _fits(outcome, observed.get(number + 1, {}), last if number + 1 == case.rounds else ""):
                found = outcome, sites
                break
        if found is None:
            return Reference(None, None), [f"no choice of sites gives the model of round {number + 1} that clients got"]
        outcome, sites = found
        states = outcome.states
        models.close_round(outcome)
        aggregated += [Metric(AGGREGATOR, m.task_name, m.name, m.value, number) for m in outcome.metrics]
    best = models.model(ModelKind.BEST)
    return (
        Reference(
            last=digest_model(models.current),
            best=None if best is None else digest_model(best),
            aggregated=tuple(aggregated),
        ),
        [],
    )


def _observed(history: History) -> dict[int, dict[str, str]]:
    found: dict[int, dict[str, str]] = {}
    for call in history.answered(Fetched):
        seen = call.seen
        assert isinstance(seen, Fetched)
        if seen.tags == ("model",):
            found.setdefault(seen.round_number, {})[seen.name] = seen.digest
    return found


def _choices(case: Case, history: History, number: int) -> Iterator[tuple[str, ...]]:
    """Yield who may have counted, the largest choice first."""
    sent = {site for site in case.collaborators if all((site, number, task) in history.uploads for task in TASKS)}
    seen = _seen(history, number)
    may = sorted(sent - seen.late - seen.in_time)
    for count in range(len(may), -1, -1):
        for some in combinations(may, count):
            chosen = tuple(sorted({*some, *seen.in_time}))
            if chosen:
                yield chosen


def _seen(history: History, number: int) -> _Seen:
    last_open, first_over = -1, 1 << 60
    begins: dict[tuple[str, str], int] = {}
    ends: dict[tuple[str, str], int] = {}
    for call in history.calls:
        what = call.seen
        if call.ended is None:
            continue
        if isinstance(what, Tasks) and what.round_number == number and what.names:
            last_open = max(last_open, call.began)
        elif isinstance(what, Tasks) and what.round_number > number:
            first_over = min(first_over, call.ended)
        elif isinstance(what, Uploaded) and what.round_number == number:
            key = call.site, what.task_name
            begins[key], ends[key] = (
                min(call.began, begins.get(key, call.began)),
                min(call.ended, ends.get(key, call.ended)),
            )
    seen = _Seen()
    for site in {site for site, _ in ends}:
        keys = [(site, task) for task in TASKS]
        if all(key in ends and ends[key] < last_open for key in keys):
            seen.in_time.add(site)
        if any(key in begins and begins[key] > first_over for key in keys):
            seen.late.add(site)
    return seen


def _aggregate(
    number: int,
    sites: tuple[str, ...],
    history: History,
    models: GlobalModels,
    states: States,
    codec: TensorCodec,
    function: AggregationFunction,
) -> RoundOutcome:
    results = {
        task: {site: ReplayedResult(history.uploads[site, number, task]) for site in sites} for task in sorted(TASKS)
    }
    return aggregate_round(
        number,
        results,
        models.current,
        codec=codec,
        function_of=lambda _: function,
        origin=AGGREGATOR,
        states=states,
        history=models.history(),
    )


def _fits(outcome: RoundOutcome, observed: Mapping[str, str], last: str | None) -> bool:
    if last and digest_model(outcome.model) != last:
        return False
    return all(digest(np.ascontiguousarray(outcome.model[name])) == seen for name, seen in observed.items())
