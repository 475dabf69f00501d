"""RFC 7541: compressed header blocks."""

from __future__ import annotations

from hpack.huffman import HuffmanEncoder
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

from tests.transport.http2.conformance.cases import (
    Case,
    Check,
    all_of,
    answered,
    any_of,
    connection_error,
    goes_on,
    malformed,
    refused,
    rows,
)
from tests.transport.http2.conformance.peer import Peer
from tests.transport.http2.conformance.wire import (
    REQUEST,
    SERVICE,
    Code,
    Setting,
    block,
    data,
    headers,
    integer,
    message,
    string,
)

HUFFMAN = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH)
BROKEN = connection_error(Code.COMPRESSION_ERROR)
BLOCK = block(REQUEST)
# pseudo headers and others, so that a field of any kind may stand between them
PSEUDO, OTHERS = block(REQUEST[:4]), block(REQUEST[4:])
ALL_BUT_PATH = block([pair for pair in REQUEST if pair[0] not in (":path", ":authority", "content-type", "te")])
PATH = (SERVICE + "GetTasks").encode()
LAST = data(1, message(), end=True)


def huffman(value: bytes) -> bytes:
    """Return a string of section 5.2 in Huffman code."""
    coded = HUFFMAN.encode(value)
    return integer(len(coded), 7, 0x80) + coded


def inserted(name: bytes, value: bytes) -> bytes:
    """Return a literal of section 6.2.1 that goes into the table."""
    return b"\x40" + string(name) + string(value)


def indexed(number: int) -> bytes:
    """Return an indexed field of section 6.1."""
    return integer(number, 7, 0x80)


def resized(size: int) -> bytes:
    """Return a change of the table's size of section 6.3."""
    return integer(size, 5, 0x20)


def called(name: str, more: bytes, *, expect: Check) -> Case:
    """Return a case of a call with more at the end of its header block."""
    return Case(name, [headers(1, BLOCK + more), LAST], expect)


def twice(name: str, first: bytes, second: bytes, *, expect: Check) -> Case:
    """Return a case of two calls on one connection, each with more at the end of its header block."""
    return Case(
        name,
        [headers(1, BLOCK + first), LAST, headers(3, BLOCK + second), data(3, message(), end=True)],
        expect,
    )


# ":path" of the table's fourth entry with a value of its own, and everything else indexed where that is possible
SHORT = b"\x83\x86" + integer(4, 4) + string(PATH) + integer(1, 4) + string(b"localhost") + OTHERS

INDEXES = [
    Case("7541-2.3.1-static-table", [headers(1, SHORT), LAST], answered()),
    called("7541-2.3.3-index-beyond-both-tables", indexed(62), expect=BROKEN),
    called("7541-2.3.3-index-far-beyond", indexed(2**20), expect=BROKEN),
    called("7541-2.3.3-name-beyond-both-tables", integer(62, 6, 0x40) + string(b"v"), expect=BROKEN),
    called("7541-2.3.3-name-beyond-both-tables-not-indexed", integer(62, 4) + string(b"v"), expect=BROKEN),
    called("7541-2.3.3-name-beyond-both-tables-never-indexed", integer(99, 4, 0x10) + string(b"v"), expect=BROKEN),
    called("7541-6.1-index-0", indexed(0), expect=BROKEN),
    called(
        "7541-6.1-every-static-field",
        b"".join(indexed(number) for number in range(15, 62)),
        expect=any_of(answered(), malformed, refused(3, 13)),
    ),
    twice("7541-2.3.2-dynamic-table-lasts", inserted(b"name", b"value"), indexed(62), expect=answered(1, 3)),
    twice(
        "7541-2.3.2-newest-first",
        inserted(b"a", b"1") + inserted(b"b", b"2"),
        indexed(63) + indexed(62),
        expect=answered(1, 3),
    ),
    twice("7541-2.3.3-one-entry-and-not-two", inserted(b"name", b"value"), indexed(63), expect=BROKEN),
    called("7541-2.3.2-used-in-the-same-block", inserted(b"name", b"value") + indexed(62) * 3, expect=answered()),
    called(
        "7541-2.3.2-a-name-of-the-dynamic-table",
        inserted(b"name", b"value") + integer(62, 6, 0x40) + string(b"w") + indexed(63),
        expect=answered(),
    ),
]

