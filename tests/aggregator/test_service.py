from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import anyio
import numpy as np
import pytest
from numpy.typing import NDArray

from openfl_aio.aggregator.rounds import Phase
from openfl_aio.aggregator.scratch import LEAST_BYTES, is_put_away
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.aggregator.uploads import UploadCounts, upload_limit
from openfl_aio.config import AggregatorConfig, Durability, Limits, StragglerConfig, UploadRules
from openfl_aio.domain import ExperimentStatus, Header, Metric, ModelKind, Task, TensorQuery, Verdict
from openfl_aio.errors import (
    AuthorizationError,
    CodecError,
    ConfigurationError,
    EmptyStreamError,
    ExperimentFailedError,
    HeaderMismatchError,
    InvalidStateError,
    MessageTooLargeError,
    RemoteProtocolError,
    ShapeMismatchError,
    StorageError,
    TensorError,
    TensorNotFoundError,
)
from openfl_aio.storage.journal import Entry, MemoryJournal, Spool
from openfl_aio.storage.models import ModelFiles
from openfl_aio.storage.storage import Storage
from openfl_aio.tensors.aggregation import AggregationContext, History, LocalTensor, PrivilegedFunction, WeightedAverage
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec, TransformerMetadata
from openfl_aio.tensors.key import TensorKey
from openfl_aio.testing.federation import InProcessAggregator, inline
from openfl_aio.wire.codec import EncodedMessage
from openfl_aio.wire.incremental import encode_task_results

T = TypeVar("T")

MODEL = {"b": np.zeros(3, np.float32), "w": np.ones((2, 2), np.float32)}
VALIDATE, TRAIN, TUNED = "aggregated_model_validation", "train", "locally_tuned_model_validation"


def configuration(*, rounds: int = 2, collaborators: tuple[str, ...] = ("one", "two"), **more: Any) -> AggregatorConfig:
    return AggregatorConfig(collaborators=collaborators, rounds=rounds, **more)


def aggregator(config: AggregatorConfig | None = None, **more: Any) -> Aggregator:
    return Aggregator(config or configuration(), initial_model=MODEL, offload=inline, **more)


def tensor(name: str, values: Any, *tags: str, round_number: int = 0, report: bool = False) -> EncodedTensor:
    key = TensorKey.of(name, "x", round_number, report=report, tags=tags)
    return TensorCodec().encode(key, np.asarray(values, np.float32))


def trained(value: float, round_number: int = 0) -> list[EncodedTensor]:
    return [
        tensor(name, np.full(base.shape, value), "trained", round_number=round_number) for name, base in MODEL.items()
    ]


async def send(
    target: Aggregator,
    name: str,
    task: str,
    tensors: Sequence[EncodedTensor],
    *,
    round_number: int = 0,
    data_size: int = 1,
) -> Verdict:
    upload = target.upload(name)
    header = Header(name, target.uuid, target.federation_uuid)
    for part in encode_task_results(
        header=header, round_number=round_number, task_name=task, data_size=data_size, tensors=tensors
    ):
        await upload.feed(part)
    return await upload.finish()


async def play(target: Aggregator, name: str, value: float, *, samples: int = 1, score: float = 0.5) -> None:
    """Take part in one round: train to ``value``, report ``score`` for the global model."""
    assignment = await target.get_tasks(name)
    number = assignment.round_number
    for task in assignment.tasks:
        if task.name == TRAIN:
            tensors = trained(value, number)
        else:
            tag = "validate_agg" if task.name == VALIDATE else "validate_local"
            tensors = [tensor("acc", score, "metric", tag, round_number=number, report=True)]
        assert await send(target, name, task.name, tensors, round_number=number, data_size=samples) is Verdict.ACCEPTED


def values(target: Aggregator, kind: ModelKind = ModelKind.LAST) -> NDArray[Any]:
    model = target.model(kind)
    assert model is not None
    return model["w"]


