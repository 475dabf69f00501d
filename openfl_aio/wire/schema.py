"""How the fields of a generated message class are read and written: one table a class, made at first use."""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import betterproto2 as bp

from openfl_aio.wire.varints import FIXED32, FIXED64, LENGTH, VARINT, encode_varint

__all__ = [
    "READ_BYTES",
    "READ_FIXED",
    "READ_MAP",
    "READ_MESSAGE",
    "READ_PACKED_FIXED",
    "READ_PACKED_VARINT",
    "READ_TEXT",
    "READ_VARINT",
    "Reader",
    "Schema",
    "Writer",
    "schema_of",
]

_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF


def _signed32(value: int) -> int:
    value &= _U32
    return value - (1 << 32) if value >> 31 else value


def _signed64(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _zigzag(value: int) -> int:
    return (value >> 1) ^ -(value & 1)


# how an unsigned 64-bit varint becomes a value (Google's implementation truncates to the field's width, so do we)
_FROM_VARINT: Final[dict[str, Callable[[int], int]]] = {
    bp.TYPE_INT32: _signed32,
    bp.TYPE_INT64: _signed64,
    bp.TYPE_UINT32: lambda value: value & _U32,
    bp.TYPE_UINT64: lambda value: value,
    bp.TYPE_SINT32: lambda value: _zigzag(value & _U32),
    bp.TYPE_SINT64: _zigzag,
    bp.TYPE_BOOL: bool,
    bp.TYPE_ENUM: _signed32,
}
_RANGES: Final[dict[str, tuple[int, int]]] = {
    bp.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    bp.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    bp.TYPE_UINT32: (0, _U32),
    bp.TYPE_UINT64: (0, _U64),
    bp.TYPE_SINT32: (-(1 << 31), (1 << 31) - 1),
    bp.TYPE_SINT64: (-(1 << 63), (1 << 63) - 1),
    bp.TYPE_BOOL: (0, 1),
    bp.TYPE_ENUM: (-(1 << 31), (1 << 31) - 1),
}
_FIXED: Final[dict[str, struct.Struct]] = {
    bp.TYPE_FLOAT: struct.Struct("<f"),
    bp.TYPE_DOUBLE: struct.Struct("<d"),
    bp.TYPE_FIXED32: struct.Struct("<I"),
    bp.TYPE_SFIXED32: struct.Struct("<i"),
    bp.TYPE_FIXED64: struct.Struct("<Q"),
    bp.TYPE_SFIXED64: struct.Struct("<q"),
}

(
    READ_VARINT,
    READ_FIXED,
    READ_TEXT,
    READ_BYTES,
    READ_MESSAGE,
    READ_PACKED_VARINT,
    READ_PACKED_FIXED,
    READ_MAP,
) = range(8)


@dataclass(frozen=True, slots=True)
class Reader:
    """How the value behind one tag is read."""

    kind: int
    name: str
    repeated: bool
    convert: Callable[[int], Any] = int
    layout: struct.Struct = _FIXED[bp.TYPE_FLOAT]
    message: type[bp.Message] = bp.Message
    siblings: tuple[str, ...] = ()  # the other members of a oneof


@dataclass(frozen=True, slots=True)
class Writer:
    """How one field is written. ``scalar`` is None for bytes, messages and maps."""

    name: str
    proto_type: str
    tag: bytes  # of a single value
    length_tag: bytes  # of the packed form
    repeated: bool
    presence: bool  # None means absent; otherwise the default value is absent
    scalar: Callable[[Any], bytes] | None
    message: type[bp.Message] | None = None
    wrap: Callable[[Any], Any] | None = None


@dataclass(frozen=True, slots=True)
class Schema:
    """The table of one message class."""

    readers: dict[int, Reader]
    writers: tuple[Writer, ...]
    nested: tuple[tuple[str, type[bp.Message], bool], ...]  # singular sub-messages: name, class, is it unwrapped


def _scalar_writer(proto_type: str) -> Callable[[Any], bytes] | None:
    if proto_type in _FIXED:
        pack = _FIXED[proto_type].pack
        if proto_type != bp.TYPE_FLOAT:
            return pack

        def write_float(value: float) -> bytes:
            try:
                return pack(value)
            except OverflowError:  # beyond float32: infinity, as everybody's float32 conversion has it
                return pack(math.copysign(math.inf, value))

        return write_float
    if proto_type == bp.TYPE_STRING:

        def write_text(value: str) -> bytes:
            raw = value.encode()
            return encode_varint(len(raw)) + raw

        return write_text
    if proto_type not in _RANGES:
        return None
    low, high = _RANGES[proto_type]
    zigzag = proto_type in (bp.TYPE_SINT32, bp.TYPE_SINT64)

    def write_int(value: int) -> bytes:
        number = operator.index(value)
        if not low <= number <= high:
            raise ValueError(f"out of range, expected {low} to {high}")
        return encode_varint((number << 1 ^ number >> 63 if zigzag else number) & _U64)

    return write_int


@cache
def schema_of(cls: type[bp.Message]) -> Schema:
    """Return the table of ``cls``."""
    meta: Any = cls._betterproto  # type: ignore[arg-type] # the class property is annotated wrongly
    readers: dict[int, Reader] = {}
    writers: list[Writer] = []
    nested: list[tuple[str, type[bp.Message], bool]] = []
    for name in meta.sorted_field_names:
        field = meta.meta_by_field_name[name]
        proto_type, key, repeated = field.proto_type, field.number << 3, bool(field.repeated)
        group = meta.oneof_field_by_group.get(field.group or "", ())
        siblings = tuple(sorted(other.name for other in group if other.name != name))
        message: Any = None
        wire_type = LENGTH
        if proto_type in _RANGES:
            wire_type = VARINT
            convert: Callable[[int], Any] = _FROM_VARINT[proto_type]
            if proto_type == bp.TYPE_ENUM:
                convert = _enum_reader(meta.cls_by_field[name])
            readers[key | VARINT] = Reader(READ_VARINT, name, repeated, convert=convert, siblings=siblings)
            if repeated:
                readers[key | LENGTH] = Reader(READ_PACKED_VARINT, name, True, convert=convert)
        elif proto_type in _FIXED:
            layout = _FIXED[proto_type]
            wire_type = FIXED32 if layout.size == 4 else FIXED64
            readers[key | wire_type] = Reader(READ_FIXED, name, repeated, layout=layout, siblings=siblings)
            if repeated:
                readers[key | LENGTH] = Reader(READ_PACKED_FIXED, name, True, layout=layout)
        elif proto_type == bp.TYPE_STRING:
            readers[key | LENGTH] = Reader(READ_TEXT, name, repeated, siblings=siblings)
        elif proto_type == bp.TYPE_BYTES:
            readers[key | LENGTH] = Reader(READ_BYTES, name, repeated, siblings=siblings)
        elif proto_type == bp.TYPE_MAP:
            message = meta.cls_by_field[name]
            readers[key | LENGTH] = Reader(READ_MAP, name, True, message=message)
        else:
            message = field.unwrap() if field.unwrap else meta.cls_by_field[name]
            readers[key | LENGTH] = Reader(READ_MESSAGE, name, repeated, message=message, siblings=siblings)
            if not repeated:
                nested.append((name, message, field.unwrap is not None))
        writers.append(
            Writer(
                name=name,
                proto_type=proto_type,
                tag=encode_varint(key | wire_type),
                length_tag=encode_varint(key | LENGTH),
                repeated=repeated,
                presence=bool(field.optional or field.group or proto_type == bp.TYPE_MESSAGE),
                scalar=_scalar_writer(proto_type),
                message=message,
                wrap=message.from_wrapped if message is not None and field.unwrap else None,
            )
        )
    return Schema(readers, tuple(writers), tuple(nested))


def _enum_reader(enum: type[Any]) -> Callable[[int], Any]:
    # a number that is not listed becomes an unnamed member: enums are open, a newer peer may know more
    return lambda value: enum(_signed32(value))
