from __future__ import annotations

import tracemalloc
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from openfl_aio.aggregator.closing import Arrays, RoundOutcome, States, aggregate_round, shared_weights
from openfl_aio.errors import ShapeMismatchError, TensorError
from openfl_aio.tensors.aggregation import (
    AggregationContext,
    AggregationFunction,
    History,
    LocalTensor,
    PrivilegedFunction,
    get_aggregation,
)
from openfl_aio.tensors.codec import Buffer, EncodedTensor, TensorCodec, TransformerMetadata
from openfl_aio.tensors.delta import apply_delta, delta
from openfl_aio.tensors.key import TensorKey
from openfl_aio.tensors.pipelines.no_compression import NoCompression
from openfl_aio.wire.incremental import TensorRecord

MODEL = {"b": np.zeros(2, np.float32), "w": np.ones((2, 2), np.float32)}


@dataclass(frozen=True)
class Record:
    data_size: int
    tensors: tuple[TensorRecord, ...]


class Upload:
    """The results of one collaborator, kept in memory."""

    def __init__(self, tensors: list[EncodedTensor], *, samples: int = 1) -> None:
        self._tensors = {(tensor.name, tensor.tags): tensor for tensor in tensors}
        self.unloaded: list[str] = []
        records = [
            TensorRecord(t.name, t.round_number, t.lossless, t.report, t.tags, t.metadata, 0, len(t.data))
            for t in tensors
        ]
        self.record = Record(samples, tuple(records))

    def tensor(self, record: TensorRecord) -> EncodedTensor:
        return self._tensors[record.name, record.tags]

    def unload(self, record: TensorRecord) -> None:
        self.unloaded.append(record.name)


def trained(model: Mapping[str, Any], *, base: Arrays | None = None, samples: int = 1) -> Upload:
    tensors = []
    for name, values in model.items():
        array = np.asarray(values, np.float32)
        tags = ("trained",) if base is None else ("trained", "delta")
        key = TensorKey.of(name, "x", 0, tags=tags)
        tensors.append(TensorCodec().encode(key, array if base is None else delta(array, base[name])))
    return Upload(tensors, samples=samples)


def close(
    function: str,
    uploads: Mapping[str, Upload],
    *,
    model: Arrays = MODEL,
    states: States | None = None,
    max_share: float = 1.0,
) -> RoundOutcome:
    return aggregate_round(
        0,
        {"train": uploads},
        model,
        codec=TensorCodec(),
        function_of=lambda _: get_aggregation(function),
        origin="aggregator",
        states=states,
        max_share=max_share,
    )


