"""What an upload must be before it counts: first by what it says of itself, then by the values that are in it.

========================  ===========================================================================================
task                      assigned to the sender; one that trains sends every tensor that the initial model has, one
                          that validates sends no trained ones
every tensor              the upload's round, one tag of a coding, a shape that fits its bytes, once; unless the model has
                          it, a printable name of at most `MOST_CHARACTERS`
trained tensors           no other tags but the delta's, no report, the model's shape; finite values, also once a delta
                          is added to the model, and at most `UploadRules.max_value`; optionally a bound on how far
                          they are from the model
metrics                   one number, reported; one that is not finite is left out where the round is closed
any other                 no tag that the aggregator gives itself, nor a collaborator's name
samples                   1 to `UploadRules.max_data_size`; 0 for metrics, -1 for tasks whose size 1.6 does not know
========================  ===========================================================================================

Tensors that the model does not have are let in, because 1.6 collaborators send their optimizer's state; closing the
round drops those that not most of its collaborators sent.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from openfl_aio.aggregator.closing import DELTA, METRIC, TRAINED, Arrays, tags_of
from openfl_aio.config import AggregatorConfig, UploadRules
from openfl_aio.domain import Header, Task, TaskKind
from openfl_aio.errors import (
    AuthorizationError,
    CodecError,
    HeaderMismatchError,
    MessageTooLargeError,
    ShapeMismatchError,
    TensorError,
)
from openfl_aio.tensors.codec import COMPRESSED, LOSSY_COMPRESSED, EncodedTensor, TensorCodec
from openfl_aio.tensors.extremes import Extremes
from openfl_aio.wire.incremental import TaskResultsIndex, TensorRecord

__all__ = ["Expected", "check_header", "check_upload"]

SLICE: Final = 256 * 1024  # elements, 1 MiB: both ends are found while it is in the cache
MOST_CHARACTERS: Final = 1_000  # of a name: those of metrics are kept, told and logged
_LARGEST: Final = float(np.finfo(np.float32).max)
_TAGS_OF_TRAINED: Final = frozenset({TRAINED, DELTA, COMPRESSED, LOSSY_COMPRESSED})
_OWN_TAGS: Final = frozenset({"model", "aggregated", "lossy_decompressed", DELTA})


@dataclass(frozen=True, slots=True, eq=False)
class Expected:
    """What the plan and the round say of uploads.

    ``model`` is the round's, of which a task that trains must send those ``required`` by name: the initial model's.
    ``magnitudes`` keeps how large the model's tensors are, once somebody asked.
    """

    model: Arrays
    required: frozenset[str]
    collaborators: Collection[str]
    tasks: Mapping[str, Task]
    rules: UploadRules
    magnitudes: dict[str, float] = field(default_factory=dict)


def check_header(header: Header, config: AggregatorConfig) -> None:
    """Raise `AuthorizationError` for a foreign sender, `HeaderMismatchError` for another federation or aggregator."""
    if header.sender not in config.collaborators:
        raise AuthorizationError(f"{header.sender!r} is no collaborator of this federation")
    known, uuid = config.federation_uuid, config.uuid
    if header.federation_uuid in config.aliases:
        known, uuid = header.federation_uuid, f"aggregator_{header.federation_uuid}"
    expected = {
        "receiver": (uuid, header.receiver),
        "federation_uuid": (known, header.federation_uuid),
        "single_col_cert_common_name": (config.single_col_cert_common_name, header.single_col_cert_common_name),
    }
    for name, (ours, theirs) in expected.items():
        if ours != theirs:
            raise HeaderMismatchError(
                f"expected {ours!r} as the header's {name}, got {theirs!r}; do both sides have the same plan?"
            )


class Payloads(Protocol):
    """An upload's tensors on demand."""

    def tensor(self, record: TensorRecord) -> EncodedTensor:
        """Return one tensor as a view of the kept bytes."""
        ...

    def unload(self, record: TensorRecord) -> None:
        """Take one tensor out of memory until it is read again."""
        ...


def check_upload(
    index: TaskResultsIndex, payloads: Payloads, *, expected: Expected, codec: TensorCodec, max_bytes: int
) -> None:
    """Raise a `TensorError` unless an upload is what the module's table wants.

    Reads once, at the speed of memory, what nobody looked at on its way: call it in a worker thread. A few bytes may stand
    for many elements: raises `MessageTooLargeError` before what was decoded of all together takes ``max_bytes``.
    """
    _check_results(index, expected)
    _check_values(index, payloads, codec, expected, max_bytes)


