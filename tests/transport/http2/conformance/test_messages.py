"""RFC 9113 section 8: what a request may look like."""

from __future__ import annotations

from tests.transport.http2.conformance.cases import (
    Case,
    Check,
    all_of,
    answered,
    any_of,
    malformed,
    refused,
    rows,
    stream_error,
)
from tests.transport.http2.conformance.peer import Peer
from tests.transport.http2.conformance.wire import (
    PARKED,
    REQUEST,
    UPLOAD,
    Code,
    block,
    changed,
    chunk,
    data,
    headers,
    message,
    request,
)

TRAILERS = block([("checksum", "0")])


def sent(name: str, *fields: tuple[str | bytes, str | bytes], without: str = "", expect: Check = malformed) -> Case:
    """Return a case of a call with more header fields, or without one."""
    return Case(name, [request(1, changed(REQUEST, *fields, without=without))], expect)


def led(name: str, *fields: tuple[str | bytes, str | bytes], expect: Check = malformed) -> Case:
    """Return a case of a call with more header fields at the beginning."""
    return Case(name, [request(1, [*fields, *REQUEST])], expect)


def replaced(name: str, field: str, value: str, *, expect: Check = malformed) -> Case:
    """Return a case of a call where one header field has another value."""
    fields = [(key, value if key == field else old) for key, old in REQUEST]
    return Case(name, [request(1, fields)], expect)


# a malformed request is a stream error; where a gRPC server gives it an HTTP status, that is an answer too
BAD_REQUEST = any_of(malformed, refused(http="400"))

FRAMING = [
    Case(
        "9113-8.1-trailers",
        [headers(1, block(REQUEST)), data(1, message()), headers(1, TRAILERS, end=True)],
        answered(),
    ),
    Case("9113-8.1-trailers-without-data", [headers(1, block(UPLOAD)), headers(1, TRAILERS, end=True)], answered()),
    Case("9113-8.1-empty-trailers", [headers(1, block(UPLOAD)), headers(1, b"", end=True)], answered()),
    Case(
        "9113-8.1-trailers-that-do-not-end-the-stream",
        [headers(1, block(UPLOAD)), data(1, chunk(b"x")), headers(1, TRAILERS), data(1, end=True)],
        malformed,
    ),
    Case("9113-8.1-headers-twice", [headers(1, block(UPLOAD)), headers(1, block(UPLOAD))], malformed),
    Case(
        "9113-8.1-data-after-trailers",
        [headers(1, block(PARKED)), data(1, message()), headers(1, TRAILERS, end=True), data(1, message())],
        stream_error(1, Code.STREAM_CLOSED, connection=(Code.STREAM_CLOSED,)),
    ),
    Case(
        "9113-8.1-pseudo-header-in-trailers",
        [headers(1, block(UPLOAD)), headers(1, block([(":path", "/")]), end=True)],
        malformed,
    ),
    Case(
        "9113-8.1-upper-case-in-trailers",
        [headers(1, block(UPLOAD)), headers(1, block([("Checksum", "0")]), end=True)],
        malformed,
    ),
    Case(
        "9113-8.1-connection-field-in-trailers",
        [headers(1, block(UPLOAD)), headers(1, block([("connection", "close")]), end=True)],
        malformed,
    ),
]

LENGTHS = [
    sent("9113-8.1.1-content-length-that-is-right", ("content-length", "5"), expect=answered()),
    sent("9113-8.1.1-content-length-too-small", ("content-length", "4")),
    sent("9113-8.1.1-content-length-too-large", ("content-length", "6")),
    sent("9113-8.1.1-content-length-of-0", ("content-length", "0")),
    sent("9113-8.1.1-content-length-that-is-no-number", ("content-length", "five")),
    sent("9113-8.1.1-content-length-negative", ("content-length", "-5")),
    sent("9113-8.1.1-content-length-empty", ("content-length", "")),
    sent("9113-8.1.1-two-content-lengths", ("content-length", "5"), ("content-length", "6")),
    Case(
        "9113-8.1.1-content-length-over-several-data",
        [
            headers(1, block([*UPLOAD, ("content-length", "16")])),
            data(1, chunk(b"x")),
            data(1, chunk(b"y")),
            data(1, end=True),
        ],
        answered(),
    ),
    Case(
        "9113-8.1.1-content-length-passed-by-the-second-data",
        [headers(1, block([*UPLOAD, ("content-length", "10")])), data(1, chunk(b"x")), data(1, chunk(b"y"))],
        malformed,
    ),
    Case(
        "9113-8.1.1-content-length-without-data",
        [headers(1, block([*UPLOAD, ("content-length", "1")]), end=True)],
        malformed,
    ),
    Case(
        "9113-8.1.1-padding-does-not-count",
        [
            headers(1, block([*REQUEST, ("content-length", "5")])),
            data(1, b"\x03" + message() + bytes(3), end=True, flags=8),
        ],
        answered(),
    ),
]

