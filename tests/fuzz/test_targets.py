"""The fuzz targets on their seeds and on a few spoiled ones, and a check that they notice what is wrong."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.transport.http2.engine import Engine
from openfl_aio.transport.http2.messages import Inbound
from openfl_aio.transport.http2.streams import Act, StreamRecord
from tests.fuzz.seeds import seeds, spoil
from tests.fuzz.targets import TARGETS

NAMES = sorted(TARGETS)


@pytest.mark.parametrize("name", NAMES)
def test_seeds_are_sound_and_spoiled_ones_are_told_so_in_good_order(name: str) -> None:
    chance, kept = random.Random(name), seeds(name)
    for data in kept:
        TARGETS[name](data)
    for _ in range(400):
        TARGETS[name](spoil(chance, chance.choice(kept), kept))


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=50)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_documented_error_or_progress(name: str, data: bytes) -> None:
    TARGETS[name](data)


def run_seeds(name: str) -> None:
    for data in seeds(name):
        TARGETS[name](data)


def test_bytes_that_come_twice_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    feed = Inbound.feed

    def twice(inbound: Inbound, view: memoryview) -> None:
        feed(inbound, view)
        if len(view) % 7 == 6:
            feed(inbound, view)

    monkeypatch.setattr(Inbound, "feed", twice)
    with pytest.raises(AssertionError):
        run_seeds("inbound")


@pytest.mark.parametrize("name", ["server", "client"])
def test_closed_streams_that_are_kept_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    move = Engine._move

    def keep(engine: Engine, record: StreamRecord, act: Act) -> None:
        move(engine, record, act)
        engine.streams[record.id] = record

    monkeypatch.setattr(Engine, "_move", keep)
    with pytest.raises(AssertionError):
        run_seeds(name)
