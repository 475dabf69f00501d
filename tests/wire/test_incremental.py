from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.config import Limits
from openfl_aio.domain import Header
from openfl_aio.errors import (
    EmptyStreamError,
    InvalidStateError,
    MalformedMessageError,
    MalformedStreamError,
    MessageTooLargeError,
    RemoteProtocolError,
)
from openfl_aio.tensors.codec import EncodedTensor, TransformerMetadata
from openfl_aio.tensors.extremes import Extremes
from openfl_aio.wire import incremental
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.convert import header_to_proto, model_to_proto, tensor_from_proto, tensor_to_proto
from openfl_aio.wire.incremental import (
    TaskResultsDecoder,
    TaskResultsIndex,
    TensorRecord,
    encode_model,
    encode_task_results,
)
from openfl_aio.wire.messages import ModelProto, aggregator
from openfl_aio.wire.varints import encode_varint

HEADER = Header("site", "aggregator_plan.yaml_0", "plan.yaml_0", "")
int32 = st.integers(-(2**31), 2**31 - 1)
metadata = st.builds(
    TransformerMetadata,
    st.dictionaries(int32, st.floats(width=32, allow_nan=False), max_size=2),
    st.lists(int32, max_size=3).map(tuple),
    st.lists(st.booleans(), max_size=2).map(tuple),
)
tensors = st.builds(
    EncodedTensor,
    name=st.text(max_size=6),
    round_number=int32,
    lossless=st.booleans(),
    report=st.booleans(),
    tags=st.lists(st.text(max_size=4), max_size=3).map(tuple),
    metadata=st.lists(metadata, max_size=2).map(tuple),
    data=st.binary(max_size=300),
)
uploads = st.lists(tensors, max_size=4)


def tensor(name: str = "w", data: bytes = b"12345678") -> EncodedTensor:
    return EncodedTensor(name, 3, True, False, ("compressed", "trained"), (TransformerMetadata(int_list=(2,)),), data)


def serialized(items: list[EncodedTensor]) -> bytes:
    parts = encode_task_results(header=HEADER, round_number=3, task_name="train", data_size=10, tensors=items)
    return b"".join(parts)


def index(raw: bytes, *, step: int | None = None, limits: Limits | None = None) -> TaskResultsIndex:
    decoder = TaskResultsDecoder(limits=limits or Limits())
    for start in range(0, len(raw), step or len(raw)):
        decoder.feed(raw[start : start + (step or len(raw))])
    return decoder.finish()


def restored(raw: bytes, record: TensorRecord) -> EncodedTensor:
    return EncodedTensor(
        record.name,
        record.round_number,
        record.lossless,
        record.report,
        record.tags,
        record.metadata,
        raw[record.offset : record.offset + record.nbytes],
    )


def field(number: int, payload: bytes) -> bytes:
    return encode_varint(number << 3 | 2) + encode_varint(len(payload)) + payload


@settings(max_examples=80)
@given(uploads)
def test_the_parts_are_the_message(items: list[EncodedTensor]) -> None:
    message = aggregator.TaskResults(
        header=header_to_proto(HEADER),
        round_number=3,
        task_name="train",
        data_size=10,
        tensors=[tensor_to_proto(item) for item in items],
    )
    assert serialized(items) == encode(message)
    assert b"".join(encode_model(items)) == encode(model_to_proto(items))


@settings(max_examples=350)
@given(uploads, st.data())
def test_any_fragmentation_gives_the_same_index(items: list[EncodedTensor], data: st.DataObject) -> None:
    raw = serialized(items)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)), max_size=12)))
    decoder = TaskResultsDecoder(limits=Limits())
    for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
        decoder.feed(memoryview(raw)[start:end])
    result = decoder.finish()
    assert (result.header, result.round_number, result.task_name, result.data_size) == (HEADER, 3, "train", 10)
    assert result.total_bytes == len(raw)
    assert [restored(raw, record) for record in result.tensors] == items


@settings(max_examples=350)
@given(uploads, st.data())
def test_a_truncation_is_refused_or_between_two_fields(items: list[EncodedTensor], data: st.DataObject) -> None:
    raw = serialized(items)
    cut = raw[: data.draw(st.integers(1, len(raw) - 1))]
    try:
        result = index(cut, step=7)
    except MalformedStreamError:
        with pytest.raises(MalformedMessageError):
            decode(aggregator.TaskResults, cut)
    else:
        whole = decode(aggregator.TaskResults, cut)
        assert [restored(cut, record) for record in result.tensors] == [
            tensor_from_proto(item) for item in whole.tensors
        ]


