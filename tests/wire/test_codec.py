# ruff: noqa: RUF009
from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import betterproto2 as bp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.config import Limits
from openfl_aio.errors import LocalProtocolError, MalformedMessageError, MessageTooLargeError
from openfl_aio.wire.codec import EncodedMessage, decode, encode, encode_parts
from openfl_aio.wire.messages import DataStream, MetadataProto, ModelProto, NamedTensor, aggregator, director
from openfl_aio.wire.varints import encode_varint

Header = aggregator.MessageHeader


@dataclass(eq=False, repr=False)
class Everything(bp.Message):
    """One field of each kind that OpenFL's own messages do not use."""

    double: float = bp.field(1, bp.TYPE_DOUBLE)
    fixed32: int = bp.field(2, bp.TYPE_FIXED32)
    sfixed64: list[int] = bp.field(3, bp.TYPE_SFIXED64, repeated=True)
    sint32: int = bp.field(4, bp.TYPE_SINT32)
    sint64: list[int] = bp.field(5, bp.TYPE_SINT64, repeated=True)
    int64: int = bp.field(6, bp.TYPE_INT64)
    maybe: int | None = bp.field(7, bp.TYPE_UINT32, optional=True)
    left: str | None = bp.field(8, bp.TYPE_STRING, group="side")
    right: Header | None = bp.field(9, bp.TYPE_MESSAGE, group="side")
    child: Everything | None = bp.field(1000, bp.TYPE_MESSAGE, optional=True)


finite = st.floats(width=32, allow_nan=False)
int32 = st.integers(-(2**31), 2**31 - 1)
metadata = st.builds(
    MetadataProto,
    int_to_float=st.dictionaries(int32, finite, max_size=4),
    int_list=st.lists(int32, max_size=4),
    bool_list=st.lists(st.booleans(), max_size=4),
)
named_tensors = st.builds(
    NamedTensor,
    name=st.text(max_size=8),
    round_number=int32,
    lossless=st.booleans(),
    report=st.booleans(),
    tags=st.lists(st.text(max_size=5), max_size=3),
    transformer_metadata=st.lists(metadata, max_size=2),
    data_bytes=st.binary(max_size=32),
)
headers = st.builds(
    Header, sender=st.text(max_size=5), receiver=st.text(max_size=5), federation_uuid=st.text(max_size=5)
)
messages = st.one_of(
    st.builds(
        aggregator.TaskResults,
        header=st.none() | headers,
        round_number=int32,
        task_name=st.text(max_size=5),
        data_size=int32,
        tensors=st.lists(named_tensors, max_size=3),
    ),
    st.builds(
        aggregator.GetMetricStreamResponse,
        metric_origin=st.text(max_size=5),
        metric_value=finite,
        round=st.integers(0, 2**32 - 1),
    ),
    st.builds(
        director.GetTrainedModelRequest,
        experiment_name=st.text(max_size=5),
        model_type=st.sampled_from(list(director.GetTrainedModelRequestModelType)),
    ),
    st.builds(
        director.EnvoyInfo,
        is_online=st.booleans(),
        last_updated=st.none() | st.datetimes(timezones=st.just(UTC)),
        valid_duration=st.none() | st.integers(0, 10**9).map(lambda seconds: timedelta(seconds=seconds)),
    ),
)


@settings(max_examples=150)
@given(messages, st.booleans())
def test_a_message_survives_the_wire(message: bp.Message, views: bool) -> None:
    raw = encode(message)
    assert decode(type(message), raw, views=views) == message
    assert b"".join(encode_parts(message)) == raw


@settings(max_examples=100)
@given(messages, st.data())
def test_a_cut_message_is_refused_or_is_a_prefix_of_fields(message: bp.Message, data: st.DataObject) -> None:
    raw = encode(message)
    cut = data.draw(st.integers(0, len(raw)))
    try:
        shorter = decode(type(message), raw[:cut])
    except MalformedMessageError:
        return
    # where the cut fell between two fields, what is left is a whole message
    assert len(encode(shorter)) <= len(raw)


