"""Two engines, client and server, joined by a pipe that is cut anywhere: what one sends the other gets, within windows."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from openfl_aio.config import Limits
from openfl_aio.transport.http2.frames import ErrorCode
from openfl_aio.transport.http2.outgoing import Outgoing
from openfl_aio.transport.http2.streams import State, StreamRecord
from openfl_aio.transport.http2.windows import WindowPool
from tests.transport.http2.recording import REQUEST, RESPONSE, TRAILERS, Recorder, message, settings

SIZES = st.sampled_from([0, 1, 4, 100, 255, 5_000, 16_384, 65_535, 65_537, 70_000, 300_000])
PIECES = st.sampled_from([1, 2, 5, 8, 9, 10, 14, 100, 16_393, 70_000, 1 << 20])
RARELY = st.integers(0, 3)  # what ends things is done at 0, so that there is something to end
FIRST = 65_535
POOL = 400_000


@dataclass
class Half:
    """One direction of one stream, as the sender meant it."""

    messages: list[bytes] = field(default_factory=list)
    outgoing: list[Outgoing] = field(default_factory=list)  # not yet in the pipe
    finish: bool = False  # whether the end is to be sent once that is empty
    ended: bool = False  # whether it was


@dataclass(eq=False)
class Call:
    records: dict[str, StreamRecord]
    halves: dict[str, Half] = field(default_factory=lambda: {"client": Half(), "server": Half()})
    broken: bool = False  # reset by one side: what is on its way may be lost


OTHER = {"client": "server", "server": "client"}


class Pair(RuleBasedStateMachine):
    """See the module. Messages are counted and numbered, so that a lost, doubled or mixed-up byte is seen."""

    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.all: list[Call] = []
        self.random = random.Random(1)

    @initialize(
        target=calls,
        frame_bytes=st.sampled_from([16_384, 20_000, 4 << 20]),
        most=st.sampled_from([FIRST, 3 * FIRST]),
        count=st.integers(1, 3),
        delivered=st.booleans(),
    )
    def connect(self, frame_bytes: int, most: int, count: int, delivered: bool) -> MultipleResults[Call]:
        limits = Limits(
            stream_window=FIRST,
            max_stream_window=most,
            connection_window=2 * FIRST,
            max_connection_window=3 * most,
            max_frame_bytes=frame_bytes,
            max_streams=4,
        )
        self.pool = WindowPool(POOL)
        self.sides = {
            side: Recorder(client=side == "client", limits=limits, pool=self.pool, ready=False, reading=False)
            for side in OTHER
        }
        self.pipes = {side: bytearray() for side in OTHER}  # from the side
        for side in OTHER:
            self.flush(side)
        begun = [self.begin(end=False) for _ in range(count)]
        if delivered:
            for side in OTHER:
                self.deliver(side, [1 << 20])
        return multiple(*begun)

    def flush(self, side: str) -> None:
        engine = self.sides[side].engine
        self.pipes[side] += b"".join(engine.out)
        engine.out.clear()

    def pump(self, side: str, call: Call) -> None:
        """Send what the windows allow of what was meant, and the end when it is time."""
        engine, half, record = self.sides[side].engine, call.halves[side], call.records.get(side)
        if record is None or not record.local_open:
            return
        while half.outgoing:
            outgoing = half.outgoing[0]
            last = half.finish and len(half.outgoing) == 1 and side == "client"
            self.flush(side)
            before = engine.sendable(record)
            pieces = engine.send_data(record, outgoing, 100_000, end=last)
            assert sum(map(len, pieces)) <= before + 9 * len(pieces)
            self.pipes[side] += b"".join(pieces)
            if outgoing.left:
                if not pieces:
                    return
                continue
            half.outgoing.pop(0)
            half.ended = half.ended or last
        if half.finish and not half.ended:
            half.ended = True
            if side == "client":
                engine.send_empty(record, end=True)
            else:
                engine.send_headers(record, TRAILERS, end=True)
        self.flush(side)

    # -- what the owners do

    @precondition(lambda self: self.sides["client"].engine.may_open and not self.sides["client"].engine.exhausted)
    @rule(target=calls, end=st.booleans())
    def open(self, end: bool) -> Call:
        return self.begin(end=end)

    def begin(self, *, end: bool) -> Call:
        record = self.sides["client"].engine.open(REQUEST, end=end, max_bytes=1 << 20)
        call = Call({"client": record})
        call.halves["client"].finish = call.halves["client"].ended = end
        self.all.append(call)
        self.flush("client")
        return call

    @rule(call=calls, side=st.sampled_from(["client", "server"]), size=SIZES)
    def send(self, call: Call, side: str, size: int) -> None:
        half = call.halves[side]
        if half.finish or side not in call.records:
            return
        if side == "server" and not half.messages:
            self.sides[side].engine.send_headers(call.records[side], RESPONSE)
        body = self.random.randbytes(size)
        half.messages.append(body)
        half.outgoing.append(Outgoing([message(body)[:5], body]))
        self.pump(side, call)

    @rule(call=calls, side=st.sampled_from(["client", "server"]), often=RARELY)
    def end(self, call: Call, side: str, often: int) -> None:
        if not often:
            self.finish(call, side)

    def finish(self, call: Call, side: str) -> None:
        half = call.halves[side]
        if half.finish or side not in call.records:
            return
        if side == "server" and not half.messages and call.records[side].local_open:
            self.sides[side].engine.send_headers(call.records[side], RESPONSE)
        half.finish = True
        self.pump(side, call)

    @rule(call=calls, side=st.sampled_from(["client", "server"]), code=st.sampled_from(list(ErrorCode)), often=RARELY)
    def reset(self, call: Call, side: str, code: ErrorCode, often: int) -> None:
        record = call.records.get(side)
        if record is not None and not often:
            call.broken = call.broken or not record.closed
            self.sides[side].engine.reset(record, code)
            self.flush(side)

    @rule(call=calls, side=st.sampled_from(["client", "server"]))
    def read(self, call: Call, side: str) -> None:
        if side in call.records:
            self.take(side, call)
            self.flush(side)

    def take(self, side: str, call: Call) -> None:
        record = call.records[side]
        self.sides[side].read(record)
        got, meant = self.sides[side].bodies.get(record.id, []), call.halves[OTHER[side]].messages
        assert got == meant[: len(got)], "not what was sent"
        if record.state is State.ENDED and not call.broken:
            assert record.inbound.fault is None
            assert len(got) == len(meant), "ended, and not all of it is there"

    @rule(side=st.sampled_from(["client", "server"]))
    def ping(self, side: str) -> None:
        self.sides[side].engine.ping(b"12345678")
        self.flush(side)

    @rule(
        side=st.sampled_from(["client", "server"]),
        window=st.integers(0, FIRST),
        frame_bytes=st.integers(16_384, 20_000),
    )
    def change_settings(self, side: str, window: int, frame_bytes: int) -> None:
        """Let the other side send less at once, and in smaller frames, than the engine really takes."""
        self.flush(side)
        most = min(frame_bytes, self.sides[side].limits.max_frame_bytes)
        self.pipes[side] += settings(initial_window_size=window, max_frame_size=most)

    @rule(often=RARELY)
    def drain(self, often: int) -> None:
        if not often:
            self.sides["server"].engine.go_away()
            self.flush("server")

    # -- the pipe

    @rule()
    def deliver_everything(self) -> None:
        for side in ("client", "server", "client"):
            self.deliver(side, [1 << 20])

    @rule(side=st.sampled_from(["client", "server"]), pieces=st.lists(PIECES, min_size=1, max_size=6))
    def deliver(self, side: str, pieces: list[int]) -> None:
        for piece in pieces:
            part = bytes(self.pipes[side][:piece])
            del self.pipes[side][:piece]
            self.hand_over(OTHER[side], part)

    def hand_over(self, side: str, part: bytes) -> None:
        receiver = self.sides[side]
        known = len(receiver.told)
        receiver.feed(part)
        assert receiver.engine.fault is None, receiver.engine.fault
        for what in receiver.told[known:]:
            if what[0] == "request":
                record = receiver.engine.streams.get(what[1])
                call = next(call for call in self.all if call.records["client"].id == what[1])
                if record is not None:
                    call.records["server"] = record
                else:
                    assert call.broken
            elif what[0] == "reset":
                call = next(call for call in self.all if call.records["client"].id == what[1])
                drained = what[2] == ErrorCode.REFUSED_STREAM and "server" not in call.records
                assert call.broken or drained, what
                call.broken = True
        for call in self.all:
            self.pump(side, call)
        self.flush(side)

    @invariant()
    def nothing_is_kept_beyond_the_windows(self) -> None:
        if not hasattr(self, "sides"):
            return
        for recorder in self.sides.values():
            assert recorder.engine.fault is None
            kept = sum(record.inbound.unread for record in recorder.engine.streams.values())
            assert kept <= recorder.engine._window.size
            for record in recorder.engine.streams.values():
                assert record.inbound.unread <= record.window.size
        assert 0 <= self.pool.left <= POOL

    def teardown(self) -> None:
        if not hasattr(self, "sides"):
            return
        for side in OTHER:  # the first windows again, so that nothing waits for ever
            size = self.sides[side].engine._first_window
            self.pipes[side] += settings(initial_window_size=size, max_frame_size=16_384)
        for call in self.all:
            self.finish(call, "client")
        for _ in range(200):
            for side in OTHER:
                self.deliver(side, [1 << 20])
            for call in self.all:
                for side in call.records:
                    self.take(side, call)
                if "server" in call.records:
                    self.finish(call, "server")
            self.flush("client")
            self.flush("server")
            if not any(self.pipes.values()):
                break
        else:
            raise AssertionError("the two never came to rest")
        for call in self.all:
            assert all(record.closed for record in call.records.values()), call
            if not call.broken:
                assert {record.state for record in call.records.values()} == {State.ENDED}
                assert len(call.records) == 2
        for recorder in self.sides.values():
            assert recorder.engine.streams == {}
            recorder.engine.close()
        assert self.pool.left == POOL


def walk(seed: int, steps: int) -> int:
    """Take ``steps`` steps at random, mostly such as move bytes; return how many messages were sent."""
    chance = random.Random(seed)
    pair = Pair()
    pair.connect(
        frame_bytes=chance.choice([16_384, 20_000, 4 << 20]),
        most=chance.choice([FIRST, 3 * FIRST]),
        count=chance.randint(1, 3),
        delivered=chance.random() < 0.9,
    )
    for _ in range(steps):
        call, side = chance.choice(pair.all), chance.choice(["client", "server"])
        what = chance.random()
        if what < 0.35:
            size = chance.choice([0, 1, 255, 16_384, 65_535, 65_537, 70_000, 300_000, chance.randrange(100_000)])
            pair.send(call=call, side=side, size=size)
        elif what < 0.7:
            pair.deliver(side=side, pieces=[chance.choice([1, 9, 14, 100, 20_000, 1 << 20]) for _ in range(4)])
        elif what < 0.9:
            pair.read(call=call, side=side)
        elif what < 0.94:
            pair.finish(call, side)
        elif what < 0.96:
            pair.change_settings(side=side, window=chance.randint(0, FIRST), frame_bytes=chance.randint(16_384, 20_000))
        elif what < 0.97:
            pair.reset(call=call, side=side, code=ErrorCode.CANCEL, often=0)
        elif what < 0.975:
            pair.drain(often=0)
        elif pair.sides["client"].engine.may_open and not pair.sides["client"].engine.exhausted:
            pair.begin(end=chance.random() < 0.2)
        pair.nothing_is_kept_beyond_the_windows()
    pair.teardown()
    return sum(len(half.messages) for call in pair.all for half in call.halves.values())


@pytest.mark.parametrize("seed", range(25))
def test_long_random_walks_deliver_everything_in_order(seed: int) -> None:
    assert walk(seed, 120) > 0


TestPair: Any = Pair.TestCase
TestPair.settings = hypothesis_settings(max_examples=60, stateful_step_count=40, deadline=None)
