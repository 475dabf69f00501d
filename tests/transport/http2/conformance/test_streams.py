"""RFC 9113 section 5: the states of a stream, stream identifiers, how many there may be, and errors."""

from __future__ import annotations

import time

from tests.transport.http2.conformance.cases import (
    Case,
    Check,
    all_of,
    answered,
    connection_error,
    ended,
    goes_on,
    rows,
    stream_error,
)
from tests.transport.http2.conformance.peer import SECONDS, Peer
from tests.transport.http2.conformance.serving import ServerThread
from tests.transport.http2.conformance.wire import (
    PARKED,
    PRIORITY,
    REQUEST,
    UPLOAD,
    Code,
    Setting,
    block,
    chunk,
    continuation,
    data,
    frame,
    headers,
    message,
    ping,
    priority,
    request,
    reset,
    settings,
    weight,
    window_update,
)

LAST = data(1, message(), end=True)
CLOSED = (Code.STREAM_CLOSED,)
NOT_EXPECTED = connection_error(Code.PROTOCOL_ERROR)
MISPLACED_CONTINUATION = connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED)

BROKEN = headers(1, block([*REQUEST, ("Upper", "case")]))  # a call that the server resets


def reset_by_server(peer: Peer) -> None:
    """Wait for the server's RST_STREAM on stream 1."""
    answer = peer.answer(1)
    peer.wait(lambda: bool(answer.resets), "RST_STREAM")


def reset_once(peer: Peer) -> None:
    """The stream that the server has reset is not answered again, and the connection goes on."""
    goes_on(peer)
    assert peer.answer(1).resets == [Code.PROTOCOL_ERROR], peer.story()


def barrier(peer: Peer) -> None:
    """Wait until all is handled."""
    peer.barrier()


def nothing_on(stream: int) -> Check:
    """Nothing comes on ``stream``, and the connection goes on."""

    def check(peer: Peer) -> None:
        goes_on(peer)
        assert stream not in peer.answers or not peer.answer(stream).resets, peer.story()

    return check


IDLE = [
    Case("9113-5.1-idle-data", [data(1, message())], NOT_EXPECTED),
    Case("9113-5.1-idle-reset", [reset(1)], NOT_EXPECTED),
    Case("9113-5.1-idle-window-update", [window_update(1, 100)], NOT_EXPECTED),
    Case("9113-5.1-idle-continuation", [continuation(1, block(REQUEST))], NOT_EXPECTED),
    Case("9113-5.1-idle-priority-is-no-error", [priority(1, 0, 256), priority(7, 1), request()], answered()),
    Case("9113-5.1-idle-above-an-open-one-data", [request(), data(3, message())], NOT_EXPECTED),
]

UPLOADED = [headers(1, block(UPLOAD)), data(1, chunk(b"one"))]

OPEN = [
    Case("9113-5.1-open-priority", [*UPLOADED, priority(1, 0, 1), data(1, end=True)], answered()),
    Case("9113-5.1-open-window-update", [*UPLOADED, window_update(1, 1), data(1, end=True)], answered()),
    Case("9113-5.1-open-reset", [*UPLOADED, reset(1)], nothing_on(1)),
    Case("9113-5.1-open-reset-at-once", [headers(1, block(REQUEST)), reset(1)], nothing_on(1)),
    Case("9113-5.1-reset-while-the-handler-waits", [request(1, PARKED), barrier, reset(1)], nothing_on(1)),
    Case(
        "9113-5.1-many-streams-at-once",
        [
            *(headers(stream, block(UPLOAD)) for stream in range(1, 41, 2)),
            *(data(stream, chunk(b"x"), end=True) for stream in range(39, 0, -2)),
        ],
        answered(*range(1, 41, 2)),
    ),
]

