"""RFC 9113 sections 3 and 4: starting a connection, frames, and header blocks in pieces."""

from __future__ import annotations

import pytest

from tests.transport.http2.conformance.cases import (
    START,
    Case,
    Check,
    Step,
    all_of,
    answered,
    connection_error,
    goes_on,
    rows,
)
from tests.transport.http2.conformance.peer import Peer
from tests.transport.http2.conformance.wire import (
    END_HEADERS,
    PREFACE,
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
    headers,
    message,
    ping,
    priority,
    request,
    reset,
    settings,
    window_update,
)

BAD_PREFACE = connection_error(Code.PROTOCOL_ERROR, silent=True)  # section 3.4 lets a server close without GOAWAY


def one_by_one(octets: bytes) -> Step:
    """Send every byte in a segment of its own."""

    def step(peer: Peer) -> None:
        for octet in octets:
            peer.send(bytes([octet]))

    return step


def no_more(peer: Peer) -> None:
    """End the client's side of the connection."""
    peer.send_end()


def closes(peer: Peer) -> None:
    """The server closes its side too."""
    peer.wait_closed()


def settings_first(peer: Peer) -> None:
    """The first frame from the server is SETTINGS and no acknowledgement."""
    goes_on(peer)
    assert (peer.frames[0].kind, peer.frames[0].flags) == (Kind.SETTINGS, 0), peer.story()


def acknowledged(count: int) -> Check:
    """So many SETTINGS are acknowledged."""

    def check(peer: Peer) -> None:
        goes_on(peer)
        assert peer.settings_acks == count, peer.story()

    return check


def header_of(kind: Kind, *, beyond: int = 1, stream: int = 1) -> Step:
    """Send the header of a frame that is ``beyond`` the largest frame that the server announced."""

    def step(peer: Peer) -> None:
        peer.barrier()
        length = min(peer.max_frame_bytes + beyond, 2**24 - 1)
        peer.send(frame(kind, END_HEADERS if kind == Kind.HEADERS else 0, stream, length=length))

    return step


def largest_data(peer: Peer) -> None:
    """Send an upload of one chunk in a frame as large as the server takes, or as its window, if that is smaller."""
    peer.barrier()
    size = min(peer.max_frame_bytes, peer.stream_window(1), peer.window)
    overhead = len(chunk(bytes(size))) - size
    peer.send(data(1, chunk(bytes(size - overhead)), end=True))