def _check_results(index: TaskResultsIndex, expected: Expected) -> None:
    seen: set[tuple[str, bool, frozenset[str]]] = set()
    trains = False
    for record in index.tensors:
        where = f"tensor {record.name!r} of task {index.task_name!r}"
        if record.name not in expected.model:
            _check_name(record.name)
        if record.round_number != index.round_number:
            raise TensorError(f"{where} is of round {record.round_number}: expected {index.round_number}, the upload's")
        # an absolute value and a difference of one tensor would count twice
        key = (record.name, record.report, frozenset(tags_of(record)) - {DELTA})
        if key in seen:
            raise TensorError(f"{where} came twice with the tags {list(record.tags)!r}; send each tensor once")
        seen.add(key)
        shape = _check_coding(record, where)
        if METRIC in record.tags:
            _check_metric(record, shape, where)
        elif TRAINED in record.tags:
            trains = True
            _check_trained(record, shape, expected.model, where)
        _check_tags(record, expected.collaborators, where)
    _check_samples(index, expected.rules, trains=trains)
    _check_complete(index, expected, trains=trains)


def _check_values(
    index: TaskResultsIndex, payloads: Payloads, codec: TensorCodec, expected: Expected, max_bytes: int
) -> None:
    decoded, squares = 0, 0.0
    for record, extremes in zip_longest(index.tensors, index.extremes):
        where = f"tensor {record.name!r} of task {index.task_name!r}"
        if extremes is not None and codec.checks_by_size(record.tags) and _is_good(record, extremes, expected, where):
            continue
        if not codec.checks_by_size(record.tags):
            decoded += 4 * max(0, math.prod(record.metadata[0].int_list))
            if decoded > max_bytes:
                raise MessageTooLargeError(
                    f"the upload has more than {max_bytes} bytes when it is decoded, which is all that this model can "
                    "need; raise limits.max_upload_bytes if it is meant"
                )
        values = codec.decode(payloads.tensor(record))
        if METRIC in record.tags:
            continue  # a loss may be NaN: a collaborator of OpenFL 1.6 would send it again for ever
        base = expected.model.get(record.name) if TRAINED in record.tags else None
        if base is not None and values.shape != base.shape:
            raise ShapeMismatchError(f"{where} has the shape {values.shape!r}: expected {base.shape!r} as in the model")
        rules = expected.rules
        squares += _check_array(values, base, DELTA in record.tags, rules.max_update_norm, rules.max_value, where)
        del values
        payloads.unload(record)
    if expected.rules.max_update_norm is not None and not math.sqrt(squares) <= expected.rules.max_update_norm:
        raise TensorError(
            f"the update of task {index.task_name!r} has the L2 norm {math.sqrt(squares):g}: "
            f"expected at most {expected.rules.max_update_norm:g} (max_update_norm)"
        )


def _is_good(record: TensorRecord, extremes: Extremes, expected: Expected, where: str) -> bool:
    """Return whether what was found of a tensor while it came is enough to let it in; raise where it is refused."""
    if METRIC in record.tags or expected.rules.max_update_norm is not None:
        return False
    if not extremes.finite:
        raise _not_finite(where)
    limit = min(expected.rules.max_value, _LARGEST)
    if DELTA in record.tags and record.name in expected.model:
        # more than the sum can be; if that is too much, the sum itself is looked at
        return abs(extremes.largest) + _magnitude(record.name, expected) <= limit
    if abs(extremes.largest) > limit:
        raise _too_large(where, extremes.largest, limit)
    return True


def _magnitude(name: str, expected: Expected) -> float:
    known = expected.magnitudes.get(name)
    if known is None:
        base = expected.model[name]
        known = expected.magnitudes[name] = max(abs(float(base.min())), abs(float(base.max()))) if base.size else 0.0
    return known


def _not_finite(where: str) -> TensorError:
    return TensorError(f"{where} has values that are not finite: expected numbers, got NaN or infinity")


def _too_large(where: str, value: float, limit: float) -> TensorError:
    return TensorError(f"{where} has the value {value:g}: expected at most {limit:g} in magnitude (max_value)")


def _check_array(
    values: NDArray[np.float32],
    base: NDArray[Any] | None,
    is_delta: bool,
    max_norm: float | None,
    max_value: float | None,
    where: str,
) -> float:
    """Check the values slice by slice; return the sum of the squares of the change, if there is a bound for it."""
    squares = 0.0
    limit = math.inf if max_value is None else max_value
    with np.errstate(over="ignore", invalid="ignore"):
        for part, of_base in _slices(values, base):
            # both ends tell of any value that is not finite, and need no array of their own
            ends = [float(part.min()), float(part.max())]
            if is_delta and of_base is not None:
                absolute = of_base + part
                ends += [float(absolute.min()), float(absolute.max())]
            if not all(map(math.isfinite, ends)):
                raise _not_finite(where)
            largest = max(ends, key=abs)
            if abs(largest) > limit:
                raise _too_large(where, largest, limit)
            if max_norm is not None and of_base is not None:
                change = part.astype(np.float64) if is_delta else np.subtract(part, of_base, dtype=np.float64)
                squares += float(np.dot(change, change))
    return squares


