"""What differs between the releases of OpenFL: default sections of plans, the keys of their settings, names of classes.

On the wire collaborators of all releases speak the same three calls. What divides them is the plan: each release merges
its own default sections into it, and the federation's uuids are a hash of the result. So the same text is another
federation to each, unless it names no ``defaults``. `DEFAULTS` has the sections of every release, to the letter, also
where a value means nothing here.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from itertools import pairwise
from typing import Any, Final, NamedTuple

from openfl_aio.plan.defaults import DEFAULTS as OF_1_6
from openfl_aio.plan.defaults import tasks_section

__all__ = [
    "DEFAULTS",
    "LATER_CLASSES",
    "LATER_FUNCTIONS",
    "REFUSED_SECTIONS",
    "RELEASES",
    "SETTINGS",
    "Setting",
    "default_section",
    "guess_release",
    "keys_of",
]

Section = dict[str, Any]

RELEASES: Final = ("1.5.1", "1.6", "1.7.1", "1.8", "1.9")
_FOLDER: Final = "plan/defaults/"
_COMMON_ROUND: Final = ["aggregated_model_validation", "train", "locally_tuned_model_validation"]


def _aggregator(**settings: Any) -> Section:
    return {"template": "openfl.component.Aggregator", "settings": {"db_store_rounds": 2, **settings}}


def _assigner(*groups: Section) -> Section:
    return {"template": "openfl.component.RandomGroupedAssigner", "settings": {"task_groups": list(groups)}}


def _group(name: str, percentage: float, tasks: list[str]) -> Section:
    return {"name": name, "percentage": percentage, "tasks": list(tasks)}


def _network(**settings: Any) -> Section:
    common = {"agg_addr": "auto", "agg_port": "auto", "hash_salt": "auto", "use_tls": True}
    more = {"client_reconnect_interval": 5, "require_client_auth": True, "cert_folder": "cert", **settings}
    return {"template": "openfl.federation.Network", "settings": {**common, **more}}


def _validation(apply: str) -> Section:
    return {"function": "validate_task", "kwargs": {"apply": apply, "metrics": ["acc"]}}


# what each release has where the one before it has something else; None: nothing any more
_CHANGES: Final[Mapping[str, Mapping[str, Section | None]]] = {
    "1.7.1": {
        "aggregator": _aggregator(),
        "assigner": _assigner(_group("learning", 1.0, _COMMON_ROUND)),
        "federated-evaluation/aggregator": _aggregator(write_logs=True, rounds_to_train=1),
        "federated-evaluation/assigner": _assigner(_group("evaluation", 1.0, ["aggregated_model_validation"])),
        "federated-evaluation/tasks_torch": {"aggregated_model_validation": _validation("global")},
        "network": _network(),
        "tasks_keras": tasks_section(
            {"function": "train_task", "kwargs": {"batch_size": 32, "epochs": 1, "metrics": ["loss"]}},
            "validate_task",
            {"batch_size": 32, "metrics": ["accuracy"]},
        ),
        "tasks_tensorflow": None,
        "tasks_xgb": {
            "aggregated_model_validation": _validation("global"),
            "locally_tuned_model_validation": _validation("local"),
            "train": {
                "function": "train_task",
                "kwargs": {"metrics": ["loss"]},
                "aggregation_type": {"template": "openfl.interface.aggregation_functions.FedBaggingXGBoost"},
            },
        },
    },
    "1.8": {
        "aggregator": _aggregator(
            init_state_path="save/init.pbuf",
            best_state_path="save/best.pbuf",
            last_state_path="save/last.pbuf",
            persist_checkpoint=True,
            persistent_db_path="local_state/tensor.db",
        ),
        "assigner": _assigner(
            _group("learning", 1.0, _COMMON_ROUND), _group("evaluation", 0, ["aggregated_model_validation"])
        ),
        "collaborator": {
            "template": "openfl.component.Collaborator",
            "settings": {"opt_treatment": "CONTINUE_LOCAL", "use_delta_updates": True, "db_store_rounds": 1},
        },
        "connector": {"template": "openfl.component.Connector"},
        "federated-evaluation/assigner": None,
        "federated-evaluation/tasks_torch": None,
        "network": _network(enable_atomic_connections=False),
        "straggler_handling_policy": {"template": "openfl.component.WaitForAllPolicy"},
        "tasks_connector": {
            "start_client_adapter": {"function": "start_client_adapter", "kwargs": {"local_server_port": 0}}
        },
    },
    "1.9": {
        "connector": None,
        "connector_flower": {
            "template": "openfl.component.ConnectorFlower",
            "settings": {
                "automatic_shutdown": True,
                "insecure": True,
                "superlink_host": "127.0.0.1",
                "serverappio_api_port": "auto",
                "fleet_api_port": "auto",
                "exec_api_port": "auto",
            },
        },
        "federated-evaluation/aggregator": None,
        "network": _network(enable_atomic_connections=False, transport_protocol="grpc"),
        "tasks_connector": None,
        "tasks_flower": {
            "prepare_for_interop": {"function": "start_client_adapter", "kwargs": {}},
            "settings": {
                "interop_server": "openfl.transport.grpc.interop.FlowerInteropServer",
                "interop_server_host": "127.0.0.1",
                "interop_server_port": "auto",
                "clientappio_api_port": "auto",
                "local_simulation": True,
            },
        },
    },
}
# 1.5.1 has the sections of 1.6 but this one
_OF_1_5_1: Final[Mapping[str, Section | None]] = {
    "tasks_torch": tasks_section(
        {"function": "train_batches", "kwargs": {"epochs": 1, "metrics": ["loss"]}}, "validate", {"metrics": ["acc"]}
    )
}


class Setting(NamedTuple):
    """A key of a section's settings: the releases that read it, from ``first`` to ``last``.

    Keys that mean the same have one ``means``; one that is ``negated`` says the opposite. ``ignored`` ones have no effect
    here.
    """

    first: str = RELEASES[0]
    last: str = RELEASES[-1]
    means: str = ""
    negated: bool = False
    ignored: bool = False


SETTINGS: Final[Mapping[str, Mapping[str, Setting]]] = {
    "aggregator": {
        "callbacks": Setting(ignored=True),
        "enable_remote_attestation": Setting(ignored=True),
        "log_memory_usage": Setting(ignored=True),
        "log_metric_callback": Setting(ignored=True),
        "persist_checkpoint": Setting("1.8", ignored=True),
        "persistent_db_path": Setting("1.8", ignored=True),
        "save_native_model": Setting(ignored=True),
        "secure_aggregation": Setting("1.8"),
        "task_group": Setting(ignored=True),
        "use_delta_updates": Setting(ignored=True),
    },
    "assigner": {"selected_task_group": Setting("1.8")},
    "collaborator": {
        "callbacks": Setting(ignored=True),
        "delta_updates": Setting(last="1.7.1", means="delta_updates"),
        "enable_remote_attestation": Setting(ignored=True),
        "log_memory_usage": Setting(ignored=True),
        "secure_aggregation": Setting("1.8"),
        "use_delta_updates": Setting("1.8", means="delta_updates"),
        "write_logs": Setting(ignored=True),
    },
    "network": {
        "disable_tls": Setting(ignored=True),
        "enable_atomic_connections": Setting("1.8", ignored=True),
        "require_client_auth": Setting("1.7.1", means="require_client_auth"),
        "disable_client_auth": Setting(last="1.6", means="require_client_auth", negated=True),
        "tls": Setting(last="1.6", means="tls"),
        "transport_protocol": Setting("1.9", ignored=True),
        "use_tls": Setting("1.7.1", means="tls"),
    },
}
"""Section -> key -> what is known of it, for those keys that some release does not read, or that have no effect here.

