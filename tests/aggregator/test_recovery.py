"""A federation that goes on from what a killed process left on the disk ends like one that never stopped.

What kill -9 leaves is what is on the disk at that moment: the tests copy the workspace while the federation runs, and go
on from the copy. Real processes are killed by ``nox -s crash``.
"""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from openfl_aio.aggregator.rounds import Phase
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import AggregatorConfig, StragglerConfig, Timeouts
from openfl_aio.domain import Assignment, Header, Metric, ModelKind, Task, TensorQuery, Verdict
from openfl_aio.errors import ConfigurationError
from openfl_aio.storage.storage import Storage
from openfl_aio.tensors.aggregation import KNOWN_AGGREGATIONS
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.wire.incremental import encode_task_results

pytestmark = pytest.mark.real_time

NAMES = tuple(f"c{number}" for number in range(7))
TASKS = (Task("validate"), Task("train"))
MODEL = {"b": np.arange(3, dtype=np.float32), "w": np.linspace(-1, 1, 20, dtype=np.float32).reshape(4, 5)}

Step = Callable[[], Awaitable[None]]


def configuration(**more: Any) -> AggregatorConfig:
    values = {"collaborators": NAMES, "tasks": TASKS, "rounds": 3, "timeouts": Timeouts(long_poll=0.05)} | more
    return AggregatorConfig(**values)


def results(name: str, task: str, round_number: int, model: dict[str, Any], codec: TensorCodec) -> list[EncodedTensor]:
    """Return what a site sends: it depends on its name, the round and the global model alone."""
    seed = int(name[1:]) + 100 * round_number
    if task == "validate":
        key = TensorKey.of("acc", name, round_number, report=True, tags=("metric", "validate_agg"))
        return [codec.encode(key, np.array(np.sin(seed), np.float32))]
    draw = np.random.default_rng(seed)
    tensors = []
    for tensor, values in model.items():
        trained = (values * 0.9 + draw.normal(size=values.shape)).astype(np.float32)
        tensors.append(
            codec.encode(TensorKey.of(tensor, name, round_number, tags=("trained",)), trained, lossless=True)
        )
    return tensors


async def send(service: Aggregator, name: str, task: str, round_number: int, codec: TensorCodec) -> Verdict:
    model = service.model(ModelKind.LAST)
    assert model is not None
    upload = service.upload(name)
    for part in encode_task_results(
        header=Header(name, service.uuid, service.federation_uuid),
        round_number=round_number,
        task_name=task,
        data_size=int(name[1:]) + 1,
        tensors=results(name, task, round_number, model, codec),
    ):
        await upload.feed(part)
    return await upload.finish()


async def tasks_of(service: Aggregator, name: str) -> Assignment:
    """Return what a site is to do when no round is being aggregated, which may take longer than a call waits: then it
    would have its turn behind the others, and its metrics another place.
    """
    while True:
        aggregating = service.phase is Phase.AGGREGATING
        assignment = await service.get_tasks(name)
        if assignment.tasks or assignment.quit or not aggregating:
            return assignment


async def play(service: Aggregator, *, after_each: Step | None = None, absent: tuple[str, ...] = ()) -> None:
    """Let every site do what it is asked to until all are told to quit."""
    codec = TensorCodec(service.config.pipeline)
    waiting = [name for name in service.collaborators if name not in absent]
    with anyio.fail_after(50):
        while waiting:
            for name in list(waiting):
                assignment = await tasks_of(service, name)
                if assignment.quit:
                    waiting.remove(name)
                for task in assignment.tasks:
                    verdict = await send(service, name, task.name, assignment.round_number, codec)
                    assert verdict in (Verdict.ACCEPTED, Verdict.STRAGGLER, Verdict.WRONG_ROUND)
                    if after_each is not None:
                        await after_each()


