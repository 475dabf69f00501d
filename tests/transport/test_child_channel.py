from __future__ import annotations

import json
import socket
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from openfl_aio.errors import MalformedMessageError, MessageTooLargeError
from openfl_aio.transport.child_channel import MAX_HEADER_BYTES, ChannelClosed, FrameChannel

DTYPES: list[Any] = [np.dtype(name) for name in ("<f4", ">f8", "i1", "?", "<u2")]

Pair = tuple[FrameChannel, FrameChannel, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    left, right = socket.socketpair()
    yield FrameChannel(left), FrameChannel(right), left
    left.close()
    right.close()


@settings(max_examples=50)
@given(
    arrays.arrays(
        st.sampled_from(DTYPES),
        arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    )
)
def test_an_array_arrives_as_it_was(array: np.ndarray) -> None:
    left, right = socket.socketpair()
    with left, right:
        FrameChannel(left).send({"op": "x"}, {"a": array, "transposed": array.T})
        header, got = FrameChannel(right).receive(max_array_bytes=1 << 20)
    assert header == {"op": "x"}
    np.testing.assert_array_equal(got["a"], array)
    np.testing.assert_array_equal(got["transposed"], array.T)
    assert got["a"].shape == array.shape


def test_an_array_without_raw_form_is_refused(pair: Pair) -> None:
    with pytest.raises(ValueError, match="must be numeric"):
        pair[0].send({}, {"a": np.array([object()])})


def test_the_end_of_the_channel(pair: Pair) -> None:
    left, right, _ = pair
    left.close()
    left.close()
    with pytest.raises(ChannelClosed):
        right.receive(max_array_bytes=1)
    right.interrupt()
    with pytest.raises(ChannelClosed):
        right.send({}, {})
    right.close()
    with pytest.raises(ChannelClosed):
        right.receive(max_array_bytes=1)
    right.interrupt()


def test_arrays_are_measured_before_they_are_made(pair: Pair) -> None:
    header = json.dumps({"arrays": [["a", "<f8", [1 << 40, 1 << 10]]]}).encode()
    pair[2].sendall(struct.pack(">I", len(header)) + header)
    with pytest.raises(MessageTooLargeError, match="at most 8 bytes"):
        pair[1].receive(max_array_bytes=8)


def test_a_header_is_measured_before_it_is_read(pair: Pair) -> None:
    pair[2].sendall(struct.pack(">I", MAX_HEADER_BYTES + 1))
    with pytest.raises(MessageTooLargeError, match="frame header"):
        pair[1].receive(max_array_bytes=8)


@pytest.mark.parametrize(
    "text",
    [
        b"\xff",
        b"[]",
        b"{}",
        b'{"arrays": 1}',
        b'{"arrays": [["a", "O", [1]]]}',
        b'{"arrays": [["a", "f4", [-1]]]}',
        b'{"arrays": [["a", "f4"]]}',
        b'{"arrays": [["a", "nothing", [1]]]}',
    ],
)
def test_what_is_no_frame_is_refused(pair: Pair, text: bytes) -> None:
    pair[2].sendall(struct.pack(">I", len(text)) + text)
    with pytest.raises(MalformedMessageError):
        pair[1].receive(max_array_bytes=8)
