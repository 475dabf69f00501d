"""A federation whose tensors go through a compression pipeline."""

from __future__ import annotations

import gzip
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.config import AggregatorConfig, Limits
from openfl_aio.domain import Header, TaskKind, TensorQuery, Verdict
from openfl_aio.errors import CodecError, MessageTooLargeError, OpenFLAioError
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec, TransformerMetadata
from openfl_aio.tensors.delta import apply_delta
from openfl_aio.tensors.key import TensorKey
from openfl_aio.tensors.pipelines import get_pipeline
from openfl_aio.testing.federation import InProcessAggregator, inline
from openfl_aio.wire.incremental import encode_task_results

LOSSY = ("kc:n_clusters=32", "skc:p_sparsity=0.5,n_clusters=32", "stc", "eden")
EVERY = ("no_compression", "random_shift", *LOSSY)
MODEL = {"b": np.linspace(0, 1, 7, dtype=np.float32), "w": np.zeros((20, 30), np.float32)}
SHAPES = {name: array.shape for name, array in MODEL.items()}


class Walker:
    """Trains by steps that depend on the collaborator and the element; what it saw is kept."""

    def __init__(self, seed: int) -> None:
        self._source = np.random.default_rng(seed)
        self.seen: dict[int, dict[str, NDArray[Any]]] = {}
        self.made: dict[int, dict[str, NDArray[Any]]] = {}

    async def tensor_names(self) -> list[str]:
        return list(MODEL)

    async def run(self, context: TaskContext, tensors: Mapping[str, NDArray[Any]]) -> TaskOutput:
        if context.task.kind is not TaskKind.TRAIN:
            return TaskOutput(10, metrics={"score": float(tensors["w"].mean())})
        self.seen[context.round_number] = dict(tensors)
        trained = {name: values + self._source.normal(size=values.shape) for name, values in tensors.items()}
        self.made[context.round_number] = trained
        return TaskOutput(10, tensors=trained)


@pytest.mark.parametrize("deltas", [False, True], ids=["whole models", "deltas"])
@pytest.mark.parametrize("pipeline", EVERY)
async def test_a_federation_runs_through_it(pipeline: str, deltas: bool) -> None:
    rounds, walkers = 3, {"one": Walker(1), "two": Walker(2)}
    config = AggregatorConfig(collaborators=tuple(walkers), rounds=rounds, pipeline=pipeline)
    async with Aggregator(config, initial_model=MODEL, offload=inline) as aggregator:
        async with anyio.create_task_group() as group:
            for name, walker in walkers.items():
                collaborator = Collaborator(
                    name=name,
                    aggregator=InProcessAggregator(aggregator, name),
                    aggregator_uuid=aggregator.uuid,
                    runner=walker,
                    delta_updates=deltas,
                    pipeline=pipeline,
                    offload=inline,
                )
                group.start_soon(collaborator.run)
        final = await aggregator.wait_complete()
        metrics = [metric async for metric in aggregator.metrics()]
    for number in range(rounds):
        one, two = (walker.seen[number] for walker in walkers.values())
        # everybody sees the same model, to the bit
        assert all(np.array_equal(one[name], two[name]) for name in MODEL)
    # what is lost is lost in each round: at most the whole step
    mean = {name: sum(walker.made[rounds - 1][name] for walker in walkers.values()) / 2 for name in MODEL}
    for name, values in final.items():
        base = walkers["one"].seen[rounds - 1][name]
        assert np.linalg.norm(values - mean[name]) < 1.1 * np.linalg.norm(base - mean[name])
        assert not np.array_equal(values, base)
    if not get_pipeline(pipeline).lossy:
        np.testing.assert_allclose(final["w"], mean["w"], atol=1e-5)
    told = {(m.round_number, m.origin): m.value for m in metrics if m.task_name == "aggregated_model_validation"}
    assert told[rounds - 1, "one"] == pytest.approx(float(walkers["one"].seen[rounds - 1]["w"].mean()), abs=2e-6)


def header(target: Aggregator) -> Header:
    return Header("one", target.uuid, target.federation_uuid)


def completed(target: Aggregator, tensors: list[EncodedTensor]) -> list[EncodedTensor]:
    """Add what the model has besides, as it is."""
    codec, named = TensorCodec(target.config.pipeline), {tensor.name for tensor in tensors}
    more = [
        codec.encode(TensorKey.of(name, "one", 0, tags=("trained",)), values)
        for name, values in MODEL.items()
        if name not in named
    ]
    return [*tensors, *more]


async def send(target: Aggregator, tensors: list[EncodedTensor], *, round_number: int = 0) -> Verdict:
    upload = target.upload("one")
    for part in encode_task_results(
        header=header(target),
        round_number=round_number,
        task_name="train",
        data_size=1,
        tensors=completed(target, tensors),
    ):
        await upload.feed(part)
    return await upload.finish()