async def test_a_federation_from_beginning_to_end() -> None:
    changes: list[tuple[Phase, int]] = []
    service: Aggregator = aggregator(on_change=lambda: changes.append((service.phase, service.round_number)))
    metrics: list[Metric] = []

    async def follow() -> None:
        metrics.extend([metric async for metric in service.metrics()])

    async with service, anyio.create_task_group() as tasks:
        tasks.start_soon(follow)
        assert service.model(ModelKind.BEST) is None
        await play(service, "one", 1.0, samples=1, score=0.5)
        assert (service.phase, service.round_number) == (Phase.COLLECTING, 0)
        assert service.describe().collaborators[0].progress == 1
        assert service.describe().collaborators[1].current_task == VALIDATE
        await play(service, "two", 4.0, samples=2, score=0.8)
        await play(service, "one", 2.0, score=0.1)
        np.testing.assert_array_equal(values(service), np.full((2, 2), 3.0))
        np.testing.assert_array_equal(values(service, ModelKind.BEST), MODEL["w"])
        await play(service, "two", 2.0, score=0.1)
        final = await service.wait_complete()
        np.testing.assert_array_equal(final["w"], np.full((2, 2), 2.0))
        assert (await service.get_tasks("one")).quit
        assert (await service.get_tasks("two")).quit
        await service.wait_quits_sent()
        assert await send(service, "one", TRAIN, trained(0), round_number=1) is Verdict.COMPLETE
        description = service.describe()
        assert description.status is ExperimentStatus.FINISHED
        assert description.progress == 1
        assert description.models == {"best": "ready", "last": "ready", "init": "ready"}
    assert changes[-1] == (Phase.COMPLETE, 2)
    scores = [m.value for m in metrics if m.origin == "aggregator" and m.task_name == VALIDATE]
    assert scores == pytest.approx([0.7, 0.1])
    assert len(metrics) == 2 * 3 * 2 - 2 * 2 + 2 * 2


