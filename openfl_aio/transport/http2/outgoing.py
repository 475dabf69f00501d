"""A message on its way out: a list of buffers, sent piece by piece as views."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["Outgoing", "Piece"]

Piece: TypeAlias = bytes | bytearray | memoryview


class Outgoing:
    """Hands out the bytes of ``parts`` in order, without a copy. The buffers must not change until they are sent."""

    __slots__ = ("_at", "_index", "_parts", "left")

    def __init__(self, parts: Iterable[Piece]) -> None:
        self._parts = [memoryview(part).cast("B") for part in parts if len(part)]
        self._index = 0
        self._at = 0
        self.left = sum(map(len, self._parts))

    def __repr__(self) -> str:
        return f"<Outgoing left={self.left}>"

    def take(self, count: int) -> list[memoryview]:
        """Return the next ``count`` bytes, or what is left."""
        pieces: list[memoryview] = []
        count = min(count, self.left)
        self.left -= count
        while count:
            part = self._parts[self._index]
            piece = part[self._at : self._at + count]
            pieces.append(piece)
            count -= len(piece)
            self._at += len(piece)
            if self._at == len(part):
                self._index += 1
                self._at = 0
        return pieces