def service(pipeline: str, **more: Any) -> Aggregator:
    config = AggregatorConfig(collaborators=("one", "two"), rounds=2, pipeline=pipeline, **more)
    return Aggregator(config, initial_model=MODEL, offload=inline)


def coded(pipeline: str, name: str = "w", *, lossless: bool = False) -> EncodedTensor:
    values = np.random.default_rng(5).normal(size=SHAPES.get(name, (500,)))
    key = TensorKey.of(name, "one", 0, tags=("delta", "trained") if not lossless else ("trained",))
    return TensorCodec(pipeline).encode(key, values, lossless=lossless)


@pytest.mark.parametrize("pipeline", LOSSY)
async def test_an_upload_is_added_to_the_model_as_it_decodes(pipeline: str) -> None:
    config = AggregatorConfig(collaborators=("one",), rounds=2, pipeline=pipeline)
    async with Aggregator(config, initial_model=MODEL, offload=inline) as target:
        for task in (await target.get_tasks("one")).tasks:
            tensors = completed(target, [coded(pipeline)]) if task.kind is TaskKind.TRAIN else []
            upload = target.upload("one")
            for part in encode_task_results(
                header=header(target), round_number=0, task_name=task.name, data_size=1, tensors=tensors
            ):
                await upload.feed(part)
            assert await upload.finish() is Verdict.ACCEPTED
        answer = await target.get_aggregated_tensor(
            "one", TensorQuery("w", 1, tags=("aggregated", "delta", "lossy_compressed"))
        )
        whole = await target.get_aggregated_tensor("one", TensorQuery("w", 1, tags=("model",), require_lossless=True))
    codec = TensorCodec(pipeline)
    sent = codec.decode(coded(pipeline))
    assert answer.tags == ("aggregated", "delta", "lossy_compressed")
    assert whole.tags == ("compressed", "model")
    received = codec.decode(answer)
    # a few values, coded again, are the same few values, unless they are averaged over zeros again
    if pipeline.startswith(("kc", "skc")):
        np.testing.assert_allclose(received, sent, rtol=1e-6)
    assert np.array_equal(codec.decode(whole), apply_delta(MODEL["w"], received))


@pytest.mark.parametrize("pipeline", LOSSY)
@pytest.mark.parametrize("change", ["bytes", "cut", "table", "record", "other pipeline"])
async def test_what_does_not_decode_is_refused_before_it_counts(pipeline: str, change: str) -> None:
    good = coded(pipeline)
    first, *others = good.metadata
    bad = {
        "bytes": replace(good, data=b"\xff" * len(good.data)),
        "cut": replace(good, data=bytes(good.data)[:-1]),
        "table": replace(good, metadata=tuple(replace(m, int_to_float={7: 1.0}) for m in good.metadata)),
        "record": replace(good, metadata=(first, *others, TransformerMetadata())),
        "other pipeline": replace(coded("kc" if pipeline == "eden" else "eden"), tags=good.tags),
    }[change]
    if (pipeline, change) == ("eden", "bytes"):
        bad = replace(bad, data=bytes(bad.data) * 2)  # any bits are some centroids
    async with service(pipeline) as target:
        with pytest.raises(CodecError, match="cannot decode tensor 'w'"):
            await send(target, [bad])
        assert await send(target, [good]) is Verdict.ACCEPTED


async def test_a_lossless_coding_is_decoded_too_where_it_is_more_than_float32() -> None:
    good = coded("random_shift", lossless=True)
    bad = replace(good, metadata=(replace(good.metadata[0], int_to_float={}), good.metadata[1]))
    async with service("random_shift") as target:
        with pytest.raises(CodecError, match="expected one shift for each of 600 elements"):
            await send(target, [bad])
        assert await send(target, [good]) is Verdict.ACCEPTED


@pytest.mark.parametrize(
    "metadata", [(TransformerMetadata(int_list=(1,)),) * 2, (TransformerMetadata(int_list=(1,) * 65),)]
)
async def test_plain_values_with_metadata_that_do_not_decode_are_refused(
    metadata: tuple[TransformerMetadata, ...],
) -> None:
    bad = EncodedTensor("optimizer", 0, True, False, ("compressed", "trained"), metadata, bytes(4))
    async with service("no_compression") as target:
        with pytest.raises(OpenFLAioError):
            await send(target, [bad])


async def test_a_bomb_is_refused_by_what_it_claims() -> None:
    count = 20 << 20
    bomb = EncodedTensor(
        "optimizer",
        0,
        False,
        False,
        ("lossy_compressed", "trained"),
        (TransformerMetadata({0: 1.0}, (count,)), TransformerMetadata()),
        gzip.compress(bytes(4 * count)),
    )
    async with service("kc") as target:
        with pytest.raises(
            MessageTooLargeError, match="bytes when it is decoded, which is all that this model can need"
        ):
            await send(target, [bomb])
    async with service("kc", limits=Limits(max_upload_bytes=4 * count)) as target:
        assert await send(target, [bomb]) is Verdict.ACCEPTED
