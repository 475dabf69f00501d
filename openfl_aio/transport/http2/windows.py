"""Flow control of what we receive: small windows at first, larger ones for peers whose bytes turn out to be read."""

from __future__ import annotations

__all__ = ["ReceiveWindow", "WindowPool"]


_SHARE = 8


class WindowPool:
    """What all windows of a server, or of one client, may have beyond their first size, in bytes.

    Nobody gets more than an eighth of what is left, so that there is something for whoever comes next.
    """

    __slots__ = ("left",)

    def __init__(self, size: int) -> None:
        self.left = size

    def take(self, wanted: int) -> int:
        """Return how many of ``wanted`` bytes may be had."""
        granted = min(wanted, self.left // _SHARE)
        self.left -= granted
        return granted

    def give(self, granted: int) -> None:
        """Take bytes back."""
        self.left += granted


class ReceiveWindow:
    """How many bytes a peer may send on a stream, or on the connection.

    It is told of more once half of the window was read (`read`). Each time that happens the window doubles, as far as
    ``most`` and the pool allow: a peer whose bytes are not read never gets more than it began with.
    """

    __slots__ = ("_first", "_most", "_pool", "_uncredited", "_within", "left", "size")

    def __init__(self, size: int, most: int, pool: WindowPool, *, within: ReceiveWindow | None = None) -> None:
        self.left = size  # what the peer may still send; below zero it broke the rules
        self.size = size
        self._first = size
        self._most = most
        self._pool = pool
        self._within = (
            within  # a stream's is at most half of the connection's: one that is not read leaves room for others
        )
        self._uncredited = 0

    def read(self, count: int) -> int:
        """Take note that ``count`` received bytes are needed no more; return the increment to tell the peer, or 0."""
        self._uncredited += count
        if self._uncredited * 2 < self.size:
            return 0
        more = min(self.size, self._most - self.size)
        if self._within is not None:
            more = min(more, self._within.size // 2 - self.size)
        if more > 0:
            more = self._pool.take(more)
            self.size += more
        increment = self._uncredited + max(more, 0)
        self._uncredited = 0
        self.left += increment
        return increment

    def relief(self) -> int:
        """Return an increment that is due before half of the window was read, or 0.

        For a window that streams share: what some do not read must not keep others from sending, so no more is held
        back than the peer may still send anyway.
        """
        increment = self._uncredited
        if not increment or increment < self.left:
            return 0
        self._uncredited = 0
        self.left += increment
        return increment

    def close(self) -> None:
        """Give back what was had of the pool, and grow no more."""
        self._pool.give(self.size - self._first)
        self.size = self._most = self._first
