from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest

from openfl_aio.aggregator.api import get_each
from openfl_aio.config import CollaboratorConfig, Endpoint, EnvoyConfig, ProcessLimits, RetryPolicy, default_tasks
from openfl_aio.domain import Assignment, DeviceInfo, ShardInfo, TensorQuery
from openfl_aio.envoy.envoy import Envoy, Review
from openfl_aio.errors import ConfigurationError, ConnectError, ShardNotFoundError
from openfl_aio.plan.plan import Plan
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey

pytestmark = pytest.mark.real_time

SHARD = """
class Shard:
    def __init__(self, *, value=1):
        self.value = value
    sample_shape = ["8"]
    target_shape = ["1"]
    dataset_description = "rows"
    def __len__(self):
        return 3
    def get_dataset(self, dataset_type):
        return self.value
"""

RUNNER = """
import numpy as np
from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner
from openfl_aio.collaborator.task_runner import TaskOutput

class Runner(NumPyTaskRunner):
    def __init__(self, shard, *, fail=False):
        self.value = shard.get_dataset("train")
        self.fail = fail
    @classmethod
    def initial_model(cls):
        return {"w": np.zeros(2, np.float32)}
    def train(self, tensors, context):
        if self.fail == "hog":
            held = [b"x" * (1 << 20) for _ in range(4000)]
        if self.fail:
            raise RuntimeError("the data is gone")
        tensors["w"] += self.value
        return TaskOutput(3, tensors)
    def validate(self, tensors, context):
        return TaskOutput(3, metrics={"sum": tensors["w"].sum()})
"""

PLAN = """
aggregator: {settings: {rounds_to_train: 1}}
network: {settings: {agg_addr: localhost, agg_port: PORT, hash_salt: x, tls: false}}
task_runner: {template: runner_source.Runner, settings: {fail: FAIL}}
tasks:
  train: {function: train, kwargs: {}}
"""


def archive(*, fail: bool | str = False, port: int = 50051, plan: str = PLAN) -> bytes:
    buffer = io.BytesIO()
    plan = plan.replace("PORT", str(port)).replace("FAIL", str(fail).lower())
    with zipfile.ZipFile(buffer, "w") as zipped:
        for name, text in {"plan/plan.yaml": plan, "runner_source.py": RUNNER}.items():
            zipped.writestr(name, text)
    return buffer.getvalue()


class ScriptedDirector:
    """Hands out experiments in order, then has nothing; remembers what it was told."""

    def __init__(self, experiments: dict[str, bytes] | None = None) -> None:
        self.experiments = experiments or {}
        self.queue: list[str | Exception] = list(self.experiments)
        self.accepts = True
        self.period: float | Exception = 60.0
        self.shards: list[ShardInfo] = []
        self.reports: list[bool] = []
        self.failures: list[tuple[str, str]] = []
        self.idle = anyio.Event()
        self.reported = anyio.Event()

    async def update_shard_info(self, shard: ShardInfo) -> bool:
        self.shards.append(shard)
        return self.accepts

    async def update_envoy_status(
        self, name: str, *, is_experiment_running: bool, devices: Iterable[DeviceInfo] = ()
    ) -> float:
        self.reports.append(is_experiment_running)
        self.reported.set()
        if isinstance(self.period, Exception):
            raise self.period
        return self.period

    async def wait_experiment(self, envoy: str) -> str:
        if self.queue:
            following = self.queue.pop(0)
            if isinstance(following, Exception):
                raise following
            return following
        self.idle.set()
        await anyio.sleep_forever()
        return ""

    async def get_experiment_data(self, name: str, envoy: str) -> AsyncIterator[memoryview]:
        yield memoryview(self.experiments[name])

    async def set_experiment_failed(
        self, name: str, envoy: str, *, error_code: int = 1, error_description: str = ""
    ) -> None:
        self.failures.append((name, error_description))
        if name == "unreportable":
            raise ConnectError("away")


