"""The engine beside h2: each as the other's peer, and both as judges of the same frames, sound and mutated.

Where the two judge differently the reason is written down below; anything else is a failure.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, TypeAlias
from unittest.mock import patch

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from openfl_aio.config import Limits
from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.engine import Engine
from openfl_aio.transport.http2.frames import PREFACE, ErrorCode, StreamFault
from openfl_aio.transport.http2.headers import Headers
from openfl_aio.transport.http2.outgoing import Outgoing
from tests.transport.http2.recording import RESPONSE, TRAILERS, Recorder, data, head, message, parse, settings

REQUEST: Headers = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/s/m"),
    (":authority", "h"),
    ("te", "trailers"),
]
# the limits of h2, and no budgets
SAME = Limits(
    stream_window=65_535,
    max_stream_window=65_535,
    connection_window=65_535,
    max_connection_window=65_535,
    max_frame_bytes=16_384,
    max_header_bytes=65_536,
    control_burst=10**6,
    small_frame_burst=10**6,
    reset_burst=10**6,
)


def oracle(*, client: bool) -> Any:
    config = h2.config.H2Configuration(client_side=client, header_encoding="latin-1")
    return h2.connection.H2Connection(config)


# ------------------------------------------------------------------------------------------------------ as peers


class Heard:
    """What an h2 connection was told, in the words of `Recorder`."""

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.told: list[tuple[Any, ...]] = []
        self.data: dict[int, bytes] = {}

    def feed(self, received: bytes) -> None:
        for event in self.connection.receive_data(received):
            match event:
                case h2.events.RequestReceived():
                    self.told.append(("request", event.stream_id, list(map(tuple, event.headers))))
                case h2.events.ResponseReceived():
                    self.told.append(("response", event.stream_id, list(map(tuple, event.headers))))
                case h2.events.TrailersReceived():
                    self.told.append(("trailers", event.stream_id, list(map(tuple, event.headers))))
                case h2.events.DataReceived():
                    self.data[event.stream_id] = self.data.get(event.stream_id, b"") + event.data
                    self.connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
                case h2.events.StreamEnded():
                    self.told.append(("ended", event.stream_id))
                case h2.events.StreamReset():
                    self.told.append(("reset", event.stream_id, int(event.error_code)))
                case h2.events.PingAckReceived():
                    self.told.append(("pong",))


class Talk:
    """An h2 connection and an engine that talk, with bytes cut anywhere; both sides' words are kept."""

    def __init__(self, seed: int, *, h2_client: bool) -> None:
        self.chance = random.Random(seed)
        self.h2 = Heard(oracle(client=h2_client))
        self.h2.connection.initiate_connection()
        self.ours = Recorder(client=not h2_client, ready=False)
        self.h2_is_client = h2_client
        self.meant: dict[tuple[str, int], list[bytes]] = {}
        self.pending: dict[tuple[str, int], bytes | Outgoing] = {}
        self.exchange()
        self.ours.told.clear()
        self.h2.told.clear()

    def exchange(self) -> None:
        """Carry what is to be carried, until there is no more."""
        for _ in range(100):
            to_ours = self.h2.connection.data_to_send()
            to_h2 = b"".join(self.ours.engine.out)
            self.ours.engine.out.clear()
            if not to_ours and not to_h2:
                return
            while to_ours:
                count = self.chance.choice([1, 9, 20, 5000, 1 << 20])
                self.ours.feed(to_ours[:count])
                to_ours = to_ours[count:]
            assert self.ours.engine.fault is None
            self.h2.feed(to_h2)
        raise AssertionError("they never stop talking")

    def words(self, who: Any, *kinds: str) -> list[tuple[Any, ...]]:
        return [what for what in who.told if what[0] in kinds]

    def body(self) -> bytes:
        size = self.chance.choice([0, 1, 100, 255, 16_384, 65_531, 65_536, 200_000, self.chance.randrange(100_000)])
        return self.chance.randbytes(size)

    def h2_sends(self, stream_id: int, content: bytes, *, end: bool) -> None:
        """Send ``content`` through h2, waiting for windows, here and there with padding."""
        connection = self.h2.connection
        while content:
            room = min(connection.local_flow_control_window(stream_id), connection.max_outbound_frame_size)
            if not room:
                self.exchange()
                assert connection.local_flow_control_window(stream_id), "nothing opens the window"
                continue
            padding = self.chance.choice([None, None, None, 0, 3, 255])
            if padding is not None and room <= padding + 1:
                padding = None
            size = min(len(content), room - (0 if padding is None else padding + 1))
            size = self.chance.choice([size, size, max(1, size // 2)])
            last = end and size == len(content)
            connection.send_data(stream_id, content[:size], pad_length=padding, end_stream=last)
            content = content[size:]

    def we_send(self, stream_id: int, content: bytes, *, end: bool) -> None:
        engine = self.ours.engine
        record, outgoing = engine.streams[stream_id], Outgoing([content])
        while outgoing.left:
            pieces = engine.send_data(record, outgoing, self.chance.choice([100, 20_000, 1 << 20]), end=end)
            if pieces:
                engine.out.append(b"".join(pieces))
            if not pieces or self.chance.random() < 0.3:
                self.exchange()
                assert not outgoing.left or engine.sendable(record), "nothing opens the window"


@pytest.mark.parametrize("seed", range(12))
def test_a_client_of_h2_is_understood_and_understands(seed: int) -> None:
    talk = Talk(seed, h2_client=True)
    chance = talk.chance
    expected: list[tuple[Any, ...]] = []
    answers: list[tuple[Any, ...]] = []
    for number in range(8):
        stream_id, connection = 2 * number + 1, talk.h2.connection
        fields = [*REQUEST, ("x", str(number)), ("grpc-timeout", "5S")]
        bodies = [talk.body() for _ in range(chance.randrange(4))]
        way = chance.choice(["end", "end", "trailers", "reset"])
        connection.send_headers(stream_id, fields, end_stream=not bodies and way == "end")
        expected.append(("request", stream_id, fields))
        for index, body in enumerate(bodies):
            talk.h2_sends(stream_id, message(body), end=way == "end" and index == len(bodies) - 1)
        if way == "trailers":
            connection.send_headers(stream_id, [("x-last", "1")], end_stream=True)
            expected.append(("trailers", stream_id, [("x-last", "1")]))
        if way == "reset":
            connection.reset_stream(stream_id, h2.errors.ErrorCodes.CANCEL)
            expected.append(("reset", stream_id, 8))
        else:
            expected.append(("ended", stream_id))
        talk.exchange()
        assert talk.ours.bodies.get(stream_id, []) == bodies
        if way != "reset":
            record = talk.ours.engine.streams[stream_id]
            answer = talk.body()
            talk.ours.engine.send_headers(record, RESPONSE)
            talk.we_send(stream_id, message(answer), end=False)
            talk.ours.engine.send_headers(record, TRAILERS, end=True)
            talk.exchange()
            assert talk.h2.data[stream_id] == message(answer)
            answers += [("response", stream_id, RESPONSE), ("trailers", stream_id, TRAILERS), ("ended", stream_id)]
    connection.ping(b"12345678")
    talk.exchange()

    assert talk.words(talk.ours, "request", "trailers", "ended", "reset") == expected
    assert talk.words(talk.h2, "response", "trailers", "ended", "reset") == answers
    assert talk.h2.told[-1] == ("pong",)
    assert talk.ours.engine.streams == {}


@pytest.mark.parametrize("seed", range(12))
def test_a_server_of_h2_is_understood_and_understands(seed: int) -> None:
    talk = Talk(seed, h2_client=False)
    chance, connection = talk.chance, talk.h2.connection
    asked: list[tuple[Any, ...]] = []
    expected: list[tuple[Any, ...]] = []
    for number in range(8):
        bodies = [talk.body() for _ in range(chance.randrange(3))]
        fields = [*REQUEST, ("x", str(number))]
        record = talk.ours.engine.open(fields, end=not bodies, max_bytes=1 << 20)
        asked.append(("request", record.id, fields))
        for index, body in enumerate(bodies):
            talk.we_send(record.id, message(body), end=index == len(bodies) - 1)
        asked.append(("ended", record.id))
        talk.exchange()
        assert talk.h2.data.get(record.id, b"") == b"".join(map(message, bodies))

        way = chance.choice(["answer", "informed", "trailers only", "reset"])
        if way == "reset":
            connection.reset_stream(record.id, h2.errors.ErrorCodes.REFUSED_STREAM)
            expected.append(("reset", record.id, 7))
        elif way == "trailers only":
            connection.send_headers(record.id, RESPONSE + TRAILERS, end_stream=True)
            expected += [("response", record.id, RESPONSE + TRAILERS), ("ended", record.id)]
        else:
            if way == "informed":
                connection.send_headers(record.id, [(":status", "103")])
            answers = [talk.body() for _ in range(chance.randrange(4))]
            connection.send_headers(record.id, RESPONSE)
            for answer in answers:
                talk.h2_sends(record.id, message(answer), end=False)
            connection.send_headers(record.id, TRAILERS, end_stream=True)
            talk.exchange()
            assert talk.ours.bodies.get(record.id, []) == answers
            expected += [("response", record.id, RESPONSE), ("trailers", record.id, TRAILERS), ("ended", record.id)]
        talk.exchange()
    connection.close_connection()
    talk.exchange()

    assert talk.words(talk.h2, "request", "ended") == asked
    assert talk.words(talk.ours, "response", "trailers", "ended", "reset") == expected
    assert talk.ours.told[-1] == ("goaway", 0, "")
    assert talk.ours.engine.streams == {}


# ------------------------------------------------------------------------------------------------------ as judges

Reasons: TypeAlias = list[tuple[int | None, str, str]]
BASE = REQUEST[:4]
REQUESTS: list[Headers] = [
    REQUEST,
    REQUEST,
    REQUEST,
    BASE,
    REQUEST[:3],
    REQUEST[:2],
    [*REQUEST, ("content-length", "3")],
    [*REQUEST, ("content-length", "x")],
    [*REQUEST, ("Upper", "x")],
    [*REQUEST, ("connection", "close")],
    [*REQUEST, ("x", " y")],
    [*REQUEST, ("x", "a\x00")],
    [*BASE, ("te", "gzip")],
    [REQUEST[4], *BASE],
    [*BASE, (":status", "200")],
    [*REQUEST, ("", "x")],
    [*REQUEST, ("host", "h")],
    [*REQUEST, ("host", "other")],
    [(":method", "CONNECT"), (":authority", "x")],
    TRAILERS,
    [],
]
RESPONSES: list[Headers] = [
    RESPONSE,
    RESPONSE,
    RESPONSE,
    RESPONSE + TRAILERS,
    TRAILERS,
    [(":status", "100")],
    [(":status", "x")],
    [*RESPONSE, ("content-length", "3")],
    [*RESPONSE, ("content-length", "x")],
    [*RESPONSE, (":path", "/")],
    [*RESPONSE, ("Upper", "x")],
    [*RESPONSE, ("connection", "x")],
    [],
]


def some_headers(chance: random.Random, stream_id: int, choice: list[Headers]) -> bytes:
    whole = head(stream_id, chance.choice(choice), end=chance.random() < 0.4)
    if chance.random() < 0.75:
        return whole
    flags = chance.choice([0, 4, 0x24, 0x0C, 0x2C, 0xD6]) | chance.choice([0, 1])
    before = bytes([chance.choice([0, 1, 3, 200])]) if flags & 8 else b""
    after = bytes(before[0]) if before and before[0] < 50 else b""
    if flags & 0x20:
        before += chance.choice([b"\0\0\0\0\x10", stream_id.to_bytes(4, "big") + b"\0", b"\0\0"])
    return frames.frame(1, flags, stream_id, before + whole[9:] + after)


def some_data(chance: random.Random, stream_id: int, choice: list[Headers]) -> bytes:
    if chance.random() < 0.2:
        padded = chance.choice([b"", b"\0", b"\x03", b"\x02abc", b"\xff" + bytes(300)])
        return frames.frame(0, 8 | chance.choice([0, 1]), stream_id, padded)
    content = chance.choice([b"", b"abc", message(b"x"), bytes(20_000), bytes(16_384), bytes(300)])
    return data(stream_id, content, end=chance.random() < 0.3)


def some_settings(chance: random.Random, stream_id: int, choice: list[Headers]) -> bytes:
    return chance.choice(
        [
            settings(initial_window_size=0),
            settings(initial_window_size=2**31),
            settings(max_frame_size=3),
            settings(enable_push=chance.choice([0, 1, 2])),
            settings(max_concurrent_streams=0, header_table_size=0, max_header_list_size=0),
            frames.frame(4, 1, 0),
            frames.frame(4, 1, 0, bytes(6)),
            frames.frame(4, 0, 1),
            frames.frame(4, 0, 0, bytes(5)),
        ]
    )


def some_control(chance: random.Random, stream_id: int, choice: list[Headers]) -> bytes:
    own = stream_id.to_bytes(4, "big")
    kind, payloads = chance.choice(
        [
            (3, [b"\0\0\0\x08", b"\0\0\0\xff", b"abc"]),
            (8, [b"\0\0\0\x01", b"\0\0\0\0", b"\x7f\xff\xff\xff", b"\x80\0\0\x05", b"ab"]),
            (2, [bytes(5), own + b"\0", bytes(4)]),
            (9, [b"", head(1)[9:]]),
            (5, [b"\0\0\0\x02" + head(1, REQUEST)[9:]]),
            (99, [b"", bytes(300)]),
        ]
    )
    return frames.frame(kind, chance.choice([0, 0, 4, 0xFF]), stream_id, chance.choice(payloads))


def some_connection(chance: random.Random, stream_id: int, choice: list[Headers]) -> bytes:
    kind = chance.choice([6, 6, 7])
    return frames.frame(kind, chance.choice([0, 0, 1]), chance.choice([0, 0, 0, 1]), bytes(chance.choice([8, 8, 7])))


KINDS: list[Callable[[random.Random, int, list[Headers]], bytes]] = [
    some_headers,
    some_headers,
    some_headers,
    some_data,
    some_data,
    some_control,
    some_settings,
    some_connection,
]


def some_frame(chance: random.Random, choice: list[Headers]) -> bytes:
    stream_id = chance.choice([1, 1, 1, 3, 3, 5, 7, 0, 2, 9])
    made = chance.choice(KINDS)(chance, stream_id, choice)
    if chance.random() < 0.2:
        mutated = bytearray(made)
        place = chance.randrange(3, len(mutated))  # its length stays as it is, so that both see the same frames
        mutated[place] = chance.choice([mutated[place] ^ (1 << chance.randrange(8)), chance.randrange(256)])
        made = bytes(mutated)
    return made


def judged_by_h2(connection: Any, frame: bytes) -> str:
    """Return what h2 has against a frame, or nothing."""
    try:
        connection.receive_data(frame)
    except h2.exceptions.ProtocolError as error:
        return str(error) or type(error).__name__
    resets = [sent for sent in parse(connection.data_to_send()) if type(sent).__name__ == "RstStreamFrame"]
    return f"reset {resets[0].error_code}" if resets else ""


def judged_by_us(recorder: Recorder, frame: bytes) -> str:
    """Return what the engine has against a frame, or nothing."""
    said: list[str] = []
    end_stream = Engine._end_stream_by_fault

    def listen(engine: Engine, fault: StreamFault) -> None:
        said.append(fault.reason)
        end_stream(engine, fault)

    with patch.object(Engine, "_end_stream_by_fault", listen):
        recorder.feed(frame)
    resets = [sent for sent in recorder.sent() if type(sent).__name__ == "RstStreamFrame"]
    assert len(resets) == len(said)
    return recorder.engine.fault.reason if recorder.engine.fault is not None else "".join(said)


LAXER: Reasons = [
    # frame type (None: any), what h2 says, why we do not
    (1, "does not have an :authority", "a SHOULD (8.3.1); a gRPC server that has no virtual hosts needs no name"),
    (1, "mismatched :authority", "a SHOULD (8.3.1); nothing here looks at Host"),
    (1, ":authority", "a SHOULD (8.3.1)"),
    (8, "Received frame with non-compliant data", "the reserved bit of the increment is ignored (6.9)"),
    (10, "FrameDataMissingError", "ALTSVC is an extension that we do not know (5.5)"),
    (10, "Frame data missing or invalid", "the same"),
    (None, "in state ConnectionState.CLOSED", "whoever said GOAWAY may still send what it began (6.8)"),
]
STRICTER: Reasons = [
    # frame type, what we say, why h2 does not
    (3, "a frame on the idle stream", "h2 takes RST_STREAM for a stream that never was; the RFC does not (6.4)"),
    (5, "PUSH_PROMISE is not enabled", "h2 takes a promise while our word that push is off is on its way"),
    (1, "no ':scheme'", "h2 takes CONNECT, which gRPC has not (8.5)"),
    (
        1,
        "less DATA than content-length says",
        "h2 compares lengths when there is DATA, and not when there is none (8.1.1)",
    ),
    (1, "malformed request: content-length", "the same"),
    (1, "field name", "h2 takes names with characters that are in no token (8.2.1)"),
    (1, "value of field", "h2 takes any byte above 127; here values are ASCII, as gRPC says"),
    (1, "a stream that depends on itself", "h2 looks at that when the header block is complete, we at its first frame"),
    (1, "HEADERS too short for their priority", "hyperframe reads priority out of the padding (6.2)"),
]


def excused(table: Reasons, frame: bytes, said: str) -> bool:
    return any((kind is None or frame[3] == kind) and words in said for kind, words, _ in table)


def compare(chance: random.Random, *, client: bool, steps: int = 12) -> None:
    """Show the same frames to h2 and to us until one of the two has something against one of them."""
    judge, ours = oracle(client=client), Recorder(client=client, limits=SAME, reading=False)
    judge.initiate_connection()
    if client:
        for number, end in ((1, True), (3, False)):
            judge.send_headers(number, REQUEST, end_stream=end)
            ours.engine.open(REQUEST, end=end, max_bytes=1 << 20)
        ours.sent()
    judge.receive_data((b"" if client else PREFACE) + settings())
    judge.data_to_send()
    for _ in range(steps):
        frame = some_frame(chance, RESPONSES if client else REQUESTS)
        theirs, mine = judged_by_h2(judge, frame), judged_by_us(ours, frame)
        if theirs and not mine:
            assert excused(LAXER, frame, theirs), f"h2 refuses {frame[:60].hex()}: {theirs}"
        if mine and not theirs:
            assert excused(STRICTER, frame, mine), f"we refuse {frame[:60].hex()}: {mine}"
        if mine or theirs:
            return


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
@hypothesis_settings(deadline=None, max_examples=300)
@given(chance=st.randoms(use_true_random=False))
def test_what_h2_refuses_we_refuse_and_nothing_else(client: bool, chance: random.Random) -> None:
    compare(chance, client=client)


@pytest.mark.parametrize("client", [False, True], ids=["server", "client"])
def test_many_more_frames_are_judged_alike(client: bool) -> None:
    for seed in range(1500):
        compare(random.Random(seed), client=client)


def test_the_codes_are_those_of_h2() -> None:
    assert {code.name: code.value for code in ErrorCode} == {code.name: code.value for code in h2.errors.ErrorCodes}
