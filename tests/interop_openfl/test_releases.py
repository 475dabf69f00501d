"""Collaborators of other releases of OpenFL with our aggregator, and ours with theirs."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.plan import Plan
from tests.interop_openfl.federations import Kind, MakeFederation, Outline, assert_same_model, expected_model
from tests.interop_openfl.interactive_sites import Site
from tests.interop_openfl.interactive_sites import expected_model as interactive_model
from tests.interop_openfl.processes import Programs, installed_python, peer_python

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(240),
    pytest.mark.cell(server="our aggregator", client="real collaborators"),
]

OTHERS = ("1.5.1", "1.7.1", "1.8", "1.9")
others = pytest.mark.parametrize("release", OTHERS)
full = pytest.mark.full
BOUNDED = ("1.7.1", "1.9")
"""A bounded run has each of these once; `noxfile.py` installs no others for it."""


@pytest.mark.parametrize(
    ("release", "tls", "delta_updates"),
    [
        pytest.param(
            release,
            tls,
            deltas,
            id=f"{'mtls-deltas' if tls else 'plaintext-whole'}-{release}",
            marks=() if release in BOUNDED and not tls else full,
        )
        for tls, deltas in ((False, False), (True, True))
        for release in OTHERS
    ],
)
@pytest.mark.cell(must="the model of arithmetic, with and without deltas")
def test_collaborators_of_a_release_with_our_aggregator(
    federation: MakeFederation, release: str, tls: bool, delta_updates: bool
) -> None:
    ours = federation(Outline(rounds=3, tls=tls, delta_updates=delta_updates, release=release))
    ours.run("ours", {"one": "real", "two": "real"})
    assert_same_model(ours.model(), expected_model(ours))


@full
@others
@pytest.mark.cell(server="real aggregator", client="real + our collaborators", must="the model of arithmetic")
def test_our_collaborator_beside_one_of_a_release_with_its_aggregator(federation: MakeFederation, release: str) -> None:
    theirs = federation(Outline(rounds=3, release=release, delta_updates=True))
    members: dict[str, Kind] = {"one": "real", "two": "ours"}
    theirs.run("real", members)
    # from 1.7 on the file of the last model has that of the round before, by its number and its values
    saved = theirs.load()
    assert saved.round_number in (theirs.outline.rounds, theirs.outline.rounds - 1)
    assert_same_model(saved.tensors, expected_model(theirs, rounds=saved.round_number))


@full
@pytest.mark.cell(client="real + our collaborators", release="all", link="mTLS", must="all releases in one federation")
def test_collaborators_of_all_releases_in_one_federation(federation: MakeFederation) -> None:
    """The same plan is another federation to each of them; our aggregator goes by all its names."""
    releases = [release for release in ("1.6", *OTHERS) if installed_python(release)]
    if len(releases) < 2:
        pytest.skip("only one release of OpenFL is installed")
    data = {f"at_{release.replace('.', '_')}": number for number, release in enumerate(releases, 1)}
    # what the keys of all releases say alike: encryption is on by default
    mixed = federation(Outline(data={**data, "ours": len(data) + 1}, tls=True, neutral=True))
    serving = mixed.aggregator("ours")
    members = [mixed.collaborator(name, "real", release=release) for name, release in zip(data, releases, strict=True)]
    for program in (*members, mixed.collaborator("ours", "ours"), serving):
        program.succeed()
    assert_same_model(mixed.model(), expected_model(mixed))


@pytest.mark.parametrize("release", [pytest.param("1.5.1", marks=full), "1.7.1"])
@pytest.mark.parametrize("tls", [pytest.param(False, marks=full, id="plaintext"), pytest.param(True, id="mtls")])
@pytest.mark.cell(
    server="our director", client="real envoys and frontend", must="finished, with the model of arithmetic"
)
def test_envoys_and_frontend_of_a_release_with_our_director(
    programs: Programs, tmp_path: Path, ca_folder: Path, release: str, tls: bool
) -> None:
    site = Site(programs, tmp_path, cert=ca_folder if tls else None, release=release)
    site.director("ours")
    for name in ("one", "two"):
        site.envoy(name, "real")
    outcome = site.outcome(site.submit("--rounds", "2", "--deltas"))
    assert (outcome.status, outcome.metrics > 0) == ("finished", True)
    assert_same_model(outcome.model, interactive_model(2))


@full
@pytest.mark.parametrize("release", ["1.5.1", "1.7.1"])
@pytest.mark.cell(
    server="our director", client="our envoys, real frontend", must="finished, with the model of arithmetic"
)
def test_our_envoys_run_archives_of_a_release(programs: Programs, tmp_path: Path, release: str) -> None:
    site = Site(programs, tmp_path, release=release)
    site.director("ours")
    for name in ("one", "two"):
        site.envoy(name, "ours")
    outcome = site.outcome(site.submit("--rounds", "2", "--deltas"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, interactive_model(2))


def refusal(data: dict[str, Any]) -> str:
    """Return what is said to a plan that is not served here; nothing if it is."""
    if "connector" in data:
        return "other frameworks cannot be run inside a federation here"
    if "federated_flow" in data:
        return "workflow API is not served here"
    if data["aggregator"]["settings"].get("rounds_to_train") == 0:
        return "expected a whole number of at least 1, got 0"
    tasks = data.get("tasks", {})
    if "tasks_xgb" in tasks.get("defaults", ""):
        return "FedBaggingXGBoost' of OpenFL is not available here"
    functions = [
        task.get("aggregation_type", {}).get("template", "openfl.") for task in tasks.values() if isinstance(task, dict)
    ]
    return "" if all(name.startswith("openfl.") for name in functions) else "imports no class that a plan names"


def said(path: Path, release: str) -> str:
    """Return what is said to the plan at ``path``; nothing if it can be served."""
    try:
        plan = Plan.load(path, release=release)
        plan.aggregator_config(collaborators=["one", "two"])
        plan.collaborator_config("one")
    except ConfigurationError as exc:
        return str(exc)
    return ""


@full
@pytest.mark.cell(
    server="our reading of plans",
    client="plans of all workspaces",
    must="read, or refused with the reason",
    link="none",
)
@pytest.mark.parametrize("release", ["1.6", *OTHERS])
def test_the_plans_of_all_workspaces_are_read_or_refused_as_the_readme_says(release: str) -> None:
    find = "import importlib.util; print(importlib.util.find_spec('openfl').origin)"
    found = subprocess.run([peer_python(release), "-c", find], check=True, capture_output=True, text=True).stdout
    paths = sorted((Path(found.strip()).parents[1] / "openfl-workspace").rglob("plan.yaml"))
    assert len(paths) > 10
    for path in paths:
        expected = refusal(yaml.safe_load(path.read_text()))
        error = said(path, release)
        assert (expected in error) if expected else not error, path
