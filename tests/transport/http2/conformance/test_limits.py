"""RFC 9113 section 10.5: peers that ask for much, or that let others wait. Ordinary use is told from abuse."""

from __future__ import annotations

import pytest

from openfl_aio.config import Limits
from tests.transport.http2.conformance.cases import (
    Case,
    answered,
    connection_error,
    ended,
    goes_on,
    rows,
    stream_error,
)
from tests.transport.http2.conformance.peer import Peer
from tests.transport.http2.conformance.serving import run_server
from tests.transport.http2.conformance.wire import (
    PARKED,
    PREFACE,
    REQUEST,
    UPLOAD,
    Code,
    Kind,
    Setting,
    block,
    call,
    chunk,
    continuation,
    data,
    frame,
    goaway,
    headers,
    message,
    ping,
    priority,
    request,
    reset,
    settings,
    window_update,
)

CALM = connection_error(Code.ENHANCE_YOUR_CALM)
FEW, MANY, VERY_MANY = 90, 1_000, 5_000
BLOCK = block(REQUEST)
OPEN = headers(1, block(UPLOAD))
STREAMS = range(3, 2 * MANY, 2)


def given_up(peer: Peer) -> None:
    """Begin calls and give them up, no faster than their handlers end."""
    for start in range(1, 2 * FEW, 20):
        peer.send(b"".join(headers(stream, BLOCK) + reset(stream) for stream in range(start, start + 20, 2)))
        peer.barrier()


ORDINARY = [
    Case("9113-10.5-some-calls-are-given-up", [given_up], goes_on),
    Case("9113-10.5-some-pings", [ping() * FEW], goes_on),
    Case("9113-10.5-some-settings", [settings((Setting.INITIAL_WINDOW_SIZE, 100_000)) * FEW], goes_on),
    Case("9113-10.5-some-priorities", [priority(1) * FEW], goes_on),
    Case("9113-10.5-some-unknown-frames", [frame(0x42, 0, 0) * FEW], goes_on),
    Case("9113-10.5-some-empty-data", [OPEN, data(1) * FEW, data(1, end=True)], answered()),
    Case("9113-10.5-some-window-updates", [window_update(0, 1) * MANY], goes_on),
    Case("9113-10.5-some-small-messages", [OPEN, data(1, chunk(b"x")) * MANY, data(1, end=True)], answered()),
    Case("9113-10.5-some-malformed-calls", [*(headers(stream, b"") for stream in range(1, 2 * FEW, 2))], goes_on),
]

ABUSE = [
    Case("9113-10.5-rapid-reset", [*(headers(stream, BLOCK) + reset(stream) for stream in STREAMS)], CALM),
    Case("9113-10.5-rapid-reset-of-whole-calls", [*(request(stream) + reset(stream) for stream in STREAMS)], CALM),
    Case(
        "9113-10.5-made-you-reset-by-window",
        [*(headers(stream, BLOCK) + window_update(stream, 0) for stream in STREAMS)],
        CALM,
    ),
    Case(
        "9113-10.5-made-you-reset-by-overflow",
        [*(headers(stream, BLOCK) + window_update(stream, 2**31 - 1) for stream in STREAMS)],
        CALM,
    ),
    Case(
        "9113-10.5-made-you-reset-by-data",
        [*(headers(stream, BLOCK, end=True) + data(stream, b"x") for stream in STREAMS)],
        CALM,
    ),
    Case("9113-10.5-made-you-reset-by-headers", [*(headers(stream, BLOCK) * 2 for stream in STREAMS)], CALM),
    Case("9113-10.5-malformed-calls", [*(headers(stream, b"") for stream in STREAMS)], CALM),
    Case("9113-10.5-calls-beyond-the-limit", [*(request(stream, PARKED) for stream in STREAMS)], CALM),
    Case("9113-10.5-ping", [ping() * MANY], CALM),
    Case("9113-10.5-answers-to-no-ping", [ping(flags=1) * MANY], CALM),
    Case("9113-10.5-settings", [settings() * MANY], CALM),
    Case(
        "9113-10.5-settings-that-move-windows",
        [request(1, PARKED), *(settings((Setting.INITIAL_WINDOW_SIZE, n)) for n in range(MANY))],
        CALM,
    ),
    Case("9113-10.5-settings-of-many-values", [settings(*((0x99, n) for n in range(2_000))) * 20], CALM),
    Case("9113-10.5-acknowledgements", [settings(flags=1) * MANY], CALM),
    Case("9113-10.5-priority", [priority(1, 3) * MANY], CALM),
    Case("9113-10.5-unknown-frames", [frame(0x42, 0, 0) * MANY], CALM),
    Case("9113-10.5-goaway", [goaway() * MANY], CALM),
    Case("9113-10.5-empty-data", [OPEN, data(1) * MANY], CALM),
    Case("9113-10.5-padding-only", [OPEN, data(1, b"\0", flags=8) * MANY], CALM),
    Case("9113-10.5-data-byte-by-byte", [OPEN, data(1, message(size=4_000_000)), data(1, b"x") * VERY_MANY], CALM),
    Case("9113-10.5-window-updates", [window_update(0, 1) * VERY_MANY], CALM),
    Case("9113-10.5-window-updates-of-an-ended-stream", [request(), ended(), window_update(1, 1) * VERY_MANY], CALM),
    Case("9113-10.5-data-on-an-ended-stream", [request(), ended(), data(1, b"x") * MANY], CALM),
    Case("9113-10.5-resets-of-an-ended-stream", [request(), ended(), reset(1) * MANY], CALM),
    Case(
        "9113-10.5-empty-continuations",
        [headers(1, BLOCK, complete=False), continuation(1, complete=False) * MANY],
        CALM,
    ),
    Case(
        "9113-10.5-a-block-of-a-mebibyte",
        [headers(1, BLOCK, complete=False), continuation(1, bytes(16_384), complete=False) * 64],
        CALM,
    ),
    Case(
        "9113-10.5-a-block-that-unpacks-to-a-mebibyte",
        [headers(1, BLOCK + b"\x40\x04name\x7f\xa1\x1e" + b"v" * 4_000 + b"\xbe" * 300)],
        CALM,
    ),
]