class ScriptedAggregator:
    """One round of the default tasks."""

    def __init__(self) -> None:
        self.assignments = [Assignment(0, default_tasks()), Assignment(1, quit=True)]
        self.uploads: dict[str, list[EncodedTensor]] = {}

    async def get_tasks(self) -> Assignment:
        return self.assignments.pop(0)

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        return TensorCodec().encode(TensorKey.of(query.tensor_name, "", 0, tags=query.tags), np.ones(2, np.float32))

    async def get_aggregated_tensors(self, queries: Sequence[TensorQuery]) -> list[EncodedTensor]:
        return await get_each(self.get_aggregated_tensor, queries)

    async def send_local_task_results(
        self, *, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
    ) -> None:
        self.uploads[task_name] = list(tensors)


@asynccontextmanager
async def opened(value: Any) -> AsyncIterator[Any]:
    yield value


def config(folder: Path, **changes: Any) -> EnvoyConfig:
    (folder / "shard_source.py").write_text(SHARD)
    return EnvoyConfig(
        **{
            "name": "site",
            "director": Endpoint(host="127.0.0.1", port=50051),
            "shard_template": "shard_source.Shard",
            "shard_params": {"value": 5},
            "shard_path": folder,
            "workspace": folder / "work",
            "retry": RetryPolicy(first_delay=0.01, max_delay=0.01),
            **changes,
        }
    )


async def run_until_idle(
    settings: EnvoyConfig,
    director: ScriptedDirector,
    aggregator: Callable[[CollaboratorConfig], AbstractAsyncContextManager[Any]] | None = None,
    review: Review | None = None,
) -> Envoy:
    envoy = Envoy(settings, director=lambda _: opened(director), aggregator=aggregator or opened, review=review)
    async with anyio.create_task_group() as group:
        group.start_soon(envoy.run)
        with anyio.fail_after(30):
            await director.idle.wait()
            await director.reported.wait()
        group.cancel_scope.cancel()
    return envoy


async def test_an_experiment_from_its_archive_to_its_results(tmp_path: Path) -> None:
    director = ScriptedDirector({"digits": archive()})
    aggregator = ScriptedAggregator()
    configs: list[CollaboratorConfig] = []

    def connect(config: CollaboratorConfig) -> AbstractAsyncContextManager[Any]:
        configs.append(config)
        return opened(aggregator)

    envoy = await run_until_idle(config(tmp_path), director, connect)
    assert director.shards == [ShardInfo("site", "rows", 3, ("8",), ("1",))]
    assert director.failures == []
    assert list(aggregator.uploads) == [task.name for task in default_tasks()]
    np.testing.assert_array_equal(TensorCodec().decode(aggregator.uploads["train"][0]), [6, 6])
    assert configs[0].endpoint == Endpoint(host="127.0.0.1", port=50051), "the director's own port, as it was reached"
    assert configs[0].aggregator_uuid.startswith("aggregator_plan.yaml_")
    assert (envoy.running, list((tmp_path / "work").iterdir())) == ("", [tmp_path / "work" / "shard.log"])
    assert "site" in repr(envoy)


async def test_an_aggregator_of_its_own_port_is_reached_as_the_plan_says(tmp_path: Path) -> None:
    configs: list[CollaboratorConfig] = []

    def connect(config: CollaboratorConfig) -> AbstractAsyncContextManager[Any]:
        configs.append(config)
        return opened(ScriptedAggregator())

    await run_until_idle(config(tmp_path), ScriptedDirector({"digits": archive(port=50999)}), connect)
    assert configs[0].endpoint == Endpoint(host="localhost", port=50999)


