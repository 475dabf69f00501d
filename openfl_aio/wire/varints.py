"""The primitives of the protobuf wire format: varints, tags, and the way past a field that is not known."""

from __future__ import annotations

from typing import Final

from openfl_aio.errors import MalformedMessageError

__all__ = [
    "FIXED32",
    "FIXED64",
    "GROUP_END",
    "GROUP_START",
    "LENGTH",
    "MAX_DEPTH",
    "VARINT",
    "Buffer",
    "encode_varint",
    "read_tag",
    "read_varint",
    "skip_field",
]

Buffer = bytes | bytearray | memoryview

MAX_DEPTH: Final = 64
"""Levels of nested messages or groups that are followed."""

VARINT, FIXED64, LENGTH, GROUP_START, GROUP_END, FIXED32 = range(6)

_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF
_ONE_BYTE: Final = tuple(bytes((value,)) for value in range(128))


def encode_varint(value: int) -> bytes:
    """Return ``value`` (0 to 2**64 - 1) as a varint."""
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return the varint at ``position`` and the position after it; raises `MalformedMessageError`."""
    value = shift = 0
    while True:
        if position >= end:
            raise MalformedMessageError("expected the rest of a varint, the message ends within it")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & _U64, position
        shift += 7
        if shift > 63:
            raise MalformedMessageError("expected a varint of at most ten bytes, got a longer one")


def read_tag(data: Buffer, position: int, end: int) -> tuple[int, int]:
    """Return the tag (field number << 3 | wire type) at ``position`` and where it ends; raises `MalformedMessageError`."""
    tag, after = read_varint(data, position, end)
    if tag > _U32 or after - position > 5 or tag < 8:
        raise MalformedMessageError(f"expected a field number from 1 to 536870911, got {tag >> 3}")
    return tag, after


def skip_field(data: Buffer, position: int, end: int, tag: int, depth: int = 0) -> int:
    """Return the position after the value of an unknown field whose ``tag`` was read; raises `MalformedMessageError`."""
    wire_type = tag & 7
    if wire_type == VARINT:
        return read_varint(data, position, end)[1]
    if wire_type == FIXED64:
        position += 8
    elif wire_type == FIXED32:
        position += 4
    elif wire_type == LENGTH:
        length, position = read_varint(data, position, end)
        position += length
    elif wire_type == GROUP_START:
        return _skip_group(data, position, end, tag, depth)
    else:
        raise MalformedMessageError(f"expected a value in field {tag >> 3}, got wire type {wire_type}")
    if position > end:
        raise MalformedMessageError(f"expected the rest of field {tag >> 3}, the message ends within it")
    return position


def _skip_group(data: Buffer, position: int, end: int, tag: int, depth: int) -> int:
    if depth >= MAX_DEPTH:
        raise MalformedMessageError(f"expected at most {MAX_DEPTH} levels of nesting, got more")
    while True:
        inner, position = read_tag(data, position, end)
        if inner & 7 == GROUP_END:
            if inner >> 3 != tag >> 3:
                raise MalformedMessageError(f"expected the end of group {tag >> 3}, got the end of group {inner >> 3}")
            return position
        position = skip_field(data, position, end, inner, depth + 1)
