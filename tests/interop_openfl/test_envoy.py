"""Our envoys run archives of the real frontend, for our director and for the real one, also beside real envoys."""

from __future__ import annotations

from pathlib import Path

import pytest
from anyio import fail_after, sleep, to_thread

from openfl_aio import experiment as frontend
from openfl_aio.domain import ExperimentStatus
from openfl_aio.errors import OpenFLAioError
from openfl_aio.testing.ca import ThrowawayCA
from tests.interop_openfl.federations import assert_same_model
from tests.interop_openfl.interactive_sites import SOURCES, Kind, Site, expected_model
from tests.interop_openfl.processes import Programs

pytestmark = [pytest.mark.real_time, pytest.mark.timeout(240)]


FULL = pytest.mark.full


@pytest.mark.parametrize(
    ("director", "envoys", "tls"),
    [
        pytest.param("real", ("ours", "ours"), False, marks=FULL, id="real-ours+ours-plain"),
        pytest.param("real", ("ours", "ours"), True, marks=FULL, id="real-ours+ours-mtls"),
        pytest.param("real", ("ours", "real"), False, marks=FULL, id="real-ours+real-plain"),
        pytest.param("real", ("ours", "real"), True, id="real-ours+real-mtls"),
    ],
)
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
@pytest.mark.parametrize("treatment", ["RESET", "CONTINUE_LOCAL", "CONTINUE_GLOBAL"])
def test_an_optimizer_goes_on_as_at_real_envoys(programs: Programs, tmp_path: Path, treatment: str) -> None:
    models = []
    federations: list[tuple[Kind, Kind]] = [("real", "real"), ("ours", "real")]
    for number, envoys in enumerate(federations):
        folder = tmp_path / str(number)
        folder.mkdir()
        site = Site(programs, folder)
        started = [site.director("real")]
        started += [site.envoy(name, kind) for name, kind in zip(("one", "two"), envoys, strict=True)]
        outcome = site.outcome(site.submit("--rounds", "3", "--momentum", "0.7", "--treatment", treatment, "--deltas"))
        assert outcome.status == "finished"
        models.append(outcome.model)
        for program in started:
            program.kill()
    assert_same_model(models[1], models[0])


@pytest.mark.parametrize("tls", [pytest.param(False, marks=FULL), True], ids=["plain", "mtls"])
async def test_our_frontend_at_the_real_director(
    programs: Programs, tmp_path: Path, ca_folder: Path, tls: bool
) -> None:
    """With our envoys: the archive holds a class and no pickles, which real envoys cannot run."""
    site = Site(programs, tmp_path, cert=ca_folder if tls else None)
    await to_thread.run_sync(site.director, "real")
    for name in ("one", "two"):
        await to_thread.run_sync(site.envoy, name, "ours")
    certificates = await to_thread.run_sync(ThrowawayCA(ca_folder).client, "three") if tls else None
    async with frontend.Federation("localhost", site.port, tls=certificates, client_id="three") as federation:
        await online(federation, ["one", "two"])
        assert (await federation.dataset_info()).sample_shape == ("1",)
        steps = await to_thread.run_sync(
            lambda: frontend.Experiment(
                name="steps", workspace=SOURCES / "our_frontend", task_runner="steps_task.Steps", rounds=2
            )
        )
        run = await federation.submit(steps)
        assert await run.wait() is ExperimentStatus.FINISHED
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
