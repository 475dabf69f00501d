"""When memory goes back to the system."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from openfl_aio.transport.http2.memory import WORTH_BYTES, Tide, give_back


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


def test_the_tide_is_out_once_nothing_came_for_a_while() -> None:
    tide = Tide()
    assert not tide.is_out()
    tide.came += WORTH_BYTES
    assert not tide.is_out(), "it only just came"
    assert tide.is_out()
    assert not tide.is_out(), "given back already"


def test_little_is_not_worth_it() -> None:
    tide = Tide()
    tide.came += WORTH_BYTES - 1
    assert [tide.is_out() for _ in range(3)] == [False, False, False]


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
