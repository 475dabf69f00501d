"""Where a server is killed next: at every failpoint once, and then where it was killed least."""

from __future__ import annotations

import random
from collections import Counter
from typing import Final

from tests.crash.server import Kill, Life

__all__ = ["Targets"]

FRUITLESS: Final = 6  # lives in which nothing new was reached, after which it is seldom looked for
SELDOM: Final = 0.1


class Targets:
    """The failpoints of one kind of server.

    First its lives end at whatever they reach at which none has ended; when nothing new comes, at what was drawn, and
    the share ``seldom`` still at something new.
    """

    def __init__(self, seed: str, *, seldom: float = SELDOM) -> None:
        self._seldom = seldom
        self.known: Counter[str] = Counter()  # how often it was reached in one life, at most
        self.killed: Counter[str] = Counter()
        self._missed: Counter[str] = Counter()
        self._later: set[str] = set()  # reached in a life that was not a server's first
        self._after: dict[str, tuple[str, int]] = {}  # the death after which a failpoint was first reached
        self._queued: list[tuple[str, int]] = []
        self._fruitless = 0
        self._random = random.Random(seed)

    def learn(self, life: Life, *, first: bool = True, after: tuple[str, int] | None = None) -> None:
        """Take in which failpoints a life reached: a server's first one, or one after another that ended at ``after``."""
        if not first:
            self._later |= set(life.reached)
        if after is not None:
            self._after |= {name: after for name in life.reached if name not in self.known}
        self.known |= life.reached

    def note(self, target: Kill, life: Life) -> tuple[str, int] | None:
        """Return the failpoint at which the life ended, if that was its target."""
        if isinstance(target, frozenset):
            if life.code != -9 or not life.last or life.last in target:
                self._fruitless += 1
                return None
            self._fruitless = 0
        elif life.code != -9 or life.last != target[0]:
            self._missed[target[0]] += 1
            return None
        self.killed[life.last] += 1
        return life.last, max(1, life.reached[life.last])

    @property
    def left(self) -> list[str]:
        """The failpoints at which no process was killed yet."""
        return sorted(set(self.known) - set(self.killed))

    def next(self, *, first: bool = True) -> Kill | None:
        """Return where the next life is to end, a server's first one or another; None while no failpoint is known."""
        if self._queued:
            return self._queued.pop()
        if not self.known:
            return None
        if self._fruitless < FRUITLESS or self._random.random() < self._seldom:
            return frozenset(self.killed)
        # folders are made once: what only a first life reaches is no target for another
        names = sorted(self.known if first or not self._later else self._later)
        # what is hard to reach is tried as often as the rest, not until it is reached
        name = min(names, key=lambda name: (self.killed[name] + self._missed[name], self._random.random()))
        if self._missed[name] and name in self._after:
            self._queued.append((name, 1))  # it is part of what follows a certain death, so that one first
            return self._after[name]
        # not too far on: a life that begins in the middle reaches less, and one that misses its target is lost
        most = 1 if self._missed[name] else max(1, min(self.known[name] // 4, 8))
        return name, self._random.randint(1, most)