LITERALS = [
    called("7541-6.2.1-with-indexing", inserted(b"name", b"value"), expect=answered()),
    called("7541-6.2.1-with-indexing-and-indexed-name", integer(58, 6, 0x40) + string(b"agent"), expect=answered()),
    called("7541-6.2.2-without-indexing", b"\x00" + string(b"name") + string(b"value"), expect=answered()),
    called("7541-6.2.2-without-indexing-and-indexed-name", integer(58, 4) + string(b"agent"), expect=answered()),
    called(
        "7541-6.2.2-leaves-the-table-alone", b"\x00" + string(b"name") + string(b"value") + indexed(62), expect=BROKEN
    ),
    called("7541-6.2.3-never-indexed", b"\x10" + string(b"name") + string(b"value"), expect=answered()),
    called("7541-6.2.3-never-indexed-and-indexed-name", integer(58, 4, 0x10) + string(b"agent"), expect=answered()),
    called(
        "7541-6.2.3-leaves-the-table-alone", b"\x10" + string(b"name") + string(b"value") + indexed(62), expect=BROKEN
    ),
    called("7541-6.2-name-without-value", b"\x40" + string(b"name"), expect=BROKEN),
    called("7541-6.2-nothing-after-the-pattern", b"\x40", expect=BROKEN),
    called("7541-6.2-empty-value", b"\x40" + string(b"name") + string(b""), expect=answered()),
]

SIZES = [
    Case("7541-4.2-change-at-the-beginning", [headers(1, resized(100) + BLOCK), LAST], answered()),
    Case("7541-4.2-two-changes-at-the-beginning", [headers(1, resized(0) + resized(4096) + BLOCK), LAST], answered()),
    called("7541-4.2-change-at-the-end", resized(100), expect=BROKEN),
    Case("7541-4.2-change-in-the-middle", [headers(1, PSEUDO + resized(100) + OTHERS), LAST], BROKEN),
    Case("7541-6.3-more-than-allowed", [headers(1, resized(4097) + BLOCK), LAST], BROKEN),
    Case("7541-6.3-far-more-than-allowed", [headers(1, resized(2**28) + BLOCK), LAST], BROKEN),
    Case("7541-6.3-as-much-as-allowed", [headers(1, resized(4096) + BLOCK), LAST], answered()),
    Case(
        "7541-4.3-a-smaller-table-loses-entries",
        [headers(1, BLOCK + inserted(b"name", b"value")), LAST, headers(3, resized(0) + BLOCK + indexed(62))],
        BROKEN,
    ),
    Case(
        "7541-4.3-the-newest-entry-stays",
        [
            headers(1, BLOCK + inserted(b"a", b"1") + inserted(b"b", b"2")),
            LAST,
            headers(3, resized(34) + BLOCK + indexed(62)),
            data(3, message(), end=True),
        ],
        answered(1, 3),
    ),
    Case(
        "7541-4.3-the-older-entry-goes",
        [
            headers(1, BLOCK + inserted(b"a", b"1") + inserted(b"b", b"2")),
            LAST,
            headers(3, resized(67) + BLOCK + indexed(63)),
        ],
        BROKEN,
    ),
    called(
        "7541-4.4-an-entry-as-large-as-the-table",
        inserted(b"name", b"v" * (4096 - 32 - 4)) + indexed(62),
        expect=answered(),
    ),
    called("7541-4.4-an-entry-larger-than-the-table-is-no-error", inserted(b"name", b"v" * 4096), expect=answered()),
    twice(
        "7541-4.4-but-it-empties-the-table",
        inserted(b"a", b"1") + inserted(b"name", b"v" * 4096),
        indexed(62),
        expect=BROKEN,
    ),
    called(
        "7541-4.4-an-old-entry-is-driven-out",
        inserted(b"a", b"1") + inserted(b"b", b"v" * 4050) + indexed(63),
        expect=BROKEN,
    ),
]

INTEGERS = [
    called("7541-5.1-in-several-bytes", b"\x10" + string(b"name") + string(b"v" * 200), expect=answered()),
    called("7541-5.1-with-zeros-in-front", b"\x10" + string(b"name") + b"\x7f\x81\x00" + b"v" * 128, expect=answered()),
    called("7541-5.1-cut", b"\xff\x80", expect=BROKEN),
    called("7541-5.1-without-end", b"\xff" + b"\xff" * 20 + b"\x01", expect=BROKEN),
    called("7541-5.1-a-length-without-end", b"\x10" + string(b"name") + b"\x7f" + b"\xff" * 30, expect=BROKEN),
    called(
        "7541-5.1-a-length-of-zeros-without-end",
        b"\x10" + string(b"name") + b"\x7f" + b"\x80" * 4000 + b"\x00",
        expect=any_of(BROKEN, connection_error(Code.ENHANCE_YOUR_CALM)),
    ),
]

