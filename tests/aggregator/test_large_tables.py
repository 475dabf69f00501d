"""RandomShift has a value for each element beside the tensor: it is taken both ways, of tensors of any size.

Where the plan has another pipeline, such tables are refused, and the operator is told.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, CollaboratorConfig, Endpoint, RetryPolicy, Timeouts
from openfl_aio.domain import Task, TaskKind, TensorQuery
from openfl_aio.errors import MessageTooLargeError, OpenFLAioError
from openfl_aio.storage.models import ModelFiles
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.tensors.key import TensorKey

pytestmark = pytest.mark.real_time

TRAIN = Task("train", "train", TaskKind.TRAIN)
NAMES = ("one", "two")
WHOLE_MODEL = TensorQuery("w", 0, tags=("model",), require_lossless=True)


def values(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def configuration(**more: Any) -> AggregatorConfig:
    settings = {
        "collaborators": NAMES,
        "tasks": (TRAIN,),
        "rounds": 1,
        "listen": Endpoint(),
        "timeouts": Timeouts(drain=0.2),
        "pipeline": "random_shift",
    }
    return AggregatorConfig(**(settings | more))


def client(service: Aggregator, name: str, pipeline: str = "random_shift") -> AggregatorClient:
    config = CollaboratorConfig(
        name=name,
        aggregator_uuid=service.uuid,
        federation_uuid=service.federation_uuid,
        endpoint=service.endpoint,
        pipeline=pipeline,
        retry=RetryPolicy(max_elapsed=5),
    )
    return AggregatorClient(config)


def trained(array: NDArray[np.float32]) -> EncodedTensor:
    return TensorCodec("random_shift").encode(TensorKey.of("w", "one", 0, tags=("trained",)), array)


async def send(api: AggregatorClient, tensor: EncodedTensor) -> None:
    await api.send_local_task_results(round_number=0, task_name="train", data_size=1, tensors=[tensor])


@pytest.mark.parametrize("restarted", [False, True], ids=["in one go", "with a restart between the uploads"])
async def test_a_million_elements_both_ways(tmp_path: Path, restarted: bool) -> None:
    initial, config = values(1000, 1000), configuration(workspace=tmp_path)
    codec = TensorCodec("random_shift")
    sites = {"one": values(1000, 1000, seed=1), "two": values(1000, 1000, seed=2)}
    left = list(sites)
    for _ in range(2 if restarted else 1):
        async with Aggregator(config, initial_model={"w": initial}) as service:
            while left:
                name = left.pop(0)
                async with client(service, name) as api:
                    got = await api.get_aggregated_tensor(WHOLE_MODEL)
                    assert isinstance(got.metadata[0].int_to_float, FloatTable)
                    np.testing.assert_allclose(codec.decode(got), initial, rtol=0, atol=2e-6)
                    await send(api, trained(sites[name]))
                if restarted and left:
                    break
            else:
                final = await service.wait_complete()
    np.testing.assert_allclose(final["w"], (sites["one"] + sites["two"]) / 2, rtol=0, atol=1e-5)
    for path in tmp_path.rglob("*"):
        if path.is_file():  # what is kept of a table is not its text
            assert path.stat().st_size < 25 * initial.size


async def test_several_tensors_with_tables_come_in_one_call() -> None:
    model = {"w": values(150, 100), "v": values(200, 100)}
    codec = TensorCodec("random_shift")
    queries = [TensorQuery(name, 0, tags=("model",), require_lossless=True) for name in model]
    async with Aggregator(configuration(), initial_model=model) as service, client(service, "one") as api:
        found = await api.get_aggregated_tensors(queries)
        for tensor in found:
            np.testing.assert_allclose(codec.decode(tensor), model[tensor.name], rtol=0, atol=2e-6)
            whole = await api.get_aggregated_tensor(TensorQuery(tensor.name, 0, tags=("model",), require_lossless=True))
            assert whole == tensor


async def test_without_it_in_the_plan_a_table_is_refused_and_the_operator_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    array = values(784, 100)
    config = configuration(pipeline="no_compression")
    async with Aggregator(config, initial_model={"w": array}) as service, client(service, "one") as api:
        for _ in range(3):
            with pytest.raises(MessageTooLargeError, match=r"expected at most .* got more; .* RandomShiftPipeline"):
                await send(api, trained(array))
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    told = [line for line in told if "refused" in line]
    assert len(told) == 1
    assert "SendLocalTaskResults refused: RESOURCE_EXHAUSTED" in told[0]
    assert "do both sides have the same plan?" in told[0]


async def test_a_collaborator_of_another_plan_reads_no_tables() -> None:
    async with (
        Aggregator(configuration(), initial_model={"w": values(784, 100)}) as service,
        client(service, "one", "no_compression") as api,
    ):
        with pytest.raises(MessageTooLargeError, match="do both sides have the same plan"):
            await api.get_aggregated_tensor(WHOLE_MODEL)


async def test_more_entries_than_four_models_have_are_refused() -> None:
    array = values(100, 100)
    async with Aggregator(configuration(), initial_model={"w": array}) as service, client(service, "one") as api:
        with pytest.raises(MessageTooLargeError, match=r"entries of tables in an upload, .* four for each element"):
            await send(api, trained(values(500, 100)))
        await send(api, trained(array))


async def test_a_table_that_does_not_fit_its_tensor_is_refused() -> None:
    array = values(100, 100)
    good = trained(array)
    table = np.append(np.asarray(list(good.metadata[0].int_to_float.values())), np.float32(1))
    async with Aggregator(configuration(), initial_model={"w": array}) as service, client(service, "one") as api:
        for given, message in (
            (FloatTable(table), "expected at most 10000 entries in the table of tensor 'w'"),
            (FloatTable(table[:-2]), "expected one shift for each of 10000 elements, got 9999"),
        ):
            metadata = (replace(good.metadata[0], int_to_float=given), good.metadata[1])
            with pytest.raises(OpenFLAioError, match=message):
                await send(api, replace(good, metadata=metadata))
        await send(api, good)


async def test_a_model_file_of_many_elements(tmp_path: Path) -> None:
    array = values(784, 100)
    await ModelFiles(pipeline="random_shift").save(tmp_path / "init.pbuf", {"w": array}, round_number=0)
    loaded = await ModelFiles(pipeline="random_shift").load(tmp_path / "init.pbuf")
    np.testing.assert_allclose(loaded.tensors["w"], array, rtol=0, atol=2e-6)
