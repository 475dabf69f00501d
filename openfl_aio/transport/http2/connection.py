"""An HTTP/2 connection on asyncio: the engine between a transport and the calls.

Bytes from the socket go straight into the memory of the message that they belong to where they can, and through one
buffer shared by all connections otherwise, so a connection that waits has no buffer. What is sent is gathered during
one turn of the event loop and leaves in one system call; large messages leave as views of the sender's memory.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final, cast

from grpclib.protocol import Peer

from openfl_aio.pki import PeerCertificate
from openfl_aio.transport.http2.engine import Engine
from openfl_aio.transport.http2.frames import OUR_PING, ConnectionFault, ErrorCode, code_name
from openfl_aio.transport.http2.headers import Headers
from openfl_aio.transport.http2.keepalive import Keepalive
from openfl_aio.transport.http2.outgoing import Piece
from openfl_aio.transport.http2.shared import Shared
from openfl_aio.transport.http2.stream import Stream
from openfl_aio.transport.http2.streams import StreamRecord
from openfl_aio.transport.http2.writer import Writer
from openfl_aio.transport.identity import Caller
from openfl_aio.transport.sockets import watch

__all__ = ["Connection"]

logger = logging.getLogger(__name__)

SCRATCH_BYTES: Final = 64 * 1024
HELD_BYTES: Final = 4 * 1024  # received of one peer when it is no longer its turn
CALL_BYTES: Final = 8 * 1024  # of memory that a call takes, about
LINGER_BYTES: Final = 1024 * 1024
LINGER_SECONDS: Final = 0.5
TURN_SECONDS: Final = 0.005  # of work for what one read brought; a peer who causes more waits
REST: Final = 3.0  # ... for so many times as long
_UNSENT_BYTES: Final = 64 * 1024  # answers to control frames that a peer may leave unread before it is not read either

_local = threading.local()


def _scratch() -> memoryview:
    """Return the buffer that all connections of this thread receive into, one at a time."""
    buffer: memoryview | None = getattr(_local, "scratch", None)
    if buffer is None:
        buffer = _local.scratch = memoryview(bytearray(SCRATCH_BYTES))
    return buffer


class Connection(asyncio.BufferedProtocol):
    """See the module. ``on_ready`` is called at the peer's first SETTINGS and may refuse by returning False.

    For grpclib's client it is protocol, connection and events processor in one.
    """

    __slots__ = (
        "__weakref__",
        "_aborted",
        "_began",
        "_direct",
        "_flushing",
        "_held",
        "_idle_since",
        "_lingering",
        "_lingers",
        "_new",
        "_openers",
        "_paused",
        "_pinged",
        "_resting",
        "_retiring",
        "_shared",
        "_transport",
        "_writer",
        "address",
        "caller",
        "certificate",
        "denied_since",
        "engine",
        "heard",
        "heavy",
        "keepalive",
        "last_message_received",
        "last_message_sent",
        "loop",
        "messages_received",
        "messages_sent",
        "on_lost",
        "on_ready",
        "senders",
        "uploads",
    )

    engine: Engine
    _writer: Writer

    def __init__(
        self,
        shared: Shared,
        *,
        on_ready: Callable[[Connection], bool] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        self._shared = shared
        self.on_ready = on_ready
        self.on_lost = on_lost
        self.loop = asyncio.get_running_loop()
        self.address = "unknown"  # host:port of the peer, for logs
        self.senders: set[Stream] = set()
        self.caller: Caller | None = None  # who it is, once somebody found out
        self.certificate: PeerCertificate | None = None  # where it may be denied
        self.denied_since: float | None = None  # no call of it is served
        self.uploads = 0  # being read, or waiting for it
        self.heavy = asyncio.Lock()  # for calls that are much work, one at a time
        self.messages_sent = self.messages_received = 0
        self.last_message_sent = self.last_message_received = 0.0
        self._aborted = False
        self._transport: asyncio.Transport | None = None
        self._direct = False
        self._flushing = False
        self._paused = False
        self._resting = False
        self._retiring = False
        self._held = b""  # received when it was no longer our turn
        self._lingering: int | None = None
        self._lingers: asyncio.TimerHandle | None = None
        self._new: list[tuple[Stream, Headers]] = []
        self._openers: set[asyncio.Future[None]] = set()
        self._began = self.heard = self._idle_since = self.now()  # heard: when the last bytes came
        self._pinged: float | None = None
        self.keepalive = Keepalive(self, shared.limits) if shared.client else None

    def __repr__(self) -> str:
        return f"<Connection {self.address}>"

    @property
    def connection(self) -> Connection:
        """Itself; see the class."""
        return self

    processor = connection

    @property
    def serves(self) -> bool:
        """Whether this side answers calls."""
        return not self._shared.client

    @property
    def writable(self) -> bool:
        """Whether the peer takes what is sent."""
        return self._writer.writable

    def now(self) -> float:
        """Return the loop's time, in seconds."""
        return self.loop.time()

    # ---------------------------------------------------------------------------------------------- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to speak HTTP/2."""
        transport = cast("asyncio.Transport", transport)  # uvloop's are no subclasses
        self._transport = transport
        self.address = _address(transport.get_extra_info("peername"))
        shared = self._shared
        self.engine = Engine(self, shared.limits, client=shared.client, pool=shared.pool, now=self.now())
        self._writer = Writer(transport, self.engine.out, high=shared.limits.max_queued_bytes)
        shared.connections.add(self)
        shared.emptied.clear()
        watch(transport)
        self.flush()
        if self._aborted:
            transport.abort()

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where the next bytes are to go."""
        target = self.engine.target() if self._lingering is None else None
        self._direct = target is not None
        if target is not None:
            return target
        return _scratch()[:HELD_BYTES] if self._shared.reads.over else _scratch()

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was received."""
        if self._lingering is not None:
            self._lingering -= nbytes
            if self._lingering < 0:
                self.abort()
            return
        self.heard = self.now()
        self._pinged = None
        if self._direct:
            self._take(None, nbytes)
        elif self._shared.reads.over:
            self._hold(bytes(_scratch()[:nbytes]))
        else:
            self._take(_scratch()[:nbytes], nbytes)

    def _take(self, view: memoryview | None, nbytes: int) -> None:
        """Let the engine take bytes: those of ``view``, or those that it has already where they belong."""
        now, busy = self.now(), time.thread_time()
        if view is None:
            self.engine.advance(nbytes, now)
        else:
            self.engine.receive(view, now)
        if self.engine.fault is not None:
            self._end_by_fault(self.engine.fault)
        elif self.serves:
            spent = time.thread_time() - busy
            self._shared.tide.came += nbytes
            self._shared.reads.spend(spent, self.loop)
            if spent > TURN_SECONDS:
                self._rest(now, spent)
        self._start_calls()
        if self.engine.out:
            self.flush()

    def _hold(self, data: bytes) -> None:
        """Keep what was received until it is our turn, and receive no more until then."""
        if not self._held:
            self._stop_reading()
            self._shared.reads.hold(self._take_held)
        self._held += data

    def _take_held(self) -> None:
        data, self._held = self._held, b""
        self._resting = False
        if self._transport is None or self._lingering is not None:
            return
        self._take(memoryview(data), len(data))
        if not self._resting:
            self._go_on()

    def _stop_reading(self) -> None:
        self._resting = True
        if self._transport is not None and not self._paused:
            self._transport.pause_reading()

    def _rest(self, now: float, spent: float) -> None:
        """Read no more for a while: this peer's bytes cost much time, as header blocks can, and others wait for it.

        All peers of that kind together get no more than a share of the loop.
        """
        if self._transport is None or self._resting:
            return
        shared = self._shared
        shared.rested_until = max(shared.rested_until, now) + (1 + REST) * spent
        self._stop_reading()
        self.loop.call_at(shared.rested_until, self._go_on)

    def _go_on(self) -> None:
        self._resting = False
        if self._transport is not None and not self._paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """Close: a peer that sends no more cannot read on in HTTP/2's sense."""
        return False

    def pause_writing(self) -> None:
        """The peer does not take what is sent."""
        self._writer.writable = False

    def resume_writing(self) -> None:
        """The peer takes it again."""
        # not here: asyncio closes a connection twice if a write fails while it says so
        self.loop.call_soon(self._go_on_writing)

    def _go_on_writing(self) -> None:
        if self._transport is None:
            return
        self._writer.resume()  # what waited goes first
        if self.writable:
            self.flush()
        if not self.writable:
            return
        if self._paused:
            self._paused = False
            if not self._resting:
                self._transport.resume_reading()
        self._wake_senders()
        self._wake_openers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell every call, and let go of everything."""
        self._terminate("Connection lost")
        self.engine.close()
        self.engine.streams.clear()  # they would stay until the garbage collector finds us
        self._shared.connections.discard(self)
        self._shared.tide.gone += 1
        if not self._shared.connections:
            self._shared.emptied.set()
        self._transport = None
        self._writer.close()
        if self.keepalive is not None:
            self.keepalive.stop()
        if self._lingers is not None:
            self._lingers.cancel()  # it would keep what is left of us in memory
            self._lingers = None
        self._wake_openers()
        self.on_ready = None
        if self.on_lost is not None:
            self.on_lost()
            self.on_lost = None

    # ---------------------------------------------------------------------------------------------- writing

    def flush_soon(self) -> None:
        """Send what the engine has at the end of this turn of the loop, together with what others add."""
        if not self._flushing:
            self._flushing = True
            self.loop.call_soon(self._flush_now)

    def _flush_now(self) -> None:
        self._flushing = False
        self.flush()

    def flush(self) -> None:
        """Send what the engine has, or keep it, and read no more, while the peer takes nothing."""
        if not self.engine.out or self._transport is None:
            return
        if self._lingering is not None:
            self.engine.out.clear()  # the last word was said
            return
        if not self.writable:
            # only a server holds back: two sides that do would wait for each other
            if not self._paused and not self._shared.client and self._writer.queued > _UNSENT_BYTES:
                self._paused = True
                if not self._resting:
                    self._transport.pause_reading()
            return
        self.write(())

    def write(self, pieces: Iterable[Piece]) -> None:
        """Send what the engine has, and then ``pieces``; see `Writer.write`."""
        if self._transport is not None:
            self._writer.write(pieces)

    # ---------------------------------------------------------------------------------------------- the engine's owner

    def settings_received(self) -> None:
        """See `Owner`."""
        if self.on_ready is not None and not self.on_ready(self):
            self.engine.break_off(ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many connections of this peer"))
        self._wake_openers()

    def request_received(self, record: StreamRecord, headers: Headers) -> None:
        """See `Owner`."""
        self._shared.tide.came += CALL_BYTES
        stream = Stream(self, max_bytes=record.inbound.max_bytes, record=record)
        record.inbound.room = self._shared.room
        record.inbound.on_room = partial(self.settle, record)
        assert self._shared.calls is not None
        self._shared.calls.prepare(stream, headers)
        self._new.append((stream, headers))
        self.engine.busy += 1

    def _start_calls(self) -> None:
        """Begin the calls that came with the last bytes: those that were also given up in them cost no task."""
        if not self._new:
            return
        new, self._new = self._new, []
        for stream, headers in new:
            self.in_turn(partial(self._start_call, stream, headers))

    def _start_call(self, stream: Stream, headers: Headers) -> None:
        assert self._shared.calls is not None
        if stream.lost is None:
            self._shared.calls.accept(stream, headers)
        else:
            stream.release()

    def in_turn(self, act: Callable[[], None]) -> None:
        """Do what wakes a call; on a server when it is this peer's turn."""
        if self._shared.client:
            act()
        else:
            self._shared.turns.take(self, act, self.loop)

    def response_received(self, record: StreamRecord, headers: Headers) -> None:
        """See `Owner`."""
        if self.keepalive is not None:
            self.keepalive.answered()
        if record.user is not None:
            record.user.headers_received(headers)

    def trailers_received(self, record: StreamRecord, headers: Headers) -> None:
        """See `Owner`."""
        if record.user is not None:
            record.user.trailers_received(headers)

    def data_received(self, record: StreamRecord) -> None:
        """See `Owner`."""
        if record.user is not None:
            record.user.data_received()
        else:
            self.engine.read(record)

    def stream_ended(self, record: StreamRecord) -> None:
        """See `Owner`."""
        if record.user is not None:
            record.user.ended()

    def stream_reset(self, record: StreamRecord, code: int, reason: str) -> None:
        """See `Owner`."""
        if record.user is None:
            return
        if self._shared.client and code == ErrorCode.NO_ERROR and record.inbound.ended:
            record.user.stopped(reason)
        else:
            record.user.terminated(reason, code)

    def window_opened(self, record: StreamRecord | None) -> None:
        """See `Owner`."""
        if record is None:
            self._wake_senders()
            self._wake_openers()
        elif record.user is not None:
            record.user.window_opened()

    def goaway_received(self, code: int, reason: str) -> None:
        """See `Owner`."""
        if not self._shared.client:
            return
        if code != ErrorCode.NO_ERROR:
            logger.warning("%s ended the connection: %s %r", self.address, code_name(code), reason)
            self._terminate(f"Received GOAWAY frame, closing connection; error_code: {code}")
        elif not self.engine.streams:
            self.close()
        self._wake_openers()

    # ---------------------------------------------------------------------------------------------- for streams

    def settle(self, record: StreamRecord) -> None:
        """What this stream received was read: tell the peer when it is time."""
        self.engine.read(record)
        if self.engine.out:
            self.flush_soon()

    def opened(self) -> None:
        """A call was begun (client)."""
        self.flush_soon()
        if self.keepalive is not None:
            self.keepalive.watch()

    def released(self) -> None:
        """A stream was let go of."""
        if self._shared.client:
            self._wake_openers()
            if self.engine.peer_draining and not self.engine.streams:
                self.close()
            elif self._retiring:
                self.retire()
        if not self.engine.streams:
            self._idle_since = self.now()

    async def until_open(self) -> None:
        """Wait until the peer takes another call (client)."""
        engine = self.engine
        while self._transport is not None and not engine.exhausted and not (self.writable and engine.may_open):
            waiter: asyncio.Future[None] = self.loop.create_future()
            self._openers.add(waiter)
            try:
                await waiter
            finally:
                self._openers.discard(waiter)
        if self._transport is None or engine.exhausted:
            raise ConnectionResetError("the connection is closed")

    def _wake_openers(self) -> None:
        for waiter in self._openers:
            if not waiter.done():
                waiter.set_result(None)

    def _wake_senders(self) -> None:
        for stream in list(self.senders):
            stream.window_opened()

    def create_stream(self, *, wrapper: Any = None) -> Stream:
        """Return a stream for a call that is about to begin (client); grpclib's name."""
        stream = Stream(self, max_bytes=self._shared.limits.max_message_bytes)
        stream.wrapper = wrapper
        return stream

    def get_peer(self) -> Peer:
        """Return grpclib's description of the other side."""
        return Peer(self._transport)  # type: ignore[arg-type] # it only asks for extra info

    def get_extra_info(self, name: str) -> Any:
        """Return what the transport knows."""
        return self._transport.get_extra_info(name) if self._transport is not None else None

    # ---------------------------------------------------------------------------------------------- the end

    def is_closing(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._transport is None or self._transport.is_closing() or self._lingering is not None

    @property
    def usable(self) -> bool:
        """Whether a call can be made (client)."""
        return not self.is_closing() and not self.engine.exhausted

    def _end_by_fault(self, fault: ConnectionFault) -> None:
        shared = self._shared
        calm = fault.code is ErrorCode.ENHANCE_YOUR_CALM
        if calm:
            shared.calmed += 1
        else:
            shared.faults += 1
        level = logging.WARNING if calm and not shared.client else logging.DEBUG
        suppressed = shared.log.allow(self.now()) if level == logging.WARNING else 0
        if suppressed is not None:
            more = f" ({suppressed} more such lines were left out)" if suppressed else ""
            logger.log(level, "%s: connection ended: %s, %s%s", self.address, fault.code.name, fault.reason, more)
        self._terminate("Protocol error")
        self._linger()

    def _linger(self) -> None:
        """Send what is left, say no more, and hear the peer out for a moment: else it might never see why."""
        transport = self._transport
        if transport is None:
            return
        self._lingering = LINGER_BYTES
        self._writer.copy_unsent()
        self.write(())
        if transport.can_write_eof() and not transport.is_closing():
            with contextlib.suppress(OSError):
                transport.write_eof()
        if self._paused or self._resting:
            transport.resume_reading()
        self._lingers = self.loop.call_later(LINGER_SECONDS, self.abort)

    def _terminate(self, reason: str) -> None:
        engine = getattr(self, "engine", None)
        if engine is None:
            return
        for record in list(engine.streams.values()):
            if record.user is not None:
                record.user.terminated(reason)
        self._start_calls()

    def go_away(self) -> None:
        """Take no more calls; those in flight go on."""
        if self._transport is not None and not self.engine.draining:
            self.engine.go_away()
            self.flush()

    def retire(self) -> None:
        """Close once the calls that were begun here have ended (client)."""
        self._retiring = True
        if not self.engine.streams and not self._openers:
            self.close()

    def close(self, reason: str = "Connection closed") -> None:
        """Tell every call, send what is left, and close; a peer that does not take it has a moment."""
        self._terminate(reason)
        transport = self._transport
        if transport is not None and not transport.is_closing():
            self._writer.copy_unsent()
            self.write(())
            transport.close()
            if transport.get_write_buffer_size():
                self._lingers = self.loop.call_later(LINGER_SECONDS, self.abort)

    def lose(self, reason: str) -> None:
        """Tell every call that the connection is lost, and close at once: the peer is not there any more."""
        self._terminate(reason)
        self.abort()

    def abort(self) -> None:
        """Close at once; a connection that is not made yet, as soon as it is."""
        self._aborted = True
        if self._transport is not None:
            self._transport.abort()

    # ---------------------------------------------------------------------------------------------- deadlines

    def check(self, now: float) -> None:
        """End what has waited too long (server); called about once a second."""
        limits, engine = self._shared.limits, self.engine
        if self._transport is None or self._lingering is not None:
            return
        if not engine.got_settings:
            if now - self._began >= limits.preface_seconds:
                self._break_off(ErrorCode.SETTINGS_TIMEOUT, "no SETTINGS in time")
        elif engine.header_started is not None and now - engine.header_started >= limits.header_seconds:
            self._break_off(ErrorCode.PROTOCOL_ERROR, "a header block that does not end")
        elif not engine.streams and not engine.busy and now - self._idle_since >= limits.idle_seconds:
            self.go_away()
            self.close()
        elif self._pinged is not None and now - self._pinged >= limits.keepalive_timeout:
            self.lose("Connection lost")
        else:
            for record in list(engine.streams.values()):
                if record.user is not None and record.user.stalled(now, limits.progress_seconds):
                    engine.reset(record, ErrorCode.CANCEL)
                    record.user.terminated("no progress in time")
            if self._pinged is None and now - self.heard >= limits.keepalive_seconds:
                self._pinged = now
                engine.ping(OUR_PING)
            self.flush()

    def _break_off(self, code: ErrorCode, reason: str) -> None:
        self.engine.break_off(ConnectionFault(code, reason))
        assert self.engine.fault is not None
        self._end_by_fault(self.engine.fault)


def _address(peer: Any) -> str:
    if isinstance(peer, tuple) and len(peer) >= 2:
        return f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}"
    return "unknown"
