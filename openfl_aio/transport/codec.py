"""Our strict message codec behind grpclib's interface."""

from __future__ import annotations

from typing import Any

import anyio.to_thread
from grpclib.encoding.base import CodecBase

from openfl_aio.config import Limits
from openfl_aio.errors import LocalProtocolError
from openfl_aio.wire import codec
from openfl_aio.wire.messages import DataStream, v1
from openfl_aio.wire.varints import read_varint

__all__ = ["StrictCodec", "decode_message", "read_chunk", "read_part"]

_SIZE_TAG = 0x08  # field 1, varint
_BYTES_TAG = 0x12  # field 2, length-delimited
_PART_TAG = 0x22  # field 4, length-delimited
_HEAD_BYTES = 24
_LITTLE = 64 * 1024  # bytes that are decoded sooner than a thread is found


class StrictCodec(CodecBase):
    """Encodes and decodes betterproto2 messages with `openfl_aio.wire.codec`; bytes fields arrive as views.

    ``tables``: whether metadata may have a value for each element of a tensor.
    """

    __content_subtype__ = "proto"

    def __init__(self, limits: Limits, *, tables: bool = False) -> None:
        self._limits = limits
        self._tables = tables

    def encode(self, message: Any, message_type: Any) -> bytes:
        """Return ``message`` as bytes. Raises `LocalProtocolError` if it is no ``message_type``."""
        if not isinstance(message, message_type):
            raise LocalProtocolError(f"expected a {message_type.__name__} to send, got {type(message).__name__}")
        return codec.encode(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        """Return the message in ``data``. Raises `MalformedMessageError` or `MessageTooLargeError`."""
        return codec.decode(message_type, data, views=True, limits=self._limits, tables=self._tables)


async def decode_message(codec: CodecBase, data: bytes | memoryview, message_type: Any) -> Any:
    """Return the message in ``data``, decoded in a thread if there is much: it is pure Python, and a peer wrote it."""
    if message_type is DataStream:
        chunk = read_chunk(data)
        if chunk is not None:
            return chunk
    elif message_type is v1.TensorPart:
        part = read_part(data)
        if part is not None:
            return part
    if len(data) <= _LITTLE:
        return codec.decode(data, message_type)  # type: ignore[arg-type] # grpclib's knows bytes only
    return await anyio.to_thread.run_sync(codec.decode, data, message_type)  # type: ignore[arg-type]


def read_chunk(data: bytes | memoryview) -> DataStream | None:
    """Return the `DataStream` in ``data`` if it is written as everybody writes it: its size, if any, then its bytes.

    None if it is not, and maybe malformed: then it is for the codec. The payload is a view of ``data``.
    """
    head = bytes(data[:_HEAD_BYTES])
    end, position, size = len(head), 0, 0
    if end and head[0] == _SIZE_TAG:
        # the whole head is no longer than two tags and two varints of ten bytes
        size, position = read_varint(head, 1, end)
        size &= 0xFFFFFFFF  # as protobuf reads a longer number into a uint32
    if position >= end or head[position] != _BYTES_TAG:
        return None
    length, position = read_varint(head, position + 1, end)
    if length != len(data) - position:
        return None
    return DataStream(size=size, npbytes=memoryview(data)[position:])  # type: ignore[arg-type]


def read_part(data: bytes | memoryview) -> v1.TensorPart | None:
    """Return the `TensorPart` in ``data`` if that is nothing but a piece of a tensor, as most are; else None.

    The piece is a view of ``data``.
    """
    head = bytes(data[:_HEAD_BYTES])
    if len(head) < 2 or head[0] != _PART_TAG:
        return None
    length, position = read_varint(head, 1, len(head))
    if length != len(data) - position:
        return None
    return v1.TensorPart(data=memoryview(data)[position:])  # type: ignore[arg-type]
