"""Federations without a director: our aggregator and the real one, our collaborators and real ones, in every mixture."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path

import numpy as np
import pytest

from openfl_aio.plan.templates import AGGREGATIONS, ASSIGNERS, STRAGGLER_POLICIES
from tests.interop_openfl.federations import (
    Federation,
    Kind,
    MakeFederation,
    Outline,
    assert_same_model,
    expected_model,
)
from tests.interop_openfl.processes import Programs, expected_tensors, tensors

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(240),
    pytest.mark.cell(server="our aggregator", client="real collaborators"),
]

full = pytest.mark.full
ALL_REAL: dict[str, Kind] = {"one": "real", "two": "real"}
ALL_OURS: dict[str, Kind] = {"one": "ours", "two": "ours"}
MIXED: dict[str, Kind] = {"one": "real", "two": "ours"}
# every mixture of transport and updates; a bounded run has the first and the last
SETTINGS = pytest.mark.parametrize(
    ("tls", "delta_updates"),
    [
        pytest.param(False, False, id="plaintext-whole"),
        pytest.param(False, True, id="plaintext-deltas", marks=full),
        pytest.param(True, False, id="mtls-whole", marks=full),
        pytest.param(True, True, id="mtls-deltas"),
    ],
)


@SETTINGS
@pytest.mark.cell(must="the model of arithmetic, with and without deltas")
def test_real_collaborators_with_our_aggregator(
    federation: MakeFederation, programs: Programs, tls: bool, delta_updates: bool
) -> None:
    ours = federation(Outline(rounds=3, tls=tls, delta_updates=delta_updates))
    programs.traced = True
    serving = ours.run("ours", ALL_REAL)
    assert_same_model(ours.model(), expected_model(ours))
    assert tensors(serving) == expected_tensors(ALL_REAL, 3, deltas=delta_updates)


@SETTINGS
@full
@pytest.mark.cell(
    server="real aggregator", client="our collaborators", must="the model of arithmetic, with and without deltas"
)
def test_our_collaborators_with_the_real_aggregator(
    federation: MakeFederation, programs: Programs, tls: bool, delta_updates: bool
) -> None:
    theirs = federation(Outline(tls=tls, delta_updates=delta_updates))
    programs.traced = True
    serving = theirs.run("real", ALL_OURS)
    assert_same_model(theirs.model(), expected_model(theirs))
    assert tensors(serving) == expected_tensors(ALL_OURS, 2, deltas=delta_updates)


@pytest.mark.parametrize(
    ("aggregator", "collaborators"),
    [
        pytest.param("ours", MIXED, id="ours"),
        pytest.param("real", MIXED, id="real", marks=full),
        pytest.param("ours", {"one": "real", "two": "adopted"}, id="with a workspace as it is"),
        pytest.param("real", {"one": "adopted", "two": "adopted"}, id="real, with workspaces as they are", marks=full),
        pytest.param("real", ALL_REAL, id="all real", marks=full),
    ],
)
@pytest.mark.cell(
    server="{aggregator} aggregator", client="{collaborators} collaborators", must="the model of an all-real federation"
)
def test_a_mixed_federation_has_the_model_of_an_all_real_one(
    federation: MakeFederation, aggregator: Kind, collaborators: dict[str, Kind]
) -> None:
    mixed = federation(Outline(delta_updates=True, shapes={"scalar": (), "matrix": (20, 30), "one": (1,)}))
    mixed.run(aggregator, collaborators)
    # that the all-real one has this model too is what the last case says
    assert_same_model(mixed.model(), expected_model(mixed))


@pytest.mark.parametrize("kind", ["real", pytest.param("ours", marks=full)])
@pytest.mark.parametrize("aggregator", ["ours", pytest.param("real", marks=full)])
@pytest.mark.cell(
    server="{aggregator} aggregator", client="{kind} collaborators", must="one killed in mid-round and started again"
)
def test_a_collaborator_that_is_killed_in_mid_round_and_started_again(
    federation: MakeFederation, aggregator: Kind, kind: Kind
) -> None:
    broken = federation(Outline(seconds=1.5, delta_updates=True))
    serving = broken.aggregator(aggregator)
    one, two = broken.collaborator("one", kind), broken.collaborator("two", kind)
    two.hear("training in round 1", seconds=60)
    two.kill()
    again = broken.collaborator("two", kind)
    for program in (one, again, serving):
        program.succeed()
    assert_same_model(broken.model(), expected_model(broken))


@pytest.mark.parametrize(("aggregator", "kind"), [("ours", "real"), pytest.param("real", "ours", marks=full)])
@pytest.mark.cell(server="{aggregator} aggregator", client="{kind} collaborators", must="started before the server")
def test_collaborators_that_are_started_before_the_aggregator(
    federation: MakeFederation, aggregator: Kind, kind: Kind
) -> None:
    late = federation(Outline())
    members = [late.collaborator(name, kind) for name in ("one", "two")]
    for member in members:
        member.hear("Waiting for tasks" if kind == "real" else "works for the aggregator")
    for program in (*members, late.aggregator(aggregator)):
        program.succeed()
    assert_same_model(late.model(), expected_model(late))


@pytest.mark.parametrize(
    "members",
    [ALL_REAL, pytest.param({"one": "real", "two": "ours"}, marks=full), {"one": "real", "two": "adopted"}],
    ids=lambda members: "+".join(members.values()),
)
@pytest.mark.cell(client="{members} collaborators", must="a loss that is NaN changes no model")
def test_a_loss_that_is_nan_at_one_site_in_one_round(federation: MakeFederation, members: dict[str, Kind]) -> None:
    """It is told as it came, and neither the model nor the end of the federation depends on it."""
    ours = federation(Outline(rounds=3, runner={"lost": ["two", 1]}))
    ours.run("ours", members)
    assert_same_model(ours.model(), expected_model(ours))


@full
@pytest.mark.cell(server="real aggregator", must="a loss that is NaN changes no model")
def test_the_real_aggregator_makes_the_same_model_where_a_loss_is_nan(federation: MakeFederation) -> None:
    theirs = federation(Outline(rounds=3, runner={"lost": ["two", 1]}))
    theirs.run("real", ALL_REAL)
    assert_same_model(theirs.model(), expected_model(theirs))


@full
@pytest.mark.cell(client="real + our collaborators", link="mTLS", must="one certificate for all")
def test_one_certificate_for_all_collaborators(federation: MakeFederation, ca_folder: Path) -> None:
    """Real collaborators are ready for it, the real aggregator of 1.6 is not: its constructor fails."""
    name = "three"
    shared = Outline(
        tls=True, aggregator={"single_col_cert_common_name": name}, network={"single_col_cert_common_name": name}
    )
    ours = federation(shared)
    for member, kind in MIXED.items():
        client = ours.workspace(member, kind) / "cert" / "client"
        for suffix in ("crt", "key"):
            (client / f"col_{member}.{suffix}").unlink()
            shutil.copy(client / f"col_{name}.{suffix}", client / f"col_{member}.{suffix}")
    ours.run("ours", MIXED)
    assert_same_model(ours.model(), expected_model(ours))
    theirs = federation(shared).aggregator("real")
    assert theirs.wait() != 0
    assert "has no attribute 'logger'" in theirs.said()


@full
@pytest.mark.parametrize(
    "pipeline", ["RandomShiftPipeline", "KCPipeline", "SKCPipeline", "STCPipeline", "EdenPipeline"]
)
@pytest.mark.cell(
    server="our and real aggregator",
    client="real, our, and real + our collaborators",
    must="each pipeline loses no more than at the real one",
)
def test_each_pipeline(federation: MakeFederation, programs: Programs, pipeline: str) -> None:
    """What a pipeline loses differs from run to run where it draws at random: ours may lose no more than the real ones.

    But for our collaborators at the real aggregator, which compress what they send in both rounds, and not in one.
    """
    outline = Outline(delta_updates=True, pipeline=f"openfl.pipelines.{pipeline}")
    programs.traced = True
    mixtures: list[tuple[Kind, dict[str, Kind]]]
    mixtures = [("real", ALL_REAL), ("ours", ALL_REAL), ("ours", MIXED), ("real", ALL_OURS)]
    # all at once, since the real aggregator lets everybody wait most of the time
    played = [
        (members, made, made.start(kind, members)) for kind, members in mixtures for made in [federation(outline)]
    ]
    for members, _, started in played:
        for program in started:
            program.succeed()
        assert tensors(started[0]) == expected_tensors(members, 2, lossy=pipeline != "RandomShiftPipeline")
    theirs, *others, all_ours = [lost(made) for _, made, _ in played]
    assert max(others) <= 1.25 * theirs + 1e-6, [theirs, *others]
    assert all_ours <= 2 * theirs + 1e-6, [theirs, all_ours]


@pytest.mark.parametrize(
    ("aggregator", "collaborators"),
    [
        pytest.param("ours", MIXED, id="ours"),
        pytest.param("real", MIXED, id="real", marks=full),
    ],
)
@pytest.mark.parametrize("delta_updates", [False, pytest.param(True, marks=full)], ids=["whole", "deltas"])
@pytest.mark.cell(
    server="{aggregator} aggregator", client="real + our collaborators", must="a shift for each of 78,400 elements"
)
def test_a_shift_for_each_element_of_a_layer(
    federation: MakeFederation, aggregator: Kind, collaborators: dict[str, Kind], delta_updates: bool
) -> None:
    """RandomShift sends a table with an entry for each element, of which 1.6 knows no bound: the first layer of an MNIST."""
    shapes = {"layer.weight": (784, 100), "layer.bias": (100,)}
    tried = federation(
        Outline(pipeline="openfl.pipelines.RandomShiftPipeline", delta_updates=delta_updates, shapes=shapes)
    )
    tried.run(aggregator, collaborators)
    assert_same_model(tried.model(), expected_model(tried), within=1e-5)


def lost(federation: Federation) -> float:
    """How far the last model is from the one without compression, relative to the way that was gone."""
    began, expected, got = federation.model("init"), expected_model(federation), federation.model()
    way = sum(float(np.abs(expected[name] - began[name]).sum()) for name in expected)
    return sum(float(np.abs(expected[name] - got[name]).sum()) for name in expected) / way


@pytest.mark.cell(
    server="{aggregator} aggregator", client="{members} collaborators", must="{policy} leaves a slow one out"
)
@pytest.mark.parametrize(
    ("aggregator", "policy", "settings"),
    [
        pytest.param("ours", "cutoff", {"straggler_cutoff_time": 3}, id="cutoff, ours"),
        pytest.param("ours", "percentage", {"percent_collaborators_needed": 0.5}, id="share, ours", marks=full),
        pytest.param("real", "cutoff", {"straggler_cutoff_time": 3}, id="cutoff, real", marks=full),
        pytest.param("real", "percentage", {"percent_collaborators_needed": 0.5}, id="share, real", marks=full),
    ],
)
@pytest.mark.parametrize("members", [ALL_REAL, pytest.param(MIXED, marks=full)], ids=["real", "mixed"])
def test_a_collaborator_that_is_too_slow_for_every_round(
    federation: MakeFederation, aggregator: Kind, policy: str, settings: dict[str, float], members: dict[str, Kind]
) -> None:
    """The rounds go on without it: what it sends late counts in none, and it is told to quit with the others."""
    section = {"template": STRAGGLER_POLICIES.template_of(policy), "settings": settings}
    left = federation(Outline(delta_updates=True, stragglers=section, runner={"slow": ["two", 20.0]}))
    left.run(aggregator, members)
    assert_same_model(left.model(), expected_model(left, trained_by=["one"]))


@pytest.mark.cell(server="{aggregator} aggregator", client="{members} collaborators", must="static groups")
@pytest.mark.parametrize(
    ("aggregator", "members"),
    [
        pytest.param("ours", ALL_REAL, id="real with ours"),
        pytest.param("ours", {"two": "real", "one": "ours"}, id="mixed with ours", marks=full),
        pytest.param("real", ALL_REAL, id="all real", marks=full),
        pytest.param("real", ALL_OURS, id="ours with the real one", marks=full),
    ],
)
def test_static_groups_of_which_one_only_judges(
    federation: MakeFederation, aggregator: Kind, members: dict[str, Kind]
) -> None:
    judging = ["aggregated_model_validation"]
    groups = [
        {"name": "trainers", "collaborators": ["one"], "tasks": [*judging, "train", "locally_tuned_model_validation"]},
        {"name": "judges", "collaborators": ["two"], "tasks": judging},
    ]
    section = {"template": ASSIGNERS.template_of("static_grouped"), "settings": {"task_groups": groups}}
    grouped = federation(Outline(rounds=3, delta_updates=True, assigner=section))
    grouped.run(aggregator, members)
    assert_same_model(grouped.model(), expected_model(grouped, trained_by=["one"]))


@pytest.mark.cell(server="{aggregator} aggregator", client="{members} collaborators", must="begins at a later round")
@pytest.mark.parametrize("delta_updates", [True, pytest.param(False, marks=full)], ids=["deltas", "whole"])
@pytest.mark.parametrize(
    ("aggregator", "members"),
    [
        pytest.param("ours", ALL_REAL, id="real with ours"),
        pytest.param("ours", MIXED, id="mixed with ours", marks=full),
        pytest.param("real", ALL_REAL, id="all real", marks=full),
        pytest.param("real", ALL_OURS, id="ours with the real one", marks=full),
    ],
)
def test_an_initial_model_of_a_later_round_is_where_the_rounds_begin(
    federation: MakeFederation, aggregator: Kind, members: dict[str, Kind], delta_updates: bool
) -> None:
    resumed = federation(Outline(rounds=5, delta_updates=delta_updates))
    resumed.begin_with(resumed.load("init", "initial").tensors, round_number=3)
    serving = resumed.aggregator(aggregator)
    started = [resumed.collaborator(name, kind) for name, kind in members.items()]
    for program in started:
        said = program.succeed()
        assert [f"training in round {number}" in said for number in range(6)] == [
            False,
            False,
            False,
            True,
            True,
            False,
        ]
    serving.succeed()
    assert_same_model(resumed.model(), expected_model(resumed, rounds=2))


@pytest.mark.cell(
    server="{first}, then {second} aggregator", client="real + our collaborators", must="goes on from a model file"
)
@full
@pytest.mark.parametrize(("first", "second"), [("real", "ours"), ("ours", "real")])
def test_the_last_model_of_one_is_the_initial_one_of_the_other(
    federation: MakeFederation, first: Kind, second: Kind
) -> None:
    """Two rounds at the one aggregator and two at the other make the model of four."""
    began, went_on = (
        federation(Outline(rounds=2, delta_updates=True)),
        federation(Outline(rounds=4, delta_updates=True)),
    )
    began.run(first, MIXED)
    went_on.begin_where_ended(began)
    went_on.run(second, MIXED)
    assert_same_model(went_on.model(), expected_model(began, rounds=4))


@pytest.mark.cell(server="{aggregator} aggregator", must="nothing to do after the last round")
@full
@pytest.mark.parametrize("aggregator", ["ours", "real"])
def test_an_initial_model_after_the_last_round_leaves_nothing_to_do(
    federation: MakeFederation, aggregator: Kind
) -> None:
    over = federation(Outline(rounds=2))
    over.begin_with(over.load("init", "initial").tensors, round_number=2)
    serving = over.aggregator(aggregator)
    for program in [over.collaborator(name, "real") for name in ALL_REAL]:
        assert "training in round" not in program.succeed()
    serving.succeed()


@pytest.mark.cell(client="real + our collaborators", must="Krum in a plan")
@full
def test_real_collaborators_of_a_federation_with_krum(federation: MakeFederation) -> None:
    """Only the aggregator needs to know the function: OpenFL's collaborators pass over what a task says of it."""
    section = {"template": AGGREGATIONS.template_of("krum"), "settings": {"byzantine": 0}}
    data = {"one": 1, "two": 2, "three": 3}
    chosen = federation(Outline(rounds=1, data=data, aggregation=section))
    chosen.run("ours", {"one": "real", "two": "ours", "three": "real"})
    models = {name: expected_model(chosen, trained_by=[name]) for name in data}
    distances = {
        frozenset(pair): sum(
            float(np.square(models[pair[0]][name] - models[pair[1]][name]).sum()) for name in models["one"]
        )
        for pair in itertools.combinations(data, 2)
    }
    nearest = min(distances, key=distances.__getitem__)
    got = chosen.model()
    assert any(np.allclose(got["matrix"], models[name]["matrix"], rtol=0, atol=1e-5) for name in nearest)
