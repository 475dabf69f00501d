from __future__ import annotations

import pytest
import yaml

from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.interactive import InteractiveObjects
from openfl_aio.plan.plan import Plan

SERIALIZER = "openfl.plugins.interface_serializer.cloudpickle_serializer.CloudpickleSerializer"


def plan(collaborator: dict[str, object] | None = None, **api: object) -> Plan:
    """A plan as the interactive frontend writes it."""
    return Plan.parse(
        yaml.safe_dump(
            {
                "aggregator": {"settings": {"rounds_to_train": 2}},
                "network": {"settings": {"agg_addr": "here", "agg_port": "auto"}},
                "collaborator": {"settings": collaborator or {}},
                "task_runner": {
                    "template": "openfl.federated.task.task_runner.CoreTaskRunner",
                    "required_plugin_components": {"framework_adapters": "adapter.Adapter"},
                },
                "api_layer": {"required_plugin_components": {"serializer_plugin": SERIALIZER}, "settings": {}, **api},
            }
        )
    )


def test_the_objects_of_an_archive() -> None:
    assert plan().interactive == InteractiveObjects(
        "model_obj.pkl", "tasks_obj.pkl", "loader_obj.pkl", SERIALIZER, "adapter.Adapter"
    )
    named = plan(
        {"opt_treatment": "CONTINUE_LOCAL", "device_assignment_policy": "CUDA_PREFERRED"},
        settings={"tasks_interface_file": "mine.pkl"},
    ).interactive
    assert named is not None
    assert (named.tasks_file, named.opt_treatment, named.prefer_cuda) == ("mine.pkl", "CONTINUE_LOCAL", True)


def test_another_plan_has_none() -> None:
    text = "{aggregator: {settings: {rounds_to_train: 1}}, network: {settings: {agg_addr: a, agg_port: 1}}}"
    assert Plan.parse(text).interactive is None


@pytest.mark.parametrize(
    ("collaborator", "api", "message"),
    [
        ({}, {"required_plugin_components": {}}, "serializer_plugin: missing"),
        ({}, {"required_plugin_components": {"serializer_plugin": "rm -rf"}}, "serializer_plugin: class: expected"),
    ],
)
def test_what_cannot_be_used_is_named(collaborator: dict[str, object], api: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        _ = plan(collaborator, **api).interactive
