from __future__ import annotations

from typing import Any

import pytest
import yaml

from openfl_aio.config import StragglerConfig
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.plan import Plan
from openfl_aio.plan.releases import DEFAULTS, RELEASES, default_section, guess_release

WORKSPACE_PLAN = """\
aggregator: {defaults: plan/defaults/aggregator.yaml, settings: {rounds_to_train: 3, init_state_path: save/init.pbuf}}
assigner: {defaults: plan/defaults/assigner.yaml}
collaborator: {defaults: plan/defaults/collaborator.yaml}
compression_pipeline: {defaults: plan/defaults/compression_pipeline.yaml}
data_loader: {defaults: plan/defaults/data_loader.yaml, template: src.dataloader.Loader}
network: {defaults: plan/defaults/network.yaml}
task_runner: {defaults: plan/defaults/task_runner.yaml, template: src.taskrunner.Runner}
tasks: {defaults: plan/defaults/tasks_torch.yaml}
"""
# what each release itself makes of that text, with FQDN=agg.example.org
DERIVED = {
    "1.5.1": ("32a07946", 51959),
    "1.6": ("46c004c4", 52092),
    "1.7.1": ("577c848a", 52231),
    "1.8": ("8f1bf076", 50217),
    "1.9": ("73eb99f3", 58055),
}


