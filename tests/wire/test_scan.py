from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.config import Limits
from openfl_aio.errors import MalformedMessageError, MessageTooLargeError
from openfl_aio.wire import codec
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.messages import DataStream, MetadataProto, ModelProto, NamedTensor, aggregator, director, v1
from openfl_aio.wire.scan import check_contents, most_fields, most_objects
from openfl_aio.wire.varints import encode_varint

MIB = 1024 * 1024
LIMITS = Limits()

# tags: field number << 3 | wire type
MODEL, TENSOR, TAGS, METADATA, TABLE, SHAPE = b"\x22", b"\x0a", b"\x2a", b"\x32", b"\x0a", b"\x12"


def field(tag: bytes, payload: bytes) -> bytes:
    return tag + encode_varint(len(payload)) + payload


def model(tensors: bytes) -> bytes:
    return field(MODEL, tensors)


def filled(unit: bytes) -> bytes:
    return unit * (8 * MIB // len(unit))


HOSTILE = {
    "empty tensors": model(filled(field(TENSOR, b""))),
    "tags of one tensor": model(field(TENSOR, filled(field(TAGS, b"")))),
    "64 tags of many tensors": model(filled(field(TENSOR, field(TAGS, b"") * 64))),
    "50 long tags of many tensors": model(filled(field(TENSOR, field(TAGS, b"x" * 12) * 50))),
    "64 metadata of many tensors": model(filled(field(TENSOR, field(METADATA, b"") * 64))),
    "metadata of one tensor": model(field(TENSOR, filled(field(METADATA, b"")))),
    "a shape": model(field(TENSOR, field(METADATA, field(SHAPE, bytes(8 * MIB))))),
    "a shape in single numbers": model(field(TENSOR, field(METADATA, filled(b"\x10\x01")))),
    "entries of a table": model(field(TENSOR, field(METADATA, filled(field(TABLE, b""))))),
    "one number over and over": model(field(TENSOR, filled(b"\x10\x01"))),
    "unknown numbers": filled(b"\xf8\x7f\x01"),
    "unknown fixed numbers": filled(b"\xfd\x7f\x01\x01\x01\x01"),
    "unknown empty bytes": filled(b"\xfa\x7f\x00"),
    "groups": filled(b"\xfb\x7f\xfc\x7f"),
    "nested groups": filled(b"\xfb\x7f"),
    "tensors in a group": b"\xfb\x7f" + model(filled(field(TENSOR, b""))) * 2 + filled(b"\x10\x01"),
}


class Read(bytes):
    """Bytes that count how often somebody looks at them: what a scan costs, on any machine."""

    looks = 0

    def __getitem__(self, key: Any) -> Any:
        self.looks += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_eight_mib_that_ask_for_too_much_are_refused_after_a_bounded_number_of_fields(data: bytes) -> None:
    read = Read(data)
    with pytest.raises(MessageTooLargeError, match="expected at most"):
        check_contents(director.ExperimentInfo, read, LIMITS)

    # a field is a tag and a length or a value, of a byte or two each
    assert read.looks <= 4 * most_fields(LIMITS)


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE.keys())
def test_nothing_of_them_is_built(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    def build(*_: object) -> None:
        raise AssertionError("an object was built")

    monkeypatch.setattr(codec._Decoder, "fields", build)
    with pytest.raises(MessageTooLargeError, match="expected at most"):
        decode(director.ExperimentInfo, data, views=True, limits=LIMITS)


def tensor(number: int, nbytes: int = 4) -> NamedTensor:
    return NamedTensor(
        name=f"layer{number}.weight",
        round_number=number % 7,
        lossless=True,
        tags=["compressed", "model"],
        transformer_metadata=[MetadataProto(int_list=[nbytes // 4])],
        data_bytes=bytes(nbytes),
    )


@pytest.mark.parametrize("count", [1, 1000, 10_000])
def test_honest_models_pass_also_those_of_single_numbers(count: int) -> None:
    info = director.ExperimentInfo(name="x", model_proto=ModelProto(tensors=[tensor(n) for n in range(count)]))
    check_contents(director.ExperimentInfo, encode(info), LIMITS)


def test_a_table_of_values_passes() -> None:
    metadata = MetadataProto(int_to_float={n: n / 7 for n in range(20_000)}, int_list=[1] * 64)
    check_contents(NamedTensor, encode(NamedTensor(transformer_metadata=[metadata])), LIMITS)


@pytest.mark.parametrize(
    ("message", "limits", "what"),
    [
        (ModelProto(tensors=[tensor(n) for n in range(4)]), {"max_tensors": 3}, "3 elements of 'tensors'"),
        (NamedTensor(tags=["a"] * 4), {"max_tags": 3}, "3 elements of 'tags'"),
        (NamedTensor(transformer_metadata=[MetadataProto()] * 4), {"max_metadata": 3}, "3 elements of 'transformer"),
        (MetadataProto(int_list=[300] * 65), {}, "64 elements of 'int_list'"),
        (v1.TensorsRequest(queries=[aggregator.GetAggregatedTensorRequest()] * 129), {}, "128 elements of 'queries'"),
        (
            director.UpdateEnvoyStatusRequest(cuda_devices=[director.CudaDeviceInfo()] * 65),
            {},
            "64 elements of 'cuda_d",
        ),
        (director.NodeInfo(cuda_devices=[director.CudaDeviceInfo()] * 65), {}, "64 elements of 'cuda_d"),
    ],
)
def test_each_list_has_its_limit(message: Any, limits: dict[str, int], what: str) -> None:
    with pytest.raises(MessageTooLargeError, match=what):
        check_contents(type(message), encode(message), Limits(**limits))


def test_the_bytes_of_a_tensor_cost_nothing() -> None:
    data = Read(encode(DataStream(size=64 * MIB, npbytes=bytes(64 * MIB))))
    check_contents(DataStream, data, LIMITS)

    assert data.looks < 20


def test_objects_go_with_the_size() -> None:
    assert most_objects(0) == 4_000
    assert most_objects(16 * 1_000) == 8_000


@pytest.mark.parametrize(
    "data",
    [b"\x0a\x05abc", b"\x0a", b"\x80", b"\x10\x80", b"\x0f\x00", b"\x0c", b"\x00\x01", b"\x0a\x80"],
    ids=[
        "cut bytes",
        "cut length",
        "cut tag",
        "cut number",
        "wire type 7",
        "lone group end",
        "field 0",
        "half a length",
    ],
)
def test_what_cannot_be_passed_over_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessageError):
        check_contents(NamedTensor, data, LIMITS)


@given(st.binary(max_size=200))
def test_a_scan_refuses_nothing_small_that_the_decoder_takes(data: bytes) -> None:
    try:
        decode(NamedTensor, data)
    except MalformedMessageError:
        return
    check_contents(NamedTensor, data, LIMITS)
