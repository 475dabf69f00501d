"""RFC 9113 sections 6 and 7: each type of frame, and error codes."""

from __future__ import annotations

from tests.transport.http2.conformance.cases import (
    Case,
    Check,
    answered,
    connection_error,
    ended,
    goes_on,
    refused,
    rows,
    stream_error,
)
from tests.transport.http2.conformance.peer import Peer
from tests.transport.http2.conformance.wire import (
    END_HEADERS,
    PADDED,
    PARKED,
    PRIORITY,
    REQUEST,
    UPLOAD,
    Code,
    Kind,
    Setting,
    block,
    chunk,
    continuation,
    data,
    frame,
    goaway,
    headers,
    message,
    padded,
    ping,
    priority,
    request,
    reset,
    settings,
    weight,
)

LARGEST_WINDOW = 2**31 - 1
BLOCK = block(REQUEST)
WRONG = connection_error(Code.PROTOCOL_ERROR)
WRONG_SIZE_OF_STREAM = stream_error(1, Code.FRAME_SIZE_ERROR, connection=(Code.FRAME_SIZE_ERROR,))
WRONG_SIZE = connection_error(Code.FRAME_SIZE_ERROR)
OVERFLOW = connection_error(Code.FLOW_CONTROL_ERROR)
WRONG_PADDING = connection_error(Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR)


def bare(kind: Kind, size: int, stream: int = 0) -> bytes:
    """Return a frame with so many zeros."""
    return frame(kind, 0, stream, bytes(size))


LAST = data(1, message(), end=True)
END = data(1, end=True)
OPEN = headers(1, BLOCK)
OPEN_UPLOAD = headers(1, block(UPLOAD))

DATA = [
    Case("9113-6.1-data", [request()], answered()),
    Case("9113-6.1-several-data", [OPEN_UPLOAD, *(data(1, chunk(b"x")) for _ in range(20)), END], answered()),
    Case("9113-6.1-message-byte-by-byte", [OPEN, *(data(1, bytes([octet])) for octet in message()), END], answered()),
    Case("9113-6.1-empty-data", [OPEN, data(1), data(1, message()), data(1), END], answered()),
    Case(
        "9113-6.1-empty-data-within-a-message",
        [OPEN, data(1, message()[:3]), data(1), data(1, message()[3:], end=True)],
        answered(),
    ),
    Case("9113-6.1-padding", [OPEN, data(1, padded(message(), 100), flags=PADDED, end=True)], answered()),
    Case("9113-6.1-padding-of-0", [OPEN, data(1, padded(message(), 0), flags=PADDED, end=True)], answered()),
    Case("9113-6.1-padding-of-255", [OPEN, data(1, padded(message(), 255), flags=PADDED, end=True)], answered()),
    Case(
        "9113-6.1-nothing-but-padding",
        [OPEN, data(1, message()), data(1, padded(b"", 9), flags=PADDED, end=True)],
        answered(),
    ),
    Case(
        "9113-6.1-padded-pieces",
        [OPEN, *(data(1, padded(message()[at : at + 1], at), flags=PADDED) for at in range(5)), END],
        answered(),
    ),
    Case(
        "9113-6.1-padding-as-long-as-the-payload", [OPEN, data(1, padded(message(), 0, claimed=6), flags=PADDED)], WRONG
    ),
    Case(
        "9113-6.1-padding-longer-than-the-payload",
        [OPEN, data(1, padded(message(), 0, claimed=200), flags=PADDED)],
        WRONG,
    ),
    Case("9113-6.1-padded-without-a-length", [OPEN, data(1, flags=PADDED)], WRONG_PADDING),
    Case("9113-6.1-data-on-stream-0", [data(0, message())], WRONG),
]

