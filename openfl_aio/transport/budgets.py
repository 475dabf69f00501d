"""How much of something a peer may have, and how much of it is logged. Time is an argument, in seconds of any
monotonic clock, so that the callers of one batch of frames read the clock once.
"""

from __future__ import annotations

__all__ = ["LogLimiter", "TokenBucket"]


class TokenBucket:
    """Lets ``burst`` tokens go at once and ``rate`` a second afterwards. It starts full.

    It runs once a frame, so it checks nothing: ``burst`` and ``rate`` must be above 0, and time must not go back.
    """

    __slots__ = ("_burst", "_level", "_rate", "_then")

    def __init__(self, burst: int, rate: float, now: float) -> None:
        self._burst = self._level = float(burst)
        self._rate = rate
        self._then = now

    def __repr__(self) -> str:
        return f"<TokenBucket {self._level:.1f} of {self._burst:.0f}, {self._rate:g} a second>"

    def take(self, now: float, tokens: float = 1.0) -> bool:
        """Take ``tokens``, or take nothing and return False when there are fewer."""
        level = self._level
        if now != self._then:  # frames of one batch share a time
            level += (now - self._then) * self._rate
            if level > self._burst:
                level = self._burst
            self._then = now
        if level < tokens:
            self._level = level
            return False
        self._level = level - tokens
        return True

    def give(self, tokens: float) -> None:
        """Put ``tokens`` back, as far as there is room for them."""
        level = self._level + tokens
        self._level = level if level < self._burst else self._burst


class LogLimiter:
    """Lets ``lines`` log lines go every ``seconds`` and counts the others, so that no peer can fill a disk with them.

    The period begins with the first line after the last period has ended.
    """

    __slots__ = ("_end", "_left", "_lines", "_seconds", "suppressed")

    def __init__(self, lines: int = 10, seconds: float = 1.0) -> None:
        self._lines = lines
        self._seconds = seconds
        self._left = lines
        self._end = float("-inf")
        self.suppressed = 0  # since the last line that went

    def __repr__(self) -> str:
        return f"<LogLimiter {self._lines} lines in {self._seconds:g} s, {self.suppressed} suppressed>"

    def allow(self, now: float) -> int | None:
        """Return how many lines were suppressed since the last one if this line may go, or None if it may not."""
        if now >= self._end:
            self._end = now + self._seconds
            self._left = self._lines
        if not self._left:
            self.suppressed += 1
            return None
        self._left -= 1
        suppressed, self.suppressed = self.suppressed, 0
        return suppressed
