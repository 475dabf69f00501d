"""A strict protobuf codec for the generated message classes.

The classes are betterproto2's; the bytes go through here, because a peer's bytes are not to be trusted:

- truncated input, field number 0, unpaired groups, wire types that do not exist, text that is no UTF-8 and varints
  beyond ten bytes raise `MalformedMessageError`; nothing is half decoded;
- a known field in a wire type that it cannot have is skipped like an unknown one, as in Google's implementation;
- a repeated singular field: the last wins, sub-messages merge;
- unknown fields are skipped and not kept;
- the number of objects that a message may make this side build is bounded (a byte can ask for a whole Python object).

Encoding gives a list of buffers in which large ``bytes`` values appear as they are, without a copy. Such a field may
also hold a ``bytearray`` or ``memoryview``.

Both directions are driven by one table a class, made at first use.
"""

from __future__ import annotations

import math
import operator
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeVar

import betterproto2 as bp

from openfl_aio.config import Limits
from openfl_aio.errors import LocalProtocolError, MalformedMessageError, MessageTooLargeError

__all__ = ["Buffer", "decode", "encode", "encode_parts", "encode_varint", "read_varint", "skip_field"]

Buffer = bytes | bytearray | memoryview
M = TypeVar("M", bound=bp.Message)

_U32: Final = 0xFFFFFFFF
_U64: Final = 0xFFFFFFFFFFFFFFFF
_MAX_DEPTH: Final = 64
_VIEW_BYTES: Final = 4096  # from here on a buffer is passed on as it is; below, joining is cheaper than another part
_DEFAULT_LIMITS: Final = Limits()

# protobuf wire types
_VARINT, _FIXED64, _LENGTH, _GROUP_START, _GROUP_END, _FIXED32 = range(6)


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


def _read_tag(data: Buffer, position: int, end: int) -> tuple[int, int]:
    tag, after = read_varint(data, position, end)
    if tag > _U32 or after - position > 5 or tag < 8:
        raise MalformedMessageError(f"expected a field number from 1 to 536870911, got {tag >> 3}")
    return tag, after


def skip_field(data: Buffer, position: int, end: int, tag: int, depth: int = 0) -> int:
    """Return the position after the value of an unknown field whose ``tag`` was read; raises `MalformedMessageError`."""
    wire_type = tag & 7
    if wire_type == _VARINT:
        return read_varint(data, position, end)[1]
    if wire_type == _FIXED64:
        position += 8
    elif wire_type == _FIXED32:
        position += 4
    elif wire_type == _LENGTH:
        length, position = read_varint(data, position, end)
        position += length
    elif wire_type == _GROUP_START:
        return _skip_group(data, position, end, tag, depth)
    else:
        raise MalformedMessageError(f"expected a value in field {tag >> 3}, got wire type {wire_type}")
    if position > end:
        raise MalformedMessageError(f"expected the rest of field {tag >> 3}, the message ends within it")
    return position


def _skip_group(data: Buffer, position: int, end: int, tag: int, depth: int) -> int:
    if depth >= _MAX_DEPTH:
        raise MalformedMessageError(f"expected at most {_MAX_DEPTH} levels of nesting, got more")
    while True:
        inner, position = _read_tag(data, position, end)
        if inner & 7 == _GROUP_END:
            if inner >> 3 != tag >> 3:
                raise MalformedMessageError(f"expected the end of group {tag >> 3}, got the end of group {inner >> 3}")
            return position
        position = skip_field(data, position, end, inner, depth + 1)


# ---------------------------------------------------------------------------------------------------------- tables

(
    _READ_VARINT,
    _READ_FIXED,
    _READ_TEXT,
    _READ_BYTES,
    _READ_MESSAGE,
    _READ_PACKED_VARINT,
    _READ_PACKED_FIXED,
    _READ_MAP,
) = range(8)


@dataclass(frozen=True, slots=True)
class _Reader:
    """How the value behind one tag is read."""

    kind: int
    name: str
    repeated: bool
    convert: Callable[[int], Any] = int
    layout: struct.Struct = _FIXED[bp.TYPE_FLOAT]
    message: type[bp.Message] = bp.Message
    siblings: tuple[str, ...] = ()  # the other members of a oneof


