"""Our codec against Google's implementation, built from the same protos: what one accepts, the other reads the same way."""

from __future__ import annotations

import importlib
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import betterproto2 as bp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.config import Limits
from openfl_aio.domain import Header
from openfl_aio.errors import MalformedMessageError, RemoteProtocolError
from openfl_aio.wire import messages
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.incremental import TaskResultsDecoder

PROTO = Path(__file__).parents[2] / "proto"
PACKAGES = {
    "": messages,
    "openfl.aggregator.": messages.aggregator,
    "openfl.director.": messages.director,
    "openfl_aio.v1.": messages.v1,
}
OURS: dict[str, type[bp.Message]] = {
    prefix + name: cls
    for prefix, module in PACKAGES.items()
    for name in module.__all__
    if isinstance(cls := getattr(module, name), type) and issubclass(cls, bp.Message)
}
# Python's times are narrower and coarser than Google's: these are compared for times that both can hold
TIMED = {"openfl.director.EnvoyInfo", "openfl.director.GetEnvoysResponse", "openfl.director.UpdateEnvoyStatusResponse"}

# in a message without any field Google lets the invalid field number 0 pass; we do not
FIELDLESS = {name for name, cls in OURS.items() if not vars(cls)["__dataclass_fields__"]}
COMPARED = sorted(OURS.keys() - TIMED - FIELDLESS)


@cache
def theirs() -> dict[str, Any]:
    """Google's message classes by full name."""
    # imported by name: this environment alone has them, and no type checker needs to
    protoc = importlib.import_module("grpc_tools.protoc")
    descriptors = importlib.import_module("google.protobuf.descriptor_pb2")
    pools = importlib.import_module("google.protobuf.descriptor_pool")
    factory = importlib.import_module("google.protobuf.message_factory")
    include = Path(str(protoc.__file__)).parent / "_proto"
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "all.pb")
        sources = [str(path) for path in sorted(PROTO.rglob("*.proto"))]
        options = [f"-I{PROTO}", f"-I{include}", f"--descriptor_set_out={target}", "--include_imports"]
        assert protoc.main(["protoc", *options, *sources]) == 0
        files = descriptors.FileDescriptorSet.FromString(target.read_bytes()).file
    pool = pools.DescriptorPool()
    for file in files:
        pool.Add(file)
    classes: dict[str, Any] = factory.GetMessageClassesForFiles([file.name for file in files], pool)
    return classes


def decode_error() -> type[Exception]:
    error: type[Exception] = importlib.import_module("google.protobuf.message").DecodeError
    return error


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "int32": st.integers(-(2**31), 2**31 - 1),
    "int64": st.integers(-(2**63), 2**63 - 1),
    "uint32": st.integers(0, 2**32 - 1),
    "uint64": st.integers(0, 2**64 - 1),
    "bool": st.booleans(),
    "enum": st.integers(-3, 3),
    "float": st.floats(width=32, allow_nan=False),
    "string": st.text(max_size=8),
    "bytes": st.binary(max_size=12),
}
KINDS = {3: "int64", 4: "uint64", 5: "int32", 13: "uint32", 8: "bool", 14: "enum", 2: "float", 9: "string", 12: "bytes"}
MESSAGE = 11
TIMES = {
    "google.protobuf.Timestamp": st.fixed_dictionaries(
        {"seconds": st.integers(0, 2**33), "nanos": st.integers(0, 999_999).map(lambda micros: micros * 1000)}
    ),
    "google.protobuf.Duration": st.fixed_dictionaries({"seconds": st.integers(0, 10**7)}),
}


def value_of(field: Any) -> st.SearchStrategy[Any]:
    if field.type != MESSAGE:
        return SCALARS[KINDS[field.type]]
    name = field.message_type.full_name
    return TIMES[name] if name in TIMES else fields_of(field.message_type)


def fields_of(descriptor: Any) -> st.SearchStrategy[dict[str, Any]]:
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in descriptor.fields:
        if field.type == MESSAGE and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields
            optional[field.name] = st.dictionaries(value_of(key), value_of(value), max_size=3)
        elif field.is_repeated:
            optional[field.name] = st.lists(value_of(field), max_size=3)
        else:
            optional[field.name] = value_of(field)
    return st.fixed_dictionaries({}, optional=optional)


def their_message(name: str, data: st.DataObject) -> Any:
    cls = theirs()[name]
    return cls(**data.draw(fields_of(cls.DESCRIPTOR)))


def their_reading(name: str, raw: bytes) -> Any:
    """Google's message, or None if it refuses ``raw``."""
    message = theirs()[name]()
    try:
        message.ParseFromString(raw)
    except decode_error():
        return None
    message.DiscardUnknownFields()
    return message


def our_reading(name: str, raw: bytes) -> bp.Message | MalformedMessageError:
    try:
        return decode(OURS[name], raw)
    except MalformedMessageError as refusal:
        return refusal


def assert_read_alike(name: str, raw: bytes) -> None:
    our, their = our_reading(name, raw), their_reading(name, raw)
    if isinstance(our, MalformedMessageError):
        # Google's parser lets field number 0 pass inside a group that it does not know; ours refuses it everywhere.
        assert their is None or "field number" in str(our), raw.hex()
    else:
        assert their is not None, raw.hex()
        again = theirs()[name].FromString(encode(our))
        whole = theirs()[name].FromString(raw)
        if canonical(whole) != canonical(their):
            # there are fields that nobody knows: in a map's entry they make Google's parser leave the entry out
            clear_maps(again)
            clear_maps(their)
        # as text all NaN are alike, as bytes all orders of a map
        assert canonical(again) == canonical(their) or str(again) == str(their)


