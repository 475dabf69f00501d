"""A strict protobuf codec for the generated message classes.

The classes are betterproto2's; the bytes go through here, because a peer's bytes are not to be trusted:

- truncated input, field number 0, unpaired groups, wire types that do not exist, text that is no UTF-8 and varints
  beyond ten bytes raise `MalformedMessageError`; nothing is half decoded;
- a known field in a wire type that it cannot have is skipped like an unknown one, as in Google's implementation;
- a repeated singular field: the last wins, sub-messages merge;
- unknown fields are skipped and not kept;
- the number of objects that a message may make this side build is bounded (a byte can ask for a whole Python object),
  and counted by `openfl_aio.wire.scan` before the first is built.

Encoding gives a list of buffers in which large ``bytes`` values appear as they are, without a copy. Such a field may
also hold a ``bytearray`` or ``memoryview``.

Both directions are driven by one table a class, made at first use.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any, Final, TypeVar

import betterproto2 as bp

from openfl_aio.config import Limits
from openfl_aio.errors import LocalProtocolError, MalformedMessageError, MessageTooLargeError
from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.wire.messages import MetadataProto
from openfl_aio.wire.scan import Tables, check_contents
from openfl_aio.wire.schema import (
    READ_BYTES,
    READ_FIXED,
    READ_MAP,
    READ_MESSAGE,
    READ_PACKED_FIXED,
    READ_TEXT,
    READ_VARINT,
    Reader,
    Writer,
    schema_of,
)
from openfl_aio.wire.tables import encode_table
from openfl_aio.wire.varints import MAX_DEPTH, Buffer, encode_varint, read_tag, read_varint, skip_field

__all__ = ["Buffer", "EncodedMessage", "decode", "encode", "encode_parts"]

M = TypeVar("M", bound=bp.Message)

_VIEW_BYTES: Final = 4096  # from here on a buffer is passed on as it is; below, joining is cheaper than another part
_SCAN_BYTES: Final = 1024  # what is smaller cannot ask for much
_DEFAULT_LIMITS: Final = Limits()


# -------------------------------------------------------------------------------------------------------- decoding


class _Decoder:
    """One call of `decode`. What it may build was counted before, where that can be much."""

    __slots__ = ("data", "tables", "views")

    def __init__(self, data: Buffer, *, views: bool, tables: Tables) -> None:
        self.data = data
        self.views = views
        self.tables = tables

    def fields(
        self, cls: type[bp.Message], position: int, end: int, state: dict[str, Any], depth: int
    ) -> dict[str, Any]:
        """Read ``data[position:end]`` into ``state``; a singular sub-message is a nested state, so that it can merge."""
        if depth > MAX_DEPTH:
            raise MalformedMessageError(f"expected at most {MAX_DEPTH} levels of nesting, got more")
        data, readers = self.data, schema_of(cls).readers
        if cls is MetadataProto and position in self.tables:
            state["int_to_float"], position = self.tables[position]
        while position < end:
            tag = data[position]
            if 8 <= tag < 0x80:
                position += 1
            else:
                tag, position = read_tag(data, position, end)
            reader = readers.get(tag)
            if reader is None:
                position = skip_field(data, position, end, tag)
                continue
            kind = reader.kind
            if kind == READ_FIXED:
                stop = position + reader.layout.size
            else:
                stop, position = read_varint(data, position, end)
                if kind == READ_VARINT:
                    self._store(reader, state, reader.convert(stop))
                    continue
                stop += position
            if stop > end:
                raise MalformedMessageError(f"expected the rest of field {reader.name!r}, the message ends within it")
            if kind == READ_TEXT:
                self._store(reader, state, self._text(reader.name, position, stop))
            elif kind == READ_BYTES:
                raw = data[position:stop]
                self._store(reader, state, raw if self.views else bytes(raw))
            elif kind == READ_FIXED:
                self._store(reader, state, reader.layout.unpack_from(data, position)[0])
            elif kind == READ_MESSAGE:
                self._message(reader, position, stop, state, depth)
            elif kind == READ_MAP:
                entry = self.build(reader.message, self.fields(reader.message, position, stop, {}, depth + 1))
                table = state.setdefault(reader.name, {})
                if isinstance(table, FloatTable):
                    raise MalformedMessageError(
                        f"expected the entries of a large {reader.name!r} one after another and the key before the value"
                    )
                table[entry.key] = entry.value
            else:
                self._packed(reader, position, stop, state)
            position = stop
        return state

    def _store(self, reader: Reader, state: dict[str, Any], value: object) -> None:
        if reader.repeated:
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

    def _message(self, reader: Reader, position: int, stop: int, state: dict[str, Any], depth: int) -> None:
        if reader.repeated:
            built = self.build(reader.message, self.fields(reader.message, position, stop, {}, depth + 1))
            state.setdefault(reader.name, []).append(built)
            return
        for sibling in reader.siblings:
            state.pop(sibling, None)
        self.fields(reader.message, position, stop, state.setdefault(reader.name, {}), depth + 1)

    def _packed(self, reader: Reader, position: int, stop: int, state: dict[str, Any]) -> None:
        values: list[Any] = state.setdefault(reader.name, [])
        if reader.kind == READ_PACKED_FIXED:
            if (stop - position) % reader.layout.size:
                raise MalformedMessageError(f"expected whole values in packed field {reader.name!r}, got a part of one")
            values.extend(value for (value,) in reader.layout.iter_unpack(self.data[position:stop]))
            return
        while position < stop:
            number, position = read_varint(self.data, position, stop)
            values.append(reader.convert(number))

    def build(self, cls: type[bp.Message], state: dict[str, Any]) -> Any:
        for name, message, unwrapped in schema_of(cls).nested:
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


def decode(cls: type[M], data: Buffer, *, views: bool = False, limits: Limits | None = None, tables: bool = False) -> M:
    """Return the message of type ``cls`` that ``data`` holds.

    With ``views=True`` every ``bytes`` field is a ``memoryview`` of ``data`` (which must not change while they live),
    otherwise a copy. ``limits`` bounds the bytes of the message (``max_message_bytes``) and what it asks to build, see
    `openfl_aio.wire.scan`. Without it the bytes are not limited, and what is built by the default limits. With ``tables``
    metadata may have an entry for each element of a tensor: then ``int_to_float`` is a `FloatTable`.

    Raises `MalformedMessageError` and `MessageTooLargeError`.
    """
    if limits is not None and len(data) > limits.max_message_bytes:
        raise MessageTooLargeError(
            f"expected a message of at most {limits.max_message_bytes} bytes, got {len(data)}; "
            "raise max_message_bytes if it is meant"
        )
    # indexing bytes is faster than indexing a view; slicing a view is free
    source: Buffer = memoryview(data) if views or len(data) > _VIEW_BYTES else bytes(data)
    read: Tables = {}
    if len(source) >= _SCAN_BYTES:
        read = check_contents(cls, source, limits or _DEFAULT_LIMITS, tables=tables)
    decoder = _Decoder(source, views=views, tables=read)
    message: M = decoder.build(cls, decoder.fields(cls, 0, len(source), {}, 0))
    return message


# -------------------------------------------------------------------------------------------------------- encoding


class EncodedMessage:
    """A message that was encoded before, to stand for itself in a field of another one that is sent.

    Encoded once and sent often: its large parts are sent as they are, without a copy, and must not change.
    """

    __slots__ = ("nbytes", "parts")

    def __init__(self, parts: Iterable[Buffer]) -> None:
        self.parts = tuple(_coalesced(parts))
        self.nbytes = sum(map(len, self.parts))

    def __repr__(self) -> str:
        return f"<EncodedMessage of {self.nbytes} bytes in {len(self.parts)} parts>"


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
    for writer in schema_of(type(message)).writers:
        value = getattr(message, writer.name)
        try:
            if _is_absent(writer, value):  # as most fields of most messages are
                continue
            size += _write_field(writer, value, parts)
        except (TypeError, ValueError, AttributeError, struct.error) as error:
            raise LocalProtocolError(
                f"cannot write field {writer.name!r} of {type(message).__name__} as {writer.proto_type}: {error}"
            ) from error
    return size


def _write_field(writer: Writer, value: Any, parts: list[Buffer]) -> int:
    if isinstance(value, FloatTable):
        parts.append(encode_table(value))
        return len(parts[-1])
    if writer.proto_type == bp.TYPE_MAP:
        return sum(_write_entry(writer, key, item, parts) for key, item in value.items())
    if writer.repeated:
        if writer.scalar is not None and writer.proto_type != bp.TYPE_STRING:
            packed = b"".join([writer.scalar(item) for item in value])
            piece = writer.length_tag + encode_varint(len(packed)) + packed
            parts.append(piece)
            return len(piece)
        return sum(_write_value(writer, item, parts) for item in value)
    return _write_value(writer, value, parts)


def _is_absent(writer: Writer, value: Any) -> bool:
    if writer.presence:
        return value is None
    # minus zero equals zero, and is not the default
    return not value and not (isinstance(value, float) and math.copysign(1.0, value) < 0)


def _write_value(writer: Writer, value: Any, parts: list[Buffer]) -> int:
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


def _write_nested(tag: bytes, message: bp.Message | EncodedMessage, parts: list[Buffer]) -> int:
    if isinstance(message, EncodedMessage):
        head = tag + encode_varint(message.nbytes)
        parts.append(head)
        parts.extend(message.parts)
        return len(head) + message.nbytes
    place = len(parts)
    parts.append(b"")  # the length is known only after the fields
    size = _write_message(message, parts)
    head = tag + encode_varint(size)
    parts[place] = head
    return len(head) + size


def _write_entry(writer: Writer, key: Any, value: Any, parts: list[Buffer]) -> int:
    assert writer.message is not None
    inner: list[Buffer] = []
    # key and value are always written, defaults too: the other implementations do so
    for field, item in zip(schema_of(writer.message).writers, (key, value), strict=True):
        _write_value(field, item, inner)
    raw = b"".join(inner)
    piece = writer.tag + encode_varint(len(raw)) + raw
    parts.append(piece)
    return len(piece)
