"""openfl_aio: the asyncio-native successor of OpenFL 1.6.

What an application embeds is named here; each name is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openfl_aio.aggregator.client import AggregatorClient
    from openfl_aio.aggregator.service import Aggregator
    from openfl_aio.collaborator.collaborator import Collaborator
    from openfl_aio.collaborator.frameworks.numpy import NumPyTaskRunner
    from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput, TaskRunner, ThreadTaskRunner
    from openfl_aio.config import (
        AggregatorConfig,
        CollaboratorConfig,
        DirectorConfig,
        Endpoint,
        EnvoyConfig,
        TLSConfig,
    )
    from openfl_aio.director.service import Director
    from openfl_aio.envoy.envoy import Envoy
    from openfl_aio.errors import OpenFLAioError
    from openfl_aio.experiment.experiment import Experiment
    from openfl_aio.experiment.federation import Federation
    from openfl_aio.experiment.run import Run

__all__ = [
    "Aggregator",
    "AggregatorClient",
    "AggregatorConfig",
    "Collaborator",
    "CollaboratorConfig",
    "Director",
    "DirectorConfig",
    "Endpoint",
    "Envoy",
    "EnvoyConfig",
    "Experiment",
    "Federation",
    "NumPyTaskRunner",
    "OpenFLAioError",
    "Run",
    "TLSConfig",
    "TaskContext",
    "TaskOutput",
    "TaskRunner",
    "ThreadTaskRunner",
]

_HOMES = {
    "aggregator.client": ["AggregatorClient"],
    "aggregator.service": ["Aggregator"],
    "collaborator.collaborator": ["Collaborator"],
    "collaborator.frameworks.numpy": ["NumPyTaskRunner"],
    "collaborator.task_runner": ["TaskContext", "TaskOutput", "TaskRunner", "ThreadTaskRunner"],
    "config": ["AggregatorConfig", "CollaboratorConfig", "DirectorConfig", "Endpoint", "EnvoyConfig", "TLSConfig"],
    "director.service": ["Director"],
    "envoy.envoy": ["Envoy"],
    "errors": ["OpenFLAioError"],
    "experiment.experiment": ["Experiment"],
    "experiment.federation": ["Federation"],
    "experiment.run": ["Run"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    # lazily, because a child process that runs one task needs no database and no server
    if name not in _HOME_OF:
        raise AttributeError(f"module 'openfl_aio' has no attribute {name!r}")
    return getattr(import_module(f"openfl_aio.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