class Lossy:
    """A pipeline that halves all values on the way."""

    name = "halved"
    lossy = True

    def forward(self, array: NDArray[Any]) -> tuple[memoryview, tuple[TransformerMetadata, ...]]:
        return NoCompression().forward(array)

    def backward(self, data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
        return NoCompression().backward(data, metadata) / np.float32(2)


def filled(value: float) -> dict[str, NDArray[np.float32]]:
    return {name: np.full_like(base, value) for name, base in MODEL.items()}


@pytest.mark.parametrize(
    "function", ["weighted_average", "median", "geometric_median", "adam", "multi_krum:byzantine=0"]
)
def test_differences_and_absolute_values_give_the_same_model(function: str) -> None:
    values = {name: filled(number) for number, name in enumerate("abc")}
    absolute = {name: trained(model) for name, model in values.items()}
    mixed = {name: trained(model, base=MODEL if name == "b" else None) for name, model in values.items()}
    one, other = close(function, absolute).model, close(function, mixed).model
    assert all(np.array_equal(one[name], other[name]) for name in MODEL)


@pytest.mark.parametrize("function", ["weighted_average", "median", "krum"])
def test_what_was_aggregated_is_taken_out_of_memory(function: str) -> None:
    uploads = {name: trained(filled(number)) for number, name in enumerate("abcde")}
    close(function, uploads)
    for upload in uploads.values():
        assert set(upload.unloaded) == {"b", "w"}


def test_what_an_optimizer_remembers_goes_from_round_to_round() -> None:
    first = close("fedavgm:momentum=0.5", {"a": trained(filled(2))}, model=filled(1))
    assert first.model["w"][0, 0] == 2
    assert set(first.states) == {("train", "b"), ("train", "w")}
    second = close("fedavgm:momentum=0.5", {"a": trained(filled(2))}, model=first.model, states=first.states)
    assert second.model["w"][0, 0] == 2.5  # nobody moved, but half of the first move goes on
    fresh = close("fedavgm:momentum=0.5", {"a": trained(filled(2))}, model=first.model)
    assert fresh.model["w"][0, 0] == 2


def test_the_state_of_a_tensor_that_nobody_trained_is_kept() -> None:
    first = close("fedavgm", {"a": trained(filled(2))})
    second = close("fedavgm", {"a": trained({"b": filled(2)["b"]})}, model=first.model, states=first.states)
    assert second.states["train", "w"] is first.states["train", "w"]
    assert second.states["train", "b"] is not first.states["train", "b"]


def test_krum_chooses_one_collaborator_for_the_whole_model() -> None:
    # by b alone it would be "c", by w alone "b"; the whole is dominated by w
    uploads = {
        name: trained({"b": np.full(2, b), "w": np.full((2, 2), w)})
        for name, b, w in [("a", 0, 0), ("b", 3, 10), ("c", 1, 21), ("d", 1, 9), ("e", 9, 11)]
    }
    model = close("krum:byzantine=1", uploads).model
    assert (model["b"][0], model["w"][0, 0]) == (3, 10)


@pytest.mark.parametrize("function", ["krum", "multi_krum", "bulyan"])
def test_who_leaves_a_tensor_out_is_not_chosen(function: str) -> None:
    uploads = {name: trained(filled(number)) for number, name in enumerate("abcdefg")}
    uploads["d"] = trained({"b": np.full(2, 3)})  # in the middle of all, but for what is missing
    model = close(function, uploads).model
    if function != "bulyan":
        # infinitely far from all is as far as somebody whose values are huge
        uploads["d"] = trained(filled(1e9))
        expected = close(function, uploads).model
        assert all(np.array_equal(model[name], expected[name]) for name in MODEL)
    assert np.isfinite(model["w"]).all()
    assert model["w"][0, 0] == model["b"][0]


def test_a_tensor_that_none_of_the_chosen_sent_stays_as_it_was() -> None:
    uploads = {name: trained({"b": np.full(2, number)}) for number, name in enumerate("abcde")}
    uploads["e"] = trained({"b": np.full(2, 1000), "mine": np.full(3, 7)})
    outcome = close("krum", uploads)
    assert "mine" not in outcome.model
    assert np.array_equal(outcome.model["w"], MODEL["w"])


def test_krum_needs_enough_results_and_none_where_nothing_was_trained() -> None:
    with pytest.raises(TensorError, match="krum needs 5 collaborators or more, got 2"):
        close("krum", {"a": trained(filled(1)), "b": trained(filled(2))})
    score = TensorCodec().encode(TensorKey.of("acc", "x", 0, report=True, tags=("metric", "validate_agg")), np.ones(()))
    assert [metric.value for metric in close("krum", {"a": Upload([score])}).metrics] == [1.0]


# Krum reads all to choose, and then the two tensors of the chosen one again
@pytest.mark.parametrize(("function", "count"), [("median", 6), ("krum:byzantine=0", 8), ("weighted_average", 0)])
def test_decoded_tensors_are_put_away_where_all_are_needed_at_once(function: str, count: int) -> None:
    codec = TensorCodec(Lossy())
    put: list[NDArray[Any]] = []

    def put_away(values: NDArray[Any]) -> NDArray[Any]:
        put.append(values)
        return values.copy()

    uploads = {
        name: Upload(
            [
                codec.encode(TensorKey.of(tensor, "x", 0, tags=("trained",)), np.full_like(base, 4), lossless=False)
                for tensor, base in MODEL.items()
            ]
        )
        for name in "abc"
    }
    outcome = aggregate_round(
        0,
        {"train": uploads},
        filled(1),
        codec=codec,
        function_of=lambda _: get_aggregation(function),
        origin="aggregator",
        put_away=put_away,
    )
    # to 2 from 1, and half of the way after the pipeline
    assert outcome.model["w"][0, 0] == 1.5
    assert len(put) == count


@pytest.mark.parametrize(
    "function", ["weighted_average", "median", "geometric_median", "krum", "bulyan", "trimmed_mean"]
)
@pytest.mark.parametrize("deltas", [False, True])
def test_a_round_takes_memory_for_the_next_model_and_slices(function: str, deltas: bool) -> None:
    model = {"w": np.zeros(1 << 20, np.float32)}
    uploads = {
        name: trained({"w": np.full(1 << 20, number)}, base=model if deltas else None)
        for number, name in enumerate("abcdefghijkl")
    }
    tracemalloc.start()
    try:
        outcome = close(function, uploads, model=model)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert outcome.model["w"].nbytes == model["w"].nbytes
    assert peak < model["w"].nbytes + 5 * (1 << 20)


class Giver(AggregationFunction):
    """Gives what it was told to, which is not its own."""

    name = "giver"

    def __init__(self, values: NDArray[np.float32]) -> None:
        self.values = values

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        list(tensors)
        return self.values


def test_an_array_that_is_not_the_functions_own_is_left_as_it_is() -> None:
    base = np.array([1.0, -1.0], np.float32)
    for theirs in (base, np.array([1e-10, 5, 7], np.float32)[:2], np.array([1e-10, 5], np.float32, order="F")[::-1]):
        before = theirs.copy()
        outcome = aggregate_round(
            0,
            {"train": {"a": trained({"w": base})}},
            {"w": base},
            codec=TensorCodec(),
            function_of=lambda _, theirs=theirs: Giver(theirs),  # type: ignore[misc]
            origin="aggregator",
        )
        assert np.array_equal(theirs, before)
        expected = apply_delta(base, delta(theirs, base))
        assert np.array_equal(outcome.model["w"], expected)
        assert not outcome.model["w"].flags.writeable


class Looking(PrivilegedFunction):
    """Notes what it sees, and gives the oldest global model's values plus the best reported accuracy."""

    name = "looking"

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int, tuple[str, ...], float]] = []

    def aggregate_with(
        self, tensors: Iterable[LocalTensor], context: AggregationContext, history: History
    ) -> NDArray[np.float32]:
        list(tensors)
        self.seen = [
            (row.key.tensor_name, row.key.origin, row.key.round_number, row.key.tags, float(row.read().reshape(-1)[0]))
            for row in history
        ]
        oldest = next(history.find(context.tensor_name, origin="aggregator", tags=["model"]))
        scores = [float(row.read()) for row in history.find("acc", round_number=context.round_number, tags=["metric"])]
        return np.asarray(oldest.read() + max(scores), np.float32)