async def test_get_tasks_parks_until_the_round_opens_and_not_longer_than_the_cap() -> None:
    async with aggregator() as service:
        await play(service, "one", 1.0)
        begun = anyio.current_time()
        answer = await service.get_tasks("one")
        assert answer.sleep_seconds == 1
        assert not answer.tasks
        assert anyio.current_time() - begun == pytest.approx(45, abs=0.5)

        async def late() -> None:
            await anyio.sleep(7)
            await play(service, "two", 1.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(late)
            begun = anyio.current_time()
            answer = await service.get_tasks("one")
            assert answer.round_number == 1
            assert anyio.current_time() - begun == pytest.approx(7, abs=0.5)


async def test_tensors_of_the_model_deltas_and_metrics() -> None:
    codec = TensorCodec()
    async with aggregator() as service:

        async def ask(name: str, number: int, *tags: str, report: bool = False, lossless: bool = True) -> EncodedTensor:
            return await service.get_aggregated_tensor("one", TensorQuery(name, number, report, tags, lossless))

        model = await ask("w", 0, "model", lossless=False)
        np.testing.assert_array_equal(codec.decode(model), MODEL["w"])
        assert (model.tags, model.lossless) == (("compressed", "model"), False)
        assert (await ask("w", 0, "model")) == (await ask("w", 0, "model", "compressed"))

        async def both() -> None:
            await anyio.sleep(3)
            await play(service, "one", 1.5)
            await play(service, "two", 1.5)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(both)
            difference = await ask("w", 1, "aggregated", "delta", "compressed", lossless=False)
        assert difference.tags == ("aggregated", "compressed", "delta")
        assert difference.lossless
        np.testing.assert_array_equal(codec.decode(difference), np.full((2, 2), 0.5))
        np.testing.assert_array_equal(codec.decode(await ask("w", 1, "model")), np.full((2, 2), 1.5))
        score = await ask("acc", 0, "metric", "validate_agg", report=True)
        assert codec.decode(score) == np.float32(0.5)
        own = await ask("acc", 0, "metric", "two", "validate_agg", report=True)
        assert codec.decode(own) == np.float32(0.5)

        begun = anyio.current_time()
        for name, number, tags in (("nobody", 1, "model"), ("w", 0, "aggregated"), ("w", -1, "model"), ("w", 1, "odd")):
            with pytest.raises(TensorNotFoundError, match=name):
                await ask(name, number, tags)
        with pytest.raises(TensorNotFoundError, match="over"):
            await ask("nobody", 0, "metric", report=True)
        assert anyio.current_time() - begun < 1
        with pytest.raises(TensorNotFoundError, match="current round"):
            await ask("w", 9, "model")
        assert anyio.current_time() - begun > 44
        with pytest.raises(AuthorizationError):
            await service.get_aggregated_tensor("mallory", TensorQuery("w", 0))


async def test_a_delta_upload_and_an_optimizer_tensor() -> None:
    async with aggregator() as service:
        deltas = [
            tensor("b", np.zeros(3), "trained"),
            tensor("w", np.full((2, 2), 2.0), "trained", "delta"),
            tensor("m", 5.0, "trained"),
            tensor("only one's", 5.0, "trained"),
        ]
        assert await send(service, "one", TRAIN, deltas) is Verdict.ACCEPTED
        assert await send(service, "two", TRAIN, [*trained(1.0), tensor("m", 7.0, "trained")]) is Verdict.ACCEPTED
        for name in ("one", "two"):
            for task in (VALIDATE, TUNED):
                await send(service, name, task, [])
        await service.get_tasks("one")
        np.testing.assert_array_equal(values(service), np.full((2, 2), 2.0))
        model = service.model(ModelKind.LAST)
        assert model is not None
        assert set(model) == {"b", "m", "w"}
        np.testing.assert_array_equal(model["m"], 6.0)


def raw(**changes: Any) -> EncodedTensor:
    good: dict[str, Any] = {
        "name": "w",
        "round_number": 0,
        "lossless": True,
        "report": False,
        "tags": ("trained", "compressed"),
        "metadata": (TransformerMetadata(int_list=(2, 2)),),
        "data": bytes(16),
    }
    return EncodedTensor(**(good | changes))


@pytest.mark.parametrize(
    ("tensors", "data_size", "error", "sentence"),
    [
        ([raw(tags=("trained",))], 1, CodecError, "must carry one"),
        ([raw(metadata=())], 1, CodecError, "no transformer metadata"),
        ([raw(data=bytes(12))], 1, CodecError, "12 bytes"),
        ([raw(metadata=(TransformerMetadata(int_list=(4,)),))], 1, ShapeMismatchError, "as in the model"),
        ([raw(name="new", tags=("trained", "delta", "compressed"))], 1, TensorError, "no such tensor"),
        ([raw(tags=("trained", "mine", "compressed"))], 1, TensorError, "no tag but 'trained'"),
        ([raw(report=True)], 1, TensorError, "no report"),
        ([raw(), raw()], 1, TensorError, "twice"),
        ([raw()], 0, TensorError, "at least 1"),
        ([raw()], -1, TensorError, "at least 1"),
        ([raw(tags=("metric", "compressed"))], 1, ShapeMismatchError, "one number"),
    ],
)
async def test_uploads_that_are_refused_change_nothing(
    tensors: list[EncodedTensor], data_size: int, error: type[Exception], sentence: str
) -> None:
    async with aggregator() as service:
        with pytest.raises(error, match=sentence):
            await send(service, "one", TRAIN, tensors, data_size=data_size)
        assert await send(service, "one", TRAIN, trained(1)) is Verdict.ACCEPTED
        assert await send(service, "one", TRAIN, trained(1)) is Verdict.DUPLICATE
        assert await send(service, "one", TRAIN, trained(9)) is Verdict.CONFLICT
        assert await send(service, "one", TRAIN, trained(9), round_number=5) is Verdict.WRONG_ROUND


async def test_an_upload_ends_once() -> None:
    async with aggregator(configuration(limits={"max_upload_bytes": 100})) as service:
        with pytest.raises(EmptyStreamError):
            await service.upload("one").finish()
        with pytest.raises(MessageTooLargeError, match="100 bytes"):
            await send(service, "one", TRAIN, trained(1))
        upload = service.upload("one")
        await upload.abort()
        await upload.abort()
        with pytest.raises(InvalidStateError):
            await upload.feed(b"x")
        with pytest.raises(AuthorizationError):
            service.upload("mallory")
        with pytest.raises(RemoteProtocolError, match="not assigned"):
            await send(service, "one", "fly", [])


async def test_what_came_twice_is_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async with aggregator() as service:
        for value in (1, 1, 9, 9, 1):
            await send(service, "one", TRAIN, trained(value))
        await send(service, "one", TRAIN, trained(1), round_number=1)
        with pytest.raises(TensorError):
            await send(service, "one", VALIDATE, [tensor("acc", [0.5, 0.5], "metric", report=True)])
        with pytest.raises(RemoteProtocolError):
            await send(service, "one", "fly", [])
        assert service.upload_counts() == UploadCounts(accepted=1, duplicates=2, conflicting=2, late=1, refused=2)
    lines = [record.message for record in caplog.records if "ignored" in record.message]
    assert [line.partition(": ")[2] for line in lines] == ["duplicate", "other results came before", "wrong round"]


@pytest.mark.real_time
@pytest.mark.parametrize("floats", [3, 30_000], ids=["small", "in a file"])
@pytest.mark.parametrize("different", [False, True])
async def test_one_of_a_hundred_at_once_counts(tmp_path: Path, floats: int, different: bool) -> None:
    verdicts: list[Verdict] = []
    config = configuration(collaborators=("one", "two"), workspace=tmp_path)
    async with Aggregator(config, initial_model={"w": np.zeros(floats, np.float32)}) as service:

        async def upload(number: int) -> None:
            values = np.full(floats, number if different else 7)
            verdicts.append(await send(service, "one", TRAIN, [tensor("w", values, "trained")]))

        async with anyio.create_task_group() as tasks:
            for number in range(100):
                tasks.start_soon(upload, number)
        other = Verdict.CONFLICT if different else Verdict.DUPLICATE
        assert {verdict: verdicts.count(verdict) for verdict in verdicts} == {Verdict.ACCEPTED: 1, other: 99}
        assert len(list((tmp_path / "journal").rglob("*.upload"))) == 1


async def test_two_uploads_of_one_task_at_once() -> None:
    verdicts: list[Verdict] = []

    async def upload(service: Aggregator) -> None:
        verdicts.append(await send(service, "one", TRAIN, trained(1)))

    async with aggregator() as service, anyio.create_task_group() as tasks:
        tasks.start_soon(upload, service)
        tasks.start_soon(upload, service)
    assert set(verdicts) == {Verdict.ACCEPTED, Verdict.DUPLICATE}


def test_headers() -> None:
    service = aggregator()
    good = Header("one", service.uuid, service.federation_uuid)
    service.check_header(good)
    with pytest.raises(AuthorizationError):
        service.check_header(Header("mallory", service.uuid, service.federation_uuid))
    for bad in (
        Header("one", "aggregator_of_others", service.federation_uuid),
        Header("one", service.uuid, "others"),
        Header("one", service.uuid, service.federation_uuid, "shared"),
    ):
        with pytest.raises(HeaderMismatchError, match="same plan"):
            service.check_header(bad)
    with pytest.raises(HeaderMismatchError):
        service.find("others")
    with pytest.raises(InvalidStateError, match="does not listen"):
        _ = service.endpoint
    assert "0/2" in repr(service)


async def test_an_upload_of_somebody_else() -> None:
    async with aggregator() as service:
        upload = service.upload("two")
        header = Header("one", service.uuid, service.federation_uuid)
        for part in encode_task_results(
            header=header, round_number=0, task_name=TRAIN, data_size=1, tensors=trained(1)
        ):
            await upload.feed(part)
        with pytest.raises(HeaderMismatchError, match="'two'"):
            await upload.finish()


async def test_the_cutoff_closes_a_round_without_a_call() -> None:
    stragglers = StragglerConfig(kind="cutoff", cutoff_seconds=100)
    async with aggregator(configuration(stragglers=stragglers)) as service:
        await service.get_tasks("two")
        await play(service, "one", 3.0)
        for _ in range(3):
            answer = await service.get_tasks("one")
        assert answer.round_number == 1
        np.testing.assert_array_equal(values(service), np.full((2, 2), 3.0))
        assert await send(service, "two", TRAIN, trained(9)) is Verdict.WRONG_ROUND


async def test_stop_wakes_everybody() -> None:
    async with aggregator() as service:
        await play(service, "one", 1.0)

        async def stop() -> None:
            await anyio.sleep(2)
            service.stop("enough")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stop)
            assert (await service.get_tasks("one")).quit
        with pytest.raises(ExperimentFailedError, match="enough"):
            await service.wait_complete()
        assert service.describe().status is ExperimentStatus.FAILED
        with pytest.raises(TensorNotFoundError):
            await service.get_aggregated_tensor("one", TensorQuery("w", 1, tags=("model",)))


