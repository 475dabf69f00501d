from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.config import AggregatorConfig, AssignerConfig, Endpoint, TaskGroup, UploadRules, default_tasks
from openfl_aio.domain import Task, TaskKind
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.plan import Plan

TASK_RUNNER_PLAN = """\
aggregator :
  defaults : plan/defaults/aggregator.yaml
  template : openfl.component.Aggregator
  settings :
    init_state_path : save/init.pbuf
    best_state_path : save/best.pbuf
    last_state_path : save/last.pbuf
    rounds_to_train : 7

collaborator :
  defaults : plan/defaults/collaborator.yaml
  settings :
    delta_updates : false
    opt_treatment : RESET

data_loader :
  defaults : plan/defaults/data_loader.yaml
  template : src.dataloader.Digits
  settings :
    batch_size : 256

task_runner :
  defaults : plan/defaults/task_runner.yaml
  template : src.taskrunner.Net

network :
  defaults : plan/defaults/network.yaml

assigner :
  defaults : plan/defaults/assigner.yaml

tasks :
  defaults : plan/defaults/tasks_%s.yaml

compression_pipeline :
  defaults : plan/defaults/compression_pipeline.yaml
"""
INTERACTIVE_PLAN = """\
aggregator:
  settings: {db_store_rounds: 2, rounds_to_train: 3, write_logs: true}
  template: openfl.component.Aggregator
api_layer:
  required_plugin_components: {serializer_plugin: some.plugin.Serializer}
  settings: {model_interface_file: model_obj.pkl}
assigner:
  settings:
    task_groups:
    - {name: train_and_validate, percentage: 1.0, tasks: [aggregated_model_validation, train]}
  template: openfl.component.RandomGroupedAssigner
collaborator:
  settings: {db_store_rounds: 1, delta_updates: true, device_assignment_policy: CPU_ONLY, opt_treatment: RESET}
  template: openfl.component.Collaborator
compression_pipeline: {settings: {}, template: openfl.pipelines.NoCompressionPipeline}
data_loader: {settings: {}, template: openfl.federated.DataLoader}
network:
  settings: {agg_addr: director.example.org, agg_port: auto, cert_folder: cert, tls: false}
  template: openfl.federation.Network
task_runner:
  required_plugin_components: {framework_adapters: some.Adapter}
  settings: {}
  template: openfl.federated.task.task_runner.CoreTaskRunner
tasks: {settings: {}}
"""
MINIMAL_PLAN = """\
aggregator: {settings: {rounds_to_train: 2}}
network: {settings: {agg_addr: 127.0.0.1, agg_port: 5000}}
tasks:
  train: {function: fit, kwargs: {}, task_type: train}
"""