@dataclass(frozen=True, slots=True)
class _Writer:
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
class _Schema:
    readers: dict[int, _Reader]
    writers: tuple[_Writer, ...]
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
def _schema(cls: type[bp.Message]) -> _Schema:
    meta: Any = cls._betterproto  # type: ignore[arg-type] # the class property is annotated wrongly
    readers: dict[int, _Reader] = {}
    writers: list[_Writer] = []
    nested: list[tuple[str, type[bp.Message], bool]] = []
    for name in meta.sorted_field_names:
        field = meta.meta_by_field_name[name]
        proto_type, key, repeated = field.proto_type, field.number << 3, bool(field.repeated)
        group = meta.oneof_field_by_group.get(field.group or "", ())
        siblings = tuple(sorted(other.name for other in group if other.name != name))
        message: Any = None
        wire_type = _LENGTH
        if proto_type in _RANGES:
            wire_type = _VARINT
            convert: Callable[[int], Any] = _FROM_VARINT[proto_type]
            if proto_type == bp.TYPE_ENUM:
                convert = _enum_reader(meta.cls_by_field[name])
            readers[key | _VARINT] = _Reader(_READ_VARINT, name, repeated, convert=convert, siblings=siblings)
            if repeated:
                readers[key | _LENGTH] = _Reader(_READ_PACKED_VARINT, name, True, convert=convert)
        elif proto_type in _FIXED:
            layout = _FIXED[proto_type]
            wire_type = _FIXED32 if layout.size == 4 else _FIXED64
            readers[key | wire_type] = _Reader(_READ_FIXED, name, repeated, layout=layout, siblings=siblings)
            if repeated:
                readers[key | _LENGTH] = _Reader(_READ_PACKED_FIXED, name, True, layout=layout)
        elif proto_type == bp.TYPE_STRING:
            readers[key | _LENGTH] = _Reader(_READ_TEXT, name, repeated, siblings=siblings)
        elif proto_type == bp.TYPE_BYTES:
            readers[key | _LENGTH] = _Reader(_READ_BYTES, name, repeated, siblings=siblings)
        elif proto_type == bp.TYPE_MAP:
            message = meta.cls_by_field[name]
            readers[key | _LENGTH] = _Reader(_READ_MAP, name, True, message=message)
        else:
            message = field.unwrap() if field.unwrap else meta.cls_by_field[name]
            readers[key | _LENGTH] = _Reader(_READ_MESSAGE, name, repeated, message=message, siblings=siblings)
            if not repeated:
                nested.append((name, message, field.unwrap is not None))
        writers.append(
            _Writer(
                name=name,
                proto_type=proto_type,
                tag=encode_varint(key | wire_type),
                length_tag=encode_varint(key | _LENGTH),
                repeated=repeated,
                presence=bool(field.optional or field.group or proto_type == bp.TYPE_MESSAGE),
                scalar=_scalar_writer(proto_type),
                message=message,
                wrap=message.from_wrapped if message is not None and field.unwrap else None,
            )
        )
    return _Schema(readers, tuple(writers), tuple(nested))


def _enum_reader(enum: type[Any]) -> Callable[[int], Any]:
    # a number that is not listed becomes an unnamed member: enums are open, a newer peer may know more
    return lambda value: enum(_signed32(value))


# -------------------------------------------------------------------------------------------------------- decoding