Of two that mean the same the first one counts.
"""

LATER_CLASSES: Final[Mapping[str, tuple[str, ...]]] = {
    "cutoff": (
        "openfl.component.CutoffTimePolicy",
        "openfl.component.aggregator.straggler_handling.CutoffTimePolicy",
    ),
    "percentage": (
        "openfl.component.PercentagePolicy",
        "openfl.component.aggregator.straggler_handling.PercentagePolicy",
    ),
    "wait_for_all": (
        "openfl.component.WaitForAllPolicy",
        "openfl.component.aggregator.straggler_handling.WaitForAllPolicy",
    ),
}
"""Our name -> the paths that 1.8 and 1.9 have for it, where 1.6 has others or nothing of the kind."""

_FUNCTIONS: Final = "openfl.interface.aggregation_functions"
LATER_FUNCTIONS: Final[Mapping[str, str]] = {
    **dict.fromkeys(
        (f"{_FUNCTIONS}.FedBaggingXGBoost", f"{_FUNCTIONS}.fed_bagging.FedBaggingXGBoost"),
        "its tensor of trees grows from round to round, and here a tensor keeps its shape",
    ),
    **dict.fromkeys(
        (f"{_FUNCTIONS}.SecureWeightedAverage", f"{_FUNCTIONS}.secure_weighted_average.SecureWeightedAverage"),
        "it is of OpenFL's secure aggregation",
    ),
}
"""Aggregation functions of 1.7.1 to 1.9 that are not available here -> why."""

REFUSED_SECTIONS: Final[Mapping[str, str]] = {
    "connector": "other frameworks cannot be run inside a federation here; remove the section",
    "federated_flow": "OpenFL's workflow API is not served here; write the experiment as tasks of a task runner",
}
"""Sections of OpenFL's plans that are not served here -> what to say."""