@settings(max_examples=200)
@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_or_refused(raw: bytes) -> None:
    for cls in (aggregator.TaskResults, director.EnvoyInfo, MetadataProto, Everything):
        try:
            decode(cls, raw, views=True)
        except MalformedMessageError:
            continue


def test_every_kind_of_field() -> None:
    message = Everything(
        double=0.1,
        fixed32=2**32 - 1,
        sfixed64=[-(2**63), 5],
        sint32=-(2**31),
        sint64=[-1, 2**63 - 1, -(2**63)],
        int64=-1,
        maybe=0,
        right=Header(sender="a"),
        child=Everything(left=""),
    )
    assert decode(Everything, encode(message)) == message
    assert encode(message) == bytes(message)


def test_unpacked_lists_are_read_too() -> None:
    assert decode(MetadataProto, b"\x10\x05\x10\x06\x12\x01\x07").int_list == [5, 6, 7]
    assert decode(Everything, b"\x19" + b"\x01" + b"\0" * 7).sfixed64 == [1]


def test_the_last_value_wins_and_sub_messages_merge() -> None:
    first = encode(aggregator.GetTasksResponse(header=Header(sender="a", receiver="r"), round_number=1))
    second = encode(aggregator.GetTasksResponse(header=Header(sender="b"), round_number=2))
    merged = decode(aggregator.GetTasksResponse, first + second)
    assert merged == aggregator.GetTasksResponse(header=Header(sender="b", receiver="r"), round_number=2)


def test_the_last_member_of_a_oneof_wins() -> None:
    left, right = encode(Everything(left="x")), encode(Everything(right=Header(sender="a")))
    assert decode(Everything, left + right) == Everything(right=Header(sender="a"))
    assert decode(Everything, right + left) == Everything(left="x")


def test_unknown_fields_are_skipped() -> None:
    known = encode(DataStream(size=3))
    unknown = b"".join(
        (
            b"\xa0\x06\x01",  # field 100, varint
            b"\xa1\x06" + b"x" * 8,  # 64 bit
            b"\xa2\x06\x02xx",  # length-delimited
            b"\xa3\x06\xa3\x06\x08\x01\xa4\x06\xa4\x06",  # a group in a group
            b"\xa5\x06" + b"x" * 4,  # 32 bit
        )
    )
    assert decode(DataStream, unknown + known) == DataStream(size=3)


def test_a_known_field_in_another_wire_type_is_skipped() -> None:
    assert decode(DataStream, b"\x0a\x01x" + b"\x10\x07" + b"\x08\x05") == DataStream(size=5)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\x08", id="no value"),
        pytest.param(b"\x88", id="half a tag"),
        pytest.param(b"\x08" + b"\x80" * 10 + b"\x01", id="varint of eleven bytes"),
        pytest.param(b"\x00\x01", id="field number 0"),
        pytest.param(b"\x80\x00\x01", id="field number 0 in two bytes"),
        pytest.param(b"\xff\xff\xff\xff\x7f\x01", id="field number beyond 29 bits"),
        pytest.param(b"\x88\x80\x80\x80\x80\x00\x01", id="tag of six bytes"),
        pytest.param(b"\x12\x05abc", id="length beyond the end"),
        pytest.param(b"\x0e\x01", id="wire type 6"),
        pytest.param(b"\x0f\x01", id="wire type 7"),
        pytest.param(b"\x0c", id="end of a group that did not begin"),
        pytest.param(b"\xa3\x06\xac\x06", id="end of another group"),
        pytest.param(b"\xa3\x06", id="group without an end"),
        pytest.param(b"\x1b" * 100, id="groups too deep"),
        pytest.param(b"\xa1\x06x", id="half an unknown 64 bit"),
        pytest.param(b"\xa2\x06\x05x", id="half an unknown string"),
    ],
)
def test_malformed_bytes_are_refused(raw: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="expected"):
        decode(DataStream, raw)