FIELDS = [
    sent("9113-8.2.1-upper-case-name", ("X-Name", "v")),
    sent("9113-8.2.1-one-upper-case-letter", ("namE", "v")),
    sent("9113-8.2.1-empty-name", ("", "v")),
    sent("9113-8.2.1-blank-in-a-name", ("na me", "v")),
    sent("9113-8.2.1-control-character-in-a-name", ("na\x01me", "v")),
    sent("9113-8.2.1-delete-in-a-name", ("na\x7fme", "v")),
    sent("9113-8.2.1-beyond-ascii-in-a-name", ("na\xe4me", "v")),
    sent("9113-8.2.1-newline-in-a-name", ("name\n", "v")),
    sent("9113-8.2.1-colon-in-a-name", ("na:me", "v")),
    sent("9113-8.2.1-nul-in-a-value", ("name", "v\0")),
    sent("9113-8.2.1-newline-in-a-value", ("name", "v\nx: y")),
    sent("9113-8.2.1-carriage-return-in-a-value", ("name", "v\rx")),
    sent("9113-8.2.1-blank-before-a-value", ("name", " v")),
    sent("9113-8.2.1-blank-after-a-value", ("name", "v ")),
    sent("9113-8.2.1-tab-after-a-value", ("name", "v\t")),
    sent("9113-8.2.1-blank-within-a-value", ("name", "v w\tx"), expect=answered()),
    sent("9113-8.2.1-empty-value", ("name", ""), expect=answered()),
    # HTTP allows these characters, gRPC fewer
    sent(
        "9113-8.2.1-every-character-of-a-name",
        ("0!#$%&'*+-.^_`|~az", "v"),
        expect=any_of(answered(), malformed, refused(3, 13)),
    ),
    # octets beyond ASCII are allowed in HTTP and not in gRPC: whichever it is, nobody else suffers
    sent(
        "9113-8.2.1-beyond-ascii-in-a-value",
        ("name", b"\xff\xfe"),
        expect=any_of(answered(), malformed, refused(3, 13)),
    ),
    sent("9113-8.2.1-utf-8-in-a-value", ("name", "ä".encode()), expect=any_of(answered(), malformed, refused(3, 13))),
]

CONNECTION_FIELDS = [
    sent("9113-8.2.2-connection", ("connection", "keep-alive")),
    sent("9113-8.2.2-keep-alive", ("keep-alive", "timeout=5")),
    sent("9113-8.2.2-proxy-connection", ("proxy-connection", "keep-alive")),
    sent("9113-8.2.2-transfer-encoding", ("transfer-encoding", "chunked")),
    sent("9113-8.2.2-upgrade", ("upgrade", "h2c")),
    replaced("9113-8.2.2-te-other-than-trailers", "te", "gzip", expect=BAD_REQUEST),
    replaced("9113-8.2.2-te-trailers-and-more", "te", "trailers, deflate;q=0.5", expect=BAD_REQUEST),
    sent("9113-8.2.3-cookies-in-pieces", ("cookie", "a=b"), ("cookie", "c=d"), expect=answered()),
    sent("9113-8.2.3-a-name-many-times", *(("name", str(n)) for n in range(20)), expect=answered()),
]

