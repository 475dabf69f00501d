from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio
import numpy as np
import pytest

from openfl_aio.aggregator.api import get_each
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.config import default_tasks
from openfl_aio.domain import Assignment, CollaboratorProgress, Task, TaskKind, TensorQuery
from openfl_aio.errors import TaskError, TensorNotFoundError
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey

UUID = "aggregator_plan.yaml_1"
TASKS = default_tasks()
CODEC = TensorCodec()


class Upload:
    def __init__(self, round_number: int, task_name: str, data_size: int, tensors: list[EncodedTensor]) -> None:
        self.round_number = round_number
        self.task_name = task_name
        self.data_size = data_size
        self.tensors = {(t.name, t.tags): (CODEC.decode(t), t.report, t.lossless) for t in tensors}


class ScriptedAggregator:
    """Hands out assignments in order; the model of round r is full of r, its delta full of 1."""

    def __init__(self, *assignments: Assignment) -> None:
        self.assignments = [*assignments, Assignment(9, quit=True)]
        self.queries: list[TensorQuery] = []
        self.uploads: list[Upload] = []

    async def get_tasks(self) -> Assignment:
        return self.assignments.pop(0)

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        self.queries.append(query)
        value = 1 if "delta" in query.tags else query.round_number
        key = TensorKey.of(query.tensor_name, UUID, query.round_number, tags=query.tags)
        return CODEC.encode(key, np.full(3, value, np.float32))

    async def get_aggregated_tensors(self, queries: Sequence[TensorQuery]) -> list[EncodedTensor]:
        return await get_each(self.get_aggregated_tensor, queries)

    async def send_local_task_results(
        self, *, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
    ) -> None:
        assert [t.tags for t in tensors] == [t.tags for t in tensors], "results can be read again"
        self.uploads.append(Upload(round_number, task_name, data_size, list(tensors)))