async def test_failures_are_reported_and_the_envoy_goes_on(tmp_path: Path) -> None:
    director = ScriptedDirector(
        {
            "failing": archive(fail=True),
            "broken": b"no zip",
            "../out": b"",
            "unreportable": archive(plan="aggregator: 3"),
            "good": archive(),
        }
    )
    director.queue.insert(0, ConnectError("away"))
    director.queue.insert(0, "")
    uploads: list[ScriptedAggregator] = []

    def connect(config: CollaboratorConfig) -> AbstractAsyncContextManager[Any]:
        uploads.append(ScriptedAggregator())
        return opened(uploads[-1])

    await run_until_idle(config(tmp_path), director, connect)
    told = dict(director.failures)
    assert list(told) == ["failing", "broken", "../out", "unreportable"]
    assert "RuntimeError: the data is gone" in told["failing"]
    assert "in train" in told["failing"], "the traceback's last lines"
    assert "is not a plain name" in told["../out"]
    assert "plan.yaml" in told["unreportable"]
    assert len(uploads[-1].uploads) == 3


async def test_a_review_turns_one_experiment_down_and_lets_the_next_run(tmp_path: Path) -> None:
    director = ScriptedDirector({"bad": archive(), "good": archive()})
    uploads: list[ScriptedAggregator] = []
    asked: list[tuple[str, int]] = []

    def connect(config: CollaboratorConfig) -> AbstractAsyncContextManager[Any]:
        uploads.append(ScriptedAggregator())
        return opened(uploads[-1])

    async def review(plan: Plan) -> bool:
        asked.append((plan.experiment, len(uploads)))
        return plan.experiment == "good"

    await run_until_idle(config(tmp_path, review_experiment=True), director, connect, review)
    assert director.failures == [("bad", "the review of envoy 'site' turned the experiment down")]
    assert asked == [("bad", 0), ("good", 0)], "asked before anything of it ran"
    assert len(uploads[-1].uploads) == 3


async def test_one_that_takes_all_memory_is_ended_and_the_envoy_goes_on(tmp_path: Path) -> None:
    director = ScriptedDirector({"hog": archive(fail="hog"), "good": archive()})
    uploads: list[ScriptedAggregator] = []

    def connect(config: CollaboratorConfig) -> AbstractAsyncContextManager[Any]:
        uploads.append(ScriptedAggregator())
        return opened(uploads[-1])

    limits = ProcessLimits(memory_bytes=1 << 30)
    await run_until_idle(config(tmp_path, process_limits=limits), director, connect)
    assert [name for name, _ in director.failures] == ["hog"]
    assert "MiB of memory, 1024 are allowed (memory_bytes)" in director.failures[0][1]
    assert len(uploads[-1].uploads) == 3
    assert list((tmp_path / "work").iterdir()) == [tmp_path / "work" / "shard.log"]


async def test_a_bug_of_ours_is_reported_with_its_traceback(tmp_path: Path) -> None:
    def connect(config: CollaboratorConfig) -> AbstractAsyncContextManager[Any]:
        raise ZeroDivisionError("surprise")

    director = ScriptedDirector({"digits": archive()})
    await run_until_idle(config(tmp_path), director, connect)
    assert "ZeroDivisionError: surprise" in director.failures[0][1]


async def test_a_director_that_forgot_the_envoy_is_told_again(tmp_path: Path) -> None:
    director = ScriptedDirector()
    director.period = ShardNotFoundError("who?")
    await run_until_idle(config(tmp_path), director)
    assert len(director.shards) == 2


async def test_a_failed_health_report_ends_nothing(tmp_path: Path) -> None:
    director = ScriptedDirector()
    director.period = ConnectError("away")
    await run_until_idle(config(tmp_path), director)
    assert director.reports == [False]


async def test_a_refused_shard_is_a_configuration_error(tmp_path: Path) -> None:
    director = ScriptedDirector()
    director.accepts = False
    with pytest.raises(ConfigurationError, match=r"refused the shard of envoy 'site': its sample shape \['8'\]"):
        await Envoy(config(tmp_path), director=lambda _: opened(director)).run()


async def test_a_shard_that_cannot_be_loaded_is_a_configuration_error(tmp_path: Path) -> None:
    director = ScriptedDirector()
    with pytest.raises(ConfigurationError, match="no module 'absent'"):
        await Envoy(config(tmp_path, shard_template="absent.Shard"), director=lambda _: opened(director)).run()
    assert director.shards == []