STARTING = [
    Case("9113-3.4-the-server-begins-with-settings", [], settings_first),
    Case("9113-3.4-settings-of-the-preface-are-acknowledged", [], acknowledged(1)),
    Case("9113-3.4-a-call-in-one-piece-with-the-preface", [request()], answered()),
    Case("9113-3.4-a-call-byte-by-byte", [one_by_one(START + request())], answered(), start=b""),
    Case(
        "9113-3.4-settings-with-values",
        [settings((Setting.HEADER_TABLE_SIZE, 0), (Setting.MAX_FRAME_SIZE, 2**24 - 1)), request()],
        answered(),
        start=PREFACE,
    ),
    Case(
        "9113-3.4-preface-with-another-text", [b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", settings()], BAD_PREFACE, start=b""
    ),
    Case(
        "9113-3.4-http-1-instead-of-a-preface", [b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"], BAD_PREFACE, start=b""
    ),
    Case("9113-3.4-lower-case-preface", [PREFACE.lower(), settings()], BAD_PREFACE, start=b""),
    Case("9113-3.4-no-preface-but-frames", [settings(), request()], BAD_PREFACE, start=b""),
    Case("9113-3.4-a-preface-cut-short-by-the-end", [PREFACE[:10], no_more], closes, start=b""),
    Case("9113-3.4-nothing-but-the-end", [no_more], closes, start=b""),
    Case("9113-3.4-ping-before-settings", [ping(), settings()], BAD_PREFACE, start=PREFACE),
    Case("9113-3.4-headers-before-settings", [request()], BAD_PREFACE, start=PREFACE),
    Case("9113-3.4-an-acknowledgement-before-settings", [settings(flags=1)], BAD_PREFACE, start=PREFACE),
]

FRAMES = [
    Case("9113-4.1-unknown-frame-type-is-ignored", [frame(0x16, 0, 0, bytes(8))], goes_on),
    Case("9113-4.1-unknown-flags-of-ping-are-ignored", [ping(flags=0x16)], goes_on),
    Case("9113-4.1-unknown-flags-of-settings-are-ignored", [settings(flags=0xFE)], goes_on),
    Case(
        "9113-4.1-unknown-flags-of-data-are-ignored",
        [headers(1, block(UPLOAD)), data(1, message(), end=True, flags=0xF0)],
        answered(),
    ),
    Case(
        "9113-4.1-unknown-flags-of-headers-are-ignored",
        [headers(1, block(REQUEST), flags=0xD2), data(1, message(), end=True)],
        answered(),
    ),
    Case("9113-4.1-reserved-bit-of-a-stream-is-ignored", [frame(Kind.PING, 0, 0x80000000, bytes(8))], goes_on),
    Case(
        "9113-4.1-reserved-bit-of-a-call-is-ignored",
        [headers(0x80000001, block(REQUEST)), data(0x80000001, message(), end=True)],
        answered(1),
    ),
    Case(
        "9113-4.2-data-of-16384-bytes",
        [headers(1, block(UPLOAD)), data(1, chunk(bytes(16_384 - 5 - 4)), end=True)],
        answered(),
    ),
    Case("9113-4.2-data-of-the-largest-frame", [headers(1, block(UPLOAD)), largest_data], answered()),
    Case(
        "9113-4.2-data-beyond-the-largest-frame",
        [headers(1, block(UPLOAD)), header_of(Kind.DATA)],
        connection_error(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "9113-4.2-headers-beyond-the-largest-frame", [header_of(Kind.HEADERS)], connection_error(Code.FRAME_SIZE_ERROR)
    ),
    Case(
        "9113-4.2-settings-beyond-the-largest-frame",
        [header_of(Kind.SETTINGS, stream=0)],
        connection_error(Code.FRAME_SIZE_ERROR),
    ),
    Case(
        "9113-4.2-continuation-beyond-the-largest-frame",
        [headers(1, block(REQUEST), complete=False), lambda peer: peer.send(frame(9, 0, 1, length=2**24 - 1))],
        connection_error(Code.FRAME_SIZE_ERROR, Code.ENHANCE_YOUR_CALM),
    ),
    Case("9113-4.2-ping-of-7-bytes", [ping(bytes(7))], connection_error(Code.FRAME_SIZE_ERROR)),
    Case("9113-4.2-a-frame-cut-short-by-the-end", [headers(1, block(REQUEST))[:20], no_more], closes),
    Case("9113-4.2-a-frame-header-cut-short-by-the-end", [ping()[:5], no_more], closes),
]

BLOCK = block(REQUEST)
OPEN_BLOCK = headers(1, BLOCK[:30], complete=False)
MISPLACED = connection_error(Code.PROTOCOL_ERROR)

BLOCKS = [
    Case(
        "9113-4.3-a-block-in-two-frames",
        [headers(1, BLOCK[:40], complete=False), continuation(1, BLOCK[40:]), data(1, message(), end=True)],
        answered(),
    ),
    Case(
        "9113-4.3-a-block-cut-at-every-field",
        [
            headers(1, b"", complete=False),
            *(continuation(1, block([pair]), complete=False) for pair in REQUEST),
            continuation(1),
            data(1, message(), end=True),
        ],
        answered(),
    ),
    Case(
        "9113-4.3-a-block-of-20-pieces",
        [
            headers(1, BLOCK[:1], complete=False),
            *(continuation(1, BLOCK[start : start + 10], complete=False) for start in range(1, len(BLOCK), 10)),
            continuation(1),
            data(1, message(), end=True),
        ],
        answered(),
    ),
    Case("9113-4.3-a-block-that-is-none", [headers(1, b"\xff" * 20)], connection_error(Code.COMPRESSION_ERROR)),
    Case("9113-4.3-a-block-that-is-cut", [headers(1, BLOCK[:-3])], connection_error(Code.COMPRESSION_ERROR)),
    Case("9113-4.3-priority-within-a-block", [OPEN_BLOCK, priority(1)], MISPLACED),
    Case("9113-4.3-ping-within-a-block", [OPEN_BLOCK, ping()], MISPLACED),
    Case("9113-4.3-settings-within-a-block", [OPEN_BLOCK, settings()], MISPLACED),
    Case("9113-4.3-data-within-a-block", [OPEN_BLOCK, data(1)], MISPLACED),
    Case("9113-4.3-reset-within-a-block", [OPEN_BLOCK, reset(1)], MISPLACED),
    Case("9113-4.3-window-update-within-a-block", [OPEN_BLOCK, window_update(0, 1)], MISPLACED),
    Case("9113-4.3-headers-of-another-stream-within-a-block", [OPEN_BLOCK, headers(3, BLOCK)], MISPLACED),
    Case("9113-4.3-headers-of-the-same-stream-within-a-block", [OPEN_BLOCK, headers(1, BLOCK)], MISPLACED),
    Case("9113-4.3-continuation-of-another-stream", [OPEN_BLOCK, continuation(3, BLOCK[30:])], MISPLACED),
    Case("9113-4.3-a-block-cut-short-by-the-end", [OPEN_BLOCK, no_more], closes),
    Case(
        "9113-4.3-the-state-of-a-refused-call-is-kept",
        # the second block names an entry that the first put into the table
        [
            headers(1, b"\x40\x04name\x05value" + block([(":status", "200")]), end=True),
            headers(3, block(REQUEST) + b"\xbe"),
            data(3, message(), end=True),
        ],
        answered(3),
    ),
]


@rows(*STARTING, *FRAMES, *BLOCKS)
def test_framing(case: Case, peer: Peer) -> None:
    case.run(peer)


@pytest.mark.parametrize("size", [1, 9, 23, 24, 30, 33, 60])
def test_9113_4_2_pieces_of_any_size(peer: Peer, size: int) -> None:
    octets = START + request(1) + request(3)
    for start in range(0, len(octets), size):
        peer.send(octets[start : start + size])
    all_of(answered(1, 3))(peer)