async def outcome(service: Aggregator) -> dict[str, Any]:
    """Return all that somebody could compare."""
    model = await service.wait_complete()
    best = service.model(ModelKind.BEST)
    deltas = []
    for name in MODEL:
        query = TensorQuery(name, service.round_number, tags=("aggregated", "delta"))
        deltas.append(bytes((await service.get_aggregated_tensor(NAMES[0], query)).data))
    return {
        "model": {name: array.tobytes() for name, array in model.items()},
        "best": None if best is None else {name: array.tobytes() for name, array in best.items()},
        "deltas": deltas,
        "metrics": [metric async for metric in service.metrics()],
        "round": service.round_number,
    }


async def finish(folder: Path, config: AggregatorConfig, **more: Any) -> dict[str, Any]:
    async with Storage(folder) as storage, Aggregator(config, initial_model=MODEL, storage=storage) as service:
        await play(service, **more)
        return await outcome(service)


def copied(folder: Path, path: Path) -> Path:
    """Return a copy of what is on the disk, as a kill would leave it: of one moment."""
    for _ in range(100):
        shutil.rmtree(path, ignore_errors=True)
        try:
            before = look_of(folder)
            for name in ("journal", "federations"):
                shutil.copytree(folder / name, path / name)
            if look_of(folder) == before:
                return path
        except (shutil.Error, FileNotFoundError):  # a file or a folder went while it was read
            continue
    raise AssertionError("it was written to all the time")


def look_of(folder: Path) -> dict[Path, tuple[int, int, int]]:
    """Return what changes when something is written: which file it is, its size and time."""
    found = {}
    for path in [*folder.glob("journal/**/*"), *folder.glob("federations/**/*")]:
        try:
            stat = path.stat()
        except FileNotFoundError:
            continue
        found[path] = stat.st_ino, stat.st_size, stat.st_mtime_ns
    return found


async def images(folder: Path, into: Path, config: AggregatorConfig, **more: Any) -> tuple[list[Path], dict[str, Any]]:
    """Run a federation, and copy what is on the disk after each upload. Return the copies, and how it ended."""
    copies: list[Path] = []

    async def copy() -> None:
        copies.append(await anyio.to_thread.run_sync(copied, folder, into / str(len(copies))))

    return copies, await finish(folder, config, after_each=copy, **more)


@pytest.mark.parametrize("function", sorted(KNOWN_AGGREGATIONS))
async def test_the_same_to_the_bit_for_every_function(tmp_path: Path, function: str) -> None:
    config = configuration(aggregation=function)
    copies, reference = await images(tmp_path / "whole", tmp_path / "copies", config)
    assert len(copies) == 3 * 2 * len(NAMES)
    for number in (0, 13, 14, 23, 41):  # in each round, before and behind its end
        assert await finish(copies[number], config) == reference


@pytest.mark.parametrize("pipeline", ["stc", "kc", "random_shift"])
async def test_the_same_to_the_bit_for_lossy_pipelines(tmp_path: Path, pipeline: str) -> None:
    config = configuration(pipeline=pipeline, aggregation="adam")
    copies, reference = await images(tmp_path / "whole", tmp_path / "copies", config)
    for number in (5, 13, 20, 30):
        after = await finish(copies[number], config)
        if pipeline == "random_shift":  # draws its shifts anew for what it codes after the restart
            assert [len(delta) for delta in after["deltas"]] == [len(delta) for delta in reference["deltas"]]
            assert after["metrics"] == reference["metrics"]
        else:
            assert after == reference


async def test_killed_again_and_again(tmp_path: Path) -> None:
    config = configuration(aggregation="yogi")
    copies, reference = await images(tmp_path / "whole", tmp_path / "copies", config)
    folder = copies[3]
    for generation in range(4):
        later, _ = await images(folder, tmp_path / f"later{generation}", config)
        folder = later[min(6, len(later) - 1)]
    assert await finish(folder, config) == reference