HEADERS = [
    Case("9113-6.2-padding", [headers(1, padded(BLOCK, 50), flags=PADDED), LAST], answered()),
    Case(
        "9113-6.2-padding-and-priority",
        [headers(1, padded(weight(0, 9) + BLOCK, 50), flags=PADDED | PRIORITY), LAST],
        answered(),
    ),
    Case(
        "9113-6.2-padding-and-continuation",
        [headers(1, padded(BLOCK[:9], 50), flags=PADDED, complete=False), continuation(1, BLOCK[9:]), LAST],
        answered(),
    ),
    Case(
        "9113-6.2-end-of-stream-and-continuation",
        [headers(1, BLOCK[:9], end=True, complete=False), continuation(1, BLOCK[9:])],
        refused(3, 13),
    ),
    Case("9113-6.2-padding-longer-than-the-payload", [headers(1, padded(b"", 0, claimed=1), flags=PADDED)], WRONG),
    Case(
        "9113-6.2-padding-that-reaches-the-length",
        [headers(1, padded(BLOCK, 0, claimed=len(BLOCK) + 1), flags=PADDED)],
        WRONG,
    ),
    Case(
        "9113-6.2-padding-that-reaches-the-priority",
        [headers(1, padded(weight(0, 9), 0, claimed=1), flags=PADDED | PRIORITY)],
        WRONG_PADDING,
    ),
    Case("9113-6.2-priority-without-room", [headers(1, bytes(4), flags=PRIORITY)], WRONG_PADDING),
    Case("9113-6.2-padded-without-a-length", [headers(1, b"", flags=PADDED)], WRONG_PADDING),
    Case("9113-6.2-headers-on-stream-0", [headers(0, BLOCK)], WRONG),
]

PRIORITIES = [
    Case("9113-6.3-weights", [OPEN, priority(1, 0, 1), priority(1, 0, 256), LAST], answered()),
    Case("9113-6.3-exclusive", [OPEN, priority(1, 3, exclusive=True), LAST], answered()),
    Case("9113-6.3-priority-on-stream-0", [priority(0)], WRONG),
    Case("9113-6.3-priority-of-4-bytes", [OPEN, bare(Kind.PRIORITY, 4, 1)], WRONG_SIZE_OF_STREAM),
    Case("9113-6.3-priority-of-4-bytes-for-an-idle-stream", [bare(Kind.PRIORITY, 4, 1)], WRONG_SIZE),
    Case("9113-6.3-priority-of-6-bytes", [OPEN, bare(Kind.PRIORITY, 6, 1)], WRONG_SIZE_OF_STREAM),
]

RESETS = [
    Case("9113-6.4-reset-on-stream-0", [reset(0)], WRONG),
    Case("9113-6.4-reset-of-an-idle-stream", [request(), ended(), reset(3)], WRONG),
    Case("9113-6.4-reset-of-3-bytes", [OPEN, bare(Kind.RST_STREAM, 3, 1)], WRONG_SIZE),
    Case("9113-6.4-reset-of-5-bytes", [OPEN, bare(Kind.RST_STREAM, 5, 1)], WRONG_SIZE),
    Case("9113-6.4-reset-without-payload", [OPEN, bare(Kind.RST_STREAM, 0, 1)], WRONG_SIZE),
    Case("9113-6.4-the-next-stream-is-served", [request(1, PARKED), reset(1), request(3)], answered(3)),
]


def acknowledged(count: int) -> Check:
    """So many SETTINGS are acknowledged, those of the preface included."""

    def check(peer: Peer) -> None:
        goes_on(peer)
        assert peer.settings_acks == count, peer.story()

    return check


