"""The global models of a federation, as the rounds make them, and the answers about them that collaborators get."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.aggregator.closing import AggregatedMetric, Arrays, RoundOutcome
from openfl_aio.domain import ModelKind, TensorQuery
from openfl_aio.errors import ConfigurationError, TensorNotFoundError
from openfl_aio.tensors.codec import COMPRESSED, EncodedTensor, TensorCodec, strip_compression
from openfl_aio.tensors.key import TensorKey
from openfl_aio.tensors.store import TensorStore

__all__ = ["Best", "Difference", "GlobalModels", "Uncoded"]

MODEL: Final = ("model",)


@dataclass(frozen=True, slots=True, eq=False)
class Difference:
    """A delta that was not asked for yet: of the tensor ``new`` of a round to its ``base``, the one of the round before."""

    key: TensorKey
    lossless: bool
    new: NDArray[np.float32] = field(repr=False)
    base: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True, eq=False)
class Uncoded:
    """A tensor of a model that nobody asked for yet, where the pipeline has work to do for it."""

    key: TensorKey
    lossless: bool
    values: NDArray[np.float32] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Best:
    """Why a model is the best so far: the score of the metric that decides, and the round that validated it."""

    score: float
    round_number: int
    task_name: str
    metric: str


class GlobalModels:
    """Keeps the models of the last ``store_rounds`` rounds, their deltas, the metrics, and the best model so far.

    One more model is kept for the oldest delta. What a pipeline codes is coded once and kept as long as its round.
    ``initial`` is the model of round ``initial_round``; its arrays are taken as float32, which is what the wire
    carries. Those that are read-only are not copied.
    """

    def __init__(
        self,
        initial: Mapping[str, NDArray[Any]],
        *,
        initial_round: int,
        origin: str,
        codec: TensorCodec,
        store_rounds: int,
    ) -> None:
        if not initial:
            raise ConfigurationError("initial_model: expected at least one tensor, got none")
        self.round_number = initial_round
        self._origin = origin
        self._codec = codec
        self._store_rounds = store_rounds
        self._metrics = TensorStore()
        self._kept: dict[int, Arrays] = {}
        self._coded: dict[TensorKey, EncodedTensor] = {}
        self._deltas: dict[tuple[int, str], EncodedTensor] = {}
        self._best: Arrays | None = None
        self.best: Best | None = None
        self.magnitudes: dict[str, float] = {}  # of the current model's tensors, as far as anybody asked
        self._put_model(initial_round, initial)

    def __repr__(self) -> str:
        return f"<GlobalModels round {self.round_number}: {len(self.current)} tensors, {self.nbytes} bytes>"

    @property
    def current(self) -> Arrays:
        """The model of the current round, by name."""
        return self._kept[self.round_number]

    @property
    def nbytes(self) -> int:
        """Size of the current model in bytes."""
        return sum(array.nbytes for array in self.current.values())

    def model(self, kind: ModelKind) -> Arrays | None:
        """Return the last model, or the best one that was validated; None if none was."""
        return self.current if kind is ModelKind.LAST else self._best

    def put_metric(self, name: str, round_number: int, tags: tuple[str, ...], value: float) -> None:
        """Keep a metric for those who ask by key; the first value of a key stays."""
        key = TensorKey.of(name, self._origin, round_number, report=True, tags=tags)
        if key not in self._metrics:
            self._metrics.put(key, np.array(value, np.float32))

    def deltas(self, round_number: int) -> tuple[EncodedTensor, ...]:
        """Return the deltas of a round that the pipeline made; none if it is exact: then they follow from the models."""
        if self._codec.exact:
            return ()
        return tuple(encoded for (number, _), encoded in sorted(self._deltas.items()) if number == round_number)

    def put_back(self, round_number: int, model: Arrays, deltas: Iterable[EncodedTensor]) -> None:
        """Go on with the model of a round as it was before a restart; the rounds before it first."""
        self._put_model(round_number, model)
        self.round_number = round_number
        for encoded in deltas:
            self._deltas[round_number, encoded.name] = encoded
        self._drop(round_number - self._store_rounds + 1)

    def put_back_best(self, best: Best, model: Arrays | None) -> None:
        """Know again which model was the best; None if it is lost, and then only a better one replaces it."""
        self.best = best
        self._best = next((kept for number, kept in self._kept.items() if number == best.round_number), model)

    def close_round(self, outcome: RoundOutcome) -> bool:
        """Take in what a round gave. Return True if the model that it validated is the best so far."""
        improved = self._judge(outcome)
        for metric in outcome.metrics:
            self.put_metric(metric.name, outcome.round_number, metric.tags, metric.value)
        next_round = outcome.round_number + 1
        for name, encoded in outcome.deltas.items():
            self._deltas[next_round, name] = encoded
        self._put_model(next_round, outcome.model)
        self.round_number = next_round
        self._drop(next_round - self._store_rounds + 1)
        return improved

    def history(self) -> dict[int, Arrays]:
        """Return the models of the last ``store_rounds`` rounds, by round; not the one that is kept for a delta alone."""
        return {number: model for number, model in self._kept.items() if self._is_served(number)}

    def older(self) -> Iterator[tuple[int, str, NDArray[np.float32]]]:
        """Yield round, name and values of what is kept and is not in the current model."""
        current = self.current
        for round_number, model in self._kept.items():
            if round_number != self.round_number:
                for name, array in model.items():
                    if array is not current.get(name):
                        yield round_number, name, array

    def move(self, round_number: int, name: str, array: NDArray[np.float32]) -> None:
        """Keep the values of an older model, if it is kept still, in ``array`` from now on."""
        model = self._kept.get(round_number)
        if model is not None:
            self._kept[round_number] = moved = {**model, name: array}
            if self._best is model:
                self._best = moved

    def known_delta(self, round_number: int, name: str) -> EncodedTensor | None:
        """Return a delta that somebody asked for before, or that the pipeline made."""
        return self._deltas.get((round_number, name))

    def put_delta(self, encoded: EncodedTensor) -> None:
        """Keep a delta, if its round is still kept, for all who ask."""
        if self._is_served(encoded.round_number):
            self._deltas[encoded.round_number, encoded.name] = encoded

    def known_coded(self, key: TensorKey) -> EncodedTensor | None:
        """Return a tensor of a model as the pipeline made it for somebody who asked before."""
        return self._coded.get(key)

    def put_coded(self, key: TensorKey, encoded: EncodedTensor) -> None:
        """Keep what the pipeline made of a tensor, if its round is still kept, for all who ask."""
        if self._is_served(key.round_number):
            self._coded[key] = encoded

    def find(self, query: TensorQuery) -> EncodedTensor | Difference | Uncoded | None:
        """Return the answer to ``query``, or what it is made of, or None if it may come with a later round.

        Raises `TensorNotFoundError` for what is not there and will not come.
        """
        tags = strip_compression(query.tags)
        found: EncodedTensor | Difference | Uncoded | None
        lossless = COMPRESSED in query.tags or query.require_lossless
        if not query.report and "aggregated" in tags and set(tags) <= {"aggregated", "delta"}:
            found = self._find_delta(query, lossless)
        elif query.report or tags == MODEL:
            key = TensorKey(query.tensor_name, self._origin, query.round_number, query.report, tags)
            found = self._find_values(key, lossless)
        else:
            raise self._not_found(query, "only tensors of the model, their deltas and metrics are served")
        if found is None:
            self._check_may_come(query)
        return found

    def _is_served(self, round_number: int) -> bool:
        return self.round_number - self._store_rounds < round_number <= self.round_number

    def _find_delta(self, query: TensorQuery, lossless: bool) -> EncodedTensor | Difference | None:
        number, name = query.round_number, query.tensor_name
        known = self.known_delta(number, name)
        if known is not None:
            return known if known.lossless is lossless else replace(known, lossless=lossless)
        new, base = self._kept.get(number, {}).get(name), self._kept.get(number - 1, {}).get(name)
        if new is None or base is None or not self._codec.exact or not self._is_served(number):
            return None
        return Difference(TensorKey.of(name, self._origin, number, tags=("aggregated", "delta")), lossless, new, base)

    def _find_values(self, key: TensorKey, lossless: bool) -> EncodedTensor | Uncoded | None:
        known = self.known_coded(key)
        if known is not None:
            return replace(known, lossless=lossless)
        if key.report:
            array = self._metrics.find(key)
        else:
            array = self._kept[key.round_number].get(key.tensor_name) if self._is_served(key.round_number) else None
        if array is None:
            return None
        if key.report or self._codec.gives_views:
            return replace(self._codec.encode(key, array, lossless=True), lossless=lossless)
        return Uncoded(key, lossless, array)

    def _check_may_come(self, query: TensorQuery) -> None:
        if query.report:
            if query.round_number < self.round_number:
                raise self._not_found(query, "that round is over")
        elif query.tensor_name not in self.current:
            raise self._not_found(query, f"the model has {len(self.current)} tensors and none of that name")
        elif query.round_number <= self.round_number:
            raise self._not_found(query, f"the current round is {self.round_number}, {self._store_rounds} are kept")

    def _not_found(self, query: TensorQuery, why: str) -> TensorNotFoundError:
        return TensorNotFoundError(
            f"no aggregated tensor {query.tensor_name!r} of round {query.round_number} "
            f"with tags {list(query.tags)!r}: {why}"
        )

    def _judge(self, outcome: RoundOutcome) -> bool:
        metric = self._deciding_metric(outcome.metrics)
        if metric is None or math.isnan(metric.value):
            return False
        if self.best is not None and metric.value <= self.best.score:
            return False
        self.best = Best(metric.value, outcome.round_number, metric.task_name, metric.name)
        self._best = self.current
        return True

    def _deciding_metric(self, metrics: tuple[AggregatedMetric, ...]) -> AggregatedMetric | None:
        """Return the metric of the global model's validation that decides: the first by name in the first round it comes."""
        for metric in metrics:
            known = None if self.best is None else (self.best.task_name, self.best.metric)
            if "validate_agg" in metric.tags and known in (None, (metric.task_name, metric.name)):
                return metric
        return None

    def _put_model(self, round_number: int, model: Mapping[str, NDArray[Any]]) -> None:
        self.magnitudes = {}
        self._kept[round_number] = {name: _read_only(model[name]) for name in sorted(model)}

    def _drop(self, before: int) -> None:
        self._metrics.drop_rounds(before, keep_reports=False)
        self._kept = {number: model for number, model in self._kept.items() if number >= before - 1}
        self._coded = {key: value for key, value in self._coded.items() if key.round_number >= before}
        self._deltas = {key: value for key, value in self._deltas.items() if key[0] >= before}


def _read_only(values: NDArray[Any]) -> NDArray[np.float32]:
    array = np.asarray(values)
    array = array.astype(np.float32, order="C", copy=array.flags.writeable)
    array.flags.writeable = False
    return array