async def test_a_round_that_was_closed_without_somebody_stays_closed(tmp_path: Path) -> None:
    stragglers = StragglerConfig(kind="percentage", percentage=0.5, minimum_reporting=3)
    config = configuration(stragglers=stragglers)
    absent = ("c5", "c6")
    copies, reference = await images(tmp_path / "whole", tmp_path / "copies", config, absent=absent)
    for number in (2, len(copies) // 2, len(copies) - 1):
        assert await finish(copies[number], config, absent=absent) == reference


async def test_a_retry_of_what_was_kept_is_a_duplicate_and_the_rest_is_still_asked_for(tmp_path: Path) -> None:
    config = configuration()
    async with Storage(tmp_path) as storage, Aggregator(config, initial_model=MODEL, storage=storage) as service:
        assert await send(service, "c0", "train", 0, TensorCodec()) is Verdict.ACCEPTED
        assert await send(service, "c0", "validate", 0, TensorCodec()) is Verdict.ACCEPTED
        seen = service.metrics()
        assert (await anext(seen)).origin == "c0"
    async with Storage(tmp_path) as storage, Aggregator(config, initial_model=MODEL, storage=storage) as service:
        assert await send(service, "c0", "train", 0, TensorCodec()) is Verdict.DUPLICATE
        assert not (await service.get_tasks("c0")).tasks
        assert [task.name for task in (await service.get_tasks("c1")).tasks] == ["validate", "train"]
        assert await anext(service.metrics()) == Metric("c0", "validate", "acc", 0.0, 0)


async def test_a_metric_that_was_seen_keeps_its_place_also_if_the_log_had_to_be_mended(tmp_path: Path) -> None:
    config, codec = configuration(), TensorCodec()
    async with (
        Storage(tmp_path / "first") as storage,
        Aggregator(config, initial_model=MODEL, storage=storage) as first,
    ):
        await send(first, "c1", "validate", 0, codec)
        one = copied(tmp_path / "first", tmp_path / "one")
        await send(first, "c0", "validate", 0, codec)
        both = copied(tmp_path / "first", tmp_path / "both")
    for log in one.glob("federations/*/log"):
        log.unlink()  # killed when the upload was kept, and the log was not
    async with Storage(one) as storage, Aggregator(config, initial_model=MODEL, storage=storage) as second:
        with anyio.fail_after(10):
            seen = await anext(second.metrics())
        killed = copied(one, tmp_path / "killed")
    shutil.rmtree(killed / "journal")
    shutil.copytree(both / "journal", killed / "journal")  # another upload was kept, and then the process died
    async with Storage(killed) as storage, Aggregator(config, initial_model=MODEL, storage=storage) as third:
        assert seen.origin == "c1"
        with anyio.fail_after(10):
            assert await anext(third.metrics()) == seen


async def test_what_completed_and_was_told_to_everybody_is_forgotten(tmp_path: Path) -> None:
    config = configuration(rounds=1)
    for _ in range(2):  # the second one begins anew
        async with Storage(tmp_path) as storage, Aggregator(config, initial_model=MODEL, storage=storage) as service:
            assert service.phase is Phase.COLLECTING
            await play(service)
        assert not list((tmp_path / "federations").iterdir())
        assert not list((tmp_path / "journal").iterdir())


async def test_who_was_not_told_is_told_after_a_restart(tmp_path: Path) -> None:
    config = configuration(rounds=1)
    async with Storage(tmp_path) as storage, Aggregator(config, initial_model=MODEL, storage=storage) as service:
        for name in NAMES:
            for task in ("validate", "train"):
                await send(service, name, task, 0, TensorCodec())
        model = await service.wait_complete()
        assert (await service.get_tasks("c0")).quit
    async with Storage(tmp_path) as storage, Aggregator(config, initial_model=MODEL, storage=storage) as service:
        assert service.phase is Phase.COMPLETE
        again = await service.wait_complete()
        assert {name: array.tobytes() for name, array in again.items()} == {
            name: array.tobytes() for name, array in model.items()
        }
        for name in NAMES[1:]:
            assert (await service.get_tasks(name)).quit
        await service.wait_quits_sent()
    assert not list((tmp_path / "federations").iterdir())


async def test_other_settings_are_refused(tmp_path: Path) -> None:
    async with Storage(tmp_path) as storage:
        async with Aggregator(configuration(), initial_model=MODEL, storage=storage) as service:
            await send(service, "c0", "train", 0, TensorCodec())
        other = Aggregator(configuration(aggregation="median"), initial_model=MODEL, storage=storage)
        with pytest.raises(
            ConfigurationError, match=r"aggregation: expected .*weighted_average.*go on with the former"
        ):
            await other.__aenter__()


async def test_another_initial_model_is_refused_unless_nothing_was_begun(tmp_path: Path) -> None:
    other = {"w": np.zeros(3, np.float32)}
    async with Storage(tmp_path) as storage:
        async with Aggregator(configuration(), initial_model=other, storage=storage):
            pass
        async with Aggregator(configuration(), initial_model=MODEL, storage=storage) as service:
            await send(service, "c0", "train", 0, TensorCodec())
        with pytest.raises(
            ConfigurationError, match=r"initial_model: tensor 'w' has the shape \(3,\), .* \(4, 5\); go on"
        ):
            await Aggregator(configuration(), initial_model=other, storage=storage).__aenter__()


async def test_who_is_stopped_for_good_leaves_nothing(tmp_path: Path) -> None:
    async with Storage(tmp_path) as storage:
        async with Aggregator(configuration(), initial_model=MODEL, storage=storage) as service:
            await send(service, "c0", "train", 0, TensorCodec())
            service.stop("enough")
        assert not list((tmp_path / "federations").iterdir())
        assert not list((tmp_path / "journal").iterdir())


async def test_the_disk_holds_a_bounded_number_of_files_however_many_rounds(tmp_path: Path) -> None:
    config = configuration(rounds=60, store_rounds=2)
    most = 0

    async def count() -> None:
        nonlocal most
        files = await anyio.to_thread.run_sync(lambda: [p for p in tmp_path.rglob("*") if p.is_file()])
        most = max(most, len(files))

    await finish(tmp_path, config, after_each=count)
    # two rounds of uploads and as many kept for reuse, four checkpoints and the best one, log, models, database
    assert most < 6 * 2 * len(NAMES)


async def test_the_log_of_settled_rounds_is_their_metrics(tmp_path: Path) -> None:
    """And a federation goes on from a log that was settled often as from one that never was."""
    config = configuration(rounds=24, collaborators=NAMES[:2])
    copies: list[Path] = []
    sizes: list[int] = []

    async def look() -> None:
        (log,) = (tmp_path / "whole").glob("federations/*/log")
        sizes.append(log.stat().st_size)
        if len(sizes) in (30, 31, 61, 90):
            copies.append(await anyio.to_thread.run_sync(copied, tmp_path / "whole", tmp_path / str(len(sizes))))

    reference = await finish(tmp_path / "whole", config, after_each=look)
    assert len(sizes) == 24 * 2 * 2
    assert len(reference["metrics"]) == 24 * 3
    # a round is 3 metrics of some 20 bytes and as much beside them; as it was decided it takes more than 600
    assert max(sizes) < 24 * 120 + 8000
    for copy in copies:
        assert await finish(copy, config) == reference


async def test_a_round_whose_checkpoint_is_lost_is_played_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its results are gone with the checkpoint that made them needless, and its lines in the log are settled."""
    config = configuration(rounds=6, collaborators=NAMES[:2])
    copies, reference = await images(tmp_path / "whole", tmp_path / "copies", config)
    copy = copies[14]  # in round 3
    newest = max(copy.glob("federations/*/*.checkpoint"), key=lambda path: path.stem.isdecimal() and int(path.stem))
    assert newest.stem == "3"
    newest.write_bytes(newest.read_bytes()[:-1])
    ended = await finish(copy, config)
    assert "no whole checkpoint" in caplog.text
    assert "goes on in round 2 of 6 with 0 results" in caplog.text
    assert ended["model"] == reference["model"]
    assert set(ended["metrics"]) == set(reference["metrics"])
