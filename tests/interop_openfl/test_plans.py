"""Our reading of plans, cols.yaml and data.yaml against OpenFL 1.6's own ``Plan.parse``, on the same files.

What a site may write there is drawn. Runs where ``openfl==1.6`` is installed too: ``nox -s interop_openfl``.
"""

from __future__ import annotations

import logging
import os
import string
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any, Final

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from openfl.federated import Plan as TheirPlan

from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.files import load_collaborators, load_data
from openfl_aio.plan.plan import Plan

Write = Callable[..., Path]

pytestmark = pytest.mark.cell(
    server="in one process", client="plans, cols.yaml and data.yaml", must="read as OpenFL reads them", link="none"
)

PLAN: Final[dict[str, Any]] = {
    "aggregator": {
        "defaults": "plan/defaults/aggregator.yaml",
        "template": "openfl.component.Aggregator",
        "settings": {
            "init_state_path": "save/init.pbuf",
            "best_state_path": "save/best.pbuf",
            "last_state_path": "save/last.pbuf",
            "rounds_to_train": 7,
        },
    },
    "collaborator": {
        "defaults": "plan/defaults/collaborator.yaml",
        "template": "openfl.component.Collaborator",
        "settings": {"delta_updates": False, "opt_treatment": "RESET"},
    },
    "data_loader": {
        "defaults": "plan/defaults/data_loader.yaml",
        "template": "src.dataloader.Digits",
        "settings": {"batch_size": 256},
    },
    "task_runner": {"defaults": "plan/defaults/task_runner.yaml", "template": "src.taskrunner.Net"},
    "network": {"defaults": "plan/defaults/network.yaml"},
    "assigner": {"defaults": "plan/defaults/assigner.yaml"},
    "tasks": {"defaults": "plan/defaults/tasks_torch.yaml"},
    "compression_pipeline": {"defaults": "plan/defaults/compression_pipeline.yaml"},
}
DEFAULT_TASKS = ("torch", "keras", "tensorflow", "fast_estimator")


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def written(text: str, name: str = "plan.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return written


@pytest.fixture(autouse=True)
def host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FQDN", "agg.example.org")
    monkeypatch.setattr(TheirPlan, "logger", logging.getLogger("quiet"))  # it prints each plan


def assert_same_plan(path: Path) -> None:
    theirs, ours = TheirPlan.parse(path), Plan.load(path, release="1.6")
    network = theirs.config["network"]["settings"]
    expected = (theirs.federation_uuid, theirs.aggregator_uuid, network["agg_addr"], int(network["agg_port"]))
    assert (ours.federation_uuid, ours.aggregator_uuid, ours.endpoint.host, ours.endpoint.port) == expected
    assert ours.rounds == theirs.rounds_to_train
    # what was merged, before `auto` was filled in
    assert Plan.parse(ours.dump(), release="1.6").dump() == yaml.dump(TheirPlan.parse(path, resolve=False).config)
    assert ours.hash == TheirPlan.parse(path, resolve=False).hash


@pytest.mark.parametrize("tasks", DEFAULT_TASKS)
def test_defaults(write: Write, tasks: str) -> None:
    assert_same_plan(write(yaml.safe_dump({**PLAN, "tasks": {"defaults": f"plan/defaults/tasks_{tasks}.yaml"}})))


@pytest.mark.parametrize("name", ["plan.yaml", "other plan.yml", "größe.yaml"])
def test_the_name_of_the_file(write: Write, name: str) -> None:
    assert_same_plan(write(yaml.safe_dump(PLAN), name))


@pytest.mark.parametrize(
    "network",
    [
        {},
        {"agg_addr": "director.example.org"},
        {"agg_addr": "auto", "agg_port": 5},
        {"agg_port": "auto", "hash_salt": "another"},
        {"agg_addr": "127.0.0.1", "agg_port": 60999, "tls": False},
        {"agg_addr": "auto", "agg_port": "auto", "client_reconnect_interval": 1.5},
        {"cert_folder": "cert", "disable_client_auth": True},
    ],
    ids=str,
)
def test_network_and_auto_values(write: Write, network: dict[str, Any]) -> None:
    plan = deepcopy(PLAN)
    plan["network"]["settings"] = network
    assert_same_plan(write(yaml.safe_dump(plan)))


def test_without_fqdn_the_host_is_the_resolvers(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FQDN")
    assert_same_plan(write(yaml.safe_dump(PLAN)))


@pytest.mark.parametrize(
    "settings_",
    [
        '{name: "Grüße 日本 \\t"}',
        '{umlaut: Größe, emoji: 🎉, zero width: "a\\u200bb", nel: "a\\x85b", bell: "\\a"}',
        "{x: 1.0e-7, y: 010, z: 0x1F, o: 0o17, b: 0b11, s: 1_000, sexagesimal: 1:30}",
        "{d: 2020-01-01, t: 2020-01-01 10:00:00, tz: 2020-01-01T10:00:00+02:00}",
        "{n: ~, m: null, e: , yes: yes, off: off, text: 'yes'}",
        "{f: .inf, g: -.inf, h: .nan, i: 1e3, j: 1.e+3, k: -0.0, l: 12345678901234567890123}",
        "{1: one, 2.5: two, true: three}",
        "{set: !!set {a, b}, bytes: !!binary aGVsbG8=, pairs: [a, [b, [c, {}]]], empty: [], nothing: {}}",
        f'{{long: \'{"word " * 60}\', blanks: \'  a  \', lines: "a\\nb\\n", quotes: "it\'s \\"so\\""}}',
        "{first: &shared [1, 2], second: *shared}",
        "{base: &base {a: 1, b: 2}, derived: {<<: *base, b: 3}}",
        "{twice: 1, twice: 2}",
    ],
)
def test_unusual_values(write: Write, settings_: str) -> None:
    plan = {name: section for name, section in PLAN.items() if name != "task_runner"}
    text = f"{yaml.safe_dump(plan)}task_runner:\n  template: src.taskrunner.Net\n  settings: {settings_}\n"
    assert_same_plan(write(text))


def test_comments_order_and_style_do_not_matter(write: Write) -> None:
    block = write(yaml.safe_dump(PLAN, sort_keys=False), "plan.yaml")
    assert_same_plan(block)
    uuid = Plan.load(block).federation_uuid
    flow = write("# ä comment\n" + yaml.safe_dump(dict(reversed(PLAN.items())), default_flow_style=True))
    assert_same_plan(flow)
    assert Plan.load(flow).federation_uuid == uuid


def test_a_section_may_be_nothing_but_settings(write: Write) -> None:
    plan = {**PLAN, "assigner": {"settings": None, "defaults": "plan/defaults/assigner.yaml"}}
    plan["tasks"] = {"defaults": "plan/defaults/tasks_torch.yaml", "settings": {}}
    assert_same_plan(write(yaml.safe_dump(plan)))


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(st.characters(codec="utf-8"), max_size=100)
    | st.dates()
    | st.datetimes()
    | st.binary(max_size=20)
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(st.dictionaries(st.text(string.ascii_letters, min_size=1, max_size=8), values, max_size=4), st.booleans())
def test_any_settings_of_a_users_class(write: Write, drawn: dict[str, Any], flow: bool) -> None:
    plan = deepcopy(PLAN)
    plan["data_loader"]["settings"] = drawn
    plan["task_runner"]["settings"] = drawn
    assert_same_plan(write(yaml.safe_dump(plan, default_flow_style=flow, allow_unicode=flow)))


# -- cols.yaml


def their_files(plan: Path, **paths: Path) -> Any:
    return TheirPlan.parse(plan, resolve=False, **paths)


@pytest.mark.parametrize(
    "text",
    [
        "collaborators:\n- one\n- two\n",
        "collaborators: [two, one]\n",
        "# comment\n\ncollaborators :\n\n  - one.example.org  # here\n  - 'two'\n",
        "collaborators: []\n",
        'collaborators:\n- col-1\n- col_2\n- "3"\n',
    ],
    ids=repr,
)
def test_cols_yaml(write: Write, text: str) -> None:
    plan, cols = write(yaml.safe_dump(PLAN)), write(text, "cols.yaml")
    assert list(load_collaborators(cols)) == their_files(plan, cols_config_path=cols).authorized_cols


# -- data.yaml


def data_of(write: Write, text: str) -> tuple[dict[str, str], dict[str, str]]:
    """What theirs and ours read from a data.yaml."""
    plan, path = write(yaml.safe_dump(PLAN)), write(text, "data.yaml")
    return their_files(plan, data_config_path=path).cols_data_paths, load_data(path)


@pytest.mark.parametrize(
    "text",
    [
        "one,data/one\ntwo,2\n",
        "one,data/one\r\ntwo,2\r\n",
        "# name,path\n\none,data/a, b\n\n#x,1\ntwo,3   \n",
        "one,/data/with blanks/in it\t\n",
        "one,1,2,3\n   \n\t\ntwo,größe\n",
        "one,a\x0cb\ntwo,a\x85b\nthree,a\u2028b\n",
        "one,\ntwo,1",
        "one,1",
        "",
    ],
    ids=repr,
)
def test_data_yaml(write: Write, text: str) -> None:
    theirs, ours = data_of(write, text)
    assert ours == theirs


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(
    st.dictionaries(
        st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,9}", fullmatch=True),
        st.text(st.characters(exclude_characters="\r\n", codec="utf-8"), min_size=1).filter(
            lambda path: path == path.strip()
        ),
        max_size=5,
    )
)
def test_any_data_paths(write: Write, paths: dict[str, str]) -> None:
    theirs, ours = data_of(write, "".join(f"{name},{path}\n" for name, path in paths.items()))
    assert ours == theirs == paths


@pytest.mark.parametrize("text", ["  two ,2\n", "\ttwo,2\n", "two\t,2\n"], ids=repr)
def test_blanks_around_a_name_are_not_the_collaborators(write: Write, text: str) -> None:
    """OpenFL keeps them, so that ``fx collaborator start -n two`` ends with a KeyError; no name can have them here."""
    theirs, ours = data_of(write, text)
    assert "two" not in theirs
    assert ours == {"two": "2"}


def test_blanks_before_a_path_are_not_the_paths(write: Write) -> None:
    """OpenFL hands them to the data loader, until ``fx collaborator create`` writes the file anew without them."""
    theirs, ours = data_of(write, "one, data/one\ntwo, 2\n")
    assert theirs == {"one": " data/one", "two": " 2"}
    assert ours == {"one": "data/one", "two": "2"}


@pytest.mark.parametrize("text", ["one\n", "one;1\n", " # a comment that is indented\n"], ids=repr)
def test_lines_without_a_comma(write: Write, text: str) -> None:
    """OpenFL's error says nothing of the line; a comment may be indented here."""
    plan, path = write(yaml.safe_dump(PLAN)), write(text, "data.yaml")
    with pytest.raises(ValueError, match="not enough values to unpack"):
        their_files(plan, data_config_path=path)
    if "#" in text:
        assert load_data(path) == {}
    else:
        with pytest.raises(ConfigurationError, match=r"data\.yaml, line 1: expected 'name,path'"):
            load_data(path)


def test_a_name_that_comes_twice(write: Write) -> None:
    """OpenFL takes the last without a word; here it is an error that names the line."""
    plan, path = write(yaml.safe_dump(PLAN)), write("one,1\none,2\n", "data.yaml")
    assert their_files(plan, data_config_path=path).cols_data_paths == {"one": "2"}
    with pytest.raises(ConfigurationError, match="line 2: expected each name once"):
        load_data(path)


def test_the_environment_is_asked_for_the_host(write: Write) -> None:
    path = write(yaml.safe_dump(PLAN))
    assert Plan.load(path).endpoint.host == os.environ["FQDN"] == "agg.example.org"