def test_a_privileged_function_sees_models_and_what_all_collaborators_sent() -> None:
    def upload(value: float, score: float, base: Arrays | None) -> Upload:
        sent = trained({"w": np.full(2, value)}, base=base)
        key = TensorKey.of("acc", "x", 4, report=True, tags=("metric", "trained"))
        return Upload([*sent._tensors.values(), TensorCodec().encode(key, np.array(score, np.float32))])

    base = {"w": np.ones(2, np.float32)}
    function = Looking()
    outcome = aggregate_round(
        4,
        {"train": {"b": upload(7, 0.5, base), "a": upload(5, 0.75, None)}},
        base,
        codec=TensorCodec(),
        function_of=lambda _: function,
        origin="aggregator",
        history={3: {"w": np.full(2, 10, np.float32)}},
    )
    assert outcome.model["w"][0] == 10.75
    assert function.seen == [
        ("w", "aggregator", 3, ("model",), 10),
        ("w", "aggregator", 4, ("model",), 1),
        ("w", "a", 4, ("trained",), 5),
        ("acc", "a", 4, ("metric", "trained"), 0.75),
        ("w", "b", 4, ("delta", "trained"), 7),
        ("acc", "b", 4, ("metric", "trained"), 0.5),
    ]
    with pytest.raises(TensorError, match="'looking' needs the history"):
        function.aggregate([], AggregationContext("w", 0))


