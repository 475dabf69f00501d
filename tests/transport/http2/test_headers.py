"""Header blocks: ours are read by another implementation, and another's by ours, whatever their dynamic table does."""

from __future__ import annotations

from typing import Any

import hpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.transport.http2.frames import ConnectionFault, ErrorCode
from openfl_aio.transport.http2.headers import (
    NO_TABLE,
    HeaderDecoder,
    Headers,
    encode_headers,
    malformed_request,
    malformed_response,
    malformed_trailers,
)

LAW = settings(deadline=None)
NAMES = st.one_of(
    st.sampled_from([":path", ":status", "te", "content-type", "grpc-timeout", "user-agent"]),
    st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12),
)
FIELDS = st.lists(st.tuples(NAMES, st.text(st.characters(codec="ascii"), max_size=40)), min_size=1, max_size=10)
REQUEST: Headers = [(":method", "POST"), (":scheme", "http"), (":path", "/s/m"), ("te", "trailers")]


@LAW
@given(blocks=st.lists(FIELDS, min_size=1, max_size=5))
def test_our_blocks_are_read_in_any_order_and_any_number_of_times(blocks: list[Headers]) -> None:
    decoder: Any = hpack.Decoder()
    decoder.decode(NO_TABLE + encode_headers((("a", "b"),)))
    for fields in [*blocks, *reversed(blocks)]:
        assert decoder.decode(encode_headers(tuple(fields))) == fields
    assert len(decoder.header_table.dynamic_entries) == 0


@LAW
@given(
    blocks=st.lists(st.tuples(FIELDS, st.none() | st.integers(0, 4096)), min_size=1, max_size=12),
    repeated=st.integers(1, 3),
)
def test_blocks_are_decoded_in_step_with_the_table_of_who_wrote_them(
    blocks: list[tuple[Headers, int | None]], repeated: int
) -> None:
    encoder, decoder = hpack.Encoder(), HeaderDecoder(1 << 20)
    for fields, size in blocks * repeated:
        if size is not None:
            encoder.header_table_size = size
        headers, total = decoder.decode(encoder.encode(fields))

        assert headers == fields
        assert total == sum(len(name) + len(value) + 32 for name, value in fields)


def test_a_block_that_leaves_the_table_alone_is_decoded_once() -> None:
    decoder, block = HeaderDecoder(1000), encode_headers(tuple(REQUEST))

    assert decoder.decode(block)[0] is decoder.decode(block)[0]


def test_the_same_block_means_something_else_once_the_table_has_changed() -> None:
    decoder, newest = HeaderDecoder(1000), bytes([0x80 | 62])  # "the newest entry of the dynamic table"
    decoder.decode(b"\x40\x01a\x01b")
    assert decoder.decode(newest)[0] == [("a", "b")]
    decoder.decode(b"\x40\x01c\x01d")

    assert decoder.decode(newest)[0] == [("c", "d")]


def test_an_entry_that_replaces_its_equal_in_a_full_table_is_noticed() -> None:
    decoder, oldest = HeaderDecoder(1000), bytes([0x80 | 62])
    decoder.decode(b"\x3f\x03\x40\x01a\x01b")  # a table of 34 bytes, which is one entry
    assert decoder.decode(oldest)[0] == [("a", "b")]
    decoder.decode(b"\x40\x01a\x01c")

    assert decoder.decode(oldest)[0] == [("a", "c")]


def test_what_is_kept_of_decoded_blocks_is_bounded() -> None:
    decoder = HeaderDecoder(1 << 20)
    for number in range(200):
        decoder.decode(encode_headers((("x", str(number)),)))
    decoder.decode(encode_headers((("x", "y" * 5000),)))

    kept = decoder._cache
    assert len(kept) <= 32
    assert all(len(block) <= 2048 for block in kept)


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(b"\x80", id="index 0"),
        pytest.param(bytes([0x80 | 62]), id="index beyond the tables"),
        pytest.param(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", id="endless integer"),
        pytest.param(b"\xff", id="integer that is cut"),
        pytest.param(b"\x40\x05ab", id="string that is cut"),
        pytest.param(b"\x40", id="nothing after the first byte"),
        pytest.param(b"\x3f\xff\x7f", id="table larger than agreed"),
        pytest.param(b"\x40\x84\xff\xff\xff\xff\x00", id="Huffman's end of string"),
        pytest.param(b"\x82\x20", id="size update after a field"),
    ],
)
def test_nonsense_is_a_compression_error(block: bytes) -> None:
    with pytest.raises(ConnectionFault) as caught:
        HeaderDecoder(1000).decode(block)

    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