# Digest, host and port were computed with OpenFL 1.6 and its own default files.
@pytest.mark.parametrize(
    ("text", "digest", "port"),
    [
        (
            TASK_RUNNER_PLAN % "torch",
            "731ff65ba77597c8a29cd50ad94927f9e12140e92186da32196f7fcafd5e66620670597069589b76bb8f4aa819d0c68a",
            53155,
        ),
        (
            TASK_RUNNER_PLAN % "keras",
            "01fab80da083df69c2ff01fb319d6be747fa3014af89fb2ba5850227c98f2a4168350fa1fac00ebbaa30300bafc810ec",
            52549,
        ),
        (
            TASK_RUNNER_PLAN % "tensorflow",
            "0dce57af172960fe67f84c99e98dd61b35e325dd765783f98518f88a21486c85c37edc1979a1c6369aec1291a1b1c838",
            58020,
        ),
        (
            TASK_RUNNER_PLAN % "fast_estimator",
            "3a2fc315e03ee5e3242cc3c9f5dee335679342111e4b3e900c9a5ef339aa5d2850cab3cf250e6ea2750cc37ba42b4c31",
            54080,
        ),
        (
            INTERACTIVE_PLAN,
            "01a280292610704a30790688d934cab96f251ab5cb58953792fd74bf72791d087bd20885aacd0cf86d4ecb5927fa0ec2",
            50204,
        ),
    ],
)
def test_hash_uuids_and_port_are_those_of_openfl_1_6(
    text: str, digest: str, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FQDN", "agg.example.org")

    plan = Plan.parse(text)

    assert plan.hash == digest
    assert plan.federation_uuid == f"plan.yaml_{digest[:8]}"
    assert plan.aggregator_uuid == f"aggregator_plan.yaml_{digest[:8]}"
    assert plan.endpoint.port == port
    assert plan.endpoint.host == ("director.example.org" if text is INTERACTIVE_PLAN else "agg.example.org")


def test_the_file_name_goes_into_the_uuids(tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(MINIMAL_PLAN, encoding="utf-8")

    plan = Plan.load(path)

    assert plan.federation_uuid.startswith("other.yaml_")
    assert repr(plan) == f"<Plan {plan.federation_uuid} rounds=2>"


def test_without_fqdn_the_host_asks_the_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FQDN", raising=False)

    assert Plan.parse(TASK_RUNNER_PLAN % "torch").endpoint.host


@pytest.mark.parametrize("text", [TASK_RUNNER_PLAN % "torch", INTERACTIVE_PLAN, MINIMAL_PLAN])
def test_dump_reads_back_with_the_same_uuids(text: str) -> None:
    plan = Plan.parse(text)

    assert Plan.parse(plan.dump()).hash == plan.hash


def test_rewritten_changes_the_network_and_nothing_else() -> None:
    plan = Plan.parse(INTERACTIVE_PLAN)

    served = plan.rewritten(agg_addr="10.0.0.1", agg_port=8443, hash_salt="fresh", tls=True)

    assert served.endpoint == Endpoint(host="10.0.0.1", port=8443)
    assert served.tls
    assert served.federation_uuid != plan.federation_uuid
    assert Plan.parse(served.dump()).federation_uuid == served.federation_uuid
    assert plan.rewritten(hash_salt="a").hash != plan.rewritten(hash_salt="b").hash
    assert plan.rewritten().hash == plan.hash
    assert not plan.tls


def test_a_task_runner_plan_gives_an_aggregator() -> None:
    plan = Plan.parse(TASK_RUNNER_PLAN % "torch")

    config = plan.aggregator_config(collaborators=["one", "two"], models_folder=Path("/w"))

    assert config.uuid == plan.aggregator_uuid
    assert config.federation_uuid == plan.federation_uuid
    assert config.collaborators == ("one", "two")
    assert config.rounds == 7
    assert config.tasks == (
        Task("aggregated_model_validation", "validate_task", TaskKind.VALIDATE),
        Task("train", "train_task", TaskKind.TRAIN),
        Task("locally_tuned_model_validation", "validate_task", TaskKind.VALIDATE, apply_local=True),
    )
    assert config.assigner.groups[0].tasks == ("aggregated_model_validation", "train", "locally_tuned_model_validation")
    assert config.best_model_path == Path("/w/save/best.pbuf")
    assert config.last_model_path == Path("/w/save/last.pbuf")
    assert config.write_logs
    assert plan.aggregator_config(collaborators=["one"]).best_model_path is None
    assert plan.init_model_path == "save/init.pbuf"
    assert plan.task_settings["train"] == {"epochs": 1, "metrics": ["loss"]}
    assert plan.task_runner.template == "src.taskrunner.Net"
    assert plan.data_loader.settings == {"batch_size": 256}
    assert plan.tls
    assert plan.require_client_certificate
    assert plan.cert_folder == "cert"


@pytest.mark.parametrize("treatment", ["RESET", "CONTINUE_LOCAL", "CONTINUE_GLOBAL", None])
def test_what_becomes_of_the_optimizer(treatment: str | None) -> None:
    said = "{}" if treatment is None else f"{{opt_treatment: {treatment}}}"
    assert Plan.parse(f"{MINIMAL_PLAN}\ncollaborator: {{settings: {said}}}").opt_treatment == treatment


@pytest.mark.parametrize("written", ["FORGET", "reset", "''", "1"])
def test_another_word_for_what_becomes_of_the_optimizer_is_refused(written: str) -> None:
    text = f"{MINIMAL_PLAN}\ncollaborator: {{settings: {{opt_treatment: {written}}}}}"
    with pytest.raises(ConfigurationError, match=r"line \d+: collaborator.settings.opt_treatment: expected .* got "):
        Plan.parse(text)


def test_a_task_runner_plan_gives_a_collaborator() -> None:
    plan = Plan.parse(TASK_RUNNER_PLAN % "torch")

    config = plan.collaborator_config("one", endpoint=Endpoint(host="127.0.0.1", port=1))

    assert (config.aggregator_uuid, config.federation_uuid) == (plan.aggregator_uuid, plan.federation_uuid)
    assert config.endpoint.port == 1
    assert not config.delta_updates
    assert config.store_rounds == 1


def test_an_interactive_plan_has_no_tasks_and_takes_them_from_the_caller() -> None:
    plan = Plan.parse(INTERACTIVE_PLAN)
    with pytest.raises(ConfigurationError, match="tasks: names no task"):
        plan.aggregator_config(collaborators=["one"])

    config = plan.aggregator_config(collaborators=["one"], tasks=default_tasks())

    assert config.tasks == default_tasks()
    assert config.assigner == AssignerConfig()
    own = AssignerConfig(groups=(TaskGroup(tasks=("train",), percentage=1.0),))
    assert plan.aggregator_config(collaborators=["one"], tasks=default_tasks(), assigner=own).assigner == own
    assert plan.delta_updates
    assert plan.task_runner.template == "openfl.federated.task.task_runner.CoreTaskRunner"


def test_a_minimal_plan_has_defaults() -> None:
    plan = Plan.parse(MINIMAL_PLAN)
    config = plan.aggregator_config(collaborators=["one"])

    assert config.tasks == (Task("train", "fit", TaskKind.TRAIN),)
    assert config.assigner == AssignerConfig()
    assert config.stragglers.kind == "wait_for_all"
    assert config.pipeline == "no_compression"
    assert config.store_rounds == 2
    assert plan.init_model_path is None
    assert plan.tls
    assert plan.ignored == ()


def _with(section: str) -> str:
    return MINIMAL_PLAN + section


def test_a_static_assigner_and_own_names_are_read() -> None:
    text = _with(
        "assigner: {template: static_grouped, settings: {task_groups: [{tasks: [train], collaborators: [a, 3]}]}}\n"
    )

    assert Plan.parse(text).assigner == AssignerConfig(
        kind="static_grouped", groups=(TaskGroup(name="group 1", tasks=("train",), collaborators=("a", "3")),)
    )


@pytest.mark.parametrize(
    ("policy", "settings", "expected"),
    [
        ("CutoffTimeBasedStragglerHandling", "{}", ("wait_for_all", None, 1.0, 1)),
        ("CutoffTimeBasedStragglerHandling", "{straggler_cutoff_time: .inf}", ("wait_for_all", None, 1.0, 1)),
        (
            "CutoffTimeBasedStragglerHandling",
            "{straggler_cutoff_time: 20, minimum_reporting: 2}",
            ("cutoff", 20.0, 1.0, 2),
        ),
        ("PercentageBasedStragglerHandling", "{percent_collaborators_needed: 0.5}", ("percentage", None, 0.5, 1)),
        ("PercentageBasedStragglerHandling", "{percent_collaborators_needed: 0}", ("percentage", None, 0.0, 1)),
        ("CutoffTimeBasedStragglerHandling", "{straggler_cutoff_time: 0}", ("cutoff", 0.0, 1.0, 1)),
    ],
)
def test_straggler_policies(policy: str, settings: str, expected: tuple[object, ...]) -> None:
    template = f"openfl.component.straggler_handling_functions.{policy}"
    config = Plan.parse(
        _with(f"straggler_handling_policy: {{template: {template}, settings: {settings}}}\n")
    ).stragglers

    assert (config.kind, config.cutoff_seconds, config.percentage, config.minimum_reporting) == expected


@pytest.mark.parametrize(("written", "kept"), [("-1", 2**31 - 1), ("0", 2), ("1", 2), ("5", 5)])
def test_stored_rounds_are_enough_for_deltas(written: str, kept: int) -> None:
    text = MINIMAL_PLAN.replace("rounds_to_train: 2", f"rounds_to_train: 2, db_store_rounds: {written}")

    assert Plan.parse(text).aggregator_config(collaborators=["one"]).store_rounds == kept


def test_aggregation_functions_are_read_per_task() -> None:
    text = MINIMAL_PLAN.replace(
        "kwargs: {}", "aggregation_type: {template: openfl.interface.aggregation_functions.WeightedAverage}"
    )

    assert Plan.parse(text).aggregator_config(collaborators=["one"]).task_aggregation == {"train": "weighted_average"}


def test_settings_of_aggregation_functions_are_read() -> None:
    text = MINIMAL_PLAN.replace(
        "kwargs: {}",
        "aggregation_type: {template: openfl.interface.aggregation_functions.AdamAdaptiveAggregation, "
        "settings: {learning_rate: 0.1, betas: [0.5, 0.9]}}",
    )
    config = Plan.parse(text).aggregator_config(collaborators=["one"])

    assert config.task_aggregation == {"train": "adam:learning_rate=0.1,betas=0.5/0.9"}


def test_later_spellings_of_network_and_collaborator_are_understood() -> None:
    text = (
        "aggregator: {settings: {rounds_to_train: 2, persist_checkpoint: true, log_metric_callback: {template: a.b}}}\n"
        "network: {settings: {agg_addr: h, agg_port: '5000', use_tls: false, require_client_auth: false}}\n"
        "collaborator: {settings: {use_delta_updates: true}}\n"
    )
    plan = Plan.parse(text)

    assert not plan.tls
    assert not plan.require_client_certificate
    assert plan.delta_updates
    assert plan.endpoint.port == 5000
    assert plan.ignored == ("aggregator.settings.log_metric_callback", "aggregator.settings.persist_checkpoint")
    assert plan.rewritten(tls=True).tls


@pytest.mark.parametrize("function", ["validate", "train_batches", "anything"])
def test_the_kind_of_a_task_follows_its_function(function: str) -> None:
    text = MINIMAL_PLAN.replace("function: fit, kwargs: {}, task_type: train", f"function: {function}")
    kinds = {"validate": TaskKind.VALIDATE, "train_batches": TaskKind.TRAIN, "anything": TaskKind.UNSPECIFIED}

    assert Plan.parse(text).tasks == (Task("train", function, kinds[function]),)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "plan.yaml: expected a mapping of keys, got nothing"),
        ("- 1", "plan.yaml: expected a mapping of keys, got a list"),
        ("a: [1", "plan.yaml, line 1: expected YAML, got an error"),
        ("a: !!python/object/apply:os.system [ls]", "plan.yaml, line 1: expected YAML"),
        ("a: 2024-13-99", "plan.yaml: expected YAML"),
        ("a: " + "[" * 5000, "plan.yaml: expected YAML"),
        ("a: " + "x" * 2**18, "plan.yaml: expected at most 262144 characters"),
        ("3: {}", "line 1: 3: expected a section"),
        ("aggregator: 3", "line 1: aggregator: expected a section"),
        ("aggregator: {settings: 3}", "aggregator.settings: expected a mapping of keys, got 3"),
        ("network: {settings: {}}", "aggregator: missing; expected a section"),
        (_with("surprise: {}"), "line 5: surprise: unknown key; expected one of aggregator, api_layer"),
        (_with("collaborator: {setings: {}}"), "collaborator.setings: unknown key; expected one of required_plugin"),
        (_with("collaborator: {settings: {delta: true}}"), "collaborator.settings.delta: unknown key; expected one of"),
        (_with("collaborator: {template: my.Own}"), "unknown collaborator 'my.Own'; known are openfl.component.Collab"),
        (
            _with("assigner: {defaults: plan/x.yaml}"),
            "assigner.defaults: OpenFL 1.6 has no defaults 'plan/x.yaml'; known are plan",
        ),
        (_with("assigner: {defaults: {a: 1}}"), "assigner.defaults: OpenFL 1.6 has no defaults"),
        (
            MINIMAL_PLAN.replace("rounds_to_train: 2", ""),
            "aggregator.settings.rounds_to_train: missing; expected a whole",
        ),
        (MINIMAL_PLAN.replace("train: 2", "train: 0"), "rounds_to_train: expected a whole number of at least 1, got 0"),
        (
            MINIMAL_PLAN.replace("train: 2", "train: yes"),
            "rounds_to_train: expected a whole number of at least 1, got True",
        ),
        (MINIMAL_PLAN.replace("127.0.0.1", "5"), "network.settings.agg_addr: expected text, got 5"),
        (MINIMAL_PLAN.replace("5000", "70000"), "agg_port: expected a whole number from 0 to 65535, got 70000"),
        (MINIMAL_PLAN.replace("5000", "'x'"), "agg_port: expected a whole number from 0 to 65535, got 'x'"),
    ],
)
def test_a_plan_that_cannot_be_read_says_where_and_why(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)) as caught:
        Plan.parse(text)

    assert "\n" not in str(caught.value)


