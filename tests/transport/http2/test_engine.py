"""The engine, rule by rule: what a peer may do, what ends a stream, what ends the connection, and what it costs."""

from __future__ import annotations

from typing import Any

import pytest
from hpack import Decoder

from openfl_aio.config import Limits
from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.frames import (
    ACK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    GOAWAY,
    HEADERS,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PRIORITY_FLAG,
    PUSH_PROMISE,
    RST_STREAM,
    SETTINGS,
    WINDOW_UPDATE,
    ErrorCode,
    frame,
    reset_frame,
    window_frame,
)
from openfl_aio.transport.http2.outgoing import Outgoing
from openfl_aio.transport.http2.streams import State
from openfl_aio.transport.http2.windows import WindowPool
from tests.transport.http2.recording import REQUEST, RESPONSE, TRAILERS, Recorder, data, head, message, parse, settings

LARGEST = 2**31 - 1
FIELDS = head(1)[9:]  # the block of an ordinary request


def goaway(recorder: Recorder) -> Any:
    """Return the GOAWAY that must be the last frame that was sent."""
    sent = recorder.sent()
    assert recorder.engine.fault is not None
    assert type(sent[-1]).__name__ == "GoAwayFrame"
    assert sent[-1].error_code == recorder.engine.fault.code
    return sent[-1]


def resets(sent: list[Any]) -> list[tuple[int, int]]:
    return [(frame.stream_id, frame.error_code) for frame in sent if type(frame).__name__ == "RstStreamFrame"]


def connected(**options: Any) -> tuple[Recorder, Any]:
    """Return a client with one call, whose request is complete."""
    client = Recorder(client=True, **options)
    record = client.engine.open(REQUEST, end=True, max_bytes=1 << 20)
    client.sent()
    return client, record


# ------------------------------------------------------------------------------------------------------ beginning


def test_a_server_begins_with_what_it_accepts() -> None:
    (first, window) = Recorder(ready=False, limits=Limits()).sent()
    assert first.settings == {3: 100, 4: 65_535, 5: 4 << 20, 6: 16 * 1024}
    assert (window.stream_id, window.window_increment) == (0, (1 << 20) - 65_535)


def test_a_client_begins_with_the_preface_and_wants_no_push() -> None:
    client = Recorder(client=True, ready=False)
    assert client.engine.out[0] == PREFACE

    (first, window) = client.sent()
    assert first.settings == {2: 0, 4: 8 << 20, 5: 4 << 20, 6: 16 * 1024}
    assert (window.stream_id, window.window_increment) == (0, (32 << 20) - 65_535)


@pytest.mark.parametrize("client", [False, True])
def test_the_smallest_window_needs_no_update(client: bool) -> None:
    least = Limits(connection_window=65_535, max_connection_window=65_535)

    assert len(Recorder(client=client, limits=least, ready=False).sent()) == 1, "an update by 0 is an error"


def test_settings_are_acknowledged_once_each_and_the_first_make_it_a_peer() -> None:
    server = Recorder(ready=False)
    server.sent()
    server.feed(PREFACE[:7])
    assert not server.engine.got_settings
    server.feed(PREFACE[7:], settings(max_frame_size=20_000), settings(), frame(SETTINGS, ACK, 0))

    assert server.engine.got_settings
    assert server.told == [("settings",)]
    assert [(type(sent).__name__, sent.flags) for sent in server.sent()] == [("SettingsFrame", {"ACK"})] * 2


@pytest.mark.parametrize(
    "first",
    [
        pytest.param(frame(SETTINGS, ACK, 0), id="acknowledgement"),
        pytest.param(head(1), id="HEADERS"),
        pytest.param(data(1, b"x"), id="DATA"),
        pytest.param(frame(PING, 0, 0, bytes(8)), id="PING"),
        pytest.param(frame(0x99, 0, 0), id="unknown"),
    ],
)
def test_the_first_frame_must_be_settings(first: bytes) -> None:
    server = Recorder(ready=False)
    server.feed(PREFACE, first)

    assert goaway(server).error_code == ErrorCode.PROTOCOL_ERROR


def test_an_owner_may_turn_a_peer_away_and_hears_no_more_of_it() -> None:
    server = Recorder(ready=False)
    refusal = frames.ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "too many of you")
    server.settings_received = lambda: server.engine.break_off(refusal)  # type: ignore[method-assign]
    server.feed(PREFACE, settings(), head(1), frame(PING, 0, 0, bytes(8)))

    assert server.told == []
    assert goaway(server).additional_data == b"too many of you"


def test_a_fault_within_a_large_message_is_told_too() -> None:
    server = Recorder()
    server.feed(head(1), data(1, message(bytes(100_000)), end=True)[:200])
    server.data_received = lambda record: server.engine._budget.control("surprises", 1e9)  # type: ignore[method-assign]
    server.feed(data(1, message(bytes(100_000)), end=True)[200:])

    assert goaway(server).additional_data == b"too many surprises"


def test_only_the_first_fault_counts() -> None:
    server = Recorder()
    server.feed(data(0))
    server.engine.break_off(frames.ConnectionFault(ErrorCode.CANCEL, "another"))

    assert goaway(server).error_code == ErrorCode.PROTOCOL_ERROR


def test_an_engine_says_what_it_is() -> None:
    assert repr(Recorder().engine) == "<Engine server streams=0 fault=None>"
    assert repr(Recorder(client=True).engine) == "<Engine client streams=0 fault=None>"