@pytest.mark.parametrize(
    ("cls", "raw"),
    [
        pytest.param(Header, b"\x0a\x02\xc3\x28", id="no UTF-8"),
        pytest.param(Header, b"\x0a\x03\xed\xa0\x80", id="a surrogate"),
        pytest.param(Everything, b"\x1a\x07" + b"x" * 7, id="packed 64 bit values, not whole"),
        pytest.param(Everything, b"\x15abc", id="half a 32 bit value"),
        pytest.param(MetadataProto, b"\x12\x01\x80", id="half a packed varint"),
        pytest.param(aggregator.GetTasksResponse, b"\x0a\x02\x0a\x05", id="sub-message cut"),
        pytest.param(
            director.EnvoyInfo, b"\x22\x0c\x08" + b"\xff" * 8 + b"\x7f\x10" + b"\x00", id="timestamp of year 10**11"
        ),
    ],
)
def test_malformed_values_are_refused(cls: type[bp.Message], raw: bytes) -> None:
    with pytest.raises(MalformedMessageError, match="expected"):
        decode(cls, raw)


def test_a_sub_message_cut_in_two_is_not_put_together() -> None:
    with pytest.raises(MalformedMessageError):
        decode(aggregator.GetTasksResponse, b"\x0a\x03\x0a\x04a" + b"\x0a\x03bcd")


@pytest.mark.parametrize("inside", ["", "long enough for a scan to come first" * 40])
def test_nesting_is_bounded(inside: str) -> None:
    message = Everything(left=inside)
    for _ in range(70):
        message = Everything(child=message)
    with pytest.raises(MalformedMessageError, match="levels"):
        decode(Everything, encode(message))


def test_numbers_that_came_one_by_one_are_counted_one_by_one() -> None:
    number = b"\x19" + bytes(8)
    assert decode(Everything, number * 500).sfixed64 == [0] * 500
    with pytest.raises(MessageTooLargeError, match="fields"):
        decode(Everything, number * 5_000, limits=Limits(max_tensors=10))


@pytest.mark.parametrize("repeats", [300, 100_000])
def test_what_a_message_asks_to_build_is_bounded(repeats: int) -> None:
    with pytest.raises(MessageTooLargeError, match=r"at most \d+ (objects|fields|elements)"):
        decode(ModelProto, b"\x0a\x00" * (repeats + 2_000), limits=Limits(max_tensors=10_000))
    numbers = min(repeats, 4_000)
    assert len(decode(Everything, b"\x2a" + encode_varint(numbers) + bytes(numbers)).sint64) == numbers


def test_the_bytes_of_a_message_are_bounded() -> None:
    with pytest.raises(MessageTooLargeError, match="at most 3 bytes, got 4"):
        decode(DataStream, b"\x12\x02ab", limits=Limits(max_message_bytes=3))


def test_views_share_memory_with_the_input() -> None:
    raw = bytearray(encode(DataStream(size=2, npbytes=b"ab")))
    message = decode(DataStream, raw, views=True)
    raw[-1:] = b"c"
    assert isinstance(message.npbytes, memoryview)
    assert message.npbytes == b"ac"


def test_without_views_large_bytes_are_copied() -> None:
    raw = bytearray(encode(DataStream(npbytes=b"a" * 10_000)))
    message = decode(DataStream, raw)
    raw[-1:] = b"c"
    assert message.npbytes == b"a" * 10_000


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_large_bytes_are_passed_on_without_a_copy(kind: Any) -> None:
    source = bytearray(5000)
    payload: Any = source if kind is bytearray else kind(source)
    message = aggregator.GetAggregatedTensorResponse(round_number=3, tensor=NamedTensor(name="w", data_bytes=payload))
    head, body = encode_parts(message)
    assert len(head) < 20
    source[0] = 1
    assert body[0] == (0 if kind is bytes else 1)
    assert kind is not bytes or body is payload