@settings(max_examples=200)
@given(st.one_of(st.binary(min_size=1, max_size=40), st.binary(max_size=30).map(lambda raw: field(5, raw))))
def test_any_bytes_mean_the_same_as_to_the_codec(raw: bytes) -> None:
    try:
        whole = decode(aggregator.TaskResults, raw)
    except MalformedMessageError:
        with pytest.raises(RemoteProtocolError):
            index(raw, step=3)
    else:
        result = index(raw, step=3)
        assert [restored(raw, record) for record in result.tensors] == [
            tensor_from_proto(item) for item in whole.tensors
        ]
        assert (result.round_number, result.task_name, result.data_size) == (
            whole.round_number,
            whole.task_name,
            whole.data_size,
        )


@pytest.mark.parametrize("step", [1, 5, None])
def test_fields_may_come_in_any_order(step: int | None) -> None:
    name, tag, data = field(1, b"w"), field(5, b"compressed"), field(7, b"payload")
    raw = field(5, data + tag + name) + field(3, b"train") + field(5, name + data) + b"\x10\x04"
    result = index(raw, step=step)
    assert (result.round_number, result.task_name, result.header) == (4, "train", Header("", "", ""))
    assert [(record.name, record.tags, record.nbytes) for record in result.tensors] == [
        ("w", ("compressed",), 7),
        ("w", (), 7),
    ]
    assert all(restored(raw, record).data == b"payload" for record in result.tensors)


@settings(deadline=None)
@given(st.data(), st.lists(st.floats(width=32), min_size=1, max_size=9), st.booleans())
def test_the_extremes_of_plain_payloads_are_found_on_the_way(
    data: st.DataObject, floats: list[float], plain: bool
) -> None:
    values = np.array(floats, np.float32)
    raw = serialized([tensor("a", values.tobytes()), tensor("b", b"")])
    cuts = data.draw(st.lists(st.integers(0, len(raw)), max_size=5).map(sorted))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(incremental, "_LEAST_LOOKED_AT", 1)
        decoder = TaskResultsDecoder(limits=Limits(), is_plain=lambda tags: plain)
        for start, end in zip([0, *cuts], [*cuts, len(raw)], strict=True):
            decoder.feed(raw[start:end])
        extremes, of_empty = decoder.finish().extremes
    assert of_empty is None
    if not plain:
        assert extremes is None
    else:
        assert extremes is not None
        assert extremes.finite == bool(np.isfinite(values).all())
        if extremes.finite:
            assert (extremes.lowest, extremes.highest) == (values.min(), values.max())


def test_what_is_said_of_a_payload_is_said_of_the_last_one() -> None:
    few, many = np.full(2, 9, np.float32).tobytes(), np.full(2**14, 5, np.float32).tobytes()
    for payloads, expected in (((many, few), None), ((few, many), Extremes(5.0, 5.0))):
        fields = encode(tensor_to_proto(tensor("a", b""))) + b"".join(field(7, payload) for payload in payloads)
        decoder = TaskResultsDecoder(limits=Limits(), is_plain=lambda tags: True)
        decoder.feed(serialized([]) + field(5, fields))
        assert decoder.finish().extremes == (expected,)


def test_the_last_payload_of_a_tensor_wins() -> None:
    raw = field(5, field(7, b"first") + field(1, b"w") + field(7, b"second!"))
    (record,) = index(raw).tensors
    assert restored(raw, record).data == b"second!"


def test_unknown_fields_and_groups_are_passed_over() -> None:
    unknown = b"\xa3\x06" + field(7, b"not the payload") + b"\xa4\x06" + b"\xa1\x06" + bytes(8) + b"\xa5\x06" + bytes(4)
    raw = unknown + field(5, unknown + field(1, b"w") + field(7, b"x")) + unknown
    (record,) = index(raw, step=2).tensors
    assert (record.name, restored(raw, record).data) == ("w", b"x")


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(field(5, b"\x3a\x09abc"), id="payload beyond its tensor"),
        pytest.param(field(5, b"\x0a\x09abc"), id="name beyond its tensor"),
        pytest.param(field(5, b"\x0a"), id="no length"),
        pytest.param(field(5, b"\xa1\x06abc"), id="half a 64 bit value"),
        pytest.param(field(5, b"\xa3\x06"), id="group without an end"),
        pytest.param(field(5, b"\xac\x06"), id="end without a group"),
        pytest.param(b"\x0e", id="wire type 6"),
        pytest.param(b"\xff" * 11, id="varint of eleven bytes"),
        pytest.param(b"\x02\x00", id="field number 0"),
        pytest.param(field(5, b"\xa3\x06\xac\x06"), id="end of another group"),
        pytest.param(field(5, field(1, b"\xff")), id="name that is no UTF-8"),
        pytest.param(field(3, b"\xff"), id="task name that is no UTF-8"),
        pytest.param(field(1, b"\x0a\x05"), id="header cut"),
    ],
)
@pytest.mark.parametrize("step", [1, None])
def test_malformed_uploads_are_refused(raw: bytes, step: int | None) -> None:
    with pytest.raises(MalformedMessageError):
        index(raw, step=step)


