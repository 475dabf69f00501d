"""A checksum for large payloads: of each MiB the sum of its 64-bit words, and a CRC-32 over those sums.

A CRC over all bytes takes ten times as long. Any byte that is altered, and any MiB that is moved, is found; what is not
are words that changed their places within a MiB.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

import numpy as np

__all__ = ["Checksum", "checksum"]

SUMMED_BYTES: Final = 1024 * 1024
_WORD: Final = 8
_ALL_BITS: Final = 2**64 - 1


class Checksum:
    """The checksum of a payload that comes in pieces of any size: of each MiB the sum of its 64-bit words."""

    __slots__ = ("_found", "_in_block", "_rest", "_sum")

    def __init__(self) -> None:
        self._found = self._sum = self._in_block = 0
        self._rest = b""  # of a word that is not whole

    def __repr__(self) -> str:
        return f"<Checksum {self.value:08x}>"

    def add(self, data: memoryview) -> None:
        """Take the next bytes."""
        if self._rest:
            missing = _WORD - len(self._rest)
            self._rest += bytes(data[:missing])
            data = data[missing:]
            if len(self._rest) < _WORD:
                return
            self._add_words(memoryview(self._rest))
        whole = len(data) // _WORD * _WORD
        start = 0
        while start < whole:
            end = min(whole, start + SUMMED_BYTES - self._in_block)
            self._add_words(data[start:end])
            start = end
        self._rest = bytes(data[whole:])

    @property
    def value(self) -> int:
        """The checksum of what was taken so far."""
        return self._folded(self._rest) if self._in_block or self._rest else self._found

    def _add_words(self, data: memoryview) -> None:
        self._sum = (self._sum + int(np.frombuffer(data, "<u8").sum(dtype=np.uint64))) & _ALL_BITS  # wraps
        self._in_block += len(data)
        if self._in_block == SUMMED_BYTES:
            self._found, self._sum, self._in_block = self._folded(b""), 0, 0

    def _folded(self, rest: bytes) -> int:
        return zlib.crc32(self._sum.to_bytes(_WORD, "little") + rest, self._found)


def checksum(payload: memoryview, *, done: Callable[[int, int], object] | None = None) -> int:
    """Return the checksum of ``payload``, of any length. Reads all of it: call it in a worker thread.

    ``done`` is called with the offset and size of each part that was read.
    """
    found = Checksum()
    for start in range(0, len(payload), SUMMED_BYTES):
        block = payload[start : start + SUMMED_BYTES]
        found.add(block)
        if done is not None:
            done(start, len(block))
    return found.value
