"""From the results of a closed round to the next global model: a pure function, the same to the bit wherever it runs.

Tensor by tensor in name order, the collaborators in name order. Uploads are read where they are kept, slice by slice.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ShapeMismatchError
from openfl_aio.tensors.aggregation import (
    NO_STATE,
    AggregationContext,
    AggregationFunction,
    History,
    HistoryRow,
    LocalTensor,
    PrivilegedFunction,
    SelectingFunction,
    State,
    Step,
    WeightedAverage,
)
from openfl_aio.tensors.aggregation.distances import squared_distances
from openfl_aio.tensors.aggregation.slices import Stack, at_once
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec, strip_compression
from openfl_aio.tensors.delta import apply_delta, delta, round_to_delta
from openfl_aio.tensors.key import TensorKey
from openfl_aio.wire.incremental import TensorRecord

__all__ = [
    "DELTA",
    "METRIC",
    "TRAINED",
    "AggregatedMetric",
    "Arrays",
    "Result",
    "ResultRecord",
    "RoundOutcome",
    "States",
    "aggregate_round",
    "decode_result",
    "scalar",
    "shared_weights",
    "tags_of",
    "weight_of",
]

TRAINED: Final = "trained"
METRIC: Final = "metric"
DELTA: Final = "delta"

Arrays = Mapping[str, NDArray[Any]]

PutAway = Callable[[NDArray[Any]], NDArray[Any]]

States = Mapping[tuple[str, str], State]
"""What aggregation functions remember of a task's tensors, by the names of both."""


class ResultRecord(Protocol):
    """What is known of a collaborator's upload without its payload."""

    @property
    def data_size(self) -> int:
        """Number of samples; -1 where a 1.6 peer does not know."""
        ...

    @property
    def tensors(self) -> tuple[TensorRecord, ...]:
        """The tensors in it."""
        ...


class Result(Protocol):
    """A kept upload: its record, and its tensors on demand."""

    @property
    def record(self) -> ResultRecord:
        """What is known without the payload."""
        ...

    def tensor(self, record: TensorRecord) -> EncodedTensor:
        """Return one tensor as a view of the kept bytes."""
        ...

    def unload(self, record: TensorRecord) -> None:
        """Take one tensor out of memory until it is read again."""
        ...


@dataclass(frozen=True, slots=True)
class AggregatedMetric:
    """The weighted average of a metric over the collaborators with a finite value.

    ``tags`` as sent, without those of the coding.
    """

    task_name: str
    name: str
    tags: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True, eq=False)
class RoundOutcome:
    """What a closed round gives: the model of round ``round_number + 1``, and how it differs from the one before.

    The model is what somebody gets who applies its deltas, so that both ways of fetching it give the same bits.
    ``deltas`` are those that the federation's pipeline made, unless it is exact: then they are `delta` of the models.
    ``states`` go into the next round.
    """

    round_number: int
    model: Arrays = field(repr=False)
    deltas: Mapping[str, EncodedTensor] = field(repr=False)
    metrics: tuple[AggregatedMetric, ...] = ()
    states: States = field(default_factory=dict, repr=False)


def tags_of(record: TensorRecord | EncodedTensor) -> tuple[str, ...]:
    """Return the tags of a tensor without those of its coding, sorted."""
    return strip_compression(record.tags)


def weight_of(data_size: int) -> float:
    """Return the weight of a result: a negative size, which 1.6 peers send when they know none, counts as one sample."""
    return float(data_size) if data_size >= 0 else 1.0


def decode_result(codec: TensorCodec, encoded: EncodedTensor, base: NDArray[Any] | None) -> NDArray[Any]:
    """Return the absolute values of an uploaded tensor; ``base`` is the global tensor of its round, for deltas."""
    values = codec.decode(encoded)
    if DELTA in encoded.tags and base is not None:
        return apply_delta(base, values)
    return values


def scalar(values: NDArray[Any]) -> float:
    """Return the only element of ``values``."""
    return float(np.asarray(values).reshape(-1)[0])