class _Decoder:
    """One call of `decode`: the input, and the objects that may still be built."""

    __slots__ = ("budget", "data", "maximum", "views")

    def __init__(self, data: Buffer, *, views: bool, maximum: int) -> None:
        self.data = data
        self.views = views
        self.maximum = self.budget = maximum

    def spend(self, objects: int) -> None:
        self.budget -= objects
        if self.budget < 0:
            raise MessageTooLargeError(
                f"expected at most {self.maximum} elements in one message, got more; raise the limits if it is meant"
            )

    def fields(
        self, cls: type[bp.Message], position: int, end: int, state: dict[str, Any], depth: int
    ) -> dict[str, Any]:
        """Read ``data[position:end]`` into ``state``; a singular sub-message is a nested state, so that it can merge."""
        if depth > _MAX_DEPTH:
            raise MalformedMessageError(f"expected at most {_MAX_DEPTH} levels of nesting, got more")
        data, readers = self.data, _schema(cls).readers
        while position < end:
            tag = data[position]
            if 8 <= tag < 0x80:
                position += 1
            else:
                tag, position = _read_tag(data, position, end)
            reader = readers.get(tag)
            if reader is None:
                position = skip_field(data, position, end, tag)
                continue
            kind = reader.kind
            if kind == _READ_FIXED:
                stop = position + reader.layout.size
            else:
                stop, position = read_varint(data, position, end)
                if kind == _READ_VARINT:
                    self._store(reader, state, reader.convert(stop))
                    continue
                stop += position
            if stop > end:
                raise MalformedMessageError(f"expected the rest of field {reader.name!r}, the message ends within it")
            if kind == _READ_TEXT:
                self._store(reader, state, self._text(reader.name, position, stop))
            elif kind == _READ_BYTES:
                raw = data[position:stop]
                self._store(reader, state, raw if self.views else bytes(raw))
            elif kind == _READ_FIXED:
                self._store(reader, state, reader.layout.unpack_from(data, position)[0])
            elif kind == _READ_MESSAGE:
                self._message(reader, position, stop, state, depth)
            elif kind == _READ_MAP:
                self.spend(1)
                entry = self.build(reader.message, self.fields(reader.message, position, stop, {}, depth + 1))
                state.setdefault(reader.name, {})[entry.key] = entry.value
            else:
                self._packed(reader, position, stop, state)
            position = stop
        return state

    def _store(self, reader: _Reader, state: dict[str, Any], value: object) -> None:
        if reader.repeated:
            self.spend(1)
            state.setdefault(reader.name, []).append(value)
            return
        for sibling in reader.siblings:
            state.pop(sibling, None)
        state[reader.name] = value

    def _text(self, name: str, position: int, stop: int) -> str:
        try:
            return str(self.data[position:stop], "utf-8")
        except UnicodeDecodeError:
            raise MalformedMessageError(f"expected UTF-8 text in field {name!r}, got other bytes") from None

    def _message(self, reader: _Reader, position: int, stop: int, state: dict[str, Any], depth: int) -> None:
        self.spend(1)
        if reader.repeated:
            built = self.build(reader.message, self.fields(reader.message, position, stop, {}, depth + 1))
            state.setdefault(reader.name, []).append(built)
            return
        for sibling in reader.siblings:
            state.pop(sibling, None)
        self.fields(reader.message, position, stop, state.setdefault(reader.name, {}), depth + 1)

    def _packed(self, reader: _Reader, position: int, stop: int, state: dict[str, Any]) -> None:
        values: list[Any] = state.setdefault(reader.name, [])
        if reader.kind == _READ_PACKED_FIXED:
            count, rest = divmod(stop - position, reader.layout.size)
            if rest:
                raise MalformedMessageError(f"expected whole values in packed field {reader.name!r}, got a part of one")
            self.spend(count)
            values.extend(value for (value,) in reader.layout.iter_unpack(self.data[position:stop]))
            return
        while position < stop:
            self.spend(1)
            number, position = read_varint(self.data, position, stop)
            values.append(reader.convert(number))

    def build(self, cls: type[bp.Message], state: dict[str, Any]) -> Any:
        for name, message, unwrapped in _schema(cls).nested:
            inner = state.get(name)
            if inner is None:
                continue
            built = self.build(message, inner)
            if unwrapped:
                try:
                    built = built.to_wrapped()
                except (OverflowError, ValueError):
                    raise MalformedMessageError(
                        f"expected a {message.__name__} that Python can hold in field {name!r}"
                    ) from None
            state[name] = built
        return cls(**state)


def decode(cls: type[M], data: Buffer, *, views: bool = False, limits: Limits | None = None) -> M:
    """Return the message of type ``cls`` that ``data`` holds.

    With ``views=True`` every ``bytes`` field is a ``memoryview`` of ``data`` (which must not change while they live),
    otherwise a copy. ``limits`` bounds the bytes of the message (``max_message_bytes``) and, through ``max_tensors``,
    ``max_tags`` and ``max_metadata``, the number of list elements, map entries and sub-messages; without it the bytes
    are not limited and the elements by the default limits.

    Raises `MalformedMessageError` and `MessageTooLargeError`.
    """
    if limits is not None and len(data) > limits.max_message_bytes:
        raise MessageTooLargeError(
            f"expected a message of at most {limits.max_message_bytes} bytes, got {len(data)}; "
            "raise max_message_bytes if it is meant"
        )
    bound = limits or _DEFAULT_LIMITS
    # indexing bytes is faster than indexing a view; slicing a view is free
    source: Buffer = memoryview(data) if views or len(data) > _VIEW_BYTES else bytes(data)
    decoder = _Decoder(source, views=views, maximum=bound.max_tensors * (bound.max_tags + bound.max_metadata))
    message: M = decoder.build(cls, decoder.fields(cls, 0, len(source), {}, 0))
    return message


