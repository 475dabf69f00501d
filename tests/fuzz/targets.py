"""What is fuzzed, and what must hold whatever the bytes: a documented error or progress, within bounded memory."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, Final

from openfl_aio.config import Limits
from openfl_aio.errors import RemoteProtocolError
from openfl_aio.transport.codec import read_chunk, read_part
from openfl_aio.transport.http2.engine import Engine
from openfl_aio.transport.http2.frames import PREFACE, ConnectionFault, ErrorCode, settings_frame
from openfl_aio.transport.http2.headers import HeaderDecoder, Headers
from openfl_aio.transport.http2.messages import BufferPool, Fault, Inbound
from openfl_aio.transport.http2.outgoing import Outgoing
from openfl_aio.transport.http2.reader import FrameReader
from openfl_aio.transport.http2.streams import StreamRecord
from openfl_aio.transport.http2.windows import WindowPool
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.incremental import TaskResultsDecoder
from openfl_aio.wire.messages import DataStream, ModelProto, NamedTensor, aggregator, director, v1

__all__ = ["TARGETS", "Target"]

Target = Callable[[bytes], None]

LIMITS: Final = Limits(max_request_bytes=300_000, max_message_bytes=1 << 20, max_upload_bytes=1 << 20, max_tensors=50)
REQUEST: Final[Headers] = [(":method", "POST"), (":scheme", "http"), (":path", "/s/m"), ("te", "trailers")]
OUT_BYTES: Final = 256 * 1024  # of answers to whatever comes while nothing is sent
MESSAGES: Final = (
    DataStream,
    NamedTensor,
    ModelProto,
    aggregator.TaskResults,
    aggregator.GetTasksRequest,
    aggregator.GetTasksResponse,
    aggregator.GetAggregatedTensorRequest,
    director.ExperimentInfo,
    director.UpdateShardInfoRequest,
    director.GetMetricStreamResponse,
)


def pieces(data: bytes, pattern: int) -> list[bytes]:
    """Cut ``data`` as ``pattern`` says: whole, byte by byte, or in pieces of some size."""
    size = max((len(data) or 1, 1, 2, 7, 9, 10, 64, 1000)[pattern % 8], len(data) // 2000)
    return [data[start : start + size] for start in range(0, len(data), size)]


class Owner:
    """Owner of an engine that answers, reads, resets or does nothing, as the bits of ``manner`` say."""

    engine: Engine

    def __init__(self, manner: int) -> None:
        self.reads, self.answers, self.resets, self.hesitates = (bool(manner >> bit & 1) for bit in range(4))

    def settings_received(self) -> None:
        pass

    def request_received(self, record: StreamRecord, headers: Headers) -> None:
        assert headers
        if self.resets and record.id % 4 == 3:
            self.engine.reset(record, ErrorCode.CANCEL)
        elif self.answers:
            self.engine.send_headers(record, [(":status", "200")])
            if self.engine.sendable(record) > 5:
                self.engine.out += map(bytes, self.engine.send_data(record, Outgoing([b"\0\0\0\0\0"]), 99, end=False))

    def response_received(self, record: StreamRecord, headers: Headers) -> None:
        assert headers[0][0] == ":status"

    def trailers_received(self, record: StreamRecord, headers: Headers) -> None:
        pass

    def data_received(self, record: StreamRecord) -> None:
        if self.reads:
            while record.inbound.take() is not None:
                record.inbound.release()
            self.engine.read(record)

    def stream_ended(self, record: StreamRecord) -> None:
        assert not record.remote_open
        if self.answers and record.local_open and not self.hesitates:
            if self.engine.sendable(record) < 0:
                raise AssertionError("a window below zero")
            self.engine.send_headers(record, [("grpc-status", "0")], end=True)

    def stream_reset(self, record: StreamRecord, code: int, reason: str) -> None:
        assert record.closed
        assert reason

    def window_opened(self, record: StreamRecord | None) -> None:
        pass

    def goaway_received(self, code: int, reason: str) -> None:
        assert len(reason) <= 200


def _check_kept(engine: Engine, pool: WindowPool) -> None:
    """What an engine keeps is no more than its windows, its header block and its remembered streams."""
    limits = LIMITS
    for record in engine.streams.values():
        assert not record.closed
        assert record.inbound.unread <= record.window.size <= max(limits.max_stream_window, limits.stream_window)
    assert len(engine.streams) <= limits.max_streams
    assert len(engine._recent) <= 256
    assert len(engine._blocks._block) <= 4 * limits.max_header_bytes
    assert len(engine._reader._partial) <= 64 * 1024 + 9
    assert sum(map(len, engine.out)) <= OUT_BYTES
    assert 0 <= pool.left <= limits.window_pool_bytes


def _run_engine(data: bytes, *, client: bool) -> None:
    if len(data) < 2:
        return
    pattern, manner, data = data[0], data[1], data[2:]
    pool = WindowPool(LIMITS.window_pool_bytes)
    owner = Owner(manner)
    engine = owner.engine = Engine(owner, LIMITS, client=client, pool=pool, now=0.0)
    begin = b"" if manner & 0x80 else (b"" if client else PREFACE) + settings_frame({})
    engine.receive(memoryview(begin), 0.0)
    if client:
        for end in (True, False):
            engine.open(REQUEST, end=end, max_bytes=300_000)
    for piece in pieces(data, pattern):
        position = 0
        while position < len(piece) and engine.fault is None:
            target = engine.target()
            if target is None:
                engine.receive(memoryview(bytearray(piece[position:])), 0.0)
                break
            count = min(len(target), len(piece) - position)
            target[:count] = piece[position : position + count]
            engine.advance(count, 0.0)
            position += count
        _check_kept(engine, pool)
        if engine.fault is not None:
            assert engine.fault.reason
            assert engine.out[-1][3] == 7, "the last word is a GOAWAY"
            break
    engine.close()
    assert pool.left == LIMITS.window_pool_bytes


def server(data: bytes) -> None:
    """The engine of a server."""
    _run_engine(data, client=False)


def client(data: bytes) -> None:
    """The engine of a client with two calls."""
    _run_engine(data, client=True)


class _Taker:
    def __init__(self) -> None:
        self.told: list[Any] = []
        self.inbound = Inbound(100_000)

    def take_frame(self, kind: int, flags: int, stream_id: int, payload: memoryview) -> None:
        self.told.append((kind, flags, stream_id, bytes(payload)))

    def begin_data(self, flags: int, stream_id: int, length: int, content: int) -> Inbound | None:
        assert 0 <= content <= length
        self.told.append((0, flags, stream_id, length, content))
        return self.inbound if stream_id & 1 else None

    def data_received(self) -> None:
        pass

    def end_data(self) -> None:
        self.told.append("end")

    def take_unknown(self, kind: int, stream_id: int) -> None:
        self.told.append((kind, stream_id))


def reader(data: bytes) -> None:
    """Frames: whole and in pieces they are the same."""
    if not data:
        return
    outcomes = []
    for pattern in (0, data[0]):
        taker = _Taker()
        frames, fault = FrameReader(taker, max_bytes=1 << 20, preface=False), None
        try:
            for piece in pieces(data[1:], pattern):
                frames.receive(memoryview(bytearray(piece)))
        except ConnectionFault as caught:
            fault = (caught.code, caught.reason)
        outcomes.append((taker.told, taker.inbound.received, taker.inbound.fault, fault))
    assert outcomes[0] == outcomes[1]


def inbound(data: bytes) -> None:
    """Messages: whole and in pieces, read early and late, from pools and not, they are the same."""
    if not data:
        return
    outcomes = []
    for pattern, early in ((0, False), (data[0], True)):
        stream, messages = Inbound(200_000), []
        stream.pool = BufferPool(1 << 20) if early else None
        for piece in pieces(data[1:], pattern):
            stream.feed(memoryview(bytearray(piece)))
            while early and (message := stream.take()) is not None:
                messages.append(bytes(message))
                stream.release()
        stream.end()
        while (message := stream.take()) is not None:
            messages.append(bytes(message))
            stream.release()
        assert stream.fault in (None, *Fault)
        assert stream.settle() == len(data) - 1
        outcomes.append((messages, stream.fault, stream.fault_bytes))
    assert outcomes[0] == outcomes[1]


def headers(data: bytes) -> None:
    """Header blocks, several on one connection: a list within its bound, or a fault that ends the connection."""
    decoder = HeaderDecoder(4000)
    for block in data.split(b"\xfe\xfe"):
        fault = None
        try:
            fields, size = decoder.decode(block)
        except ConnectionFault as caught:
            fault = caught.code
        if fault is not None:
            assert fault in (ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM)
            return
        assert size == sum(len(name) + len(value) + 32 for name, value in fields) <= 4000
        assert len(decoder._cache) <= 32


def codec(data: bytes) -> None:
    """Messages of OpenFL: an error of the peer's, or a message that is the same after another round."""
    if not data:
        return
    kind: Any = MESSAGES[data[0] % len(MESSAGES)]
    try:
        message = decode(kind, data[1:], limits=LIMITS)
    except RemoteProtocolError:
        try:
            decode(kind, data[1:], views=True, limits=LIMITS)
        except RemoteProtocolError:
            return
        raise AssertionError("views make it good") from None
    again = encode(message)
    assert encode(decode(kind, again)) == again
    assert encode(decode(kind, data[1:], views=True)) == again


