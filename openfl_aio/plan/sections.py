"""The sections of a plan, one function each: from keys and OpenFL's class paths to our configuration."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from openfl_aio.config import DURABILITIES, AssignerConfig, Durability, StragglerConfig, TaskGroup, UploadRules
from openfl_aio.domain import MAX_LABEL, Task, TaskKind, is_label
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.document import Document, Key
from openfl_aio.plan.releases import REFUSED_SECTIONS, SETTINGS, keys_of
from openfl_aio.plan.templates import (
    AGGREGATIONS,
    AGGREGATORS,
    ASSIGNERS,
    COLLABORATORS,
    PIPELINES,
    STRAGGLER_POLICIES,
    Family,
)
from openfl_aio.tensors.aggregation import describe_aggregation
from openfl_aio.tensors.pipelines import describe_pipeline

__all__ = [
    "OPT_TREATMENTS",
    "assigner",
    "check_groups",
    "check_outline",
    "durability",
    "ignored",
    "opt_treatment",
    "pipeline",
    "single_common_name",
    "store_rounds",
    "stragglers",
    "switch",
    "task_aggregation",
    "tasks",
    "upload_rules",
]

OPT_TREATMENTS: Final = ("RESET", "CONTINUE_LOCAL", "CONTINUE_GLOBAL")
"""OpenFL's words for what becomes of a collaborator's optimizer between rounds; without one it is the first."""

# the keys of each section's settings, besides those of `releases.SETTINGS`; None: they belong to a class of the user, or to
# the block that is named
_SETTINGS: Final[dict[str, frozenset[str] | None]] = {
    "aggregator": frozenset(
        {
            "best_state_path",
            "db_store_rounds",
            "durability",
            "init_state_path",
            "last_state_path",
            "max_data_size",
            "max_share",
            "max_update_norm",
            "max_value",
            "rounds_to_train",
            "single_col_cert_common_name",
            "write_logs",
        }
    ),
    "collaborator": frozenset(
        {
            "db_store_rounds",
            "device_assignment_policy",
            "epochs_per_round",
            "opt_treatment",
            "polling_interval",
            "single_col_cert_common_name",
        }
    ),
    "network": frozenset(
        {
            "agg_addr",
            "agg_port",
            "cert_folder",
            "client_reconnect_interval",
            "crl",  # ours
            "deny_list",  # ours
            "hash_salt",
            "single_col_cert_common_name",
        }
    ),
    "api_layer": None,
    "assigner": None,
    "compression_pipeline": None,
    "data_loader": None,
    "straggler_handling_policy": None,
    "task_runner": None,
    "tasks": None,
}
_SECTION_KEYS: Final = frozenset({"template", "settings", "required_plugin_components"})
_TASK_KEYS: Final = frozenset({"function", "kwargs", "aggregation_type", "task_type"})
_FOR_EVER: Final = 2**31 - 1
_REQUIRED_SECTIONS: Final = ("aggregator", "network")


def check_outline(document: Document) -> None:
    """Refuse unknown sections and keys, and classes of aggregator and collaborator that are not OpenFL's."""
    for section, reason in REFUSED_SECTIONS.items():
        if section in document.data:
            raise document.error((section,), reason)
    document.allow((), _SETTINGS)
    for section in _REQUIRED_SECTIONS:
        if section not in document.data:
            raise document.error((section,), "missing; expected a section with 'settings'")
    for section, known in _SETTINGS.items():
        if section not in document.data:
            continue
        if section != "tasks":
            document.allow((section,), _SECTION_KEYS)
        if known is not None:
            document.allow((section, "settings"), {*known, *SETTINGS.get(section, {})})
    for section, family in (("aggregator", AGGREGATORS), ("collaborator", COLLABORATORS)):
        _named(document, family, (section, "template"), default=section)
        secure = (section, "settings", "secure_aggregation")
        if document.boolean(*secure, default=False):
            raise document.error(secure, "expected false, got true: OpenFL's secure aggregation is not available here")
    opt_treatment(document)
    protocol = ("network", "settings", "transport_protocol")
    if document.string(*protocol, default="grpc") != "grpc":
        raise document.error(protocol, f"expected 'grpc', got {document.get(*protocol)!r}")


def opt_treatment(document: Document) -> str | None:
    """Return which of `OPT_TREATMENTS` the plan wants, None if it does not say."""
    path = ("collaborator", "settings", "opt_treatment")
    if document.get(*path) is None:
        return None
    written = document.string(*path)
    if written not in OPT_TREATMENTS:
        raise document.error(path, f"expected one of {', '.join(OPT_TREATMENTS)}, got {written[:60]!r}")
    return written


def ignored(document: Document) -> tuple[str, ...]:
    """Return the key paths that have no effect here."""
    found = [
        f"{section}.settings.{key}"
        for section, settings in SETTINGS.items()
        for key in sorted(settings)
        if settings[key].ignored and document.get(section, "settings", key) not in (None, False, "grpc")
    ]
    return tuple(found)


