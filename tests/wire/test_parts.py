from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.config import Limits
from openfl_aio.domain import Header
from openfl_aio.errors import MalformedStreamError, MessageTooLargeError
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.wire import convert
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.messages import NamedTensor, v1
from openfl_aio.wire.parts import TensorAssembler, tensor_parts

HEADER = Header("aggregator", "one", "federation")


def tensor(size: int = 10) -> EncodedTensor:
    key = TensorKey("w", "aggregator", 3, False, ("model",))
    return TensorCodec().encode(key, np.arange(size, dtype=np.float32))


def assemble(parts: list[v1.TensorPart]) -> EncodedTensor:
    assembler = TensorAssembler(Limits())
    for part in parts:
        assembler.feed(part)
    return assembler.finish()


@pytest.mark.parametrize("chunk_bytes", [1, 7, 40, 1000])
@pytest.mark.parametrize("size", [0, 1, 10])
def test_a_tensor_arrives_as_it_was(size: int, chunk_bytes: int) -> None:
    assembler = TensorAssembler(Limits())
    sent = tensor(size)
    buffer = bytearray()
    for part in tensor_parts(sent, header=HEADER, chunk_bytes=chunk_bytes):
        buffer[:] = encode(part)  # the same memory for each part, as it may be
        with memoryview(bytes(buffer)) as view:
            assembler.feed(decode(v1.TensorPart, view, views=True))
    received = assembler.finish()
    assert (received.name, received.tags, received.metadata) == (sent.name, sent.tags, sent.metadata)
    assert bytes(received.data) == bytes(sent.data)
    assert memoryview(received.data).readonly
    assert convert.header_from_proto(assembler.header) == HEADER
    assert repr(assembler) == f"TensorAssembler({4 * size} of {4 * size} bytes)"


def test_data_are_views_of_the_sender() -> None:
    array = np.ones(1000, np.float32)
    parts = list(tensor_parts(TensorCodec().encode(TensorKey.of("w", "x", 0), array), header=HEADER, chunk_bytes=400))
    assert len(parts) == 11
    assert all(np.shares_memory(np.frombuffer(part.data, np.uint8), array) for part in parts[1:])


FIRST, *OTHERS = tensor_parts(tensor(), header=HEADER, chunk_bytes=16)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        pytest.param([OTHERS[0]], "what tensor comes", id="data first"),
        pytest.param([v1.TensorPart(tensor=FIRST.tensor, data=b"x")], "what tensor comes", id="data in the first"),
        pytest.param(
            [v1.TensorPart(tensor=NamedTensor(data_bytes=b"x"))], "what tensor comes", id="data in the tensor"
        ),
        pytest.param([FIRST, FIRST], "beginning of another", id="twice"),
        pytest.param([FIRST, *OTHERS, OTHERS[0]], "40 bytes as announced", id="more than announced"),
        pytest.param([FIRST, *OTHERS[:-1]], "of 40 bytes, got 32", id="less than announced"),
        pytest.param([], "of 0 bytes, got 0", id="nothing"),
    ],
)
def test_parts_that_are_no_tensor(parts: list[v1.TensorPart], message: str) -> None:
    with pytest.raises(MalformedStreamError, match=message):
        assemble(parts)


def test_an_announcement_beyond_the_limit() -> None:
    with pytest.raises(MessageTooLargeError, match="at most 39 bytes, 40 are announced"):
        TensorAssembler(Limits(max_tensor_bytes=39)).feed(FIRST)


def test_an_announcement_beyond_all_memory() -> None:
    part = v1.TensorPart(tensor=FIRST.tensor, nbytes=2**60)
    with pytest.raises(MessageTooLargeError, match="no memory"):
        TensorAssembler(Limits(max_tensor_bytes=2**61)).feed(part)
