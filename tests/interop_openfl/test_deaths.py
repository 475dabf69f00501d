"""Our aggregator and its collaborators, killed at moments that matter, end with the model of those that never were.

To the bit: two runs differ only in who died when.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Final

import pytest

from tests.interop_openfl.federations import Federation, Kind, MakeFederation, Outline
from tests.interop_openfl.processes import until

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(240),
    pytest.mark.cell(server="our aggregator", client="{kind} collaborators"),
]

full = pytest.mark.full
KINDS = pytest.mark.parametrize(
    ("kind", "tls"),
    [
        pytest.param("real", True, id="real-mtls"),
        pytest.param("real", False, id="real-plaintext", marks=full),
        pytest.param("ours", True, id="ours-mtls", marks=full),
        pytest.param("ours", False, id="ours-plaintext", marks=full),
    ],
)
LARGE: Final = {"large": (2**11, 2**12), "small": (10,)}
"""32 MiB, so that there is time to die while it is uploaded."""


def assert_as_if_nobody_died(federation: MakeFederation, killed: Federation) -> None:
    """Play the federation again without a death, and compare the models to the bit."""
    whole = federation(replace(killed.outline, tls=False, seconds=0.0, validating=0.0))
    whole.run("ours", dict.fromkeys(whole.outline.data, "ours"))
    for which in ("last", "best"):
        got, expected = killed.model(which), whole.model(which)
        assert sorted(got) == sorted(expected)
        assert [name for name in got if got[name].tobytes() != expected[name].tobytes()] == []


@KINDS
@pytest.mark.cell(must="a server killed while they train")
def test_an_aggregator_that_is_killed_while_its_collaborators_train(
    federation: MakeFederation, kind: Kind, tls: bool
) -> None:
    killed = federation(Outline(rounds=3, seconds=1.5, tls=tls))
    serving = killed.aggregator("ours")
    members = [killed.collaborator(name, kind) for name in killed.outline.data]
    members[0].hear("training in round 1", seconds=60)
    serving.kill()
    for program in (killed.aggregator("ours"), *members):
        program.succeed()
    assert_as_if_nobody_died(federation, killed)


@KINDS
@pytest.mark.cell(must="a server killed in an upload")
def test_an_aggregator_that_is_killed_while_an_upload_arrives(
    federation: MakeFederation, kind: Kind, tls: bool
) -> None:
    killed = federation(Outline(rounds=3, tls=tls, shapes=LARGE))
    serving = killed.aggregator("ours")
    members = [killed.collaborator(name, kind) for name in killed.outline.data]

    def arriving() -> list[int]:
        found = []
        for path in (killed.state / "journal").glob(".*.partial"):
            try:
                found.append(path.stat().st_size)
            except FileNotFoundError:
                continue  # it was whole and has a name now
        return [nbytes for nbytes in found if 0 < nbytes < 30 * 2**20]

    while True:
        until(arriving, serving, *members)
        serving.pause()
        if arriving():
            break
        serving.resume()  # it was over in the meantime: there are others
    serving.kill()
    for program in (killed.aggregator("ours"), *members):
        program.succeed()
    assert_as_if_nobody_died(federation, killed)


@full
@KINDS
@pytest.mark.cell(must="a server killed while they wait")
def test_an_aggregator_that_is_killed_while_all_wait_for_the_next_round(
    federation: MakeFederation, kind: Kind, tls: bool
) -> None:
    """All but one, which has not come yet: so they wait until it has."""
    killed = federation(Outline(tls=tls, data={"one": 1, "two": 2, "three": 3}))
    serving = killed.aggregator("ours")
    members = [killed.collaborator(name, kind) for name in ("one", "two")]

    def handed_in() -> bool:
        accepted = sum(log.read_text().count('"accept"') for log in killed.state.glob("federations/*/log"))
        return accepted == len(members) * 3

    until(handed_in, serving, *members)
    time.sleep(1)  # now they ask what is next
    serving.kill()
    again = killed.aggregator("ours")
    last = killed.collaborator("three", kind)
    for program in (again, last, *members):
        program.succeed()
    assert_as_if_nobody_died(federation, killed)


@pytest.mark.parametrize("kind", ["real", pytest.param("ours", marks=full)])
@pytest.mark.cell(must="one killed after its training")
def test_a_collaborator_that_is_killed_between_its_training_and_its_validation_of_that(
    federation: MakeFederation, kind: Kind
) -> None:
    """What it trained is lost with it, and was accepted: the first counts, and the round closes."""
    killed = federation(Outline(validating=2.0))
    serving = killed.aggregator("ours")
    one, two = (killed.collaborator(name, kind) for name in killed.outline.data)
    two.hear("validating locally in round 0")
    two.kill()
    again = killed.collaborator("two", kind)
    again.hear("training in round 0")
    for program in (one, again, serving):
        program.succeed()
    assert "results of two for train ignored: duplicate" in serving.said()
    assert_as_if_nobody_died(federation, killed)