@pytest.mark.parametrize("release", RELEASES)
def test_uuid_and_port_are_those_of_the_release(release: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FQDN", "agg.example.org")
    plan = Plan.parse(WORKSPACE_PLAN, release=release)
    digest, port = DERIVED[release]
    assert (plan.federation_uuid, plan.endpoint.port) == (f"plan.yaml_{digest}", port)
    assert sorted(plan.aliases) == sorted(
        f"plan.yaml_{other}" for name, (other, _) in DERIVED.items() if name != release
    )
    config = plan.aggregator_config(collaborators=["one", "two"])
    assert config.aliases == plan.aliases
    assert (plan.tls, plan.require_client_certificate, plan.delta_updates) == (True, True, True)
    assert len(plan.tasks) == 3
    assert config.stragglers == StragglerConfig()


def test_a_plan_without_default_sections_is_the_same_to_all() -> None:
    merged = Plan.parse(WORKSPACE_PLAN).dump()
    assert Plan.parse(merged).aliases == ()
    assert {Plan.parse(merged, release=release).hash for release in RELEASES} == {Plan.parse(merged).hash}
    assert Plan.parse(WORKSPACE_PLAN).rewritten(agg_port=1).aliases == ()


def test_releases_that_cannot_read_the_plan_have_no_name_for_it() -> None:
    plan = Plan.parse(WORKSPACE_PLAN.replace("tasks_torch", "tasks_tensorflow"))
    assert plan.release == "1.6"
    assert plan.aliases == (), "1.5.1 has the same sections, and later releases no tasks of that name"


@pytest.mark.parametrize(
    ("section", "settings", "release"),
    [
        ("network", {}, "1.6"),
        ("network", {"tls": False, "disable_client_auth": True}, "1.6"),
        ("network", {"use_tls": False}, "1.9"),
        ("network", {"require_client_auth": False}, "1.9"),
        ("network", {"enable_atomic_connections": True}, "1.9"),
        ("collaborator", {"delta_updates": False}, "1.6"),
        ("collaborator", {"use_delta_updates": False}, "1.9"),
        ("aggregator", {"persist_checkpoint": False}, "1.9"),
    ],
)
def test_keys_tell_the_release(section: str, settings: dict[str, Any], release: str) -> None:
    data: dict[str, Any] = yaml.safe_load(WORKSPACE_PLAN)
    data[section].setdefault("settings", {}).update(settings)
    assert guess_release(data) == release


def test_keys_of_two_sections_tell_together() -> None:
    data: dict[str, Any] = yaml.safe_load(WORKSPACE_PLAN)
    data["network"]["settings"] = {"use_tls": False}
    data["collaborator"]["settings"] = {"delta_updates": True}
    assert guess_release(data) == "1.7.1"
    data["tasks"] = {"defaults": "plan/defaults/tasks_connector.yaml"}
    data["collaborator"]["settings"] = {"use_delta_updates": True}
    assert guess_release(data) == "1.8"


@pytest.mark.parametrize(
    ("settings", "key", "tls"),
    [
        ({}, "use_tls", True),
        ({"use_tls": False}, "use_tls", False),
        ({"tls": False}, "tls", False),
        ({"tls": True, "use_tls": False}, "tls", True),
    ],
)
def test_the_key_that_says_whether_there_is_tls(settings: dict[str, Any], key: str, tls: bool) -> None:
    data = yaml.safe_load(WORKSPACE_PLAN) | {"network": {"settings": {"agg_addr": "h", "agg_port": 1, **settings}}}
    plan = Plan.parse(yaml.safe_dump(data))
    assert (plan.tls, plan.tls_key) == (tls, f"network.settings.{key}")
    assert plan.rewritten(tls=not tls).tls is not tls


def test_a_wrong_value_is_told_also_where_another_key_counts() -> None:
    data = yaml.safe_load(WORKSPACE_PLAN)
    data["network"] = {"settings": {"agg_addr": "h", "agg_port": 1, "tls": True, "use_tls": "yes"}}
    with pytest.raises(ConfigurationError, match=r"network\.settings\.use_tls: expected true or false, got 'yes'"):
        _ = Plan.parse(yaml.safe_dump(data)).tls


@pytest.mark.parametrize(
    ("settings", "required"),
    [
        ({}, True),
        ({"disable_client_auth": True}, False),
        ({"require_client_auth": False}, False),
        ({"require_client_auth": True, "disable_client_auth": True}, True),
    ],
)
def test_the_keys_that_say_whether_collaborators_prove_who_they_are(settings: dict[str, Any], required: bool) -> None:
    data = yaml.safe_load(WORKSPACE_PLAN) | {"network": {"settings": {"agg_addr": "h", "agg_port": 1, **settings}}}
    assert Plan.parse(yaml.safe_dump(data)).require_client_certificate is required


@pytest.mark.parametrize("release", ["1.7.1", "1.8", "1.9"])
def test_the_function_of_openfl_s_xgboost_tasks_is_refused_with_the_reason(release: str) -> None:
    plan = Plan.parse(WORKSPACE_PLAN.replace("tasks_torch", "tasks_xgb"), release=release)
    with pytest.raises(
        ConfigurationError, match="FedBaggingXGBoost' of OpenFL is not available here: its tensor of trees"
    ):
        plan.aggregator_config(collaborators=["one"])


def test_the_later_spelling_of_tls_is_obeyed() -> None:
    plan = Plan.parse(WORKSPACE_PLAN.replace("network.yaml}", "network.yaml, settings: {use_tls: false}}"))
    assert (plan.release, plan.tls) == ("1.9", False)


def test_default_sections_are_copies() -> None:
    path = "plan/defaults/network.yaml"
    section = default_section(path, "1.6")
    assert section is not None
    section["settings"]["tls"] = False
    assert DEFAULTS["1.6"][path]["settings"]["tls"] is True
    assert default_section("plan/defaults/nothing.yaml", "1.6") is None


def test_nothing_of_a_release_leaks_into_another() -> None:
    for release, sections in DEFAULTS.items():
        assert ("plan/defaults/tasks_tensorflow.yaml" in sections) == (release in ("1.5.1", "1.6"))
        assert ("plan/defaults/straggler_handling_policy.yaml" in sections) == (release in ("1.8", "1.9"))
        assert ("plan/defaults/tasks_flower.yaml" in sections) == (release == "1.9")


@pytest.mark.parametrize(
    ("old", "new", "release", "message"),
    [
        (
            "tasks_torch",
            "tasks_flower",
            "1.6",
            r"OpenFL 1\.6 has no defaults 'plan/defaults/tasks_flower\.yaml'; OpenFL 1\.9",
        ),
        ("tasks_torch", "tasks_none", None, "has no defaults 'plan/defaults/tasks_none.yaml'; known are"),
        ("network:", "connector: {}\nnetwork:", None, "connector: other frameworks cannot be run"),
        ("network:", "federated_flow: {}\nnetwork:", None, "federated_flow: OpenFL's workflow API is not served here"),
        (
            "aggregator.yaml, settings: {",
            "aggregator.yaml, settings: {secure_aggregation: true, ",
            None,
            r"aggregator\.settings\.secure_aggregation: expected false, got true",
        ),
        (
            "network.yaml}",
            "network.yaml, settings: {transport_protocol: rest}}",
            None,
            r"network\.settings\.transport_protocol: expected 'grpc', got 'rest'",
        ),
    ],
)
def test_what_cannot_be_done_is_said(old: str, new: str, release: str | None, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        Plan.parse(WORKSPACE_PLAN.replace(old, new), release=release)


@pytest.mark.parametrize("package", ["openfl.component", "openfl.component.aggregator.straggler_handling"])
@pytest.mark.parametrize(
    ("policy", "settings", "expected"),
    [
        ("WaitForAllPolicy", "{}", StragglerConfig()),
        ("CutoffTimePolicy", "{straggler_cutoff_time: 5}", StragglerConfig(kind="cutoff", cutoff_seconds=5)),
        (
            "PercentagePolicy",
            "{percent_collaborators_needed: 0.5}",
            StragglerConfig(kind="percentage", percentage=0.5),
        ),
    ],
)
def test_straggler_policies_by_their_later_names(
    package: str, policy: str, settings: str, expected: StragglerConfig
) -> None:
    section = f"straggler_handling_policy: {{template: {package}.{policy}, settings: {settings}}}\n"
    assert Plan.parse(WORKSPACE_PLAN + section).stragglers == expected


def test_a_selected_group_has_everybody() -> None:
    text = WORKSPACE_PLAN.replace("assigner.yaml}", "assigner.yaml, settings: {selected_task_group: evaluation}}")
    (group,) = Plan.parse(text).assigner.groups
    assert (group.name, group.percentage, group.tasks) == ("evaluation", 1.0, ("aggregated_model_validation",))
    with pytest.raises(ConfigurationError, match="expected one of learning, evaluation, got 'other'"):
        _ = Plan.parse(text.replace("evaluation", "other")).assigner