STRINGS = [
    called(
        "7541-5.2-huffman",
        b"\x40" + huffman(b"name") + huffman(b"value of some length 0123456789!?"),
        expect=answered(),
    ),
    called(
        "7541-5.2-every-byte-in-huffman-code",
        b"\x00" + huffman(b"name-bin") + huffman(bytes(range(32, 127)).replace(b" ", b"").replace(b'"', b"")),
        expect=any_of(answered(), malformed, refused(3, 13)),
    ),
    Case(
        "7541-5.2-path-in-huffman-code",
        [headers(1, b"\x83\x86" + integer(4, 4) + huffman(PATH) + OTHERS), LAST],
        answered(),
    ),
    called(
        "7541-5.2-string-longer-than-the-block", b"\x10" + string(b"name") + integer(50, 7) + b"short", expect=BROKEN
    ),
    called("7541-5.2-name-longer-than-the-block", b"\x10" + integer(5000, 7) + b"short", expect=BROKEN),
    # "a" is 00011: three ones fill the byte
    called("7541-5.2-huffman-one-letter", b"\x10" + string(b"name") + b"\x81" + bytes([0b00011111]), expect=answered()),
    called(
        "7541-5.2-huffman-padding-of-zeros", b"\x10" + string(b"name") + b"\x81" + bytes([0b00011000]), expect=BROKEN
    ),
    called(
        "7541-5.2-huffman-padding-of-a-whole-byte",
        b"\x10" + string(b"name") + b"\x82" + bytes([0b00011111, 0xFF]),
        expect=BROKEN,
    ),
    called("7541-5.2-huffman-nothing-but-padding", b"\x10" + string(b"name") + b"\x81\xff", expect=BROKEN),
    called("7541-5.2-huffman-end-of-string", b"\x10" + string(b"name") + b"\x84\xff\xff\xff\xff", expect=BROKEN),
    called(
        "7541-5.2-huffman-end-of-string-within",
        b"\x10" + string(b"name") + b"\x85" + bytes([0b00011111, 0xFF, 0xFF, 0xFF, 0b11100011]),
        expect=BROKEN,
    ),
    called("7541-5.2-huffman-empty", b"\x10" + string(b"name") + b"\x80", expect=answered()),
]


def example(name: str, *blocks: str) -> Case:
    """Return a case of an appendix: requests that are understood, and so refused for their method."""
    sent = [headers(number, bytes.fromhex(one), end=True) for number, one in zip((1, 3, 5), blocks, strict=False)]
    return Case(name, sent, all_of(*(refused(http="405", stream=number) for number in (1, 3, 5)[: len(blocks)])))


EXAMPLES = [
    example(
        "7541-C.3-requests-without-huffman-code",
        "828684410f7777772e6578616d706c652e636f6d",
        "828684be58086e6f2d6361636865",
        "828785bf400a637573746f6d2d6b65790c637573746f6d2d76616c7565",
    ),
    example(
        "7541-C.4-requests-with-huffman-code",
        "828684418cf1e3c2e5f23a6ba0ab90f4ff",
        "828684be5886a8eb10649cbf",
        "828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf",
    ),
]


def small_table(size: int) -> Check:
    """The server's answers keep to a table of ``size`` bytes."""

    def check(peer: Peer) -> None:
        peer.limit_header_table(size)
        peer.start((Setting.HEADER_TABLE_SIZE, size))
        peer.barrier()  # so that the decoder and the server begin with the same size
        for _ in range(3):
            goes_on(peer)

    return check


def large_table(peer: Peer) -> None:
    """The server may use a larger table, or not."""
    peer.limit_header_table(2**20)
    peer.start((Setting.HEADER_TABLE_SIZE, 2**20))
    for _ in range(3):
        goes_on(peer)


OUR_TABLE = [
    Case("7541-4.2-answers-without-a-table", [], small_table(0), start=b""),
    Case("7541-4.2-answers-with-a-table-of-40-bytes", [], small_table(40), start=b""),
    Case("7541-4.2-answers-with-a-large-table", [], large_table, start=b""),
]


@rows(*INDEXES, *LITERALS, *SIZES)
def test_fields_and_tables(case: Case, peer: Peer) -> None:
    case.run(peer)


@rows(*INTEGERS, *STRINGS, *EXAMPLES, *OUR_TABLE)
def test_integers_and_strings(case: Case, peer: Peer) -> None:
    case.run(peer)