def canonical(message: Any) -> bytes:
    """The message's bytes with map entries in the order of their keys."""
    raw: bytes = message.SerializeToString(deterministic=True)
    return raw


def clear_maps(message: Any) -> None:
    for field, value in message.ListFields():
        if field.type != MESSAGE:
            continue
        if field.message_type.GetOptions().map_entry:
            message.ClearField(field.name)
        else:
            for inner in value if field.is_repeated else [value]:
                clear_maps(inner)


def test_every_message_of_the_protos_has_our_class() -> None:
    assert set(OURS) == {name for name in theirs() if not name.startswith("google.") and not name.endswith("Entry")}


@pytest.mark.parametrize("name", sorted(OURS))
@settings(max_examples=30, deadline=None)
@given(data=st.data())
def test_valid_messages_are_equal_both_ways(name: str, data: st.DataObject) -> None:
    message = their_message(name, data)
    raw = message.SerializeToString(deterministic=True)
    ours = decode(OURS[name], raw)
    again = encode(ours)
    assert theirs()[name].FromString(again) == message
    assert len(again) == len(raw)  # the same bytes, but for the order of map entries
    assert decode(OURS[name], again) == ours


@pytest.mark.parametrize("name", COMPARED)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_damaged_messages_are_read_alike_or_refused_by_both(name: str, data: st.DataObject) -> None:
    raw = bytearray(their_message(name, data).SerializeToString())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(raw)))
        match data.draw(st.sampled_from(["cut", "flip", "insert"])):
            case "cut":
                del raw[place:]
            case "flip" if place < len(raw):
                raw[place] ^= 1 << data.draw(st.integers(0, 7))
            case _:
                raw[place:place] = data.draw(st.binary(min_size=1, max_size=3))
    assert_read_alike(name, bytes(raw))


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(COMPARED), st.binary(max_size=24))
def test_any_bytes_are_read_alike_or_refused_by_both(name: str, raw: bytes) -> None:
    assert_read_alike(name, raw)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_two_messages_after_each_other_merge_alike(data: st.DataObject) -> None:
    name = "openfl.aggregator.GetAggregatedTensorResponse"
    raw = b"".join(their_message(name, data).SerializeToString() for _ in range(2))
    assert_read_alike(name, raw)


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("DataStream", b"\x08"),
        ("DataStream", b"\x12\x05ab"),
        ("DataStream", b"\x0e\x00"),
        ("DataStream", b"\x08" + b"\xff" * 10 + b"\x01"),
        ("DataStream", b"\x00\x00"),
        ("DataStream", b"\xa3\x06\xac\x06"),
        ("openfl.aggregator.MessageHeader", b"\x0a\x02\xc3\x28"),
        ("openfl.aggregator.MessageHeader", b"\x0a\x03\xed\xa0\x80"),
        ("MetadataProto", b"\x12\x01\x80"),
    ],
)
def test_malformed_bytes_are_refused_by_both(name: str, raw: bytes) -> None:
    assert isinstance(our_reading(name, raw), MalformedMessageError)
    assert their_reading(name, raw) is None


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("DataStream", b"\x0a\x01x" + b"\x10\x07"),  # known fields in another wire type
        ("DataStream", b"\x08\xff\xff\xff\xff\xff\x01"),  # beyond 32 bits
        ("MetadataProto", b"\x10\x01\x12\x02\x02\x03"),  # packed and not
        ("MetadataProto", b"\x0a\x00\x0a\x02\x08\x01"),  # map entries without a value
        ("openfl.director.GetTrainedModelRequest", b"\x18\x07"),  # an enum's unknown number
    ],
)
def test_odd_bytes_are_read_alike(name: str, raw: bytes) -> None:
    assert not isinstance(our_reading(name, raw), MalformedMessageError)
    assert_read_alike(name, raw)


def test_field_number_0_in_an_unknown_group_is_refused_though_google_reads_it() -> None:
    raw = b"\x0b\x00\x0a\x0c"
    assert their_reading("ModelProto", raw) is not None
    refusal = our_reading("ModelProto", raw)
    assert isinstance(refusal, MalformedMessageError)
    assert "field number" in str(refusal)


@settings(max_examples=150, deadline=None)
@given(st.data(), st.integers(1, 40))
def test_uploads_are_indexed_as_google_reads_them(data: st.DataObject, step: int) -> None:
    message = their_message("openfl.aggregator.TaskResults", data)
    raw = message.SerializeToString() or b"\x10\x00"
    decoder = TaskResultsDecoder(limits=Limits())
    for start in range(0, len(raw), step):
        decoder.feed(raw[start : start + step])
    index = decoder.finish()
    header = message.header
    assert index.header == Header(
        header.sender, header.receiver, header.federation_uuid, header.single_col_cert_common_name
    )
    assert (index.round_number, index.task_name, index.data_size) == (
        message.round_number,
        message.task_name,
        message.data_size,
    )
    assert [
        (record.name, record.tags, raw[record.offset : record.offset + record.nbytes]) for record in index.tensors
    ] == [(tensor.name, tuple(tensor.tags), tensor.data_bytes) for tensor in message.tensors]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_uploads_are_refused_by_both(data: st.DataObject) -> None:
    raw = bytearray(their_message("openfl.aggregator.TaskResults", data).SerializeToString() or b"\x10\x00")
    raw[data.draw(st.integers(0, len(raw) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    decoder = TaskResultsDecoder(limits=Limits())
    their = their_reading("openfl.aggregator.TaskResults", bytes(raw))
    refusal = ""
    try:
        decoder.feed(raw)
        decoder.finish()
    except RemoteProtocolError as exc:
        refusal = str(exc)
    if refusal:
        assert their is None or "field number" in refusal, raw.hex()
    else:
        assert their is not None, raw.hex()