async def stopped_inside() -> None:
    async with aggregator() as service:
        service.stop("enough")
        await service.wait_complete()


async def test_the_callers_exception_comes_out_alone() -> None:
    with pytest.raises(ExperimentFailedError, match="enough"):
        await stopped_inside()


async def test_an_overflow_fails_the_federation_with_a_sentence() -> None:
    config = configuration(collaborators=("one",), uploads=UploadRules(max_value=3.5e38))
    async with aggregator(config) as service:
        for task in (VALIDATE, TUNED):
            await send(service, "one", task, [])
        await send(service, "one", TRAIN, trained(3.4e38))
        await service.get_tasks("one")
        for task in (VALIDATE, TUNED):
            await send(service, "one", task, [], round_number=1)
        await send(service, "one", TRAIN, trained(-3.4e38, 1), round_number=1)
        with pytest.raises(ExperimentFailedError, match="float32"):
            await service.wait_complete()


async def test_an_optimizer_on_the_server_remembers_from_round_to_round() -> None:
    config = configuration(collaborators=("one",), rounds=3, task_aggregation={TRAIN: "fedavgm:momentum=0.5"})
    async with aggregator(config) as service:
        await play(service, "one", 2.0)
        assert values(service)[0, 0] == 2.0
        await play(service, "one", 2.0)
        assert values(service)[0, 0] == 2.5
        await play(service, "one", 2.5)
        assert values(service)[0, 0] == 2.75


