"""Giving memory back to the system after large messages: the C library keeps what was freed, tens of MiB of it."""

from __future__ import annotations

import ctypes
from typing import Final

__all__ = ["Tide", "give_back"]

WORTH_BYTES: Final = 8 * 1024 * 1024  # less is not worth the trouble


def give_back() -> None:
    """Return freed memory to the system, where the C library can; takes some milliseconds, so call it in a thread."""
    # not a symbol of every C library
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Tide:
    """Tells when memory is worth giving back: much of it came, and for a while none did."""

    __slots__ = ("_before", "came")

    def __init__(self) -> None:
        self.came = 0  # bytes of large messages since memory was last given back; whoever receives them adds
        self._before = 0

    def __repr__(self) -> str:
        return f"<Tide {self.came} bytes>"

    def is_out(self) -> bool:
        """Return whether it is time. To be asked at regular intervals, each of which is a while."""
        quiet, self._before = self.came == self._before, self.came
        if not quiet or self.came < WORTH_BYTES:
            return False
        self.came = self._before = 0
        return True
