"""What an attack is, the list of all of them, and the stage on which one is played."""

from __future__ import annotations

import select
import ssl
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.attacks import frames
from tests.attacks.wire import Target, Wire

PLAINTEXT, MTLS = "plaintext", "mtls"
CALM = ("goaway:11",)
REFUSED_PAUSE = 0.005  # before the next attempt, when a connection was refused
WRONG = tuple(f"goaway:{code}" for code in range(1, 14))  # any reason but "no error"
# the server is done with a call whose caller still sends: no way to fail, and said beside the answer
NEUTRAL = ("rst:0", "rst:5")


@dataclass(frozen=True)
class Attack:
    """One way to misbehave, and what must come of it beyond the promises that hold for all.

    ``ends``: how the server must end its connections, within ``within`` seconds of their first byte; empty: it need
    not. ``outcomes``: the only ways in which its calls may end, of which one must be seen; empty: not looked at.
    ``memory``: MiB that it may cost; ``processor``: which share of one it and the honest client may take together.
    ``limits``: what the server is configured with, so that a deadline of minutes can be seen in seconds. ``files``:
    how many file descriptors the server has. ``honest``: whose calls count.
    """

    name: str
    what: str
    play: Callable[[Stage], None]
    ends: tuple[str, ...] = ()
    within: float = 1.0
    outcomes: tuple[str, ...] = ()
    links: tuple[str, ...] = (PLAINTEXT, MTLS)
    bounded: tuple[str, ...] = ()  # the links with which the bounded run plays it
    service: str = "aggregator"
    memory: float = 64.0
    processor: float | None = None
    lasts: float = 0.0  # seconds that it needs at least
    limits: dict[str, Any] = field(default_factory=dict)
    files: int | None = None
    honest: tuple[str, ...] = ("kept", "fresh")


ATTACKS: dict[str, Attack] = {}


def attack(**options: Any) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Put a function into the list under its name; its docstring says what it does."""

    def enter(play: Callable[[Stage], None]) -> Callable[[Stage], None]:
        what = (play.__doc__ or "").strip().splitlines()[0]
        assert play.__name__ not in ATTACKS
        ATTACKS[play.__name__] = Attack(play.__name__, what, play, **options)
        return play

    return enter


class Stage:
    """Gives connections to one attack until time is up, and keeps the record."""

    def __init__(self, target: Target, seconds: float) -> None:
        self.target = target
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds
        self.endings: Counter[str] = Counter()
        self.outcomes: Counter[str] = Counter()
        self.lives: list[float] = []
        self.sent = 0
        self.connections = 0
        self._open: list[Wire] = []
        self._context: ssl.SSLContext | None = target.context() if target.tls else None

    def going(self) -> bool:
        """Return whether there is time left."""
        return time.monotonic() < self.deadline

    def fields(self, path: str, more: Iterable[tuple[str, str]] = ()) -> bytes:
        """Return the header block of a call."""
        return frames.block(path, more, tls=self.target.tls)

    def dial(self, *, encrypt: bool = True, buffer: int = 0, **options: Any) -> Wire:
        """Connect and say nothing. What cannot be connected has ended already."""
        self._settle()
        wire = Wire(deadline=self.deadline, **options)
        self.connections += 1
        self._open.append(wire)
        if not wire.connect(self.target, context=self._context if encrypt else None, buffer=buffer):
            time.sleep(REFUSED_PAUSE)
        return wire

    def add(self, wire: Wire) -> None:
        """Keep the record of a connection that was made elsewhere."""
        self.connections += 1
        self._open.append(wire)

    def connect(self, *pairs: tuple[int, int], **options: Any) -> Wire:
        """Connect and begin as HTTP/2 demands, with the settings ``pairs``."""
        wire = self.dial(**options)
        wire.greet(*pairs)
        return wire

    def many(self, count: int, *pairs: tuple[int, int], greet: bool = True, **options: Any) -> list[Wire]:
        """Return up to ``count`` connections, as many as there is time and permission for."""
        wires = []
        for _ in range(count):
            if not self.going():
                break
            wires.append(self.connect(*pairs, **options) if greet else self.dial(**options))
        return wires

    def flood(self, script: Callable[[Wire], Iterator[bytes]], *pairs: tuple[int, int], **options: Any) -> None:
        """Send what ``script`` gives as fast as it is taken; on a new connection when the server ended the last."""
        while self.going():
            wire = self.connect(*pairs, **options)
            for piece in script(wire):
                if not wire.send(piece):
                    break
            else:
                self.watch([wire], 0.5)  # all was said; how does it take it?
                wire.drop()

    def watch(self, wires: Iterable[Wire], seconds: float | None = None) -> None:
        """Read from ``wires`` for a while, or until all have ended."""
        deadline = self.deadline if seconds is None else min(self.deadline, time.monotonic() + seconds)
        poll = select.poll()
        known = {}
        for wire in wires:
            if wire.ended is None and wire.reading:
                wire.read()
            if wire.ended is None and wire.reading:
                known[wire.socket.fileno()] = wire
                poll.register(wire.socket, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            for number, _ in poll.poll(min(left, 0.1) * 1000):
                wire = known[number]
                wire.read()
                if wire.ended is not None:
                    poll.unregister(number)
                    del known[number]
            if not known and seconds is not None:
                return

    def report(self) -> dict[str, Any]:
        """Hang up and return the record; connections that were still open count as alive."""
        for wire in self._open:
            if wire.ended is None and wire.reading:
                wire.read()
            self._record(wire)
            wire.drop()
        self._open.clear()
        return {
            "connections": self.connections,
            "endings": dict(self.endings),
            "outcomes": dict(self.outcomes),
            "longest_life": max(self.lives, default=0.0),
            "sent": self.sent,
        }

    def _settle(self) -> None:
        if len(self._open) > 64:
            for wire in self._open:
                if wire.ended is not None:
                    self._record(wire)
            self._open = [wire for wire in self._open if wire.ended is None]

    def _record(self, wire: Wire) -> None:
        self.endings[wire.ended or "alive"] += 1
        self.outcomes.update(wire.outcomes)
        self.sent += wire.sent
        if wire.ended not in ("dropped", "refused"):
            self.lives.append(wire.life)
