"""When memory goes back to the system."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import numpy as np
import pytest

from openfl_aio.transport.http2.memory import MANY_GONE, QUIET_BYTES, WORTH_BYTES, Tide, collect, give_back


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_the_tide_is_out_once_little_came_for_a_while() -> None:
    tide = Tide()
    assert not tide.is_out()
    tide.came += WORTH_BYTES
    assert not tide.is_out(), "it only just came"
    tide.came += QUIET_BYTES
    assert tide.is_out()
    assert not tide.is_out(), "given back already"


def test_it_is_not_out_while_much_comes() -> None:
    tide = Tide()
    for _ in range(10):
        tide.came += WORTH_BYTES
        assert not tide.is_out()


def test_little_is_not_worth_it() -> None:
    tide = Tide()
    tide.came += WORTH_BYTES - 1
    assert [tide.is_out() for _ in range(3)] == [False, False, False]


def test_many_connections_that_went_are_worth_it_whatever_comes() -> None:
    tide = Tide()
    tide.came, tide.gone = 10 * WORTH_BYTES, MANY_GONE
    assert tide.is_out()
    tide.came += WORTH_BYTES
    assert not tide.is_out()


def test_garbage_is_collected_where_the_heap_of_the_start_is_out_of_sight() -> None:
    class Cycle:
        def __init__(self) -> None:
            self.me = self

    def left() -> bool:
        cycle = Cycle()
        gone = weakref.ref(cycle)
        del cycle
        collect()
        return gone() is not None

    gc.disable()
    try:
        assert left(), "an embedder's heap may be large"
        gc.freeze()
        assert not left()
    finally:
        gc.unfreeze()
        gc.enable()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says what a process has")
def test_freed_memory_goes_back() -> None:
    # small enough for the C library to keep, with something behind it that stays
    pieces = [np.ones(100_000, np.uint8) for _ in range(400)]
    kept = pieces[::40]
    full = resident()
    del pieces
    give_back()
    assert resident() < full - 10 * 2**20
    assert len(kept) == 10
