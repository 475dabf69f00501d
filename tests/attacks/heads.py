"""Header blocks: too long, without an end, packed to burst, or plain wrong."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator

from tests.attacks import frames, payloads
from tests.attacks.catalogue import PLAINTEXT, WRONG, Stage, attack
from tests.attacks.wire import Wire

PATH = payloads.AGGREGATOR + "GetTasks"


@attack(ends=WRONG, bounded=(PLAINTEXT,))
def continuation_flood(stage: Stage) -> None:
    """A header block of CONTINUATION frames without a byte (CVE-2024-27316 and its kin)."""

    def script(wire: Wire) -> Iterator[bytes]:
        yield frames.frame(frames.HEADERS, 0, 1, stage.fields(PATH))
        yield from itertools.repeat(frames.frame(frames.CONTINUATION, 0, 1) * 2_000)

    stage.flood(script)


@attack(ends=WRONG)
def continuation_large(stage: Stage) -> None:
    """A header block of full CONTINUATION frames without end."""
    more = frames.frame(frames.CONTINUATION, 0, 1, frames.header("x-more", "y" * 16_300)) * 16

    def script(wire: Wire) -> Iterator[bytes]:
        yield frames.frame(frames.HEADERS, 0, 1, stage.fields(PATH))
        yield from itertools.repeat(more)

    stage.flood(script)


@attack(ends=WRONG, within=7.0, lasts=8.0)
def headers_without_end(stage: Stage) -> None:
    """Sixty connections that begin a header block and fall silent."""
    wires = []
    for _ in range(60):  # each at once: the first would else be silent for as long as it takes to connect the others
        wires += stage.many(1)
        wires[-1].send(frames.frame(frames.HEADERS, 0, 1, stage.fields(PATH)))
    stage.watch(wires)


@attack(ends=WRONG, within=7.0, lasts=8.0)
def headers_dripping(stage: Stage) -> None:
    """Header blocks that grow by a byte now and then."""
    wires = stage.many(20)
    block = stage.fields(PATH)
    for wire in wires:
        wire.send(frames.frame(frames.HEADERS, 0, 1, block[:10]))
    for byte in block[10:]:
        if not stage.going():
            break
        for wire in wires:
            wire.send(frames.frame(frames.CONTINUATION, 0, 1, bytes([byte])))
        stage.watch(wires, 0.25)


@attack(outcomes=("http:431", "status:8", "status:13", "rst:1", "rst:7", "rst:11"), ends=WRONG, bounded=(PLAINTEXT,))
def hpack_bomb(stage: Stage) -> None:
    """One header of 4 kB in the table, named by one byte each for megabytes of headers."""
    entry = b"\x40" + frames.literal("x-bomb") + frames.literal("y" * 4_000)
    bomb = entry + b"\xbe" * (16_384 - len(entry) - 300)

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in range(1, 2_000, 2):
            yield frames.headers(stream, stage.fields(PATH) + bomb, end=True)

    stage.flood(script, answers=True)


@attack(outcomes=("http:431", "status:8", "status:13", "rst:1", "rst:7", "rst:11"), ends=WRONG)
def metadata_too_large(stage: Stage) -> None:
    """Calls with more metadata than is taken, each with other bytes."""

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in range(1, 20_000, 2):
            block = stage.fields(PATH, [(f"x-{number}", os.urandom(3_000).hex()) for number in range(3)])
            first, second = block[:16_000], block[16_000:]
            yield frames.frame(frames.HEADERS, frames.END_STREAM, stream, first)
            yield frames.frame(frames.CONTINUATION, frames.END_HEADERS, stream, second)

    stage.flood(script, answers=True)


@attack()
def metadata_flood(stage: Stage) -> None:
    """Ordinary calls, each with as much metadata as is allowed and no two alike."""
    body = payloads.get_tasks(stage.target.name)

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            block = stage.fields(PATH, [(f"x-{number}", os.urandom(1_500).hex()) for number in range(4)])
            yield frames.headers(stream, block) + frames.data(stream, body, end=True)
            while stream - 2 * len(wire.over) > 100 and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)

    stage.flood(script)


@attack()
def metadata_crumbs(stage: Stage) -> None:
    """Ordinary calls, each with hundreds of headers of a few bytes."""
    block = stage.fields(PATH, [(f"x-{number}", "") for number in range(380)])
    body = payloads.get_tasks(stage.target.name)

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, block) + frames.data(stream, body, end=True)
            while stream - 2 * len(wire.over) > 100 and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)

    stage.flood(script)


@attack()
def table_churn(stage: Stage) -> None:
    """Ordinary calls whose headers turn the whole header table over each time."""
    body = payloads.get_tasks(stage.target.name)

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            churn = b"".join(b"\x40" + frames.literal(os.urandom(4).hex()) + frames.literal(b"v") for _ in range(90))
            yield frames.headers(stream, stage.fields(PATH) + churn) + frames.data(stream, body, end=True)
            while stream - 2 * len(wire.over) > 100 and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)

    stage.flood(script)


@attack(ends=("goaway:9",))
def far_index(stage: Stage) -> None:
    """A header by an index that the table does not have."""
    stage.flood(lambda wire: iter([frames.headers(1, stage.fields(PATH) + frames.integer(4_000, 7, 0x80), end=True)]))


@attack(ends=("goaway:9",))
def huge_table(stage: Stage) -> None:
    """A header table larger than the server allows."""
    stage.flood(lambda wire: iter([frames.headers(1, frames.integer(2**31, 5, 0x20) + stage.fields(PATH), end=True)]))


@attack(ends=("goaway:9",))
def endless_integer(stage: Stage) -> None:
    """An HPACK integer that goes on and on."""
    stage.flood(lambda wire: iter([frames.headers(1, b"\xff" * 8_000, end=True)]))


@attack(ends=("goaway:9",))
def bad_huffman(stage: Stage) -> None:
    """A header whose Huffman code is padded with whole bytes."""
    wrong = b"\x00" + b"\x84" + b"\xff" * 4 + frames.literal("x")
    stage.flood(lambda wire: iter([frames.headers(1, stage.fields(PATH) + wrong, end=True)]))


@attack()
def huffman_flood(stage: Stage) -> None:
    """Header blocks of Huffman codes that decode to the longest texts, on calls that are never finished."""
    # "0" is the five bits 00000: eight letters out of five bytes
    packed = b"\x00" + frames.literal("x-zeros") + frames.integer(9_000, 7, 0x80) + bytes(9_000)

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in range(1, 4_000, 2):
            yield frames.headers(stream, stage.fields(PATH) + packed, end=True)

    stage.flood(script)


@attack(outcomes=("status:12", "http:404"))
def unknown_methods(stage: Stage) -> None:
    """Calls of methods that do not exist, each by another name."""

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            path = f"/openfl.aggregator.Aggregator/{os.urandom(200).hex()}"
            yield frames.headers(stream, stage.fields(path)) + frames.data(stream, bytes(5), end=True)
            while stream - 2 * len(wire.over) > 100 and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)

    stage.flood(script, answers=True)


@attack(outcomes=("rst:1", "rst:11"), ends=WRONG)
def malformed_requests(stage: Stage) -> None:
    """Requests that HTTP/2 forbids: names in capitals, no path, two methods, pseudo headers at the end."""
    block = stage.fields(PATH)
    wrong = [
        block + frames.header("X-Capital", "x"),
        b"\x83\x86" + frames.header("te", "trailers"),
        b"\x83" + block,
        block + b"\x84",
        block + frames.header("connection", "close"),
        block + frames.header("te", "gzip"),
        block + frames.header("", "x"),
        block + frames.header("x", "a\r\nb: c"),
        block + frames.header(":unknown", "x"),
    ]

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in range(1, 20_000, 2):
            yield frames.headers(stream, wrong[stream // 2 % len(wrong)], end=True)

    stage.flood(script)


@attack(ends=WRONG)
def trailers_without_end(stage: Stage) -> None:
    """Trailers that do not end the call, again and again."""
    fields = stage.fields(payloads.AGGREGATOR + "SendLocalTaskResults")
    trailers = frames.headers(1, frames.header("x-late", "1"))

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in range(1, 20_000, 2):
            again = trailers[:5] + stream.to_bytes(4, "big") + trailers[9:]
            yield frames.headers(stream, fields) + again * 10

    stage.flood(script)