# -------------------------------------------------------------------------------------------------------- encoding


def encode(message: bp.Message) -> bytes:
    """Return the bytes of ``message``; raises `LocalProtocolError` for a value that its field cannot hold."""
    parts: list[Buffer] = []
    _write_message(message, parts)
    return b"".join(parts)


def encode_parts(message: bp.Message) -> list[Buffer]:
    """Return the bytes of ``message`` as buffers to be sent one after the other.

    Values of 4096 bytes and more are the caller's own objects, not copies. Raises like `encode`.
    """
    parts: list[Buffer] = []
    _write_message(message, parts)
    return _coalesced(parts)


def _coalesced(parts: Iterable[Buffer]) -> list[Buffer]:
    out: list[Buffer] = []
    small: list[Buffer] = []
    for part in parts:
        if len(part) < _VIEW_BYTES:
            small.append(part)
            continue
        if small:
            out.append(b"".join(small))
            small = []
        out.append(part)
    if small:
        out.append(b"".join(small))
    return out


def _write_message(message: bp.Message, parts: list[Buffer]) -> int:
    """Append the fields of ``message`` to ``parts`` and return their length in bytes."""
    size = 0
    for writer in _schema(type(message)).writers:
        value = getattr(message, writer.name)
        try:
            size += _write_field(writer, value, parts)
        except (TypeError, ValueError, AttributeError, struct.error) as error:
            raise LocalProtocolError(
                f"cannot write field {writer.name!r} of {type(message).__name__} as {writer.proto_type}: {error}"
            ) from error
    return size


def _write_field(writer: _Writer, value: Any, parts: list[Buffer]) -> int:
    if writer.proto_type == bp.TYPE_MAP:
        return sum(_write_entry(writer, key, item, parts) for key, item in value.items())
    if writer.repeated:
        if not value:
            return 0
        if writer.scalar is not None and writer.proto_type != bp.TYPE_STRING:
            packed = b"".join([writer.scalar(item) for item in value])
            piece = writer.length_tag + encode_varint(len(packed)) + packed
            parts.append(piece)
            return len(piece)
        return sum(_write_value(writer, item, parts) for item in value)
    if value is None if writer.presence else _is_default(value):
        return 0
    return _write_value(writer, value, parts)


def _is_default(value: Any) -> bool:
    # minus zero equals zero, and is not the default
    return not value and not (isinstance(value, float) and math.copysign(1.0, value) < 0)


def _write_value(writer: _Writer, value: Any, parts: list[Buffer]) -> int:
    if writer.scalar is not None:
        piece = writer.tag + writer.scalar(value)
        parts.append(piece)
        return len(piece)
    if writer.message is None:
        raw: Buffer = value if isinstance(value, bytes) else memoryview(value).cast("B")
        head = writer.tag + encode_varint(len(raw))
        parts.append(head)
        parts.append(raw)
        return len(head) + len(raw)
    return _write_nested(writer.tag, writer.wrap(value) if writer.wrap else value, parts)


def _write_nested(tag: bytes, message: bp.Message, parts: list[Buffer]) -> int:
    place = len(parts)
    parts.append(b"")  # the length is known only after the fields
    size = _write_message(message, parts)
    head = tag + encode_varint(size)
    parts[place] = head
    return len(head) + size


def _write_entry(writer: _Writer, key: Any, value: Any, parts: list[Buffer]) -> int:
    assert writer.message is not None
    inner: list[Buffer] = []
    # key and value are always written, defaults too: the other implementations do so
    for field, item in zip(_schema(writer.message).writers, (key, value), strict=True):
        _write_value(field, item, inner)
    raw = b"".join(inner)
    piece = writer.tag + encode_varint(len(raw)) + raw
    parts.append(piece)
    return len(piece)