def _derive(plan: Plan) -> None:
    plan.aggregator_config(collaborators=["one"])
    plan.collaborator_config("one")


_GROUP = "assigner: {settings: {task_groups: [%s]}}"
_POLICY = "straggler_handling_policy: {template: %s, settings: {%s}}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            _with("compression_pipeline: {template: openfl.pipelines.KCpipeline}"),
            "line 5: compression_pipeline.template: ",
        ),
        (
            _with("compression_pipeline: {template: gzip}"),
            "unknown compression pipeline 'gzip'; known are openfl.pipel",
        ),
        (_with("compression_pipeline: {settings: {n: 1}}"), "'no_compression' has no setting 'n'; it takes none"),
        (
            _with("compression_pipeline: {template: openfl.pipelines.EdenPipeline, settings: {n_bits: 9}}"),
            "line 5: compression_pipeline.settings: compression pipeline 'eden': n_bits: expected an integer from 1 to 8",
        ),
        (_with("assigner: {template: my.Own}"), "unknown assigner 'my.Own'; known are openfl.component.RandomGrouped"),
        (_with("assigner: {settings: {}}"), "task_groups: missing; expected a list of groups"),
        (_with("assigner: {settings: {task_groups: 1}}"), "task_groups: expected a list, got 1"),
        (_with(_GROUP % "1"), "task_groups[0]: expected a mapping of keys, got 1"),
        (_with(_GROUP % "{tasks: [train]}"), "task_groups[0].percentage: missing; expected a number"),
        (_with(_GROUP % "{tasks: [train], percentage: 2}"), "percentage: expected a share from 0 to 1, got 2"),
        (_with(_GROUP % "{tasks: [train], percentage: 0.5}"), "expected percentages that add up to 1, got 0.5"),
        (_with(_GROUP % "{tasks: [[1]], percentage: 1}"), "tasks[0]: expected text, got a list"),
        (_with(_GROUP % "{tasks: [fly], percentage: 1}"), "unknown task 'fly'; the tasks are train"),
        (_with(_POLICY % ("my.Own", "")), "unknown straggler handling policy 'my.Own'; known are"),
        (_with(_POLICY % ("cutoff", "straggler_cutoff_time: -1")), "expected seconds of at least 0, got -1"),
        (_with(_POLICY % ("cutoff", "straggler_cutoff_time: .nan")), "expected a number, got nan"),
        (_with(_POLICY % ("cutoff", "minimum_reporting: 0")), "expected a whole number of at least 1, got 0"),
        (_with(_POLICY % ("percentage", "percent_collaborators_needed: -0.1")), "expected a share from 0 to 1"),
        (_with("  3: {function: f}"), "tasks.3: expected a task's name, got 3"),
        (_with("  t: {}"), "line 5: tasks.t.function: missing; expected text"),
        (_with("  t: {function: f, extra: 1}"), "line 5: tasks.t.extra: unknown key"),
        (_with("  t: {function: f, kwargs: 1}"), "tasks.t.kwargs: expected a mapping of keys, got 1"),
        (_with("  t: {function: f, task_type: fly}"), "task_type: expected one of train, validate, got 'fly'"),
        (
            _with("  t: {function: f, aggregation_type: {template: a.B}}"),
            "unknown aggregation function 'a.B'; known are",
        ),
        (
            _with("  t: {function: f, aggregation_type: {template: median, settings: {x: 1}}}"),
            "tasks.t.aggregation_type.settings: aggregation function 'median' has no setting 'x'; it takes none",
        ),
        (_with("collaborator: {settings: {delta_updates: 1}}") + "\n", "delta_updates: expected true or false, got 1"),
    ],
)
def test_a_plan_that_cannot_work_says_where_and_why(text: str, message: str) -> None:
    plan = Plan.parse(text)

    with pytest.raises(ConfigurationError, match=re.escape(message)):
        _derive(plan)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("no class", "expected a class path such as"),
        ("openfl.federated.Nothing", "unknown task runner of OpenFL 'openfl.federated.Nothing'; known are"),
    ],
)
def test_a_task_runner_that_names_no_class(template: str, message: str) -> None:
    plan = Plan.parse(_with(f"task_runner: {{template: {template}}}"))

    with pytest.raises(ConfigurationError, match=message):
        plan.task_runner  # noqa: B018


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin.yaml").write_bytes(b"a: \xff")

    with pytest.raises(ConfigurationError, match="cannot be read: No such file"):
        Plan.load(tmp_path / "plan.yaml")
    with pytest.raises(ConfigurationError, match="expected UTF-8 text, got byte 0xff at 3"):
        Plan.load(tmp_path / "latin.yaml")