def aggregate_round(
    round_number: int,
    results: Mapping[str, Mapping[str, Result]],
    model: Arrays,
    *,
    codec: TensorCodec,
    function_of: Callable[[str], AggregationFunction],
    origin: str,
    states: States | None = None,
    put_away: PutAway | None = None,
    done_with: Callable[[NDArray[Any]], object] | None = None,
    history: Mapping[int, Arrays] | None = None,
    max_share: float = 1.0,
) -> RoundOutcome:
    """Aggregate the ``results`` (task -> collaborator -> result) of a round that began with ``model``.

    ``states`` are those that the round before gave, ``history`` the models of earlier rounds, for functions that look.
    ``put_away`` returns the same array where it takes no memory; it is called for what does not lie in an upload as it
    is, where a function needs all local tensors at once. ``done_with`` is given each tensor of ``model`` when its next
    one is there. Tensors of the model that nobody trained are carried over, and so are those that nobody sent whom the
    task's function chose. One that the model does not have is left out unless more than half of those with a result of
    the task sent it in one shape, and then those who sent it in another. ``max_share`` bounds what one collaborator
    weighs, as `openfl_aio.config.UploadRules` says.
    Raises `TensorError` for payloads that do not decode.
    """
    metrics: list[AggregatedMetric] = []
    next_model: dict[str, NDArray[Any]] = dict(model)
    deltas: dict[str, EncodedTensor] = {}
    next_states: dict[tuple[str, str], State] = dict(states or {})
    average = WeightedAverage()
    seen = cache(partial(_history, codec, results, {**(history or {}), round_number: model}, origin))
    for task_name, by_collaborator in results.items():
        groups = _grouped(by_collaborator)
        function = function_of(task_name)
        read = partial(
            _local_tensors,
            codec,
            put_away=put_away if function.holds_all else None,
            holds_all=function.holds_all,
            max_share=max_share,
        )
        chosen = sorted(by_collaborator)
        if isinstance(function, SelectingFunction) and any(TRAINED in tags for _, tags, _ in groups):
            chosen = _choose(function, groups, chosen, model, read, round_number)
        for (name, tags, report), sources in groups.items():
            base = model.get(name) if not report else None
            context = AggregationContext(name, round_number, tags, base)
            if METRIC in tags:
                finite = [tensor for tensor in read(sources, None) if math.isfinite(scalar(tensor.values))]
                if finite:
                    value = average.aggregate(iter(finite), context)
                    metrics.append(AggregatedMetric(task_name, name, tags, scalar(value)))
            elif TRAINED in tags:
                if base is None:
                    sources = _agreed(sources, len(by_collaborator))
                of_chosen = [source for source in sources if source[0] in chosen]
                if not of_chosen:
                    continue
                state = next_states.get((task_name, name), NO_STATE)
                step = _step(function, read(of_chosen, base), context, state, seen)
                for _, result, record in sources:
                    result.unload(record)
                next_states[task_name, name] = step.state
                if base is None:
                    next_model[name] = step.values
                    continue
                if codec.exact:
                    next_model[name] = _rounded(step, base)
                else:
                    key = TensorKey.of(name, origin, round_number + 1, tags=("aggregated", DELTA))
                    deltas[name] = codec.encode(key, delta(step.values, base), lossless=False)
                    del step  # the aggregate, its difference and the next model are never there all three
                    next_model[name] = apply_delta(base, codec.decode(deltas[name]))
                if done_with is not None:
                    done_with(base)
    return RoundOutcome(round_number, next_model, deltas, tuple(metrics), next_states)


Source = tuple[str, Result, TensorRecord]
Groups = dict[tuple[str, tuple[str, ...], bool], list[Source]]


def _step(
    function: AggregationFunction,
    tensors: Iterator[LocalTensor],
    context: AggregationContext,
    state: State,
    history: Callable[[], History],
) -> Step:
    if isinstance(function, PrivilegedFunction):
        return Step(function.aggregate_with(tensors, context, history()))
    if isinstance(function, SelectingFunction):
        return Step(function.combine(tensors, context))
    return function.step(tensors, context, state)


def _history(
    codec: TensorCodec, results: Mapping[str, Mapping[str, Result]], models: Mapping[int, Arrays], origin: str
) -> History:
    """Return what there is in ``models``, of which the last is this round's, and in the ``results``."""
    rows = [
        HistoryRow(TensorKey.of(name, origin, number, tags=("model",)), partial(np.asarray, array))
        for number, model in sorted(models.items())
        for name, array in model.items()
    ]
    current = max(models)
    for by_collaborator in results.values():
        for collaborator, result in sorted(by_collaborator.items()):
            for record in result.record.tensors:
                key = TensorKey.of(
                    record.name, collaborator, current, report=record.report, tags=strip_compression(record.tags)
                )
                rows.append(HistoryRow(key, partial(_read, codec, result, record, models[current].get(record.name))))
    return History(rows)


def _read(codec: TensorCodec, result: Result, record: TensorRecord, base: NDArray[Any] | None) -> NDArray[Any]:
    return decode_result(codec, result.tensor(record), base)


