"""Uploads that somebody with a valid certificate could make up: the model is the honest one to the bit all the same."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import anyio.lowlevel
import numpy as np
import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError
from numpy.typing import NDArray

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.servicer import AggregatorServicer
from openfl_aio.aggregator.uploads import Upload
from openfl_aio.config import AggregatorConfig, AssignerConfig, Endpoint, TaskGroup, UploadRules, default_tasks
from openfl_aio.domain import Header, Task, TaskKind
from openfl_aio.errors import OpenFLAioError
from openfl_aio.storage.journal import Entry
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec, TransformerMetadata
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.federation import inline
from openfl_aio.transport.channel import open_channel
from openfl_aio.transport.identity import Caller, as_caller
from openfl_aio.transport.status import status_of
from openfl_aio.wire import messages
from openfl_aio.wire.framing import data_stream
from openfl_aio.wire.incremental import encode_task_results

MODEL: Final = {"b": np.zeros(3, np.float32), "w": np.ones((2, 2), np.float32)}
TRAIN, VALIDATE, AUDIT = "train", "aggregated_model_validation", "audit"
SCORE: Final = ("metric", "validate_agg")
OK = (Status.OK,)
INVALID = (Status.INVALID_ARGUMENT,)
DENIED = (Status.PERMISSION_DENIED, Status.INVALID_ARGUMENT)


def encoded(
    name: str, values: Any, *tags: str, round_number: int = 0, report: bool = False, pipeline: str = "no_compression"
) -> EncodedTensor:
    key = TensorKey.of(name, "x", round_number, report=report, tags=tags)
    return TensorCodec(pipeline).encode(key, np.asarray(values, np.float32))


B: Final = encoded("b", [1, 2, 3], "trained")
W: Final = encoded("w", [[1, 2], [3, 4]], "trained")
M: Final = encoded("momentum", np.full(3, 0.5), "trained")
ACC: Final = encoded("acc", 0.5, *SCORE, report=True)


def shaped(*shape: int, data: bytes = b"") -> EncodedTensor:
    return replace(M, metadata=(TransformerMetadata(int_list=shape),), data=data)


def w(values: Any, *tags: str) -> EncodedTensor:
    return encoded("w", values, "trained", *tags)


def acc(value: Any = 0.5, *tags: str, report: bool = True) -> EncodedTensor:
    return encoded("acc", value, *(tags or SCORE), report=report)


@dataclass(frozen=True)
class Hostile:
    """An upload of ``one``. Those that are answered OK are another round's, or count without what is hostile in them."""

    what: str
    tensors: Sequence[EncodedTensor] = (B, W, M)
    task: str = TRAIN
    data_size: int = 3
    round_number: int = 0
    header: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    more: bytes = b""
    allowed: tuple[Status, ...] = INVALID
    counts: bool = False


