"""Receive windows: who reads gets more, nobody gets more than there is, and what was had is given back."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.transport.http2.windows import ReceiveWindow, WindowPool

LAW = settings(deadline=None)
SIZES = st.integers(1, 1000)


class Run:
    """A peer that sends as much as it may, and a reader."""

    def __init__(self, size: int, most: int, pool: WindowPool) -> None:
        self.window = ReceiveWindow(size, most, pool)
        self.in_flight = 0  # received and not read

    def receive(self, count: int) -> None:
        count = min(count, self.window.left)
        self.window.left -= count
        self.in_flight += count

    def read(self, count: int) -> int:
        count = min(count, self.in_flight)
        self.in_flight -= count
        return self.window.read(count)

    def read_shared(self, count: int) -> int:
        return self.read(count) or self.window.relief()


@LAW
@given(first=SIZES, more=st.integers(0, 3000), pool=st.integers(0, 5000), steps=st.lists(st.tuples(SIZES, SIZES)))
def test_a_window_keeps_within_the_most_and_the_pool(
    first: int, more: int, pool: int, steps: list[tuple[int, int]]
) -> None:
    reserve = WindowPool(pool)
    run = Run(first, first + more, reserve)
    for received, read in steps:
        run.receive(received)
        run.read(read)

        assert first <= run.window.size <= first + more
        assert run.window.size - first == pool - reserve.left, "what is beyond the first size is the pool's"
        assert reserve.left >= 0
        # what may still come, what was not read, and what was read and not yet told
        assert run.window.left + run.in_flight <= run.window.size
    run.window.close()

    assert reserve.left == pool
    run.window.close()  # again: nothing is given back twice
    assert reserve.left == pool


@LAW
@given(first=SIZES, most=st.integers(0, 4000), reads=st.lists(SIZES))
def test_a_peer_whose_bytes_are_all_read_is_never_stuck(first: int, most: int, reads: list[int]) -> None:
    run = Run(first, max(first, most), WindowPool(10_000))
    for count in reads:
        run.receive(count)
        run.read(run.in_flight)

        assert run.window.left * 2 >= run.window.size, "more than half of it is open"


@LAW
@given(first=SIZES, most=st.integers(0, 4000), steps=st.lists(st.tuples(SIZES, st.integers(0, 1000))))
def test_a_shared_window_is_open_as_far_as_it_is_not_filled_with_what_nobody_reads(
    first: int, most: int, steps: list[tuple[int, int]]
) -> None:
    run = Run(first, max(first, most), WindowPool(10_000))
    for received, read in steps:
        run.read_shared(read)
        run.receive(received)
        run.window.relief()

        assert run.window.left > 0 or run.in_flight == run.window.size
        assert run.window.left + run.in_flight <= run.window.size


def test_a_window_doubles_each_time_half_of_it_was_read_until_it_is_as_large_as_it_may_be() -> None:
    window = ReceiveWindow(100, 350, WindowPool(10_000))
    window.left -= 100

    assert window.read(49) == 0
    assert window.read(1) == 50 + 100
    assert window.read(99) == 0
    assert window.read(1) == 100 + 150
    assert window.read(175) == 175  # no more growth
    assert window.size == 350


def test_a_peer_whose_bytes_are_not_read_keeps_its_first_window() -> None:
    window = ReceiveWindow(100, 1000, WindowPool(1000))
    window.left -= 100

    assert (window.size, window.left) == (100, 0)


def test_a_window_that_began_larger_than_the_most_does_not_shrink() -> None:
    window = ReceiveWindow(100, 40, WindowPool(1000))
    window.left -= 60

    assert window.read(60) == 60
    assert window.size == 100


def test_windows_share_their_pool_and_leave_something_to_the_next() -> None:
    pool = WindowPool(160)
    greedy, late = ReceiveWindow(100, 200, pool), ReceiveWindow(100, 200, pool)
    for window in (greedy, late):
        window.left -= 100
        window.read(100)

    assert (greedy.size, late.size, pool.left) == (120, 117, 123)

    greedy.close()
    assert pool.left == 143


def test_a_stream_has_at_most_half_of_its_connection_so_that_one_that_is_not_read_stops_no_other() -> None:
    pool = WindowPool(1 << 20)
    connection = ReceiveWindow(1000, 4000, pool)
    stream = ReceiveWindow(400, 4000, pool, within=connection)
    sizes = []
    for _ in range(12):
        for window in (stream, connection):
            window.left -= 200
            window.read(200)
        sizes.append((stream.size, connection.size))
        assert stream.size * 2 <= connection.size

    assert sizes[-1] == (2000, 4000)
