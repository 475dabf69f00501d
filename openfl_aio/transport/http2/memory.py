"""Giving memory back to the system: the C library keeps what was freed, tens of MiB of it."""

from __future__ import annotations

import ctypes
import gc
from typing import Final

__all__ = ["Tide", "collect", "give_back"]

WORTH_BYTES: Final = 8 * 1024 * 1024  # less is not worth the trouble
MANY_GONE: Final = 100  # connections: with TLS each leaves holes of some hundred KiB
QUIET_BYTES: Final = 1 * 1024 * 1024  # so little came in a while that nothing is under way


def collect() -> None:
    """Collect garbage, unless that would take long: where the heap of the start is out of sight, it is milliseconds."""
    if gc.get_freeze_count():
        gc.collect()


def give_back() -> None:
    """Return freed memory to the system, where the C library can; takes some milliseconds, so call it in a thread."""
    # not a symbol of every C library
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class Tide:
    """Tells when memory is worth giving back: much was taken, and for a while little was, or many connections went.

    ``came`` counts the bytes that were received, and taken for calls, and ``gone`` the connections that were lost, since
    memory was last given back; whoever sees them adds.
    """

    __slots__ = ("_before", "came", "gone")

    def __init__(self) -> None:
        self.came = self.gone = 0
        self._before = 0

    def __repr__(self) -> str:
        return f"<Tide {self.came} bytes>"

    def is_out(self) -> bool:
        """Return whether it is time. To be asked at regular intervals, each of which is a while."""
        lately, self._before = self.came - self._before, self.came
        if self.gone < MANY_GONE and (lately > QUIET_BYTES or self.came < WORTH_BYTES):
            return False
        self.came = self.gone = self._before = 0
        return True
