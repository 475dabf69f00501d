"""What clients of gRPC get wrong: messages and metadata, and the faults that gRPC's own servers are tested with."""

from __future__ import annotations

import pytest

from tests.transport.http2.conformance.cases import (
    Case,
    Check,
    answered,
    any_of,
    connection_error,
    goes_on,
    malformed,
    refused,
    rows,
    stream_error,
)
from tests.transport.http2.conformance.peer import Peer
from tests.transport.http2.conformance.serving import ServerThread
from tests.transport.http2.conformance.wire import (
    PARKED,
    PREFACE,
    REQUEST,
    UPLOAD,
    Code,
    Fields,
    Kind,
    Setting,
    block,
    call,
    chunk,
    data,
    frame,
    headers,
    message,
    ping,
    request,
    reset,
    settings,
)

# statuses of gRPC
CANCELLED, INVALID_ARGUMENT, DEADLINE_EXCEEDED, RESOURCE_EXHAUSTED, UNIMPLEMENTED, INTERNAL = 1, 3, 4, 8, 12, 13
BAD_MESSAGE = refused(INVALID_ARGUMENT, INTERNAL)
FIVE_MIB = 5 * 2**20


def sent(name: str, payload: bytes, expect: Check, *, fields: Fields = REQUEST) -> Case:
    """Return a case of one call with ``payload`` as its whole body."""
    return Case(name, [request(1, fields, payload)], expect)


def only_identity(peer: Peer) -> None:
    """The answer says which encodings are accepted."""
    refused(UNIMPLEMENTED)(peer)
    assert peer.answer(1).field("grpc-accept-encoding") == "identity", peer.answer(1).blocks


def stops_the_client(*statuses: int) -> Check:
    """The call is refused although the client has not ended it, and the client is told to send no more."""

    def check(peer: Peer) -> None:
        answer = peer.finished(1)
        assert answer.field("grpc-status") in {str(status) for status in statuses}, (answer.blocks, peer.story())
        peer.wait(lambda: bool(answer.resets), "RST_STREAM")
        assert answer.resets == [Code.NO_ERROR], peer.story()
        goes_on(peer)

    return check


