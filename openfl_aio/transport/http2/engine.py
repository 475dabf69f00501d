"""One HTTP/2 connection without I/O: bytes in, frames out, and an owner that is told what happened.

Only what gRPC needs: no push, no priorities, no upgrade. Every frame is paid for, with bytes of flow control or from a
budget (`openfl_aio.config.Limits`), before anything is kept or answered for it, so no peer can make this side busy or
full for nothing. Time comes in as an argument.

RFC 9113 (HTTP/2); for what a stream may receive in which state see `streams`.
"""

from __future__ import annotations

from typing import Final, Protocol

from openfl_aio.config import Limits
from openfl_aio.transport.http2 import frames, headers, streams
from openfl_aio.transport.http2.blocks import Block, HeaderBlocks
from openfl_aio.transport.http2.budget import FrameBudget
from openfl_aio.transport.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    DEFAULT_FRAME_BYTES,
    DEFAULT_WINDOW,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MAX_FRAME_BYTES,
    MAX_WINDOW,
    PING,
    PREFACE,
    PRIORITY,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ConnectionFault,
    ErrorCode,
    Setting,
    StreamFault,
)
from openfl_aio.transport.http2.headers import Headers
from openfl_aio.transport.http2.messages import Inbound
from openfl_aio.transport.http2.outgoing import Outgoing, Piece
from openfl_aio.transport.http2.reader import FrameReader
from openfl_aio.transport.http2.sender import Sender
from openfl_aio.transport.http2.streams import Act, State, StreamRecord, Verdict
from openfl_aio.transport.http2.windows import ReceiveWindow, WindowPool

__all__ = ["Engine", "Owner"]

_SMALL_DATA: Final = 256  # a DATA frame with fewer bytes that ends nothing is paid for
_REMEMBERED: Final = 256  # closed streams whose late frames are told from nonsense


class Owner(Protocol):
    """Who is told what came. Nothing here may block; sending is allowed at any time."""

    def settings_received(self) -> None:
        """The peer's first SETTINGS came: it speaks HTTP/2."""

    def request_received(self, record: StreamRecord, headers: Headers) -> None:
        """A call begins (server)."""

    def response_received(self, record: StreamRecord, headers: Headers) -> None:
        """The first headers of an answer came (client)."""

    def trailers_received(self, record: StreamRecord, headers: Headers) -> None:
        """The last headers came."""

    def data_received(self, record: StreamRecord) -> None:
        """There is more in ``record.inbound``."""

    def stream_ended(self, record: StreamRecord) -> None:
        """The peer sends no more on this stream."""

    def stream_reset(self, record: StreamRecord, code: int, reason: str) -> None:
        """The stream is gone, by the peer's will or its fault."""

    def window_opened(self, record: StreamRecord | None) -> None:
        """More may be sent on this stream, or on all, new ones included."""

    def goaway_received(self, code: int, reason: str) -> None:
        """The peer takes no more calls on this connection."""


