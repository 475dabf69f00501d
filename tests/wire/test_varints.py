from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.errors import MalformedMessageError
from openfl_aio.wire.varints import LENGTH, VARINT, encode_varint, read_tag, read_varint, skip_field


@given(st.integers(0, 2**64 - 1))
def test_varints(value: int) -> None:
    raw = encode_varint(value)
    assert read_varint(raw, 0, len(raw)) == (value, len(raw))


@given(st.integers(1, 2**29 - 1), st.integers(0, 5))
def test_tags(number: int, wire_type: int) -> None:
    raw = b"before" + encode_varint(number << 3 | wire_type)
    assert read_tag(raw, 6, len(raw)) == (number << 3 | wire_type, len(raw))


@pytest.mark.parametrize("number", [0, 2**29])
def test_field_numbers_are_checked(number: int) -> None:
    raw = encode_varint(number << 3)
    with pytest.raises(MalformedMessageError, match=f"got {number}"):
        read_tag(raw, 0, len(raw))


def test_a_varint_ends_before_the_end() -> None:
    with pytest.raises(MalformedMessageError, match="ends within it"):
        read_varint(b"\x80\x01", 0, 1)


def test_fields_are_skipped() -> None:
    assert skip_field(b"\x80\x01rest", 0, 6, 8 | VARINT) == 2
    assert skip_field(b"\x03abcrest", 0, 8, 8 | LENGTH) == 4
