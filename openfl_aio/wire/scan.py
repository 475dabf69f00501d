"""Count what a message asks this side to build, before a single object is built.

Two bytes can ask for a Python object of five hundred. So a message may have, by its size and by `Limits`:

- objects: a quarter of its bytes and 4000, where a sub-message counts as 4, an entry of a map as 2 and an element of a
  list as 1 (in other words one sub-message in 16 bytes, and 1000);
- fields: 12 for each of ``max_tensors``, and 4000, whatever its size;
- beside these, where there may be tables of values for each element, one entry for each 13 bytes, and 1000, since an
  element has its own bytes beside its entry (`openfl_aio.wire.tables`);
- ``max_tensors`` elements in any list of messages, ``max_tags`` and ``max_metadata`` a tensor, 64 numbers a shape, 128
  tensors that are asked for together, 64 devices an envoy.

Values are passed over by their lengths, so that the bytes of a tensor cost nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final, TypeAlias

import betterproto2 as bp

from openfl_aio.config import Limits
from openfl_aio.errors import MalformedMessageError, MessageTooLargeError
from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.wire.messages import MetadataProto, NamedTensor, director, v1
from openfl_aio.wire.schema import READ_MAP, READ_MESSAGE, READ_PACKED_FIXED, READ_PACKED_VARINT, schema_of
from openfl_aio.wire.tables import ENTRY_BYTES, LEAST_TABLE_BYTES, read_table
from openfl_aio.wire.varints import (
    FIXED32,
    FIXED64,
    GROUP_END,
    GROUP_START,
    LENGTH,
    MAX_DEPTH,
    VARINT,
    Buffer,
    read_tag,
    read_varint,
)

__all__ = [
    "ENTRY_OBJECTS",
    "LEAST_ENTRIES",
    "MAX_DEVICES",
    "MAX_QUERIES",
    "MESSAGE_OBJECTS",
    "SAME_PIPELINE",
    "Tables",
    "check_contents",
    "most_fields",
    "most_objects",
]

MESSAGE_OBJECTS: Final = 4
ENTRY_OBJECTS: Final = 2
MAX_SHAPE: Final = 64
MAX_DEVICES: Final = 64  # of one envoy
MAX_QUERIES: Final = 128  # in one GetTensors: a few milliseconds of work, and few enough round trips
LEAST_OBJECTS: Final = 4_000
LEAST_ENTRIES: Final = 1_000
SAME_PIPELINE: Final = (
    "a table of values for each element is for plans whose compression_pipeline writes one, as RandomShiftPipeline: "
    "do both sides have the same plan?"
)
BYTES_PER_OBJECT: Final = 4
FIELDS_PER_TENSOR: Final = 12


def most_objects(nbytes: int) -> int:
    """Return how many objects a message of ``nbytes`` may ask for."""
    return nbytes // BYTES_PER_OBJECT + LEAST_OBJECTS


@dataclass(frozen=True, slots=True)
class _Counted:
    """A field that asks for objects."""

    name: str
    objects: int  # for each occurrence
    element_bytes: int  # of the packed form, 1 for varints; 0: not packed
    message: type[bp.Message] | None  # to look into
    most: str  # the limit for one message's elements; empty for none


_MOST: Final = {
    (NamedTensor, "tags"): "tags",
    (NamedTensor, "transformer_metadata"): "metadata",
    (MetadataProto, "int_list"): "shape",
    (v1.TensorsRequest, "queries"): "queries",
    (director.NodeInfo, "cuda_devices"): "devices",
    (director.UpdateEnvoyStatusRequest, "cuda_devices"): "devices",
}

_FIXED_BYTES: Final = {FIXED64: 8, FIXED32: 4}
_CONTINUED: Final = bytes(range(0x80, 0x100))


@cache
def _counted_fields(cls: type[bp.Message]) -> dict[int, _Counted]:
    """Return by tag the fields of ``cls`` that ask for objects; the others are only passed over."""
    fields = {}
    for tag, reader in schema_of(cls).readers.items():
        most = _MOST.get((cls, reader.name), "")
        if reader.kind in (READ_MESSAGE, READ_MAP):
            if reader.repeated and reader.kind == READ_MESSAGE:
                most = most or "tensors"
            objects = ENTRY_OBJECTS if reader.kind == READ_MAP else MESSAGE_OBJECTS
            fields[tag] = _Counted(reader.name, objects, 0, reader.message, most)
        elif reader.kind == READ_PACKED_FIXED:
            fields[tag] = _Counted(reader.name, 0, reader.layout.size, None, most)
        elif reader.kind == READ_PACKED_VARINT:
            fields[tag] = _Counted(reader.name, 0, 1, None, most)
        elif reader.repeated:
            fields[tag] = _Counted(reader.name, 1, 0, None, most)
    return fields


Tables: TypeAlias = dict[int, tuple[FloatTable, int]]


def check_contents(cls: type[bp.Message], data: Buffer, limits: Limits, *, tables: bool = False) -> Tables:
    """Raise `MessageTooLargeError` if ``data`` as a message of type ``cls`` asks for too much.

    With ``tables`` there may be metadata with an entry for each element of a tensor: returned are the tables that were
    read, by the positions of their metadata, each with the position after it.
    Raises `MalformedMessageError` for what cannot be passed over; what is whole may still be malformed.
    """
    scan = _Scan(data, limits, tables=tables)
    scan.fields(cls, 0, len(data), 0)
    return scan.tables


class _Scan:
    __slots__ = ("data", "entries_left", "fields_left", "limits", "most", "objects_left", "tables")

    def __init__(self, data: Buffer, limits: Limits, *, tables: bool) -> None:
        self.data = data
        self.limits = limits
        self.tables: Tables = {}
        self.entries_left = len(data) // ENTRY_BYTES + LEAST_ENTRIES if tables else 0
        self.objects_left = most_objects(len(data))
        self.fields_left = most_fields(limits)
        self.most = {
            "tensors": limits.max_tensors,
            "tags": limits.max_tags,
            "metadata": limits.max_metadata,
            "shape": MAX_SHAPE,
            "queries": MAX_QUERIES,
            "devices": MAX_DEVICES,
        }

    def fields(self, cls: type[bp.Message], position: int, end: int, depth: int) -> None:
        """Pass over ``data[position:end]``, and into what it holds."""
        if depth > MAX_DEPTH:
            raise MalformedMessageError(f"expected at most {MAX_DEPTH} levels of nesting, got more")
        # this runs once a field of whatever a peer sends: what is spelled out here is spelled out for speed
        data, counted = self.data, _counted_fields(cls)
        counts: dict[str, int] = {}
        left, groups = self.fields_left, 0
        while position < end:
            left -= 1
            if left < 0:
                raise _too_many("fields", most_fields(self.limits), in_table=cls in _table_classes())
            tag = data[position]
            if 8 <= tag < 0x80:
                position += 1
            else:
                tag, position = read_tag(data, position, end)
                left -= 1  # it takes twice as long, and OpenFL has no field of such a number
            wire_type = tag & 7
            if wire_type == LENGTH:
                if position < end and (length := data[position]) < 0x80:
                    position += 1
                else:
                    length, position = read_varint(data, position, end)
                stop = position + length
                if stop > end:
                    raise MalformedMessageError(f"expected the rest of field {tag >> 3}, the message ends within it")
                if tag in counted and not groups:
                    self.fields_left = left
                    self._look(counted[tag], position, stop, counts, depth)
                    left = self.fields_left
                position = stop
            elif wire_type == VARINT:
                if position < end and data[position] < 0x80:
                    position += 1
                else:
                    position = read_varint(data, position, end)[1]
                if tag in counted and not groups:
                    self._count(counted[tag], 1, counts)
            elif wire_type in _FIXED_BYTES:
                position += _FIXED_BYTES[wire_type]
                if tag in counted and not groups:
                    self._count(counted[tag], 1, counts)
            elif wire_type == GROUP_START:
                groups += 1
                left -= 1
            elif wire_type == GROUP_END and groups:
                groups -= 1
            else:
                raise MalformedMessageError(f"expected a value in field {tag >> 3}, got wire type {wire_type}")
        self.fields_left = left

    def _look(self, field: _Counted, position: int, stop: int, counts: dict[str, int], depth: int) -> None:
        """Count a length-delimited field, and what is in it."""
        if field.element_bytes:
            self._count(field, self._elements(field, position, stop), counts)
            return
        self.objects_left -= field.objects
        if self.objects_left < 0:
            raise _too_many("objects", most_objects(len(self.data)))
        if field.most:
            total = counts[field.name] = counts.get(field.name, 0) + 1
            if total > self.most[field.most]:
                raise _too_many(f"elements of {field.name!r}", self.most[field.most])
        if field.message is not None and position < stop:
            if field.message is MetadataProto and self.entries_left and stop - position >= LEAST_TABLE_BYTES:
                position = self._table(position, stop)
            self.fields(field.message, position, stop, depth + 1)

    def _table(self, position: int, stop: int) -> int:
        """Read the entries that metadata begin with; return the position after them."""
        table, count, nbytes = read_table(self.data[position:stop], self.entries_left)
        self.entries_left -= count
        if self.entries_left < 0:
            raise _too_many("entries of tables", len(self.data) // ENTRY_BYTES + LEAST_ENTRIES)
        if nbytes:
            self.tables[position] = table, position + nbytes
        return position + nbytes

    def _elements(self, field: _Counted, position: int, stop: int) -> int:
        elements = (stop - position) // field.element_bytes
        most = min(self.objects_left, self.most[field.most]) if field.most else self.objects_left
        if field.element_bytes > 1 or elements // 10 > most:  # a varint has ten bytes at most
            return elements
        # of every varint one byte, the last, has its highest bit clear
        return len(bytes(self.data[position:stop]).translate(None, _CONTINUED))

    def _count(self, field: _Counted, elements: int, counts: dict[str, int]) -> None:
        self.objects_left -= field.objects or elements
        if self.objects_left < 0:
            raise _too_many("objects", most_objects(len(self.data)))
        if field.most:
            total = counts[field.name] = counts.get(field.name, 0) + elements
            if total > self.most[field.most]:
                raise _too_many(f"elements of {field.name!r}", self.most[field.most])


def most_fields(limits: Limits) -> int:
    """Return how many fields a message may have, with those of the messages in it."""
    return FIELDS_PER_TENSOR * limits.max_tensors + LEAST_OBJECTS


@cache
def _table_classes() -> tuple[type[bp.Message], ...]:
    return MetadataProto, *(
        reader.message for reader in schema_of(MetadataProto).readers.values() if reader.kind == READ_MAP
    )


def _too_many(what: str, most: int, *, in_table: bool = False) -> MessageTooLargeError:
    advice = SAME_PIPELINE if in_table else "raise the limits if it is meant"
    return MessageTooLargeError(f"expected at most {most} {what} in a message, got more; {advice}")
