"""A federation of OpenFL 1.6 moves: first its director, and nobody else is touched, then one envoy after the other; and back."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop_openfl.federations import assert_same_model
from tests.interop_openfl.interactive_sites import Site, expected_model
from tests.interop_openfl.processes import Programs

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(400),
    pytest.mark.cell(
        server="director moved: real, our, real",
        client="envoys moved: real to our",
        must="the same model after each step",
    ),
]


def trains(site: Site) -> None:
    outcome = site.outcome(site.submit("--rounds", "2"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(2))


@pytest.mark.full
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "mtls"])
def test_a_federation_moves_step_by_step_and_its_model_stays_the_same(
    programs: Programs, tmp_path: Path, ca_folder: Path, tls: bool
) -> None:
    site = Site(programs, tmp_path, cert=ca_folder if tls else None)
    director = site.director("real")
    envoys = {name: site.envoy(name, "real") for name in ("one", "two")}
    trains(site)
    director.kill()
    moved = site.director("ours")
    trains(site)
    for name, envoy in envoys.items():
        envoy.stop()
        site.envoy(name, "ours")
        trains(site)
    moved.kill()
    site.director("real")  # it has never heard of our envoys
    trains(site)


@pytest.mark.cell(server="director moved: real, our", link="mTLS")
def test_envoys_that_wait_at_the_real_director_work_for_ours_and_move(
    programs: Programs, tmp_path: Path, ca_folder: Path
) -> None:
    """The first steps of the same way over mutual TLS: an experiment at the real director alone takes 40 seconds."""
    site = Site(programs, tmp_path, cert=ca_folder)
    director = site.director("real")
    envoys = {name: site.envoy(name, "real") for name in ("one", "two")}
    for envoy in envoys.values():
        envoy.hear("Shard was accepted by director")
    director.kill()
    site.director("ours")
    trains(site)
    envoys["one"].stop()
    site.envoy("one", "ours")
    trains(site)
