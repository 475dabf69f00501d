"""Who may connect to a server, and the loop that lets them in.

asyncio's own accept loop has no limits and logs a traceback for each connection that finds no file descriptor. Here a
`Gate` counts connections and an `Acceptor` refuses those that are too many, before anything is spent on them.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from openfl_aio.config import Limits
from openfl_aio.transport.budgets import LogLimiter

__all__ = ["Acceptor", "Admission", "Gate"]

ACCEPTS_PER_WAKE_UP: Final = 64  # then others on the loop have their turn
PAUSE_SECONDS: Final = 0.1  # after the system ran out of something
POLL_SECONDS: Final = 0.02  # while there is no room for another connection
GRACE_SECONDS: Final = 0.1  # to complete a handshake however many others want to
LOG_SECONDS: Final = 10.0
EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
# what accept(2) reports of a connection that broke while it waited; the next in the queue may be well
BROKEN: Final = frozenset(
    {
        errno.ECONNABORTED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.EINTR,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
        errno.ETIMEDOUT,
    }
)
NO_LINGER: Final = struct.pack("ii", 1, 0)


class Gate:
    """Counts the connections of a server and says who may be another one.

    It closes nothing, with one exception: connections that are `evictable` give way to newer ones, the oldest first,
    once they have had ``GRACE_SECONDS`` and there is no room for another unauthenticated one. Otherwise some silent
    connections, opened anew whenever they are ended, would keep everybody else out.
    """

    def __init__(self, limits: Limits, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._certificates: dict[str, int] = {}
        self._evictable: dict[Admission, float] = {}  # and since when; the oldest comes first
        self.open = 0
        self.unauthenticated = 0  # of those that are open
        self.refused = 0  # since the start: at the door, or for their certificate
        self.evicted = 0  # since the start

    def __repr__(self) -> str:
        return f"<Gate {self.open} open, {self.unauthenticated} of them unauthenticated, {self.refused} refused>"

    def admit(self) -> Admission | None:
        """Count a new connection, unauthenticated at first, or return None if there is no room for it."""
        if self.open >= self._limits.max_connections or self.unauthenticated >= self._limits.max_unauthenticated:
            self.refused += 1
            return None
        self.open += 1
        self.unauthenticated += 1
        return Admission(self)

    def make_room(self) -> float:
        """Return 0 if another connection may be accepted, to be admitted or refused, or else in how many seconds.

        Evicts the oldest connection if nothing else makes room. Whoever has to wait waits in the system's queue.
        """
        if self.unauthenticated < self._limits.max_unauthenticated or not self._evictable:
            return 0.0
        oldest, since = next(iter(self._evictable.items()))
        wait = since + GRACE_SECONDS - self._clock()
        if wait > 0:
            return wait
        self.evicted += 1
        oldest._evict()
        return 0.0

    def _authenticate(self, fingerprint: str | None) -> bool:
        if fingerprint is not None:
            count = self._certificates.get(fingerprint, 0)
            if count >= self._limits.max_connections_per_certificate:
                self.refused += 1
                return False
            self._certificates[fingerprint] = count + 1
        self.unauthenticated -= 1
        return True

    def _leave(self, fingerprint: str | None, *, unauthenticated: bool) -> None:
        self.open -= 1
        if unauthenticated:
            self.unauthenticated -= 1
        elif fingerprint is not None:
            self._certificates[fingerprint] -= 1
            if not self._certificates[fingerprint]:
                del self._certificates[fingerprint]


class Admission:
    """The place of one connection in its `Gate`. It must `leave`; one that nobody holds any more has left."""

    __slots__ = ("_abort", "_fingerprint", "_gate", "_unauthenticated")

    def __init__(self, gate: Gate) -> None:
        self._abort: Callable[[], None] | None = None
        self._gate: Gate | None = gate
        self._unauthenticated = True
        self._fingerprint: str | None = None

    def evictable(self, abort: Callable[[], None]) -> None:
        """Let the gate call ``abort`` to end this connection for a newer one, as long as it is unauthenticated.

        To be called at once, while the protocol is made: while no connection is evictable, a full gate refuses.
        """
        if self._gate is not None and self._unauthenticated:
            self._abort = abort
            self._gate._evictable[self] = self._gate._clock()

    def authenticated(self, fingerprint: str | None) -> bool:
        """Count this connection for its certificate from now on. Return False if that has too many already.

        ``fingerprint`` names the certificate; None, for plaintext once the peer has shown that it speaks HTTP/2, has
        no count of its own. After False the connection still counts as unauthenticated, until it leaves.
        """
        if self._gate is None:
            return False
        if self._unauthenticated:
            if not self._gate._authenticate(fingerprint):
                return False
            self._settle()
            self._unauthenticated = False
            self._fingerprint = fingerprint
        return True

    def leave(self) -> None:
        """Give the place free; a second time does nothing."""
        self._settle()
        gate, self._gate = self._gate, None
        if gate is not None:
            gate._leave(self._fingerprint, unauthenticated=self._unauthenticated)

    def _settle(self) -> None:
        if self._abort is not None and self._gate is not None:
            self._abort = None
            del self._gate._evictable[self]

    def _evict(self) -> None:
        abort = self._abort
        self.leave()
        if abort is not None:
            abort()

    __del__ = leave  # of a protocol that never saw its transport


class Acceptor:
    """Accepts connections on bound ``sockets`` and gives each a protocol and a transport, with Nagle's algorithm off.

    ``make_protocol`` is called once a connection; None refuses it, and its peer sees a reset. Where descriptors or
    memory of the system have run out, one connection is reset and the others wait: open connections are not harmed.
    With a ``gate``, connections for which it cannot make room yet wait in the system's queue.
    Refusals are told in ``log``, one line in ten seconds for each kind. Needs a running loop.
    """

    def __init__(
        self,
        sockets: Sequence[socket.socket],
        make_protocol: Callable[[], asyncio.BaseProtocol | None],
        *,
        limits: Limits,
        log: logging.Logger,
        gate: Gate | None = None,
    ) -> None:
        self._sockets = sockets
        self._make_protocol = make_protocol
        self._backlog = limits.accept_backlog
        self._log = log
        self._gate = gate
        self._refused_lines = LogLimiter(1, LOG_SECONDS)
        self._exhausted_lines = LogLimiter(1, LOG_SECONDS)
        self._lost_lines = LogLimiter(1, LOG_SECONDS)
        self._connecting: set[asyncio.Task[tuple[asyncio.Transport, asyncio.BaseProtocol]]] = set()
        self._loop = asyncio.get_running_loop()
        self._spare: int | None = None
        self._paused: asyncio.TimerHandle | None = None
        self._accepting = False

    def __repr__(self) -> str:
        state = "stopped" if not self._accepting else "paused" if self._paused else "accepting"
        return f"<Acceptor {state} on {len(self._sockets)} sockets, {len(self._connecting)} connecting>"

    def start(self) -> None:
        """Listen and accept until `stop`. Raises `OSError` if a socket cannot listen."""
        for sock in self._sockets:
            sock.setblocking(False)
            sock.listen(self._backlog)
        self._accepting = True
        self._resume()

    def stop(self) -> None:
        """Stop accepting and close the sockets; established connections go on. A second time does nothing."""
        if self._accepting:
            self._accepting = False
            self._ignore()
        if self._paused is not None:
            self._paused.cancel()
            self._paused = None
        self._release()
        for sock in self._sockets:
            sock.close()

    # ---------------------------------------------------------------------------------------------- accepting

    def _resume(self) -> None:
        self._paused = None
        self._reserve()
        for sock in self._sockets:
            self._loop.add_reader(sock, self._readable, sock)

    def _pause(self, seconds: float) -> None:
        self._ignore()
        self._paused = self._loop.call_later(seconds, self._resume)

    def _ignore(self) -> None:
        for sock in self._sockets:
            self._loop.remove_reader(sock)

    def _readable(self, sock: socket.socket) -> None:
        """Accept what waits, up to a bound."""
        for _ in range(ACCEPTS_PER_WAKE_UP):
            if not self._accepting:  # a protocol's maker may stop us
                return
            if self._gate is not None and (wait := self._gate.make_room()):
                self._pause(min(wait, POLL_SECONDS))
                return
            try:
                connection, _address = sock.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in BROKEN:
                    continue
                self._cannot_accept(sock, exc)
                return
            self._accepted(connection)

    def _accepted(self, connection: socket.socket) -> None:
        try:
            protocol = self._make_protocol()
        except BaseException:
            _reset(connection)
            raise
        if protocol is None:
            _reset(connection)
            self._tell(self._refused_lines, "refused a connection: too many are open, or not authenticated yet")
            return
        with contextlib.suppress(OSError):  # the peer is gone already, or it is no TCP
            # asyncio does so only for sockets that know their protocol's number, which accepted ones do not
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        task = self._loop.create_task(self._loop.connect_accepted_socket(lambda: protocol, connection))
        self._connecting.add(task)
        task.add_done_callback(partial(self._connected, connection))

    def _connected(
        self, connection: socket.socket, task: asyncio.Task[tuple[asyncio.Transport, asyncio.BaseProtocol]]
    ) -> None:
        self._connecting.discard(task)
        if task.cancelled():
            connection.close()  # the loop is ending
        elif (exc := task.exception()) is not None:
            connection.close()
            self._tell(self._lost_lines, f"lost a connection that was just accepted: {exc}")

    # ---------------------------------------------------------------------------------------------- exhaustion

    def _cannot_accept(self, sock: socket.socket, exc: OSError) -> None:
        """Refuse the connection that waits longest, and let the rest wait until there may be room again.

        The listening socket would stay readable, and the loop would spin on it.
        """
        if exc.errno in EXHAUSTED and self._spare is not None:
            self._release()
            with contextlib.suppress(OSError):
                connection, _address = sock.accept()
                _reset(connection)
            self._reserve()
        self._pause(PAUSE_SECONDS)
        hint = "; allow more open files (ulimit -n)" if exc.errno in (errno.EMFILE, errno.ENFILE) else ""
        self._tell(self._exhausted_lines, f"cannot accept connections: {exc.strerror or exc}{hint}")

    def _reserve(self) -> None:
        """Keep one descriptor back, so that a connection can be refused when all others are in use."""
        if self._spare is None:
            with contextlib.suppress(OSError):  # somebody was quicker; the next time, perhaps
                self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def _release(self) -> None:
        spare, self._spare = self._spare, None
        if spare is not None:
            os.close(spare)

    def _tell(self, lines: LogLimiter, sentence: str) -> None:
        suppressed = lines.allow(self._loop.time())
        if suppressed:
            self._log.warning("%s (and %d more times since the last line)", sentence, suppressed)
        elif suppressed is not None:
            self._log.warning("%s", sentence)


def _reset(connection: socket.socket) -> None:
    """Close ``connection`` with a reset, which leaves nothing behind in the system."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, NO_LINGER)
    connection.close()
