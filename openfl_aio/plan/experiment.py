"""Writing a plan: the one that the frontend puts into an experiment's archive."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Final

import yaml

from openfl_aio.config import AssignerConfig, StragglerConfig
from openfl_aio.domain import Task, TaskKind, check_name
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.plan import Plan
from openfl_aio.plan.templates import (
    AGGREGATIONS,
    AGGREGATORS,
    ASSIGNERS,
    COLLABORATORS,
    DATA_LOADERS,
    PIPELINES,
    STRAGGLER_POLICIES,
    check_class_path,
)
from openfl_aio.tensors.aggregation import parse_aggregation
from openfl_aio.tensors.pipelines import parse_pipeline

__all__ = ["experiment_plan"]

_RESERVED: Final = frozenset({"settings", "defaults"})


def experiment_plan(
    *,
    task_runner: str,
    settings: Mapping[str, Any],
    rounds: int,
    tasks: Sequence[Task],
    aggregation: str = "weighted_average",
    assigner: AssignerConfig | None = None,
    stragglers: StragglerConfig | None = None,
    delta_updates: bool = False,
    pipeline: str = "no_compression",
    agg_addr: str = "auto",
    agg_port: int | None = None,
    tls: bool = True,
) -> Plan:
    """Return a plan in OpenFL's layout, with every section written out, that `Plan.parse` reads back.

    ``task_runner`` names a class (``package.module.Class`` or ``package.module:Class``), ``settings`` are its keyword
    arguments and must be plain YAML values. ``aggregation`` is for the tensors of every task that does not validate, written as
    for `get_aggregation`; metrics are always averaged by samples. ``pipeline`` is written as for `get_pipeline`.
    ``agg_port`` None is derived from the plan's hash.

    Raises:
        ConfigurationError: for anything that could not be read back or could not work.
    """
    check_class_path(task_runner, what="task runner")
    config = {
        "aggregator": {
            "template": AGGREGATORS.template_of("aggregator"),
            "settings": {
                "best_state_path": "save/best.pbuf",
                "db_store_rounds": 2,
                "init_state_path": "save/init.pbuf",
                "last_state_path": "save/last.pbuf",
                "rounds_to_train": rounds,
                "write_logs": True,
            },
        },
        "assigner": _assigner(assigner or AssignerConfig(), tasks),
        "collaborator": {
            "template": COLLABORATORS.template_of("collaborator"),
            "settings": {"db_store_rounds": 1, "delta_updates": delta_updates},
        },
        "compression_pipeline": _pipeline(pipeline),
        "data_loader": {"template": DATA_LOADERS.template_of("data_loader"), "settings": {}},
        "network": {
            "template": "openfl.federation.Network",
            "settings": {
                "agg_addr": agg_addr,
                "agg_port": "auto" if agg_port is None else agg_port,
                "cert_folder": "cert",
                "client_reconnect_interval": 5,
                "disable_client_auth": False,
                "hash_salt": "auto",
                "tls": tls,
            },
        },
        "straggler_handling_policy": _stragglers(stragglers or StragglerConfig()),
        "task_runner": {"template": task_runner, "settings": dict(settings)},
        "tasks": _tasks(tasks, _aggregation(aggregation)),
    }
    try:
        text = yaml.safe_dump(config)  # also turns tuples into lists, which is what comes back
    except yaml.YAMLError as exc:
        problem = str(exc.args[0] if exc.args else exc)
        raise ConfigurationError(
            f"settings: expected plain values that YAML can write, got an error: {problem}"
        ) from None
    plan = Plan.parse(text, source="the experiment's plan")
    plan.aggregator_config(collaborators=["somebody"])  # refuse here what the director would refuse
    return plan


def _pipeline(text: str) -> dict[str, Any]:
    name, settings = parse_pipeline(text)
    return {"template": PIPELINES.template_of(name), "settings": settings}


def _aggregation(text: str) -> dict[str, Any]:
    name, settings = parse_aggregation(text)
    return {"template": AGGREGATIONS.template_of(name), "settings": settings}


def _tasks(tasks: Sequence[Task], aggregation: Mapping[str, Any]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for task in tasks:
        check_name(task.name, what="task")
        if task.name in out or task.name in _RESERVED:
            raise ConfigurationError(
                f"tasks: expected each name once and none of {sorted(_RESERVED)}, got {task.name!r}"
            )
        if task.apply_local and task.kind is not TaskKind.VALIDATE:
            raise ConfigurationError(f"task {task.name!r}: only a validating task can be applied to the local model")
        written: dict[str, Any] = {"function": task.function_name or task.name, "kwargs": {}}
        if task.kind is TaskKind.VALIDATE:
            written["kwargs"] = {"apply": "local" if task.apply_local else "global"}
        else:
            written["aggregation_type"] = deepcopy(dict(aggregation))  # shared lists would be written as aliases
        if task.kind is not TaskKind.UNSPECIFIED:
            written["task_type"] = task.kind.value
        out[task.name] = written
    return out


def _assigner(config: AssignerConfig, tasks: Sequence[Task]) -> dict[str, Any]:
    """Write the groups; the order of a group's tasks is the order in which they are done."""
    groups: list[dict[str, Any]] = [
        {"name": group.name, "tasks": list(group.tasks), "percentage": group.percentage}
        if config.kind == "random_grouped"
        else {"name": group.name, "tasks": list(group.tasks), "collaborators": list(group.collaborators or ())}
        for group in config.groups
    ]
    kind = config.kind
    if not groups:
        kind = "random_grouped"  # everybody does everything
        groups = [{"name": "train_and_validate", "tasks": [task.name for task in tasks], "percentage": 1.0}]
    settings: dict[str, Any] = {"task_groups": groups}
    if config.seed:
        settings["seed"] = config.seed
    return {"template": ASSIGNERS.template_of(kind), "settings": settings}


def _stragglers(config: StragglerConfig) -> dict[str, Any]:
    settings: dict[str, Any] = {"minimum_reporting": config.minimum_reporting}
    if config.kind == "percentage":
        settings["percent_collaborators_needed"] = config.percentage
        return {"template": STRAGGLER_POLICIES.template_of("percentage"), "settings": settings}
    settings["straggler_cutoff_time"] = config.cutoff_seconds if config.kind == "cutoff" else math.inf
    return {"template": STRAGGLER_POLICIES.template_of("cutoff"), "settings": settings}