@pytest.mark.parametrize(
    ("sizes", "share", "expected"),
    [
        ((1, 2, 3), 1.0, (1, 2, 3)),
        ((1, 1, 98), 0.5, (1, 1, 2)),
        ((100_000_000, 10, 20, 30), 0.3, (22.5, 10, 20, 22.5)),
        ((4, 3, 3), 0.4, (4, 3, 3)),
        ((1, 2, 3), 0.3, (1, 1, 1)),  # three cannot have less than a third each
        ((5, 0), 0.3, (1, 0)),
        ((0, 0), 0.3, (1, 1)),
        ((0, 0), 1.0, (1, 1)),
    ],
)
def test_nobody_weighs_more_than_the_share(sizes: tuple[float, ...], share: float, expected: tuple[float, ...]) -> None:
    assert shared_weights(sizes, share) == pytest.approx(expected)


@given(
    sizes=st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=8),
    share=st.floats(0.01, 0.99),
)
def test_weights_are_cut_as_little_as_the_share_wants(sizes: list[int], share: float) -> None:
    weights = shared_weights(sizes, share)
    having = [(size, weight) for size, weight in zip(sizes, weights, strict=True) if size]
    if share * len(having) > 1:
        assert all(weight <= size for size, weight in having)
        assert max(weights) <= share * sum(weights) * (1 + 1e-9)
        cut = [weight for size, weight in having if weight < size]
        assert not cut or max(weights) == pytest.approx(share * sum(weights))
        assert len({*cut}) <= 1
    assert sum(weights) > 0
    # the order of who comes first decides nothing
    assert shared_weights(sizes[::-1], share) == weights[::-1]


def test_a_result_that_claims_to_be_everything_has_its_share() -> None:
    uploads = {
        "liar": trained({"b": [9, 9]}, samples=10**8),
        "one": trained({"b": [1, 1]}, samples=10),
        "two": trained({"b": [3, 3]}, samples=10),
    }
    outcome = close("weighted_average", uploads, max_share=0.5)
    np.testing.assert_array_equal(outcome.model["b"], np.float32(0.5 * 9 + 0.25 * 1 + 0.25 * 3))


@pytest.mark.parametrize("shape", [(3, 2), (6,), (2, 2), (4, 3)])
def test_a_function_that_gives_another_shape_than_the_models_is_refused(shape: tuple[int, ...]) -> None:
    base = np.zeros((2, 3), np.float32)
    with pytest.raises(ShapeMismatchError, match=r"\(2, 3\)"):
        aggregate_round(
            0,
            {"train": {"a": trained({"w": base})}},
            {"w": base},
            codec=TensorCodec(),
            function_of=lambda _: Giver(np.ones(shape, np.float32)),
            origin="aggregator",
        )


def test_each_tensor_of_the_model_is_told_when_its_next_one_is_there() -> None:
    told: list[NDArray[Any]] = []
    model = {"b": np.ones(2, np.float32), "untrained": np.ones(1, np.float32), "w": np.ones(3, np.float32)}
    for codec in (TensorCodec(), TensorCodec("stc")):
        told.clear()
        aggregate_round(
            0,
            {"train": {"a": trained({"w": model["w"], "b": model["b"]})}},
            model,
            codec=codec,
            function_of=lambda _: get_aggregation("weighted_average"),
            origin="aggregator",
            done_with=told.append,
        )
        assert [values is model[name] for name, values in zip("bw", told, strict=True)] == [True, True]