@pytest.mark.parametrize("raw", [b"\x10", b"\xa3\x06", field(5, field(7, b"abc"))[:-1], field(3, b"abc")[:-1]])
def test_a_stream_that_ends_early_is_refused(raw: bytes) -> None:
    with pytest.raises(MalformedStreamError, match=f"ended after {len(raw)} bytes"):
        index(raw)


def test_an_empty_stream_is_an_error_of_its_own() -> None:
    decoder = TaskResultsDecoder(limits=Limits())
    decoder.feed(b"")
    with pytest.raises(EmptyStreamError):
        decoder.finish()


@pytest.mark.parametrize(
    ("limits", "items", "match"),
    [
        (Limits(max_tensors=1), [tensor("a"), tensor("b")], "at most 1 tensors"),
        (Limits(max_tags=1), [tensor()], "at most 1 tags on tensor 'w', got 2"),
        (
            Limits(max_metadata=1),
            [EncodedTensor("w", 0, True, False, (), (TransformerMetadata(),) * 2, b"")],
            "at most 1 metadata",
        ),
        (Limits(max_upload_bytes=50), [tensor()], "at most 50 bytes"),
    ],
)
def test_limits(limits: Limits, items: list[EncodedTensor], match: str) -> None:
    with pytest.raises(MessageTooLargeError, match=match):
        index(serialized(items), limits=limits)


def test_what_is_no_payload_is_bounded_before_it_arrives() -> None:
    decoder = TaskResultsDecoder(limits=Limits())
    with pytest.raises(MessageTooLargeError, match="names, tags and metadata"):
        decoder.feed(b"\x1a" + encode_varint(incremental.MAX_INDEX_BYTES))
    with pytest.raises(MessageTooLargeError, match="on a tensor"):
        TaskResultsDecoder(limits=Limits()).feed(b"\x2a\x80\x80\x80\x01\x0a" + encode_varint(1 << 20))
    long_names = field(5, field(1, b"w" * 1_000_000)) * 17
    with pytest.raises(MessageTooLargeError, match="in an upload"):
        index(long_names, step=1 << 20)


@pytest.mark.parametrize("raw", [field(5, field(7, b"") * 300), field(5, b"\x2a\x00" * 300), b"\x10\x01" * 10_300])
def test_the_number_of_fields_is_bounded(raw: bytes) -> None:
    with pytest.raises(MessageTooLargeError, match="fields"):
        index(raw)


def test_the_fields_of_all_tensors_together_are_bounded() -> None:
    limits = Limits(max_tensors=1_000)
    raw = field(5, b"\x10\x01" * 100) * 1_000
    with pytest.raises(MessageTooLargeError, match="at most 16000 fields"):
        index(raw, limits=limits)


def test_a_decoder_is_used_once() -> None:
    failed, ended = TaskResultsDecoder(limits=Limits()), TaskResultsDecoder(limits=Limits())
    with pytest.raises(MalformedMessageError):
        failed.feed(b"\x0e")
    ended.feed(serialized([tensor()]))
    assert repr(ended).endswith("tensors=1)")
    ended.finish()
    for decoder in (failed, ended):
        with pytest.raises(InvalidStateError, match="use a new one"):
            decoder.feed(b"")
        with pytest.raises(InvalidStateError, match="use a new decoder"):
            decoder.finish()


def test_one_tensor_is_alive_at_a_time() -> None:
    made: list[str] = []

    def produce() -> Iterator[EncodedTensor]:
        for name in "abc":
            made.append(name)
            yield tensor(name)

    parts = encode_model(produce())
    next(parts)
    next(parts)
    assert made == ["a"]


def test_payloads_are_passed_on_as_they_are() -> None:
    payload = memoryview(bytearray(b"payload!"))
    item = EncodedTensor("w", 0, True, False, (), (), payload)
    head, body = encode_model([item])
    assert body is payload
    assert decode(ModelProto, bytes(head) + bytes(body)).tensors[0].data_bytes == b"payload!"
