"""A federation of OpenFL 1.6 moves: first its director, and nobody else is touched, then one envoy after the other, the
frontend last; and back. One without a director: first its aggregator, then one collaborator after the other.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from anyio import to_thread

from openfl_aio import experiment as frontend
from openfl_aio.config import TLSConfig
from openfl_aio.storage.keys import CertificateLayout
from tests.interop_openfl.federations import Kind as FederationKind
from tests.interop_openfl.federations import MakeFederation, Outline, assert_same_model
from tests.interop_openfl.federations import expected_model as federation_model
from tests.interop_openfl.interactive_sites import SOURCES, Site, expected_model
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
    anyio.run(our_frontend_trains, site.port, ca_folder if tls else None)
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


async def our_frontend_trains(port: int, cert: Path | None) -> None:
    """Do as `trains` with our frontend."""
    own = None if cert is None else CertificateLayout(cert).client("three")
    tls = None
    if cert is not None and own is not None:
        tls = TLSConfig(ca=CertificateLayout(cert).chain, certificate=own.certificate, private_key=own.private_key)
    workspace = SOURCES / "our_frontend"
    experiment = await to_thread.run_sync(
        lambda: frontend.Experiment(name="moved", workspace=workspace, task_runner="steps_task.Steps", rounds=2)
    )
    async with frontend.Federation("localhost", port, tls=tls, client_id="three") as federation:
        run = await federation.submit(experiment)
        await run.wait()
        assert_same_model(await run.last_model(), expected_model(2))


@pytest.mark.full
@pytest.mark.cell(
    server="aggregator moved: real, our, real", client="collaborators moved: real to our adopting", link="mTLS"
)
def test_a_federation_without_a_director_moves_step_by_step(federation: MakeFederation) -> None:
    """Each member in its workspace as it is, with all that OpenFL's left there; every step a federation from the start."""
    moving = federation(Outline(tls=True, delta_updates=True))
    steps: list[tuple[FederationKind, dict[str, FederationKind]]] = [
        ("real", {"one": "real", "two": "real"}),
        ("ours", {"one": "real", "two": "real"}),
        ("ours", {"one": "adopted", "two": "real"}),
        ("ours", {"one": "adopted", "two": "adopted"}),
        ("real", {"one": "adopted", "two": "adopted"}),
    ]
    for aggregator, members in steps:
        # ours lays a checksum beside it, which the real one knows nothing of when it writes the file anew
        for last in moving.workspace("aggregator", "real").glob("save/last.pbuf*"):
            last.unlink()
        for name in members:
            moving.workspace(name, "real")
        moving.run(aggregator, members)
        assert_same_model(moving.model(), federation_model(moving))


@pytest.mark.full
@pytest.mark.cell(
    server="aggregator moved: real, our", client="real collaborators", must="an aggregator replaced in mid-round"
)
def test_an_aggregator_that_moves_under_collaborators_that_run(federation: MakeFederation) -> None:
    """They wait for it, and the federation begins at its initial model: OpenFL's aggregator has kept nothing else."""
    moving = federation(Outline(rounds=3, seconds=1.0))
    before = moving.aggregator("real")
    members = [moving.collaborator(name, "real") for name in ("one", "two")]
    members[0].hear("training in round 1", seconds=90)
    before.kill()
    for program in (moving.aggregator("ours"), *members):
        program.succeed()
    assert_same_model(moving.model(), federation_model(moving))