def _slices(
    values: NDArray[np.float32], base: NDArray[Any] | None
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any] | None]]:
    flat = values.reshape(-1)
    of_base = None if base is None else base.reshape(-1)
    for start in range(0, flat.size, SLICE):
        stop = start + SLICE
        # payloads lie anywhere in a message; numpy is twice as fast on addresses that are multiples of four
        yield np.require(flat[start:stop], requirements="A"), None if of_base is None else of_base[start:stop]


def _check_coding(record: TensorRecord, where: str) -> tuple[int, ...]:
    """Return the shape that the metadata tells."""
    if sum(tag in record.tags for tag in (COMPRESSED, LOSSY_COMPRESSED)) != 1:
        raise CodecError(
            f"{where} must carry one of the tags {COMPRESSED!r} and {LOSSY_COMPRESSED!r}, got {list(record.tags)!r}"
        )
    if not record.metadata:
        raise CodecError(f"{where} has no transformer metadata: expected its shape")
    shape = record.metadata[0].int_list
    if min(shape, default=0) < 0:
        raise CodecError(f"{where} has the shape {shape!r}: expected no negative sizes")
    if COMPRESSED in record.tags and record.nbytes != 4 * math.prod(shape):
        raise CodecError(f"{where} has {record.nbytes} bytes: expected float32 values of the shape {shape!r}")
    return shape


def _check_name(name: str) -> None:
    if not (name.isprintable() and 0 < len(name) <= MOST_CHARACTERS):
        raise TensorError(
            f"expected a name of 1 to {MOST_CHARACTERS} printable characters for a tensor, got {name[:40]!r} of {len(name)}"
        )


def _check_metric(record: TensorRecord, shape: tuple[int, ...], where: str) -> None:
    if math.prod(shape) != 1:
        raise ShapeMismatchError(f"{where} is a metric: expected one number, got the shape {shape!r}")
    if not record.report:
        raise TensorError(f"{where} is a metric: expected report=True, got report=False")


def _check_trained(record: TensorRecord, shape: tuple[int, ...], model: Arrays, where: str) -> None:
    base = model.get(record.name)
    if record.report or not {*record.tags} <= _TAGS_OF_TRAINED:
        # it would be aggregated by itself, and one collaborator's values be the whole model's
        raise TensorError(
            f"{where} was trained: expected no report and no tag but {TRAINED!r} and {DELTA!r}, "
            f"got report={record.report} and {list(record.tags)!r}"
        )
    if base is None and DELTA in record.tags:
        raise TensorError(f"{where} is a delta, but the model has no such tensor to add it to")
    if base is not None and shape != base.shape:
        raise ShapeMismatchError(f"{where} has the shape {shape!r}: expected {base.shape!r} as in the model")


def _check_tags(record: TensorRecord, collaborators: Collection[str], where: str) -> None:
    own = _OWN_TAGS - {DELTA} if TRAINED in record.tags and METRIC not in record.tags else _OWN_TAGS
    forged = sorted(tag for tag in {*record.tags} if tag in own or tag in collaborators)
    if forged:
        raise TensorError(f"{where} has the tags {forged!r}, which only the aggregator gives; send it without")


def _check_samples(index: TaskResultsIndex, rules: UploadRules, *, trains: bool) -> None:
    name, size = index.task_name, index.data_size
    # a 1.6 collaborator knows the size only of tasks with these words in their name, and sends -1 for others
    if size == -1 and "train" not in name and "valid" not in name:
        return
    least = 1 if trains else 0
    if not least <= size <= rules.max_data_size:
        raise TensorError(
            f"task {name!r} sent {'trained tensors' if trains else 'results'} of {size} samples: "
            f"expected at least {least} and at most {rules.max_data_size} (max_data_size)"
        )


def _check_complete(index: TaskResultsIndex, expected: Expected, *, trains: bool) -> None:
    task = expected.tasks.get(index.task_name)
    kind = TaskKind.UNSPECIFIED if task is None else task.kind
    if kind is TaskKind.VALIDATE and trains:
        raise TensorError(f"task {index.task_name!r} validates: expected metrics, got trained tensors")
    if not trains and kind is not TaskKind.TRAIN:
        return
    sent = {record.name for record in index.tensors if TRAINED in record.tags and METRIC not in record.tags}
    missing = sorted(expected.required - sent)
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise TensorError(
            f"task {index.task_name!r} trained without {', '.join(map(repr, missing[:3]))}{more}: "
            "expected every tensor of the initial model"
        )