# ------------------------------------------------------------------------------------------------------ violations

CONNECTION = [
    # what ends a server's connection; stream 1 is open, 3 was never
    ("priority of four bytes", frame(PRIORITY, 0, 1, bytes(4)), "FRAME_SIZE_ERROR"),
    ("priority on itself", frame(PRIORITY, 0, 1, b"\0\0\0\x01\0"), "PROTOCOL_ERROR"),
    ("data on stream 0", data(0, b"x"), "PROTOCOL_ERROR"),
    ("data on an idle stream", data(3, b"x"), "PROTOCOL_ERROR"),
    ("data on an even stream", data(2, b"x"), "PROTOCOL_ERROR"),
    ("data with too much padding", frame(DATA, PADDED, 1, b"\x05abc"), "PROTOCOL_ERROR"),
    ("padded data without a byte", frame(DATA, PADDED, 1), "FRAME_SIZE_ERROR"),
    ("headers on stream 0", head(0), "PROTOCOL_ERROR"),
    ("headers on an even stream", head(4), "PROTOCOL_ERROR"),
    ("headers padded without a byte", frame(HEADERS, PADDED | END_HEADERS, 3), "FRAME_SIZE_ERROR"),
    ("headers with too much padding", frame(HEADERS, PADDED | END_HEADERS, 3, b"\x09" + b"x" * 8), "PROTOCOL_ERROR"),
    ("headers too short for priority", frame(HEADERS, PRIORITY_FLAG | 4, 3, b"abcd"), "FRAME_SIZE_ERROR"),
    ("headers that depend on themselves", frame(HEADERS, PRIORITY_FLAG | 4, 3, b"\0\0\0\x03\0"), "PROTOCOL_ERROR"),
    ("a block that is no HPACK", frame(HEADERS, END_HEADERS, 3, b"\xff\xff\xff"), "COMPRESSION_ERROR"),
    ("headers interrupted by another stream's", head(3, flags=0) + head(5), "PROTOCOL_ERROR"),
    ("headers interrupted by data", head(3, flags=0) + data(1, b"x"), "PROTOCOL_ERROR"),
    ("headers interrupted by the unknown", head(3, flags=0) + frame(0x20, 0, 3), "PROTOCOL_ERROR"),
    ("continuation on another stream", head(3, flags=0) + frame(CONTINUATION, 4, 5), "PROTOCOL_ERROR"),
    ("continuation of nothing", frame(CONTINUATION, END_HEADERS, 1, FIELDS), "PROTOCOL_ERROR"),
    ("continuation after the end", head(3) + frame(CONTINUATION, END_HEADERS, 3, FIELDS), "PROTOCOL_ERROR"),
    ("priority on stream 0", frame(PRIORITY, 0, 0, bytes(5)), "PROTOCOL_ERROR"),
    ("reset of stream 0", reset_frame(0, ErrorCode.CANCEL), "PROTOCOL_ERROR"),
    ("reset of an idle stream", reset_frame(3, ErrorCode.CANCEL), "PROTOCOL_ERROR"),
    ("reset of three bytes", frame(RST_STREAM, 0, 1, b"abc"), "FRAME_SIZE_ERROR"),
    ("reset of five bytes", frame(RST_STREAM, 0, 1, b"abcde"), "FRAME_SIZE_ERROR"),
    ("settings on a stream", frame(SETTINGS, 0, 1), "PROTOCOL_ERROR"),
    ("settings of five bytes", frame(SETTINGS, 0, 0, bytes(5)), "FRAME_SIZE_ERROR"),
    ("an acknowledgement with settings", frame(SETTINGS, ACK, 0, bytes(6)), "FRAME_SIZE_ERROR"),
    ("a window that is too large", settings(initial_window_size=2**31), "FLOW_CONTROL_ERROR"),
    ("frames that are too small", settings(max_frame_size=16_383), "PROTOCOL_ERROR"),
    ("frames that are too large", settings(max_frame_size=2**24), "PROTOCOL_ERROR"),
    ("push that is neither on nor off", settings(enable_push=2), "PROTOCOL_ERROR"),
    ("windows grown too large", window_frame(1, LARGEST - 65_535) + settings(initial_window_size=70_000), "FLOW_CONTROL_ERROR"),
    ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + FIELDS), "PROTOCOL_ERROR"),
    ("ping on a stream", frame(PING, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
    ("ping of seven bytes", frame(PING, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
    ("goaway on a stream", frame(GOAWAY, 0, 1, bytes(8)), "PROTOCOL_ERROR"),
    ("goaway of seven bytes", frame(GOAWAY, 0, 0, bytes(7)), "FRAME_SIZE_ERROR"),
    ("window update of three bytes", frame(WINDOW_UPDATE, 0, 1, b"abc"), "FRAME_SIZE_ERROR"),
    ("window update by nothing", window_frame(0, 0), "PROTOCOL_ERROR"),
    ("the connection's window too large", window_frame(0, LARGEST - 65_534), "FLOW_CONTROL_ERROR"),
    ("window update of an idle stream", window_frame(3, 1), "PROTOCOL_ERROR"),
    ("a frame larger than agreed", frame(DATA, 0, 1, bytes((4 << 20) + 1)), "FRAME_SIZE_ERROR"),
    ("control of 64 KiB", frame(PING, 0, 0, bytes(65_537)), "ENHANCE_YOUR_CALM"),
]  # fmt: skip

STREAM = [
    # what ends stream 1 or 3 and nothing else
    ("window update by nothing", window_frame(1, 0), (1, "PROTOCOL_ERROR")),
    ("window that is too large", window_frame(1, LARGEST - 65_534), (1, "FLOW_CONTROL_ERROR")),
    ("more than the stream's window", data(1, bytes(256 * 1024 + 1)), (1, "FLOW_CONTROL_ERROR")),
    ("more headers that end nothing", head(1, TRAILERS), (1, "PROTOCOL_ERROR")),
    ("trailers with a path", head(1, [(":path", "/")], end=True), (1, "PROTOCOL_ERROR")),
    ("a request without a path", head(3, REQUEST[:2]), (3, "PROTOCOL_ERROR")),
    ("a request with a status", head(3, [*REQUEST[:3], (":status", "200")]), (3, "PROTOCOL_ERROR")),
    ("a length that is no number", head(3, [*REQUEST, ("content-length", "x")]), (3, "PROTOCOL_ERROR")),
    ("two lengths", head(3, [*REQUEST, ("content-length", "1"), ("content-length", "2")]), (3, "PROTOCOL_ERROR")),
    ("an enormous length", head(3, [*REQUEST, ("content-length", "9" * 19)]), (3, "PROTOCOL_ERROR")),
    ("a negative length", head(3, [*REQUEST, ("content-length", "-1")]), (3, "PROTOCOL_ERROR")),
    ("a length and no data", head(3, [*REQUEST, ("content-length", "1")], end=True), (3, "PROTOCOL_ERROR")),
    ("more data than the length", head(3, [*REQUEST, ("content-length", "2")]) + data(3, b"abc"), (3, "PROTOCOL_ERROR")),
    ("less data", head(3, [*REQUEST, ("content-length", "9")]) + data(3, b"abc", end=True), (3, "PROTOCOL_ERROR")),
    ("data after the end", head(3, end=True) + data(3, b"x"), (3, "STREAM_CLOSED")),
    ("headers after the end", head(3, end=True) + head(3, TRAILERS, end=True), (3, "STREAM_CLOSED")),
    ("data after its reset", reset_frame(1, ErrorCode.CANCEL) + data(1, b"x"), (1, "STREAM_CLOSED")),
    ("headers after its reset", reset_frame(1, ErrorCode.CANCEL) + head(1), (1, "STREAM_CLOSED")),
]  # fmt: skip


@pytest.mark.parametrize(("what", "code"), [pytest.param(what, code, id=name) for name, what, code in CONNECTION])
def test_a_violation_ends_the_connection(what: bytes, code: str) -> None:
    server = Recorder()
    server.feed(head(1))
    server.sent()
    server.feed(what)

    assert goaway(server).error_code == ErrorCode[code]
    told = len(server.told)
    server.engine.receive(memoryview(head(99)), 0.0)
    assert server.sent() == []
    assert len(server.told) == told, "nothing is taken after a fault"


@pytest.mark.parametrize(("what", "end"), [pytest.param(what, end, id=name) for name, what, end in STREAM])
def test_a_violation_ends_one_stream(what: bytes, end: tuple[int, str]) -> None:
    stream_id, code = end
    server = Recorder()
    server.feed(head(1))
    server.sent()
    server.feed(what)

    assert resets(server.sent()) == [(stream_id, ErrorCode[code])]
    assert server.engine.fault is None
    assert stream_id not in server.engine.streams
    # what was sent before the reset arrived is ignored, and the connection goes on
    server.feed(
        data(stream_id, b"late"), frame(WINDOW_UPDATE, 0, stream_id, b"\0\0\0\x01"), head(5), data(5, message(b"x"))
    )
    assert ("request", 5, REQUEST) in server.told
    assert server.bodies[5] == [b"x"]


ALLOWED = [
    ("priority of any stream", frame(PRIORITY, 0, 77, b"\0\0\0\x01\x10")),
    ("headers with priority", frame(HEADERS, PRIORITY_FLAG | END_HEADERS, 3, b"\0\0\0\x01\x10" + FIELDS)),
    ("headers with padding", frame(HEADERS, PADDED | END_HEADERS, 3, b"\x03" + FIELDS + bytes(3))),
    ("headers with all", frame(HEADERS, PADDED | 0x24, 3, b"\x03\0\0\0\x01\x10" + FIELDS + bytes(3))),
    ("headers in pieces", frame(HEADERS, 0, 3, FIELDS[:3]) + frame(9, 0, 3) + frame(9, 4, 3, FIELDS[3:])),
    ("headers with unknown flags", frame(HEADERS, END_HEADERS | 0xD2, 3, FIELDS)),
    ("an unknown frame", frame(0xF0, 0xFF, 12, b"whatever")),
    ("a large unknown frame", frame(0xF0, 0xFF, 12, bytes(3 << 20))),
    ("an unknown setting", frame(SETTINGS, 0, 0, b"\x0f\x0f\xff\xff\xff\xff")),
    ("settings of all kinds", settings(header_table_size=0, enable_push=0, max_header_list_size=1, max_frame_size=16_384)),
    ("a window update of a closed stream", reset_frame(1, ErrorCode.CANCEL) + window_frame(1, 5)),
    ("a reset of a closed stream", reset_frame(1, ErrorCode.CANCEL) * 2),
    ("the reserved bits", frame(WINDOW_UPDATE, 0, 1 << 31 | 1, b"\x80\0\0\x01")),
    ("the largest window", window_frame(1, LARGEST - 65_535)),
    ("a goodbye", frame(GOAWAY, 0, 0, bytes(8) + b"bye")),
    ("an acknowledgement", frame(PING, ACK, 0, bytes(8))),
    ("the connection's largest window", window_frame(0, LARGEST - 65_535)),
    ("trailers", head(1, [("x", "y")], end=True)),
    ("data with padding alone", frame(DATA, PADDED, 1, b"\x02\0\0")),
    ("the largest payload", head(3) + frame(DATA, 0, 3, message(bytes(200_000)))),
]  # fmt: skip


@pytest.mark.parametrize("what", [pytest.param(what, id=name) for name, what in ALLOWED])
def test_what_is_allowed_ends_nothing(what: bytes) -> None:
    server = Recorder()
    server.feed(head(1))
    server.feed(what)

    assert server.engine.fault is None
    assert resets(server.sent()) == []


def test_a_ping_comes_back_as_it_was() -> None:
    server = Recorder()
    server.feed(frame(PING, 0, 0, b"12345678"), frame(PING, ACK, 0, bytes(8)))

    (answer,) = server.sent()
    assert (answer.flags, answer.opaque_data) == ({"ACK"}, b"12345678")
    assert server.told == [("pong",)]
    server.engine.ping(b"abcdefgh")
    (question,) = server.sent()
    assert (question.flags, question.opaque_data) == (set(), b"abcdefgh")


# ------------------------------------------------------------------------------------------------------ calls


def test_a_call_is_told_from_beginning_to_end() -> None:
    server = Recorder()
    server.feed(head(1), data(1, message(b"one") + message(b"two")), data(1, message(b"three"), end=True))
    assert server.told == [("request", 1, REQUEST), ("ended", 1)]
    assert server.bodies[1] == [b"one", b"two", b"three"]

    record = server.engine.streams[1]
    assert not record.remote_open
    server.engine.send_headers(record, RESPONSE)
    pieces = server.engine.send_data(record, Outgoing([message(b"answer")]), 1 << 20, end=False)
    server.engine.out.append(b"".join(pieces))
    server.engine.send_headers(record, TRAILERS, end=True)
    first, body, last = server.sent()
    decoder: Any = Decoder()
    assert decoder.decode(first.data) == RESPONSE
    assert body.data == message(b"answer")
    assert decoder.decode(last.data) == TRAILERS
    assert last.flags == {"END_HEADERS", "END_STREAM"}
    assert record.closed
    assert server.engine.streams == {}


def test_a_client_hears_its_answer_from_beginning_to_end() -> None:
    client, record = connected()
    client.feed(head(1, RESPONSE), data(1, message(b"answer")), head(1, TRAILERS, end=True))

    assert client.told == [("response", 1, RESPONSE), ("trailers", 1, TRAILERS), ("ended", 1)]
    assert client.bodies[1] == [b"answer"]
    assert record.state is State.ENDED


def test_an_answer_of_trailers_alone_is_a_response_that_ends() -> None:
    client, record = connected()
    client.feed(head(1, RESPONSE + TRAILERS, end=True))

    assert client.names() == ["response", "ended"]
    assert record.closed


def test_informational_responses_are_skipped() -> None:
    client, _ = connected()
    client.feed(head(1, [(":status", "103")]) * 3, head(1, RESPONSE))

    assert client.told == [("response", 1, RESPONSE)]


def test_a_request_with_trailers_is_complete() -> None:
    server = Recorder()
    server.feed(head(1), head(1, [("x", "y")], end=True))

    assert server.told == [("request", 1, REQUEST), ("trailers", 1, [("x", "y")]), ("ended", 1)]


def test_a_request_that_its_owner_resets_at_once_is_told_no_end() -> None:
    server = Recorder()
    refuse = lambda record, fields: server.engine.reset(record, ErrorCode.CANCEL)  # noqa: E731
    server.request_received = refuse  # type: ignore[method-assign]
    server.feed(head(1, end=True))

    assert server.told == []
    assert resets(server.sent()) == [(1, ErrorCode.CANCEL)]


def test_a_stream_that_is_reset_within_a_frame_hears_no_more() -> None:
    server = Recorder(reading=False)
    server.feed(head(1), data(1, message(bytes(1000)), end=True)[:500])
    record = server.engine.streams[1]
    server.engine.reset(record, ErrorCode.CANCEL)
    server.engine.reset(record, ErrorCode.CANCEL)
    server.feed(data(1, message(bytes(1000)), end=True)[500:])

    assert server.names() == ["request"]
    assert resets(server.sent()) == [(1, ErrorCode.CANCEL)]
    assert record.state is State.RESET_BY_US


def test_a_reset_is_told_with_its_code() -> None:
    server = Recorder()
    server.feed(head(1), reset_frame(1, ErrorCode.CANCEL))

    assert server.told[-1] == ("reset", 1, ErrorCode.CANCEL)
    assert server.engine.streams == {}


def test_late_headers_on_a_stream_that_we_reset_are_paid_for_and_ignored() -> None:
    server = Recorder(limits=Limits(control_burst=3, control_rate=0.001))
    server.feed(head(1))
    server.engine.reset(server.engine.streams[1], ErrorCode.CANCEL)
    server.feed(head(1, TRAILERS, end=True) * 2)
    assert server.engine.fault is None
    server.feed(head(1, TRAILERS, end=True))

    assert goaway(server).error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_headers_of_a_stream_that_was_skipped_or_forgotten_are_a_violation() -> None:
    server = Recorder()
    server.feed(head(5), head(3))

    assert goaway(server).error_code == ErrorCode.PROTOCOL_ERROR
    server = Recorder(limits=Limits(reset_burst=1000))
    server.feed(*(head(number) + reset_frame(number, ErrorCode.CANCEL) for number in range(1, 600, 2)))
    assert server.engine.fault is None
    assert len(server.engine._recent) <= 256
    server.feed(data(1, b"x"))  # so long ago that nobody knows how it ended: closed
    assert resets(server.sent()) == [(1, ErrorCode.STREAM_CLOSED)]
    server.feed(head(3))
    assert goaway(server).error_code == ErrorCode.PROTOCOL_ERROR


def test_a_client_takes_only_what_answers_its_calls() -> None:
    for what in (head(2, RESPONSE), head(3, RESPONSE), data(3, b"x"), window_frame(3, 1), settings(enable_push=1)):
        client, _ = connected()
        client.feed(what)
        assert goaway(client).error_code == ErrorCode.PROTOCOL_ERROR


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(data(1, b"x"), id="data before the headers"),
        pytest.param(head(1, [("grpc-status", "0")]), id="no status"),
        pytest.param(head(1, [*RESPONSE, ("connection", "close")]), id="a connection's own field"),
        pytest.param(head(1, [*RESPONSE, ("content-length", "1")], end=True), id="a length and no data"),
        pytest.param(head(1, [*RESPONSE, ("content-length", "x")]), id="a length that is no number"),
        pytest.param(head(1, [(":status", "100")], end=True), id="informational and no more"),
    ],
)
def test_a_malformed_answer_ends_its_call(what: bytes) -> None:
    client, _ = connected()
    client.feed(what)

    assert resets(client.sent()) == [(1, ErrorCode.PROTOCOL_ERROR)]
    assert client.told[-1] == ("reset", 1, ErrorCode.PROTOCOL_ERROR)
    client.feed(data(1, b"late"), head(1, TRAILERS, end=True))
    assert client.engine.fault is None


# ------------------------------------------------------------------------------------------------------ flow control


def test_data_on_a_dead_stream_opens_the_connection_again() -> None:
    server = Recorder(limits=Limits(connection_window=512 * 1024, max_connection_window=512 * 1024))
    server.feed(head(1))
    server.engine.reset(server.engine.streams[1], ErrorCode.CANCEL)
    server.sent()
    server.feed(*(data(1, bytes(10_000)) for _ in range(200)))

    updates = server.sent()
    assert server.engine.fault is None
    assert {update.stream_id for update in updates} == {0}
    assert sum(update.window_increment for update in updates) >= 200 * 10_000 - 256 * 1024


def test_padding_is_given_back_at_once() -> None:
    server = Recorder(reading=False, limits=Limits(max_stream_window=256 * 1024, connection_window=512 * 1024))
    server.feed(head(1), *(frame(DATA, PADDED, 1, b"\xff" + bytes(300 + 255)) for _ in range(860)))

    assert server.engine.fault is None, "the stream's window is for content alone"
    assert any(sent.stream_id == 1 for sent in server.sent())


def test_more_than_the_connections_window_is_a_violation() -> None:
    server = Recorder(reading=False, limits=Limits(connection_window=65_535, stream_window=100_000))
    server.feed(head(1), data(1, bytes(65_535)))
    assert server.engine.fault is None
    server.feed(data(1, b"x"))

    assert goaway(server).error_code == ErrorCode.FLOW_CONTROL_ERROR


def test_what_is_not_read_opens_no_window_and_what_is_read_opens_it() -> None:
    server = Recorder(reading=False)
    server.feed(head(1), data(1, message(bytes(200_000))))
    assert server.sent() == []

    server.read(server.engine.streams[1])
    assert {sent.stream_id for sent in server.sent()} == {1}
    server.feed(data(1, message(bytes(200_000))))
    server.read(server.engine.streams[1])
    assert {sent.stream_id for sent in server.sent()} >= {0}


@pytest.mark.parametrize("first", ["read", "parked"])
def test_a_stream_that_is_read_goes_on_whatever_others_keep(first: str) -> None:
    limits = Limits(stream_window=65_535, connection_window=100_000, max_connection_window=100_000)
    server = Recorder(limits=limits, reading=False)
    server.feed(head(1), head(3))
    read, parked = data(1, message(bytes(10_000))), data(3, bytes(65_000))
    server.feed(*([read, parked] if first == "read" else [parked, read]))
    for _ in range(30):  # there is always room for the next one
        server.read(server.engine.streams[1])
        server.feed(read)

    assert server.engine.fault is None
    assert len(server.bodies[1]) == 30


def test_a_stream_with_a_fault_gets_no_more_window() -> None:
    server = Recorder()
    server.feed(head(1), data(1, b"\x01" + bytes(200_000)))

    assert all(sent.stream_id == 0 for sent in server.sent())


def test_windows_bound_what_is_sent_and_more_of_them_is_told() -> None:
    server = Recorder()
    server.feed(settings(initial_window_size=10), head(1), head(3))
    one, three = server.engine.streams[1], server.engine.streams[3]
    outgoing = Outgoing([bytes(100_000)])
    assert server.engine.sendable(one) == 10
    assert sum(map(len, server.engine.send_data(one, outgoing, 1 << 20, end=False))) == 9 + 10
    assert server.engine.send_data(one, outgoing, 1 << 20, end=False) == []

    server.told.clear()
    server.feed(window_frame(1, 50))
    assert server.told == [("window", 1)]
    assert server.engine.sendable(one) == 50
    server.feed(settings(initial_window_size=0))
    assert server.told == [("window", 1)], "a smaller window is no news"
    assert server.engine.sendable(one) == 40
    assert server.engine.sendable(three) == 0
    server.feed(settings(initial_window_size=1 << 20))
    assert server.engine.sendable(three) == 65_535 - 10, "now the connection's is the smallest"
    server.feed(window_frame(0, 1 << 20))
    assert server.told == [("window", 1), ("window", None), ("window", None)]
    assert server.engine.sendable(three) == 1 << 20


def test_a_window_below_zero_takes_nothing() -> None:
    server = Recorder()
    server.feed(head(1))
    record = server.engine.streams[1]
    server.engine.send_data(record, Outgoing([bytes(1000)]), 1 << 20, end=False)
    server.feed(settings(initial_window_size=500))

    assert record.out_window == -500
    assert server.engine.sendable(record) == 0
    assert server.engine.send_data(record, Outgoing([b"x"]), 1 << 20, end=True) == []
    assert not record.closed


@pytest.mark.parametrize("end", [False, True])
@pytest.mark.parametrize("parts", [[bytes(40_000)], [b"a" * 5, b"b" * 39_995], [b"x"] * 40_000])
def test_data_is_cut_into_frames_of_the_peers_size_and_the_last_one_ends(parts: list[bytes], end: bool) -> None:
    server = Recorder()
    server.feed(head(1))
    record = server.engine.streams[1]
    sent = parse(b"".join(server.engine.send_data(record, Outgoing(parts), 1 << 20, end=end)))

    assert [len(frame.data) for frame in sent] == [16_384, 16_384, 40_000 - 32_768]
    assert b"".join(frame.data for frame in sent) == b"".join(parts)
    assert [bool(frame.flags) for frame in sent] == [False, False, end]
    assert record.local_open is not end


@pytest.mark.parametrize("end", [False, True])
def test_an_empty_frame_needs_no_window(end: bool) -> None:
    server = Recorder()
    server.feed(settings(initial_window_size=0), head(1))
    server.sent()
    record = server.engine.streams[1]
    server.engine.send_empty(record, end=end)

    (sent,) = server.sent()
    assert (sent.data, bool(sent.flags), record.local_open) == (b"", end, not end)


def test_long_headers_are_cut_into_frames_of_the_peers_size() -> None:
    server = Recorder()
    server.feed(head(1))
    fields = [*RESPONSE, ("x", "\x00" * 50_000)]  # thirteen bits a character: no shorter than it is
    server.engine.send_headers(server.engine.streams[1], fields, end=True)

    sent = server.sent()
    assert [type(frame).__name__ for frame in sent] == ["HeadersFrame"] + ["ContinuationFrame"] * (len(sent) - 1)
    assert len(sent) >= 3
    assert all(len(frame.data) <= 16_384 for frame in sent)
    assert ["END_HEADERS" in frame.flags for frame in sent] == [False] * (len(sent) - 1) + [True]
    assert "END_STREAM" in sent[0].flags
    decoder: Any = Decoder(max_header_list_size=1 << 20)
    assert decoder.decode(b"".join(frame.data for frame in sent)) == fields


# ------------------------------------------------------------------------------------------------------ clients


def test_a_client_opens_streams_in_order_and_as_many_as_the_server_takes() -> None:
    client = Recorder(client=True)
    client.feed(settings(max_concurrent_streams=2))
    ids = []
    while client.engine.may_open:
        ids.append(client.engine.open(REQUEST, end=False, max_bytes=10).id)
    assert ids == [1, 3]

    client.engine.reset(client.engine.streams[1], ErrorCode.CANCEL)
    assert client.engine.may_open
    assert not client.engine.exhausted
    client.engine._next_id = LARGEST + 2
    assert client.engine.exhausted


def test_until_a_server_says_how_many_calls_it_takes_there_are_a_hundred() -> None:
    client = Recorder(client=True)
    for _ in range(100):
        assert client.engine.may_open
        client.engine.open(REQUEST, end=True, max_bytes=10)
    assert not client.engine.may_open


def test_a_client_is_done_with_a_server_that_says_goodbye_and_may_repeat_what_it_did_not_look_at() -> None:
    client = Recorder(client=True)
    records = [client.engine.open(REQUEST, end=True, max_bytes=10) for _ in range(3)]
    client.feed(frames.goaway_frame(3, ErrorCode.NO_ERROR, "moving"))

    assert client.told == [("goaway", 0, "moving"), ("reset", 5, ErrorCode.REFUSED_STREAM)]
    assert client.engine.exhausted
    assert [record.closed for record in records] == [False, False, True]
    client.feed(head(3, RESPONSE + TRAILERS, end=True))
    assert client.told[-1] == ("ended", 3)


def test_a_fault_exhausts_a_connection() -> None:
    client, _ = connected()
    client.feed(data(0))

    assert client.engine.exhausted
    assert "PROTOCOL_ERROR" not in repr(client.engine)
    client.engine.go_away()
    assert goaway(client).error_code == ErrorCode.PROTOCOL_ERROR, "nothing comes after the last word"


# ------------------------------------------------------------------------------------------------------ draining


def test_a_server_that_drains_refuses_what_begins_and_goes_on_with_the_rest() -> None:
    server = Recorder()
    server.feed(head(1))
    server.engine.go_away(ErrorCode.NO_ERROR, "restarting")
    server.feed(head(3), data(1, message(b"x"), end=True))

    sent = server.sent()
    assert (sent[0].last_stream_id, sent[0].error_code, sent[0].additional_data) == (1, 0, b"restarting")
    assert resets(sent) == [(3, ErrorCode.REFUSED_STREAM)]
    assert server.told == [("request", 1, REQUEST), ("ended", 1)]
    server.feed(data(0))
    assert goaway(server).last_stream_id == 1, "what was said before cannot grow"


# ------------------------------------------------------------------------------------------------------ budgets

SLOW = 0.001  # a second: nothing to speak of comes back
TIGHT = Limits(
    stream_window=256 * 1024,
    connection_window=512 * 1024,
    control_burst=10,
    control_rate=SLOW,
    small_frame_burst=10,
    small_frame_rate=SLOW,
    reset_burst=10,
    reset_rate=SLOW,
)

# every frame that is cheap to send: what comes first, then what is sent, and how many may be
CHEAP = [
    ("PING", b"", frame(PING, 0, 0, bytes(8)), 9),
    ("PING acknowledged", b"", frame(PING, ACK, 0, bytes(8)), 9),
    ("PRIORITY", b"", frame(PRIORITY, 0, 9, bytes(5)), 9),
    ("SETTINGS", b"", settings(), 9),
    ("SETTINGS acknowledged", b"", frame(SETTINGS, ACK, 0), 9),
    ("SETTINGS of ten", b"", frame(SETTINGS, 0, 0, b"\0\x01\0\0\0\0" * 10), 4),
    ("GOAWAY", b"", frame(GOAWAY, 0, 0, bytes(8)), 9),
    ("unknown", b"", frame(0x77, 0, 0), 9),
    ("empty DATA", head(1), data(1), 9),
    ("padding alone", head(1), frame(DATA, PADDED, 1, b"\xff" + bytes(255)), 9),
    ("faults", head(1) + reset_frame(1, ErrorCode.CANCEL), data(1, bytes(500)), 9),
    ("small DATA", head(1), data(1, message(b"x")), 11),
    ("WINDOW_UPDATE", b"", window_frame(0, 1), 10),
    ("WINDOW_UPDATE of a stream", head(1), window_frame(1, 1), 10),
    ("WINDOW_UPDATE of a closed stream", head(1) + reset_frame(1, ErrorCode.CANCEL), window_frame(1, 1), 10),
    ("RST_STREAM", head(1), reset_frame(1, ErrorCode.CANCEL), 10),
]


@pytest.mark.parametrize(
    ("first", "cheap", "count"), [pytest.param(first, cheap, count, id=name) for name, first, cheap, count in CHEAP]
)
def test_so_many_and_no_more(first: bytes, cheap: bytes, count: int) -> None:
    server = Recorder(limits=TIGHT)  # its SETTINGS cost one of control
    server.feed(first, cheap * count)
    assert server.engine.fault is None
    server.feed(cheap)

    assert goaway(server).error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert server.engine.fault is not None
    assert server.engine.fault.reason.startswith("too many ")


def test_time_earns_more() -> None:
    server = Recorder(limits=Limits(control_burst=10, control_rate=5))
    server.feed(frame(PING, 0, 0, bytes(8)) * 9)
    server.feed(frame(PING, 0, 0, bytes(8)) * 5, now=1.0)
    assert server.engine.fault is None
    server.feed(frame(PING, 0, 0, bytes(8)), now=1.0)
    assert server.engine.fault is not None


@pytest.mark.parametrize("sending", [False, True])
def test_traffic_earns_more(sending: bool) -> None:
    server = Recorder(limits=TIGHT)
    server.feed(head(1), frame(PING, 0, 0, bytes(8)) * 9)
    if sending:
        server.engine.send_data(server.engine.streams[1], Outgoing([bytes(65_535)]), 1 << 20, end=False)
        server.engine.send_headers(server.engine.streams[1], RESPONSE)
        server.feed(window_frame(0, 1000) + window_frame(1, 1000))
        server.engine.send_data(server.engine.streams[1], Outgoing([b"x"]), 1 << 20, end=False)
    else:
        server.feed(data(1, message(bytes(65_531))))
    server.feed(frame(PING, 0, 0, bytes(8)))
    assert server.engine.fault is None
    server.feed(frame(PING, 0, 0, bytes(8)))

    assert server.engine.fault is not None


def test_answers_earn_the_window_updates_that_stock_clients_send_after_each() -> None:
    server = Recorder(limits=TIGHT)
    for number in range(1, 2001, 2):
        server.feed(head(number, end=True))
        record = server.engine.streams[number]
        server.engine.send_headers(record, RESPONSE)
        server.engine.send_data(record, Outgoing([message(b"x")]), 1 << 20, end=False)
        server.engine.send_headers(record, TRAILERS, end=True)
        server.feed(window_frame(0, 6), window_frame(number, 6))
    assert server.engine.fault is None


def test_small_messages_of_a_server_are_what_its_client_asked_for() -> None:
    client, _ = connected(limits=TIGHT)
    client.feed(head(1, RESPONSE), data(1, message(b"x")) * 100)

    assert client.engine.fault is None
    assert len(client.bodies[1]) == 100


def test_informational_responses_are_paid_for() -> None:
    client, _ = connected(limits=TIGHT)
    client.feed(head(1, [(":status", "100")]) * 9)
    assert client.engine.fault is None
    client.feed(head(1, [(":status", "100")]))

    assert goaway(client).error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_streams_beyond_the_limit_are_refused_and_handlers_that_are_still_busy_count() -> None:
    server = Recorder(limits=Limits(max_streams=3))
    server.feed(*(head(number) for number in (1, 3, 5)))
    assert resets(server.sent()) == []
    server.feed(head(7))
    assert resets(server.sent()) == [(7, ErrorCode.REFUSED_STREAM)]

    server.engine.busy = 3
    server.feed(*(reset_frame(number, ErrorCode.CANCEL) for number in (1, 3, 5)), head(9))
    assert resets(server.sent()) == [(9, ErrorCode.REFUSED_STREAM)]
    server.engine.busy = 2
    server.feed(head(11))
    assert resets(server.sent()) == []


def sized(size: int) -> list[tuple[str, str]]:
    """Return a request whose list of headers counts ``size`` bytes."""
    rest = size - sum(len(name) + len(value) + 32 for name, value in REQUEST) - 33
    return [*REQUEST, ("x", "a" * rest)]


@pytest.mark.parametrize("client", [False, True])
def test_headers_beyond_the_limit_end_their_call(client: bool) -> None:
    limits = Limits(max_header_bytes=2000)
    if client:
        recorder, _ = connected(limits=limits)
        recorder.feed(head(1, [*RESPONSE, ("x", "a" * 2000)]))
        assert resets(recorder.sent()) == [(1, ErrorCode.ENHANCE_YOUR_CALM)]
        return
    recorder = Recorder(limits=limits)
    recorder.feed(head(1, sized(2000)))
    assert resets(recorder.sent()) == []
    recorder.feed(head(3, sized(2001)))
    assert resets(recorder.sent()) == [(3, ErrorCode.ENHANCE_YOUR_CALM)]
    recorder.feed(head(5, sized(8000)))
    assert recorder.engine.fault is None
    recorder.feed(head(7, sized(8001)))
    assert goaway(recorder).error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_block_longer_than_its_headers_may_be_is_not_gathered() -> None:
    server = Recorder(limits=Limits(max_header_bytes=1000))
    server.feed(frame(HEADERS, 0, 1, bytes(4000)))
    assert server.engine.fault is None
    server.feed(frame(CONTINUATION, 0, 1, b"x"))

    assert goaway(server).error_code == ErrorCode.ENHANCE_YOUR_CALM
    server = Recorder(limits=Limits(max_header_bytes=1000))
    server.feed(frame(HEADERS, END_HEADERS, 1, bytes(4001)))
    assert goaway(server).error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_a_block_has_so_many_continuations_and_no_more() -> None:
    server = Recorder(limits=Limits(max_continuations=5))
    server.feed(head(1, flags=0), frame(CONTINUATION, 0, 1) * 4, frame(CONTINUATION, END_HEADERS, 1))
    assert server.told == [("request", 1, REQUEST)]
    server.feed(head(3, flags=0), frame(CONTINUATION, 0, 3) * 5)
    assert server.engine.fault is None
    server.feed(frame(CONTINUATION, END_HEADERS, 3))

    assert goaway(server).error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_when_a_block_began_is_known_until_it_is_complete() -> None:
    server = Recorder()
    assert server.engine.header_started is None
    server.feed(head(1, flags=0), now=7.0)
    assert server.engine.header_started == 7.0
    server.feed(frame(CONTINUATION, 0, 1), now=8.0)
    assert server.engine.header_started == 7.0
    server.feed(frame(CONTINUATION, END_HEADERS, 1), now=9.0)
    assert server.engine.header_started is None


def test_windows_of_all_streams_share_one_pool_and_give_it_back() -> None:
    pool = WindowPool(300 * 1024)
    server = Recorder(
        pool=pool, limits=Limits(stream_window=65_535, connection_window=1 << 20, max_connection_window=1 << 20)
    )
    for number in range(1, 20, 2):
        server.feed(head(number), *(data(number, message(bytes(30_000))) for _ in range(20)))
        server.sent()
    assert pool.left < 150 * 1024
    assert server.engine.fault is None
    for number in range(1, 20, 2):
        server.feed(reset_frame(number, ErrorCode.CANCEL))

    assert pool.left == 300 * 1024


def test_a_connection_that_is_gone_gives_back_its_windows_and_takes_none_again() -> None:
    pool = WindowPool(1 << 20)
    server = Recorder(pool=pool, limits=Limits(stream_window=65_535, connection_window=200_000))
    server.feed(head(1), *(data(1, message(bytes(30_000))) for _ in range(20)))
    assert pool.left < 1 << 20
    server.reading = False
    server.feed(data(1, message(bytes(60_000))))
    server.engine.close()
    assert pool.left == 1 << 20

    server.read(server.engine.streams[1])  # whoever reads lets go of the stream later than the connection
    server.engine.close()
    assert pool.left == 1 << 20


def test_a_servers_reset_costs_a_client_control() -> None:
    client, _ = connected(limits=TIGHT)
    client.feed(reset_frame(1, ErrorCode.REFUSED_STREAM))
    assert client.told == [("reset", 1, ErrorCode.REFUSED_STREAM)]
    client.feed(reset_frame(1, ErrorCode.REFUSED_STREAM) * 8)
    assert client.engine.fault is None
    client.feed(reset_frame(1, ErrorCode.REFUSED_STREAM))

    assert goaway(client).error_code == ErrorCode.ENHANCE_YOUR_CALM