def test_bytes_are_utf_8() -> None:
    assert Plan.parse(MINIMAL_PLAN.encode()).hash == Plan.parse(MINIMAL_PLAN).hash
    with pytest.raises(ConfigurationError, match=r"plan\.yaml: expected UTF-8 text, got byte 0x80 at 1"):
        Plan.parse(b"a\x80")


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet="ab:{}[]&*!-?|> \n'\"0.", max_size=60))
def test_no_text_makes_anything_but_a_configuration_error(text: str) -> None:
    with pytest.raises(ConfigurationError):
        Plan.parse(text)


_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8) | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=5), _values, max_size=3))
def test_a_rewritten_plan_keeps_its_uuids_through_text(values: dict[str, object]) -> None:
    plan = Plan.parse(MINIMAL_PLAN)
    plan.data_loader  # noqa: B018  # reading changes nothing
    document = plan._document.with_data({**plan._document.data, "data_loader": {"settings": values}})
    served = Plan(document, name="plan.yaml").rewritten(hash_salt="x")

    assert Plan.parse(served.dump()).hash == served.hash


def test_rules_of_uploads_and_durability_are_settings_that_openfl_passes_over() -> None:
    def config(own: str, **more: Any) -> AggregatorConfig:
        text = INTERACTIVE_PLAN.replace("{db_store_rounds: 2,", "{" + own + " db_store_rounds: 2,")
        return Plan.parse(text).aggregator_config(collaborators=["one"], tasks=default_tasks(), **more)

    assert config("").uploads == UploadRules()
    assert config("").durability == "process"
    own = config("durability: power, max_share: 0.5, max_update_norm: 10, max_data_size: 7, max_value: 100.5,")
    assert own.durability == "power"
    assert own.uploads == UploadRules(max_share=0.5, max_update_norm=10, max_data_size=7, max_value=100.5)
    of_operator = config("max_share: 0.5,", uploads=UploadRules(max_data_size=9), durability="power")
    assert of_operator.uploads == UploadRules(max_share=0.5, max_data_size=9)
    assert of_operator.durability == "power"
    for wrong, sentence in (
        ("max_share: 2,", "aggregator.settings.max_share: expected a number above 0 and at most 1, got 2"),
        ("max_update_norm: 0,", "expected a number above 0, got 0"),
        ("max_data_size: 0,", "max_data_size: expected a whole number"),
        ("durability: perhaps,", "expected one of process, power, memory, got 'perhaps'"),
    ):
        with pytest.raises(ConfigurationError, match=re.escape(sentence)):
            config(wrong)
