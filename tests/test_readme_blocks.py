"""What the README says a federation can use is what plans and code take, and all of it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from openfl_aio.aggregator.assigner import make_assigner
from openfl_aio.aggregator.stragglers import make_straggler_policy
from openfl_aio.collaborator.frameworks.model import ModelTaskRunner
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.plan import Plan
from openfl_aio.plan.templates import AGGREGATIONS, ASSIGNERS, PIPELINES, STRAGGLER_POLICIES, Family
from openfl_aio.tensors.aggregation import KNOWN_AGGREGATIONS, get_aggregation
from openfl_aio.tensors.pipelines import KNOWN_PIPELINES, get_pipeline

ROOT = Path(__file__).parent.parent
SECTION = (ROOT / "README.md").read_text(encoding="utf-8").split("## What a federation can use\n")[1].split("\n## ")[0]


def rows(heading: str) -> list[list[str]]:
    """Return the cells of each row of the table whose first column is headed so."""
    table = SECTION.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


def quoted(cell: str) -> list[str]:
    """Return what stands between backquotes."""
    return cell.split("`")[1::2]


AGGREGATION_ROWS = rows("`aggregation_type` of a task")
PIPELINE_ROWS = rows("`compression_pipeline`")
ASSIGNER_ROWS = rows("`assigner`")
STRAGGLER_ROWS = rows("`straggler_handling_policy`")
TREATMENT_ROWS = rows("`opt_treatment` of the collaborator")
FRAMEWORK_ROWS = rows("framework")


def names(table: list[list[str]]) -> list[tuple[str, str]]:
    """Return every name with the short one that it stands for, which is a name too."""
    pairs = [(quoted(path)[0], quoted(short)[0]) for path, short, *_ in table]
    return pairs + [(code, code) for _, code in pairs]


def load(folder: Path, **sections: Any) -> Plan:
    """Write the plan of the example with other sections, and load it."""
    plan = yaml.safe_load(EXAMPLE) | sections
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan), encoding="utf-8")
    return Plan.load(path)


EXAMPLE = SECTION.split("```yaml\n")[1].split("```")[0]
SEVEN = tuple(f"site{number}" for number in range(7))
TRAIN = {"function": "train_task", "kwargs": {}}


@pytest.mark.parametrize(("name", "code"), names(AGGREGATION_ROWS))
def test_aggregation_functions(tmp_path: Path, name: str, code: str) -> None:
    tasks = {"train": {**TRAIN, "aggregation_type": {"template": name}}}
    assigner = {"settings": {"task_groups": [{"name": "all", "percentage": 1.0, "tasks": ["train"]}]}}
    config = load(tmp_path, tasks=tasks, assigner=assigner).aggregator_config(collaborators=SEVEN)
    assert config.task_aggregation == {"train": code}
    assert get_aggregation(config.task_aggregation["train"]).name == code


@pytest.mark.parametrize(("name", "code"), names(PIPELINE_ROWS))
def test_pipelines(tmp_path: Path, name: str, code: str) -> None:
    pipeline = load(tmp_path, compression_pipeline={"template": name}).pipeline
    assert pipeline == code
    assert get_pipeline(pipeline).name == code


@pytest.mark.parametrize(("name", "code"), names(ASSIGNER_ROWS))
def test_assigners(tmp_path: Path, name: str, code: str) -> None:
    share = {"percentage": 1.0} if code == "random_grouped" else {"collaborators": list(SEVEN)}
    group = {"name": "all", "tasks": ["train"], **share}
    plan = load(tmp_path, assigner={"template": name, "settings": {"task_groups": [group]}})
    config = plan.aggregator_config(collaborators=SEVEN)
    assert config.assigner.kind == code
    assert [task.name for task in make_assigner(config).tasks("site3", 1)] == ["train"]


@pytest.mark.parametrize(("name", "code"), names(STRAGGLER_ROWS))
def test_straggler_policies(tmp_path: Path, name: str, code: str) -> None:
    settings: dict[str, dict[str, float]] = {
        "cutoff": {"straggler_cutoff_time": 60, "minimum_reporting": 2},
        "percentage": {"percent_collaborators_needed": 0.5, "minimum_reporting": 2},
        "wait_for_all": {},
    }
    config = load(tmp_path, straggler_handling_policy={"template": name, "settings": settings[code]}).stragglers
    assert config.kind == code
    assert not make_straggler_policy(config).closes({"one"}, {"one", "two"}, 0.0, 99.0)


@pytest.mark.parametrize(("treatment", "state"), [(quoted(row[0])[0], quoted(row[1])[0]) for row in TREATMENT_ROWS])
def test_optimizer_treatments(tmp_path: Path, treatment: str, state: str) -> None:
    assert load(tmp_path, collaborator={"settings": {"opt_treatment": treatment}}).opt_treatment == treatment
    runner = type("Runner", (ModelTaskRunner,), dict.fromkeys(ModelTaskRunner.__abstractmethods__))()
    runner.set_optimizer_treatment(treatment)
    assert runner.optimizer_state == state


def test_another_optimizer_treatment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match="opt_treatment: expected one of RESET, CONTINUE_LOCAL, CONTINUE_GLOBAL"
    ):
        load(tmp_path, collaborator={"settings": {"opt_treatment": "FORGET"}})


@pytest.mark.parametrize(
    ("table", "family"),
    [
        (AGGREGATION_ROWS, AGGREGATIONS),
        (PIPELINE_ROWS, PIPELINES),
        (ASSIGNER_ROWS, ASSIGNERS),
        (STRAGGLER_ROWS, STRAGGLER_POLICIES),
    ],
    ids=["aggregation", "pipelines", "assigners", "stragglers"],
)
def test_nothing_is_left_out(table: list[list[str]], family: Family) -> None:
    assert {code for _, code in names(table)} == set(family.names)


@pytest.mark.parametrize("table", [AGGREGATION_ROWS, PIPELINE_ROWS], ids=["aggregation", "pipelines"])
def test_the_settings_of_a_table_are_taken(table: list[list[str]]) -> None:
    known: dict[str, Any] = {**KNOWN_AGGREGATIONS, **KNOWN_PIPELINES}
    for _, short, said in table:
        (code,) = quoted(short)
        parameters = set(inspect.signature(known[code]).parameters)
        named = {word for word in quoted(said) if word.islower() and not word.startswith("_") and word not in known}
        assert named <= parameters, code


def test_frameworks_and_their_extras() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    for _, extra, base in FRAMEWORK_ROWS:
        assert set(quoted(extra)) <= set(extras)
        module, _, name = quoted(base)[0].rpartition(".")
        spec = importlib.util.find_spec(module)  # the framework itself need not be installed
        assert spec is not None
        assert spec.origin is not None
        tree = ast.parse(Path(spec.origin).read_text(encoding="utf-8"))
        assert name in {node.name for node in tree.body if isinstance(node, ast.ClassDef)}


def test_the_example_names_krum(tmp_path: Path) -> None:
    path = tmp_path / "plan.yaml"
    path.write_text(EXAMPLE, encoding="utf-8")
    config = Plan.load(path).aggregator_config(collaborators=SEVEN)
    assert config.task_aggregation == {"train": "krum:byzantine=2"}
    assert get_aggregation("krum:byzantine=2").least == len(SEVEN)
    assert sorted(task.name for task in config.tasks) == [
        "aggregated_model_validation",
        "locally_tuned_model_validation",
        "train",
    ]
