"""What every side of a case shares: what is sent, how it is checked, what a server notes. Nothing but Python is needed."""

from __future__ import annotations

import random
import threading
import time
import zlib
from dataclasses import dataclass, field
from typing import Any

ROUND_PREFIX = "x-round-"
ECHO_INITIAL, ECHO_TRAILING = "x-grpc-test-echo-initial", "x-grpc-test-echo-trailing-bin"
OBSERVE_SECONDS = 2.0

# what the metadata cases send
TEXT = (ECHO_INITIAL, "test_initial_metadata_value")
BINARY = (ECHO_TRAILING, b"\xab\xab\xab")
ROUND: list[tuple[str, str | bytes]] = [
    ("x-round-text", "one"),
    ("x-round-text", "two, with a comma and  blanks"),
    ("x-round-long", "x" * 3000),
    ("x-round-bin", bytes(range(256))),
    ("x-round-bin", b""),
    *((f"x-round-{size}-bin", bytes(range(250, 250 + size))) for size in range(1, 6)),
    ("x-round-text", "three"),
]
# below our server's limit, beyond it, and none
MUCH: tuple[list[tuple[str, str]], ...] = ([("x-a", "a" * 15_000)], [("x-a", "a" * 40_000)], [])
# bytes wanted and bytes sent, in each turn of the duplex cases
PING = list(zip((31415, 9, 2653, 58979), (27182, 8, 1828, 45904), strict=True))
BULK = ((2000, 100), (600, 16_384), (300, 65_535), (16, 2 * 1024 * 1024))  # messages and their bytes
SPECIAL = "\t\ntest with whitespace\r\nand Unicode BMP \u263a and non-BMP \U0001f608\t\n"


def churn(number: int) -> list[tuple[str, str | bytes]]:
    """Return the metadata of one of many calls: some of it always the same, some seen before, some new."""
    draw = random.Random(number)
    return [
        ("x-round-same", "always"),
        (f"x-round-{number % 7}", f"value {number % 11}"),
        (f"x-round-new-{number}", "".join(draw.choices("abcXYZ0189 ~!", k=draw.randint(1, 90))).strip() or "x"),
        (f"x-round-{number % 5}-bin", draw.randbytes(draw.randint(0, 40))),
    ]


_NOISE = random.Random(1).randbytes(1_048_573)  # a prime, so that no power of two of bytes can go missing unnoticed


def pattern(seed: int, size: int) -> bytes:
    """Return ``size`` bytes that nobody sends by mistake."""
    start = seed * 7919 % len(_NOISE)
    if start + size <= len(_NOISE):
        return _NOISE[start : start + size]
    return (_NOISE[start:] + _NOISE * (size // len(_NOISE) + 1))[:size]


@dataclass
class Parked:
    """One call of Park as the server saw it."""

    seconds_left: float
    state: str = "running"
    ended: threading.Event = field(default_factory=threading.Event)

    def end(self, state: str) -> None:
        """Note how it ended; the first note counts."""
        if not self.ended.is_set():
            self.state = state
            self.ended.set()


class Book:
    """Every parked call by its key."""

    def __init__(self) -> None:
        self._calls: dict[str, Parked] = {}

    def open(self, key: str, seconds_left: float | None) -> Parked:
        """Note that the call ``key`` began."""
        # without a deadline old versions say "years", new ones None
        left = -1.0 if seconds_left is None or seconds_left > 10**6 else seconds_left
        parked = self._calls[key] = Parked(left)
        return parked

    def find(self, key: str) -> Parked | None:
        """Return what is known of the call ``key``."""
        return self._calls.get(key)

    def finished_or_late(self, key: str, since: float) -> bool:
        """Return whether Observe should answer now."""
        parked = self._calls.get(key)
        return (parked is not None and parked.ended.is_set()) or time.monotonic() - since > OBSERVE_SECONDS


class Crc:
    """Size and checksum of what came so far."""

    def __init__(self) -> None:
        self.size = self.crc32 = 0

    def add(self, data: bytes) -> None:
        """Take ``data`` in."""
        self.size += len(data)
        self.crc32 = zlib.crc32(data, self.crc32)


def echoes(metadata: Any) -> tuple[list[tuple[str, Any]], list[tuple[str, Any]]]:
    """Return what goes back as initial and as trailing metadata: gRPC's echo keys, and everything of ours in both."""
    rounds = [(key, value) for key, value in metadata if key.startswith(ROUND_PREFIX)]
    initial = [(key, value) for key, value in metadata if key == ECHO_INITIAL]
    trailing = [(key, value) for key, value in metadata if key == ECHO_TRAILING]
    return initial + rounds, trailing + rounds


def as_pairs(metadata: Any) -> list[tuple[str, bytes]]:
    """Return the metadata that a round trip is about, in an order that does not depend on the transport's."""
    pairs = [
        (key, value if isinstance(value, bytes) else value.encode())
        for key, value in metadata
        if key.startswith(ROUND_PREFIX)
    ]
    return sorted(pairs, key=lambda pair: pair[0])  # values of one key keep their order
