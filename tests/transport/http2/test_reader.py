"""Bytes into frames: however a peer's bytes are cut, the same is told to whoever takes the frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.frames import DATA, PADDED, PREFACE, ConnectionFault, ErrorCode
from openfl_aio.transport.http2.messages import OWN_MEMORY, PREFIX, Inbound
from openfl_aio.transport.http2.reader import FrameReader

LIMIT = 1 << 20
CONTROL_LIMIT = 64 * 1024


class Taker:
    """Writes down what is called; streams with odd numbers are received, others ignored."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.inbound: dict[int, Inbound] = {}
        self.heard = 0  # how often there was more data

    def take_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        self.calls.append(("frame", kind, flags, stream_id, bytes(payload)))

    def begin_data(self, flags: int, stream_id: int, length: int, content: int) -> Inbound | None:
        self.calls.append(("data", flags, stream_id, length, content))
        return self.inbound.setdefault(stream_id, Inbound(LIMIT)) if stream_id % 2 else None

    def data_received(self) -> None:
        self.heard += 1

    def end_data(self) -> None:
        self.calls.append(("end",))

    def take_unknown(self, kind: int, stream_id: int) -> None:
        self.calls.append(("unknown", kind, stream_id))

    def told(self) -> tuple[list[tuple[Any, ...]], dict[int, list[bytes]]]:
        messages: dict[int, list[bytes]] = {}
        for stream_id, inbound in self.inbound.items():
            messages[stream_id] = []
            while (message := inbound.take()) is not None:
                messages[stream_id].append(bytes(message))
            messages[stream_id].append(f"{inbound.received} {inbound.partial} {inbound.fault}".encode())
        return self.calls, messages


def run(data: bytes, sizes: list[int], *, preface: bool, direct: bool = True) -> tuple[Any, ConnectionFault | None]:
    """Give ``data`` to a reader in pieces of ``sizes``, in turn; return what was told, and the fault."""
    taker = Taker()
    reader = FrameReader(taker, max_bytes=LIMIT, preface=preface)
    fault, position, number = None, 0, 0
    try:
        while position < len(data):
            piece = data[position : position + sizes[number % len(sizes)]]
            number += 1
            target = reader.target() if direct else None
            if target is None:
                buffer = bytearray(piece)
                reader.receive(memoryview(buffer))
                buffer[:] = bytes(len(buffer))
                position += len(piece)
            else:
                count = min(len(piece), len(target))
                target[:count] = piece[:count]
                reader.advance(count)
                position += count
    except ConnectionFault as caught:
        fault = caught
    return (*taker.told(), None if fault is None else (fault.code, fault.reason)), fault


def data_frame(content: bytes | int, stream: int, padding: int | None, flags: int) -> bytes:
    """Return DATA; a number for its content is a message of so many bytes, of which only the frame's are there."""
    payload = content if isinstance(content, bytes) else PREFIX.pack(0, content) + bytes(content)
    if padding is None:
        return frames.frame(DATA, flags & ~PADDED, stream, payload)
    return frames.frame(DATA, flags | PADDED, stream, bytes([padding]) + payload + bytes(padding))


def other_frame(kind: int, flags: int, stream: int, payload: bytes | int) -> bytes:
    return frames.frame(kind, flags, stream, payload if isinstance(payload, bytes) else bytes(payload))


LAW = settings(deadline=None)
STREAMS = st.integers(0, 4)
FLAGS = st.integers(0, 255)
BYTES = st.binary(max_size=30)
# descriptions of frames: who made one, and with what; payloads of many bytes are given by their number
SMALL = st.one_of(
    st.tuples(st.just(data_frame), BYTES | st.integers(0, 20), STREAMS, st.none() | st.integers(0, 255), FLAGS),
    st.tuples(st.just(other_frame), st.integers(1, 9), FLAGS, STREAMS, BYTES),
    st.tuples(st.just(other_frame), st.integers(10, 255), FLAGS, STREAMS, BYTES),
)
LARGE = st.one_of(
    st.tuples(st.just(data_frame), st.integers(OWN_MEMORY - 9, OWN_MEMORY + 9), STREAMS, st.none() | st.just(9), FLAGS),
    st.tuples(st.just(other_frame), st.sampled_from([1, 9, 200]), FLAGS, STREAMS, st.just(CONTROL_LIMIT)),
)
SPLITS = st.lists(st.sampled_from([1, 2, 3, 8, 9, 10, 13, 1000, OWN_MEMORY, OWN_MEMORY + 9]), min_size=1, max_size=10)


def written(sequence: list[Any]) -> bytes:
    return b"".join(make(*what) for make, *what in sequence)


@LAW
@given(sequence=st.lists(SMALL | LARGE, max_size=12), sizes=SPLITS, preface=st.booleans(), direct=st.booleans())
def test_every_split_of_every_sequence_is_told_alike(
    sequence: list[Any], sizes: list[int], preface: bool, direct: bool
) -> None:
    data = (PREFACE if preface else b"") + written(sequence)
    if len(data) > 10_000:
        sizes = [max(size, 1000) for size in sizes]

    whole, _ = run(data, [len(data) + 1], preface=preface)
    assert run(data, sizes, preface=preface, direct=direct)[0] == whole


@LAW
@given(sequence=st.lists(SMALL, max_size=8), rest=st.binary(max_size=40))
def test_byte_by_byte_is_told_like_all_at_once(sequence: list[Any], rest: bytes) -> None:
    data = PREFACE + written(sequence) + rest

    whole, fault = run(data, [len(data)], preface=True)
    single, same = run(data, [1], preface=True)
    assert single == whole
    assert (fault is None) == (same is None)


