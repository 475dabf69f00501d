"""What must hold of a history, whenever the server was killed.

- An upload that was answered OK is counted exactly once: the model is the one of a run that was never killed, to the
  bit, and its metrics are in the log of metrics once. Sent again, also with other content, it changes nothing.
- The round never goes back: of two answers, the one that was asked for later does not name an earlier round. Nobody is
  asked for what was answered, and whoever was told to quit stays so, as does everybody else.
- A tensor of a round has one value for all who ask, whenever they do.
- The log of metrics only grows: what a reader saw at an offset stays there.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Set
from dataclasses import dataclass, field
from itertools import pairwise

from openfl_aio.domain import Metric
from tests.crash.history import Call, Fetched, History, Metrics, Model, Tasks, Uploaded

__all__ = ["AGGREGATOR", "Reference", "judge", "reference_of"]

AGGREGATOR = "aggregator"


@dataclass(frozen=True, slots=True)
class Reference:
    """What a federation gives that was never killed.

    ``tensors``: digests by name, round and tags. ``aggregated``: the aggregator's metrics in order. ``local``: those of
    the sites, whose order is chance; None where some may be missing because their site was late.
    """

    last: str | None
    best: str | None
    tensors: dict[tuple[str, int, tuple[str, ...]], str] = field(default_factory=dict)
    aggregated: tuple[Metric, ...] = ()
    local: Counter[Metric] | None = None


def reference_of(history: History) -> Reference:
    """Return what the history of a run that was not killed says."""
    tensors = {}
    for call in history.answered(Fetched):
        seen = call.seen
        assert isinstance(seen, Fetched)
        tensors[seen.name, seen.round_number, seen.tags] = seen.digest
    metrics = _longest(history)
    models = {seen.kind: seen.digest for call in history.calls if isinstance(seen := call.seen, Model)}
    return Reference(
        last=models.get("last"),
        best=models.get("best"),
        tensors=tensors,
        aggregated=tuple(metric for metric in metrics if metric.origin == AGGREGATOR),
        local=Counter(metric for metric in metrics if metric.origin != AGGREGATOR),
    )


def judge(history: History, reference: Reference, *, died: Set[str] = frozenset()) -> list[str]:
    """Return every promise that the history breaks, in words; each kind a few times at most.

    Sites that ``died`` meanwhile may have been answered what nobody heard, are given training anew, since what comes
    after it needs what it made, and need not have been there at the end.
    """
    broken = [
        *_rounds(history),
        *_asked_again(history, died),
        *_tensors(history, reference),
        *_log_of_metrics(history),
        *_counted(history, reference, died),
        *_models(history, reference),
        *_ends(history, died),
    ]
    return list(dict.fromkeys(broken))


def _rounds(history: History) -> list[str]:
    """Compare each answer with all that were there when it was asked for."""
    highest = -1
    known: dict[int, int] = {}
    broken = []
    for call, began in _timeline(history):
        if not isinstance(call.seen, Tasks):
            continue
        if began:
            known[id(call)] = highest
            continue
        # whoever is told to quit is told so after the last round, also where the answer names that one
        number = call.seen.round_number + (1 << 40 if call.seen.quit else 0)
        if number < known[id(call)]:
            broken.append(
                f"the round went back: {call.site} was told {_round(number)} after somebody knew {_round(known[id(call)])}"
            )
        highest = max(highest, number)
    return broken[:3]


def _round(number: int) -> str:
    return "to quit" if number >= 1 << 40 else f"round {number}"


def _asked_again(history: History, died: Set[str]) -> list[str]:
    """Find tasks that were handed out although their results had been answered before the question."""
    done: dict[str, set[tuple[int, str]]] = defaultdict(set)
    known: dict[int, set[tuple[int, str]]] = {}
    broken = []
    for call, began in _timeline(history):
        seen = call.seen
        if isinstance(seen, Uploaded) and not began:
            done[call.site].add((seen.round_number, seen.task_name))
        elif isinstance(seen, Tasks) and began:
            known[id(call)] = set(done[call.site])
        elif isinstance(seen, Tasks) and call.site not in died:
            again = [name for name in seen.names if (seen.round_number, name) in known[id(call)]]
            broken += [
                f"an upload was lost: {call.site} was asked again for {name!r} of round {seen.round_number}"
                for name in again
            ]
    return broken[:3]


def _tensors(history: History, reference: Reference) -> list[str]:
    values = dict(reference.tensors)
    broken = []
    for call in history.answered(Fetched):
        seen = call.seen
        assert isinstance(seen, Fetched)
        expected = values.setdefault((seen.name, seen.round_number, seen.tags), seen.digest)
        if seen.digest != expected:
            broken.append(
                f"the model differs: {call.site} got {seen.name!r} of round {seen.round_number} with tags "
                f"{list(seen.tags)} as {seen.digest}, expected {expected}"
            )
    return broken[:3]


def _log_of_metrics(history: History) -> list[str]:
    logs = sorted((call.seen.metrics for call in history.calls if isinstance(call.seen, Metrics)), key=len)
    for shorter, longer in pairwise(logs):
        if longer[: len(shorter)] != shorter:
            at = next(i for i, metric in enumerate(shorter) if longer[i] != metric)
            return [f"the log of metrics changed: at offset {at} {shorter[at]} was seen, and {longer[at]}"]
    whole = [len(seen.metrics) for call in history.calls if isinstance(seen := call.seen, Metrics) and seen.whole]
    if whole and min(whole) < len(logs[-1]):
        return [f"the log of metrics ended after {min(whole)} of {len(logs[-1])}"]
    return []


def _counted(history: History, reference: Reference, died: Set[str]) -> list[str]:
    """Compare the log of metrics with what was answered, and with the run that was never killed."""
    metrics = _longest(history)
    if not any(isinstance(call.seen, Metrics) and call.seen.whole for call in history.calls):
        return ["the log of metrics was never read to its end"]
    broken = []
    aggregated = tuple(metric for metric in metrics if metric.origin == AGGREGATOR)
    if aggregated != reference.aggregated:
        broken.append(_difference("aggregated metrics", aggregated, reference.aggregated))
    local = Counter(metric for metric in metrics if metric.origin != AGGREGATOR)
    for metric, count in local.items():
        if count > 1:
            broken.append(f"an upload was counted {count} times: {metric}")
    answered = {
        (call.site, call.seen.round_number, call.seen.task_name)
        for call in history.answered(Uploaded)
        if isinstance(call.seen, Uploaded)
    }
    counted = {(metric.origin, metric.round_number, metric.task_name) for metric in local}
    if reference.local is not None:
        broken += [
            f"an upload was lost: {what} was answered and its metrics are not there" for what in answered - counted
        ]
        if local != reference.local:
            broken.append(_difference("metrics of sites", tuple(local), tuple(reference.local)))
    broken += [
        f"an upload was counted that was never answered: {what}" for what in counted - answered if what[0] not in died
    ]
    return broken[:4]


def _difference(what: str, got: tuple[Metric, ...], expected: tuple[Metric, ...]) -> str:
    wrong = [metric for metric in got if metric not in expected]
    missing = [metric for metric in expected if metric not in got]
    return f"{what} differ: {len(got)} for {len(expected)}, wrong {wrong[:2]}, missing {missing[:2]}"


def _models(history: History, reference: Reference) -> list[str]:
    broken = []
    expected = {"last": reference.last, "best": reference.best}
    seen = [(call.site, model) for call in history.calls if isinstance(model := call.seen, Model)]
    for site, model in seen:
        if model.digest != expected[model.kind]:
            broken.append(f"the {model.kind} model differs: {site} got {model.digest}, expected {expected[model.kind]}")
    broken += [f"nobody got the {kind} model" for kind in expected if kind not in {model.kind for _, model in seen}]
    return broken[:4]


def _ends(history: History, died: Set[str]) -> list[str]:
    last: dict[str, Tasks] = {}
    for call in history.answered(Tasks):
        assert isinstance(call.seen, Tasks)
        last[call.site] = call.seen
    return [f"{site} was never told to quit" for site, seen in last.items() if not seen.quit and site not in died][:3]


def _longest(history: History) -> tuple[Metric, ...]:
    return max((call.seen.metrics for call in history.calls if isinstance(call.seen, Metrics)), key=len, default=())


def _timeline(history: History) -> list[tuple[Call, bool]]:
    """Return the beginnings (True) and ends of the calls that were answered, in order."""
    moments = [
        (moment, call, moment == call.began)
        for call in history.calls
        if call.ended is not None
        for moment in (call.began, call.ended)
    ]
    return [(call, began) for _, call, began in sorted(moments, key=lambda item: item[0])]