HOSTILE: Final = (
    # values
    Hostile("NaN", (B, w([[np.nan, 1], [1, 1]]), M)),
    Hostile("infinity", (B, w([[1, np.inf], [1, 1]]), M)),
    Hostile("minus infinity", (B, w([[1, 1], [1, -np.inf]]), M)),
    Hostile("almost infinity", (B, w(np.full((2, 2), 1e38)), M)),
    Hostile("a delta that is almost infinity", (B, w(np.full((2, 2), 3e38), "delta"), M)),
    Hostile("NaN as a delta", (B, w(np.full((2, 2), np.nan), "delta"), M)),
    Hostile("NaN in the optimizer", (B, W, replace(M, data=b"\xff" * 12))),
    Hostile("further from the model than is allowed", (B, w(np.full((2, 2), 600.0)), M)),
    # shapes and bytes
    Hostile("another shape of the same size", (B, w([1, 2, 3, 4]), M)),
    Hostile("a larger tensor", (B, w(np.ones((2, 3))), M)),
    Hostile("more bytes than its shape", (B, replace(W, data=bytes(20)), M)),
    Hostile("fewer bytes than its shape", (B, replace(W, data=bytes(12)), M)),
    Hostile("two negative sizes", (B, W, shaped(-1, -3, data=bytes(12)))),
    Hostile("an impossible size times zero", (B, W, shaped(0, *[2**31 - 1] * 3))),
    Hostile("more dimensions than arrays have", (B, W, shaped(*[1] * 65, data=bytes(4)))),
    Hostile("no metadata", (B, replace(W, metadata=()), M)),
    Hostile("metadata of two stages", (B, replace(W, metadata=W.metadata * 2), M)),
    # names
    Hostile("a tensor left out", (W, M)),
    Hostile("nothing trained", ()),
    Hostile("a metric instead of the model", (acc(),)),
    Hostile("a delta to a tensor that is not there", (B, W, encoded("momentum", np.ones(3), "trained", "delta"))),
    Hostile(
        "a tensor that nobody has", (B, W, M, encoded("evil", np.full(9, 9.0), "trained")), allowed=OK, counts=True
    ),
    Hostile("a tensor twice", (B, W, W, M)),
    Hostile("a tensor as it is and as a delta", (B, W, w(np.ones((2, 2)), "delta"), M)),
    # tags
    Hostile("the tag of the model", (B, replace(W, tags=("compressed", "model")), M)),
    Hostile("the tag of the model besides", (B, replace(W, tags=("compressed", "model", "trained")), M)),
    Hostile("the tag of the aggregate", (B, W, M, replace(W, tags=("aggregated", "compressed")))),
    Hostile("the tag of an aggregated metric", (acc(0.9, "aggregated", "metric"),), VALIDATE),
    Hostile("another's name as a tag", (acc(0.9, *SCORE, "two"),), VALIDATE),
    Hostile("another's name on a tensor", (B, W, M, replace(W, name="x", tags=("compressed", "trained", "two")))),
    Hostile("a tag that makes another kind of it", (B, w([[9, 9], [9, 9]], "mine"), M)),
    Hostile("no coding", (B, replace(W, tags=("trained",)), M)),
    Hostile("two codings", (B, replace(W, tags=("compressed", "lossy_compressed", "trained")), M)),
    Hostile("reported weights", (B, replace(W, report=True), M)),
    Hostile("a metric that is not reported", (acc(report=False),), VALIDATE),
    # rounds
    Hostile("a tensor of another round", (B, replace(W, round_number=1), M)),
    Hostile("a metric of another round", (replace(ACC, round_number=7),), VALIDATE),
    Hostile("the round before", round_number=-1, tensors=(), allowed=OK),
    Hostile("the round after", round_number=1, tensors=(), allowed=OK),
    # weights
    Hostile("no samples", data_size=0),
    Hostile("a negative number of samples", data_size=-5),
    Hostile("an unknown number of samples", data_size=-1),
    Hostile("all samples of the world", data_size=2**31 - 1),
    Hostile("a score of a negative number of samples", (acc(),), VALIDATE, data_size=-5),
    Hostile("a score of all samples of the world", (acc(),), VALIDATE, data_size=2**31 - 1),
    # tasks and metrics
    Hostile("an unknown task", task="fly"),
    Hostile("a task with a second line", task="train\n2026-01-01 CRITICAL openfl_aio: forged"),
    Hostile("another's task", (acc(),), AUDIT),
    Hostile("weights of a task that validates", task=VALIDATE),
    Hostile("NaN as a score", (acc(np.nan),), VALIDATE, allowed=OK, counts=True),
    Hostile("infinity as a score", (acc(np.inf),), VALIDATE, allowed=OK, counts=True),
    Hostile("two numbers as a score", (acc([0.5, 0.5]),), VALIDATE),
    Hostile("a score twice", (acc(), acc(0.9)), VALIDATE),
    Hostile("a score with a second line", (replace(ACC, name="acc\n2026-01-01 CRITICAL forged"),), VALIDATE),
    Hostile("a score whose name is a page", (replace(ACC, name="a" * 5_000),), VALIDATE),
    Hostile("a score without a name", (replace(ACC, name=""),), VALIDATE),
    Hostile("a tensor that nobody has with a second line", (B, W, M, replace(W, name="evil\n"))),
    # who and what
    Hostile("in another's name", header={"sender": "two"}, allowed=(*DENIED, Status.UNAUTHENTICATED)),
    Hostile("in nobody's name", header={"sender": "mallory"}, allowed=(*DENIED, Status.UNAUTHENTICATED)),
    Hostile("to another aggregator", header={"receiver": "aggregator_of_others"}),
    Hostile("to another federation", header={"federation_uuid": "others"}),
    Hostile("with a shared certificate's name", header={"single_col_cert_common_name": "shared"}),
    Hostile("cut short", cut=-1),
    Hostile("garbage behind it", more=b"\xff\xff\xff"),
)


