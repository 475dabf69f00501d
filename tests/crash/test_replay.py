"""The replay finds who counted, and that nobody's choice gives a model that should not be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from tests.crash.catalogue import Case
from tests.crash.history import Fetched, History, Model, Tasks, Upload, Uploaded, digest, digest_model
from tests.crash.replay import TASKS, replay

CASE = Case("late", sites=3, rounds=2, cutoff=1.0)
INITIAL = {"w": np.zeros(4, np.float32)}
FEW = np.array([1.0, 2.0, 4.0], np.float32)  # of the sites, which all weigh the same


def results(site: str, task: str) -> tuple[EncodedTensor, ...]:
    codec, value = TensorCodec(), FEW[int(site[-1])]
    if task == "train":
        return (codec.encode(TensorKey.of("w", site, 0, tags=("trained",)), np.full(4, value)),)
    tag = "validate_local" if "local" in task else "validate_agg"
    return (codec.encode(TensorKey.of("accuracy", site, 0, report=True, tags=("metric", tag)), np.array(value)),)


def model_of(sites: Sequence[int]) -> dict[str, NDArray[np.float32]]:
    return {"w": np.full(4, FEW[list(sites)].mean(dtype=np.float64), np.float32)}


def hand_in(history: History, site: int, number: int) -> None:
    name = CASE.collaborators[site]
    for task in TASKS:
        history.uploads[name, number, task] = Upload(10, results(name, task))
        history.note(name, "upload", Uploaded(number, task, "any"))


def played(first: Sequence[int], *, late: Sequence[int] = (), claimed: Sequence[int] | None = None) -> History:
    """Return a history in which the sites ``first`` hand in while round 0 is open, and ``late`` when it is over.

    Clients get the model of ``claimed``, which is ``first`` if nothing goes wrong.
    """
    history = History()
    for name in CASE.collaborators:
        history.note(name, "tasks", Tasks(0, TASKS))
    for site in first:
        hand_in(history, site, 0)
    history.note(CASE.collaborators[2], "tasks", Tasks(0, TASKS))  # it is open still
    after = model_of(first if claimed is None else claimed)
    history.note(CASE.collaborators[0], "tasks", Tasks(1, TASKS))
    history.note(CASE.collaborators[0], "tensor", Fetched("w", 1, ("model",), digest(after["w"])))
    for site in late:
        hand_in(history, site, 0)
    for site in range(3):
        hand_in(history, site, 1)
    for kind, model in (("last", model_of(range(3))), ("best", INITIAL)):
        history.note("reader", "model", Model(kind, digest_model(model)))
    return history


@pytest.mark.parametrize("first", [(0, 1), (1,), (0, 1, 2)])
def test_who_counted_is_found(first: tuple[int, ...]) -> None:
    reference, unfit = replay(CASE, played(first), INITIAL)
    assert unfit == []
    assert reference.last == digest_model(model_of(range(3)))
    expected = [pytest.approx(float(FEW[list(first)].mean()))] * 2 + [pytest.approx(float(FEW.mean()))] * 2
    assert [metric.value for metric in reference.aggregated] == expected
    assert reference.local is None


@pytest.mark.parametrize(
    ("claimed", "late"),
    [
        pytest.param((0,), (), id="one who was in time is left out"),
        pytest.param((0, 1, 2), (2,), id="one who was late counts"),
        pytest.param((0, 1, 1), (), id="one counts twice"),
    ],
)
def test_what_must_not_be_is_found(claimed: tuple[int, ...], late: tuple[int, ...]) -> None:
    _, unfit = replay(CASE, played((0, 1), late=late, claimed=claimed), INITIAL)
    assert unfit == ["no choice of sites gives the model of round 1 that clients got"]


def test_who_handed_in_when_the_round_was_nearly_over_may_count_or_not() -> None:
    for claimed in ((0, 1), (0, 1, 2)):
        history = played((0, 1), claimed=claimed)
        name = CASE.collaborators[2]
        for task in TASKS:  # under way while the round was closed
            history.uploads[name, 0, task] = Upload(10, results(name, task))
            call = history.begin(name, "upload")
            history.end(call, Uploaded(0, task, "any"))
            call.began = 0
        assert replay(CASE, history, INITIAL)[1] == []
