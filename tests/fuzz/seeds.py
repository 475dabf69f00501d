"""Where fuzzing begins: a few sound inputs of each target, made by code, and ways to spoil them."""

from __future__ import annotations

import random

from openfl_aio.domain import Header
from openfl_aio.tensors.codec import EncodedTensor, TransformerMetadata
from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.frames import DATA, END_HEADERS, END_STREAM, ErrorCode, Setting, frame
from openfl_aio.transport.http2.headers import encode_headers
from openfl_aio.transport.http2.messages import PREFIX
from openfl_aio.wire.codec import encode
from openfl_aio.wire.incremental import encode_model, encode_task_results
from openfl_aio.wire.messages import DataStream, v1
from openfl_aio.wire.parts import tensor_parts
from tests.fuzz.targets import MESSAGES, REQUEST

__all__ = ["seeds", "spoil"]

RESPONSE = ((":status", "200"), ("content-type", "application/grpc"))
TRAILERS = (("grpc-status", "0"), ("grpc-message", "fine"))


def message(body: bytes) -> bytes:
    return PREFIX.pack(0, len(body)) + body


def head(stream_id: int, fields: tuple[tuple[str, str], ...], *, end: bool = False) -> bytes:
    flags = END_HEADERS | (END_STREAM if end else 0)
    return frame(frames.HEADERS, flags, stream_id, encode_headers(fields))


def _talk(client: bool) -> list[list[bytes]]:
    """Return some sequences of frames that a peer may send."""
    request = tuple(REQUEST)
    control = [
        frames.settings_frame({Setting.INITIAL_WINDOW_SIZE: 100_000, Setting.MAX_FRAME_SIZE: 20_000}),
        frame(frames.SETTINGS, frames.ACK, 0),
        frame(frames.PING, 0, 0, b"12345678"),
        frames.window_frame(0, 1000),
        frame(frames.PRIORITY, 0, 1, b"\0\0\0\x03\x10"),
        frame(0x42, 0, 0, b"unknown"),
        frames.goaway_frame(3, ErrorCode.NO_ERROR, "bye"),
    ]
    if client:
        body = [head(1, RESPONSE), frame(DATA, 0, 1, message(b"answer")), head(1, TRAILERS, end=True)]
        other = [head(3, ((":status", "103"),)), head(3, RESPONSE + TRAILERS, end=True)]
        return [body, other, [*body, *control, *other], [frames.reset_frame(1, ErrorCode.CANCEL), *other]]
    body = [head(1, request), frame(DATA, 0, 1, message(b"one")), frame(DATA, END_STREAM, 1, message(b"two"))]
    padded = [head(3, request), frame(DATA, 8 | END_STREAM, 3, b"\x03" + message(b"x") + b"\0\0\0")]
    block = encode_headers(request)
    cut = [frame(1, 0, 5, block[:4]), frame(9, 0, 5, block[4:6]), frame(9, 4, 5, block[6:]), frames.window_frame(5, 9)]
    large = [
        head(7, request),
        frame(DATA, 0, 7, message(bytes(70_000))[:66_000]),
        frames.reset_frame(7, ErrorCode.CANCEL),
    ]
    return [body, padded, cut, large, [*body, *control], [*padded, *cut, *body], control]


def _tensors() -> list[EncodedTensor]:
    metadata = (TransformerMetadata({1: 2.0}, (2, 3), (True,)),)
    return [
        EncodedTensor(f"w{number}", 3, True, False, ("trained", "x"), metadata, bytes(range(40 * number)))
        for number in range(3)
    ]


def seeds(target: str) -> list[bytes]:
    """Return sound inputs of a target."""
    manners = [b"\x00\x00", b"\x00\x01", b"\x03\x03", b"\x01\x0f", b"\x05\x07"]
    if target in ("server", "client"):
        talks = [b"".join(talk) for talk in _talk(target == "client")]
        return [manner + talk for manner in manners for talk in talks]
    if target == "reader":
        return [bytes([number]) + b"".join(talk) for number in (1, 3, 5) for talk in _talk(client=False)]
    if target == "inbound":
        many = b"".join(message(b"x" * number) for number in range(50))
        return [
            bytes([number]) + data for number in (0, 1, 6) for data in (many, message(bytes(70_000)), b"\x01" + many)
        ]
    if target == "headers":
        blocks = [encode_headers(fields) for fields in (tuple(REQUEST), RESPONSE, TRAILERS)]
        return [*blocks, b"\xfe\xfe".join([b"\x3f\x29" + blocks[0], b"\x40\x01a\x01b\xbe", *blocks, b"\x20\xbe"])]
    upload = b"".join(
        encode_task_results(
            header=Header("a", "b", "c", "d"), round_number=3, task_name="t", data_size=9, tensors=_tensors()
        )
    )
    if target == "incremental":
        return [bytes([number]) + upload for number in (0, 1, 3, 6)]
    if target == "chunk":
        sound = [
            encode(DataStream(size=size, npbytes=bytes(count))) for size in (0, 9, 1 << 31) for count in (0, 3, 300)
        ]
        return [*sound, b"\x08" + b"\xff" * 9 + b"\x01\x12\x01x"]
    if target == "part":
        first, *others = tensor_parts(_tensors()[2], header=Header("a", "b", "c"), chunk_bytes=30)
        return [encode(first), *map(encode, others), encode(v1.TensorPart(data=bytes(300)))]
    model = b"".join(encode_model(_tensors()))
    sound = [encode(kind()) for kind in MESSAGES]
    sound[2], sound[3] = model, upload
    return [bytes([number]) + data for number, data in enumerate(sound)]


def spoil(chance: random.Random, data: bytes, others: list[bytes]) -> bytes:
    """Return ``data`` with some bytes changed, moved, left out, doubled, or taken from another input."""
    spoiled = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 4, 8])):
        at = chance.randrange(len(spoiled) + 1)
        count = chance.choice([1, 1, 2, 4, 9, 30])
        match chance.randrange(7):
            case 0 if at < len(spoiled):
                spoiled[at] ^= 1 << chance.randrange(8)
            case 1:
                spoiled[at : at + count] = chance.randbytes(count)
            case 2:
                del spoiled[at : at + count]
            case 3:
                spoiled[at:at] = spoiled[at : at + count]
            case 4:
                other = chance.choice(others)
                start = chance.randrange(len(other) + 1)
                spoiled[at:at] = other[start : start + chance.choice([count, len(other)])]
            case 5 if at < len(spoiled):
                spoiled[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF, 4, 8, 9])
            case _:
                spoiled[at : at + count] = chance.choice([0, 1, 2**31, 2**31 - 1, 2**32 - 1]).to_bytes(4, "big")
    return bytes(spoiled[: 1 << 17])
