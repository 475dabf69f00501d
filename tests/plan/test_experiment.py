from __future__ import annotations

import math
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.config import AssignerConfig, Endpoint, StragglerConfig, TaskGroup, default_tasks
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.plan.plan import Plan


def _plan(
    *,
    task_runner: str = "runner.Net",
    settings: dict[str, Any] | None = None,
    rounds: int = 3,
    tasks: tuple[Task, ...] = default_tasks(),
    aggregation: str = "weighted_average",
    assigner: AssignerConfig | None = None,
    stragglers: StragglerConfig | None = None,
    pipeline: str = "no_compression",
) -> Plan:
    return experiment_plan(
        task_runner=task_runner,
        settings=settings or {},
        rounds=rounds,
        tasks=tasks,
        aggregation=aggregation,
        assigner=assigner,
        stragglers=stragglers,
        delta_updates=True,
        pipeline=pipeline,
        agg_addr="d.example.org",
        agg_port=50051,
    )


def test_what_is_written_is_read_back() -> None:
    plan = Plan.parse(_plan(settings={"rate": 0.1, "layers": (64, 10)}).dump())
    config = plan.aggregator_config(collaborators=["one"])

    assert plan.hash == _plan(settings={"rate": 0.1, "layers": [64, 10]}).hash
    assert plan.endpoint == Endpoint(host="d.example.org", port=50051)
    assert plan.tls
    assert plan.delta_updates
    assert plan.task_runner.template == "runner.Net"
    assert plan.task_runner.settings == {"rate": 0.1, "layers": [64, 10]}
    assert config.rounds == 3
    assert config.tasks == default_tasks()
    assert config.assigner.groups[0].tasks == tuple(task.name for task in default_tasks())
    assert config.stragglers == StragglerConfig()
    assert config.task_aggregation == {"train": "weighted_average"}
    assert plan.ignored == ()


def test_settings_of_the_aggregation_function_are_written() -> None:
    plan = _plan(
        aggregation="yogi:betas=0.5/0.9", tasks=(Task("a", kind=TaskKind.TRAIN), Task("b", kind=TaskKind.TRAIN))
    )

    assert "&" not in plan.dump()
    assert Plan.parse(plan.dump()).task_aggregation == {"a": "yogi:betas=0.5/0.9", "b": "yogi:betas=0.5/0.9"}


@pytest.mark.parametrize("pipeline", ["no_compression", "stc", "kc:n_clusters=16", "skc:n_clusters=4,p_sparsity=0.3"])
def test_the_pipeline_is_written_with_its_settings(pipeline: str) -> None:
    assert Plan.parse(_plan(pipeline=pipeline).dump()).pipeline == pipeline


@pytest.mark.parametrize(
    ("pipeline", "complaint"),
    [("zip", "unknown compression pipeline 'zip'; known are"), ("kc:size=3", "kc.*has no setting 'size'; it takes")],
)
def test_a_pipeline_that_is_none_is_refused_before_anything_is_sent(pipeline: str, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        _plan(pipeline=pipeline)


def test_port_and_address_may_be_automatic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FQDN", "here.example.org")
    plan = experiment_plan(task_runner="a.B", settings={}, rounds=1, tasks=default_tasks(), tls=False)

    assert plan.endpoint.host == "here.example.org"
    assert 49152 <= plan.endpoint.port < 60999
    assert not plan.tls


@settings(max_examples=40, deadline=None)
@given(
    tasks=st.lists(
        st.builds(
            Task,
            st.from_regex(r"[a-z][a-z0-9._-]{0,10}", fullmatch=True).filter(
                lambda n: n not in ("settings", "defaults")
            ),
            st.sampled_from(["train", "validate", "fit", "anything"]),
            st.sampled_from([TaskKind.TRAIN, TaskKind.VALIDATE]),
        ),
        min_size=1,
        max_size=4,
        unique_by=lambda task: task.name,
    ),
    seed=st.integers(0, 2**31),
    share=st.floats(0.05, 1.0),
    cutoff=st.floats(0.5, 1e6),
    kind=st.sampled_from(["wait_for_all", "cutoff", "percentage"]),
)
def test_tasks_assigner_and_policy_survive(
    tasks: list[Task], seed: int, share: float, cutoff: float, kind: Any
) -> None:
    names = tuple(task.name for task in tasks)
    assigner = AssignerConfig(
        kind="static_grouped", groups=(TaskGroup(name="g", tasks=names, collaborators=("one", "two")),), seed=seed
    )
    stragglers = StragglerConfig(
        kind=kind,
        cutoff_seconds=cutoff if kind == "cutoff" else None,
        percentage=share if kind == "percentage" else 1.0,
        minimum_reporting=2,
    )

    plan = Plan.parse(_plan(tasks=tuple(tasks), assigner=assigner, stragglers=stragglers).dump())

    assert sorted(plan.tasks, key=lambda task: task.name) == sorted(tasks, key=lambda task: task.name)
    assert plan.assigner == assigner
    assert plan.stragglers == stragglers


def test_random_groups_survive() -> None:
    assigner = AssignerConfig(
        groups=(
            TaskGroup(name="a", tasks=("train",), percentage=0.7),
            TaskGroup(name="b", tasks=("aggregated_model_validation",), percentage=0.3),
        )
    )

    assert _plan(assigner=assigner).assigner == assigner


def test_a_task_without_function_or_kind_is_called_by_its_name() -> None:
    assert _plan(tasks=(Task("fly"),)).tasks == (Task("fly", "fly"),)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"task_runner": "no class"}, "task runner: expected a class path"),
        ({"settings": {"f": math.sin}}, "settings: expected plain values that YAML can write"),
        ({"rounds": 0}, "rounds_to_train: expected a whole number of at least 1, got 0"),
        ({"tasks": ()}, "tasks: names no task"),
        ({"tasks": (Task("a"), Task("a"))}, "expected each name once and none of"),
        ({"tasks": (Task("settings"),)}, "expected each name once and none of"),
        ({"tasks": (Task("a b"),)}, "task 'a b' is not a plain name"),
        ({"tasks": (Task("a", apply_local=True),)}, "only a validating task can be applied to the local model"),
        ({"aggregation": "fly"}, "unknown aggregation function 'fly'; known are"),
        ({"assigner": AssignerConfig(groups=(TaskGroup(tasks=("fly",), percentage=1.0),))}, "unknown task 'fly'"),
        ({"assigner": AssignerConfig(groups=(TaskGroup(tasks=("train",)),))}, "percentage: missing; expected a number"),
    ],
)
def test_what_could_not_work_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        _plan(**given)
