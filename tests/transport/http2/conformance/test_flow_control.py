"""RFC 9113 sections 5.2 and 6.9: flow control, of what the server sends and of what it takes."""

from __future__ import annotations

from tests.transport.http2.conformance.cases import (
    Case,
    Check,
    answered,
    connection_error,
    goes_on,
    rows,
    stream_error,
)
from tests.transport.http2.conformance.peer import Peer
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
    data,
    frame,
    headers,
    message,
    request,
    reset,
    settings,
    window_update,
)

LARGEST_WINDOW = 2**31 - 1
LAST = data(1, message(), end=True)
OPEN = headers(1, block(REQUEST))
WRONG = connection_error(Code.PROTOCOL_ERROR)
WRONG_SIZE = connection_error(Code.FRAME_SIZE_ERROR)
OVERFLOW = connection_error(Code.FLOW_CONTROL_ERROR)
STREAM_OVERFLOW = stream_error(1, Code.FLOW_CONTROL_ERROR)
WINDOW = Setting.INITIAL_WINDOW_SIZE


STREAMED = call("GetMetricStream")
NO_WINDOW = PREFACE + settings((WINDOW, 0))


def streamed(size: int, stream: int = 1) -> bytes:
    """Return a call that is answered with three messages of about ``size`` bytes."""
    digits = str(size).encode()
    return request(stream, STREAMED, message(b"\x0a" + bytes([len(digits)]) + digits))


def received(size: int, stream: int = 1) -> Check:
    """Wait for DATA of exactly ``size`` bytes in all, and see that no more comes."""

    def step(peer: Peer) -> None:
        answer = peer.answer(stream)
        peer.wait(lambda: bool(answer.blocks) and len(answer.body) >= size, f"{size} bytes on stream {stream}")
        peer.barrier()
        peer.barrier()
        assert len(answer.body) == size, peer.story()

    return step


def exactly(size: int, stream: int = 1) -> Check:
    """DATA of ``size`` bytes comes, no more, and a window makes the rest come."""

    def check(peer: Peer) -> None:
        received(size, stream)(peer)
        assert not peer.answer(stream).ended
        peer.send(settings((WINDOW, 1_000_000)) + window_update(0, 1_000_000))
        answered(stream)(peer)

    return check


def frames_up_to(size: int, *, window: int) -> Check:
    """The answer comes in frames of at most ``size`` bytes, and in no more of them than that takes."""

    def check(peer: Peer) -> None:
        answered()(peer)
        pieces = peer.answer(1).pieces
        assert max(pieces) <= size, peer.story()
        assert sum(pieces) > window, "the answer is too small to show anything"

    return check


def refused_at_once(peer: Peer) -> None:
    """The call to a method that is not there is answered, and the connection answers a PING."""
    assert peer.finished(1).field("grpc-status") == "12", peer.story()
    peer.barrier()


WINDOWS = [
    Case("9113-6.9-on-the-connection", [window_update(0, 1000), request()], answered()),
    Case("9113-6.9-on-a-stream", [OPEN, window_update(1, 1000), LAST], answered()),
    Case("9113-6.9-reserved-bit-is-ignored", [frame(Kind.WINDOW_UPDATE, 0, 0, b"\x80\0\0\x01")], goes_on),
    Case("9113-6.9-zero-on-the-connection", [window_update(0, 0)], WRONG),
    Case("9113-6.9-zero-on-a-stream", [OPEN, window_update(1, 0)], stream_error(1, Code.PROTOCOL_ERROR)),
    Case(
        "9113-6.9-zero-on-a-stream-that-waits",
        [request(1, PARKED), window_update(1, 0)],
        stream_error(1, Code.PROTOCOL_ERROR),
    ),
    Case("9113-6.9-window-update-of-3-bytes", [frame(Kind.WINDOW_UPDATE, 0, 0, bytes(3))], WRONG_SIZE),
    Case("9113-6.9-window-update-of-5-bytes", [frame(Kind.WINDOW_UPDATE, 0, 0, bytes(5))], WRONG_SIZE),
    Case(
        "9113-6.9-window-update-of-5-bytes-on-a-stream", [OPEN, frame(Kind.WINDOW_UPDATE, 0, 1, bytes(5))], WRONG_SIZE
    ),
    Case("9113-6.9.1-connection-window-overflows", [window_update(0, LARGEST_WINDOW)], OVERFLOW),
    Case("9113-6.9.1-connection-window-overflows-in-steps", [*(window_update(0, 2**30) for _ in range(3))], OVERFLOW),
    Case("9113-6.9.1-stream-window-overflows", [request(1, PARKED), window_update(1, LARGEST_WINDOW)], STREAM_OVERFLOW),
    Case(
        "9113-6.9.1-stream-window-overflows-in-steps",
        [request(1, PARKED), *(window_update(1, 2**30) for _ in range(3))],
        STREAM_OVERFLOW,
    ),
    Case(
        "9113-6.9.1-the-largest-window-is-no-overflow",
        [window_update(0, LARGEST_WINDOW - 65_535), request()],
        answered(),
    ),
    Case("9113-6.9.1-no-window-no-data", [request()], exactly(0), start=NO_WINDOW),
    Case("9113-6.9.1-a-window-of-1", [request()], exactly(1), start=PREFACE + settings((WINDOW, 1))),
    Case(
        "9113-6.9.1-byte-by-byte",
        [request(), received(0), window_update(1, 1), received(1), window_update(1, 1), received(2)],
        exactly(2),
        start=NO_WINDOW,
    ),
    Case("9113-6.9.1-the-connection-has-a-window-too", [settings((WINDOW, 2**20)), streamed(60_000)], exactly(65_535)),
    Case(
        "9113-6.9.1-a-stream-without-window-holds-up-no-other",
        [streamed(60_000), received(65_535), window_update(0, 65_535), request(3)],
        answered(3),
    ),
    Case(
        "9113-6.9.1-an-answer-without-data-needs-no-window",
        [request(1, call("NoSuchMethod"))],
        refused_at_once,
        start=NO_WINDOW,
    ),
    Case("9113-6.9.2-the-last-of-two-values-counts", [settings((WINDOW, 100), (WINDOW, 2)), request()], exactly(2)),
    Case(
        "9113-6.9.2-changed-while-a-call-waits",
        [request(), received(0), settings((WINDOW, 1))],
        exactly(1),
        start=NO_WINDOW,
    ),
    Case(
        "9113-6.9.2-negative-window",
        [
            request(),
            received(3),
            settings((WINDOW, 1)),
            received(3),
            window_update(1, 2),
            received(3),
            window_update(1, 1),
        ],
        exactly(4),
        start=PREFACE + settings((WINDOW, 3)),
    ),
    Case(
        "9113-6.9.2-a-setting-overflows-a-stream",
        [request(1, PARKED), window_update(1, LARGEST_WINDOW - 65_535), settings((WINDOW, 65_536))],
        OVERFLOW,
    ),
    Case(
        "9113-6.9.2-the-connection-is-not-changed",
        [settings((WINDOW, LARGEST_WINDOW)), streamed(60_000)],
        exactly(65_535),
    ),
    Case(
        "9113-4.2-answers-in-frames-of-16384",
        [settings((WINDOW, 2**20)), window_update(0, 2**20), streamed(60_000)],
        frames_up_to(16_384, window=100_000),
    ),
    Case(
        "9113-4.2-answers-in-frames-of-20000",
        [settings((WINDOW, 2**20), (Setting.MAX_FRAME_SIZE, 20_000)), window_update(0, 2**20), streamed(60_000)],
        frames_up_to(20_000, window=100_000),
    ),
]