def test_a_list_that_is_much_longer_than_its_block_is_refused() -> None:
    bomb = b"\x40\x01a\x7f\x80\x18" + b"b" * 3199 + bytes([0x80 | 62]) * 100
    with pytest.raises(ConnectionFault) as caught:
        HeaderDecoder(16_384).decode(bomb)

    assert caught.value.code is ErrorCode.ENHANCE_YOUR_CALM


@LAW
@given(block=st.binary(max_size=60))
def test_any_bytes_are_a_list_or_a_fault(block: bytes) -> None:
    decoder, outcomes = HeaderDecoder(2000), set()
    for _ in range(2):
        try:
            headers, total = decoder.decode(block)
        except ConnectionFault as fault:
            outcomes.add(fault.code)
            break
        assert total == sum(len(name) + len(value) + 32 for name, value in headers) <= 2000

    assert outcomes <= {ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM}


def test_an_ordinary_request_is_sound() -> None:
    fields = [
        *REQUEST[:3],
        (":authority", "host"),
        *REQUEST[3:],
        ("x-bin", "AAECAw"),
        ("user-agent", "a b"),
        ("e", ""),
    ]
    assert malformed_request(fields) is None


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([*REQUEST, ("Upper", "x")], "field name 'Upper'"),
        ([*REQUEST, ("", "x")], "field name ''"),
        ([*REQUEST, ("with space", "x")], "field name 'with space'"),
        ([*REQUEST, ("a:b", "x")], "field name 'a:b'"),
        ([*REQUEST, ("\xe9", "x")], "field name 'é'"),
        ([*REQUEST, ("x", "a\x00b")], "value of field 'x'"),
        ([*REQUEST, ("x", "a\rb")], "value of field 'x'"),
        ([*REQUEST, ("x", "a\n")], "value of field 'x'"),
        ([*REQUEST, ("x", " a")], "value of field 'x'"),
        ([*REQUEST, ("x", "a\t")], "value of field 'x'"),
        ([*REQUEST, ("x", "\xe9")], "value of field 'x'"),
        ([*REQUEST, (":authority", "x")], "':authority' after regular fields"),
        ([(":status", "200"), *REQUEST], "pseudo-header ':status'"),
        ([(":unknown", "x"), *REQUEST], "pseudo-header ':unknown'"),
        ([(":path", "/x"), *REQUEST], "':path' twice"),
        ([*REQUEST, ("connection", "close")], "connection-specific field 'connection'"),
        ([*REQUEST, ("transfer-encoding", "chunked")], "connection-specific field 'transfer-encoding'"),
        ([*REQUEST, ("te", "gzip")], "connection-specific field 'te'"),
        ([field for field in REQUEST if field[0] != ":method"], "no ':method'"),
        ([field for field in REQUEST if field[0] != ":scheme"], "no ':scheme'"),
        ([(":path", "") if name == ":path" else (name, value) for name, value in REQUEST], "no ':path'"),
    ],
)
def test_what_is_malformed_in_a_request_is_named(fields: Headers, reason: str) -> None:
    assert malformed_request(fields) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([(":status", "200"), ("a", "b")], None),
        ([("a", "b")], "no ':status'"),
        ([], "no ':status'"),
        ([(":path", "/"), (":status", "200")], "pseudo-header ':path'"),
        ([(":status", "200"), ("upgrade", "x")], "connection-specific field 'upgrade'"),
    ],
)
def test_what_is_malformed_in_a_response_is_named(fields: Headers, reason: str | None) -> None:
    assert malformed_response(fields) == reason


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ([("grpc-status", "0")], None),
        ([], None),
        ([(":status", "200")], "pseudo-header ':status'"),
        ([("Grpc-Status", "0")], "field name 'Grpc-Status'"),
    ],
)
def test_what_is_malformed_in_trailers_is_named(fields: Headers, reason: str | None) -> None:
    assert malformed_trailers(fields) == reason
