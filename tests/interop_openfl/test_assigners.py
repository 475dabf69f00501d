"""Our assigners against OpenFL 1.6's own: who does what, in which round, and which groups are refused.

Runs where ``openfl==1.6`` is installed too: ``nox -s interop_openfl``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openfl.component import RandomGroupedAssigner, StaticGroupedAssigner

from openfl_aio.aggregator.assigner import Assigner, make_assigner
from openfl_aio.config import AggregatorConfig, AssignerConfig, TaskGroup
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ConfigurationError

pytestmark = pytest.mark.cell(
    server="in one process",
    client="task assigners",
    must="the same tasks to the same collaborators; the same refusals",
    link="none",
)

ROUNDS = 4
TASKS = ("judge", "train", "judge again", "measure")

task_lists = st.lists(st.sampled_from(TASKS), unique=True, min_size=1).map(tuple)


@st.composite
def random_groups(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[str]]:
    """Groups whose shares give whole numbers of the collaborators, some of them nobody."""
    sizes = draw(st.lists(st.integers(0, 5), min_size=1, max_size=4).filter(any))
    count = sum(sizes)
    groups = [
        {"name": f"group {index}", "percentage": size / count, "tasks": list(draw(task_lists))}
        for index, size in enumerate(sizes)
    ]
    return groups, draw(st.permutations([f"c{number}" for number in range(count)]))


@st.composite
def static_groups(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[str]]:
    """Groups that deal out all collaborators, some of them to nobody."""
    collaborators = draw(st.permutations([f"c{number}" for number in range(draw(st.integers(1, 9)))]))
    chosen = draw(st.lists(st.integers(0, 3), min_size=len(collaborators), max_size=len(collaborators)))
    groups = [
        {
            "name": f"group {index}",
            "collaborators": [name for name, group in zip(collaborators, chosen, strict=True) if group == index],
            "tasks": list(draw(task_lists)),
        }
        for index in range(4)
    ]
    return groups, draw(st.permutations(collaborators))


def their_assigner(kind: str, groups: Sequence[dict[str, Any]], collaborators: Sequence[str]) -> Any:
    assigner = {"random_grouped": RandomGroupedAssigner, "static_grouped": StaticGroupedAssigner}[kind]
    tasks: dict[str, dict[str, Any]] = {name: {} for name in TASKS}
    return assigner(task_groups=list(groups), tasks=tasks, authorized_cols=list(collaborators), rounds_to_train=ROUNDS)


def our_assigner(kind: str, groups: Sequence[dict[str, Any]], collaborators: Sequence[str]) -> Assigner:
    config = AggregatorConfig(
        collaborators=tuple(collaborators),
        rounds=ROUNDS,
        tasks=tuple(Task(name, name, TaskKind.TRAIN, apply_local=False) for name in TASKS),
        assigner=AssignerConfig.model_validate(
            {"kind": kind, "groups": tuple(TaskGroup.model_validate(group) for group in groups)}
        ),
    )
    return make_assigner(config)


def our_tasks(assigner: Assigner, name: str, number: int) -> list[str]:
    return [task.name for task in assigner.tasks(name, number)]


def who_does(assigner: Assigner, task: str, number: int, collaborators: Sequence[str]) -> list[str]:
    return [name for name in collaborators if task in our_tasks(assigner, name, number)]


@given(static_groups())
def test_static_groups_give_everybody_the_same_tasks_in_every_round(
    drawn: tuple[list[dict[str, Any]], list[str]],
) -> None:
    groups, collaborators = drawn
    theirs = their_assigner("static_grouped", groups, collaborators)
    ours = our_assigner("static_grouped", groups, collaborators)
    named = {task for group in groups for task in group["tasks"]}
    for number in range(ROUNDS):
        for name in collaborators:
            assert our_tasks(ours, name, number) == theirs.get_tasks_for_collaborator(name, number)
        assert set(theirs.get_all_tasks_for_round(number)) == named
        for task in named:
            expected = theirs.get_collaborators_for_task(task, number)
            assert sorted(expected) == sorted(who_does(ours, task, number, collaborators))


@given(random_groups())
def test_random_groups_have_the_same_sizes_and_tasks_in_every_round(
    drawn: tuple[list[dict[str, Any]], list[str]],
) -> None:
    """Who is in which is drawn, there from NumPy's global state, here from a seed; how many are is not."""
    groups, collaborators = drawn
    try:
        theirs = their_assigner("random_grouped", groups, collaborators)
    except AssertionError:  # a whole number of collaborators that binary rounding has made one less: see below
        rounded = [int(group["percentage"] * len(collaborators)) for group in groups]
        assert sum(rounded) < len(collaborators)
        return
    ours = our_assigner("random_grouped", groups, collaborators)
    for number in range(ROUNDS):
        mine = Counter(tuple(our_tasks(ours, name, number)) for name in collaborators)
        assert mine == Counter(tuple(theirs.get_tasks_for_collaborator(name, number)) for name in collaborators)
        for task in theirs.get_all_tasks_for_round(number):
            expected = theirs.get_collaborators_for_task(task, number)
            assert len(expected) == len(set(expected)) == len(who_does(ours, task, number, collaborators))