def chunk(data: bytes) -> None:
    """The short cut for chunks says what the codec says."""
    try:
        found = read_chunk(data)
    except RemoteProtocolError:
        found = None
    else:
        if found is None:
            return
    try:
        meant = decode(DataStream, data)
    except RemoteProtocolError:
        assert found is None, "the codec refuses what the short cut takes"
        return
    assert found is not None, "the codec takes what the short cut refuses"
    assert (found.size, bytes(found.npbytes)) == (meant.size, bytes(meant.npbytes))


def part(data: bytes) -> None:
    """The short cut for pieces of a tensor takes nothing that the codec refuses or reads otherwise."""
    try:
        found = read_part(data)
    except RemoteProtocolError:
        with contextlib.suppress(RemoteProtocolError):
            decode(v1.TensorPart, data)
            raise AssertionError("the codec takes what the short cut refuses") from None
        return
    if found is not None:
        meant = decode(v1.TensorPart, data)
        assert (meant.header, meant.tensor, meant.nbytes) == (None, None, 0)
        assert bytes(found.data) == bytes(meant.data)


def incremental(data: bytes) -> None:
    """Uploads: whole and in pieces they are the same, and the codec would take them too."""
    if not data:
        return
    outcomes: list[Any] = []
    for pattern in (0, data[0]):
        decoder = TaskResultsDecoder(limits=LIMITS)
        try:
            for piece in pieces(data[1:], pattern):
                decoder.feed(piece)
            outcomes.append(decoder.finish())
        except RemoteProtocolError as error:
            outcomes.append(type(error))
    whole, cut = outcomes
    assert isinstance(whole, type) == isinstance(cut, type)
    if isinstance(whole, type):
        return
    assert repr(whole) == repr(cut)  # NaN is not equal to itself
    for record in whole.tensors:
        assert 0 <= record.offset <= record.offset + record.nbytes <= len(data) - 1


TARGETS: Final[dict[str, Target]] = {
    target.__name__: target for target in (server, client, reader, inbound, headers, codec, chunk, part, incremental)
}
