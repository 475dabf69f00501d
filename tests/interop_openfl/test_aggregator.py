"""Federations without a director: our aggregator and the real one, our collaborators and real ones, in every mixture."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.interop_openfl.federations import Federation, Outline, assert_same_model, expected_model
from tests.interop_openfl.processes import Programs

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(180)]

MakeFederation = Callable[[Outline], Federation]
TRANSPORTS = pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "mtls"])
UPDATES = pytest.mark.parametrize("delta_updates", [False, True], ids=["whole", "deltas"])


@pytest.fixture
def federation(programs: Programs, tmp_path: Path, ca_folder: Path) -> MakeFederation:
    def make(outline: Outline) -> Federation:
        number = len(list(tmp_path.iterdir()))
        return Federation(programs, tmp_path / f"federation{number}", outline, cert=ca_folder)

    return make


@TRANSPORTS
@UPDATES
def test_real_collaborators_with_our_aggregator(federation: MakeFederation, tls: bool, delta_updates: bool) -> None:
    ours = federation(Outline(rounds=3, tls=tls, delta_updates=delta_updates))
    ours.run("ours", {"one": "real", "two": "real"})
    assert_same_model(ours.model(), expected_model(ours))


@TRANSPORTS
@UPDATES
def test_our_collaborators_with_the_real_aggregator(federation: MakeFederation, tls: bool, delta_updates: bool) -> None:
    theirs = federation(Outline(tls=tls, delta_updates=delta_updates))
    theirs.run("real", {"one": "ours", "two": "ours"})
    assert_same_model(theirs.model(), expected_model(theirs))
