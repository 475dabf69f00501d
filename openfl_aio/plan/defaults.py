"""The default sections that plans of OpenFL 1.6 refer to by path (``defaults: plan/defaults/network.yaml``).

Other releases' are in `releases`, as differences from these.

They are part of the plan's hash, so they are OpenFL 1.6's values to the letter, also where a value means nothing here.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, Final

__all__ = ["DEFAULTS", "tasks_section"]


def tasks_section(train: dict[str, Any], validate: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Return the section of the three tasks of OpenFL's rounds, with ``validate`` before and after ``train``."""
    # copies: a list that two keys share would be written as a YAML anchor, and hash differently
    return {
        "aggregated_model_validation": {"function": validate, "kwargs": {"apply": "global", **deepcopy(kwargs)}},
        "locally_tuned_model_validation": {"function": validate, "kwargs": {"apply": "local", **deepcopy(kwargs)}},
        "train": train,
    }


DEFAULTS: Final[dict[str, dict[str, Any]]] = {
    "plan/defaults/aggregator.yaml": {
        "template": "openfl.component.Aggregator",
        "settings": {"db_store_rounds": 2, "write_logs": True},
    },
    "plan/defaults/assigner.yaml": {
        "template": "openfl.component.RandomGroupedAssigner",
        "settings": {
            "task_groups": [
                {
                    "name": "train_and_validate",
                    "percentage": 1.0,
                    "tasks": ["aggregated_model_validation", "train", "locally_tuned_model_validation"],
                }
            ]
        },
    },
    "plan/defaults/collaborator.yaml": {
        "template": "openfl.component.Collaborator",
        "settings": {"opt_treatment": "CONTINUE_LOCAL", "delta_updates": True, "db_store_rounds": 1},
    },
    "plan/defaults/compression_pipeline.yaml": {"template": "openfl.pipelines.NoCompressionPipeline"},
    "plan/defaults/data_loader.yaml": {"template": "openfl.federated.DataLoader"},
    "plan/defaults/network.yaml": {
        "template": "openfl.federation.Network",
        "settings": {
            "agg_addr": "auto",
            "agg_port": "auto",
            "hash_salt": "auto",
            "tls": True,
            "client_reconnect_interval": 5,
            "disable_client_auth": False,
            "cert_folder": "cert",
        },
    },
    "plan/defaults/task_runner.yaml": {"template": "openfl.federated.task_runner.CoreTaskRunner"},
    "plan/defaults/tasks_fast_estimator.yaml": tasks_section(
        {"function": "train", "kwargs": {"batch_size": 32, "epochs": 1, "metrics": ["adv_ce", "base_ce"]}},
        "validate",
        {"batch_size": 32, "metrics": ["clean_accuracy", "adversarial_accuracy"]},
    ),
    "plan/defaults/tasks_keras.yaml": tasks_section(
        {"function": "train", "kwargs": {"batch_size": 32, "epochs": 1, "metrics": ["loss"]}},
        "validate",
        {"batch_size": 32, "metrics": ["accuracy"]},
    ),
    "plan/defaults/tasks_tensorflow.yaml": tasks_section(
        {"function": "train_batches", "kwargs": {"batch_size": 32, "epochs": 1, "metrics": ["loss"]}},
        "validate",
        {"batch_size": 32, "metrics": ["acc"]},
    ),
    "plan/defaults/tasks_torch.yaml": tasks_section(
        {"function": "train_task", "kwargs": {"epochs": 1, "metrics": ["loss"]}},
        "validate_task",
        {"metrics": ["acc"]},
    ),
}