class Adder:
    """Training adds 0.5 to the model and counts how often it ran."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, int, float]] = []

    async def tensor_names(self) -> Sequence[str]:
        return ["w"]

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        self.runs.append((context.task.name, context.round_number, float(tensors["w"][0])))
        if context.task.kind is TaskKind.TRAIN:
            return TaskOutput(7, {"w": tensors["w"].astype(np.float64) + 0.5}, {"loss": 0.25})
        return TaskOutput(4, metrics={"mean": float(tensors["w"].mean())})


async def inline(function: Callable[[], Any]) -> Any:
    return function()


def collaborator(aggregator: ScriptedAggregator, runner: Any = None, **options: Any) -> Collaborator:
    return Collaborator(
        name="one",
        aggregator=aggregator,
        aggregator_uuid=UUID,
        runner=Adder() if runner is None else runner,
        offload=inline,
        **options,
    )


async def test_a_round_is_validated_trained_and_validated_again() -> None:
    aggregator = ScriptedAggregator(Assignment(0, TASKS))
    runner = Adder()
    told: list[CollaboratorProgress] = []
    worker = collaborator(aggregator, runner, progress=told.append)
    await worker.run()
    assert runner.runs == [
        ("aggregated_model_validation", 0, 0.0),
        ("train", 0, 0.0),
        ("locally_tuned_model_validation", 0, 0.5),
    ]
    before, train, after = aggregator.uploads
    assert (before.task_name, before.data_size, train.data_size) == ("aggregated_model_validation", 4, 7)
    assert list(before.tensors) == [("mean", ("compressed", "metric", "validate_agg"))]
    assert list(after.tensors) == [("mean", ("compressed", "metric", "validate_local"))]
    values, report, lossless = train.tensors["w", ("compressed", "trained")]
    np.testing.assert_array_equal(values, np.full(3, 0.5, np.float32))
    assert (report, lossless) == (False, True)
    loss, report, _ = train.tensors["loss", ("compressed", "metric", "trained")]
    assert (float(loss), report) == (0.25, True)
    assert len(aggregator.queries) == 1, "the model is fetched once"
    assert [(p.status, p.current_task, p.next_task) for p in told] == [
        ("running", "aggregated_model_validation", "train"),
        ("running", "train", "locally_tuned_model_validation"),
        ("running", "locally_tuned_model_validation", ""),
        ("finished", "", ""),
    ]
    assert repr(worker) == "Collaborator('one', round 0)"


async def test_deltas_go_both_ways_when_they_are_on() -> None:
    aggregator = ScriptedAggregator(*(Assignment(r, TASKS) for r in range(3)))
    runner = Adder()
    await collaborator(aggregator, runner, delta_updates=True).run()
    assert [query.tags for query in aggregator.queries] == [("model",)] + 2 * [("aggregated", "delta", "compressed")]
    assert [value for name, _, value in runner.runs if name == "train"] == [0.0, 1.0, 2.0]
    for upload in aggregator.uploads[1::3]:
        values, _, _ = upload.tensors["w", ("compressed", "delta", "trained")]
        np.testing.assert_array_equal(values, np.full(3, 0.5, np.float32))


async def test_without_deltas_every_model_comes_in_full() -> None:
    aggregator = ScriptedAggregator(*(Assignment(r, TASKS) for r in range(3)))
    await collaborator(aggregator, store_rounds=2).run()
    assert [(q.round_number, q.tags, q.require_lossless) for q in aggregator.queries] == [
        (r, ("model",), True) for r in range(3)
    ]


async def test_a_task_asked_for_again_is_sent_again_but_not_run_again() -> None:
    aggregator = ScriptedAggregator(Assignment(0, TASKS), Assignment(0, TASKS[1:2]))
    runner = Adder()
    await collaborator(aggregator, runner).run()
    assert len(runner.runs) == 3
    assert [upload.task_name for upload in aggregator.uploads][-1] == "train"


class HalfFrozen:
    """Trains ``w`` in an array that it goes on to use, and hands ``frozen`` back as it got it."""

    def __init__(self) -> None:
        self.work = np.zeros(3, np.float32)
        self.given: list[np.ndarray] = []

    async def tensor_names(self) -> Sequence[str]:
        return ["frozen", "w"]

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        self.work += 1
        if context.task.kind is not TaskKind.TRAIN:
            return TaskOutput(1)
        self.given.append(tensors["frozen"])
        return TaskOutput(1, {"frozen": tensors["frozen"], "w": self.work})


async def test_what_a_task_hands_back_is_copied_if_it_may_change() -> None:
    runner = HalfFrozen()
    aggregator = ScriptedAggregator(
        Assignment(0, TASKS), Assignment(0, TASKS[1:2])
    )  # validate, train, validate, and again
    await collaborator(aggregator, runner).run()
    first, again = (upload.tensors for upload in aggregator.uploads if upload.task_name == "train")
    for tensors in (first, again):
        np.testing.assert_array_equal(tensors["w", ("compressed", "trained")][0], np.full(3, 2.0))
        assert np.shares_memory(tensors["frozen", ("compressed", "trained")][0], runner.given[0])
    assert runner.work[0] == 3


async def test_it_sleeps_as_long_as_it_is_told() -> None:
    aggregator = ScriptedAggregator(Assignment(0, sleep_seconds=1000))
    started = anyio.current_time()
    await collaborator(aggregator).run()
    assert 1000 <= anyio.current_time() - started < 1001


class Distant(ScriptedAggregator):
    """Answers a tensor after a time that depends on its name, and counts how many it is asked for at once."""

    def __init__(self, *assignments: Assignment, seconds: Callable[[str], float]) -> None:
        super().__init__(*assignments)
        self.seconds = seconds
        self.under_way = self.most = 0

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        self.under_way += 1
        self.most = max(self.most, self.under_way)
        try:
            await anyio.sleep(self.seconds(query.tensor_name))
            return await super().get_aggregated_tensor(query)
        finally:
            self.under_way -= 1


class Wide(Adder):
    """An adder with 40 tensors, which remembers in which order it got them."""

    names = ("w", *(f"w{index}" for index in range(39)))

    def __init__(self) -> None:
        super().__init__()
        self.given: list[list[str]] = []

    async def tensor_names(self) -> Sequence[str]:
        return self.names

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        self.given.append(list(tensors))
        self.runs.append((context.task.name, context.round_number, float(tensors["w"][0])))
        return TaskOutput(7, {name: tensors[name] for name in self.names})


async def test_tensors_are_fetched_several_at_once() -> None:
    aggregator = Distant(Assignment(0, TASKS[1:2]), seconds=lambda name: 1.0)
    runner = Wide()
    started = anyio.current_time()
    await collaborator(aggregator, runner).run()
    assert (aggregator.most, anyio.current_time() - started) == (16, 3.0)
    assert sorted(query.tensor_name for query in aggregator.queries) == sorted(runner.names)


async def test_tensors_are_in_the_same_order_however_they_come() -> None:
    last_first = Distant(Assignment(0, TASKS[1:2]), seconds=lambda name: 100.0 - Wide.names.index(name))
    runner = Wide()
    worker = collaborator(last_first, runner)
    await worker.run()
    assert runner.given == [list(runner.names)]


@pytest.mark.parametrize("delta_updates", [False, True])
async def test_large_tensors_are_fetched_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch, delta_updates: bool) -> None:
    monkeypatch.setattr("openfl_aio.collaborator.collaborator._BYTES_AT_ONCE", 3 * 12)  # of three tensors
    aggregator = Distant(*(Assignment(r, TASKS[1:2]) for r in range(2)), seconds=lambda name: 1.0)
    runner = Wide()
    started = anyio.current_time()
    await collaborator(aggregator, runner, delta_updates=delta_updates).run()
    assert anyio.current_time() - started == 3.0 + 14.0, "16 at a time while nothing is known of them, then three"
    assert [value for _, _, value in runner.runs] == [0.0, 1.0]


async def test_one_tensor_that_does_not_come_ends_the_others() -> None:
    class Lacking(Distant):
        async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
            if query.tensor_name == "w3":
                raise TensorNotFoundError("no w3")
            return await super().get_aggregated_tensor(query)

    aggregator = Lacking(Assignment(0, TASKS[1:2]), seconds=lambda name: 3600.0)
    started = anyio.current_time()
    with pytest.raises(TensorNotFoundError, match="no w3"):
        await collaborator(aggregator, Wide()).run()
    assert (aggregator.under_way, anyio.current_time()) == (0, started)


async def test_an_aggregator_that_went_back_is_believed() -> None:
    aggregator = ScriptedAggregator(Assignment(5, TASKS), Assignment(3, TASKS))
    runner = Adder()
    await collaborator(aggregator, runner).run()
    assert [q.round_number for q in aggregator.queries] == [5, 3]
    assert ("train", 3, 3.0) in runner.runs


async def test_a_bare_name_means_what_the_plan_says() -> None:
    aggregator = ScriptedAggregator(Assignment(0, (Task("train"),)))
    runner = Adder()
    await collaborator(aggregator, runner, tasks=TASKS).run()
    assert aggregator.uploads[0].data_size == 7
    with pytest.raises(TaskError, match="'fit', which the plan does not define"):
        await collaborator(ScriptedAggregator(Assignment(0, (Task("fit"),))), tasks=TASKS).run()


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (TaskOutput(1, {"w": np.full(3, np.nan)}), "3 of 3 values that are not finite"),
        (TaskOutput(1, {"w": np.full(3, 1e300)}), "beyond the range of float32"),
        (TaskOutput(2**31, {"w": np.zeros(3)}), "2147483648 samples"),
    ],
)
async def test_what_cannot_be_sent_ends_the_run(output: TaskOutput, message: str) -> None:
    class Bad(Adder):
        async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
            return output

    aggregator = ScriptedAggregator(Assignment(0, TASKS[1:2]))
    with pytest.raises(TaskError, match=message):
        await collaborator(aggregator, Bad()).run()
    assert aggregator.uploads == []


class WithState(Adder):
    """An adder whose training makes a velocity too, and names what it was given."""

    def __init__(self, *, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.given: list[list[str]] = []

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        output = await super().run(context, tensors)
        if context.task.kind is not TaskKind.TRAIN:
            return output
        self.given.append(sorted(tensors))
        state = {"velocity": np.full(2, 3)}
        return TaskOutput(output.samples, output.tensors, state=state, state_is_shared=self.shared)


@pytest.mark.parametrize(("shared", "second"), [(False, ["w"]), (True, ["velocity", "w"])])
async def test_state_is_sent_with_the_model_and_comes_back_where_it_is_shared(shared: bool, second: list[str]) -> None:
    aggregator = ScriptedAggregator(Assignment(0, TASKS), Assignment(1, TASKS))
    runner = WithState(shared=shared)
    if shared:
        with pytest.raises(TaskError, match="'velocity' must keep the shape"):  # the scripted one has 3 values
            await collaborator(aggregator, runner).run()
    else:
        await collaborator(aggregator, runner).run()
    assert runner.given == [["w"], second]
    train = aggregator.uploads[1]
    values, _, lossless = train.tensors["velocity", ("compressed", "trained")]
    np.testing.assert_array_equal(values, np.full(2, 3, np.float32))
    assert lossless
    asked = [query.tensor_name for query in aggregator.queries if query.round_number == 1]
    assert asked == ["w", "velocity"][: len(second)]
