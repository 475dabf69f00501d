"""Who does which task in which round.

`StaticGrouped` and `RandomGrouped` are OpenFL 1.6's ``StaticGroupedAssigner`` and ``RandomGroupedAssigner``
(``openfl.component.assigner``), `Table` is what became of a function of a user's own, which OpenFL's interactive frontend
sends and its ``custom_assigner`` calls for each round beforehand. ``tests/interop_openfl/test_assigners.py`` compares who
does what, and which groups are refused. Whom a random group gets is drawn from a seed, where OpenFL draws from NumPy's
global state.

An assigner is a pure function of its configuration: the same collaborator asks twice, or after a restart, and
gets the same tasks. The order of tasks is that of the group in the plan.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Protocol

from openfl_aio.config import AggregatorConfig, TaskGroup
from openfl_aio.domain import Task
from openfl_aio.errors import ConfigurationError

__all__ = ["Assigner", "RandomGrouped", "StaticGrouped", "Table", "make_assigner"]


class Assigner(Protocol):
    """Says what a collaborator does in a round."""

    def tasks(self, collaborator: str, round_number: int) -> tuple[Task, ...]:
        """Return the tasks of ``collaborator`` in ``round_number``, in order; an empty tuple if it rests."""
        ...


class StaticGrouped:
    """Every collaborator stays in its group for the whole federation."""

    def __init__(self, groups: Sequence[TaskGroup], collaborators: Sequence[str], tasks: Mapping[str, Task]) -> None:
        self._tasks: dict[str, tuple[Task, ...]] = {}
        for group in groups:
            chosen = _resolve(group, tasks)
            for name in group.collaborators or ():
                if name in self._tasks:
                    raise ConfigurationError(f"assigner: collaborator {name!r} is in two groups; name it in one only")
                self._tasks[name] = chosen
        named, known = set(self._tasks), set(collaborators)
        if named != known:
            raise ConfigurationError(
                f"assigner: the static groups must name exactly the federation's collaborators; "
                f"missing {sorted(known - named)!r}, not in the federation {sorted(named - known)!r}"
            )
        if not any(self._tasks.values()):
            raise ConfigurationError("assigner: no group with collaborators has a task, so no round could ever end")

    def tasks(self, collaborator: str, round_number: int) -> tuple[Task, ...]:
        """Return the tasks of the collaborator's group."""
        return self._tasks[collaborator]


class RandomGrouped:
    """The collaborators are dealt to the groups anew in every round, from a seed and the round's number."""

    def __init__(
        self, groups: Sequence[TaskGroup], collaborators: Sequence[str], tasks: Mapping[str, Task], *, seed: int = 0
    ) -> None:
        self._collaborators = sorted(collaborators)
        self._seed = seed
        total = sum(group.percentage or 0.0 for group in groups)
        if abs(total - 1.0) > 0.01:
            raise ConfigurationError(f"assigner: the percentages of the groups must add up to 1, got {total:g}")
        n = len(self._collaborators)
        # the small addend undoes binary rounding: 0.29 * 100 is a little less than 29
        self._groups = [(int((group.percentage or 0.0) * n + 1e-9), _resolve(group, tasks)) for group in groups]
        sizes = [size for size, _ in self._groups]
        if sum(sizes) != n:
            raise ConfigurationError(
                f"assigner: the percentages deal {n} collaborators into groups of {sizes!r}, "
                f"which leaves some out; choose percentages that give whole numbers"
            )
        if not any(size and chosen for size, chosen in self._groups):
            raise ConfigurationError("assigner: no group with collaborators has a task, so no round could ever end")
        self._drawn: tuple[int, dict[str, tuple[Task, ...]]] = (-1, {})

    def tasks(self, collaborator: str, round_number: int) -> tuple[Task, ...]:
        """Return the tasks of the group into which the collaborator was dealt in this round."""
        if self._drawn[0] != round_number:
            self._drawn = (round_number, self._draw(round_number))
        return self._drawn[1][collaborator]

    def _draw(self, round_number: int) -> dict[str, tuple[Task, ...]]:
        order = list(self._collaborators)
        random.Random(f"{self._seed}:{round_number}").shuffle(order)  # a string seed is hashed the same everywhere
        dealt = iter(order)
        return {next(dealt): chosen for size, chosen in self._groups for _ in range(size)}


class Table:
    """What everybody does is written down for each round."""

    def __init__(
        self,
        rounds: Sequence[Mapping[str, Sequence[str]]],
        collaborators: Sequence[str],
        tasks: Mapping[str, Task],
        *,
        count: int,
    ) -> None:
        strangers = sorted({name for row in rounds for name in row} - set(collaborators))
        if strangers:
            raise ConfigurationError(f"assigner: gives tasks to {strangers[:5]!r}, who are not in the federation")
        unknown = sorted({task for row in rounds for names in row.values() for task in names} - set(tasks))
        if unknown:
            raise ConfigurationError(f"assigner: names unknown tasks {unknown[:5]!r}; known are {list(tasks)!r}")
        for number in range(count):
            if number >= len(rounds) or not any(rounds[number].values()):
                raise ConfigurationError(f"assigner: gives nobody a task in round {number}, so that could never end")
        self._rounds = [{name: tuple(tasks[task] for task in names) for name, names in row.items()} for row in rounds]

    def tasks(self, collaborator: str, round_number: int) -> tuple[Task, ...]:
        """Return what is written down."""
        return self._rounds[round_number].get(collaborator, ())


def _resolve(group: TaskGroup, tasks: Mapping[str, Task]) -> tuple[Task, ...]:
    unknown = [name for name in group.tasks if name not in tasks]
    if unknown:
        raise ConfigurationError(
            f"assigner: group {group.name!r} names unknown tasks {unknown!r}; the plan's tasks are {list(tasks)!r}"
        )
    return tuple(tasks[name] for name in group.tasks)


def make_assigner(config: AggregatorConfig) -> Assigner:
    """Build the assigner that ``config`` describes; without groups everybody does every task.

    Raises `ConfigurationError` for unknown tasks, groups that do not cover the collaborators, or no task at all.
    """
    tasks = {task.name: task for task in config.tasks}
    settings = config.assigner
    if settings.kind == "table":
        return Table(settings.table, config.collaborators, tasks, count=config.rounds)
    if settings.kind == "static_grouped":
        groups = settings.groups or (TaskGroup(tasks=tuple(tasks), collaborators=config.collaborators),)
        return StaticGrouped(groups, config.collaborators, tasks)
    groups = settings.groups or (TaskGroup(tasks=tuple(tasks), percentage=1.0),)
    return RandomGrouped(groups, config.collaborators, tasks, seed=settings.seed)
