"""Our channel against servers that get it wrong, break off, or say that they are busy.

After every case the next call succeeds, on the same connection or on a new one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import anyio
import anyio.lowlevel
import pytest

from openfl_aio.config import Limits
from openfl_aio.errors import (
    AuthenticationError,
    AuthorizationError,
    ConnectionLostError,
    MessageTooLargeError,
    NotFoundError,
    OpenFLAioError,
    RemoteProtocolError,
)
from tests.transport.http2.conformance.scripted import (
    HEAD,
    OK,
    SECONDS,
    Connection,
    answer,
    calling,
    outcome,
)
from tests.transport.http2.conformance.wire import (
    END_HEADERS,
    PADDED,
    Code,
    Kind,
    Setting,
    block,
    continuation,
    data,
    frame,
    goaway,
    headers,
    message,
    padded,
    ping,
    reset,
    settings,
    window_update,
)

pytestmark = pytest.mark.real_time

HALF: Final = message(b"\x10\x07")[:4]


@dataclass(frozen=True)
class Case:
    """What the server sends instead of an answer on stream 1, and what becomes of the call.

    ``code``: of the client's GOAWAY, or of its RST_STREAM if ``stream``; ``close``: the server breaks off afterwards.
    """

    name: str
    octets: bytes
    errors: tuple[type[OpenFLAioError] | None, ...]
    code: Code | None = None
    stream: bool = False
    close: bool = False

    @property
    def expected(self) -> tuple[type[OpenFLAioError], ...]:
        """The classes without None."""
        return tuple(error for error in self.errors if error is not None)

    async def script(self, connection: Connection) -> None:
        """Send it."""
        await connection.start()
        await connection.request()
        connection.send(self.octets)
        if self.close:
            connection.close()


LOST = (ConnectionLostError,)
REMOTE = (RemoteProtocolError,)
BROKEN = (ConnectionLostError, RemoteProtocolError)
FINE = (None,)


def violation(name: str, octets: bytes, code: Code) -> Case:
    """Return a case of a connection that the client must end with GOAWAY."""
    return Case(name, octets, BROKEN, code=code)


def malformed(name: str, octets: bytes) -> Case:
    """Return a case of an answer that is none: the call fails, the client resets the stream."""
    return Case(name, octets, BROKEN, code=Code.PROTOCOL_ERROR, stream=True)


def head(*fields: tuple[str, str], end: bool = False) -> bytes:
    """Return HEADERS on stream 1."""
    return headers(1, block(fields), end=end)


# gRPC's negative tests for clients
BREAKS = [
    Case("grpc-reset-after-headers", headers(1, HEAD) + reset(1), BROKEN),
    Case("grpc-reset-during-data", headers(1, HEAD) + data(1, HALF) + reset(1), BROKEN),
    Case("grpc-reset-after-data", headers(1, HEAD) + data(1, message()) + reset(1), BROKEN),
    Case("grpc-reset-at-once", reset(1, Code.INTERNAL_ERROR), BROKEN),
    Case("grpc-reset-refused", reset(1, Code.REFUSED_STREAM), (ConnectionLostError, None)),
    Case("grpc-reset-calm-down", reset(1, Code.ENHANCE_YOUR_CALM), (*BROKEN, MessageTooLargeError)),
    Case("grpc-reset-unknown-code", reset(1, 0xDEAD), BROKEN),
    Case("grpc-reset-without-error-after-the-answer", answer(1) + reset(1, Code.NO_ERROR), FINE),
    Case("grpc-goaway-after-the-answer", answer(1) + goaway(1), FINE),
    Case("grpc-goaway-before-the-answer", goaway(1) + answer(1), FINE),
    Case("grpc-goaway-that-does-not-cover-the-call", goaway(0), (ConnectionLostError, None)),
    Case("grpc-goaway-with-an-error", goaway(0, Code.INTERNAL_ERROR), LOST, close=True),
    Case("9113-7-goaway-with-an-unknown-code", goaway(0, 0xDEAD, b"line\nforged line"), LOST, close=True),
    Case("grpc-end-after-the-request", b"", LOST, close=True),
    Case("grpc-end-after-headers", headers(1, HEAD), LOST, close=True),
    Case("grpc-end-within-headers", headers(1, HEAD)[:15], LOST, close=True),
    Case("grpc-end-within-data", headers(1, HEAD) + data(1, HALF)[:11], LOST, close=True),
    Case("grpc-end-after-data", headers(1, HEAD) + data(1, message()), LOST, close=True),
    Case("grpc-end-after-the-answer", answer(1), FINE, close=True),
]

VIOLATIONS = [
    violation("9113-6.1-data-on-stream-0", data(0), Code.PROTOCOL_ERROR),
    violation(
        "9113-6.1-padding-longer-than-data",
        headers(1, HEAD) + data(1, padded(b"", 0, claimed=9), flags=PADDED),
        Code.PROTOCOL_ERROR,
    ),
    violation("9113-5.1.1-headers-on-an-idle-stream", headers(3, HEAD), Code.PROTOCOL_ERROR),
    violation("9113-5.1.1-headers-on-an-even-stream", headers(2, HEAD), Code.PROTOCOL_ERROR),
    violation("9113-5.1-data-on-an-idle-stream", data(5, message()), Code.PROTOCOL_ERROR),
    violation("9113-5.1-reset-of-an-idle-stream", reset(7), Code.PROTOCOL_ERROR),
    violation("9113-5.1-window-for-an-idle-stream", window_update(9, 1), Code.PROTOCOL_ERROR),
    violation("9113-6.2-headers-on-stream-0", headers(0, HEAD), Code.PROTOCOL_ERROR),
    violation("9113-6.4-reset-of-3-bytes", frame(Kind.RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
    violation("9113-6.5-settings-of-5-bytes", frame(Kind.SETTINGS, 0, 0, bytes(5)), Code.FRAME_SIZE_ERROR),
    violation("9113-6.5-settings-on-a-stream", frame(Kind.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
    violation("9113-6.5.2-window-too-large", settings((Setting.INITIAL_WINDOW_SIZE, 2**31)), Code.FLOW_CONTROL_ERROR),
    violation("9113-6.5.2-frame-too-small", settings((Setting.MAX_FRAME_SIZE, 1)), Code.PROTOCOL_ERROR),
    violation("9113-6.5.2-push-from-a-server", settings((Setting.ENABLE_PUSH, 1)), Code.PROTOCOL_ERROR),
    violation(
        "9113-6.6-push-promise", frame(Kind.PUSH_PROMISE, END_HEADERS, 1, b"\0\0\0\x02" + HEAD), Code.PROTOCOL_ERROR
    ),
    violation("9113-6.7-ping-of-7-bytes", ping(bytes(7)), Code.FRAME_SIZE_ERROR),
    violation("9113-6.7-ping-on-a-stream", frame(Kind.PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    violation("9113-6.8-goaway-of-4-bytes", frame(Kind.GOAWAY, 0, 0, bytes(4)), Code.FRAME_SIZE_ERROR),
    violation("9113-6.9-zero-on-the-connection", window_update(0, 0), Code.PROTOCOL_ERROR),
    violation("9113-6.9.1-connection-window-overflows", window_update(0, 2**31 - 1), Code.FLOW_CONTROL_ERROR),
    violation("9113-6.10-continuation-alone", continuation(1, HEAD), Code.PROTOCOL_ERROR),
    violation("9113-6.10-data-within-a-block", headers(1, HEAD[:9], complete=False) + data(1), Code.PROTOCOL_ERROR),
    violation("9113-4.2-frame-too-large", frame(Kind.DATA, 0, 1, length=2**24 - 1), Code.FRAME_SIZE_ERROR),
    violation("9113-4.3-a-block-that-is-none", headers(1, b"\xff" * 9), Code.COMPRESSION_ERROR),
    violation("7541-6.1-index-0", headers(1, HEAD + b"\x80"), Code.COMPRESSION_ERROR),
    violation(
        "9113-10.5-continuation-without-end",
        headers(1, HEAD[:9], complete=False) + continuation(1, complete=False) * 100,
        Code.ENHANCE_YOUR_CALM,
    ),
]

MALFORMED = [
    malformed("9113-8.1-data-before-headers", data(1, message())),
    malformed("9113-8.3.2-no-status", head(("content-type", "application/grpc"))),
    malformed(
        "9113-8.3.2-two-statuses", head((":status", "200"), (":status", "200"), ("content-type", "application/grpc"))
    ),
    malformed(
        "9113-8.3.2-pseudo-header-of-requests",
        head((":status", "200"), (":path", "/"), ("content-type", "application/grpc")),
    ),
    malformed("9113-8.3-status-after-other-fields", head(("content-type", "application/grpc"), (":status", "200"))),
    malformed("9113-8.2.1-upper-case-name", head((":status", "200"), ("Content-Type", "application/grpc"))),
    malformed(
        "9113-8.2.2-connection-field",
        head((":status", "200"), ("connection", "close"), ("content-type", "application/grpc")),
    ),
    malformed(
        "9113-8.1-pseudo-header-in-trailers",
        headers(1, HEAD) + data(1, message()) + head((":status", "200"), ("grpc-status", "0"), end=True),
    ),
    malformed("9113-8.1-trailers-that-do-not-end-the-stream", headers(1, HEAD) + data(1, message()) + headers(1, OK)),
    malformed("9113-6.9-zero-on-a-stream", window_update(1, 0)),
]


def status(number: int, *error: type[OpenFLAioError] | None) -> Case:
    """Return a case of an HTTP status without gRPC's."""
    return Case(f"grpc-http-status-{number}", head((":status", str(number)), end=True), error)


