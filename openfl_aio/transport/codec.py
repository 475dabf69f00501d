"""Our strict message codec behind grpclib's interface."""

from __future__ import annotations

from typing import Any

from grpclib.encoding.base import CodecBase

from openfl_aio.config import Limits
from openfl_aio.errors import LocalProtocolError
from openfl_aio.wire import codec

__all__ = ["StrictCodec"]


class StrictCodec(CodecBase):
    """Encodes and decodes betterproto2 messages with `openfl_aio.wire.codec`; bytes fields arrive as views."""

    __content_subtype__ = "proto"

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def encode(self, message: Any, message_type: Any) -> bytes:
        """Return ``message`` as bytes. Raises `LocalProtocolError` if it is no ``message_type``."""
        if not isinstance(message, message_type):
            raise LocalProtocolError(f"expected a {message_type.__name__} to send, got {type(message).__name__}")
        return codec.encode(message)

    def decode(self, data: bytes, message_type: Any) -> Any:
        """Return the message in ``data``. Raises `MalformedMessageError` or `MessageTooLargeError`."""
        return codec.decode(message_type, data, views=True, limits=self._limits)