@rows(*ORDINARY)
def test_ordinary_use(case: Case, peer: Peer) -> None:
    case.run(peer)


@rows(*ABUSE)
def test_abuse(case: Case, peer: Peer) -> None:
    case.run(peer)


def given_up_as_stalled(peer: Peer) -> None:
    """The stream is reset, and once there is a window again the connection is as good as before."""
    peer.wait(lambda: bool(peer.answer(1).resets), "RST_STREAM")
    assert peer.answer(1).resets == [Code.CANCEL], peer.story()
    peer.send(settings((Setting.INITIAL_WINDOW_SIZE, 65_535)))
    goes_on(peer)


LATE = [
    Case("no-preface", [], connection_error(Code.SETTINGS_TIMEOUT), start=b""),
    Case("half-a-preface", [PREFACE[:9]], connection_error(Code.SETTINGS_TIMEOUT), start=b""),
    Case("no-settings", [], connection_error(Code.SETTINGS_TIMEOUT), start=PREFACE),
    Case(
        "a-header-block-without-end",
        [headers(1, BLOCK, complete=False)],
        connection_error(Code.PROTOCOL_ERROR, Code.ENHANCE_YOUR_CALM),
    ),
    Case("half-a-message", [headers(1, BLOCK), data(1, message()[:3])], stream_error(1, Code.CANCEL)),
    Case("no-message", [headers(1, BLOCK)], stream_error(1, Code.CANCEL)),
    Case("an-upload-that-stands-still", [OPEN, data(1, chunk(b"x"))], stream_error(1, Code.CANCEL)),
    Case(
        "an-answer-that-is-not-taken",
        [request(1, call("GetMetricStream"), message(b"\x0a\x0590000"))],
        given_up_as_stalled,
        start=PREFACE + settings((Setting.INITIAL_WINDOW_SIZE, 10)),
    ),
]


def in_time(limits: Limits, *cases: Case) -> None:
    """Run ``cases`` side by side, each on its own connection, for all of them wait."""
    with run_server(limits=limits) as server:
        peers = [server.connect() for _ in cases]
        try:
            for case, peer in zip(cases, peers, strict=True):
                Case(case.name, case.send, lambda _: None, case.start).run(peer)
            for case, peer in zip(cases, peers, strict=True):
                case.expect(peer)
        finally:
            for peer in peers:
                peer.close()
        server.check_unharmed()


def test_9113_10_5_who_lets_others_wait_is_sent_away() -> None:
    in_time(Limits(preface_seconds=0.2, header_seconds=0.2, progress_seconds=0.3), *LATE)


def closed_without_error(peer: Peer) -> None:
    connection_error(Code.NO_ERROR)(peer)


def test_9113_9_1_a_connection_without_calls_is_closed_and_one_with_calls_is_not() -> None:
    in_time(
        Limits(idle_seconds=0.2),
        Case("idle", [], closed_without_error),
        Case("after-a-call", [request(), ended()], closed_without_error),
        Case("a-call-waits", [request(1, PARKED)], goes_on),
    )


def pinged(peer: Peer) -> None:
    """The server asks with PING, and is content with the answer."""
    peer.wait(lambda: any(one.kind == Kind.PING and not one.flags for one in peer.frames), "PING")
    goes_on(peer)


def given_up_by_the_server(peer: Peer) -> None:
    """Nothing is answered, so the server closes."""
    peer.deaf = True
    peer.wait_closed()


def test_9113_6_7_a_silent_peer_is_asked_whether_it_is_there() -> None:
    in_time(
        Limits(keepalive_seconds=0.2, keepalive_timeout=0.2),
        Case("answers", [request(1, PARKED)], pinged),
        Case("does-not-answer", [request(1, PARKED)], given_up_by_the_server),
    )


@pytest.mark.parametrize("count", [1, 99])
def test_9113_5_1_2_places_of_calls_that_ended_are_free_again(peer: Peer, count: int) -> None:
    peer.start()
    for start in range(1, 1_000, 2 * count + 2):
        streams = range(start, start + 2 * count, 2)
        peer.send(b"".join(request(stream) for stream in streams))
        for stream in streams:
            assert peer.finished(stream).field("grpc-status") == "0", peer.story()
