"""Uploads and models, field by field: a message that is never whole in memory.

OpenFL sends the results of a task as one serialized ``TaskResults``, of any size, cut into chunks. The decoder here
takes the bytes in whatever pieces they come and keeps an index: where each tensor's payload lies in the whole. The
payloads themselves are somebody else's (they are written to a file as they arrive). The encoders are the other way
round: generators that have one tensor alive at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from openfl_aio.config import Limits
from openfl_aio.domain import Header
from openfl_aio.errors import (
    EmptyStreamError,
    InvalidStateError,
    MalformedMessageError,
    MalformedStreamError,
    MessageTooLargeError,
)
from openfl_aio.tensors.codec import EncodedTensor, TransformerMetadata
from openfl_aio.tensors.extremes import Extremes, ExtremesFinder
from openfl_aio.wire.codec import Buffer, decode, encode
from openfl_aio.wire.convert import (
    check_labels,
    header_from_proto,
    header_to_proto,
    metadata_from_proto,
    tensor_to_proto,
)
from openfl_aio.wire.messages import NamedTensor, aggregator
from openfl_aio.wire.scan import SAME_PIPELINE, most_fields
from openfl_aio.wire.tables import LEAST_TABLE_BYTES, MOST_ENTRY_BYTES, read_entries
from openfl_aio.wire.varints import FIXED32, FIXED64, GROUP_END, GROUP_START, LENGTH, VARINT, encode_varint

__all__ = [
    "MAX_INDEX_BYTES",
    "MAX_TENSOR_INDEX_BYTES",
    "Place",
    "TaskResultsDecoder",
    "TaskResultsIndex",
    "TensorRecord",
    "encode_model",
    "encode_task_results",
]

MAX_INDEX_BYTES: Final = 16 * 1024 * 1024
"""Bytes of one upload that may be anything else than tensor payloads: names, tags, metadata."""

MAX_TENSOR_INDEX_BYTES: Final = 1024 * 1024
"""Bytes of the same that belong to one tensor: more could not be fields that `openfl_aio.wire.scan` lets pass."""

_LEAST_LOOKED_AT: Final = 64 * 1024  # bytes of a payload: fewer are read again sooner than they are looked at in pieces
_TABLE_BLOCK: Final = 256 * 1024
_OTHER_FIELDS: Final = 100  # what is neither tensor nor tag nor metadata: ours, and those of releases to come
_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}

# tags: field number << 3 | wire type
_RESULTS_TENSOR: Final = 5 << 3 | LENGTH  # TaskResults.tensors
_MODEL_TENSOR: Final = 1 << 3 | LENGTH  # ModelProto.tensors
_TENSOR_METADATA: Final = 6 << 3 | LENGTH  # NamedTensor.transformer_metadata
_TENSOR_DATA: Final = 7 << 3 | LENGTH  # NamedTensor.data_bytes

_Steps: TypeAlias = Generator[None, None, None]  # suspended while bytes are missing
_Number: TypeAlias = Generator[None, None, int]
_Apart: TypeAlias = Mapping[int, Callable[[int], _Steps]]  # by tag: what is not kept, and who reads it

Place: TypeAlias = tuple[int, int]
"""Where something is in a serialized message: offset and length."""


@dataclass(frozen=True, slots=True)
class TensorRecord:
    """One tensor of an upload without its payload, which is ``nbytes`` from ``offset`` of the serialized message.

    ``tables``, if it is not empty, has for each of the metadata where the entries of its table are in the message, offset
    and length, or None where all is in ``metadata``.
    """

    name: str
    round_number: int
    lossless: bool
    report: bool
    tags: tuple[str, ...]
    metadata: tuple[TransformerMetadata, ...]
    offset: int
    nbytes: int
    tables: tuple[Place | None, ...] = ()


@dataclass(frozen=True, slots=True)
class TaskResultsIndex:
    """An upload without its payloads. ``data_size`` is the number of samples the collaborator states.

    ``extremes`` has what was found of each tensor's values as they came, None where nobody looked.
    """

    header: Header
    round_number: int
    task_name: str
    data_size: int
    tensors: tuple[TensorRecord, ...]
    total_bytes: int
    extremes: tuple[Extremes | None, ...] = ()

    def check_names(self) -> None:
        """Raise `MalformedMessageError` unless task, tensors and tags are called what such things can be called."""
        check_labels(self.task_name, what="task")
        for tensor in self.tensors:
            check_labels(tensor.name, what="tensor")
            check_labels(*tensor.tags, what="tag")


class TaskResultsDecoder:
    """Indexes one serialized ``TaskResults`` as its bytes arrive, in any pieces.

    Nothing of what is fed is kept but the small fields: at most `MAX_INDEX_BYTES`, ``max_tensors`` tensors, and
    ``max_tags`` tags and ``max_metadata`` metadata a tensor, and as many fields in all as any message may have
    (`openfl_aio.wire.scan`). ``max_upload_bytes`` bounds the whole, if it is set.
    ``is_plain`` says of a tensor's tags whether its payload is float32 values as they are: the extremes of those are
    found on the way, if their tags come before them. ``max_entries``: how many entries tables may have that have one for
    each element of a tensor; they stay where they are, as payloads do. 0: there are no such tables.
    After an error the decoder is of no more use.
    """

    def __init__(
        self,
        *,
        limits: Limits,
        is_plain: Callable[[Iterable[str]], bool] = lambda tags: False,
        max_entries: int = 0,
    ) -> None:
        self._limits = limits
        self._entries_left = self._max_entries = max_entries
        self._is_plain = is_plain
        self._chunk = memoryview(b"")
        self._at = 0  # position in the chunk
        self._before = 0  # bytes of all chunks before it
        self._total = 0
        self._kept = 0
        self._fields_left = self._most_fields = most_fields(limits)
        self._between_fields = True
        self._usable = True
        self._message = bytearray()  # the fields of TaskResults itself, as they came
        self._tensor = bytearray()  # those of the current tensor
        self._payload: Place = (0, 0)  # of the current tensor
        self._tables: list[Place | None] = []  # of its metadata
        self._extremes: Extremes | None = None  # of the current tensor
        self._records: list[TensorRecord] = []
        self._found: list[Extremes | None] = []
        self._steps = self._fields(None, self._message, {_RESULTS_TENSOR: self._read_tensor})
        next(self._steps)

    def __repr__(self) -> str:
        return f"TaskResultsDecoder(total={self._total}, tensors={len(self._records)})"

    @property
    def index_bytes(self) -> int:
        """How many of the bytes so far are no payloads: what of the upload is in memory."""
        return self._kept

    def feed(self, data: Buffer) -> None:
        """Take the next bytes. Raises `MalformedMessageError` and `MessageTooLargeError`."""
        if not self._usable:
            raise InvalidStateError("expected no more data, this decoder has ended or failed; use a new one")
        self._usable = False  # until these bytes turn out to be good
        self._chunk = memoryview(data).cast("B")
        self._at = 0
        self._total += len(self._chunk)
        if self._limits.max_upload_bytes is not None and self._total > self._limits.max_upload_bytes:
            raise MessageTooLargeError(f"expected an upload of at most {self._limits.max_upload_bytes} bytes, got more")
        self._steps.send(None)
        self._before = self._total
        self._chunk = memoryview(b"")
        self._at = 0
        self._usable = True

    def finish(self) -> TaskResultsIndex:
        """Tell that no more bytes will come, and return what came.

        Raises `EmptyStreamError` when nothing did, `MalformedStreamError` when a part is missing, and
        `MalformedMessageError`.
        """
        if not self._usable:
            raise InvalidStateError("expected one call of finish after good data; use a new decoder")
        self._usable = False
        if not self._total:
            raise EmptyStreamError("expected task results, got an empty stream; send them again from the beginning")
        if not self._between_fields:
            raise MalformedStreamError(
                f"expected the rest of the task results, the stream ended after {self._total} bytes"
            )
        message = decode(aggregator.TaskResults, self._message, limits=self._limits)
        return TaskResultsIndex(
            header=header_from_proto(message.header),
            round_number=message.round_number,
            task_name=message.task_name,
            data_size=message.data_size,
            tensors=tuple(self._records),
            total_bytes=self._total,
            extremes=tuple(self._found),
        )

    # The rest is one parser, written as generators that are suspended where bytes are missing. It finds the borders of
    # the fields; what the small ones mean (and whether they are valid) is left to the codec.

    @property
    def _position(self) -> int:
        return self._before + self._at

    def _fields(self, end: int | None, kept: bytearray, apart: _Apart) -> _Steps:
        """Read fields up to ``end``: all are appended to ``kept``, but for those that are read ``apart``."""
        groups = count = 0
        most = self._limits.max_tags + self._limits.max_metadata + _OTHER_FIELDS
        if end is None:
            most += self._limits.max_tensors
        while end is None or self._position < end:
            if end is None:
                self._between_fields = not groups
                yield from self._some_bytes()
                self._between_fields = False
            tag = yield from self._varint(end)
            count += 1
            if count > most:
                raise MessageTooLargeError(f"expected at most {most} fields in a message of an upload, got more")
            self._fields_left -= 1
            if self._fields_left < 0:
                raise MessageTooLargeError(
                    f"expected at most {self._most_fields} fields in an upload, got more; raise max_tensors if it is meant"
                )
            if tag in apart and not groups:
                yield from apart[tag]((yield from self._length(end)))
                continue
            self._keep(kept, encode_varint(tag))
            wire_type = tag & 7
            if wire_type == VARINT:
                self._keep(kept, encode_varint((yield from self._varint(end))))
            elif wire_type == LENGTH:
                length = yield from self._length(end)
                self._keep(kept, encode_varint(length))
                yield from self._copy(length, kept)
            elif wire_type in _FIXED_BYTES:
                self._check_end(_FIXED_BYTES[wire_type], end)
                yield from self._copy(_FIXED_BYTES[wire_type], kept)
            elif wire_type == GROUP_START:
                groups += 1
            elif wire_type == GROUP_END and groups:
                groups -= 1
            else:
                raise MalformedMessageError(f"expected a value in field {tag >> 3}, got wire type {wire_type}")
        if groups:
            raise MalformedMessageError("expected the end of a group, the message ends within it")

    def _read_tensor(self, length: int) -> _Steps:
        if len(self._records) >= self._limits.max_tensors:
            raise MessageTooLargeError(f"expected at most {self._limits.max_tensors} tensors in an upload, got more")
        end = self._position + length
        self._tensor = bytearray()
        self._payload = (end, 0)
        self._extremes = None
        self._tables = []
        apart: dict[int, Callable[[int], _Steps]] = {_TENSOR_DATA: lambda nbytes: self._read_payload(nbytes, end)}
        if self._max_entries:
            apart[_TENSOR_METADATA] = self._read_metadata
        yield from self._fields(end, self._tensor, apart)
        self._records.append(self._record())
        self._found.append(self._extremes)

    def _read_metadata(self, length: int) -> _Steps:
        """Pass over the table that large metadata begin with, and keep the rest as if there was no more."""
        end, offset, rest = self._position + length, self._position, b""
        if length >= LEAST_TABLE_BYTES:
            while self._position < end and len(rest) < MOST_ENTRY_BYTES:
                yield from self._some_bytes()
                taken = min(end - self._position, len(self._chunk) - self._at, _TABLE_BLOCK)
                piece = rest + bytes(self._chunk[self._at : self._at + taken])
                self._at += taken
                keys, _, nbytes = read_entries(piece)
                rest = piece[nbytes:]
                self._entries_left -= len(keys)
                if self._entries_left < 0:
                    raise MessageTooLargeError(
                        f"expected at most {self._max_entries} entries of tables in an upload, which is four for each "
                        "element of the model, got more; do both sides have the same model?"
                    )
        nbytes = self._position - len(rest) - offset
        self._tables.append((offset, nbytes) if nbytes else None)
        self._keep(self._tensor, encode_varint(_TENSOR_METADATA) + encode_varint(length - nbytes))
        self._keep(self._tensor, rest)
        yield from self._copy(end - self._position, self._tensor)

    def _read_payload(self, nbytes: int, end: int) -> _Steps:
        self._check_end(nbytes, end)
        self._payload = (self._position, nbytes)
        self._extremes = None
        if nbytes < _LEAST_LOOKED_AT or not self._is_plain(decode(NamedTensor, self._tensor, limits=self._limits).tags):
            yield from self._copy(nbytes, None)
            return
        finder = ExtremesFinder()
        yield from self._copy(nbytes, None, look=finder.add)
        self._extremes = finder.found()

    def _record(self) -> TensorRecord:
        message = decode(NamedTensor, self._tensor, limits=self._limits)
        for what, count, most in (
            ("tags", len(message.tags), self._limits.max_tags),
            ("metadata", len(message.transformer_metadata), self._limits.max_metadata),
        ):
            if count > most:
                raise MessageTooLargeError(f"expected at most {most} {what} on tensor {message.name!r}, got {count}")
        for metadata, place in zip(message.transformer_metadata, self._tables, strict=bool(self._tables)):
            if place is not None and metadata.int_to_float:
                raise MalformedMessageError(
                    f"expected the entries of a large table on tensor {message.name!r} one after another, and the key "
                    "before the value"
                )
        offset, nbytes = self._payload
        return TensorRecord(
            name=message.name,
            round_number=message.round_number,
            lossless=message.lossless,
            report=message.report,
            tags=tuple(message.tags),
            metadata=tuple(metadata_from_proto(metadata) for metadata in message.transformer_metadata),
            offset=offset,
            nbytes=nbytes,
            tables=tuple(self._tables) if any(self._tables) else (),
        )

    def _some_bytes(self) -> _Steps:
        while self._at == len(self._chunk):
            yield

    def _varint(self, end: int | None) -> _Number:
        value = shift = 0
        while True:
            self._check_end(1, end)
            yield from self._some_bytes()
            byte = self._chunk[self._at]
            self._at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & 0xFFFF_FFFF_FFFF_FFFF
            shift += 7
            if shift > 63:
                raise MalformedMessageError("expected a varint of at most ten bytes, got a longer one")

    def _length(self, end: int | None) -> _Number:
        length = yield from self._varint(end)
        self._check_end(length, end)
        return length

    def _copy(self, count: int, kept: bytearray | None, *, look: Callable[[memoryview], None] | None = None) -> _Steps:
        """Pass over ``count`` bytes and ``look`` at them, or append them to ``kept``."""
        if kept is not None:
            self._reserve(count, kept)
        while count:
            yield from self._some_bytes()
            taken = min(count, len(self._chunk) - self._at)
            if kept is not None:
                kept += self._chunk[self._at : self._at + taken]
            if look is not None:
                look(self._chunk[self._at : self._at + taken])
            self._at += taken
            count -= taken

    def _keep(self, kept: bytearray, raw: bytes) -> None:
        self._reserve(len(raw), kept)
        kept += raw

    def _reserve(self, count: int, kept: bytearray) -> None:
        self._kept += count
        if kept is self._tensor and len(kept) + count > MAX_TENSOR_INDEX_BYTES:
            raise MessageTooLargeError(
                f"expected at most {MAX_TENSOR_INDEX_BYTES} bytes of names, tags and metadata on a tensor, got more; "
                f"{SAME_PIPELINE}"
            )
        if self._kept > MAX_INDEX_BYTES:
            raise MessageTooLargeError(
                f"expected at most {MAX_INDEX_BYTES} bytes of names, tags and metadata in an upload, got more"
            )

    def _check_end(self, count: int, end: int | None) -> None:
        if end is not None and self._position + count > end:
            raise MalformedMessageError("expected the rest of a field, the tensor that it belongs to ends within it")


def encode_task_results(
    *, header: Header, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
) -> Iterator[Buffer]:
    """Yield the bytes of a ``TaskResults``; tensors are taken one at a time, and their data are not copied.

    ``data_size`` is a number of samples (int32; -1 says none). Raises `LocalProtocolError` for values out of range.
    """
    yield encode(
        aggregator.TaskResults(
            header=header_to_proto(header), round_number=round_number, task_name=task_name, data_size=data_size
        )
    )
    for tensor in tensors:
        yield from _encode_tensor(_RESULTS_TENSOR, tensor)


def encode_model(tensors: Iterable[EncodedTensor]) -> Iterator[Buffer]:
    """Yield the bytes of a ``ModelProto`` in the same way."""
    for tensor in tensors:
        yield from _encode_tensor(_MODEL_TENSOR, tensor)


def _encode_tensor(tag: int, tensor: EncodedTensor) -> Iterator[Buffer]:
    message = tensor_to_proto(tensor)
    message.data_bytes = b""  # the last field of the message, so it may as well follow by itself
    fields = encode(message)
    data = memoryview(tensor.data).cast("B")
    if len(data):
        fields += encode_varint(_TENSOR_DATA) + encode_varint(len(data))
    yield encode_varint(tag) + encode_varint(len(fields) + len(data)) + fields
    if len(data):
        yield tensor.data
