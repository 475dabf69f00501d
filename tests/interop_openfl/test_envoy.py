"""Our envoys run archives of the real frontend, for our director and for the real one, also beside real envoys.

And our frontend at the real director. What the real director of 1.6 cannot itself is not asked of it with ours:

- two experiments at once: it begins one after the end of the other;
- under TLS an experiment that an envoy fails: it takes that word from nobody who has a name, and in plaintext it goes on
  handing out the experiment, until its owner removes it. Who sleeps while it ends asks for its aggregator in vain: a
  real collaborator for ever, ours for ten minutes, so that an experiment that fails is the last here;
- a review: its own setting ``review_experiment`` ends the task that runs experiments;
- an envoy that comes back in the midst of an experiment after the director died: it keeps nothing.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from anyio import fail_after, sleep, to_thread

from openfl_aio import experiment as frontend
from openfl_aio.config import TLSConfig
from openfl_aio.domain import ExperimentStatus
from openfl_aio.errors import ExperimentFailedError, OpenFLAioError
from tests.interop_openfl.federations import assert_same_model
from tests.interop_openfl.interactive_sites import SOURCES, Kind, Site, expected_model, turns
from tests.interop_openfl.processes import Program, Programs, expected_tensors, tensors

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
    """With deltas where there is TLS."""
    site = Site(programs, tmp_path, cert=ca_folder if tls else None)
    programs.traced = True
    serving = site.director(director)
    members = dict(zip(("one", "two"), envoys, strict=True))
    for name, kind in members.items():
        site.envoy(name, kind)
    outcome = site.outcome(site.submit("--rounds", "2", *(["--deltas"] if tls else [])))
    assert outcome.status == "finished"
    assert outcome.metrics > 0
    assert_same_model(outcome.model, expected_model(2))
    assert tensors(serving) == expected_tensors(members, 2, deltas=tls, interactive=True)


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
    failing = site.envoy("two", "ours")
    # the real director hands a failed experiment out again and again, until its owner removes it; a real envoy in it may ask
    # for its aggregator, which is gone, for ever, and comes later therefore
    outcome = site.outcome(
        site.submit("--rounds", "1", "--name", "broken", "--fail-at", "2", "--remove", "--envoys", "1")
    )
    assert outcome.status == "failed"
    failing.hear("experiment broken failed: task 'train' raised RuntimeError: the data is gone")
    site.envoy("one", "real")
    outcome = site.outcome(site.submit("--rounds", "1", "--name", "whole"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(1))


@FULL
@pytest.mark.cell(must="a broken archive, an assigner of the user's own, experiments in a row", link="mTLS")
def test_one_experiment_after_the_other_at_the_real_director(
    programs: Programs, tmp_path: Path, ca_folder: Path
) -> None:
    """A broken archive first, of which a real envoy of 1.6 dies and is listed as online; then one by an assigner of its own."""
    site = Site(programs, tmp_path, cert=ca_folder)
    site.director("real")
    envoys = [site.envoy(name, "ours") for name in ("one", "two")]
    assert site.outcome(site.submit("--name", "broken", "--broken", "--remove")).status == "failed"
    outcome = site.outcome(site.submit("--name", "first", "--own-assigner", "--rounds", "3"))
    assert (outcome.status, outcome.done in (turns("one", "two"), turns("two", "one"))) == ("finished", True)
    assert_same_model(outcome.model, expected_model(3))
    outcome = site.outcome(site.submit("--name", "second", "--rounds", "1"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(1))
    assert [envoy.code for envoy in envoys] == [None, None]


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
@pytest.mark.cell(client="our envoys and frontend", must="deltas with a pipeline, a failure, experiments in a row")
async def test_our_frontend_at_the_real_director(
    programs: Programs, tmp_path: Path, ca_folder: Path, tls: bool
) -> None:
    """With our envoys: the archive holds a class and no pickles, which real envoys cannot run."""
    site = Site(programs, tmp_path, cert=ca_folder if tls else None)
    programs.traced = True
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
        run = await runs(federation, director, "steps", delta_updates=True, pipeline="random_shift")
        assert_same_model(await run.last_model(), expected_model(2))
        best = await run.best_model()
        assert sorted(best) == ["matrix", "number"]
        assert tensors(director) == expected_tensors(dict.fromkeys(("one", "two"), "ours"), 2, interactive=True)
        await run.remove()
        run = await runs(federation, director, "second")
        assert_same_model(await run.last_model(), expected_model(2))
        await run.remove()
        if not tls:
            with suppress(ExperimentFailedError):  # within ten seconds the director calls it finished
                await runs(federation, director, "failing", settings={"fail_at": 2})
            assert "the data is gone" in director.said()
            await federation.run("failing").remove()


async def runs(federation: frontend.Federation, director: Program, name: str, **more: Any) -> frontend.Run:
    """Submit an experiment of two rounds, wait until it has finished and return it.

    The real director serves each at the port that follows from its plan, and if somebody has that one, it fails the
    experiment and removes its archive, which envoys then ask for in vain: then it is submitted again.
    """
    experiment = await to_thread.run_sync(
        lambda: frontend.Experiment(
            name=name, workspace=SOURCES / "our_frontend", task_runner="steps_task.Steps", rounds=2, **more
        )
    )
    while True:
        taken = director.said().count("RuntimeError: Failed to bind to address")
        run = await federation.submit(experiment)
        try:
            assert await run.wait() is ExperimentStatus.FINISHED
        except ExperimentFailedError:
            if director.said().count("RuntimeError: Failed to bind to address") == taken:
                raise
            await run.remove()
        else:
            return run


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