PSEUDO = [
    sent("9113-8.3-unknown-pseudo-header-last", (":unknown", "v")),
    led("9113-8.3-unknown-pseudo-header", (":unknown", "v")),
    led("9113-8.3-pseudo-header-of-answers", (":status", "200")),
    led("9113-8.3-empty-pseudo-header", (":", "v")),
    led("9113-8.3-protocol-without-extended-connect", (":protocol", "websocket")),
    sent("9113-8.3-path-after-other-fields", (":path", "/openfl.aggregator.Aggregator/GetTasks"), without=":path"),
    sent("9113-8.3-method-after-other-fields", (":method", "POST"), without=":method"),
    led("9113-8.3-field-before-all-pseudo-headers", ("name", "v")),
    led("9113-8.3.1-two-methods", (":method", "POST")),
    led("9113-8.3.1-two-schemes", (":scheme", "http")),
    led("9113-8.3.1-two-paths", (":path", "/other")),
    led("9113-8.3.1-two-authorities", (":authority", "other")),
    sent("9113-8.3.1-no-method", without=":method"),
    sent("9113-8.3.1-no-scheme", without=":scheme"),
    sent("9113-8.3.1-no-path", without=":path"),
    sent("9113-8.3.1-no-authority", without=":authority", expect=answered()),
    sent("9113-8.3.1-host-instead-of-authority", ("host", "localhost"), without=":authority", expect=answered()),
    sent("9113-8.3.1-host-like-authority", ("host", "localhost"), expect=answered()),
    replaced("9113-8.3.1-empty-path", ":path", "", expect=any_of(malformed, refused(12))),
    replaced(
        "9113-8.3.1-path-without-slash",
        ":path",
        "openfl.aggregator.Aggregator/GetTasks",
        expect=any_of(malformed, refused(12)),
    ),
    replaced("9113-8.3.1-path-of-all", ":path", "*", expect=any_of(malformed, refused(12))),
    replaced("9113-8.3.1-scheme-https", ":scheme", "https", expect=answered()),
    Case(
        "9113-8.3.1-pseudo-headers-in-another-order", [request(1, [*reversed(REQUEST[:4]), *REQUEST[4:]])], answered()
    ),
    Case("9113-8.3.1-no-field-at-all", [headers(1, b"", end=True)], malformed),
    Case(
        "9113-8.5-connect",
        [request(1, [(":method", "CONNECT"), (":authority", "localhost:80")])],
        any_of(malformed, refused(http="405")),
    ),
    replaced("9113-8.5-connect-with-a-path", ":method", "CONNECT", expect=any_of(malformed, refused(http="405"))),
]

METHODS = [
    replaced("9110-9.3.1-get", ":method", "GET", expect=refused(http="405")),
    replaced("9110-9.3.5-delete", ":method", "DELETE", expect=refused(http="405")),
    replaced("9110-9.3.7-options", ":method", "OPTIONS", expect=refused(http="405")),
    replaced("9110-9.1-methods-are-case-sensitive", ":method", "post", expect=refused(http="405")),
    Case(
        "9110-9.3.1-get-without-content",
        [
            headers(
                1,
                block([(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "localhost")]),
                end=True,
            )
        ],
        refused(http="405"),
    ),
]


def head(peer: Peer) -> None:
    """HEAD gets a status and no content."""
    refused(http="405")(peer)
    assert not peer.answer(1).body


METHODS.append(replaced("9110-9.3.2-head", ":method", "HEAD", expect=head))


@rows(*FRAMING, *LENGTHS)
def test_framing_of_messages(case: Case, peer: Peer) -> None:
    case.run(peer)


@rows(*FIELDS, *CONNECTION_FIELDS)
def test_fields(case: Case, peer: Peer) -> None:
    case.run(peer)


@rows(*PSEUDO, *METHODS)
def test_requests(case: Case, peer: Peer) -> None:
    case.run(peer)


def test_9113_8_1_1_malformed_calls_leave_the_others_alone(peer: Peer) -> None:
    bad = request(3, [*REQUEST, ("Bad", "v")]) + request(7, [*REQUEST, (":late", "v")])
    peer.start()
    peer.send(request(1) + bad + request(9))
    all_of(answered(1, 9), stream_error(3, Code.PROTOCOL_ERROR), stream_error(7, Code.PROTOCOL_ERROR))(peer)


def test_9113_8_1_answers_are_well_formed(peer: Peer) -> None:
    peer.start()
    peer.send(request() + request(3, [*REQUEST[:2], (":path", "/none"), *REQUEST[3:]]))
    all_of(answered(1), refused(12, stream=3))(peer)
    for answer in (peer.answer(1), peer.answer(3)):
        names = [name for fields in answer.blocks for name, _ in fields]
        assert names[0] == ":status"
        assert names.count(":status") == 1
        assert not {"connection", "keep-alive", "transfer-encoding", "upgrade"} & set(names)
        assert [name for name in names if name != name.lower()] == []
    assert len(peer.answer(1).blocks) == 2, "headers, and trailers that end the stream"
    assert len(peer.answer(3).blocks) == 1, "nothing but trailers"
