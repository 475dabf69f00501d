from __future__ import annotations

import pytest

from openfl_aio.config import Limits
from openfl_aio.transport.codec import StrictCodec, decode_message, read_part
from openfl_aio.wire.codec import encode
from openfl_aio.wire.messages import NamedTensor, v1

PIECE = encode(v1.TensorPart(data=b"x" * 300))


def test_a_piece_of_a_tensor_is_a_view() -> None:
    data = bytearray(PIECE)
    part = read_part(memoryview(data))
    assert part is not None
    data[-1:] = b"y"
    assert bytes(part.data) == b"x" * 299 + b"y"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(PIECE[:1], id="tag alone"),
        pytest.param(PIECE[:-1], id="cut"),
        pytest.param(PIECE + b"\x18\x01", id="another field behind it"),
        pytest.param(encode(v1.TensorPart(tensor=NamedTensor(name="w"), nbytes=4)), id="the first part"),
    ],
)
def test_what_is_more_or_less_than_a_piece_is_left_to_the_codec(data: bytes) -> None:
    assert read_part(data) is None


async def test_both_ways_give_the_same_message() -> None:
    first = v1.TensorPart(tensor=NamedTensor(name="w"), nbytes=4)
    codec = StrictCodec(Limits())
    assert await decode_message(codec, encode(first), v1.TensorPart) == first
    assert bytes((await decode_message(codec, PIECE, v1.TensorPart)).data) == b"x" * 300
