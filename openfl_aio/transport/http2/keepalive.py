"""Whether a server that says nothing while calls wait for it is still there (client).

A connection may be dead without an end: a firewall forgot it, or something on the way takes bytes and passes none on.
The kernel does not notice, for its own probes are answered by what is on the way.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Final

from openfl_aio.config import Limits
from openfl_aio.transport.http2.frames import OUR_PING
from openfl_aio.transport.sockets import unsent_bytes

if TYPE_CHECKING:
    from openfl_aio.transport.http2.connection import Connection

__all__ = ["Keepalive"]

POLITE_SECONDS: Final = 310.0
"""Between two questions to a server of others that answers no call meanwhile: gRPC's allow one in 300 s."""


class Keepalive:
    """Asks with PING after ``keepalive_seconds`` of silence, and ends the connection ``keepalive_timeout`` after that.

    Only while calls are under way, and not while the kernel still gets rid of bytes: behind those waits the question.
    """

    __slots__ = ("_asked", "_began", "_connection", "_limits", "_next_question", "_timer", "_unsent")

    def __init__(self, connection: Connection, limits: Limits) -> None:
        self._connection = connection
        self._limits = limits
        self._timer: asyncio.TimerHandle | None = None
        self._began = 0.0
        self._asked: float | None = None
        self._next_question = 0.0
        self._unsent = 0

    def watch(self) -> None:
        """A call is begun."""
        now = self._connection.now()
        due = now + self._limits.keepalive_seconds
        if self._timer is None:
            self._began = now
            self._asked = None
            self._schedule(due)
        elif self._timer.when() > due:  # set when nothing might be asked for long; there were answers since
            self._timer.cancel()
            self._schedule(due)

    def answered(self) -> None:
        """The server said something about a call: gRPC's begin to count questions anew then."""
        self._next_question = 0.0

    def stop(self) -> None:
        """The connection is gone."""
        if self._timer is not None:
            self._timer.cancel()  # it would keep what is left of the connection in memory
            self._timer = None

    def _schedule(self, when: float) -> None:
        self._timer = self._connection.loop.call_at(when, self._check, context=Context())

    def _check(self) -> None:
        self._timer = None
        connection, limits = self._connection, self._limits
        if connection.is_closing() or not connection.engine.streams:
            return
        now, heard = connection.now(), max(connection.heard, self._began)
        if self._asked is not None and heard < self._asked:
            if now < self._asked + limits.keepalive_timeout:
                self._schedule(self._asked + limits.keepalive_timeout)
            elif (unsent := unsent_bytes(connection.get_extra_info("socket"))) < self._unsent:
                self._asked, self._unsent = now, unsent
                self._schedule(now + limits.keepalive_timeout)
            else:
                connection.lose("the server does not answer")
            return
        self._asked = None
        due = heard + limits.keepalive_seconds
        if not connection.engine.peer_is_ours:
            due = max(due, self._next_question)
        if now < due:
            self._schedule(due)
            return
        self._asked, self._next_question = now, now + POLITE_SECONDS
        self._unsent = unsent_bytes(connection.get_extra_info("socket"))
        connection.engine.ping(OUR_PING)
        connection.flush()
        self._schedule(now + limits.keepalive_timeout)
