"""Length-prefixed messages read within limits, on both sides, and cancellation that grpclib leaves behind undone."""

from __future__ import annotations

import asyncio
import struct
from types import TracebackType
from typing import Any, Final

from grpclib.const import Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError
from grpclib.protocol import Stream as H2Stream
from grpclib.utils import DeadlineWrapper, Wrapper

from openfl_aio.config import Limits
from openfl_aio.errors import MalformedMessageError, MessageTooLargeError

__all__ = ["CleanDeadlineWrapper", "CleanWrapper", "read_message"]

PREFIX_BYTES: Final = 5


async def read_message(source: H2Stream, codec: CodecBase, message_type: Any, limits: Limits) -> Any:
    """Return the next message, or None after the last.

    Raises `MessageTooLargeError` from the length prefix alone, `MalformedMessageError` for one that is cut short, and
    answers UNIMPLEMENTED to a compressed one.
    """
    prefix = await _read(source, PREFIX_BYTES)
    if prefix is None:
        if source.buffer._acked_size:
            raise MalformedMessageError("the stream ended within the prefix of a message")
        return None
    compressed, size = struct.unpack(">BI", prefix)
    if compressed:
        raise GRPCError(Status.UNIMPLEMENTED, "compressed messages are not supported; send with 'identity' encoding")
    if size > limits.max_message_bytes:
        raise MessageTooLargeError(f"message of {size} bytes; at most {limits.max_message_bytes} bytes are accepted")
    data = await _read(source, size)
    if data is None:
        raise MalformedMessageError(f"the stream ended within a message of {size} bytes")
    return codec.decode(data, message_type)


async def _read(source: H2Stream, size: int) -> bytes | None:
    """Return exactly ``size`` bytes, or None if the stream ended before."""
    if not size:
        return b""
    while True:
        try:
            data = await source.recv_data(size)
        except AssertionError:  # how grpclib says that fewer bytes came
            data = b""
        if data:
            return data
        # grpclib also stops at an empty DATA frame, which is legal anywhere
        if source.buffer._eof and source.buffer._unacked.empty():
            return None


class CleanWrapper(Wrapper):
    """grpclib's way to wake a call with an error, without a trace of the cancellation that it uses for that.

    Otherwise the task counts as being cancelled from then on, and cancel scopes and timeouts around the call break.
    """

    def __init__(self) -> None:
        super().__init__()
        self._woken: set[asyncio.Task[Any]] = set()

    def cancel(self, error: Exception) -> None:
        """Wake every task inside with ``error``."""
        self._woken.update(self._tasks)
        super().cancel(error)

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        task = asyncio.current_task()
        if task in self._woken:
            assert task is not None
            self._woken.discard(task)
            task.uncancel()
        super().__exit__(kind, exc, traceback)


class CleanDeadlineWrapper(CleanWrapper, DeadlineWrapper):
    """The same for calls with a deadline."""