def test_configurations_that_cannot_work() -> None:
    with pytest.raises(ConfigurationError, match="unknown aggregation"):
        aggregator(configuration(aggregation="magic"))
    with pytest.raises(ConfigurationError, match="krum needs 5 collaborators or more, the federation has 2"):
        aggregator(configuration(aggregation="krum"))
    with pytest.raises(ConfigurationError, match="at least one tensor"):
        Aggregator(configuration(), initial_model={})


async def test_in_process_calls() -> None:
    async with aggregator(configuration(collaborators=("one",), rounds=1)) as service:
        api = InProcessAggregator(service, "one")
        assignment = await api.get_tasks()
        for task in assignment.tasks:
            await api.send_local_task_results(
                round_number=0, task_name=task.name, data_size=1, tensors=iter(trained(2) if task.name == TRAIN else [])
            )
        await service.wait_complete()
        assert (await api.get_tasks()).quit


async def broken(function: Callable[[], T], /) -> T:
    raise RuntimeError("the worker died")


async def test_an_unforeseen_error_ends_the_federation(caplog: pytest.LogCaptureFixture) -> None:
    service = Aggregator(configuration(collaborators=("one",)), initial_model=MODEL, offload=broken)
    async with service:
        await play(service, "one", 1.0)
        with pytest.raises(ExperimentFailedError, match="internal error"):
            await service.wait_complete()
    assert "the worker died" in caplog.text


async def test_a_stop_while_a_round_is_aggregated() -> None:
    async def slow(function: Callable[[], T], /) -> T:
        await anyio.sleep(10)
        return function()

    stragglers = StragglerConfig(kind="percentage", percentage=0.5)
    service = Aggregator(configuration(stragglers=stragglers), initial_model=MODEL, offload=slow)
    async with service:
        await play(service, "one", 1.0)
        await anyio.sleep(5)
        assert service.phase is Phase.AGGREGATING
        assert await send(service, "two", TRAIN, trained(9)) is Verdict.STRAGGLER
        service.stop("enough")
        await anyio.sleep(10)
        assert service.round_number == 0
        np.testing.assert_array_equal(values(service), MODEL["w"])


