"""A case of conformance: what is sent, and what must come."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import pytest

from tests.transport.http2.conformance.peer import Peer
from tests.transport.http2.conformance.wire import PREFACE, Code, settings

__all__ = [
    "Case",
    "Check",
    "Step",
    "all_of",
    "answered",
    "any_of",
    "connection_error",
    "ended",
    "goes_on",
    "malformed",
    "refused",
    "rows",
    "stream_error",
]

Step = bytes | Callable[[Peer], None]
Check = Callable[[Peer], None]
START: Final = PREFACE + settings()


@dataclass(frozen=True)
class Case:
    """One row. ``name`` begins with the RFC and the section; ``start`` is sent first, in one piece with ``send``."""

    name: str
    send: Sequence[Step]
    expect: Check
    start: bytes = START

    def run(self, peer: Peer) -> None:
        """Send, and check."""
        waiting = self.start
        for step in self.send:
            if isinstance(step, bytes):
                waiting += step
            else:
                peer.send(waiting)
                waiting = b""
                step(peer)
        peer.send(waiting)
        self.expect(peer)


def rows(*cases: Case) -> pytest.MarkDecorator:
    """Return the cases as the parameter ``case`` of a test, under their names."""
    assert len({case.name for case in cases}) == len(cases), "two cases have the same name"
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in cases])


def ended(stream: int = 1) -> Step:
    """Wait for the end of the answer on ``stream``."""

    def step(peer: Peer) -> None:
        peer.finished(stream)

    return step


def connection_error(*codes: Code, silent: bool = False) -> Check:
    """The server sends GOAWAY with one of ``codes`` and closes; ``silent``: or only closes."""

    def check(peer: Peer) -> None:
        peer.wait(lambda: peer.goaway is not None, f"GOAWAY {[code.name for code in codes]}", or_closed=True)
        if peer.goaway is None:
            assert silent, f"closed without GOAWAY; {peer.story()}"
            return
        last_stream, code = peer.goaway
        assert code in codes, f"expected GOAWAY with {[code.name for code in codes]}; {peer.story()}"
        assert last_stream == 0 or last_stream % 2 == 1, f"a client opens no such stream; {peer.story()}"
        peer.wait_closed()

    return check


def stream_error(stream: int, *codes: Code, connection: tuple[Code, ...] = ()) -> Check:
    """The server resets ``stream`` with one of ``codes`` and the connection goes on.

    RFC 9113 section 5.4.1 lets a server end the connection instead: with one of the codes in ``connection``, if any.
    """

    def check(peer: Peer) -> None:
        answer = peer.answer(stream)
        ended = answer.ended  # a fault after the end has a code too; an answer instead of it has none
        peer.wait(
            lambda: bool(answer.resets) or answer.ended > ended or peer.goaway is not None,
            f"RST_STREAM on stream {stream}",
        )
        if peer.goaway is not None:
            assert connection, f"expected RST_STREAM with {[code.name for code in codes]}; {peer.story()}"
            connection_error(*connection)(peer)
            return
        assert set(answer.resets[:1]) & set(codes), f"expected {[code.name for code in codes]}; {peer.story()}"
        goes_on(peer)

    return check


malformed: Final = stream_error(1, Code.PROTOCOL_ERROR)


def goes_on(peer: Peer) -> None:
    """The connection is as good as before: a PING and a call are answered."""
    peer.barrier()
    answer = peer.call()
    assert (answer.field(":status"), answer.field("grpc-status")) == ("200", "0"), peer.story()
    assert peer.goaway is None, peer.story()


def answered(*streams: int, body: int | None = None) -> Check:
    """The calls on ``streams`` (1, if none is named) succeed, with ``body`` bytes if given, and the connection goes on."""

    def check(peer: Peer) -> None:
        for stream in streams or (1,):
            answer = peer.finished(stream)
            assert answer.ended, peer.story()
            assert (answer.field(":status"), answer.field("grpc-status")) == ("200", "0"), (answer.blocks, peer.story())
            assert set(answer.resets) <= {Code.NO_ERROR}, peer.story()
            assert body is None or len(answer.body) == body, peer.story()
        goes_on(peer)

    return check


def refused(*grpc: int, http: str = "200", stream: int = 1) -> Check:
    """The call gets the HTTP status ``http`` and, if any is named, a gRPC status of ``grpc``; the connection goes on."""

    def check(peer: Peer) -> None:
        answer = peer.finished(stream)
        assert answer.ended, peer.story()
        assert answer.field(":status") == http, (answer.blocks, peer.story())
        if grpc:
            assert answer.field("grpc-status") in {str(status) for status in grpc}, (answer.blocks, peer.story())
        goes_on(peer)

    return check


def any_of(*checks: Check) -> Check:
    """One of ``checks`` holds, the likeliest first, each with its own time; for where the RFC leaves a choice."""

    def check(peer: Peer) -> None:
        failures = []
        for one in checks:
            peer.restart_clock()
            try:
                one(peer)
            except AssertionError as exc:
                failures.append(str(exc))
            else:
                return
        raise AssertionError(" AND ".join(failures))

    return check


def all_of(*checks: Check) -> Check:
    """All of ``checks`` hold, in this order."""

    def check(peer: Peer) -> None:
        for one in checks:
            one(peer)

    return check