def test_small_parts_are_joined() -> None:
    model = ModelProto(tensors=[NamedTensor(name="a", data_bytes=bytes(5000)), NamedTensor(name="b", data_bytes=b"x")])
    assert [len(part) >= 4096 for part in encode_parts(model)] == [False, True, False]
    assert encode_parts(ModelProto()) == []
    assert len(encode_parts(Header(sender="x" * 5000))) == 1


def test_unknown_enum_numbers_are_kept() -> None:
    request = decode(director.GetTrainedModelRequest, b"\x18\x07")
    assert request.model_type == 7
    assert decode(director.GetTrainedModelRequest, encode(request)).model_type == 7


def test_well_known_types_are_python_values() -> None:
    info = director.EnvoyInfo(last_updated=datetime(2024, 1, 2, tzinfo=UTC), valid_duration=timedelta(seconds=120))
    assert decode(director.EnvoyInfo, encode(info)) == info
    assert decode(director.UpdateEnvoyStatusResponse, b"\x0a\x00").health_check_period == timedelta(0)


def test_numbers_are_cut_to_the_width_of_their_field() -> None:
    assert decode(DataStream, b"\x08" + encode_varint(2**32 + 5)).size == 5
    assert decode(NamedTensor, b"\x10" + encode_varint(2**64 - 1)).round_number == -1


def test_special_floats() -> None:
    values = [math.inf, -math.inf, 1e300, -1e300, -0.0]
    decoded = [
        decode(
            aggregator.GetMetricStreamResponse, encode(aggregator.GetMetricStreamResponse(metric_value=value))
        ).metric_value
        for value in values
    ]
    assert decoded == [math.inf, -math.inf, math.inf, -math.inf, 0.0]
    assert math.copysign(1, decoded[-1]) == -1
    nan = decode(
        aggregator.GetMetricStreamResponse, encode(aggregator.GetMetricStreamResponse(metric_value=math.nan))
    ).metric_value
    assert math.isnan(nan)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (NamedTensor(round_number=2**31), "round_number"),
        (DataStream(size=-1), "size"),
        (DataStream(size="x"), "size"),  # type: ignore[arg-type]
        (DataStream(npbytes="x"), "npbytes"),  # type: ignore[arg-type]
        (NamedTensor(name="\ud800"), "name"),
        (NamedTensor(name=3), "name"),  # type: ignore[arg-type]
        (aggregator.GetMetricStreamResponse(metric_value="x"), "metric_value"),  # type: ignore[arg-type]
        (aggregator.GetTasksRequest(header="x"), "header"),  # type: ignore[arg-type]
        (MetadataProto(int_to_float={2**31: 0.0}), "int_to_float"),
        (director.EnvoyInfo(last_updated=datetime(2024, 1, 1)), "last_updated"),
    ],
)
def test_a_value_that_its_field_cannot_hold_is_refused(message: bp.Message, field: str) -> None:
    with pytest.raises(LocalProtocolError, match=field):
        encode(message)


def test_an_encoded_message_stands_for_the_message_itself() -> None:
    big = bytes(range(256)) * 100
    model = ModelProto(tensors=[NamedTensor(name="w", data_bytes=big), NamedTensor(name="b", data_bytes=b"small")])
    response = aggregator.TrainedModelResponse(model_proto=model)
    encoded = EncodedMessage(encode_parts(model))
    assert encoded.nbytes == len(encode(model))
    assert f"{encoded.nbytes} bytes" in repr(encoded)
    standing = aggregator.TrainedModelResponse(model_proto=encoded)  # type: ignore[arg-type]
    for _ in range(2):
        assert encode(standing) == encode(response)
        assert any(part is big for part in encode_parts(standing))
    empty = aggregator.TrainedModelResponse(model_proto=EncodedMessage(()))  # type: ignore[arg-type]
    assert decode(aggregator.TrainedModelResponse, encode(empty)).model_proto == ModelProto()
