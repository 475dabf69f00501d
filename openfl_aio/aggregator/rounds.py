"""The rounds of a federation as a state machine: commands and time go in, answers and events come out.

::

    COLLECTING --close--> AGGREGATING --aggregated--> COLLECTING   (the next round)
                                      --finish------> COMPLETE     (there was no next round)
    COLLECTING, AGGREGATING --stop--> ABORTED

An assignment is state, not a message: asked again, it is answered again, until its results are in.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Generic, TypeVar

from openfl_aio.aggregator.assigner import Assigner
from openfl_aio.aggregator.stragglers import StragglerPolicy
from openfl_aio.domain import Assignment, Task, TaskKind, Verdict
from openfl_aio.errors import AuthorizationError, ConfigurationError, InvalidStateError

__all__ = ["Event", "FederationAborted", "FederationComplete", "Phase", "RoundClosed", "RoundOpened", "Rounds"]

R = TypeVar("R")


class Phase(Enum):
    """Where a federation stands."""

    COLLECTING = "collecting"
    AGGREGATING = "aggregating"
    COMPLETE = "complete"
    ABORTED = "aborted"

    @property
    def ended(self) -> bool:
        """True if no round will follow."""
        return self in (Phase.COMPLETE, Phase.ABORTED)


class _Signal(Enum):
    CLOSE = "close the round"
    AGGREGATED = "open the next round"
    FINISH = "finish"
    STOP = "stop"


_TRANSITIONS: Final[Mapping[tuple[Phase, _Signal], Phase]] = {
    (Phase.COLLECTING, _Signal.CLOSE): Phase.AGGREGATING,
    (Phase.COLLECTING, _Signal.STOP): Phase.ABORTED,
    (Phase.AGGREGATING, _Signal.AGGREGATED): Phase.COLLECTING,
    (Phase.AGGREGATING, _Signal.FINISH): Phase.COMPLETE,
    (Phase.AGGREGATING, _Signal.STOP): Phase.ABORTED,
}


@dataclass(frozen=True, slots=True)
class RoundOpened:
    """Tasks of a round may be asked for."""

    round_number: int


@dataclass(frozen=True, slots=True)
class RoundClosed(Generic[R]):
    """A round has what it needs. ``results``: task name -> collaborator -> result, both in name order.

    Results of ``stragglers`` are left out, also those of the tasks that they did finish.
    """

    round_number: int
    results: Mapping[str, Mapping[str, R]]
    stragglers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FederationComplete:
    """All rounds are done; ``round_number`` is the number of rounds."""

    round_number: int


@dataclass(frozen=True, slots=True)
class FederationAborted:
    """The federation was stopped before its last round."""

    round_number: int
    reason: str


Event = RoundOpened | RoundClosed[R] | FederationComplete | FederationAborted


class Rounds(Generic[R]):
    """Decides what each collaborator does next and when a round ends. ``R`` is whatever stands for a result.

    ``initial_round`` is the round of the initial model; if it is not less than ``rounds`` there is nothing to do.
    """

    def __init__(
        self,
        collaborators: Iterable[str],
        rounds: int,
        assigner: Assigner,
        policy: StragglerPolicy,
        *,
        initial_round: int = 0,
    ) -> None:
        self.collaborators = tuple(collaborators)
        self.rounds = rounds
        self.round_number = initial_round
        self.phase = Phase.COLLECTING
        self.quits_before: set[str] = set()
        self.reason = ""
        self._assigner = assigner
        self._policy = policy
        self._events: list[Event[R]] = []
        self._assigned: dict[str, tuple[Task, ...]] = {}
        self._results: dict[tuple[str, str], R] = {}
        self._started_at: float | None = None
        self._timer_spent = False
        self.resume(initial_round)

    def __repr__(self) -> str:
        return f"<Rounds {self.round_number}/{self.rounds} {self.phase.value}: {len(self._results)} results>"

    def tasks(self, collaborator: str, now: float) -> Assignment | None:
        """Return what ``collaborator`` shall do now, or None if it must wait for somebody else.

        Raises `AuthorizationError` for a name that is not in the federation.
        """
        self._check_name(collaborator)
        if self.phase.ended:
            return Assignment(self.round_number, quit=True)
        if self.phase is Phase.AGGREGATING:
            return None
        left = self.tasks_left(collaborator)
        if not left:
            return None
        self._begin(now)
        return Assignment(self.round_number, self._with_training(collaborator, left))

    def tasks_left(self, collaborator: str) -> tuple[Task, ...]:
        """Return the tasks of the current round for which ``collaborator`` has no result yet."""
        return tuple(
            task for task in self._assigned.get(collaborator, ()) if (collaborator, task.name) not in self._results
        )

    def _with_training(self, collaborator: str, left: tuple[Task, ...]) -> tuple[Task, ...]:
        """Return the tasks ``left``, with those that train before one that needs what they made.

        Who is still at work asks only when all is done; who asks in between was started anew, and has no local model to
        validate. It trains again: the result that was accepted stays the one that counts.
        """
        if not any(task.kind is TaskKind.VALIDATE and task.apply_local for task in left):
            return left
        return tuple(task for task in self.assigned(collaborator) if task in left or task.kind is TaskKind.TRAIN)

    def result(self, collaborator: str, task_name: str) -> R | None:
        """Return what was reported of a task in the current round, if anything was."""
        return self._results.get((collaborator, task_name))

    def assigned(self, collaborator: str) -> tuple[Task, ...]:
        """Return all tasks of ``collaborator`` in the current round."""
        return self._assigned.get(collaborator, ())

    def admit(self, collaborator: str, round_number: int, task_name: str) -> Verdict:
        """Say what would become of a result, without changing anything.

        Raises `AuthorizationError` for an unknown collaborator and `InvalidStateError` for a task that is not its own.
        """
        self._check_name(collaborator)
        if self.phase.ended:
            return Verdict.COMPLETE
        if round_number != self.round_number:
            return Verdict.WRONG_ROUND
        if all(task.name != task_name for task in self._assigned[collaborator]):
            raise InvalidStateError(
                f"task {task_name!r} is not assigned to {collaborator!r} in round {round_number}: "
                f"expected one of {[task.name for task in self._assigned[collaborator]]!r}"
            )
        if (collaborator, task_name) in self._results:
            return Verdict.DUPLICATE
        if self.phase is Phase.AGGREGATING:
            return Verdict.STRAGGLER
        return Verdict.ACCEPTED

    def report(self, collaborator: str, round_number: int, task_name: str, result: R, now: float) -> Verdict:
        """Take in a result; the first of each task wins. Raises like `admit`."""
        verdict = self.admit(collaborator, round_number, task_name)
        if verdict is Verdict.ACCEPTED:
            self._begin(now)  # after a restart nobody may ask again before it has results
            self._results[collaborator, task_name] = result
            self._close_if_due(now)
        return verdict

    def resume(self, round_number: int, quits_sent: Iterable[str] = ()) -> None:
        """Begin at ``round_number`` instead, as after a restart.

        ``quits_sent``: who was told to quit before, as far as anybody knows: the answer may have been lost.
        """
        self._events.clear()
        self.round_number = round_number
        if round_number >= self.rounds:
            self.phase = Phase.COMPLETE
            self.quits_before.update(quits_sent)
            self._events.append(FederationComplete(round_number))
        else:
            self._open()

    def put_back(self, results: Mapping[tuple[str, str], R], now: float, *, closed: bool = False) -> None:
        """Take in the results of the current round by collaborator and task, as they were admitted before a restart.

        ``closed``: the round was closed with exactly these.
        """
        self._results.update(results)
        if results:
            self._begin(now)
        if closed:
            self._close()
        else:
            self._close_if_due(now)

    def next_timer(self) -> float | None:
        """Return the time at which `handle_timer` must be called, or None."""
        if self.phase is not Phase.COLLECTING or self._timer_spent:
            return None
        return self._policy.deadline(self._started_at)

    def handle_timer(self, now: float) -> None:
        """Close the round if its cutoff has passed with enough reports; safe to call early.

        If too few have reported by then, the next report that makes them enough closes the round.
        """
        deadline = self.next_timer()
        if deadline is not None and now >= deadline:
            self._timer_spent = True
            self._close_if_due(now)

    def round_aggregated(self, now: float) -> None:
        """Say that the closed round's model is there. Raises `InvalidStateError` unless a round was closed."""
        last = self.round_number + 1 >= self.rounds
        self._move(_Signal.FINISH if last else _Signal.AGGREGATED)
        self.round_number += 1
        if last:
            self._results.clear()
            self._events.append(FederationComplete(self.round_number))
        else:
            self._open()

    def stop(self, reason: str) -> None:
        """End the federation before its last round; nothing happens if it has ended already."""
        if self.phase.ended:
            return
        self._move(_Signal.STOP)
        self.reason = reason
        self._events.append(FederationAborted(self.round_number, reason))

    def events(self) -> list[Event[R]]:
        """Return what has happened since the last call, oldest first."""
        events, self._events = self._events, []
        return events

    def done(self) -> set[str]:
        """Return the collaborators that were asked for something in this round and have reported all of it."""
        return {name for name in self._asked() if not self.tasks_left(name)}

    def _asked(self) -> set[str]:
        return {name for name, tasks in self._assigned.items() if tasks}

    def _open(self) -> None:
        self._assigned = {name: self._assigner.tasks(name, self.round_number) for name in self.collaborators}
        if not self._asked():
            raise ConfigurationError(f"assigner: nobody has a task in round {self.round_number}, so it could never end")
        self._results = {}
        self._started_at = None
        self._timer_spent = False
        self._events.append(RoundOpened(self.round_number))

    def _begin(self, now: float) -> None:
        if self._started_at is None:
            self._started_at = now

    def _close_if_due(self, now: float) -> None:
        if self._policy.closes(self.done(), self._asked(), self._started_at, now):
            self._close()

    def _close(self) -> None:
        done, asked = self.done(), self._asked()
        self._move(_Signal.CLOSE)
        results: dict[str, dict[str, R]] = {}
        for (name, task_name), result in sorted(self._results.items(), key=lambda item: item[0][::-1]):
            if name in done:
                results.setdefault(task_name, {})[name] = result
        self._events.append(RoundClosed(self.round_number, results, tuple(sorted(asked - done))))

    def _move(self, signal: _Signal) -> None:
        target = _TRANSITIONS.get((self.phase, signal))
        if target is None:
            raise InvalidStateError(f"cannot {signal.value}: round {self.round_number} is {self.phase.value}")
        self.phase = target

    def _check_name(self, collaborator: str) -> None:
        if collaborator not in self.collaborators:
            raise AuthorizationError(f"{collaborator!r} is no collaborator of this federation")
