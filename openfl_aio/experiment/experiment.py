"""What is submitted: a workspace folder with a task runner, an initial model, and the rules of the rounds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from openfl_aio.collaborator.templates import import_class
from openfl_aio.config import AssignerConfig, StragglerConfig, default_tasks
from openfl_aio.domain import Task, check_name
from openfl_aio.errors import ConfigurationError

__all__ = ["Experiment"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """One experiment, ready to be submitted.

    ``workspace`` is the folder that travels to the sites (source files only: no data, keys or pickles);
    ``task_runner`` names a class in it, ``module.Class``, built there with the site's shard and ``settings``.
    ``initial_model`` maps tensor names to arrays; None takes what the class's ``initial_model()`` returns, for which
    the workspace is imported here. ``pipeline`` compresses what ``delta_updates`` sends: ``name`` or
    ``name:setting=value,setting=value``, as for `get_pipeline`. ``collaborators`` None means every envoy that is online
    at the submission.

    Raises `ConfigurationError` for a name that is no plain name, no rounds, or a workspace that is no folder.
    """

    name: str
    workspace: Path
    task_runner: str
    rounds: int
    initial_model: Mapping[str, np.ndarray] | None = None
    tasks: tuple[Task, ...] = field(default_factory=default_tasks)
    aggregation: str = "weighted_average"
    assigner: AssignerConfig = field(default_factory=AssignerConfig)
    stragglers: StragglerConfig = field(default_factory=StragglerConfig)
    collaborators: tuple[str, ...] | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    delta_updates: bool = False
    pipeline: str = "no_compression"

    def __post_init__(self) -> None:
        check_name(self.name, what="experiment name")
        if self.rounds < 1:
            raise ConfigurationError(f"an experiment needs at least 1 round, got {self.rounds}")
        if not self.workspace.is_dir():
            raise ConfigurationError(
                f"the workspace {str(self.workspace)!r} is no folder; give the one with the task runner"
            )

    def model(self) -> dict[str, np.ndarray]:
        """Return the initial model as float32 arrays; may import and run the workspace's code. Blocks."""
        model = self.initial_model
        if model is None:
            runner = import_class(self.task_runner, path=self.workspace, what="task runner")
            make = getattr(runner, "initial_model", None)
            if not callable(make):
                raise ConfigurationError(
                    f"task runner {self.task_runner!r} has no initial_model(); add it, or pass initial_model to Experiment"
                )
            model = make()
        if not isinstance(model, Mapping) or not model:
            raise ConfigurationError(f"the initial model must map tensor names to arrays, got {model!r:.80}")
        arrays = {str(name): np.asarray(values, dtype=np.float32) for name, values in model.items()}
        wrong = sorted(name for name, values in arrays.items() if not np.isfinite(values).all())
        if wrong:
            raise ConfigurationError(f"the initial model has values that are not finite in {', '.join(wrong)}")
        return arrays