# the client has ended its side, the server has not answered yet
HALF_CLOSED = [
    Case(
        "9113-5.1-half-closed-data",
        [request(1, PARKED), data(1, message())],
        stream_error(1, Code.STREAM_CLOSED, connection=CLOSED),
    ),
    Case(
        "9113-5.1-half-closed-empty-data",
        [request(1, PARKED), data(1, end=True)],
        stream_error(1, Code.STREAM_CLOSED, connection=CLOSED),
    ),
    Case(
        "9113-5.1-half-closed-headers",
        [request(1, PARKED), headers(1, block(REQUEST))],
        stream_error(1, Code.STREAM_CLOSED, connection=CLOSED),
    ),
    Case(
        "9113-5.1-half-closed-continuation",
        [request(1, PARKED), continuation(1, block(REQUEST))],
        MISPLACED_CONTINUATION,
    ),
    Case("9113-5.1-half-closed-window-update", [request(1, PARKED), window_update(1, 1)], nothing_on(1)),
    Case("9113-5.1-half-closed-priority", [request(1, PARKED), priority(1)], nothing_on(1)),
    Case("9113-5.1-half-closed-reset", [request(1, PARKED), reset(1)], nothing_on(1)),
]

# both sides have ended
ENDED = [
    Case(
        "9113-5.1-ended-data",
        [request(), ended(), data(1, message())],
        stream_error(1, Code.STREAM_CLOSED, connection=CLOSED),
    ),
    Case(
        "9113-5.1-ended-headers",
        [request(), ended(), headers(1, block(REQUEST), end=True)],
        stream_error(1, Code.STREAM_CLOSED, connection=(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)),
    ),
    Case("9113-5.1-ended-continuation", [request(), ended(), continuation(1)], MISPLACED_CONTINUATION),
    Case("9113-5.1-ended-window-update-is-ignored", [request(), ended(), window_update(1, 1)], nothing_on(1)),
    Case("9113-5.1-ended-reset-is-ignored", [request(), ended(), reset(1)], nothing_on(1)),
    Case("9113-5.1-ended-priority-is-ignored", [request(), ended(), priority(1)], nothing_on(1)),
]

# the client has reset the stream
GIVEN_UP = [
    Case(
        "9113-5.1-after-our-reset-data",
        [headers(1, block(UPLOAD)), reset(1), data(1, message())],
        stream_error(1, Code.STREAM_CLOSED, connection=CLOSED),
    ),
    Case(
        "9113-5.1-after-our-reset-headers",
        [headers(1, block(UPLOAD)), reset(1), headers(1, block(REQUEST), end=True)],
        stream_error(1, Code.STREAM_CLOSED, connection=(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)),
    ),
    Case(
        "9113-5.1-after-our-reset-continuation",
        [headers(1, block(UPLOAD)), reset(1), continuation(1)],
        MISPLACED_CONTINUATION,
    ),
    Case(
        "9113-5.1-after-our-reset-window-update-is-ignored",
        [headers(1, block(UPLOAD)), reset(1), window_update(1, 1)],
        nothing_on(1),
    ),
    Case("9113-5.1-after-our-reset-reset-is-ignored", [headers(1, block(UPLOAD)), reset(1), reset(1)], nothing_on(1)),
    Case(
        "9113-5.1-after-our-reset-priority-is-ignored",
        [headers(1, block(UPLOAD)), reset(1), priority(1)],
        nothing_on(1),
    ),
]

# the server has reset the stream: what was on its way is ignored
GIVEN_UP_BY_SERVER = [
    Case("9113-5.1-after-their-reset-data", [BROKEN, reset_by_server, LAST], reset_once),
    Case("9113-5.1-after-their-reset-window-update", [BROKEN, reset_by_server, window_update(1, 1)], reset_once),
    Case("9113-5.1-after-their-reset-reset", [BROKEN, reset_by_server, reset(1)], reset_once),
    Case("9113-5.1-after-their-reset-priority", [BROKEN, reset_by_server, priority(1)], reset_once),
    Case(
        "9113-5.1-after-their-reset-trailers",
        # the entry that the ignored block puts into the table is there afterwards
        [
            BROKEN,
            reset_by_server,
            headers(1, b"\x40\x04name\x05value", end=True),
            headers(3, block(REQUEST) + b"\xbe"),
            data(3, message(), end=True),
        ],
        all_of(answered(3), reset_once),
    ),
    Case("9113-5.1-data-in-one-piece-with-the-fault", [BROKEN, LAST], reset_once),
]