SETTINGS = [
    Case(
        "9113-6.5-each-is-acknowledged",
        [settings(), settings((Setting.MAX_FRAME_SIZE, 16_384)), settings()],
        acknowledged(4),
    ),
    Case("9113-6.5-acknowledgement-with-payload", [settings((Setting.ENABLE_PUSH, 0), flags=1)], WRONG_SIZE),
    Case("9113-6.5-settings-on-a-stream", [frame(Kind.SETTINGS, 0, 1)], WRONG),
    Case("9113-6.5-acknowledgement-on-a-stream", [frame(Kind.SETTINGS, 1, 1)], WRONG),
    Case("9113-6.5-settings-of-5-bytes", [bare(Kind.SETTINGS, 5)], WRONG_SIZE),
    Case("9113-6.5-settings-of-7-bytes", [bare(Kind.SETTINGS, 7)], WRONG_SIZE),
    Case("9113-6.5.2-push-on", [settings((Setting.ENABLE_PUSH, 1))], goes_on),
    Case("9113-6.5.2-push-off", [settings((Setting.ENABLE_PUSH, 0))], goes_on),
    Case("9113-6.5.2-push-of-2", [settings((Setting.ENABLE_PUSH, 2))], WRONG),
    Case("9113-6.5.2-largest-window", [settings((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW)), request()], answered()),
    Case("9113-6.5.2-window-too-large", [settings((Setting.INITIAL_WINDOW_SIZE, LARGEST_WINDOW + 1))], OVERFLOW),
    Case("9113-6.5.2-window-far-too-large", [settings((Setting.INITIAL_WINDOW_SIZE, 2**32 - 1))], OVERFLOW),
    Case("9113-6.5.2-smallest-frame", [settings((Setting.MAX_FRAME_SIZE, 16_384)), request()], answered()),
    Case("9113-6.5.2-largest-frame", [settings((Setting.MAX_FRAME_SIZE, 2**24 - 1)), request()], answered()),
    Case("9113-6.5.2-frame-too-small", [settings((Setting.MAX_FRAME_SIZE, 16_383))], WRONG),
    Case("9113-6.5.2-frame-too-large", [settings((Setting.MAX_FRAME_SIZE, 2**24))], WRONG),
    Case("9113-6.5.2-no-streams-for-pushes", [settings((Setting.MAX_CONCURRENT_STREAMS, 0)), request()], answered()),
    Case(
        "9113-6.5.2-header-list-of-any-size",
        [settings((Setting.MAX_HEADER_LIST_SIZE, 2**32 - 1)), request()],
        answered(),
    ),
    Case("9113-6.5.2-largest-header-table", [settings((Setting.HEADER_TABLE_SIZE, 2**32 - 1)), request()], answered()),
    Case("9113-6.5.2-unknown", [settings((0x7F, 7), (0, 0)), request()], answered()),
    Case(
        "9113-6.5.2-a-bad-value-after-good-ones",
        [settings((Setting.HEADER_TABLE_SIZE, 1), (0x77, 1), (Setting.ENABLE_PUSH, 5))],
        WRONG,
    ),
    Case("9113-6.5.3-acknowledged-before-a-ping-is", [settings()], acknowledged(2)),
]


def pongs(*payloads: bytes) -> Check:
    """These PING are answered, in this order."""

    def check(peer: Peer) -> None:
        peer.barrier()
        assert peer.pongs[: len(payloads)] == list(payloads), peer.story()
        assert len(peer.pongs) == len(payloads) + 1, peer.story()
        goes_on(peer)

    return check


PINGS = [
    Case("9113-6.7-answered-with-the-same-bytes", [ping(b"\x00\x01\xfe\xff....")], pongs(b"\x00\x01\xfe\xff....")),
    Case("9113-6.7-answered-in-order", [ping(b"a" * 8), ping(b"b" * 8)], pongs(b"a" * 8, b"b" * 8)),
    Case("9113-6.7-an-answer-is-not-answered", [ping(b"unasked!", flags=1)], pongs()),
    Case("9113-6.7-ping-on-a-stream", [frame(Kind.PING, 0, 1, bytes(8))], WRONG),
    Case("9113-6.7-answer-on-a-stream", [frame(Kind.PING, 1, 1, bytes(8))], WRONG),
    Case("9113-6.7-ping-of-6-bytes", [ping(bytes(6))], WRONG_SIZE),
    Case("9113-6.7-ping-of-9-bytes", [ping(bytes(9))], WRONG_SIZE),
    Case("9113-6.7-ping-without-payload", [ping(b"")], WRONG_SIZE),
    Case("9113-6.7-while-a-call-waits", [request(1, PARKED), ping(b"waiting!")], pongs(b"waiting!")),
]


