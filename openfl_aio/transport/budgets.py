"""How much of something a peer may have, and how much of it is logged. Time is an argument, in seconds of any
monotonic clock, so that the callers of one batch of frames read the clock once.
"""

from __future__ import annotations

from collections import OrderedDict

__all__ = ["LogLimiter", "PeerLogLimiter", "TokenBucket"]


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


class PeerLogLimiter:
    """Lets ``lines`` log lines a second go for each peer, and ``all_lines`` for all of them; remembers ``peers`` peers.

    Of more peers, those that were heard of longest ago are forgotten.
    """

    __slots__ = ("_all", "_last", "_limiters", "_lines", "_peers")

    def __init__(self, lines: int = 10, all_lines: int = 50, peers: int = 1_024) -> None:
        self._lines = lines
        self._all = LogLimiter(all_lines)
        self._peers = peers
        self._limiters: OrderedDict[str, LogLimiter] = OrderedDict()
        self._last: dict[str, float] = {}

    def __repr__(self) -> str:
        return f"<PeerLogLimiter of {len(self._limiters)} peers, {self._lines} lines a second each>"

    def allow(self, peer: str, now: float) -> int | None:
        """Return how many lines of ``peer`` were left out before the one that may be written now, None if none may."""
        limiter = self._limiters.setdefault(peer, LogLimiter(self._lines))
        self._limiters.move_to_end(peer)
        self._last[peer] = now
        while len(self._limiters) > self._peers:
            forgotten, _ = self._limiters.popitem(last=False)
            del self._last[forgotten]
        if self._all.allow(now) is None:
            limiter.suppressed += 1
            return None
        return limiter.allow(now)

    def left_out(self, now: float) -> list[tuple[str, int]]:
        """Return the peers whose flood is over, with how many of their lines were left out; each is told once."""
        over = [
            (peer, limiter.suppressed)
            for peer, limiter in self._limiters.items()
            if limiter.suppressed and now >= self._last[peer] + 1.0
        ][: self._lines]
        for peer, _ in over:
            self._limiters[peer].suppressed = 0
        return over
