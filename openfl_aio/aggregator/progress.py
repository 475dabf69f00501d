"""How far a federation is, in the words of an `ExperimentDescription`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from openfl_aio.aggregator.rounds import Phase, Rounds
from openfl_aio.domain import CollaboratorProgress, ExperimentDescription, ExperimentStatus

__all__ = ["describe"]

_STATUS = {
    Phase.COLLECTING: ExperimentStatus.IN_PROGRESS,
    Phase.AGGREGATING: ExperimentStatus.IN_PROGRESS,
    Phase.COMPLETE: ExperimentStatus.FINISHED,
    Phase.ABORTED: ExperimentStatus.FAILED,
}


def describe(name: str, rounds: Rounds[Any], *, task_names: Iterable[str], has_best: bool) -> ExperimentDescription:
    """Return the progress of ``rounds`` as that of the experiment ``name``."""
    return ExperimentDescription(
        name=name,
        status=_STATUS[rounds.phase],
        progress=min(rounds.round_number / rounds.rounds, 1.0),
        total_rounds=rounds.rounds,
        current_round=rounds.round_number,
        models={"best": "ready" if has_best else "pending", "last": "ready", "init": "ready"},
        collaborators=tuple(_progress(rounds, collaborator) for collaborator in rounds.collaborators),
        tasks=tuple(task_names),
    )


def _progress(rounds: Rounds[Any], name: str) -> CollaboratorProgress:
    left, assigned = rounds.tasks_left(name), rounds.assigned(name)
    return CollaboratorProgress(
        name=name,
        status="working" if left and not rounds.phase.ended else "waiting",
        progress=1 - len(left) / len(assigned) if assigned else 1.0,
        round_number=rounds.round_number,
        current_task=left[0].name if left else "",
        next_task=left[1].name if len(left) > 1 else "",
    )