def last_answer(peer: Peer) -> None:
    """The call that was begun before GOAWAY is answered."""
    answer = peer.finished(1)
    assert answer.field("grpc-status") == "0", peer.story()


GOAWAYS = [
    Case("9113-6.8-goaway-on-a-stream", [frame(Kind.GOAWAY, 0, 1, bytes(8))], WRONG),
    Case("9113-6.8-goaway-of-7-bytes", [bare(Kind.GOAWAY, 7)], WRONG_SIZE),
    Case("9113-6.8-a-call-before-it-is-answered", [request(), goaway()], last_answer),
    Case("9113-6.8-an-upload-goes-on", [OPEN_UPLOAD, goaway(), data(1, chunk(b"x"), end=True)], last_answer),
    Case("9113-6.8-twice-and-with-text", [request(), goaway(2**31 - 1), goaway(0, text=b"good-bye" * 20)], last_answer),
    Case("9113-7-unknown-code-of-goaway", [request(), goaway(0, 0xDEAD)], last_answer),
    Case("9113-7-unknown-code-of-reset", [request(1, PARKED), reset(1, 0xDEADBEEF), request(3)], answered(3)),
]

PUSHES = [
    Case("9113-6.6-push-promise", [OPEN, frame(Kind.PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + BLOCK)], WRONG),
    Case("9113-6.6-push-promise-on-stream-0", [frame(Kind.PUSH_PROMISE, END_HEADERS, 0, b"\0\0\0\x02" + BLOCK)], WRONG),
    Case("9113-8.4-push-promise-on-an-idle-stream", [frame(Kind.PUSH_PROMISE, END_HEADERS, 3, b"\0\0\0\x04")], WRONG),
]

CONTINUATIONS = [
    Case(
        "9113-6.10-several",
        [
            headers(1, BLOCK[:9], complete=False),
            continuation(1, BLOCK[9:20], complete=False),
            continuation(1, BLOCK[20:]),
            LAST,
        ],
        answered(),
    ),
    Case(
        "9113-6.10-empty-ones",
        [headers(1, b"", complete=False), continuation(1, b"", complete=False), continuation(1, BLOCK), LAST],
        answered(),
    ),
    Case(
        "9113-6.10-unknown-flags",
        [headers(1, BLOCK[:9], complete=False), frame(Kind.CONTINUATION, 0xFF, 1, BLOCK[9:]), LAST],
        answered(),
    ),
    Case("9113-6.10-on-stream-0", [headers(1, BLOCK[:9], complete=False), continuation(0, BLOCK[9:])], WRONG),
    Case("9113-6.10-without-headers", [continuation(1, BLOCK)], WRONG),
    Case("9113-6.10-after-the-end-of-the-block", [OPEN, continuation(1)], WRONG),
    Case(
        "9113-6.10-after-the-last-continuation",
        [headers(1, BLOCK[:9], complete=False), continuation(1, BLOCK[9:]), continuation(1)],
        WRONG,
    ),
    Case("9113-6.10-after-data", [OPEN, data(1, message()), continuation(1)], WRONG),
    Case(
        "9113-10.5-continuation-without-end",
        [headers(1, BLOCK[:9], complete=False), *(continuation(1, complete=False) for _ in range(100))],
        connection_error(Code.ENHANCE_YOUR_CALM),
    ),
]


@rows(*DATA, *HEADERS)
def test_data_and_headers(case: Case, peer: Peer) -> None:
    case.run(peer)


@rows(*PRIORITIES, *RESETS, *SETTINGS, *PUSHES, *PINGS, *GOAWAYS, *CONTINUATIONS)
def test_control_frames(case: Case, peer: Peer) -> None:
    case.run(peer)