def test_both_draw_anew_in_every_round_and_let_everybody_be_drawn() -> None:
    groups = [
        {"name": "trainers", "percentage": 0.75, "tasks": ["train"]},
        {"name": "judges", "percentage": 0.25, "tasks": ["judge"]},
    ]
    names = [f"c{number}" for number in range(4)]
    np.random.seed(4)  # what OpenFL draws from
    judges: dict[str, set[str]] = {"theirs": set(), "ours": set()}
    for seed in range(20):
        theirs = their_assigner("random_grouped", groups, names)
        config = AggregatorConfig(
            collaborators=tuple(names),
            rounds=ROUNDS,
            tasks=tuple(Task(name, name, TaskKind.TRAIN, apply_local=False) for name in TASKS),
            assigner=AssignerConfig(groups=tuple(TaskGroup.model_validate(group) for group in groups), seed=seed),
        )
        ours = make_assigner(config)
        for number in range(ROUNDS):
            judges["theirs"].update(theirs.get_collaborators_for_task("judge", number))
            judges["ours"].update(who_does(ours, "judge", number, names))
    assert judges == {"theirs": set(names), "ours": set(names)}


def test_the_order_of_tasks_is_the_groups() -> None:
    groups = [{"name": "all", "percentage": 1.0, "tasks": ["train", "judge again", "judge"]}]
    assert their_assigner("random_grouped", groups, ["one"]).get_tasks_for_collaborator("one", 2) == groups[0]["tasks"]
    assert our_tasks(our_assigner("random_grouped", groups, ["one"]), "one", 2) == groups[0]["tasks"]


def shares(*percentages: float) -> list[dict[str, Any]]:
    return [{"name": f"g{i}", "percentage": share, "tasks": ["train"]} for i, share in enumerate(percentages)]


def sets(*members: Sequence[str]) -> list[dict[str, Any]]:
    return [{"name": f"g{i}", "collaborators": list(names), "tasks": ["train"]} for i, names in enumerate(members)]


@pytest.mark.parametrize(
    ("kind", "groups"),
    [
        ("random_grouped", shares(0.5)),
        ("random_grouped", shares(0.5, 0.52)),
        ("random_grouped", shares(0.9, 0.08)),
        ("random_grouped", shares(0.5, 0.5)),  # of three
        ("random_grouped", shares(0.34, 0.66)),  # of three
        ("static_grouped", sets(["one", "two"])),
        ("static_grouped", sets(["one", "two"], ["two", "three"])),
        ("static_grouped", sets(["one", "two", "three"], ["four"])),
        ("static_grouped", sets(["one", "two", "two"])),
        ("static_grouped", sets([])),
    ],
    ids=str,
)
def test_groups_that_both_refuse(kind: str, groups: list[dict[str, Any]]) -> None:
    with pytest.raises(AssertionError):
        their_assigner(kind, groups, ["one", "two", "three"])
    with pytest.raises(ConfigurationError, match="assigner: "):
        our_assigner(kind, groups, ["one", "two", "three"])


@pytest.mark.parametrize("percentages", [(1 / 3, 2 / 3), (0.334, 0.67), (0.335, 0.669), (1.0, 0.0), (0.0, 1.0)])
def test_shares_that_both_take(percentages: tuple[float, ...]) -> None:
    """They need not add up exactly; what counts is that rounded down they give everybody a group."""
    names, groups = ["one", "two", "three"], shares(*percentages)
    for group, task in zip(groups, TASKS, strict=False):
        group["tasks"] = [task]
    theirs = their_assigner("random_grouped", groups, names)
    ours = our_assigner("random_grouped", groups, names)
    for task in TASKS[:2]:
        assert len(theirs.get_collaborators_for_task(task, 1)) == len(who_does(ours, task, 1, names))


def test_openfl_refuses_whole_numbers_that_binary_rounding_makes_smaller() -> None:
    """0.29 * 100 is 28.999999999999996, so that OpenFL deals 28 and 71 of 100."""
    names, groups = [f"c{number}" for number in range(100)], shares(0.29, 0.71)
    groups[1]["tasks"] = ["judge"]
    with pytest.raises(AssertionError, match="not divided properly"):
        their_assigner("random_grouped", groups, names)
    ours = our_assigner("random_grouped", groups, names)
    assert [len(who_does(ours, task, 0, names)) for task in ("train", "judge")] == [29, 71]


def test_a_task_that_is_nowhere_is_told_before_the_first_round() -> None:
    """OpenFL hands out its name, and the collaborator fails."""
    groups = [{"name": "all", "percentage": 1.0, "tasks": ["fly"]}]
    assert their_assigner("random_grouped", groups, ["one"]).get_tasks_for_collaborator("one", 0) == ["fly"]
    with pytest.raises(ConfigurationError, match="'fly'"):
        our_assigner("random_grouped", groups, ["one"])
