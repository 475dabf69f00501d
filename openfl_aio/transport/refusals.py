"""How long refusals wait, and which of them are logged: by peer, in bounded memory. Decides only; time is an argument.

A peer is the name in its certificate, or its address where there is none. OpenFL 1.6 repeats a refused call at once and
for ever, so each of its refusals waits longer than the last; other peers are slowed down once they are refused often.
Only refusals wait, by a timer: whatever else the same peer calls is answered as ever.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from openfl_aio.transport.budgets import PeerLogLimiter, TokenBucket
from openfl_aio.transport.identity import Caller

__all__ = ["Refusals", "peer_of"]

MAX_PEERS: Final = 4_096  # that are remembered; of more, those that were refused longest ago are forgotten
FORGET_SECONDS: Final = 60.0  # after the last refusal
FIRST_SECONDS: Final = 0.7
GROWTH: Final = 1.3
LONGEST_SECONDS: Final = 5.0
MAX_WAITING: Final = 64  # refusals of one peer; more are answered at once, so that they hold no more memory
BURST: Final = 200  # refusals of a peer that is not impatient, at once ...
RATE: Final = 20.0  # ... and a second afterwards, which do not wait
LINES: Final = 10  # in a second for one peer
ALL_LINES: Final = 50  # in a second for all of them


def peer_of(caller: Caller | None, address: str) -> str:
    """Return under which name refusals are counted. A claim is no name: who claims another each time is one peer.

    Of an IPv6 address the first half counts, for the other half is a host's own choice.
    """
    if caller is not None and caller.authenticated:
        return repr(caller.name)
    host = address.rpartition(":")[0].strip("[]")
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return host or address
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((ip, 64), strict=False))
    return str(ip)


@dataclass(slots=True)
class _Peer:
    bucket: TokenBucket
    last: float
    delay: float = 0.0
    waiting: int = 0
    reason: str = ""


class Refusals:
    """The refusals of one server. ``lines`` decides which of them are logged."""

    def __init__(self) -> None:
        self._peers: OrderedDict[str, _Peer] = OrderedDict()
        self.lines = PeerLogLimiter(LINES, ALL_LINES, MAX_PEERS)

    def __len__(self) -> int:
        return len(self._peers)

    def delay(self, peer: str, now: float, *, impatient: bool) -> float:
        """Count a refusal and return for how many seconds it shall wait, 0 for not at all.

        ``impatient``: the peer will ask again as soon as it is answered. What waits must `end_wait`.
        """
        known = self._get(peer, now)
        if not impatient and known.bucket.take(now):
            return 0.0
        known.delay = min(LONGEST_SECONDS, known.delay * GROWTH or FIRST_SECONDS)
        if known.waiting >= MAX_WAITING:
            return 0.0
        known.waiting += 1
        return known.delay

    def is_new(self, peer: str, reason: str, now: float) -> bool:
        """Return whether ``peer`` was last refused for another ``reason``, or long ago."""
        known = self._get(peer, now)
        if known.reason == reason:
            return False
        known.reason = reason
        return True

    def end_wait(self, peer: str) -> None:
        """Say that one refusal waits no longer."""
        known = self._peers.get(peer)
        if known is not None and known.waiting:
            known.waiting -= 1

    def _get(self, name: str, now: float) -> _Peer:
        known = self._peers.get(name)
        if known is None or (now >= known.last + FORGET_SECONDS and not known.waiting):
            known = self._peers[name] = _Peer(TokenBucket(BURST, RATE, now), now)
        known.last = now
        self._peers.move_to_end(name)
        while len(self._peers) > MAX_PEERS:
            self._peers.popitem(last=False)
        return known