IDENTIFIERS = [
    Case("9113-5.1.1-even-stream", [request(2)], NOT_EXPECTED),
    Case("9113-5.1.1-even-stream-later", [request(1), ended(), request(4)], NOT_EXPECTED),
    Case("9113-5.1.1-stream-0", [headers(0, block(REQUEST), end=True)], NOT_EXPECTED),
    Case(
        "9113-5.1.1-lower-than-before",
        [request(5), request(3)],
        connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
    ),
    Case(
        "9113-5.1.1-lower-than-before-and-answered",
        [request(5), ended(5), request(3)],
        connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
    ),
    Case("9113-5.1.1-streams-may-be-left-out", [request(1), request(7), request(99)], answered(1, 7, 99)),
    Case(
        "9113-5.1.1-skipped-streams-are-closed-data",
        [request(7), ended(7), data(5)],
        stream_error(5, Code.STREAM_CLOSED, connection=(Code.STREAM_CLOSED, Code.PROTOCOL_ERROR)),
    ),
]


def last_stream_of_all(peer: Peer) -> None:
    """The highest stream there can be is served; there is none left for another call on this connection."""
    answer = peer.finished(0x7FFFFFFF)
    assert answer.field("grpc-status") == "0", peer.story()
    peer.barrier()


IDENTIFIERS.append(Case("9113-5.1.1-the-last-stream", [request(0x7FFFFFFF)], last_stream_of_all))

LIMIT = 100  # what the server announces


def park(peer: Peer) -> None:
    """Fill the connection with calls that wait."""
    peer.barrier()
    assert peer.settings[Setting.MAX_CONCURRENT_STREAMS] == LIMIT
    peer.send(b"".join(request(stream, PARKED) for stream in range(1, 2 * LIMIT, 2)))


def too_many(stream: int) -> Check:
    """``stream`` is refused so that the client may try again, and nothing else suffers."""

    def check(peer: Peer) -> None:
        answer = peer.answer(stream)
        peer.wait(lambda: bool(answer.resets), f"RST_STREAM on {stream}")
        assert answer.resets == [Code.REFUSED_STREAM], peer.story()
        peer.barrier()
        assert peer.goaway is None, peer.story()
        assert not [number for number, one in peer.answers.items() if number != stream and one.resets], peer.story()

    return check


def none_refused(peer: Peer) -> None:
    """All calls wait."""
    peer.barrier()
    assert peer.answers == {}, peer.story()


def reset_until_served(peer: Peer) -> None:
    """One call is given up; its place is free as soon as its handler has ended."""
    peer.send(reset(1))
    until = time.monotonic() + SECONDS
    while peer.call().resets:
        assert time.monotonic() < until, peer.story()
    goes_on(peer)


CONCURRENCY = [
    Case("9113-5.1.2-as-many-as-announced", [park], none_refused),
    Case("9113-5.1.2-one-more", [park, request(2 * LIMIT + 1)], too_many(2 * LIMIT + 1)),
    Case("9113-5.1.2-a-place-that-became-free", [park, barrier], reset_until_served),
]

# priorities are no longer used (RFC 9113 section 5.3.2), and a stream that depends on itself was forbidden by RFC 7540
SELF = stream_error(1, Code.PROTOCOL_ERROR, connection=(Code.PROTOCOL_ERROR,))
PRIORITIES = [
    Case(
        "9113-5.3.2-headers-with-priority",
        [headers(1, weight(0, 16) + block(REQUEST), flags=PRIORITY), LAST],
        answered(),
    ),
    Case("9113-5.3.2-exclusive-and-unknown-parent", [priority(1, 99, exclusive=True), request()], answered()),
    Case(
        "7540-5.3.1-headers-depend-on-themselves",
        [headers(1, weight(1, 16) + block(REQUEST), flags=PRIORITY, end=True)],
        SELF,
    ),
    Case("7540-5.3.1-priority-of-an-idle-stream-depends-on-itself", [priority(1, 1)], NOT_EXPECTED),
    Case("7540-5.3.1-priority-depends-on-itself", [headers(1, block(UPLOAD)), priority(1, 1)], SELF),
]


