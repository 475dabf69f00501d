"""Room for large messages under way: a server has so much, and who finds none waits for the next."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Room"]


class Room:
    """Bytes that messages may have between their prefix and the reader, on all connections of a server together.

    A message has all of its room or none, so whoever has some can be completed. Others wait in the order in which they
    asked; a message larger than everything gets everything.
    """

    __slots__ = ("_held", "_size", "_waiting", "left")

    def __init__(self, size: int) -> None:
        self._size = size
        self.left = size
        self._held: dict[object, int] = {}
        self._waiting: dict[object, tuple[int, Callable[[], None]]] = {}

    def __repr__(self) -> str:
        return f"<Room {self.left} of {self._size} left, {len(self._waiting)} waiting>"

    def ask(self, message: object, size: int, granted: Callable[[], None]) -> bool:
        """Return whether ``message`` has room for ``size`` bytes; if not, ``granted`` is called once it has."""
        size = min(size, self._size)
        if self._waiting or size > self.left:
            self._waiting[message] = size, granted
            return False
        self._hold(message, size)
        return True

    def leave(self, message: object) -> None:
        """Give up what ``message`` has, or its place in the line."""
        self._waiting.pop(message, None)
        self.left += self._held.pop(message, 0)
        while self._waiting:
            first = next(iter(self._waiting))
            size, granted = self._waiting[first]
            if size > self.left:
                break
            del self._waiting[first]
            self._hold(first, size)
            granted()

    def _hold(self, message: object, size: int) -> None:
        self._held[message] = size
        self.left -= size