def _rounded(step: Step, base: NDArray[Any]) -> NDArray[np.float32]:
    """Return the values as those get them who apply the delta: the same array if it is the function's own to give."""
    values = step.values
    own = values.flags.owndata and values.flags.c_contiguous
    if not own or any(values is array for array in (base, *step.state.values())):
        values = values.copy()
    if values.shape != base.shape:
        raise ShapeMismatchError(f"expected an aggregate of the tensor's shape {base.shape}, got {values.shape}")
    values.flags.writeable = True
    flat, flat_base = values.reshape(-1), np.asarray(base).reshape(-1)
    at_once(lambda span: round_to_delta(flat[span], flat_base[span]), values.size)
    values.flags.writeable = False
    return values


def _choose(
    function: SelectingFunction,
    groups: Groups,
    collaborators: list[str],
    model: Arrays,
    read: Callable[[list[Source], NDArray[Any] | None], Iterator[LocalTensor]],
    round_number: int,
) -> list[str]:
    """Return whom ``function`` chooses, by all the tensors of the model that the task trained.

    Who did not send one of them is infinitely far from all the others.
    """
    distances = np.zeros((len(collaborators), len(collaborators)))
    for (name, tags, report), sources in groups.items():
        base = model.get(name) if not report else None
        if base is not None and tags == (TRAINED,):
            stack = Stack(read(sources, base), AggregationContext(name, round_number, tags, base))
            senders = [collaborators.index(tensor.collaborator) for tensor in stack.tensors]
            of_tensor = np.full(distances.shape, np.inf)
            of_tensor[np.ix_(senders, senders)] = squared_distances(stack)
            distances += of_tensor
    return [collaborators[index] for index in function.select(distances)]


def _grouped(results: Mapping[str, Result]) -> Groups:
    """Group a task's tensors by what they are, in name order, each with its sources in collaborator order.

    A delta and an absolute value of one tensor belong together.
    """
    groups: Groups = {}
    for collaborator in sorted(results):
        result = results[collaborator]
        for record in result.record.tensors:
            tags = tuple(tag for tag in tags_of(record) if tag != DELTA)
            groups.setdefault((record.name, tags, record.report), []).append((collaborator, result, record))
    return dict(sorted(groups.items()))


def _agreed(sources: list[Source], collaborators: int) -> list[Source]:
    """Return those of ``sources`` that sent a tensor in the shape that more than half of the ``collaborators`` sent."""
    shapes = Counter(record.metadata[0].int_list for _, _, record in sources)
    shape, count = shapes.most_common(1)[0]
    return (
        [source for source in sources if source[2].metadata[0].int_list == shape] if 2 * count > collaborators else []
    )


def shared_weights(sizes: Sequence[float], max_share: float) -> list[float]:
    """Return the weights for ``sizes``: cut to the largest one with which nobody has more than ``max_share`` of all.

    Where those with samples are too few for that, they are equal; and so are all where nobody has a single sample, for
    which 1.6 divides by zero.
    """
    ordered = sorted((size for size in sizes if size), reverse=True)
    if not ordered:
        return [1.0] * len(sizes)
    if max_share == 1:
        return list(sizes)
    if max_share * len(ordered) <= 1:
        return [float(size > 0) for size in sizes]
    most, rest = ordered[0], math.fsum(ordered)
    for count, size in enumerate(ordered):  # count: how many are cut so far, rest: what the others weigh
        if size <= max_share * (count * size + rest):
            break
        rest -= size
        most = max_share * rest / (1 - (count + 1) * max_share)
    return [min(size, most) for size in sizes]


def _local_tensors(
    codec: TensorCodec,
    sources: list[Source],
    base: NDArray[Any] | None,
    *,
    put_away: PutAway | None,
    holds_all: bool,
    max_share: float,
) -> Iterator[LocalTensor]:
    weights = shared_weights([weight_of(result.record.data_size) for _, result, _ in sources], max_share)
    for weight, (collaborator, result, record) in zip(weights, sources, strict=True):
        encoded = result.tensor(record)
        values = codec.decode(encoded)
        kept = np.may_share_memory(values, np.frombuffer(encoded.data, np.uint8))
        if not kept and put_away is not None:
            values, kept = put_away(values), True
        yield LocalTensor(collaborator, weight, values, base=base if DELTA in encoded.tags else None, kept=kept)
        del values  # nor is it here while the next one is decoded
        if not holds_all:
            result.unload(record)