def config(**more: Any) -> AggregatorConfig:
    names = tuple(task.name for task in default_tasks())
    groups = (
        TaskGroup(name="all", tasks=names, collaborators=("one", "three")),
        TaskGroup(name="auditors", tasks=(*names, AUDIT), collaborators=("two",)),
    )
    return AggregatorConfig(
        collaborators=("one", "two", "three"),
        rounds=1,
        tasks=(*default_tasks(), Task(AUDIT, "validate", TaskKind.VALIDATE)),
        assigner=AssignerConfig(kind="static_grouped", groups=groups),
        uploads=UploadRules(max_update_norm=1_000.0),
        **more,
    )


def content(target: Aggregator, upload: Hostile, sender: str = "one") -> bytes:
    header = Header(
        **({"sender": sender, "receiver": target.uuid, "federation_uuid": target.federation_uuid} | upload.header)
    )
    parts = encode_task_results(
        header=header,
        round_number=upload.round_number,
        task_name=upload.task,
        data_size=upload.data_size,
        tensors=[replace(t, round_number=upload.round_number) if upload.round_number else t for t in upload.tensors],
    )
    return b"".join(map(bytes, parts))[: upload.cut] + upload.more


@pytest.fixture(autouse=True, params=[True, False], ids=["values looked at as they come", "values read at the end"])
def looked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tensors are read at the end, large ones looked at as they come; here all of them are either."""
    monkeypatch.setattr("openfl_aio.wire.incremental._LEAST_LOOKED_AT", 1 if request.param else 2**62)


async def feed(upload: Upload, data: bytes) -> None:
    await upload.feed(data)
    await upload.finish()


async def stream(chunks: Iterable[messages.DataStream]) -> AsyncIterator[messages.DataStream]:
    for chunk in chunks:
        yield chunk


async def status_over(servicer: AggregatorServicer, data: bytes, sender: str) -> Status:
    with as_caller(Caller(sender, authenticated=True)):
        try:
            await servicer.send_local_task_results(stream(data_stream([data], chunk_bytes=64)))
        except OpenFLAioError as exc:
            return status_of(exc)[0]
    return Status.OK


def honest(name: str, task: str) -> Hostile:
    """Return what ``name`` honestly sends for ``task``."""
    if task == TRAIN:
        factor = {"one": 1.0, "two": 0.3, "three": -2.0}[name]
        scaled = [
            encoded(tensor.name, TensorCodec().decode(tensor) * np.float32(factor), "trained") for tensor in (B, W, M)
        ]
        return Hostile("honest", scaled, data_size=len(name))
    return Hostile("honest", (acc({"one": 0.1, "two": 0.7, "three": 0.6}[name]),), task, data_size=7)


async def finish(target: Aggregator) -> dict[str, NDArray[Any]]:
    """Let everybody send what is left of the round, and return the model."""
    servicer = AggregatorServicer(target.find)
    for name in target.collaborators:
        for task in (await target.get_tasks(name)).tasks:
            assert await status_over(servicer, content(target, honest(name, task.name), name), name) is Status.OK
    return await target.wait_complete()


@pytest.fixture
async def honest_model() -> dict[str, NDArray[Any]]:
    async with Aggregator(config(), initial_model=MODEL, offload=inline) as target:
        return await finish(target)


def same(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> bool:
    return set(one) == set(other) and all(one[name].tobytes() == other[name].tobytes() for name in one)


def test_the_table_has_every_kind() -> None:
    assert len({upload.what for upload in HOSTILE}) == len(HOSTILE) >= 35


@pytest.mark.parametrize("upload_id", [None, "a" * 32])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
async def test_a_score_that_is_not_finite_is_told_and_left_out(value: float, upload_id: str | None) -> None:
    async with Aggregator(config(), initial_model=MODEL, offload=inline) as target:
        # ours give their uploads names
        await feed(target.upload("one", upload_id), content(target, Hostile("it", (acc(value),), VALIDATE)))
        await finish(target)
        metrics = [metric async for metric in target.metrics() if metric.task_name == VALIDATE]
    sent = {metric.origin: metric.value for metric in metrics}
    np.testing.assert_equal(sent.pop("one"), np.float32(value))
    assert sent == {"two": pytest.approx(0.7), "three": pytest.approx(0.6), "aggregator": pytest.approx(0.65)}


@pytest.mark.parametrize("upload", HOSTILE, ids=lambda upload: upload.what)
async def test_it_is_refused_or_harmless(upload: Hostile, honest_model: dict[str, NDArray[Any]]) -> None:
    async with Aggregator(config(), initial_model=MODEL, offload=inline) as target:
        if upload.counts:  # what the others of it will be
            upload = replace(upload, data_size=honest("one", TRAIN).data_size)
        before = await target.get_tasks("one")
        status = await status_over(AggregatorServicer(target.find), content(target, upload), "one")
        assert status in upload.allowed
        if upload.counts:
            assert target.upload_counts().accepted == 1
        else:
            assert await target.get_tasks("one") == before
        model = await finish(target)
        metrics = [metric async for metric in target.metrics()]
    assert same(model, honest_model)
    assert len([metric for metric in metrics if metric.origin == "one"]) == 2


async def test_who_sends_another_shape_of_the_optimizers_state_has_no_vote_on_it(
    honest_model: dict[str, NDArray[Any]],
) -> None:
    async with Aggregator(config(), initial_model=MODEL, offload=inline) as target:
        upload = replace(honest("one", TRAIN), tensors=(B, W, encoded("momentum", np.ones(5), "trained")))
        assert await status_over(AggregatorServicer(target.find), content(target, upload), "one") is Status.OK
        model = await finish(target)
    # weighted 3 to 5 by how long the names are
    assert model.pop("momentum") == pytest.approx(0.5 * (3 * 0.3 + 5 * -2) / 8)
    del honest_model["momentum"]
    assert same(model, honest_model)


async def test_what_is_lossless_in_a_lossy_federation_is_looked_at_too() -> None:
    async with Aggregator(
        AggregatorConfig(collaborators=("one",), rounds=1, pipeline="kc"), initial_model=MODEL, offload=inline
    ) as target:
        data = content(target, Hostile("NaN", (B, w(np.full((2, 2), np.nan)))))
        assert await status_over(AggregatorServicer(target.find), data, "one") is Status.INVALID_ARGUMENT
        for task in (await target.get_tasks("one")).tasks:
            data = content(target, honest("one", task.name))
            assert await status_over(AggregatorServicer(target.find), data, "one") is Status.OK
        await target.wait_complete()


@pytest.mark.real_time
async def test_all_of_them_over_the_wire_leave_nothing_behind(
    tmp_path: Path, honest_model: dict[str, NDArray[Any]]
) -> None:
    async with Aggregator(config(listen=Endpoint(), workspace=tmp_path), initial_model=MODEL) as target:
        before = [await target.get_tasks(name) for name in target.collaborators]
        async with open_channel(target.endpoint, tls=None, metadata={"client_id": "one"}) as channel:
            stub = messages.aggregator.AggregatorStub(channel)
            for upload in HOSTILE:
                if upload.counts:
                    continue
                # without TLS a name is what the message says, so that those in another's name would be his own
                if upload.header.get("sender") in target.collaborators:
                    continue
                try:
                    await stub.send_local_task_results(data_stream([content(target, upload)], chunk_bytes=100))
                    status = Status.OK
                except GRPCError as exc:
                    status = exc.status
                assert status in upload.allowed, upload.what
        assert list((tmp_path / "journal").rglob("*.upload")) == []
        assert [await target.get_tasks(name) for name in target.collaborators] == before
        await anyio.lowlevel.checkpoint()
        gc.collect()
        assert [found for found in gc.get_objects() if type(found) in (Entry, Upload)] == []
        model = await finish(target)
    assert same(model, honest_model)