@LAW
@given(data=st.binary(max_size=200), sizes=SPLITS)
def test_any_bytes_are_frames_or_a_fault_however_they_are_cut(data: bytes, sizes: list[int]) -> None:
    assert run(data, sizes, preface=False)[0] == run(data, [1 << 20], preface=False)[0]


def reader(*, preface: bool = False) -> tuple[Taker, FrameReader]:
    taker = Taker()
    return taker, FrameReader(taker, max_bytes=LIMIT, preface=preface)


def test_the_preface_comes_first_and_is_noticed() -> None:
    _, server = reader(preface=True)
    assert not server.began
    server.receive(memoryview(PREFACE[:10]))
    assert not server.began
    server.receive(memoryview(PREFACE[10:]))
    assert server.began
    assert reader()[1].began, "a server sends none"


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\n", b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\r", b"\x16\x03\x01"])
def test_another_protocol_is_told_at_its_first_wrong_byte(data: bytes) -> None:
    _, server = reader(preface=True)
    if data == b"P":
        server.receive(memoryview(data))
        data = b"O"
    with pytest.raises(ConnectionFault, match="no HTTP/2") as caught:
        server.receive(memoryview(data))
    assert caught.value.code is ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        pytest.param(frames.frame(DATA, 0, 1, bytes(LIMIT + 1)), ErrorCode.FRAME_SIZE_ERROR, id="DATA"),
        pytest.param(frames.frame(6, 0, 0, bytes(LIMIT + 1)), ErrorCode.FRAME_SIZE_ERROR, id="PING"),
        pytest.param(frames.frame(99, 0, 0, bytes(LIMIT + 1)), ErrorCode.FRAME_SIZE_ERROR, id="unknown"),
        pytest.param(frames.frame(1, 0, 1, bytes(CONTROL_LIMIT + 1)), ErrorCode.ENHANCE_YOUR_CALM, id="HEADERS"),
        pytest.param(frames.frame(DATA, PADDED, 1), ErrorCode.FRAME_SIZE_ERROR, id="padding without its length"),
        pytest.param(frames.frame(DATA, PADDED, 1, b"\x03ab"), ErrorCode.PROTOCOL_ERROR, id="padding too long"),
    ],
)
@pytest.mark.parametrize("size", [1, 9, 10, 1 << 30])
def test_a_wrong_length_is_told_before_the_payload_is_kept(frame: bytes, code: ErrorCode, size: int) -> None:
    _, fault = run(frame[:4096], [size], preface=False)

    assert fault is not None
    assert fault.code is code


@pytest.mark.parametrize("sizes", [[100], [1], [4, 5]])
def test_a_padded_frame_that_is_too_long_is_refused_by_its_head_alone(sizes: list[int]) -> None:
    head = frames.pack_head((LIMIT + 1) << 8 | DATA, PADDED, 1)
    _, fault = run(head, sizes, preface=False)

    assert fault is not None
    assert fault.code is ErrorCode.FRAME_SIZE_ERROR


def test_padding_is_neither_content_nor_delivered() -> None:
    taker, client = reader()
    client.receive(memoryview(frames.frame(DATA, PADDED, 1, b"\x04" + PREFIX.pack(0, 2) + b"ab" + b"\x00" * 4)))

    assert taker.calls == [("data", PADDED, 1, 12, 7), ("end",)]
    assert taker.inbound[1].take() == b"ab"
    assert repr(client) == "<FrameReader content=0 padding=0 skip=0>"


@pytest.mark.parametrize("flags", [0, PADDED])
def test_a_frame_without_content_ends_at_once(flags: int) -> None:
    taker, client = reader()
    client.receive(memoryview(frames.frame(DATA, flags, 1, b"\x00" if flags else b"")))

    assert taker.calls[-1] == ("end",)
    assert taker.heard == 0


def test_large_content_has_a_target_and_the_rest_comes_through_the_buffer() -> None:
    taker, client = reader()
    payload = PREFIX.pack(0, 2 * OWN_MEMORY) + bytes(2 * OWN_MEMORY)
    whole = data_frame(payload, 1, 3, 0)
    assert client.target() is None
    client.receive(memoryview(whole[:30]))

    target = client.target()
    assert target is not None
    assert len(target) == 2 * OWN_MEMORY - (30 - 9 - 1 - 5)
    client.advance(len(target))
    assert taker.calls == [("data", PADDED, 1, len(payload) + 4, len(payload))], "the padding is still to come"
    assert client.target() is None
    client.receive(memoryview(bytes(3)))
    assert taker.calls[-1] == ("end",)
    assert taker.heard == 2


def test_the_end_is_told_when_the_target_takes_the_last_byte() -> None:
    taker, client = reader()
    client.receive(memoryview(data_frame(PREFIX.pack(0, OWN_MEMORY + 1) + bytes(OWN_MEMORY + 1), 1, None, 0)[:15]))
    target = client.target()
    assert target is not None
    client.advance(len(target))

    assert taker.calls[-1] == ("end",)


@pytest.mark.parametrize("make", [lambda: Inbound(LIMIT), lambda: None], ids=["between messages", "nobody's"])
def test_content_that_belongs_to_no_large_message_has_no_target(make: Callable[[], Inbound | None]) -> None:
    taker, client = reader()
    taker.begin_data = lambda *what: make()  # type: ignore[method-assign]
    client.receive(memoryview(frames.frame(DATA, 0, 1, bytes(2 * OWN_MEMORY))[:9]))

    assert client.target() is None
