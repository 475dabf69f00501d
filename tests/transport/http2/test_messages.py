"""Messages out of DATA: what goes in comes out, whatever the pieces, the sizes and the reader's pace."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.transport.http2.messages import OWN_MEMORY, PREFIX, BufferPool, Fault, Inbound

SIZES = st.one_of(
    st.integers(0, 20),
    st.sampled_from([0, 1, 250, OWN_MEMORY - 1, OWN_MEMORY, OWN_MEMORY + 1, 2 * OWN_MEMORY + 7, 300_000]),
)
LAW = settings(deadline=None)
PIECES = st.lists(st.sampled_from([1, 2, 4, 5, 6, 11, 1000, 16_384, OWN_MEMORY, 1 << 20]), min_size=1, max_size=12)


def bodies(sizes: Iterable[int]) -> list[bytes]:
    return [random.Random(number).randbytes(size) for number, size in enumerate(sizes)]


def wire(messages: Iterable[bytes]) -> bytes:
    return b"".join(PREFIX.pack(0, len(message)) + message for message in messages)


def deliver(inbound: Inbound, data: bytes, pieces: list[int], direct: Iterator[bool]) -> Iterator[None]:
    """Give ``data`` to ``inbound`` in ``pieces``, straight into its memory where it asks for that; pause in between."""
    position = number = 0
    while position < len(data):
        piece = memoryview(data)[position : position + pieces[number % len(pieces)]]
        number += 1
        target = inbound.target(len(piece)) if next(direct, False) else None
        if target is None:
            buffer = bytearray(piece)
            inbound.feed(memoryview(buffer))
            buffer[:] = bytes(len(buffer))  # as the connection does, who receives the next bytes into it
            position += len(piece)
        else:
            count = min(len(piece), len(target))
            target[:count] = piece[:count]
            inbound.advance(count)
            position += count
        yield


def drain(inbound: Inbound) -> list[bytes]:
    taken = []
    while (message := inbound.take()) is not None:
        taken.append(bytes(message))
        inbound.release()
    return taken


@LAW
@given(
    sizes=st.lists(SIZES, max_size=40),
    pieces=PIECES,
    direct=st.lists(st.booleans(), max_size=40),
    reads=st.lists(st.integers(0, 4), max_size=60),
    pooled=st.booleans(),
)
def test_messages_come_out_as_they_went_in(
    sizes: list[int], pieces: list[int], direct: list[bool], reads: list[int], pooled: bool
) -> None:
    messages, inbound = bodies(sizes), Inbound(1 << 20)
    inbound.pool = BufferPool(1 << 20) if pooled else None
    data, taken = wire(messages), []
    if len(data) > 10_000:
        pieces = [max(piece, 1000) for piece in pieces]
    paces = iter(reads)
    for _ in deliver(inbound, data, pieces, iter(direct)):
        for _ in range(next(paces, 0)):
            message = inbound.take()
            if message is None:
                break
            taken.append(bytes(message))
            inbound.release()
    inbound.end()
    taken += drain(inbound)

    assert taken == messages
    assert inbound.fault is None
    assert not inbound.available
    assert not inbound.partial
    assert inbound.received == len(data) == inbound.settle()
    assert inbound.settle() == 0


@LAW
@given(sizes=st.lists(st.integers(OWN_MEMORY + 1, OWN_MEMORY + 50_000), min_size=2, max_size=8), pieces=PIECES)
def test_a_message_in_pooled_memory_stays_as_it_is_until_it_is_released(sizes: list[int], pieces: list[int]) -> None:
    messages, inbound, seen = bodies(sizes), Inbound(1 << 20), 0
    inbound.pool = BufferPool(1 << 20)
    held: memoryview | bytes | None = None
    pieces = [max(piece, 1000) for piece in pieces]
    for _ in deliver(inbound, wire(messages), pieces, iter([True] * 1000)):
        if held is not None and seen % 2:
            assert held == messages[seen - 1], "the memory of a message that is held was used again"
        if held is None or inbound.available:
            inbound.release()
            held = inbound.take()
            seen += held is not None
    while held is not None:
        assert held == messages[seen - 1]
        inbound.release()
        held = inbound.take()
        seen += held is not None
    assert seen == len(messages)


@pytest.mark.parametrize("size", [OWN_MEMORY + 1, 100_000, 1 << 20, (1 << 20) + 1])
def test_released_memory_is_used_again(size: int) -> None:
    pool = BufferPool(8 << 20)
    memory = pool.take(size)
    assert len(memory) >= size
    pool.give(memory)

    assert pool.take(size, fresh=True) is not memory
    assert pool.take(size) is memory
    assert pool.take(size) is not memory


def test_a_pool_keeps_no_more_than_it_may() -> None:
    pool = BufferPool(300_000)
    taken = [pool.take(100_000) for _ in range(3)]
    assert {len(memory) for memory in taken} == {106_496}
    for memory in taken:
        pool.give(memory)

    again = [pool.take(100_000) for _ in range(3)]
    assert sum(any(memory is old for old in taken) for memory in again) == 2


@LAW
@given(size=st.integers(1, 1 << 22))
def test_memory_of_the_pool_is_at_most_twice_what_was_asked_for(size: int) -> None:
    assert size <= len(BufferPool(0).take(size)) <= max(2 * size, 2)


def test_tiny_messages_ahead_of_the_reader_stay_plain_bytes() -> None:
    inbound, data = Inbound(100), wire([b"x"] * 10_000)
    inbound.feed(memoryview(data))

    assert len(inbound._ready) <= 32
    assert len(inbound._backlog or b"") <= len(data)
    assert drain(inbound) == [b"x"] * 10_000


def test_what_was_read_of_the_backlog_is_given_up() -> None:
    inbound = Inbound(100_000)
    inbound.feed(memoryview(wire([bytes(100)] * 1000)))
    for _ in range(700):
        inbound.take()

    assert len(inbound._backlog or b"") <= 2 * 300 * 105
    assert len(drain(inbound)) == 300


def test_a_large_message_goes_straight_to_its_memory_and_no_further_than_asked() -> None:
    inbound = Inbound(1 << 20)
    assert inbound.target(100) is None, "no message is under way"
    inbound.feed(memoryview(PREFIX.pack(0, 200_000)))

    target = inbound.target(150_000)
    assert target is not None
    assert len(target) == 150_000
    inbound.advance(150_000)
    assert repr(inbound) == "<Inbound ready=0 need=200000 filled=150000 ended=False>"
    target = inbound.target(150_000)
    assert target is not None
    assert len(target) == 50_000
    inbound.advance(50_000)
    message = inbound.take()
    assert isinstance(message, memoryview)
    assert message.readonly
    assert inbound.target(100) is None


def test_nothing_goes_past_the_backlog() -> None:
    inbound = Inbound(1 << 20)
    inbound.feed(memoryview(wire([b"x"] * 40) + PREFIX.pack(0, 200_000)))

    assert inbound.target(1000) is None


@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("before", [0, 40])
@pytest.mark.parametrize("whole", [False, True])
def test_a_message_over_the_limit_is_told_by_its_prefix(pooled: bool, before: int, whole: bool) -> None:
    inbound = Inbound(200_000)
    inbound.pool = BufferPool(1 << 20) if pooled else None
    data = wire([b"ok"] * before) + PREFIX.pack(0, 200_001)
    for start in range(0, len(data), len(data) if whole else 3):
        inbound.feed(memoryview(data[start : start + (len(data) if whole else 3)]))

    assert drain(inbound) == [b"ok"] * before
    assert (inbound.fault, inbound.fault_bytes) == (Fault.TOO_LARGE, 200_001)
    inbound.feed(memoryview(b"more"))
    assert inbound.received == len(data) + 4, "flow control counts it all the same"
    assert inbound.take() is None
    assert not inbound.partial


def test_a_compressed_message_is_told_by_its_prefix() -> None:
    inbound = Inbound(100)
    inbound.feed(memoryview(wire([b"ok"]) + PREFIX.pack(1, 3) + b"abc"))

    assert drain(inbound) == [b"ok"]
    assert (inbound.fault, inbound.fault_bytes) == (Fault.COMPRESSED, 3)


@pytest.mark.parametrize(
    ("rest", "size"),
    [(b"\x00", 0), (PREFIX.pack(0, 9), 9), (PREFIX.pack(0, 9) + b"12345678", 9), (PREFIX.pack(0, 70_000), 70_000)],
)
@pytest.mark.parametrize("before", [0, 1, 32, 33, 100])
@pytest.mark.parametrize("pooled", [False, True])
def test_a_stream_that_ends_within_a_message_says_so_after_the_whole_ones(
    rest: bytes, size: int, before: int, pooled: bool
) -> None:
    inbound = Inbound(100_000)
    inbound.pool = BufferPool(1 << 20) if pooled else None
    inbound.feed(memoryview(wire([b"ok"] * before) + rest))
    inbound.end()

    assert drain(inbound) == [b"ok"] * before
    assert (inbound.fault, inbound.fault_bytes) == (Fault.CUT, size)
    assert not inbound.available


def test_after_a_fault_the_end_changes_nothing() -> None:
    inbound = Inbound(10)
    inbound.feed(memoryview(PREFIX.pack(0, 11)))
    inbound.end()

    assert inbound.fault is Fault.TOO_LARGE


def test_memory_of_a_message_that_is_cut_goes_back_to_the_pool() -> None:
    pool = BufferPool(1 << 20)
    memory = pool.take(100_000)
    pool.give(memory)
    inbound = Inbound(1 << 20)
    inbound.pool = pool
    inbound.feed(memoryview(PREFIX.pack(0, 100_000) + b"abc"))
    inbound.end()

    assert inbound.fault is Fault.CUT
    assert pool.take(100_000) is memory


@pytest.mark.parametrize("pooled", [False, True])
def test_a_closed_inbound_keeps_nothing_and_goes_on_counting(pooled: bool) -> None:
    inbound = Inbound(1 << 20)
    inbound.pool = BufferPool(1 << 20) if pooled else None
    inbound.feed(memoryview(wire([bytes(100_000)] * 2) + PREFIX.pack(0, 90_000) + b"abc"))
    inbound.take()
    inbound.close()

    assert inbound.take() is None
    assert not inbound.available
    assert not inbound.partial
    assert inbound.target(100) is None
    inbound.feed(memoryview(bytes(50)))
    assert inbound.settle() == 2 * 100_005 + 8 + 50
    inbound.end()
    assert inbound.fault is Fault.CUT


@pytest.mark.parametrize(
    ("rest", "more"),
    [(b"", False), (wire([b"x"]), True), (b"\0", True), (PREFIX.pack(0, 9), True), (b"\x01aaaa", True)],
)
def test_whether_there_is_more_behind_a_message_is_known(rest: bytes, more: bool) -> None:
    inbound = Inbound(100)
    inbound.feed(memoryview(wire([b"one"]) + rest))
    inbound.take()

    assert inbound.more is more


def test_closing_after_a_fault_keeps_the_fault() -> None:
    inbound = Inbound(10)
    inbound.feed(memoryview(PREFIX.pack(0, 11)))
    inbound.close()

    assert inbound.fault is Fault.TOO_LARGE


@LAW
@given(data=st.binary(max_size=300), pieces=PIECES, maximum=st.integers(1, 100))
def test_any_bytes_are_messages_or_a_fault_however_they_are_cut(data: bytes, pieces: list[int], maximum: int) -> None:
    whole, cut = Inbound(maximum), Inbound(maximum)
    whole.feed(memoryview(data))
    for _ in deliver(cut, data, pieces, iter([True] * 300)):
        pass
    whole.end()
    cut.end()

    assert drain(whole) == drain(cut)
    assert (whole.fault, whole.fault_bytes, whole.received) == (cut.fault, cut.fault_bytes, cut.received)
