"""What an envoy runs for which plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from openfl_aio.config import Endpoint, EnvoyConfig
from openfl_aio.envoy.envoy import ARCHIVE_RUNNER, Envoy
from openfl_aio.envoy.process_runner import RunnerSpec
from openfl_aio.plan.plan import Plan

INTERACTIVE: dict[str, Any] = {
    "aggregator": {"settings": {"rounds_to_train": 1}},
    "network": {"settings": {"agg_addr": "here", "agg_port": 1}},
    "collaborator": {"settings": {"opt_treatment": "CONTINUE_GLOBAL", "device_assignment_policy": "CUDA_PREFERRED"}},
    "task_runner": {
        "template": "openfl.federated.task.task_runner.CoreTaskRunner",
        "required_plugin_components": {"framework_adapters": "adapter.Adapter"},
    },
    "api_layer": {"required_plugin_components": {"serializer_plugin": "plugins.Reader"}},
}


def spec(plan: dict[str, Any], *, devices: tuple[int, ...] = ()) -> RunnerSpec:
    config = EnvoyConfig(name="one", director=Endpoint(host="here", port=1), shard_template="a.B", cuda_devices=devices)
    return Envoy(config)._task_spec(Plan.parse(yaml.safe_dump(plan)), Path("workspace"))


@pytest.mark.parametrize(("devices", "device"), [((), "cpu"), ((2, 3), "cuda:0")])
def test_an_archive_of_openfl_s_frontend(devices: tuple[int, ...], device: str) -> None:
    loaded = spec(INTERACTIVE, devices=devices)
    assert (loaded.template, loaded.path) == (ARCHIVE_RUNNER, Path("workspace"))
    assert loaded.settings == {
        "model_file": "model_obj.pkl",
        "tasks_file": "tasks_obj.pkl",
        "loader_file": "loader_obj.pkl",
        "serializer": "plugins.Reader",
        "adapter": "adapter.Adapter",
        "opt_treatment": "CONTINUE_GLOBAL",
        "device": device,
    }


def test_any_other_plan_names_its_class() -> None:
    plan = {key: value for key, value in INTERACTIVE.items() if key != "api_layer"}
    plan["task_runner"] = {"template": "task.Runner", "settings": {"rate": 1}}
    loaded = spec(plan)
    assert (loaded.template, loaded.path, loaded.settings) == ("task.Runner", Path("workspace"), {"rate": 1})
    assert loaded.opt_treatment == "CONTINUE_GLOBAL"
    del plan["collaborator"]
    assert spec(plan).opt_treatment is None
