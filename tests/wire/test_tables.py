"""Tables of values for each element: written and read as the codec does it entry by entry, and bounded by the tensor."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.config import Limits
from openfl_aio.errors import MalformedMessageError, MessageTooLargeError
from openfl_aio.storage.journal import Entry, UploadRecord
from openfl_aio.storage.upload_file import metadata_of, metadata_values
from openfl_aio.tensors.encoded import EncodedTensor, TransformerMetadata
from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.tensors.pipelines.random_shift import RandomShift
from openfl_aio.wire import tables
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.convert import metadata_from_proto, tensor_from_proto, tensor_to_proto
from openfl_aio.wire.incremental import TaskResultsDecoder, TaskResultsIndex, encode_task_results
from openfl_aio.wire.messages import MetadataProto, NamedTensor
from openfl_aio.wire.scan import most_fields
from openfl_aio.wire.tables import encode_table, read_entries, read_table
from openfl_aio.wire.varints import encode_varint
from tests.wire.test_incremental import HEADER

floats = st.floats(width=32, allow_nan=False)
keys = st.one_of(st.integers(0, 300), st.integers(-(2**31), 2**31 - 1))
TOO_MANY = most_fields(Limits()) // 3  # entries, of three fields each


def entry(key: int, value: float, *, key_left_out: bool = False, value_left_out: bool = False) -> bytes:
    inner = b"" if key_left_out else b"\x08" + encode_varint(key & 0xFFFFFFFFFFFFFFFF)
    inner += b"" if value_left_out else b"\x15" + struct.pack("<f", value)
    return b"\x0a" + encode_varint(len(inner)) + inner


entries = st.builds(entry, keys, floats, key_left_out=st.booleans(), value_left_out=st.booleans())
other_entries = st.one_of(
    entries,
    st.builds(
        lambda key, value: b"\x0a\x07\x15" + struct.pack("<f", value) + b"\x08" + bytes((key,)),
        st.integers(0, 9),
        floats,
    ),
    st.just(b"\x0a\x04\x08\x80\x80\x00"),  # a longer varint than need be
    st.just(b"\x0a\x04\x08\x01\x08\x02"),  # a key twice
    st.just(b"\x0a\x02\x18\x01"),  # a field that is not known
)


def tensor(count: int, *, name: str = "w") -> EncodedTensor:
    array = np.random.default_rng(count).normal(size=count).astype(np.float32)
    data, metadata = RandomShift().forward(array)
    return EncodedTensor(name, 3, True, False, ("compressed", "trained"), metadata, bytes(data))


@given(st.dictionaries(keys, floats, max_size=30))
def test_the_bytes_are_the_codec_s(values: dict[int, float]) -> None:
    table = FloatTable(np.array(list(values.values())), np.array(list(values), np.int32))
    expected = encode(MetadataProto(int_to_float=dict(sorted(values.items()))))
    assert encode_table(table) == expected
    assert encode(MetadataProto(int_to_float=table)) == expected  # type: ignore[arg-type]


def test_the_bytes_of_a_large_table_are_the_codec_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_BLOCK", 1000)
    values = np.random.default_rng(1).normal(size=20_000).astype(np.float32)
    raw = encode_table(FloatTable(values))
    assert raw == encode(MetadataProto(int_to_float=dict(enumerate(values.tolist()))))
    table, count, nbytes = read_table(raw, len(values))
    assert (count, nbytes) == (len(values), len(raw))
    assert table.keys_ is None
    assert table.values_.tolist() == values.tolist()


@given(st.lists(entries, max_size=30).map(b"".join))
def test_entries_mean_what_they_mean_to_the_codec(raw: bytes) -> None:
    table, _, nbytes = read_table(raw, 100)
    expected = decode(MetadataProto, raw).int_to_float
    whole = [key for key in expected if key >= 0]
    if len(whole) == len(expected):  # a negative key has ten bytes, and is for the codec
        assert nbytes == len(raw)
    assert dict(table) == decode(MetadataProto, raw[:nbytes]).int_to_float


@given(st.one_of(st.lists(other_entries, max_size=20).map(b"".join), st.binary(max_size=60)))
def test_whatever_is_read_of_any_bytes_means_the_same_to_the_codec(raw: bytes) -> None:
    some_keys, some_values, nbytes = read_entries(raw)
    found = dict(zip(some_keys.tolist(), some_values.tolist(), strict=True))
    # as text: NaN is not equal to itself
    assert str(found) == str(decode(MetadataProto, raw[:nbytes]).int_to_float)


@given(st.lists(other_entries, max_size=200).map(b"".join), st.data())
def test_a_message_with_tables_means_the_same_or_is_refused(raw: bytes, data: st.DataObject) -> None:
    message = raw + encode(MetadataProto(int_list=[2, 3])) * data.draw(st.integers(0, 1)) + bytes(0)
    expected = decode(MetadataProto, message)
    whole = b"\x32" + encode_varint(len(message)) + message + b"\x3a\x80\x10" + bytes(2048)
    try:
        got = decode(NamedTensor, whole, tables=True).transformer_metadata[0]
    except MalformedMessageError:
        assert read_entries(raw)[2] < len(raw)
        return
    except MessageTooLargeError:
        return  # more than two bytes for each entry are to be expected
    assert dict(got.int_to_float) == expected.int_to_float
    assert got.int_list == expected.int_list


def test_a_table_for_each_element_is_refused_unless_it_is_expected() -> None:
    raw = encode(tensor_to_proto(tensor(TOO_MANY + 1)))
    with pytest.raises(MessageTooLargeError, match=r"fields in a message, got more; .* RandomShiftPipeline"):
        decode(NamedTensor, raw)
    message = decode(NamedTensor, raw, tables=True)
    assert isinstance(message.transformer_metadata[0].int_to_float, FloatTable)
    restored = tensor_from_proto(message)
    assert restored == tensor(TOO_MANY + 1)
    assert isinstance(restored.metadata[0].int_to_float, FloatTable)


def test_a_table_has_no_more_entries_than_the_tensor_has_room_for() -> None:
    large = replace(tensor(50_000), data=bytes(4))
    with pytest.raises(MessageTooLargeError, match="entries of tables in a message, got more"):
        decode(NamedTensor, encode(tensor_to_proto(large)), tables=True)
    empty = b"\x32" + encode_varint(4 << 20) + b"\x0a\x00" * (2 << 20)
    with pytest.raises(MessageTooLargeError, match="entries of tables in a message, got more"):
        decode(NamedTensor, empty, tables=True)


def test_a_large_table_is_in_one_piece() -> None:
    table = encode_table(FloatTable(np.zeros(2000)))
    for between in (b"\x10\x01", b"\x0a\x07\x15\x00\x00\x00\x00\x08\x01"):
        raw = table + between + table
        message = b"\x32" + encode_varint(len(raw)) + raw + b"\x3a" + encode_varint(20_000) + bytes(20_000)
        with pytest.raises(MalformedMessageError, match=r"entries of a large .* one after another"):
            decode(NamedTensor, message, tables=True)
        decoder = TaskResultsDecoder(limits=Limits(), max_entries=10_000)
        with pytest.raises(MalformedMessageError, match=r"entries of a large table on tensor .* one after another"):
            decoder.feed(b"\x2a" + encode_varint(len(message)) + message)


def serialized(*items: EncodedTensor) -> bytes:
    parts = encode_task_results(header=HEADER, round_number=3, task_name="train", data_size=10, tensors=items)
    return b"".join(parts)


def index(raw: bytes, max_entries: int, *, steps: list[int] | None = None) -> tuple[TaskResultsIndex, int]:
    decoder = TaskResultsDecoder(limits=Limits(), max_entries=max_entries)
    for start, stop in zip([0, *(steps or [])], [*(steps or []), len(raw)], strict=True):
        decoder.feed(raw[start:stop])
    return decoder.finish(), decoder.index_bytes


@given(st.lists(st.integers(0, 400), max_size=3), st.data())
def test_an_upload_s_tables_are_left_where_they_are(counts: list[int], data: st.DataObject) -> None:
    items = [tensor(count, name=f"w{number}") for number, count in enumerate(counts)]
    raw = serialized(*items)
    steps = sorted(data.draw(st.lists(st.integers(0, len(raw)), max_size=30)))
    found, index_bytes = index(raw, sum(counts), steps=steps)
    assert index_bytes < 1024 * (1 + len(items))
    record = UploadRecord("f", 3, "train", "site", 10, found.tensors, len(raw))
    upload = Entry(record, memoryview(raw))
    for item, one in zip(items, found.tensors, strict=True):
        restored = upload.tensor(one)
        assert restored == replace(item, data=restored.data)
        assert bytes(restored.data) == item.data
        if len(item.data) >= 1024:  # then the table is longer still
            assert not one.metadata[0].int_to_float
            assert [place is not None for place in one.tables] == [True, False]


@pytest.mark.parametrize("step", [1, 7, 100])
def test_an_upload_in_small_pieces(step: int) -> None:
    raw = serialized(tensor(1000))
    whole, _ = index(raw, 1000)
    assert index(raw, 1000, steps=list(range(step, len(raw), step)))[0] == whole


def test_an_upload_has_no_more_entries_than_the_model_has_use_for() -> None:
    raw = serialized(tensor(5000), tensor(5000, name="v"))
    index(raw, 10_000)
    with pytest.raises(MessageTooLargeError, match="expected at most 9999 entries of tables in an upload"):
        index(raw, 9_999)


@pytest.mark.parametrize(("count", "what"), [(TOO_MANY + 1, "fields in a message"), (200_000, "bytes of names, tags")])
def test_an_upload_with_tables_is_refused_unless_they_are_expected(count: int, what: str) -> None:
    raw = serialized(tensor(count))
    with pytest.raises(MessageTooLargeError, match=f"expected at most .* {what}.* got more; .* RandomShiftPipeline"):
        index(raw, 0)
    assert index(raw, count)[0].tensors[0].tables[0] is not None


def test_files_name_the_place_of_a_table_and_hold_values_that_have_none() -> None:
    values = np.random.default_rng(2).normal(size=3000).astype(np.float32)
    for table in (FloatTable(values), FloatTable(values[:3], np.array([5, 1, 2], np.int32))):
        metadata = (TransformerMetadata(table, (3000,)), TransformerMetadata({0: 0.5}, (1,), (True,)))
        written = metadata_values(metadata)
        assert metadata_of(written) == metadata
    assert len(str(metadata_values((TransformerMetadata(FloatTable(values)),)))) < 6 * len(values)


def test_metadata_keep_a_table_as_it_is() -> None:
    table = FloatTable(np.zeros(3))
    assert metadata_from_proto(MetadataProto(int_to_float=table)).int_to_float is table  # type: ignore[arg-type]
