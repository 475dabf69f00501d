"""What clients saw of a federation that was killed again and again, in the order in which they saw it.

All clients live in one process, so one counter gives the order: a call that ended before another began was answered
before that one was asked.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from openfl_aio.domain import Metric
from openfl_aio.tensors.codec import EncodedTensor

__all__ = [
    "Call",
    "Fetched",
    "History",
    "Metrics",
    "Model",
    "Observation",
    "Tasks",
    "Uploaded",
    "digest",
    "digest_model",
]


@dataclass(frozen=True, slots=True)
class Tasks:
    """The answer to GetTasks."""

    round_number: int
    names: tuple[str, ...] = ()
    quit: bool = False


@dataclass(frozen=True, slots=True)
class Fetched:
    """A tensor of the global model, or its delta, by a digest of its bytes."""

    name: str
    round_number: int
    tags: tuple[str, ...]
    digest: str


@dataclass(frozen=True, slots=True)
class Uploaded:
    """The results of a task, which were answered OK. ``again``: they had been answered before, with ``digest`` or not."""

    round_number: int
    task_name: str
    digest: str
    again: bool = False


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics from the first on, as far as the stream went; ``whole`` if it was ended by the server."""

    metrics: tuple[Metric, ...]
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """The best or the last model by a digest; None for none."""

    kind: str
    digest: str | None


Observation: TypeAlias = Tasks | Fetched | Uploaded | Metrics | Model


@dataclass(slots=True)
class Call:
    """A call of ``site`` and what came of it: None while it was not answered."""

    site: str
    what: str
    began: int
    ended: int | None = None
    seen: Observation | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """What a site handed in, whether answered or not."""

    data_size: int
    tensors: tuple[EncodedTensor, ...] = field(repr=False)


class History:
    """The calls of all clients, and what they handed in by (site, round, task)."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.uploads: dict[tuple[str, int, str], Upload] = {}
        self._clock = itertools.count()
        self._newest = 0

    def begin(self, site: str, what: str) -> Call:
        """Note that a call is made."""
        call = Call(site, what, next(self._clock))
        self.calls.append(call)
        return call

    def end(self, call: Call, seen: Observation) -> None:
        """Note what a call was answered."""
        call.ended, call.seen = next(self._clock), seen
        if isinstance(seen, Tasks):
            self._newest = max(self._newest, 1 << 40 if seen.quit else seen.round_number)

    def note(self, site: str, what: str, seen: Observation) -> None:
        """Note something that was seen at once."""
        self.end(self.begin(site, what), seen)

    def answered(self, kind: type[Any]) -> list[Call]:
        """Return the calls with an answer of that kind, in the order in which they began."""
        return [call for call in self.calls if isinstance(call.seen, kind)]

    def is_over(self, round_number: int) -> bool:
        """Return whether somebody was told of a later round, or to quit."""
        return self._newest > round_number


def digest(data: Any) -> str:
    """Return a short name for bytes, or the bytes of an array."""
    return hashlib.sha256(memoryview(data).cast("B") if memoryview(data).nbytes else b"").hexdigest()[:16]


def digest_model(model: Mapping[str, NDArray[Any]]) -> str:
    """Return a short name for the tensors of a model, to the bit."""
    whole = hashlib.sha256()
    for name in sorted(model):
        whole.update(f"{name}:{model[name].shape}:".encode())
        whole.update(np.ascontiguousarray(model[name], np.float32).tobytes())
    return whole.hexdigest()[:16]


def digest_upload(data_size: int, tensors: Iterable[EncodedTensor]) -> str:
    """Return a short name for the results of a task."""
    parts = [f"{tensor.name}:{tensor.tags}:{digest(tensor.data)}" for tensor in tensors]
    return digest(f"{data_size} {parts}".encode())
