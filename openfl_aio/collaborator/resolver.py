"""Which tensors a task needs, where each comes from, and how its results are tagged and encoded.

The rules are those of an OpenFL 1.6 collaborator, so that its aggregator answers ours:

- validation of the local model reads the collaborator's own ``trained`` tensors, everything else the ``model``;
- what is not kept locally is downloaded: as a delta to the model of the round before where deltas are on and that
  model is kept, else in full;
- trained tensors go up as deltas to the model of their round where deltas are on and that model is kept.

A 1.6 collaborator forgets the base of its uploads after round 0. Here the base is the model as it came down, however
it came, so that deltas are sent in every round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from openfl_aio.domain import Task, TaskKind, TensorQuery
from openfl_aio.errors import TaskError
from openfl_aio.tensors.key import TensorKey

__all__ = ["Download", "Encoding", "Resolver"]

Contains = Callable[[TensorKey], bool]


@dataclass(frozen=True, slots=True)
class Download:
    """Ask ``query``; the answer is added to the tensor ``base`` (None: it is the tensor) and kept under ``key``."""

    key: TensorKey
    query: TensorQuery
    base: TensorKey | None


@dataclass(frozen=True, slots=True)
class Encoding:
    """How an output is sent: under ``key``, as the difference from ``base`` (None: as it is), ``lossless`` or not."""

    key: TensorKey
    base: TensorKey | None
    lossless: bool


class Resolver:
    """The tensor algebra of one collaborator.

    ``lossy``: the plan's pipeline loses precision. ``interactive``: the plan is one of OpenFL's interactive frontend.
    """

    def __init__(
        self,
        *,
        collaborator: str,
        aggregator_uuid: str,
        delta_updates: bool = False,
        lossy: bool = False,
        interactive: bool = True,
    ) -> None:
        self._collaborator = collaborator
        self._aggregator = aggregator_uuid
        self._delta_updates = delta_updates
        self._lossy = lossy
        # OpenFL's aggregator fails unless all collaborators tag alike, and its task runners tag so
        self._train_metric = ("metric", "trained") if interactive else ("metric",)

    def __repr__(self) -> str:
        return f"Resolver(collaborator={self._collaborator!r}, aggregator_uuid={self._aggregator!r})"

    def model_key(self, name: str, round_number: int) -> TensorKey:
        """Return the key of the global model's tensor ``name``."""
        return TensorKey(name, self._aggregator, round_number, False, ("model",))

    def needs(self, task: Task, round_number: int, names: Iterable[str]) -> dict[str, TensorKey]:
        """Return the key of each input of ``task``, by model tensor name."""
        if task.kind is TaskKind.VALIDATE and task.apply_local:
            return {name: TensorKey(name, self._collaborator, round_number, False, ("trained",)) for name in names}
        return {name: self.model_key(name, round_number) for name in names}

    def source(self, key: TensorKey, contains: Contains) -> TensorKey | Download:
        """Return the local key that satisfies ``key``, or what to download.

        Of the collaborator's own tensors an earlier round will do. Raises `TaskError` if an own tensor was never made.
        """
        if contains(key):
            return key
        if key.origin == self._collaborator:
            for earlier in range(key.round_number - 1, -1, -1):
                candidate = key._replace(round_number=earlier)
                if contains(candidate):
                    return candidate
            raise TaskError(
                f"tensor {key.tensor_name!r} ({', '.join(key.tags)}) of round {key.round_number} was never made here; "
                "a task that uses the local model must come after training"
            )
        return self._download(key, contains)

    def _download(self, key: TensorKey, contains: Contains) -> Download:
        base = key._replace(round_number=key.round_number - 1)
        if self._delta_updates and "model" in key.tags and key.round_number >= 1 and contains(base):
            # the order of these tags is 1.6's own; the receiver sorts
            tags = ("aggregated", "delta", "lossy_compressed" if self._lossy else "compressed")
            query = TensorQuery(key.tensor_name, key.round_number, key.report, tags, require_lossless=False)
            return Download(key, query, base)
        query = TensorQuery(key.tensor_name, key.round_number, key.report, key.tags, require_lossless=True)
        return Download(key, query, None)

    def output_key(self, task: Task, round_number: int, name: str) -> TensorKey:
        """Return the key of a tensor that ``task`` made."""
        return TensorKey(name, self._collaborator, round_number, False, ("trained",))

    def metric_key(self, task: Task, round_number: int, name: str) -> TensorKey:
        """Return the key of a metric that ``task`` reported."""
        tags: tuple[str, ...] = ("metric", "validate_local" if task.apply_local else "validate_agg")
        if task.kind is TaskKind.TRAIN:
            tags = self._train_metric
        return TensorKey.of(name, self._collaborator, round_number, report=True, tags=tags)

    def encoding(self, key: TensorKey, contains: Contains) -> Encoding:
        """Return how the output ``key`` is sent."""
        base = self.model_key(key.tensor_name, key.round_number)
        if self._delta_updates and "trained" in key.tags and not key.report and contains(base):
            return Encoding(key.with_tags(add=("delta",)), base, lossless=not self._lossy)
        return Encoding(key, None, lossless=True)

    @staticmethod
    def forget_before(round_number: int, store_rounds: int) -> int:
        """Return the first round whose tensors are still needed after ``round_number`` when ``store_rounds`` are kept."""
        return max(0, round_number - store_rounds + 1)
