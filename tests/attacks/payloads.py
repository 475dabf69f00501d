"""OpenFL's messages as bytes, made by hand: an attacker has no library that refuses to write nonsense."""

from __future__ import annotations

import struct

AGGREGATOR = "/openfl.aggregator.Aggregator/"
DIRECTOR = "/openfl.director.Director/"

AGGREGATOR_UUID = "aggregator_federation"
FEDERATION_UUID = "federation"

TINY, SMALL, LARGE = "tiny", "small", "large"
SIZES = {TINY: 1_000, SMALL: 2**18, LARGE: 2**21}  # of the model's tensors: float32, 4 kB, 1 and 8 MiB


def varint(value: int) -> bytes:
    """Return a protobuf varint."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def field(number: int, content: bytes | str) -> bytes:
    """Return a length-delimited field."""
    content = content.encode() if isinstance(content, str) else content
    return varint(number << 3 | 2) + varint(len(content)) + content


def number(number_: int, value: int) -> bytes:
    """Return a varint field."""
    return varint(number_ << 3) + varint(value)


def message(content: bytes, *, compressed: bool = False) -> bytes:
    """Return ``content`` with gRPC's prefix."""
    return struct.pack(">BI", compressed, len(content)) + content


def message_header(sender: str) -> bytes:
    """Return a MessageHeader as the first field of a request."""
    return field(1, field(1, sender) + field(2, AGGREGATOR_UUID) + field(3, FEDERATION_UUID))


def get_tasks(sender: str) -> bytes:
    """Return a GetTasksRequest with its prefix."""
    return message(message_header(sender))


def query(name: str, *, round_number: int = 0, tags: bytes = field(5, "model")) -> bytes:
    """Return a GetAggregatedTensorRequest but for its header. Round 1 does not come, so a call with it waits."""
    return field(2, name) + number(3, round_number) + tags


def get_tensor(sender: str, name: str, *, round_number: int = 0, tags: bytes = field(5, "model")) -> bytes:
    """Return a GetAggregatedTensorRequest with its prefix."""
    return message(message_header(sender) + query(name, round_number=round_number, tags=tags))


def get_tensors(sender: str, *queries: bytes) -> bytes:
    """Return a TensorsRequest with its prefix."""
    return message(message_header(sender) + b"".join(field(2, one) for one in queries))


def task_results(sender: str, tensors: bytes) -> bytes:
    """Return TaskResults of the training task; ``tensors`` are whole fields of number 5."""
    return message_header(sender) + field(3, "train") + number(4, 1) + tensors


def chunk(content: bytes) -> bytes:
    """Return a DataStream (or ExperimentData) message without a prefix."""
    return number(1, len(content)) + field(2, content)


def chunks(content: bytes, size: int = 2**20) -> bytes:
    """Return ``content`` as DataStream messages with their prefixes."""
    return b"".join(message(chunk(content[start : start + size])) for start in range(0, len(content), size))


def experiment(content: bytes, *, model: bytes = b"", name: str = "hostile") -> bytes:
    """Return an ExperimentInfo message without a prefix."""
    return field(1, name) + field(2, "one") + field(3, chunk(content)) + field(4, model)