def switch(document: Document, section: str, means: str, *, default: bool) -> tuple[bool, str]:
    """Return what a section's settings say of ``means``, which releases call differently, and the key that says it."""
    keys = keys_of(section, means)
    value, used = default, keys[-1]
    for key in reversed(keys):  # all of them: a wrong value is told also where another key counts
        if document.get(section, "settings", key) is not None:
            value = document.boolean(section, "settings", key) != SETTINGS[section][key].negated
            used = key
    return value, used


def tasks(document: Document) -> tuple[Task, ...]:
    """Return the tasks in the order of an OpenFL round: what looks at the global model, what trains, what looks at the result.

    Equals are in name order; the order of the text is lost when a plan is written.
    """

    def stage(task: Task) -> int:
        return 1 if task.kind is not TaskKind.VALIDATE else 2 if task.apply_local else 0

    return tuple(sorted((_task(document, name) for name in _task_names(document)), key=stage))


def task_aggregation(document: Document) -> dict[str, str]:
    """Return how we write the aggregation function of each task that names one."""
    return {
        name: _aggregation(document, ("tasks", name, "aggregation_type"))
        for name in _task_names(document)
        if document.mapping("tasks", name, "aggregation_type")
    }


def pipeline(document: Document) -> str:
    """Return the compression pipeline as we write it: our name, and the plan's settings."""
    path = ("compression_pipeline",)
    document.allow(path, {"template", "settings"})
    name = _named(document, PIPELINES, (*path, "template"), default="no_compression")
    try:
        return describe_pipeline(name, document.mapping(*path, "settings"))
    except ConfigurationError as exc:
        raise document.error((*path, "settings"), str(exc)) from None


def assigner(document: Document) -> AssignerConfig:
    """Return the assigner and its groups."""
    if not document.mapping("assigner"):
        return AssignerConfig()
    kind = _named(document, ASSIGNERS, ("assigner", "template"), default="random_grouped")
    path = ("assigner", "settings")
    document.allow(path, {"task_groups", "seed", "selected_task_group"})
    groups = tuple(_group(document, kind, index) for index in range(len(document.items(*path, "task_groups"))))
    if not groups:
        raise document.error((*path, "task_groups"), "missing; expected a list of groups with 'name' and 'tasks'")
    selected = document.string(*path, "selected_task_group", default="")
    if selected:  # OpenFL leaves the other groups out and gives this one everybody
        names = ", ".join(group.name for group in groups)
        groups = tuple(group for group in groups if group.name == selected)
        if kind == "random_grouped":
            groups = tuple(group.model_copy(update={"percentage": 1.0}) for group in groups)
        if not groups:
            raise document.error((*path, "selected_task_group"), f"expected one of {names}, got {selected[:60]!r}")
    total = sum(group.percentage or 0.0 for group in groups)
    if kind == "random_grouped" and not math.isclose(total, 1.0, abs_tol=0.01):
        raise document.error((*path, "task_groups"), f"expected percentages that add up to 1, got {total:g}")
    seed = document.integer(*path, "seed", default=0)
    if kind == "random_grouped":
        return AssignerConfig(kind="random_grouped", groups=groups, seed=seed)
    return AssignerConfig(kind="static_grouped", groups=groups, seed=seed)


def check_groups(document: Document, config: AssignerConfig, known: Sequence[Task]) -> None:
    """Refuse a group that names a task which is none of ``known``."""
    names = sorted(task.name for task in known)
    for index, group in enumerate(config.groups):
        for task in group.tasks:
            if task not in names:
                path = ("assigner", "settings", "task_groups", index, "tasks")
                raise document.error(path, f"unknown task {task!r}; the tasks are {', '.join(names)}")


def stragglers(document: Document) -> StragglerConfig:
    """Return the straggler policy; a cutoff of infinity is no cutoff."""
    section = "straggler_handling_policy"
    if not document.mapping(section):
        return StragglerConfig()
    kind = _named(document, STRAGGLER_POLICIES, (section, "template"), default="cutoff")
    path = (section, "settings")
    if kind == "wait_for_all":
        document.allow(path, ())
        return StragglerConfig()
    minimum = document.integer(*path, "minimum_reporting", default=1, minimum=1)
    if kind == "percentage":
        document.allow(path, {"percent_collaborators_needed", "minimum_reporting"})
        share = document.number(*path, "percent_collaborators_needed", default=1.0)
        if not 0 <= share <= 1:
            raise document.error(
                (*path, "percent_collaborators_needed"), f"expected a share from 0 to 1, got {share:g}"
            )
        return StragglerConfig(kind="percentage", percentage=share, minimum_reporting=minimum)
    document.allow(path, {"straggler_cutoff_time", "minimum_reporting"})
    cutoff = document.number(*path, "straggler_cutoff_time", default=math.inf)
    if cutoff < 0:
        raise document.error((*path, "straggler_cutoff_time"), f"expected seconds of at least 0, got {cutoff:g}")
    if math.isinf(cutoff):
        return StragglerConfig(minimum_reporting=minimum)
    return StragglerConfig(kind="cutoff", cutoff_seconds=cutoff, minimum_reporting=minimum)


