"""One tensor as a stream of ``TensorPart``: for those that no single message can hold.

A protobuf message ends at 2 GiB, and `Limits.max_message_bytes` may end it sooner. OpenFL's uploads are cut into
chunks and know no such end, but its ``GetAggregatedTensor`` answers with one message. Our own peers have
``openfl_aio.v1.Tensors/GetTensor`` beside it, with the same request. It is asked only after ``GetAggregatedTensor``
was refused with RESOURCE_EXHAUSTED: what fits in one message travels as ever, and a server of OpenFL, which does not
know the call, is not troubled with it. Neither side copies the tensor as a whole: parts are views of the sender's
memory, and the receiver puts each where it stays.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from openfl_aio.config import Limits
from openfl_aio.domain import Header
from openfl_aio.errors import MalformedStreamError, MessageTooLargeError
from openfl_aio.tensors.codec import EncodedTensor
from openfl_aio.wire.convert import header_to_proto, tensor_from_proto, tensor_to_proto
from openfl_aio.wire.messages import aggregator, v1

__all__ = ["TensorAssembler", "tensor_parts"]


def tensor_parts(tensor: EncodedTensor, *, header: Header, chunk_bytes: int) -> Iterator[v1.TensorPart]:
    """Yield ``tensor``: first what it is, then its data, ``chunk_bytes`` at a time, as views."""
    data = memoryview(tensor.data).cast("B")
    described = tensor_to_proto(replace(tensor, data=b""))
    yield v1.TensorPart(header=header_to_proto(header), tensor=described, nbytes=len(data))
    for start in range(0, len(data), chunk_bytes):
        yield v1.TensorPart(data=data[start : start + chunk_bytes])  # type: ignore[arg-type] # our codec writes any buffer


class TensorAssembler:
    """Puts the parts of one tensor together as they come.

    The memory is reserved as the first part announces it, at most ``limits.max_tensor_bytes``; it is the system's
    until bytes are written to it, so an announcement by itself costs nothing.
    """

    def __init__(self, limits: Limits) -> None:
        self._most = limits.max_tensor_bytes
        self._described: EncodedTensor | None = None
        self._header: aggregator.MessageHeader | None = None
        self._data = memoryview(b"")
        self._filled = 0

    def __repr__(self) -> str:
        return f"TensorAssembler({self._filled} of {len(self._data)} bytes)"

    @property
    def header(self) -> aggregator.MessageHeader | None:
        """The header of the first part, None before it came."""
        return self._header

    def feed(self, part: v1.TensorPart) -> None:
        """Take the next part, whose memory may be used again. Raises `MalformedStreamError`, `MessageTooLargeError`."""
        if self._described is None:
            self._begin(part)
            return
        if part.tensor is not None:
            raise MalformedStreamError("expected more data of a tensor, got the beginning of another one")
        end = self._filled + len(part.data)
        if end > len(self._data):
            raise MalformedStreamError(f"expected a tensor of {len(self._data)} bytes as announced, got more")
        self._data[self._filled : end] = part.data
        self._filled = end

    def _begin(self, part: v1.TensorPart) -> None:
        if part.tensor is None or len(part.data) or len(part.tensor.data_bytes):
            raise MalformedStreamError("expected a part that says what tensor comes, without data, before any other")
        if part.nbytes > self._most:
            raise MessageTooLargeError(
                f"expected a tensor of at most {self._most} bytes, {part.nbytes} are announced; "
                "raise limits.max_tensor_bytes if it is meant"
            )
        self._header = part.header
        described = tensor_from_proto(part.tensor)
        try:
            self._data = np.empty(part.nbytes, np.uint8).data
        except MemoryError:
            raise MessageTooLargeError(f"there is no memory for a tensor of {part.nbytes} bytes") from None
        self._described = described

    def finish(self) -> EncodedTensor:
        """Return the tensor once all parts have come. Raises `MalformedStreamError` if there should be more."""
        if self._described is None or self._filled < len(self._data):
            raise MalformedStreamError(f"expected a tensor of {len(self._data)} bytes, got {self._filled}")
        return replace(self._described, data=self._data.toreadonly())
