"""Hostile names in every call of both services, from a raw socket: refused at the edge, and nothing on the disk is touched."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio.to_thread
import numpy as np
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio.config import DirectorConfig, Endpoint, Timeouts
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import encode_model
from openfl_aio.domain import Header
from openfl_aio.plan.plan import Plan
from openfl_aio.transport.channel import Channel, open_channel
from openfl_aio.wire import convert
from openfl_aio.wire.framing import data_stream
from openfl_aio.wire.incremental import encode_task_results
from openfl_aio.wire.messages import aggregator
from openfl_aio.wire.messages import director as calls
from tests.director.test_service import archive, shard

pytestmark = pytest.mark.real_time

NAMES = {
    "empty": "",
    "the folder itself": ".",
    "its parent": "..",
    "further up": "../../../victim",
    "absolute": "/VICTIM",
    "an option": "-rf",
    "a hidden file": ".bashrc",
    "a file below": "a/b",
    "backslash": "..\\victim",
    "drive": "C:victim",
    "home": "~root",
    "a command": "$(touch victim)",
    "a pattern": "*",
    "a second line": "exp\nCRITICAL forged",
    "carriage return": "exp\rforged",
    "escape sequence": "exp\x1b[2J",
    "NUL": "exp\x00.zip",
    "a blank at the end": "exp ",
    "looks like another": "ехр",  # Cyrillic
    "turned around": "exp\u202egpj",
    "long": "a" * 101,
    "very long": "a" * 10_000,
}
# what frameworks may put into the name of a tensor, which a plain name may not have
LABELS = {key: name for key, name in NAMES.items() if not (name.isprintable() and 0 < len(name) <= 256)}


@pytest.fixture
async def director(tmp_path: Path) -> AsyncIterator[Director]:
    for name in ("victim", "work/victim", "work/director/victim"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("mine")
    config = DirectorConfig(
        listen=Endpoint(port=0),
        sample_shape=("8", "8"),
        target_shape=("10",),
        timeouts=Timeouts(drain=0.5, long_poll=2.0),
        workspace=tmp_path / "work/director",
    )
    async with Director(config) as director:
        yield director


@pytest.fixture
async def channel(director: Director) -> AsyncIterator[Channel]:
    async with open_channel(director.endpoint, tls=None) as channel:
        yield channel


def everything(folder: Path) -> dict[str, int]:
    """Return the path and inode of every file, but those that the database makes and removes as it likes."""
    return {
        str(path.relative_to(folder)): path.stat().st_ino
        for path in folder.rglob("*")
        if not path.name.startswith("openfl_aio.db")
    }


async def messages_of(*infos: Any) -> AsyncIterator[Any]:
    for info in infos:
        yield info


def submission(name: str, collaborator: str) -> AsyncIterator[calls.ExperimentInfo]:
    model = convert.model_to_proto(encode_model({"w": np.zeros(2, np.float32)}))
    data = archive()
    return messages_of(
        calls.ExperimentInfo(
            name=name,
            collaborator_names=[collaborator],
            experiment_data=calls.ExperimentData(size=len(data), npbytes=data),
            model_proto=model,
        )
    )


async def refusal(call: Any) -> Status:
    """Await a call, or the first message of its answer, and return how it was refused."""
    with pytest.raises(GRPCError) as refused:
        await (anext(aiter(call)) if hasattr(call, "__aiter__") else call)
    assert "\n" not in (refused.value.message or "")
    assert len(refused.value.message or "") < 1000
    return refused.value.status


async def joined(stub: calls.DirectorStub) -> Header:
    """Do what an envoy does to take part in an experiment, and return how it names itself then."""
    await stub.update_shard_info(calls.UpdateShardInfoRequest(shard_info=convert.shard_to_proto(shard("one"))))
    answer = await stub.wait_experiment(calls.WaitExperimentRequest(collaborator_name="one"))
    request = calls.GetExperimentDataRequest(experiment_name=answer.experiment_name, collaborator_name="one")
    data = b"".join([bytes(chunk.npbytes) async for chunk in stub.get_experiment_data(request)])
    with zipfile.ZipFile(io.BytesIO(data)) as zf:
        plan = Plan.parse(zf.read("plan/plan.yaml").decode())
    return Header("one", plan.aggregator_uuid, plan.federation_uuid)


def calls_with(channel: Channel, name: str) -> Iterator[tuple[str, Any]]:
    """Yield every call of the director that has a name in it, with ``name`` in each of its places."""
    stub = calls.DirectorStub(channel)
    hostile = shard("one")
    node = convert.shard_to_proto(hostile)
    assert node.node_info is not None
    node.node_info.name = name
    yield "UpdateShardInfo", stub.update_shard_info(calls.UpdateShardInfoRequest(shard_info=node))
    yield "UpdateEnvoyStatus", stub.update_envoy_status(calls.UpdateEnvoyStatusRequest(name=name))
    yield "WaitExperiment", stub.wait_experiment(calls.WaitExperimentRequest(collaborator_name=name))
    for experiment, envoy in ((name, "one"), ("exp", name)):
        data = calls.GetExperimentDataRequest(experiment_name=experiment, collaborator_name=envoy)
        yield "GetExperimentData", stub.get_experiment_data(data)
        failed = calls.SetExperimentFailedRequest(experiment_name=experiment, collaborator_name=envoy)
        yield "SetExperimentFailed", stub.set_experiment_failed(failed)
        yield "SetNewExperiment", stub.set_new_experiment(submission(experiment, envoy))
    yield "GetExperimentStatus", stub.get_experiment_status(calls.GetExperimentStatusRequest(experiment_name=name))
    yield "GetExperimentDescription", stub.get_experiment_description(calls.GetExperimentDescriptionRequest(name=name))
    yield (
        "GetTrainedModel",
        stub.get_trained_model(
            calls.GetTrainedModelRequest(
                experiment_name=name, model_type=calls.GetTrainedModelRequestModelType.LAST_MODEL
            )
        ),
    )
    yield "GetMetricStream", stub.get_metric_stream(calls.GetMetricStreamRequest(experiment_name=name))
    yield "RemoveExperimentData", stub.remove_experiment_data(calls.RemoveExperimentRequest(experiment_name=name))


@pytest.mark.parametrize("case", NAMES)
async def test_no_call_of_the_director_takes_it_for_a_name(
    case: str, director: Director, channel: Channel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    name = NAMES[case].replace("VICTIM", str(tmp_path / "victim"))
    before = await anyio.to_thread.run_sync(everything, tmp_path)
    answers = [(call, await refusal(answer)) for call, answer in calls_with(channel, name)]
    assert {call: status for call, status in answers if status is not Status.INVALID_ARGUMENT} == {}
    assert len(answers) == 14
    assert await anyio.to_thread.run_sync(everything, tmp_path) == before
    assert not [record for record in caplog.records if len(record.getMessage().splitlines()) > 1]


@pytest.mark.parametrize("case", LABELS)
async def test_no_tensor_task_or_tag_of_a_model_or_upload_is_called_that(
    case: str, director: Director, channel: Channel, tmp_path: Path
) -> None:
    stub, aggregators = calls.DirectorStub(channel), aggregator.AggregatorStub(channel)
    name = LABELS[case]
    model = calls.ExperimentInfo(
        name="exp",
        collaborator_names=["one"],
        experiment_data=calls.ExperimentData(size=len(archive()), npbytes=archive()),
        model_proto=convert.model_to_proto(encode_model({name: np.zeros(2, np.float32)})),
    )
    before = await anyio.to_thread.run_sync(everything, tmp_path)
    assert await refusal(stub.set_new_experiment(messages_of(model))) is Status.INVALID_ARGUMENT
    assert await anyio.to_thread.run_sync(everything, tmp_path) == before

    await stub.set_new_experiment(submission("exp", "one"))
    header = await joined(stub)
    before = await anyio.to_thread.run_sync(everything, tmp_path)
    tensor = encode_model({"w": np.zeros(2, np.float32)})[0]
    for task, encoded in (
        (name, tensor),
        ("train", replace(tensor, name=name)),
        ("train", replace(tensor, tags=("trained", name))),
    ):
        parts = encode_task_results(header=header, round_number=0, task_name=task, data_size=1, tensors=[encoded])
        upload = aggregators.send_local_task_results(data_stream(parts, chunk_bytes=1 << 20))
        assert await refusal(upload) is Status.INVALID_ARGUMENT
    for tensor_name, tag in ((name, "model"), ("w", name)):
        query = aggregator.GetAggregatedTensorRequest(
            header=convert.header_to_proto(header), tensor_name=tensor_name, tags=[tag]
        )
        assert await refusal(aggregators.get_aggregated_tensor(query)) is Status.INVALID_ARGUMENT
    assert await anyio.to_thread.run_sync(everything, tmp_path) == before
    assert director.find_aggregator(header.federation_uuid).describe().current_round == 0