def beyond_window(peer: Peer) -> None:
    """Upload to a handler that does not read until the window is used up, and one byte more."""
    peer.barrier()
    peer.send(headers(1, block(UPLOAD)) + data(1, chunk(b"do not read on")))
    peer.barrier()
    left = min(peer.stream_window(1), peer.window) + 1
    octets = chunk(bytes(60_000)) * (left // 60_000 + 1)
    for start in range(0, left, peer.max_frame_bytes):
        peer.send(data(1, octets[start : min(start + peer.max_frame_bytes, left)]))


WINDOWS.append(
    Case(
        "9113-6.9.1-the-server-s-window-is-used-up",
        [beyond_window],
        stream_error(1, Code.FLOW_CONTROL_ERROR, connection=(Code.FLOW_CONTROL_ERROR,)),
    )
)


def stalled_upload(peer: Peer, stream: int, *, left: int = 0) -> None:
    """Use up the windows with an upload on ``stream`` that is not read, but for ``left`` bytes."""
    peer.send(headers(stream, block(UPLOAD)))
    peer.upload(stream, chunk(b"do not read on"))
    peer.barrier()
    peer.upload(stream, chunk(bytes(peer.room(stream) - left - 9)))


def blocked_stream(peer: Peer) -> None:
    stalled_upload(peer, 1, left=1_000)


def padded_upload(peer: Peer) -> None:
    """Upload three times the connection's first window, a fifth of it padding."""
    peer.barrier()
    size = 3 * peer.window
    peer.send(headers(1, block(UPLOAD)))
    peer.upload(1, chunk(bytes(size // 2)) * 2, padding=255)
    peer.send(data(1, end=True))


def uploads_that_are_given_up(peer: Peer) -> None:
    """Use up the window of one stream after the other, three times the connection's in all."""
    peer.barrier()
    needed = 3 * peer.window
    for stream in range(1, 100, 2):
        stalled_upload(peer, stream)
        peer.send(reset(stream))
        needed -= 65_535
        if needed < 0:
            return


def data_for_closed_streams(peer: Peer) -> None:
    """Send three times the connection's first window on streams that the server has reset."""
    peer.barrier()
    needed = 3 * peer.window
    for stream in range(1, 100, 2):
        peer.send(headers(stream, block([*REQUEST, ("Upper", "case")])))
        peer.upload(stream, bytes(60_000))
        needed -= 60_000
        if needed < 0:
            return


WINDOWS += [
    Case("9113-5.2.1-a-stream-that-is-not-read-holds-up-no-other", [blocked_stream, request(3)], answered(3)),
    Case("9113-6.1-padding-comes-back-to-the-windows", [padded_upload], answered()),
    Case("9113-6.9-what-was-not-read-comes-back-with-a-reset", [uploads_that_are_given_up], goes_on),
    Case("9113-6.9-data-on-closed-streams-comes-back", [data_for_closed_streams], goes_on),
]


@rows(*WINDOWS)
def test_flow_control(case: Case, peer: Peer) -> None:
    case.run(peer)
