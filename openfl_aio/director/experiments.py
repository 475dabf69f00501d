"""Which experiments exist, what state each is in, and who works on which. Decides only: no files, no clock, no await.

An assignment is state, not a message: `Experiments.next_for` reads it, and reads the same again after a reconnect.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType
from typing import Final

from openfl_aio.domain import ExperimentStatus, check_name
from openfl_aio.errors import AlreadyExistsError, ConfigurationError, ExperimentNotFoundError, InvalidStateError

__all__ = ["TRANSITIONS", "Experiment", "ExperimentEvent", "Experiments"]


class ExperimentEvent(Enum):
    """What can happen to an experiment."""

    START = "start"
    REJECT = "reject"
    FINISH = "finish"
    FAIL = "fail"
    CANCEL = "cancel"


_S = ExperimentStatus
_E = ExperimentEvent

# Every legal move. An ended experiment stays as it ended: whatever still arrives is a race, not an error.
TRANSITIONS: Final[Mapping[tuple[ExperimentStatus, ExperimentEvent], ExperimentStatus]] = MappingProxyType(
    {
        (_S.PENDING, _E.START): _S.IN_PROGRESS,
        (_S.PENDING, _E.REJECT): _S.REJECTED,
        (_S.PENDING, _E.FAIL): _S.FAILED,
        (_S.PENDING, _E.CANCEL): _S.CANCELLED,
        (_S.IN_PROGRESS, _E.FINISH): _S.FINISHED,
        (_S.IN_PROGRESS, _E.FAIL): _S.FAILED,
        (_S.IN_PROGRESS, _E.CANCEL): _S.CANCELLED,
    }
)


@dataclass(slots=True)
class Experiment:
    """One experiment of the registry; ``created`` is Unix time. The status is changed by `Experiments` alone."""

    name: str
    owner: str
    collaborators: tuple[str, ...]
    archive_id: str
    status: ExperimentStatus = ExperimentStatus.PENDING
    federation_uuid: str = ""
    created: float = 0.0
    error: str = ""
    assigned: str = ""  # what a user's own assigner said, for a restart
    told: bool = False  # every collaborator knows that it has ended
    done: set[str] = field(default_factory=set)


class Experiments:
    """The experiments of a director, in order of submission. Several may be in progress at once.

    What its owner may do with one, following and removing it, any of the ``operators`` may too.
    """

    def __init__(self, *, operators: Iterable[str] = ()) -> None:
        self._operators = frozenset(operators)
        self._experiments: dict[str, Experiment] = {}

    def __len__(self) -> int:
        return len(self._experiments)

    def check_submission(self, name: str, owner: str, collaborators: Iterable[str]) -> None:
        """Raise what `submit` would raise, before an archive is received for nothing.

        An owner may take the name of an own experiment that has ended: notebooks of OpenFL run the same one again.
        """
        check_name(name, what="experiment")
        names = tuple(collaborators)
        for collaborator in names:
            check_name(collaborator, what="collaborator")
        if not names:
            raise ConfigurationError(f"experiment {name!r} lists no collaborator; name at least one envoy")
        if len(set(names)) != len(names):
            raise ConfigurationError(f"experiment {name!r} names a collaborator twice: {list(names)!r}")
        known = self._experiments.get(name)
        if known is not None and not (known.owner == owner and known.status.ended):
            raise AlreadyExistsError(f"the experiment name {name!r} is taken; choose another or remove the old one")

    def submit(
        self, name: str, *, owner: str, collaborators: Iterable[str], archive_id: str, created: float = 0.0
    ) -> Experiment:
        """Add a pending experiment, in place of one of the same name if that is the owner's and has ended.

        Raises `ConfigurationError` for names that are not plain or listed twice, `AlreadyExistsError` for a taken one.
        """
        names = tuple(collaborators)
        self.check_submission(name, owner, names)
        self._experiments.pop(name, None)
        experiment = Experiment(name, owner, names, archive_id, created=created)
        self._experiments[name] = experiment
        return experiment

    def restore(self, experiment: Experiment) -> None:
        """Add an experiment as it was before a restart, in whatever state."""
        self._experiments[experiment.name] = experiment

    def all(self) -> tuple[Experiment, ...]:
        """Return every experiment, oldest first."""
        return tuple(self._experiments.values())

    def get(self, name: str) -> Experiment:
        """Return the experiment whoever owns it; `ExperimentNotFoundError` if there is none."""
        experiment = self._experiments.get(name)
        if experiment is None:
            raise _not_found(name)
        return experiment

    def visible(self, name: str, caller: str) -> Experiment:
        """Return the experiment if it is ``caller``'s. Absent and foreign raise the same."""
        experiment = self._experiments.get(name)
        if experiment is None or not self._belongs(experiment, caller):
            raise _not_found(name)
        return experiment

    def takes_part(self, name: str, envoy: str) -> Experiment:
        """Return the experiment if ``envoy`` is one of its collaborators. Absent and foreign raise the same."""
        experiment = self._experiments.get(name)
        if experiment is None or envoy not in experiment.collaborators:
            raise _not_found(name)
        return experiment

    def owned_by(self, caller: str) -> tuple[Experiment, ...]:
        """Return what is ``caller``'s, oldest first."""
        return tuple(experiment for experiment in self._experiments.values() if self._belongs(experiment, caller))

    def _belongs(self, experiment: Experiment, caller: str) -> bool:
        return experiment.owner == caller or caller in self._operators

    def holds(self, experiment: Experiment) -> bool:
        """Return whether this very experiment is here: a removed one, even if its name is used again, is not."""
        return self._experiments.get(experiment.name) is experiment

    def handle(self, name: str, event: ExperimentEvent, *, error: str = "") -> bool:
        """Apply ``event`` and return whether it changed anything; ``error`` is kept with a change.

        An ended experiment ignores everything. Raises `InvalidStateError` for an event that makes no sense yet.
        """
        target = self.after(name, event)
        if target is None:
            return False
        experiment = self.get(name)
        experiment.status = target
        experiment.error = error
        return True

    def after(self, name: str, event: ExperimentEvent) -> ExperimentStatus | None:
        """Return what ``event`` would make of the experiment, None for nothing. Raises like `handle`."""
        experiment = self.get(name)
        if experiment.status.ended:
            return None
        target = TRANSITIONS.get((experiment.status, event))
        if target is None:
            raise InvalidStateError(
                f"experiment {name!r} is {experiment.status.value}: it cannot {event.value} in that state"
            )
        return target

    def next_for(self, envoy: str, *, over: Container[str] = ()) -> str | None:
        """Return what ``envoy`` shall work on: the oldest experiment in progress that lists it and that it has not done.

        In those that are ``over`` no work is left, though their end is still being kept.
        """
        for experiment in self._experiments.values():
            if (
                experiment.status is ExperimentStatus.IN_PROGRESS
                and experiment.name not in over
                and envoy in experiment.collaborators
                and envoy not in experiment.done
            ):
                return experiment.name
        return None

    def envoy_done(self, name: str, envoy: str) -> None:
        """Say that ``envoy`` has nothing left to do in this experiment; unknown names are ignored."""
        experiment = self._experiments.get(name)
        if experiment is not None and envoy in experiment.collaborators:
            experiment.done.add(envoy)

    def remove(self, name: str, caller: str) -> Experiment | None:
        """Take the experiment out and return it, if it is ``caller``'s; else None, and nothing changes."""
        experiment = self._experiments.get(name)
        if experiment is None or not self._belongs(experiment, caller):
            return None
        del self._experiments[name]
        return experiment


def _not_found(name: str) -> ExperimentNotFoundError:
    return ExperimentNotFoundError(f"no experiment {name!r} is here for you; list yours to see their names")
