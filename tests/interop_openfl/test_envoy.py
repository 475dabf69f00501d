"""Our envoys run archives of the real frontend, for our director and for the real one, also beside real envoys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from anyio import fail_after, sleep, to_thread

from openfl_aio import experiment as frontend
from openfl_aio.config import TLSConfig
from openfl_aio.domain import ExperimentStatus
from openfl_aio.errors import ExperimentFailedError, OpenFLAioError
from tests.interop_openfl.federations import assert_same_model
from tests.interop_openfl.interactive_sites import SOURCES, Kind, Site, expected_model
from tests.interop_openfl.processes import Programs

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(240),
    pytest.mark.cell(server="real director", client="our envoys, real frontend"),
]


FULL = pytest.mark.full


@pytest.mark.parametrize(
    ("director", "envoys", "tls"),
    [
        pytest.param("real", ("ours", "ours"), False, marks=FULL, id="real-ours+ours-plain"),
        pytest.param("real", ("ours", "ours"), True, marks=FULL, id="real-ours+ours-mtls"),
        pytest.param("real", ("ours", "real"), False, marks=FULL, id="real-ours+real-plain"),
        pytest.param("real", ("ours", "real"), True, marks=FULL, id="real-ours+real-mtls"),
        pytest.param("ours", ("ours", "ours"), False, marks=FULL, id="ours-ours+ours-plain"),
        pytest.param("ours", ("ours", "real"), True, id="ours-ours+real-mtls"),
    ],
)
@pytest.mark.cell(server="{director} director", client="{envoys} envoys, real frontend", must="the model of arithmetic")
def test_the_model_is_the_same(
    programs: Programs, tmp_path: Path, ca_folder: Path, director: Kind, envoys: tuple[Kind, Kind], tls: bool
) -> None:
    site = Site(programs, tmp_path, cert=ca_folder if tls else None)
    site.director(director)
    for name, kind in zip(("one", "two"), envoys, strict=True):
        site.envoy(name, kind)
    outcome = site.outcome(site.submit("--rounds", "2"))
    assert outcome.status == "finished"
    assert outcome.metrics > 0
    assert_same_model(outcome.model, expected_model(2))


@FULL
@pytest.mark.cell(must="an envoy beside OpenFL itself")
def test_openfl_itself_may_be_beside_ours(programs: Programs, tmp_path: Path) -> None:
    site = Site(programs, tmp_path)
    site.director("real")
    site.envoy("one", "ours", beside_openfl=True)
    site.envoy("two", "ours")
    outcome = site.outcome(site.submit("--rounds", "1"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(1))


@FULL
@pytest.mark.cell(client="real + our envoys, real frontend", must="an envoy that fails")
def test_an_envoy_outlives_an_experiment_that_fails(programs: Programs, tmp_path: Path) -> None:
    site = Site(programs, tmp_path)
    site.director("real")
    site.envoy("one", "real")
    failing = site.envoy("two", "ours")
    # the real director hands a failed experiment out again and again, until its owner removes it
    outcome = site.outcome(site.submit("--rounds", "1", "--name", "broken", "--fail-at", "2", "--remove"))
    assert outcome.status == "failed"
    failing.hear("experiment broken failed: task 'train' raised RuntimeError: the data is gone")
    outcome = site.outcome(site.submit("--rounds", "1", "--name", "whole"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(1))


@FULL
@pytest.mark.parametrize("treatment", ["RESET", "CONTINUE_LOCAL", "CONTINUE_GLOBAL"])
@pytest.mark.cell(
    server="our and real director", client="real + our envoys, real frontend", must="each treatment of optimizers"
)
def test_an_optimizer_goes_on_as_at_real_envoys(programs: Programs, tmp_path: Path, treatment: str) -> None:
    models = []
    federations: list[tuple[Kind, tuple[Kind, Kind]]] = [
        ("real", ("real", "real")),
        ("real", ("ours", "real")),
        ("ours", ("real", "ours")),
    ]
    for number, (director, envoys) in enumerate(federations):
        folder = tmp_path / str(number)
        folder.mkdir()
        site = Site(programs, folder)
        started = [site.director(director)]
        started += [site.envoy(name, kind) for name, kind in zip(("one", "two"), envoys, strict=True)]
        outcome = site.outcome(site.submit("--rounds", "3", "--momentum", "0.7", "--treatment", treatment, "--deltas"))
        assert outcome.status == "finished"
        models.append(outcome.model)
        for program in started:
            program.kill()
    if treatment == "RESET":
        assert_same_model(models[0], expected_model(3))
    for model in models[1:]:
        assert_same_model(model, models[0])


@FULL
@pytest.mark.parametrize("tls", [False, True], ids=["plain", "mtls"])
@pytest.mark.cell(client="our envoys and frontend", must="finished, with the model of arithmetic")
async def test_our_frontend_at_the_real_director(
    programs: Programs, tmp_path: Path, ca_folder: Path, tls: bool
) -> None:
    """With our envoys: the archive holds a class and no pickles, which real envoys cannot run."""
    site = Site(programs, tmp_path, cert=ca_folder if tls else None)
    director = await to_thread.run_sync(site.director, "real")
    for name in ("one", "two"):
        await to_thread.run_sync(site.envoy, name, "ours")
    own = ca_folder / "client" / "col_three.crt"
    certificates = TLSConfig(ca=ca_folder / "cert_chain.crt", certificate=own, private_key=own.with_suffix(".key"))
    async with frontend.Federation(
        "localhost", site.port, tls=certificates if tls else None, client_id="three"
    ) as federation:
        await online(federation, ["one", "two"])
        assert (await federation.dataset_info()).sample_shape == ("1",)
        while True:
            steps = await to_thread.run_sync(
                lambda: frontend.Experiment(
                    name="steps", workspace=SOURCES / "our_frontend", task_runner="steps_task.Steps", rounds=2
                )
            )
            run = await federation.submit(steps)
            try:
                assert await run.wait() is ExperimentStatus.FINISHED
                break
            except ExperimentFailedError:
                # it serves each experiment at the port that follows from its plan, and if somebody has that one, it
                # fails the experiment and removes its archive, which envoys then ask for in vain
                taken = re.findall("RuntimeError: Failed to bind to address", director.said())
                if len(taken) != 1:
                    raise
                await run.remove()
        assert_same_model(await run.last_model(), expected_model(2))
        best = await run.best_model()
        assert sorted(best) == ["matrix", "number"]
        await run.remove()


async def online(federation: frontend.Federation, names: list[str]) -> None:
    """Wait until the envoys ``names`` are online; the real director fails until each has waited for work once."""
    with fail_after(60):
        while True:
            try:
                if sorted(envoy.shard.name for envoy in await federation.envoys() if envoy.is_online) == names:
                    return
            except OpenFLAioError:
                pass
            await sleep(0.1)