@pytest.mark.real_time
async def test_models_are_saved_and_a_disk_that_refuses_ends_the_federation(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    paths: dict[str, Any] = {
        "last_model_path": tmp_path / "file" / "last.pbuf",
        "best_model_path": tmp_path / "best.pbuf",
    }
    async with aggregator(configuration(collaborators=("one",), **paths)) as service:
        await play(service, "one", 1.0)
        with pytest.raises(ExperimentFailedError, match=r"last\.pbuf"):
            await service.wait_complete()
    saved = await ModelFiles().load(tmp_path / "best.pbuf")
    assert saved.round_number == 0
    np.testing.assert_array_equal(saved.tensors["w"], MODEL["w"])


class RecordingFiles(ModelFiles):
    """Takes a minute for each model and notes when it was begun and whether it had to be durable."""

    def __init__(self) -> None:
        super().__init__()
        self.saves: list[tuple[str, int, bool, float]] = []

    async def save(
        self, path: Path, tensors: Mapping[str, NDArray[Any]], *, round_number: int, durable: bool = True
    ) -> None:
        self.saves.append((path.name, round_number, durable, anyio.current_time()))
        await anyio.sleep(60)


class MemoryStorage(Storage):
    """Storage that opens nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.journal = MemoryJournal()
        self.models = self.files = RecordingFiles()


@pytest.mark.parametrize(("durability", "pause"), [("process", 0), ("power", 60)])
async def test_the_next_round_waits_for_the_model_on_the_disk_only_if_power_may_fail(
    durability: Durability, pause: float
) -> None:
    storage = MemoryStorage()
    config = configuration(collaborators=("one",), last_model_path=Path("last"), durability=durability)
    async with aggregator(config, storage=storage) as service:
        begun = anyio.current_time()
        await play(service, "one", 1.0)
        while (await service.get_tasks("one")).round_number != 1:
            pass
        assert anyio.current_time() - begun == pytest.approx(pause, abs=0.5)
        await play(service, "one", 2.0)
        await service.wait_complete()
        assert anyio.current_time() - begun == pytest.approx(120, abs=1)  # complete is what is saved
    saves = storage.files.saves
    assert [save[:3] for save in saves] == [("last", 1, pause > 0), ("last", 2, pause > 0)]


@pytest.mark.parametrize("durability", ["process", "power", "memory"])
@pytest.mark.real_time
async def test_what_is_left_on_disk_at_each_level(tmp_path: Path, durability: Durability) -> None:
    folder = tmp_path / "workspace"
    config = configuration(collaborators=("one",), rounds=1, workspace=folder, durability=durability)
    async with Aggregator(config, initial_model=MODEL) as service:
        assignment = await service.get_tasks("one")
        assert await send(service, "one", TRAIN, trained(1.0)) is Verdict.ACCEPTED
        journal = list((folder / "journal").rglob("*.upload"))
        assert len(journal) == (0 if durability == "memory" else 1)
        for task in assignment.tasks:
            if task.name != TRAIN:
                await send(service, "one", task.name, [tensor("acc", 1, "metric", "validate_agg", report=True)])
        await service.wait_complete()
        if durability != "memory":
            saved = await ModelFiles().load(folder / "last.pbuf")
            np.testing.assert_array_equal(saved.tensors["w"], np.ones((2, 2)))
    assert folder.exists() is (durability != "memory")


async def test_a_model_that_could_not_be_saved_at_the_end_is_told() -> None:
    class BrokenFiles(RecordingFiles):
        async def save(self, path: Path, tensors: Any, *, round_number: int, durable: bool = True) -> None:
            raise StorageError("cannot write 'last'")

    storage = MemoryStorage()
    storage.models = BrokenFiles()
    config = configuration(collaborators=("one",), rounds=1, last_model_path=Path("last"))
    async with aggregator(config, storage=storage) as service:
        await play(service, "one", 1.0)
        with pytest.raises(ExperimentFailedError, match="cannot write 'last'"):
            await service.wait_complete()


class HangingJournal(MemoryJournal):
    """Takes a second to commit."""

    def spool(self, *, durable: bool = True) -> Spool:
        spool = super().spool()
        commit = spool.commit

        async def late(*args: Any, **kwargs: Any) -> Entry:
            await anyio.sleep(1)
            return await commit(*args, **kwargs)

        spool.commit = late  # type: ignore[method-assign]
        return spool


async def test_an_upload_whose_sender_hangs_up_while_it_is_kept_counts() -> None:
    storage = MemoryStorage()
    storage.journal = HangingJournal()
    async with aggregator(storage=storage) as service:
        task = asyncio.ensure_future(send(service, "one", TRAIN, trained(1)))
        await anyio.sleep(0.5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await anyio.sleep(1)
        assert await send(service, "one", TRAIN, trained(1)) is Verdict.DUPLICATE
        assert service.upload_counts().accepted == 1


async def test_a_model_is_encoded_once_however_often_it_is_asked_for() -> None:
    made: list[tuple[float, int]] = []

    def encode(model: Mapping[str, NDArray[Any]], round_number: int) -> EncodedMessage:
        made.append((float(model["w"][0, 0]), round_number))
        return EncodedMessage([b"model"])

    async with aggregator(configuration(collaborators=("one",))) as service:
        assert await service.encoded_model(ModelKind.BEST, encode) is None
        first = await service.encoded_model(ModelKind.LAST, encode)
        assert await service.encoded_model(ModelKind.LAST, encode) is first
        await play(service, "one", 2.0)
        await service.get_tasks("one")
        assert await service.encoded_model(ModelKind.LAST, encode) is not first
        await service.encoded_model(ModelKind.LAST, encode)
        await service.encoded_model(ModelKind.BEST, encode)
    assert made == [(1.0, 0), (2.0, 1), (1.0, 0)]


async def test_an_initial_model_that_cannot_change_is_not_copied() -> None:
    writable, constant = np.ones(3, np.float32), np.ones(3, np.float32)
    constant.flags.writeable = False
    service = Aggregator(configuration(), initial_model={"a": writable, "b": constant})
    model = service.model(ModelKind.LAST)
    assert model is not None
    writable[:] = 7
    np.testing.assert_array_equal(model["a"], np.ones(3))
    assert np.shares_memory(model["b"], constant)


async def test_a_federation_that_was_over_before() -> None:
    async with aggregator(initial_round=2) as service:
        assert (await service.get_tasks("one")).quit
        np.testing.assert_array_equal((await service.wait_complete())["w"], MODEL["w"])
        assert [metric async for metric in service.metrics()] == []


def test_the_limit_of_an_upload_leaves_room_for_the_state_of_an_optimizer() -> None:
    assert upload_limit(Limits(), 10) == 40 + 1024 * 1024
    assert upload_limit(Limits(max_upload_bytes=7), 10) == 7


class Undo(PrivilegedFunction):
    """Gives back the model of the round before, if that is kept, plus one."""

    name = "undo"

    def aggregate_with(
        self, tensors: Iterable[LocalTensor], context: AggregationContext, history: History
    ) -> NDArray[np.float32]:
        oldest = next(history.find(context.tensor_name, tags=["model"]))
        return np.asarray(oldest.read() + 1, np.float32)


async def test_a_function_that_is_given_sees_earlier_models() -> None:
    async with aggregator(functions={TRAIN: Undo()}) as service:
        for expected in (2.0, 2.0):  # of round 0 both times: the model before is 1
            for name in ("one", "two"):
                await play(service, name, 9.0)
            await anyio.sleep(1)
            np.testing.assert_array_equal(values(service), np.full((2, 2), expected))


class Looking(WeightedAverage):
    """Notes whether the tensor of the global model that it gets lies in a file."""

    def __init__(self) -> None:
        self.in_files: list[bool] = []

    def aggregate(self, tensors: Iterable[LocalTensor], context: AggregationContext) -> NDArray[np.float32]:
        assert context.base is not None
        self.in_files.append(is_put_away(context.base))
        return super().aggregate(tensors, context)


@pytest.mark.real_time
async def test_while_a_round_is_aggregated_its_model_takes_no_memory(tmp_path: Path) -> None:
    config = configuration(workspace=tmp_path, tasks=(Task(TRAIN),))
    values, looking = np.ones(LEAST_BYTES // 4, np.float32), Looking()
    async with Aggregator(config, initial_model={"w": values}, functions={TRAIN: looking}) as service:
        with anyio.fail_after(20):
            for number in range(config.rounds):
                while not list(tmp_path.glob(f"federations/*/{number}.checkpoint")) or service.round_number < number:
                    await anyio.sleep(0.01)
                for name in config.collaborators:
                    results = [tensor("w", values * (number + 2), "trained", round_number=number)]
                    assert await send(service, name, TRAIN, results, round_number=number) is Verdict.ACCEPTED
            assert (await service.wait_complete())["w"][0] == config.rounds + 1
    assert looking.in_files == [True] * config.rounds


@pytest.mark.real_time
async def test_a_result_that_was_altered_on_the_disk_is_asked_for_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = configuration(workspace=tmp_path)
    async with Aggregator(config, initial_model=MODEL) as service:
        assert await send(service, "one", TRAIN, trained(1)) is Verdict.ACCEPTED
        assert await send(service, "two", TRAIN, trained(2)) is Verdict.ACCEPTED
    altered = next(path for path in (tmp_path / "journal").rglob("*.upload") if b'"one"' in path.read_bytes())
    content = bytearray(altered.read_bytes())
    content[content.index(np.float32(1).tobytes() * 2)] ^= 1
    altered.write_bytes(content)
    async with Aggregator(config, initial_model=MODEL) as service:
        assert await send(service, "one", TRAIN, trained(1)) is Verdict.ACCEPTED
        assert await send(service, "two", TRAIN, trained(2)) is Verdict.DUPLICATE
    assert [record.levelname for record in caplog.records if "payload" in record.message] == ["ERROR"]