MESSAGES = [
    sent("grpc-message-empty", message(), answered()),
    sent("grpc-message-with-unknown-fields", message(b"\xfa\x01\x03abc"), answered()),
    sent("grpc-message-missing", b"", BAD_MESSAGE),
    sent("grpc-message-prefix-of-one-byte", b"\x00", BAD_MESSAGE),
    sent("grpc-message-prefix-of-four-bytes", b"\x00\x00\x00\x00", BAD_MESSAGE),
    sent("grpc-message-cut", message(b"abc", size=10), BAD_MESSAGE),
    sent("grpc-message-cut-by-one-byte", message(b"\xfa\x01\x03ab", size=6), BAD_MESSAGE),
    sent("grpc-message-that-is-no-message", message(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"), BAD_MESSAGE),
    sent("grpc-message-truncated-field", message(b"\x0a\x7f"), BAD_MESSAGE),
    sent(
        "grpc-message-with-text-that-is-not-utf-8",
        message(b"\x0a\x02\xff\xfe"),
        BAD_MESSAGE,
        fields=call("GetMetricStream"),
    ),
    sent("grpc-message-followed-by-a-byte", message() + b"\x00", any_of(BAD_MESSAGE, refused(UNIMPLEMENTED))),
    sent("grpc-two-messages-instead-of-one", message() * 2, any_of(BAD_MESSAGE, refused(UNIMPLEMENTED))),
    sent("grpc-compressed", message(b"x", compressed=1), only_identity, fields=[*REQUEST, ("grpc-encoding", "gzip")]),
    sent("grpc-compressed-without-encoding", message(b"x", compressed=1), refused(UNIMPLEMENTED, INTERNAL)),
    sent(
        "grpc-compressed-as-identity",
        message(b"x", compressed=1),
        refused(UNIMPLEMENTED, INTERNAL),
        fields=[*REQUEST, ("grpc-encoding", "identity")],
    ),
    sent(
        "grpc-encoding-that-is-not-used",
        message(),
        any_of(answered(), only_identity),
        fields=[*REQUEST, ("grpc-encoding", "gzip")],
    ),
    sent("grpc-flag-of-2", message(compressed=2), refused(UNIMPLEMENTED, INTERNAL)),
    sent("grpc-flag-of-255", message(compressed=255), refused(UNIMPLEMENTED, INTERNAL)),
    Case(
        "grpc-compressed-within-a-stream",
        [headers(1, block(UPLOAD)), data(1, chunk(b"x") + message(b"x", compressed=1))],
        stops_the_client(UNIMPLEMENTED),
    ),
    Case(
        "grpc-message-larger-than-allowed",
        [headers(1, block(REQUEST)), data(1, message(b"x", size=FIVE_MIB))],
        stops_the_client(RESOURCE_EXHAUSTED),
    ),
    Case(
        "grpc-message-of-4-gib",
        [headers(1, block(REQUEST)), data(1, message(b"x", size=2**32 - 1))],
        stops_the_client(RESOURCE_EXHAUSTED),
    ),
    Case(
        "grpc-message-larger-than-allowed-within-a-stream",
        [headers(1, block(UPLOAD)), data(1, chunk(b"x") + message(b"x", size=2**32 - 1))],
        stops_the_client(RESOURCE_EXHAUSTED),
    ),
    Case(
        "grpc-message-larger-than-allowed-and-cut",
        [request(1, REQUEST, message(b"x", size=FIVE_MIB))],
        refused(RESOURCE_EXHAUSTED, INTERNAL, INVALID_ARGUMENT),
    ),
    Case(
        "grpc-stream-cut-within-a-message",
        [headers(1, block(UPLOAD)), data(1, chunk(b"x")), data(1, message(b"abc", size=9), end=True)],
        BAD_MESSAGE,
    ),
    Case(
        "grpc-stream-cut-within-a-prefix",
        [headers(1, block(UPLOAD)), data(1, chunk(b"x")), data(1, b"\0\0", end=True)],
        BAD_MESSAGE,
    ),
    Case(
        "grpc-stream-of-messages-in-one-frame",
        [headers(1, block(UPLOAD)), data(1, b"".join(chunk(b"x" * n) for n in range(50)), end=True)],
        answered(),
    ),
    Case(
        "grpc-stream-cut-at-every-byte",
        [headers(1, block(UPLOAD)), *(data(1, bytes([octet])) for octet in chunk(b"abc") * 3), data(1, end=True)],
        answered(),
    ),
]


def timed(name: str, value: str, expect: Check, *, method: str = "GetTasks") -> Case:
    """Return a case of a call with a timeout."""
    return Case(name, [request(1, [*call(method), ("grpc-timeout", value)])], expect)


def with_metadata(name: str, *fields: tuple[str | bytes, str | bytes], expect: Check) -> Case:
    """Return a case of a call with metadata."""
    return Case(name, [request(1, [*REQUEST, *fields])], expect)


def replaced(name: str, field: str, value: str | None, *, expect: Check) -> Case:
    """Return a case of a call where one header field has another value, or is not there."""
    fields = [(key, value if key == field else old) for key, old in REQUEST]
    return Case(name, [request(1, [(key, value) for key, value in fields if value is not None])], expect)


TOO_LARGE = any_of(
    stream_error(1, Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR, connection=(Code.ENHANCE_YOUR_CALM,)),
    refused(http="431"),
    refused(RESOURCE_EXHAUSTED),
)

TOO_MANY_FIELDS = block([*REQUEST, *((f"name-{number}", "v") for number in range(500))])  # some 20 KiB as they count

REQUESTS = [
    replaced("grpc-unknown-method", ":path", "/openfl.aggregator.Aggregator/None", expect=refused(UNIMPLEMENTED)),
    replaced("grpc-unknown-service", ":path", "/openfl.Nothing/GetTasks", expect=refused(UNIMPLEMENTED)),
    replaced("grpc-path-of-a-service-only", ":path", "/openfl.aggregator.Aggregator", expect=refused(UNIMPLEMENTED)),
    replaced(
        "grpc-path-in-another-case", ":path", "/openfl.aggregator.Aggregator/getTasks", expect=refused(UNIMPLEMENTED)
    ),
    replaced("grpc-content-type-missing", "content-type", None, expect=refused(http="415")),
    replaced("grpc-content-type-of-text", "content-type", "text/plain", expect=refused(http="415")),
    replaced("grpc-content-type-that-only-begins-so", "content-type", "application/grpcx", expect=refused(http="415")),
    replaced("grpc-content-type-of-grpc-web", "content-type", "application/grpc-web", expect=refused(http="415")),
    replaced("grpc-content-type-json", "content-type", "application/grpc+json", expect=refused(http="415")),
    replaced("grpc-content-type-proto", "content-type", "application/grpc+proto", expect=answered()),
    replaced("grpc-te-missing", "te", None, expect=any_of(malformed, refused(http="400"))),
    timed("grpc-timeout", "5S", answered()),
    timed("grpc-timeout-of-the-largest-number", "99999999H", answered()),
    timed("grpc-timeout-passes", "20m", refused(DEADLINE_EXCEEDED), method="GetAggregatedTensor"),
    timed("grpc-timeout-of-a-nanosecond", "1n", refused(DEADLINE_EXCEEDED), method="GetAggregatedTensor"),
    timed("grpc-timeout-of-0", "0S", refused(DEADLINE_EXCEEDED), method="GetAggregatedTensor"),
    timed("grpc-timeout-without-unit", "5", refused(INTERNAL, INVALID_ARGUMENT)),
    timed("grpc-timeout-with-a-wrong-unit", "5s", refused(INTERNAL, INVALID_ARGUMENT)),
    timed("grpc-timeout-negative", "-5S", refused(INTERNAL, INVALID_ARGUMENT)),
    timed("grpc-timeout-empty", "", refused(INTERNAL, INVALID_ARGUMENT)),
    timed("grpc-timeout-that-is-text", "soon", refused(INTERNAL, INVALID_ARGUMENT)),
    timed("grpc-timeout-of-too-many-digits", "123456789S", any_of(answered(), refused(INTERNAL, INVALID_ARGUMENT))),
    with_metadata(
        "grpc-metadata", ("user-agent", "grpc-python/1.85.1 grpc-c/54"), ("name", "value"), expect=answered()
    ),
    with_metadata("grpc-metadata-binary", ("trace-bin", "AAECAw=="), expect=answered()),
    with_metadata("grpc-metadata-binary-without-padding", ("trace-bin", "AAECAw"), expect=answered()),
    with_metadata("grpc-metadata-binary-empty", ("trace-bin", ""), expect=answered()),
    with_metadata(
        "grpc-metadata-binary-that-is-none",
        ("trace-bin", "!!!"),
        expect=any_of(answered(), refused(INTERNAL, INVALID_ARGUMENT)),
    ),
    with_metadata(
        "grpc-metadata-binary-of-one-letter",
        ("trace-bin", "A"),
        expect=any_of(answered(), refused(INTERNAL, INVALID_ARGUMENT)),
    ),
    with_metadata("grpc-metadata-reserved", ("grpc-nothing", "v"), ("grpc-status", "0"), expect=answered()),
    with_metadata("grpc-large-metadata-of-8-kib", ("name", "v" * 8192), expect=answered()),
    with_metadata("grpc-large-metadata-of-15-kib", ("name", "v" * 15_000), expect=answered()),
    with_metadata(
        "grpc-large-metadata-of-100-fields", *((f"name-{n}", "v" * 50) for n in range(100)), expect=answered()
    ),
    with_metadata("grpc-large-metadata-of-100-kib", *((f"name-{n}", "v" * 1000) for n in range(100)), expect=TOO_LARGE),
]


def garbage_instead(position: int) -> bytes:
    """Return the preface with one other byte, and SETTINGS."""
    return PREFACE[:position] + b"X" + PREFACE[position + 1 :] + settings()


CUT_CALL = PREFACE + settings() + headers(1, block(REQUEST)) + data(1, message(), end=True)


def goaway_names(stream: int) -> Check:
    """The last stream that GOAWAY names."""

    def check(peer: Peer) -> None:
        connection_error(Code.FRAME_SIZE_ERROR)(peer)
        assert peer.goaway is not None
        assert peer.goaway[0] == stream, peer.story()

    return check


REQUESTS += [
    Case("grpc-large-metadata-of-500-fields", [headers(1, TOO_MANY_FIELDS), data(1, message(), end=True)], TOO_LARGE),
    Case("grpc-large-metadata-counts-as-a-stream", [headers(5, TOO_MANY_FIELDS), ping(b"short")], goaway_names(5)),
    Case("grpc-large-metadata-on-an-even-stream", [headers(4, TOO_MANY_FIELDS)], connection_error(Code.PROTOCOL_ERROR)),
]

# the settings a connection may begin with, and not
FIRST_SETTINGS = [
    Case(
        "bad-client-settings-on-stream-1",
        [frame(Kind.SETTINGS, 0, 1)],
        connection_error(Code.PROTOCOL_ERROR),
        start=PREFACE,
    ),
    Case(
        "bad-client-settings-of-1-byte",
        [frame(Kind.SETTINGS, 0, 0, b"x")],
        connection_error(Code.FRAME_SIZE_ERROR),
        start=PREFACE,
    ),
    Case(
        "bad-client-settings-of-5-bytes",
        [frame(Kind.SETTINGS, 0, 0, bytes(5))],
        connection_error(Code.FRAME_SIZE_ERROR),
        start=PREFACE,
    ),
    Case(
        "bad-client-settings-window-too-large",
        [settings((Setting.INITIAL_WINDOW_SIZE, 2**32 - 1))],
        connection_error(Code.FLOW_CONTROL_ERROR),
        start=PREFACE,
    ),
    Case(
        "bad-client-settings-frame-too-small",
        [settings((Setting.MAX_FRAME_SIZE, 0))],
        connection_error(Code.PROTOCOL_ERROR),
        start=PREFACE,
    ),
    Case(
        "bad-client-settings-push-of-9",
        [settings((Setting.ENABLE_PUSH, 9))],
        connection_error(Code.PROTOCOL_ERROR),
        start=PREFACE,
    ),
    Case("bad-client-settings-twice", [settings(), settings(), request()], answered(), start=PREFACE),
    Case(
        "bad-client-settings-of-600-values",
        [settings(*[(n % 6 + 7, n) for n in range(600)]), request()],
        answered(),
        start=PREFACE,
    ),
]

FAULTS = [
    Case("bad-client-unknown-frame", [frame(0x58, 0x58, 0, b"XXXX"), request()], answered()),
    Case(
        "bad-client-duplicate-header",
        [headers(1, block(REQUEST)), data(1, message()), headers(1, block(REQUEST), end=True)],
        malformed,
    ),
    Case("bad-client-streaming-id-even", [request(2)], connection_error(Code.PROTOCOL_ERROR)),
    Case(
        "bad-client-streaming-id-that-falls",
        [request(3, PARKED), request(1)],
        connection_error(Code.PROTOCOL_ERROR, Code.STREAM_CLOSED),
    ),
    Case(
        "bad-client-message-then-reset",
        [headers(1, block(REQUEST)), data(1, message()), reset(1), request(3)],
        answered(3),
    ),
    Case(
        "bad-client-reset-within-a-message",
        [headers(1, block(UPLOAD)), data(1, message(b"x", size=9)), reset(1), request(3)],
        answered(3),
    ),
    Case("bad-client-headers-and-reset", [headers(1, block(REQUEST)), reset(1), request(3)], answered(3)),
    Case(
        "bad-client-out-of-bounds-length",
        [b"\xff\xff\xff\x00\x00\x00\x00\x00\x01"],
        connection_error(Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR),
    ),
    Case("bad-client-noise", [bytes(range(256)) * 4], connection_error(Code.PROTOCOL_ERROR, Code.FRAME_SIZE_ERROR)),
    Case(
        "bad-client-http-1-later",
        [request(), b"GET / HTTP/1.1\r\n\r\n"],
        connection_error(Code.FRAME_SIZE_ERROR, Code.PROTOCOL_ERROR),
    ),
    # one call that stands still holds up no other
    Case(
        "bad-client-head-of-line",
        [headers(1, block(UPLOAD)), data(1, chunk(b"do not read on")), request(3)],
        answered(3),
    ),
    Case(
        "bad-client-head-of-line-half-a-message",
        [headers(1, block(REQUEST)), data(1, message()[:3]), request(3)],
        answered(3),
    ),
    Case(
        "bad-client-many-that-wait",
        [*(request(stream, PARKED) for stream in range(1, 101, 2)), request(101)],
        answered(101),
    ),
]


@rows(*MESSAGES)
def test_messages(case: Case, peer: Peer) -> None:
    case.run(peer)


@rows(*REQUESTS)
def test_requests_and_metadata(case: Case, peer: Peer) -> None:
    case.run(peer)


@rows(*FIRST_SETTINGS, *FAULTS)
def test_bad_clients(case: Case, peer: Peer) -> None:
    case.run(peer)


@pytest.mark.parametrize("position", range(len(PREFACE)))
def test_bad_client_connection_prefix(peer: Peer, position: int) -> None:
    peer.send(garbage_instead(position))
    connection_error(Code.PROTOCOL_ERROR, silent=True)(peer)


@pytest.mark.parametrize("cut", range(1, len(CUT_CALL), 9))
def test_bad_client_that_goes_away(peer: Peer, cut: int) -> None:
    peer.send(CUT_CALL[:cut])
    peer.send_end()
    peer.wait_closed()


def test_bad_client_that_asks_and_goes_away(server: ServerThread) -> None:
    for method in ("GetTasks", "GetMetricStream", "GetAggregatedTensor") * 10:
        with server.connect() as peer:
            peer.send(PREFACE + settings() + request(1, call(method), message(b"\x0a\x03999")))
    server.check_unharmed()
