"""What a peer may cause with frames that cost it nothing."""

from __future__ import annotations

from typing import Final

from openfl_aio.config import Limits
from openfl_aio.transport.budgets import TokenBucket
from openfl_aio.transport.http2.frames import ConnectionFault, ErrorCode

__all__ = ["FrameBudget"]

_REFUND_BYTES: Final = 64 * 1024  # so many bytes of DATA, either way, earn one control frame,
_SMALL_FRAMES: Final = 8  # and so many small ones
_PER_MESSAGE: Final = 4  # small frames for a message that was sent whole: stock gRPC tells its windows after each


class FrameBudget:
    """Three purses of one connection, filled again as time passes. Beyond them the connection ends (`ConnectionFault`)."""

    __slots__ = ("_control", "_refund", "_resets", "_small", "now")

    def __init__(self, limits: Limits, now: float) -> None:
        self.now = now
        self._control = TokenBucket(limits.control_burst, limits.control_rate, now)
        self._small = TokenBucket(limits.small_frame_burst, limits.small_frame_rate, now)
        self._resets = TokenBucket(limits.reset_burst, limits.reset_rate, now)
        self._refund = 0

    def control(self, what: str, price: float = 1.0) -> None:
        """Pay for a frame that must be answered or looked into; ``what`` names many of them."""
        _pay(self._control, self.now, what, price)

    def small(self, what: str) -> None:
        """Pay for a frame that is cheap, and ordinary in moderation."""
        _pay(self._small, self.now, what, 1.0)

    def reset(self) -> None:
        """Pay for a call that was given up."""
        _pay(self._resets, self.now, "RST_STREAM frames", 1.0)

    def earn(self, count: int) -> None:
        """Let ``count`` bytes of real traffic pay for the frames that they cause."""
        self._refund += count
        if self._refund >= _REFUND_BYTES:
            earned, self._refund = divmod(self._refund, _REFUND_BYTES)
            self._control.give(earned)
            self._small.give(_SMALL_FRAMES * earned)

    def delivered(self) -> None:
        """Let a message that was sent whole pay for the WINDOW_UPDATEs that its receiver answers with."""
        self._small.give(_PER_MESSAGE)


def _pay(purse: TokenBucket, now: float, what: str, price: float) -> None:
    if not purse.take(now, price):
        raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, f"too many {what}")
