"""The nouns of a federation that cross the wire, as plain values.

Generated messages stop at `openfl_aio.wire.convert`; everything above speaks these types.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import Final, NewType

from openfl_aio.errors import ConfigurationError

__all__ = [
    "COMMON_NAME_PATTERN",
    "MAX_LABEL",
    "NAME_PATTERN",
    "Assignment",
    "CollaboratorName",
    "CollaboratorProgress",
    "DeviceInfo",
    "EnvoyInfo",
    "ExperimentDescription",
    "ExperimentName",
    "ExperimentStatus",
    "ExperimentSummary",
    "Header",
    "Metric",
    "ModelKind",
    "ShardInfo",
    "Task",
    "TaskKind",
    "TensorQuery",
    "Verdict",
    "check_label",
    "check_name",
    "is_label",
]

CollaboratorName = NewType("CollaboratorName", str)
ExperimentName = NewType("ExperimentName", str)

NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
# of a participant in a certificate: X.509 ends common names at 64 characters, and a blank at an end cannot be seen
COMMON_NAME_PATTERN: Final = re.compile(r"[\x21-\x7e]([\x20-\x7e]{0,62}[\x21-\x7e])?")
MAX_LABEL: Final = 256


def check_name(name: str, *, what: str) -> str:
    """Return ``name`` if it is a plain name, else raise `ConfigurationError`.

    One rule for experiments, collaborators, envoys and new tasks: a letter or digit, then letters, digits, ``.``, ``_``
    and ``-``, 100 at most. A name is never used as a path.
    """
    if not NAME_PATTERN.fullmatch(name):
        raise ConfigurationError(
            f"{what} {name[:MAX_LABEL]!r} is not a plain name; use letters, digits, '.', '_' and '-' "
            "(first a letter or digit, at most 100)"
        )
    return name


def is_label(label: str) -> bool:
    """Return whether ``label`` can name a tensor, tag or task: 1 to 256 printable characters (blanks are, newlines are not).

    Wider than a plain name, because frameworks put ``/``, ``:`` and brackets into names of tensors. Never used as a path.
    """
    return 0 < len(label) <= MAX_LABEL and label.isprintable()


def check_label(label: str, *, what: str) -> str:
    """Return ``label`` if it `is_label`, else raise `ConfigurationError`."""
    if not is_label(label):
        raise ConfigurationError(f"{what} {label[:MAX_LABEL]!r} must have 1 to {MAX_LABEL} printable characters")
    return label


class TaskKind(Enum):
    """What a task does; the values are OpenFL's ``task_type`` strings. ``UNSPECIFIED``: the plan says it."""

    TRAIN = "train"
    VALIDATE = "validate"
    UNSPECIFIED = ""


@dataclass(frozen=True, slots=True)
class Task:
    """One unit of work that a collaborator is asked to do in a round.

    Over the task-runner API of OpenFL only ``name`` is set; the plan holds the function.
    """

    name: str
    function_name: str = ""
    kind: TaskKind = TaskKind.UNSPECIFIED
    apply_local: bool = False


@dataclass(frozen=True, slots=True)
class Header:
    """Who speaks to whom in which federation (OpenFL's MessageHeader)."""

    sender: str
    receiver: str
    federation_uuid: str
    single_col_cert_common_name: str = ""


@dataclass(frozen=True, slots=True)
class Assignment:
    """The answer to "what shall I do?": tasks, or a wait of ``sleep_seconds``, or the end."""

    round_number: int
    tasks: tuple[Task, ...] = ()
    sleep_seconds: int = 0
    quit: bool = False


@dataclass(frozen=True, slots=True)
class TensorQuery:
    """What a collaborator asks of GetAggregatedTensor. ``tags`` are kept as they came; the receiver sorts."""

    tensor_name: str
    round_number: int
    report: bool = False
    tags: tuple[str, ...] = ()
    require_lossless: bool = True


class Verdict(Enum):
    """What became of an upload. Only ``ACCEPTED`` changed anything; all are answered OK to a 1.6 peer.

    ``DUPLICATE``: the same bytes were there; ``CONFLICT``: others were, and those count.
    """

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "other results came before"
    WRONG_ROUND = "wrong round"
    STRAGGLER = "straggler"
    COMPLETE = "federation complete"


@dataclass(frozen=True, slots=True)
class Metric:
    """One reported number. ``origin`` is a collaborator's name or ``"aggregator"``."""

    origin: str
    task_name: str
    name: str
    value: float
    round_number: int


class ModelKind(Enum):
    """Which model of an experiment; the values are those of OpenFL's enum."""

    BEST = 0
    LAST = 1


class ExperimentStatus(Enum):
    """The life of an experiment. The values are OpenFL's strings, except ``CANCELLED``, which 1.6 lacks."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    FINISHED = "finished"
    FAILED = "failed"
    REJECTED = "rejected"
    CANCELLED = "cancelled"

    @property
    def ended(self) -> bool:
        """True if nothing more will happen."""
        return self not in (ExperimentStatus.PENDING, ExperimentStatus.IN_PROGRESS)


@dataclass(frozen=True, slots=True)
class DeviceInfo:
    """A CUDA device that an envoy reports. Memory in bytes."""

    index: int
    memory_total: int = 0
    memory_utilized: int = 0
    device_utilization: str = ""
    cuda_driver_version: str = ""
    cuda_version: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class ShardInfo:
    """A data shard as its envoy describes it. Shapes are lists of strings on OpenFL's wire, so they are here."""

    name: str
    description: str = ""
    n_samples: int = 0
    sample_shape: tuple[str, ...] = ()
    target_shape: tuple[str, ...] = ()
    devices: tuple[DeviceInfo, ...] = ()


@dataclass(frozen=True, slots=True)
class EnvoyInfo:
    """An envoy as the director sees it. ``last_updated`` is Unix time in seconds, ``valid_seconds`` how long that counts."""

    shard: ShardInfo
    is_online: bool
    is_experiment_running: bool
    last_updated: float = 0.0
    valid_seconds: float = 0.0
    experiment_name: str = ""


@dataclass(frozen=True, slots=True)
class ExperimentSummary:
    """A row of the experiments list. ``progress`` is 0 to 1."""

    name: str
    status: ExperimentStatus
    collaborators: int = 0
    tasks: int = 0
    progress: float = 0.0


@dataclass(frozen=True, slots=True)
class ExperimentDescription:
    """All that is told of one experiment. ``models`` maps ``best``, ``last``, ``init`` to ``ready`` or ``pending``."""

    name: str
    status: ExperimentStatus
    progress: float = 0.0
    total_rounds: int = 0
    current_round: int = 0
    models: dict[str, str] = field(default_factory=dict)
    collaborators: tuple[CollaboratorProgress, ...] = ()
    tasks: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CollaboratorProgress:
    """Where one collaborator stands in the current round. ``progress`` is 0 to 1."""

    name: str
    status: str = ""
    progress: float = 0.0
    round_number: int = 0
    current_task: str = ""
    next_task: str = ""
