"""The checker finds each kind of broken promise in a history that is whole but for that one thing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from openfl_aio.domain import Metric
from tests.crash.checker import AGGREGATOR, Reference, judge, reference_of
from tests.crash.history import Call, Fetched, History, Metrics, Model, Tasks, Uploaded

SITES = ("one", "two")
LOG = tuple(
    metric
    for number in (0, 1)
    for metric in (
        *(Metric(site, "train", "loss", 0.5 + number, number) for site in SITES),
        Metric(AGGREGATOR, "train", "loss", 0.5 + number, number),
    )
)


def whole() -> History:
    """Return what two sites see of two rounds in which nothing goes wrong."""
    history = History()
    for number in (0, 1):
        for site in SITES:
            history.note(site, "tasks", Tasks(number, ("train",)))
            history.note(site, "tensor", Fetched("w", number, ("model",), f"w{number}"))
            history.note(site, "upload", Uploaded(number, "train", f"{site}{number}"))
        history.note("reader", "metrics", Metrics(LOG[: 3 * (number + 1)]))
    for kind in ("last", "best"):
        history.note("reader", "model", Model(kind, kind))
    for site in SITES:
        history.note(site, "tasks", Tasks(2, quit=True))
    history.note("reader", "metrics", Metrics(LOG, whole=True))
    return history


@pytest.fixture
def reference() -> Reference:
    return reference_of(whole())


def find(history: History, kind: type[object], site: str, number: int | None = None) -> Call:
    return next(
        call
        for call in history.answered(kind)
        if call.site == site and number in (None, getattr(call.seen, "round_number", None))
    )


def went_back(history: History) -> None:
    history.note("one", "tasks", Tasks(2, quit=True))
    history.note("two", "tasks", Tasks(1, ("validate",)))
    history.note("two", "tasks", Tasks(2, quit=True))


def asked_again(history: History) -> None:
    find(history, Tasks, "one", 1).seen = Tasks(0, ("train",))


def other_tensor(history: History) -> None:
    find(history, Fetched, "two", 1).seen = Fetched("w", 1, ("model",), "altered")


def other_tensor_for_all(history: History) -> None:
    for site in SITES:
        find(history, Fetched, site, 1).seen = Fetched("w", 1, ("model",), "altered")


def set_log(history: History, log: tuple[Metric, ...], *, all_of_it: bool = True) -> None:
    for call in history.answered(Metrics):
        assert isinstance(call.seen, Metrics)
        if all_of_it:
            call.seen = Metrics(log[: len(call.seen.metrics)], call.seen.whole)
    history.note("reader", "metrics", Metrics(log, whole=True))


def counted_twice(history: History) -> None:
    set_log(history, (*LOG, LOG[0]))


def not_counted(history: History) -> None:
    history.calls = [call for call in history.calls if not isinstance(call.seen, Metrics)]
    set_log(history, LOG[1:])


def never_answered(history: History) -> None:
    history.calls.remove(find(history, Uploaded, "one", 1))


def offset_moved(history: History) -> None:
    set_log(history, (LOG[1], LOG[0], *LOG[2:]), all_of_it=False)


def other_aggregate(history: History) -> None:
    set_log(history, tuple(replace(metric, value=9.0) if metric.origin == AGGREGATOR else metric for metric in LOG))


def log_cut(history: History) -> None:
    history.calls = [call for call in history.calls if not (isinstance(call.seen, Metrics) and call.seen.whole)]


def other_last_model(history: History) -> None:
    history.note("file", "model", Model("last", "altered"))


def no_best_model(history: History) -> None:
    history.calls = [call for call in history.calls if call.seen != Model("best", "best")]


def never_told(history: History) -> None:
    history.calls = [call for call in history.calls if not (call.site == "two" and call.seen == Tasks(2, quit=True))]


def test_a_whole_history_keeps_every_promise(reference: Reference) -> None:
    assert judge(whole(), reference) == []


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (went_back, "the round went back: two was told round 1 after somebody knew to quit"),
        (asked_again, "an upload was lost: one was asked again for 'train' of round 0"),
        (other_tensor, "the model differs: two got 'w' of round 1"),
        (other_tensor_for_all, "the model differs: one got 'w' of round 1"),
        (counted_twice, "an upload was counted 2 times"),
        (not_counted, "an upload was lost: ('one', 0, 'train') was answered and its metrics are not there"),
        (never_answered, "an upload was counted that was never answered: ('one', 1, 'train')"),
        (offset_moved, "the log of metrics changed: at offset 0"),
        (other_aggregate, "aggregated metrics differ"),
        (log_cut, "the log of metrics was never read to its end"),
        (other_last_model, "the last model differs: file got altered, expected last"),
        (no_best_model, "nobody got the best model"),
        (never_told, "two was never told to quit"),
    ],
)
def test_each_broken_promise_is_found(reference: Reference, spoil: Callable[[History], None], words: str) -> None:
    history = whole()
    spoil(history)
    assert any(text.startswith(words) for text in judge(history, reference)), judge(history, reference)


def test_calls_under_way_at_once_may_be_answered_in_any_order(reference: Reference) -> None:
    history = whole()
    slow = history.begin("one", "tasks")
    history.note("two", "tasks", Tasks(2, quit=True))
    history.end(slow, Tasks(1))  # asked for before anybody knew better
    history.note("one", "tasks", Tasks(2, quit=True))
    slow.began = find(history, Tasks, "one", 1).began
    assert judge(history, reference) == []


def test_late_sites_need_not_be_in_the_log_of_metrics(reference: Reference) -> None:
    history = whole()
    history.note("two", "upload", Uploaded(1, "validate", "late"))
    assert any("was answered and its metrics are not there" in text for text in judge(history, reference))
    assert judge(history, replace(reference, local=None)) == []