def _changed(before: Mapping[str, Section], changes: Mapping[str, Section | None]) -> dict[str, Section]:
    after = {**before, **{f"{_FOLDER}{name}.yaml": section for name, section in changes.items() if section is not None}}
    return {path: section for path, section in after.items() if changes.get(path[len(_FOLDER) : -5], section)}


def _all() -> dict[str, dict[str, Section]]:
    tables = {"1.5.1": _changed(OF_1_6, _OF_1_5_1), "1.6": dict(OF_1_6)}
    for before, release in pairwise(RELEASES[1:]):
        tables[release] = _changed(tables[before], _CHANGES[release])
    return tables


DEFAULTS: Final[Mapping[str, Mapping[str, Section]]] = _all()
"""Release -> path as plans write it -> section."""


def keys_of(section: str, means: str) -> tuple[str, ...]:
    """Return the keys by which releases say ``means`` in a section's settings; the first one that is written counts."""
    return tuple(key for key, setting in SETTINGS[section].items() if setting.means == means)


def default_section(path: str, release: str) -> Section | None:
    """Return a copy of the section that ``release`` has at ``path``, or None if it has none there."""
    return deepcopy(DEFAULTS[release].get(path))


def guess_release(data: Mapping[str, Any]) -> str:
    """Return the release that a plan as it is written was made for; 1.6 if it fits.

    A release fits that has all the default sections the plan names and reads all the keys it uses. If none fits, the
    one with the fewest misfits, so that what is said about the plan is near to the mark.
    """
    order = ("1.6", "1.9", "1.8", "1.7.1", "1.5.1")
    return min(order, key=lambda release: (_misfits(data, release), order.index(release)))


def _misfits(data: Mapping[str, Any], release: str) -> int:
    count, age = 0, RELEASES.index(release)
    for name, section in data.items():
        if not isinstance(section, Mapping):
            continue
        path = section.get("defaults")
        count += isinstance(path, str) and path not in DEFAULTS[release]
        settings = section.get("settings")
        for key in settings if isinstance(settings, Mapping) else ():
            known = SETTINGS.get(name, {}).get(key, Setting())
            count += not RELEASES.index(known.first) <= age <= RELEASES.index(known.last)
    return count