def store_rounds(document: Document, section: str, *, minimum: int) -> int:
    """Return how many rounds of tensors are kept: at least ``minimum``, below which OpenFL fails; negative is for ever."""
    rounds = document.integer(section, "settings", "db_store_rounds", default=minimum)
    return _FOR_EVER if rounds < 0 else max(rounds, minimum)


def upload_rules(document: Document, path: tuple[Key, ...], default: UploadRules) -> UploadRules:
    """Return what uploads may be: the settings of those names below ``path``, which OpenFL passes over, else ``default``."""
    found: dict[str, float] = {}
    if document.get(*path, "max_data_size") is not None:
        found["max_data_size"] = document.integer(*path, "max_data_size", minimum=1, maximum=_FOR_EVER)
    for key in ("max_share", "max_update_norm", "max_value"):
        if document.get(*path, key) is None:
            continue
        found[key] = document.number(*path, key)
        if found[key] <= 0 or (key == "max_share" and found[key] > 1):
            bounds = "above 0 and at most 1" if key == "max_share" else "above 0"
            raise document.error((*path, key), f"expected a number {bounds}, got {found[key]:g}")
    return default.model_copy(update=found)


def durability(document: Document, section: tuple[Key, ...]) -> Durability:
    """Return what of results survives, by the setting of that name below ``section``, which OpenFL passes over."""
    path = (*section, "durability")
    written = document.string(*path, default="process")
    for level in DURABILITIES:
        if written == level:
            return level
    raise document.error(path, f"expected one of {', '.join(DURABILITIES)}, got {written[:60]!r}")


def single_common_name(document: Document, section: str) -> str:
    """Return the one certificate name that all collaborators share, or nothing.

    OpenFL's aggregator looks for it in its own section, its collaborators in the network's.
    """
    shared = document.string("network", "settings", "single_col_cert_common_name", default="")
    return document.string(section, "settings", "single_col_cert_common_name", default=shared)


def _task_names(document: Document) -> list[str]:
    names = [name for name in document.mapping("tasks") if name not in ("settings", "defaults")]
    for name in names:
        if not isinstance(name, str):
            raise document.error(("tasks", str(name)), f"expected a task's name, got {name!r}")
        if not is_label(name):
            raise document.error(
                ("tasks",), f"expected names of 1 to {MAX_LABEL} printable characters, got {name[:60]!r}"
            )
    return sorted(names)


def _task(document: Document, name: str) -> Task:
    path = ("tasks", name)
    document.allow(path, _TASK_KEYS)
    function = document.string(*path, "function")
    document.mapping(*path, "kwargs")
    apply = document.get(*path, "kwargs", "apply")
    kinds = {kind.value: kind for kind in TaskKind if kind.value}
    written = document.string(*path, "task_type", default="")
    if written and written not in kinds:
        raise document.error((*path, "task_type"), f"expected one of {', '.join(kinds)}, got {written[:60]!r}")
    if written:
        kind = kinds[written]
    elif apply in ("local", "global") or "valid" in function:
        kind = TaskKind.VALIDATE
    elif "train" in function:
        kind = TaskKind.TRAIN
    else:
        kind = TaskKind.UNSPECIFIED
    return Task(name, function, kind, apply_local=apply == "local")


def _group(document: Document, kind: str, index: int) -> TaskGroup:
    path = ("assigner", "settings", "task_groups", index)
    document.allow(path, {"name", "tasks", "percentage", "collaborators"})
    name = document.string(*path, "name", default=f"group {index + 1}")
    names = document.strings(*path, "tasks")
    if kind == "static_grouped":
        return TaskGroup(name=name, tasks=names, collaborators=document.strings(*path, "collaborators"))
    share = document.number(*path, "percentage")
    if not 0 <= share <= 1:
        raise document.error((*path, "percentage"), f"expected a share from 0 to 1, got {share:g}")
    return TaskGroup(name=name, tasks=names, percentage=share)


def _aggregation(document: Document, path: tuple[Key, ...]) -> str:
    document.allow(path, {"template", "settings"})
    name = _named(document, AGGREGATIONS, (*path, "template"), default="weighted_average")
    settings = {str(key): value for key, value in document.mapping(*path, "settings").items()}
    try:
        return describe_aggregation(name, settings)
    except ConfigurationError as exc:
        raise document.error((*path, "settings"), str(exc)) from None


def _named(document: Document, family: Family, path: tuple[Key, ...], *, default: str) -> str:
    template = document.string(*path, default=default)
    try:
        return family.name_of(template)
    except ConfigurationError as exc:
        raise document.error(path, str(exc)) from None
