from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.collaborator.resolver import Download, Resolver
from openfl_aio.domain import Task, TaskKind, TensorQuery
from openfl_aio.errors import TaskError
from openfl_aio.tensors.key import TensorKey

AGGREGATOR = "aggregator_plan.yaml_1"
TRAIN = Task("train", "train", TaskKind.TRAIN)
GLOBAL = Task("global", "validate", TaskKind.VALIDATE)
LOCAL = Task("local", "validate", TaskKind.VALIDATE, apply_local=True)


def resolver(*, delta: bool = False, lossy: bool = False) -> Resolver:
    return Resolver(collaborator="one", aggregator_uuid=AGGREGATOR, delta_updates=delta, lossy=lossy)


def model(round_number: int, origin: str = AGGREGATOR) -> TensorKey:
    return TensorKey("w", origin, round_number, False, ("model",))


@pytest.mark.parametrize("task", [TRAIN, GLOBAL])
def test_training_and_global_validation_read_the_model(task: Task) -> None:
    assert resolver().needs(task, 3, ["w"]) == {"w": model(3)}


def test_local_validation_reads_what_was_trained_here() -> None:
    assert resolver().needs(LOCAL, 3, ["w"]) == {"w": TensorKey("w", "one", 3, False, ("trained",))}


def test_what_is_kept_is_not_downloaded() -> None:
    assert resolver(delta=True).source(model(3), {model(3), model(2)}.__contains__) == model(3)


def test_an_own_tensor_of_the_latest_earlier_round_will_do() -> None:
    key = TensorKey("w", "one", 5, False, ("trained",))
    kept = {key._replace(round_number=1), key._replace(round_number=3)}
    assert resolver().source(key, kept.__contains__) == key._replace(round_number=3)


def test_an_own_tensor_that_never_was() -> None:
    with pytest.raises(TaskError, match="must come after training"):
        resolver().source(TensorKey("w", "one", 1, False, ("trained",)), lambda _: False)


FULL = TensorQuery("w", 2, False, ("model",), require_lossless=True)


@pytest.mark.parametrize(
    ("delta", "kept", "round_number"),
    [(False, {model(1)}, 2), (True, set(), 2), (True, set(), 0)],
    ids=["deltas are off", "no base", "first round"],
)
def test_the_model_in_full(delta: bool, kept: set[TensorKey], round_number: int) -> None:
    source = resolver(delta=delta).source(model(round_number), kept.__contains__)
    assert source == Download(
        model(round_number), TensorQuery("w", round_number, False, ("model",), require_lossless=True), None
    )


@pytest.mark.parametrize(("lossy", "tag"), [(False, "compressed"), (True, "lossy_compressed")])
def test_the_model_as_a_delta(lossy: bool, tag: str) -> None:
    source = resolver(delta=True, lossy=lossy).source(model(2), {model(1)}.__contains__)
    query = TensorQuery("w", 2, False, ("aggregated", "delta", tag), require_lossless=False)
    assert source == Download(model(2), query, model(1))


@pytest.mark.parametrize(("task", "role"), [(TRAIN, "trained"), (GLOBAL, "validate_agg"), (LOCAL, "validate_local")])
def test_metrics_say_what_was_measured(task: Task, role: str) -> None:
    assert resolver().metric_key(task, 1, "loss") == TensorKey("loss", "one", 1, True, tuple(sorted(("metric", role))))


def test_outside_the_interactive_frontend_metrics_of_training_have_no_second_tag() -> None:
    rules = Resolver(collaborator="one", aggregator_uuid=AGGREGATOR, interactive=False)
    assert rules.metric_key(TRAIN, 1, "loss").tags == ("metric",)
    assert rules.metric_key(LOCAL, 1, "loss").tags == ("metric", "validate_local")


@pytest.mark.parametrize("lossy", [False, True])
def test_trained_tensors_go_up_as_deltas_when_the_base_is_kept(lossy: bool) -> None:
    rules = resolver(delta=True, lossy=lossy)
    key = rules.output_key(TRAIN, 2, "w")
    sent = rules.encoding(key, {model(2)}.__contains__)
    assert (sent.key.tags, sent.base, sent.lossless) == (("delta", "trained"), model(2), not lossy)


@pytest.mark.parametrize(("delta", "kept"), [(False, {model(2)}), (True, set())])
def test_trained_tensors_go_up_as_they_are(delta: bool, kept: set[TensorKey]) -> None:
    rules = resolver(delta=delta, lossy=True)
    key = rules.output_key(TRAIN, 2, "w")
    sent = rules.encoding(key, kept.__contains__)
    assert (sent.key, sent.base, sent.lossless) == (key, None, True)


def test_metrics_are_never_deltas() -> None:
    rules = resolver(delta=True, lossy=True)
    key = rules.metric_key(TRAIN, 2, "w")
    sent = rules.encoding(key, lambda _: True)
    assert (sent.key, sent.base, sent.lossless) == (key, None, True)


@settings(max_examples=50)
@given(st.integers(0, 100), st.integers(1, 5))
def test_the_base_of_the_next_delta_is_never_forgotten(round_number: int, store_rounds: int) -> None:
    assert 0 <= Resolver.forget_before(round_number, store_rounds) <= round_number


def test_resolver_says_who_it_is() -> None:
    assert "collaborator='one'" in repr(resolver())