def trailers(name: str, *fields: tuple[str, str], errors: tuple[type[OpenFLAioError] | None, ...]) -> Case:
    """Return a case of an answer with a message and these trailers."""
    return Case(name, headers(1, HEAD) + data(1, message()) + head(*fields, end=True), errors)


def only_trailers(name: str, *fields: tuple[str, str], errors: tuple[type[OpenFLAioError] | None, ...]) -> Case:
    """Return a case of an answer without a message."""
    return Case(name, head((":status", "200"), ("content-type", "application/grpc"), *fields, end=True), errors)


def body(name: str, payload: bytes, *errors: type[OpenFLAioError] | None) -> Case:
    """Return a case of an answer with this body."""
    return Case(name, answer(1, payload), errors)


ANSWERS = [
    status(400, RemoteProtocolError),
    status(401, AuthenticationError),
    status(403, AuthorizationError),
    status(404, RemoteProtocolError),
    status(429, ConnectionLostError),
    status(500, RemoteProtocolError),
    status(502, ConnectionLostError),
    status(503, ConnectionLostError),
    status(504, ConnectionLostError),
    only_trailers("grpc-not-found", ("grpc-status", "5"), ("grpc-message", "not%20here"), errors=(NotFoundError,)),
    only_trailers(
        "grpc-message-with-broken-escapes", ("grpc-status", "5"), ("grpc-message", "%zz%"), errors=(NotFoundError,)
    ),
    only_trailers("grpc-status-missing-in-trailers-only", errors=BROKEN),
    only_trailers("grpc-ok-without-a-message", ("grpc-status", "0"), errors=BROKEN),
    trailers("grpc-status-missing", errors=BROKEN),
    trailers("grpc-status-that-is-no-number", ("grpc-status", "fine"), errors=BROKEN),
    trailers("grpc-status-out-of-range", ("grpc-status", "99"), errors=BROKEN),
    trailers("grpc-status-after-a-message", ("grpc-status", "16"), errors=(AuthenticationError,)),
    Case(
        "grpc-content-type-of-text",
        head((":status", "200"), ("content-type", "text/html")) + data(1, b"<html>", end=True),
        BROKEN,
    ),
    Case("grpc-content-type-missing", head((":status", "200")) + data(1, message()) + headers(1, OK, end=True), BROKEN),
    body("grpc-answer-in-two-pieces", message(), None),
    body("grpc-answer-missing", b"", *BROKEN),
    body("grpc-answer-cut", message(b"abc", size=9), *BROKEN),
    body("grpc-answer-cut-within-the-prefix", b"\0\0", *BROKEN),
    body("grpc-answer-that-is-no-message", message(b"\xff\xff"), *BROKEN),
    body("grpc-answer-compressed", message(compressed=1), *BROKEN),
    body("grpc-answer-larger-than-allowed", message(b"x" * 2000), MessageTooLargeError),
    Case(
        "grpc-answer-announced-larger-than-allowed",
        headers(1, HEAD) + data(1, message(size=2**32 - 1)),
        (MessageTooLargeError,),
    ),
    Case(
        "9113-8.1-informational-answers-first",
        head((":status", "103"), ("link", "x")) + head((":status", "100")) + answer(1),
        FINE,
    ),
    Case(
        "9113-6.1-padding",
        headers(1, HEAD) + data(1, padded(message(), 99), flags=PADDED) + headers(1, OK, end=True),
        FINE,
    ),
    Case(
        "9113-6.1-empty-data",
        headers(1, HEAD)
        + data(1)
        + data(1, message()[:2])
        + data(1)
        + data(1, message()[2:])
        + headers(1, OK, end=True),
        FINE,
    ),
    Case("9113-5.5-unknown-frames", frame(0xEE, 1, 0, b"x") + frame(0xEE, 0, 1) + answer(1), FINE),
    Case("9113-6.3-priority", frame(Kind.PRIORITY, 0, 1, bytes(5)) + answer(1), FINE),
    Case(
        "9113-6.10-a-block-in-pieces",
        headers(1, HEAD[:5], complete=False)
        + continuation(1, HEAD[5:])
        + data(1, message())
        + headers(1, OK, end=True),
        FINE,
    ),
    Case("9113-6.5-settings-again", settings((Setting.HEADER_TABLE_SIZE, 0), (0x99, 9)) + answer(1), FINE),
]


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=case.name) for case in [*BREAKS, *VIOLATIONS, *MALFORMED, *ANSWERS]]
)
async def test_call(case: Case) -> None:
    limits = Limits(max_message_bytes=1000)
    async with calling(case.script, limits=limits) as (stub, server):
        error = await outcome(stub)
        assert error in case.errors or (error is not None and issubclass(error, case.expected)), error
        first = server.connections[0]
        if case.code is not None:
            with anyio.fail_after(SECONDS):
                while not first.closed and first.goaway is None and 1 not in first.resets:
                    await anyio.sleep(0.005)
            said = first.resets.get(1) if case.stream else first.goaway
            assert said == case.code, first.story()
        if case.close:
            await anyio.sleep(0.02)  # until the end of the connection has been seen
        assert await outcome(stub) is None, "the next call"
        assert len(server.connections) <= 2
