from __future__ import annotations

import pytest

from openfl_aio.wire.messages import MetadataProto, NamedTensor, director
from openfl_aio.wire.schema import READ_BYTES, READ_MAP, READ_PACKED_VARINT, READ_TEXT, READ_VARINT, schema_of


def test_a_table_is_made_once() -> None:
    assert schema_of(NamedTensor) is schema_of(NamedTensor)


def test_readers_are_found_by_tag() -> None:
    readers = schema_of(NamedTensor).readers
    assert [(readers[number << 3 | 2].name, readers[number << 3 | 2].kind) for number in (1, 5, 7)] == [
        ("name", READ_TEXT),
        ("tags", READ_TEXT),
        ("data_bytes", READ_BYTES),
    ]
    assert readers[2 << 3].kind == READ_VARINT
    assert 2 << 3 | 2 not in readers


def test_lists_of_numbers_are_read_in_both_forms() -> None:
    readers = schema_of(MetadataProto).readers
    assert (readers[2 << 3].kind, readers[2 << 3 | 2].kind) == (READ_VARINT, READ_PACKED_VARINT)
    assert readers[1 << 3 | 2].kind == READ_MAP


def test_writers_are_in_the_order_of_field_numbers() -> None:
    tags = [writer.length_tag[0] >> 3 for writer in schema_of(NamedTensor).writers]
    assert tags == sorted(tags)


def test_singular_sub_messages_are_listed() -> None:
    assert [(name, unwrapped) for name, _, unwrapped in schema_of(director.EnvoyInfo).nested] == [
        ("shard_info", False),
        ("last_updated", True),
        ("valid_duration", True),
    ]


@pytest.mark.parametrize(("value", "raw"), [(-1, b"\xff" * 9 + b"\x01"), (300, b"\xac\x02")])
def test_numbers_are_written_as_varints(value: int, raw: bytes) -> None:
    scalar = schema_of(NamedTensor).writers[1].scalar
    assert scalar is not None
    assert scalar(value) == raw
