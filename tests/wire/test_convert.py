from __future__ import annotations

from typing import Any, TypeVar

import betterproto2 as bp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.domain import (
    Assignment,
    CollaboratorProgress,
    DeviceInfo,
    EnvoyInfo,
    ExperimentDescription,
    ExperimentStatus,
    ExperimentSummary,
    Header,
    Metric,
    ModelKind,
    ShardInfo,
    Task,
    TaskKind,
    TensorQuery,
)
from openfl_aio.errors import MalformedMessageError
from openfl_aio.tensors.codec import EncodedTensor, TransformerMetadata
from openfl_aio.wire import convert
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.messages import ExperimentDescription as DescriptionMessage
from openfl_aio.wire.messages import aggregator, director

M = TypeVar("M", bound=bp.Message)

texts = st.text(max_size=6)
labels = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=" "), min_size=1, max_size=6)
int32 = st.integers(-(2**31), 2**31 - 1)
uint32 = st.integers(0, 2**32 - 1)
uint64 = st.integers(0, 2**64 - 1)
shares = st.floats(0, 1, width=32)
headers = st.builds(Header, texts, texts, texts, texts)
tasks = st.builds(Task, texts, texts, st.sampled_from(TaskKind), st.booleans())
assignments = st.builds(Assignment, int32, st.lists(tasks, max_size=3).map(tuple), int32, st.booleans())
queries = st.builds(TensorQuery, labels, int32, st.booleans(), st.lists(labels, max_size=3).map(tuple), st.booleans())
metrics = st.builds(Metric, texts, texts, texts, st.floats(width=32, allow_nan=False), uint32)
metadata = st.builds(
    TransformerMetadata,
    st.dictionaries(int32, st.floats(width=32, allow_nan=False), max_size=3),
    st.lists(int32, max_size=3).map(tuple),
    st.lists(st.booleans(), max_size=3).map(tuple),
)
tensors = st.builds(
    EncodedTensor,
    name=labels,
    round_number=int32,
    lossless=st.booleans(),
    report=st.booleans(),
    tags=st.lists(texts, max_size=3).map(tuple),
    metadata=st.lists(metadata, max_size=2).map(tuple),
    data=st.binary(max_size=9),
)
devices = st.builds(DeviceInfo, uint64, uint64, uint64, texts, texts, texts, texts)
shapes = st.lists(texts, max_size=3).map(tuple)
shards = st.builds(ShardInfo, texts, texts, uint64, shapes, shapes, st.lists(devices, max_size=2).map(tuple))
envoys = st.builds(EnvoyInfo, shards, st.booleans(), st.booleans(), uint32.map(float), uint32.map(float), texts)
summaries = st.builds(ExperimentSummary, texts, st.sampled_from(ExperimentStatus), uint32, uint32, shares)
progress = st.builds(CollaboratorProgress, texts, texts, shares, uint32, texts, texts)
descriptions = st.builds(
    ExperimentDescription,
    texts,
    st.sampled_from(ExperimentStatus),
    shares,
    uint32,
    uint32,
    st.dictionaries(texts, texts, max_size=3),
    st.lists(progress, max_size=2).map(tuple),
    shapes,
)


def wired(message: M) -> M:
    return decode(type(message), encode(message))


SYMMETRIC = [
    pytest.param(headers, convert.header_to_proto, convert.header_from_proto, id="header"),
    pytest.param(tasks, convert.task_to_proto, convert.task_from_proto, id="task"),
    pytest.param(metadata, convert.metadata_to_proto, convert.metadata_from_proto, id="metadata"),
    pytest.param(tensors, convert.tensor_to_proto, convert.tensor_from_proto, id="tensor"),
    pytest.param(
        st.lists(tensors, max_size=3).map(tuple), convert.model_to_proto, convert.model_from_proto, id="model"
    ),
    pytest.param(devices, convert.device_to_proto, convert.device_from_proto, id="device"),
    pytest.param(shards, convert.shard_to_proto, convert.shard_from_proto, id="shard"),
    pytest.param(envoys, convert.envoy_to_proto, convert.envoy_from_proto, id="envoy"),
    pytest.param(summaries, convert.summary_to_proto, convert.summary_from_proto, id="summary"),
    pytest.param(descriptions, convert.description_to_proto, convert.description_from_proto, id="description"),
]


@pytest.mark.parametrize(("values", "to_proto", "from_proto"), SYMMETRIC)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_a_value_survives_the_wire(
    values: st.SearchStrategy[Any], to_proto: Any, from_proto: Any, data: st.DataObject
) -> None:
    value = data.draw(values)
    assert from_proto(wired(to_proto(value))) == value


@settings(max_examples=25, deadline=None)
@given(assignments, headers)
def test_assignment(assignment: Assignment, header: Header) -> None:
    reply = wired(convert.assignment_to_proto(assignment, header=header))
    assert convert.assignment_from_proto(reply) == assignment
    assert convert.header_from_proto(reply.header) == header


@settings(max_examples=25, deadline=None)
@given(queries, headers)
def test_query(query: TensorQuery, header: Header) -> None:
    request = wired(convert.query_to_proto(query, header=header))
    assert convert.query_from_proto(request) == query
    assert convert.header_from_proto(request.header) == header


@settings(max_examples=25, deadline=None)
@given(metrics)
def test_metric(metric: Metric) -> None:
    of_aggregator = wired(convert.metric_to_proto(metric, aggregator.GetMetricStreamResponse))
    of_director = wired(convert.metric_to_proto(metric, director.GetMetricStreamResponse))
    assert convert.metric_from_proto(of_aggregator) == convert.metric_from_proto(of_director) == metric


def test_what_is_absent_reads_as_empty() -> None:
    assert convert.header_from_proto(None) == Header("", "", "")
    assert convert.model_from_proto(None) == ()
    assert convert.shard_from_proto(None) == ShardInfo("")
    assert convert.envoy_from_proto(director.EnvoyInfo()) == EnvoyInfo(ShardInfo(""), False, False)
    assert convert.description_from_proto(DescriptionMessage(status="pending")).models == {}


def test_model_kind() -> None:
    request = director.GetTrainedModelRequest(model_type=director.GetTrainedModelRequestModelType.LAST_MODEL)
    assert convert.model_kind_from_proto(request.model_type) is ModelKind.LAST
    assert convert.model_kind_from_proto(decode(director.GetTrainedModelRequest, b"\x18\x07").model_type) is None


def test_status() -> None:
    assert convert.status_from_proto("in_progress") is ExperimentStatus.IN_PROGRESS
    assert convert.status_from_proto("") is None
    assert convert.status_to_proto(None) == ""


def test_words_that_mean_nothing_are_refused() -> None:
    with pytest.raises(MalformedMessageError, match=r"pending, in_progress.*got 'asleep'"):
        convert.status_from_proto("asleep")
    with pytest.raises(MalformedMessageError, match="status of experiment 'e', got none"):
        convert.summary_from_proto(director.ExperimentListItem(name="e"))
    with pytest.raises(MalformedMessageError, match="task 'train', got 'dance'"):
        convert.task_from_proto(aggregator.Task(name="train", task_type="dance"))