def last_stream(number: int) -> Check:
    """GOAWAY names ``number`` as the last stream that was handled."""

    def check(peer: Peer) -> None:
        connection_error(Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR)(peer)
        assert peer.goaway is not None
        assert peer.goaway[0] == number, peer.story()

    return check


ERRORS = [
    Case("9113-5.4.1-goaway-names-no-stream-if-there-was-none", [ping(bytes(5))], last_stream(0)),
    Case(
        "9113-5.4.1-goaway-names-the-last-stream",
        [request(1), request(5), ended(1), ended(5), ping(bytes(9))],
        last_stream(5),
    ),
    Case(
        "9113-5.4.1-goaway-while-calls-wait", [request(1, PARKED), request(3, PARKED), ping(bytes(9))], last_stream(3)
    ),
    Case(
        "9113-5.4.2-other-streams-are-answered",
        [request(1, PARKED), headers(3, block([*REQUEST, ("A", "b")])), request(5)],
        answered(5),
    ),
]

EXTENSIONS = [
    Case("9113-5.5-unknown-frame-on-an-idle-stream", [frame(0xFA, 0xFF, 9, b"?"), request()], answered()),
    Case(
        "9113-5.5-unknown-frame-on-an-open-stream",
        [headers(1, block(UPLOAD)), frame(0x42, 1, 1, bytes(100)), data(1, end=True)],
        answered(),
    ),
    Case(
        "9113-5.5-unknown-frame-between-data",
        [headers(1, block(REQUEST)), data(1, message()[:2]), frame(0x42, 0, 1), data(1, message()[2:], end=True)],
        answered(),
    ),
    Case("9113-5.5-unknown-frame-on-an-ended-stream", [request(), ended(), frame(0x42, 0, 1)], goes_on),
    Case("9113-5.5-unknown-frame-of-16384-bytes", [frame(0xFF, 0, 0, bytes(16_384))], goes_on),
    Case("9113-5.5-unknown-frame-without-payload", [frame(0x0A, 0, 0)], goes_on),
    Case(
        "9113-5.5-unknown-frame-within-a-block",
        [headers(1, block(REQUEST), complete=False), frame(0x42, 0, 1)],
        NOT_EXPECTED,
    ),
    Case("9113-5.5-unknown-setting", [settings((0xFF, 1), (0x8A8A, 2**32 - 1))], goes_on),
    Case("9113-5.5-altsvc-and-origin", [frame(0x0A, 0, 0, b"\0\0h2"), frame(0x0C, 0, 0, b"\0\x01o")], goes_on),
    Case("9218-7.1-priority-update", [frame(0x10, 0, 0, b"\0\0\0\x01u=1"), request()], answered()),
]


@rows(*IDLE, *OPEN, *HALF_CLOSED, *ENDED, *GIVEN_UP, *GIVEN_UP_BY_SERVER)
def test_states(case: Case, peer: Peer) -> None:
    case.run(peer)


@rows(*IDENTIFIERS, *CONCURRENCY, *PRIORITIES)
def test_identifiers(case: Case, peer: Peer) -> None:
    case.run(peer)


@rows(*ERRORS, *EXTENSIONS)
def test_errors_and_extensions(case: Case, peer: Peer) -> None:
    case.run(peer)


def test_9113_5_4_1_over_tls_the_server_closes_without_being_asked(mutual_tls: ServerThread) -> None:
    with mutual_tls.connect() as peer:
        peer.start()
        peer.send(ping(bytes(7)))
        peer.secure = False  # so that nothing but the server ends the connection
        connection_error(Code.FRAME_SIZE_ERROR)(peer)
    mutual_tls.check_unharmed()
