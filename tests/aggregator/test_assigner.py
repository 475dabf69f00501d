from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.aggregator.assigner import make_assigner
from openfl_aio.config import AggregatorConfig, AssignerConfig, TaskGroup
from openfl_aio.errors import ConfigurationError

NAMES = tuple(f"c{i}" for i in range(10))


def config(assigner: AssignerConfig, collaborators: tuple[str, ...] = NAMES) -> AggregatorConfig:
    return AggregatorConfig(collaborators=collaborators, rounds=3, assigner=assigner)


@pytest.mark.parametrize("kind", ["random_grouped", "static_grouped"])
def test_without_groups_everybody_does_everything_in_plan_order(kind: str) -> None:
    assigner = make_assigner(config(AssignerConfig(kind=kind)))
    expected = ["aggregated_model_validation", "train", "locally_tuned_model_validation"]
    assert all([task.name for task in assigner.tasks(name, 2)] == expected for name in NAMES)


def halves() -> AssignerConfig:
    return AssignerConfig(
        groups=(
            TaskGroup(name="trainers", tasks=("train",), percentage=0.7),
            TaskGroup(name="judges", tasks=("aggregated_model_validation",), percentage=0.3),
        ),
        seed=5,
    )


@given(st.integers(0, 50))
def test_random_groups_have_their_sizes_and_repeat_after_a_restart(round_number: int) -> None:
    first, second = make_assigner(config(halves())), make_assigner(config(halves()))
    second.tasks("c0", round_number + 1)
    drawn = {name: first.tasks(name, round_number) for name in NAMES}
    assert sum(tasks[0].name == "train" for tasks in drawn.values()) == 7
    assert drawn == {name: second.tasks(name, round_number) for name in NAMES}


def test_random_groups_are_drawn_anew() -> None:
    assigner = make_assigner(config(halves()))
    assert len({tuple(assigner.tasks(name, r)[0].name for name in NAMES) for r in range(5)}) > 1


def test_static_groups() -> None:
    groups = (
        TaskGroup(tasks=("train",), collaborators=("a",)),
        TaskGroup(tasks=(), collaborators=("b",)),
    )
    assigner = make_assigner(config(AssignerConfig(kind="static_grouped", groups=groups), ("a", "b")))
    assert [task.name for task in assigner.tasks("a", 0)] == ["train"]
    assert assigner.tasks("b", 0) == ()


@pytest.mark.parametrize(
    ("kind", "groups", "sentence"),
    [
        ("random_grouped", [{"tasks": ("fly",), "percentage": 1.0}], "unknown tasks"),
        ("random_grouped", [{"tasks": ("train",), "percentage": 0.5}], "add up to 1"),
        (
            "random_grouped",
            [{"tasks": ("train",), "percentage": 0.25}, {"tasks": ("train",), "percentage": 0.75}],
            "whole",
        ),
        ("random_grouped", [{"tasks": (), "percentage": 1.0}], "no group"),
        ("static_grouped", [{"tasks": ("train",), "collaborators": ("c0",)}], "exactly"),
        ("static_grouped", [{"tasks": (), "collaborators": NAMES}], "no group"),
        ("static_grouped", [{"tasks": ("train",), "collaborators": ("c0", "c0")}], "two groups"),
    ],
)
def test_groups_that_cannot_work(kind: str, groups: list[dict[str, object]], sentence: str) -> None:
    settings = AssignerConfig(kind=kind, groups=tuple(TaskGroup(**group) for group in groups))
    with pytest.raises(ConfigurationError, match=sentence):
        make_assigner(config(settings))


def tabled(*rows: dict[str, tuple[str, ...]], rounds: int = 2) -> AggregatorConfig:
    return AggregatorConfig(
        collaborators=("one", "two"), rounds=rounds, assigner=AssignerConfig(kind="table", table=rows)
    )


def test_a_table_says_who_does_what_in_each_round_and_who_rests() -> None:
    assigner = make_assigner(tabled({"one": ("train", "aggregated_model_validation")}, {"two": ("train",)}))
    assert [task.name for task in assigner.tasks("one", 0)] == ["train", "aggregated_model_validation"]
    assert assigner.tasks("two", 0) == ()
    assert [task.name for task in assigner.tasks("two", 1)] == ["train"]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (({"three": ("train",)}, {"one": ("train",)}), "'three'"),
        (({"one": ("fly",)}, {"one": ("train",)}), "'fly'"),
        (({"one": ("train",)}, {"one": ()}), "round 1"),
        (({"one": ("train",)},), "round 1"),
    ],
)
def test_a_table_that_cannot_work_is_refused(rows: tuple[dict[str, tuple[str, ...]], ...], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        make_assigner(tabled(*rows))