class Engine:
    """See the module. ``out`` is what to send next, in order; whoever sends it empties it."""

    __slots__ = (
        "_blocks",
        "_budget",
        "_client",
        "_data",
        "_data_flags",
        "_first_window",
        "_goodbye",
        "_highest",
        "_limits",
        "_next_id",
        "_owner",
        "_peer_window",
        "_pool",
        "_reader",
        "_recent",
        "_sender",
        "_window",
        "busy",
        "draining",
        "fault",
        "got_settings",
        "out",
        "peer_draining",
        "peer_is_ours",
        "peer_max_streams",
        "streams",
    )

    def __init__(self, owner: Owner, limits: Limits, *, client: bool, pool: WindowPool, now: float) -> None:
        self._owner = owner
        self._limits = limits
        self._client = client
        self._pool = pool
        self._budget = FrameBudget(limits, now)
        self.streams: dict[int, StreamRecord] = {}
        self.busy = 0  # handlers alive, as the owner counts them
        self.fault: ConnectionFault | None = None  # how it ended, if by the peer's fault
        self.draining = False
        # what the peer sends
        self._reader = FrameReader(self, max_bytes=limits.max_frame_bytes, preface=not client)
        self._blocks = HeaderBlocks(limits)
        self._data: StreamRecord | None = None  # whose DATA is under way
        self._data_flags = 0
        self._highest = 0  # stream of the peer so far
        self._goodbye: int | None = None  # last stream that a GOAWAY promised to look at
        self._recent: dict[int, State] = {}  # closed streams
        # what it takes
        self._sender = Sender()
        self.out = self._sender.queue
        self._next_id = 1
        self._peer_window = DEFAULT_WINDOW
        self.got_settings = False
        self.peer_draining = False
        self.peer_is_ours = False  # it asks as our servers do, so it may be asked as often
        self.peer_max_streams = 100  # until it says: what RFC 9113, 6.5.2, recommends as the least
        # a server's word is enough for a client: it gets the largest windows at once
        self._first_window = limits.max_stream_window if client else limits.stream_window
        size = limits.max_connection_window if client else limits.connection_window
        self._window = ReceiveWindow(size, limits.max_connection_window, pool)
        self._start(size)

    def __repr__(self) -> str:
        return f"<Engine {'client' if self._client else 'server'} streams={len(self.streams)} fault={self.fault}>"

    def _start(self, window: int) -> None:
        limits = self._limits
        settings = {
            Setting.INITIAL_WINDOW_SIZE: self._first_window,
            Setting.MAX_FRAME_SIZE: limits.max_frame_bytes,
            Setting.MAX_HEADER_LIST_SIZE: limits.max_header_bytes,
        }
        if self._client:
            self.out.append(PREFACE)
            settings[Setting.ENABLE_PUSH] = 0
        else:
            settings[Setting.MAX_CONCURRENT_STREAMS] = limits.max_streams
        self.out.append(frames.settings_frame(settings))
        if window > DEFAULT_WINDOW:  # an update by 0 is an error
            self.out.append(frames.window_frame(0, window - DEFAULT_WINDOW))

    @property
    def header_started(self) -> float | None:
        """When the header block under way began, None between blocks."""
        return self._blocks.started

    # ------------------------------------------------------------------------------------------------- receiving

    def target(self) -> memoryview | None:
        """Return where the next bytes from the peer may go without a copy, or None: then give them to `receive`."""
        return self._reader.target()

    def advance(self, count: int, now: float) -> None:
        """Take note that ``count`` bytes were received into the `target`."""
        self._budget.now = now
        try:
            self._reader.advance(count)
        except ConnectionFault as fault:
            self.break_off(fault)

    def receive(self, view: memoryview, now: float) -> None:
        """Take bytes from the peer; ``view`` may be reused afterwards. After `fault` is set nothing is taken."""
        self._budget.now = now
        if self.fault is None:
            try:
                self._reader.receive(view)
            except ConnectionFault as fault:
                self.break_off(fault)

    def break_off(self, fault: ConnectionFault) -> None:
        """End the connection for ``fault``: the last frame to send is a GOAWAY that says why."""
        if self.fault is None:
            self.fault = fault
            self._say_goodbye(fault.code, fault.reason)

    def _say_goodbye(self, code: ErrorCode, reason: str) -> None:
        if self._goodbye is None:
            self._goodbye = self._highest  # what was said once cannot grow (RFC 9113, section 6.8)
        self.out.append(frames.goaway_frame(self._goodbye, code, reason))

    def take_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        """See `FrameTaker`."""
        self._check_order(kind, flags, stream_id)
        try:
            if kind == WINDOW_UPDATE:
                self._on_window_update(stream_id, payload)
            else:
                _HANDLERS[kind](self, flags, stream_id, bytes(payload))
        except StreamFault as fault:
            self._end_stream_by_fault(fault)

    def take_unknown(self, kind: int, stream_id: int) -> None:
        """See `FrameTaker`."""
        self._check_order(kind, 0, stream_id)
        self._budget.control("frames of unknown types")

    def _check_order(self, kind: int, flags: int, stream_id: int) -> None:
        if not self.got_settings and (kind != SETTINGS or flags & ACK):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "the first frame must be SETTINGS")
        if self._blocks.started is not None and (kind != CONTINUATION or stream_id != self._blocks.stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "expected CONTINUATION")

    # ------------------------------------------------------------------------------------------------- DATA

    def begin_data(self, flags: int, stream_id: int, length: int, content: int) -> Inbound | None:
        """See `FrameTaker`."""
        self._check_order(DATA, 0, stream_id)
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "DATA on stream 0")
        self._window.left -= length
        if self._window.left < 0:
            raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        relief = self._window.relief()
        if relief:
            self.out.append(frames.window_frame(0, relief))
        self._budget.earn(length)
        record = None
        try:
            record = self._receiver(stream_id, length, content)
        except StreamFault as fault:
            self._end_stream_by_fault(fault)
        if content < _SMALL_DATA and not flags & END_STREAM:
            self._pay_for_small_data(record, content)
        self._data, self._data_flags = record, flags
        if record is None:
            self._read(None, length)
            return None
        if length != content:
            self._read(record, length - content)
        return record.inbound

    def data_received(self) -> None:
        """See `FrameTaker`."""
        assert self._data is not None  # who got an `Inbound` is still there
        self._owner.data_received(self._data)

    def end_data(self) -> None:
        """See `FrameTaker`."""
        record, self._data = self._data, None
        if record is not None and self._data_flags & END_STREAM and not record.closed:
            try:
                self._end_remote(record)
            except StreamFault as fault:
                self._end_stream_by_fault(fault)

    def _pay_for_small_data(self, record: StreamRecord | None, content: int) -> None:
        if not content:  # costs no flow control, so it is a control frame
            self._budget.control("empty DATA frames")
        elif not self._client and (record is None or record.inbound.received):
            # a call has one for nothing; a server's stream of small messages is what its client asked for
            self._budget.small("small DATA frames")

    def _receiver(self, stream_id: int, length: int, content: int) -> StreamRecord | None:
        """Return the stream that DATA is for, or None if it is to be ignored. Raises `StreamFault`."""
        record = self.streams.get(stream_id)
        state = record.state if record is not None else self._state_of(stream_id)
        verdict = streams.verdict_on_payload(state)
        if verdict is Verdict.STREAM_CLOSED:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "DATA after the end of the stream")
        if verdict is Verdict.IGNORE or record is None:
            return None
        if self._client and not record.got_headers:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "DATA before the headers")
        record.window.left -= length
        if record.window.left < 0:
            raise StreamFault(stream_id, ErrorCode.FLOW_CONTROL_ERROR, "more DATA than the stream's window")
        if record.expected is not None:
            record.expected -= content
            if record.expected < 0:
                raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, "more DATA than content-length says")
        return record

    def _state_of(self, stream_id: int) -> State:
        """Return the state of a stream that is not open. Raises `ConnectionFault` for one that never was."""
        state = self._recent.get(stream_id)
        if state is not None:
            return state
        if self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"a frame on the idle stream {stream_id}")
        return State.ENDED

    def _is_idle(self, stream_id: int) -> bool:
        if self._client:
            return not stream_id & 1 or stream_id >= self._next_id
        return not stream_id & 1 or stream_id > self._highest

    def read(self, record: StreamRecord) -> None:
        """Tell the peer that what it sent on this stream was read, so that it may send more."""
        count = record.inbound.settle()
        if count:
            self._read(record, count)

    def _read(self, record: StreamRecord | None, count: int) -> None:
        increment = self._window.read(count) or self._window.relief()
        if increment:
            self.out.append(frames.window_frame(0, increment))
        if record is not None and record.remote_open and record.inbound.fault is None:
            increment = record.window.read(count)
            if increment:
                self.out.append(frames.window_frame(record.id, increment))

    # ------------------------------------------------------------------------------------------------- HEADERS

    def _on_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._blocks.begin(flags, stream_id, payload, self._budget.now)
        if block is not None:
            self._on_block(block)

    def _on_continuation(self, flags: int, stream_id: int, payload: bytes) -> None:
        block = self._blocks.go_on(flags, payload)
        if block is not None:
            self._on_block(block)

    def _on_block(self, block: Block) -> None:
        record = self.streams.get(block.stream_id)
        if record is not None:
            self._on_more_headers(record, block)
        elif self._client or block.stream_id <= self._highest:
            self._on_late_headers(block.stream_id)
        else:
            self._on_request(block)

    def _on_late_headers(self, stream_id: int) -> None:
        if self._is_idle(stream_id):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"HEADERS on stream {stream_id}")
        state = self._recent.get(stream_id)
        if state is None:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"stream {stream_id} is older than the last one")
        if streams.verdict_on_payload(state) is Verdict.STREAM_CLOSED:
            raise StreamFault(stream_id, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream")
        self._budget.control("frames on closed streams")

    def _on_request(self, block: Block) -> None:
        stream_id, ends, fields, too_long = block
        if not stream_id & 1:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"the client may not open stream {stream_id}")
        self._highest = stream_id
        limits = self._limits
        if self.draining or self.busy >= limits.max_streams or len(self.streams) >= limits.max_streams:
            raise StreamFault(stream_id, ErrorCode.REFUSED_STREAM, "too many streams")
        if too_long:
            raise StreamFault(stream_id, ErrorCode.ENHANCE_YOUR_CALM, "too many headers")
        fault = headers.malformed_request(fields)
        expected, number = _content_length(fields)
        if fault is None and (not number or (ends and expected)):
            fault = "content-length"
        if fault is not None:
            raise StreamFault(stream_id, ErrorCode.PROTOCOL_ERROR, f"malformed request: {fault}")
        record = self._new_record(stream_id, limits.max_request_bytes)
        record.got_headers = True
        record.expected = expected
        self._owner.request_received(record, fields)
        if ends and not record.closed:
            self._end_remote(record)

    def _on_more_headers(self, record: StreamRecord, block: Block) -> None:
        _, ends, fields, too_long = block
        if not record.remote_open:
            raise StreamFault(record.id, ErrorCode.STREAM_CLOSED, "HEADERS after the end of the stream")
        if too_long:
            raise StreamFault(record.id, ErrorCode.ENHANCE_YOUR_CALM, "too many headers")
        if record.got_headers:
            fault = headers.malformed_trailers(fields) if ends else "headers that do not end the stream"
            if fault is not None:
                raise StreamFault(record.id, ErrorCode.PROTOCOL_ERROR, f"malformed trailers: {fault}")
            self._owner.trailers_received(record, fields)
        else:
            fault = headers.malformed_response(fields)
            if fault is not None:
                raise StreamFault(record.id, ErrorCode.PROTOCOL_ERROR, f"malformed response: {fault}")
            if dict(fields)[":status"].startswith("1"):
                if ends:
                    raise StreamFault(
                        record.id, ErrorCode.PROTOCOL_ERROR, "malformed response: it ends before it begins"
                    )
                self._budget.control("informational responses")
                return
            expected, number = _content_length(fields)
            if not number:
                raise StreamFault(record.id, ErrorCode.PROTOCOL_ERROR, "malformed response: content-length")
            record.got_headers = True
            record.expected = expected
            self._owner.response_received(record, fields)
        if ends:
            self._end_remote(record)

    def _new_record(self, stream_id: int, max_bytes: int) -> StreamRecord:
        window = ReceiveWindow(self._first_window, self._limits.max_stream_window, self._pool, within=self._window)
        record = StreamRecord(stream_id, window=window, out_window=self._peer_window, inbound=Inbound(max_bytes))
        self.streams[stream_id] = record
        return record

    def _end_remote(self, record: StreamRecord) -> None:
        if record.expected:
            raise StreamFault(record.id, ErrorCode.PROTOCOL_ERROR, "less DATA than content-length says")
        record.inbound.end()
        self._move(record, Act.GOT_END)
        self._owner.stream_ended(record)

    def _move(self, record: StreamRecord, act: Act) -> None:
        record.state = streams.after(record.state, act)
        if record.closed and self.streams.pop(record.id, None) is not None:
            record.window.close()
            self._remember(record.id, record.state)

    def _remember(self, stream_id: int, state: State) -> None:
        self._recent[stream_id] = state
        if len(self._recent) > _REMEMBERED:
            del self._recent[next(iter(self._recent))]

    def _end_stream_by_fault(self, fault: StreamFault) -> None:
        self._budget.control("faults")
        self.out.append(frames.reset_frame(fault.stream_id, fault.code))
        record = self.streams.get(fault.stream_id)
        if record is None:
            self._remember(fault.stream_id, self._recent.get(fault.stream_id, State.RESET_BY_US))
            return
        self._move(record, Act.SENT_RESET)
        self._owner.stream_reset(record, fault.code, fault.reason)

    # ------------------------------------------------------------------------------------------------- control

    def _on_priority(self, flags: int, stream_id: int, payload: bytes) -> None:
        self._budget.control("PRIORITY frames")
        if not stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PRIORITY on stream 0")
        # faults of the connection and not of the stream, which may be idle: those cannot be reset
        if len(payload) != 5:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PRIORITY of another size than 5")
        if int.from_bytes(payload[:4], "big") & 0x7FFFFFFF == stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a stream that depends on itself")

    def _on_rst_stream(self, flags: int, stream_id: int, payload: bytes) -> None:
        if not stream_id or len(payload) != 4:
            code = ErrorCode.PROTOCOL_ERROR if not stream_id else ErrorCode.FRAME_SIZE_ERROR
            raise ConnectionFault(code, "RST_STREAM on stream 0, or of another size than 4")
        if self._client:
            self._budget.control("RST_STREAM frames")
        else:
            self._budget.reset()
        record = self.streams.get(stream_id)
        if record is None:
            self._state_of(stream_id)  # an idle stream is a fault
            return
        self._move(record, Act.GOT_RESET)
        number = int.from_bytes(payload, "big")
        self._owner.stream_reset(record, number, f"Stream reset by remote party, error_code: {number}")

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "SETTINGS on a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes")
        self._budget.control("SETTINGS frames", 1 + len(payload) / 60)
        if flags & ACK:
            return
        for key, value in frames.read_settings(payload):
            self._apply_setting(key, value)
        self.out.append(frames.frame(SETTINGS, ACK, 0))
        if not self.got_settings:
            self.got_settings = True
            self._owner.settings_received()
            if self.fault is not None:
                raise self.fault  # the owner turned the peer away: nothing that came with this is looked at

    def _apply_setting(self, key: int, value: int) -> None:
        if key == Setting.INITIAL_WINDOW_SIZE:
            if value > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, f"INITIAL_WINDOW_SIZE {value}")
            self._change_windows(value - self._peer_window)
            self._peer_window = value
        elif key == Setting.MAX_FRAME_SIZE:
            if not DEFAULT_FRAME_BYTES <= value <= MAX_FRAME_BYTES:
                raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"MAX_FRAME_SIZE {value}")
            self._sender.max_bytes = value
        elif key == Setting.MAX_CONCURRENT_STREAMS:
            self.peer_max_streams = value
            self._owner.window_opened(None)
        elif key == Setting.ENABLE_PUSH and (value > 1 or (self._client and value)):
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, f"ENABLE_PUSH {value}")

    def _change_windows(self, delta: int) -> None:
        for record in list(self.streams.values()):
            record.out_window += delta
            if record.out_window > MAX_WINDOW:
                raise ConnectionFault(ErrorCode.FLOW_CONTROL_ERROR, "a window beyond 2^31-1")
        if delta > 0:
            self._owner.window_opened(None)

    def _on_push_promise(self, flags: int, stream_id: int, payload: bytes) -> None:
        raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PUSH_PROMISE is not enabled")

    def _on_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "PING on a stream")
        if len(payload) != 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "PING of another size than 8")
        self._budget.control("PING frames")
        if not flags & ACK:  # an answer says no more than any other bytes: the peer is there
            self.out.append(frames.frame(PING, ACK, 0, payload))
            self.peer_is_ours = self.peer_is_ours or payload == frames.OUR_PING

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ConnectionFault(ErrorCode.PROTOCOL_ERROR, "GOAWAY on a stream")
        if len(payload) < 8:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "GOAWAY of less than 8 bytes")
        self._budget.control("GOAWAY frames")
        last, code = int.from_bytes(payload[:4], "big") & 0x7FFFFFFF, int.from_bytes(payload[4:8], "big")
        reason = payload[8:200].decode("ascii", "replace")
        self.peer_draining = True
        self._owner.goaway_received(code, reason)
        if self._client:
            for record in [record for record in self.streams.values() if record.id > last]:
                self._move(record, Act.GOT_RESET)
                self._owner.stream_reset(record, ErrorCode.REFUSED_STREAM, f"Received GOAWAY frame, error_code: {code}")

    def _on_window_update(self, stream_id: int, payload: memoryview) -> None:
        if len(payload) != 4:
            raise ConnectionFault(ErrorCode.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another size than 4")
        self._budget.small("WINDOW_UPDATE frames")
        increment = int.from_bytes(payload, "big") & 0x7FFFFFFF
        if not stream_id:
            self._sender.window += increment
            if not increment or self._sender.window > MAX_WINDOW:
                code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
                raise ConnectionFault(code, f"WINDOW_UPDATE of {increment}")
            self._owner.window_opened(None)
            return
        record = self.streams.get(stream_id)
        if record is None:
            self._state_of(stream_id)  # an idle stream is a fault; a closed one is not
            return
        record.out_window += increment
        if not increment or record.out_window > MAX_WINDOW:
            code = ErrorCode.FLOW_CONTROL_ERROR if increment else ErrorCode.PROTOCOL_ERROR
            self._end_stream_by_fault(StreamFault(stream_id, code, f"WINDOW_UPDATE of {increment}"))
            return
        self._owner.window_opened(record)

    # ------------------------------------------------------------------------------------------------- sending

    def open(self, fields: Headers, *, end: bool, max_bytes: int) -> StreamRecord:
        """Begin a call (client) and return its stream."""
        stream_id = self._next_id
        self._next_id += 2
        record = self._new_record(stream_id, max_bytes)
        self.send_headers(record, fields, end=end)
        return record

    @property
    def may_open(self) -> bool:
        """Whether the peer takes one more call now (client)."""
        return len(self.streams) < self.peer_max_streams

    @property
    def exhausted(self) -> bool:
        """Whether no more calls can be made on this connection (client)."""
        return self.peer_draining or self.fault is not None or self._next_id > MAX_WINDOW

    def send_headers(self, record: StreamRecord, fields: Headers, *, end: bool = False) -> None:
        """Send headers or trailers."""
        self._sender.headers(record.id, fields, end=end)
        if end:
            self._move(record, Act.SENT_END)

    def sendable(self, record: StreamRecord) -> int:
        """Return how many bytes of DATA the peer takes on this stream now."""
        return self._sender.room(record)

    def send_data(self, record: StreamRecord, outgoing: Outgoing, most: int, *, end: bool) -> list[Piece]:
        """Return frames with as much of ``outgoing`` as the windows and ``most`` bytes allow.

        They belong behind what is in `out`. With ``end`` the one with the last byte ends the stream.
        """
        before = outgoing.left
        pieces = self._sender.data(record, outgoing, most, end=end)
        self._budget.earn(before - outgoing.left)
        if not outgoing.left:
            self._budget.delivered()
            if end:
                self._move(record, Act.SENT_END)
        return pieces

    def send_empty(self, record: StreamRecord, *, end: bool) -> None:
        """Send DATA without a byte, which no window delays; with ``end`` it ends our side of the stream."""
        self.out.append(frames.frame(DATA, END_STREAM if end else 0, record.id))
        if end:
            self._move(record, Act.SENT_END)

    def reset(self, record: StreamRecord, code: ErrorCode) -> None:
        """Give a stream up; does nothing for a closed one."""
        if not record.closed:
            self.out.append(frames.reset_frame(record.id, code))
            self._move(record, Act.SENT_RESET)

    def ping(self, payload: bytes) -> None:
        """Ask whether the peer is there; ``payload`` is 8 bytes."""
        self.out.append(frames.frame(PING, 0, 0, payload))

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR, reason: str = "") -> None:
        """Tell the peer that no new calls are taken; those in flight go on."""
        if self.fault is None:
            self.draining = True
            self._say_goodbye(code, reason)

    def close(self) -> None:
        """Give back what the connection had in common with others: it is gone, and nothing more comes."""
        self._window.close()
        for record in self.streams.values():
            record.window.close()
        if hasattr(self, "_owner"):
            del self._owner, self._reader  # they would keep each other until a garbage collection


def _content_length(fields: Headers) -> tuple[int | None, bool]:
    """Return what content-length says, if anything, and whether it is sound."""
    values = {value for name, value in fields if name == "content-length"}
    if not values:
        return None, True
    value = values.pop()
    if values or not value.isdecimal() or len(value) > 18:
        return None, False
    return int(value), True


_HANDLERS: Final = {
    HEADERS: Engine._on_headers,
    PRIORITY: Engine._on_priority,
    RST_STREAM: Engine._on_rst_stream,
    SETTINGS: Engine._on_settings,
    PUSH_PROMISE: Engine._on_push_promise,
    PING: Engine._on_ping,
    GOAWAY: Engine._on_goaway,
    CONTINUATION: Engine._on_continuation,
}
