"""Real frontends and real envoys with our director, which has no OpenFL and runs nothing of what they send."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

import anyio
import numpy as np
import pytest
from anyio import to_thread
from anyio.from_thread import start_blocking_portal
from numpy.typing import NDArray

from openfl_aio.config import DirectorConfig, Endpoint, TLSConfig
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.director.upload import decode_model
from openfl_aio.domain import ExperimentStatus, ModelKind
from openfl_aio.plan.plan import Plan
from openfl_aio.storage.keys import CertificateLayout
from tests.interop_openfl.federations import assert_same_model
from tests.interop_openfl.interactive_sites import Kind, Site, expected_model, initial_model, turns
from tests.interop_openfl.processes import Programs, expected_tensors, tensors, until

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(240),
    pytest.mark.cell(server="our director", client="real envoys and frontend"),
]

FULL = pytest.mark.full


def start(programs: Programs, folder: Path, *, cert: Path | None = None, **settings: object) -> Site:
    """Start our director and two real envoys."""
    site = Site(programs, folder, cert=cert)
    site.director("ours", **settings)
    for name in ("one", "two"):
        site.envoy(name, "real")
    return site


@pytest.mark.parametrize(
    ("tls", "deltas"),
    [
        pytest.param(False, False, id="plaintext-whole"),
        pytest.param(False, True, id="plaintext-deltas", marks=FULL),
        pytest.param(True, False, id="mtls-whole", marks=FULL),
        pytest.param(True, True, id="mtls-deltas"),
    ],
)
@pytest.mark.cell(must="finished, with the model of arithmetic, with and without deltas")
def test_an_experiment_finishes_with_the_model_that_arithmetic_gives(
    programs: Programs, tmp_path: Path, ca_folder: Path, tls: bool, deltas: bool
) -> None:
    site = Site(programs, tmp_path, cert=ca_folder if tls else None)
    programs.traced = True
    director = site.director("ours")
    envoys = {name: site.envoy(name, "real") for name in ("one", "two")}
    outcome = site.outcome(site.submit("--rounds", "3", *(["--deltas"] if deltas else [])))
    assert outcome.status == "finished"
    assert outcome.metrics > 0
    assert_same_model(outcome.model, expected_model(3))
    assert tensors(director) == expected_tensors(dict.fromkeys(envoys, "real"), 3, deltas=deltas, interactive=True)


@FULL
@pytest.mark.cell(must="two experiments in a row and at once")
def test_one_experiment_after_the_other_and_two_in_progress_at_once(programs: Programs, tmp_path: Path) -> None:
    """Of those that are in progress an envoy works at one after the other, in the order in which they came."""
    site = Site(programs, tmp_path)
    director = site.director("ours")
    for name in ("one", "two"):
        site.envoy(name, "real")
    for name in ("first", "second"):
        assert site.outcome(site.submit("--name", name)).status == "finished"
    gate = tmp_path / "gate"
    gate.mkdir()
    both = []
    for name in ("third", "fourth"):
        both.append(site.submit("--name", name, "--gate", str(gate)))
        director.hear(f"experiment '{name}' is in_progress")
    assert "experiment 'third' is finished" not in director.said()
    assert not (gate / "fourth").exists()
    (gate / "go").touch()
    for frontend in both:
        outcome = site.outcome(frontend)
        assert outcome.status == "finished"
        assert_same_model(outcome.model, expected_model(2))
    ended = [director.hear(f"experiment '{name}' is finished").start() for name in ("third", "fourth")]
    assert ended == sorted(ended)


@FULL
@pytest.mark.cell(must="two experiments that train at once")
@pytest.mark.parametrize("tls", [False, True], ids=["plaintext", "mtls"])
def test_two_experiments_train_at_once_where_they_share_no_envoy(
    programs: Programs, tmp_path: Path, ca_folder: Path, tls: bool
) -> None:
    """Neither ends before both train. The real director would not begin the second before the end of the first."""
    site = start(programs, tmp_path, cert=ca_folder if tls else None)
    gate = tmp_path / "gate"
    gate.mkdir()
    both = {
        envoy: site.submit("--name", f"of-{envoy}", "--only", envoy, "--gate", str(gate)) for envoy in ("one", "two")
    }
    for envoy, frontend in both.items():
        frontend.hear("submitted")
        until((gate / f"of-{envoy}").exists, frontend)
    (gate / "go").touch()
    for envoy, frontend in both.items():
        outcome = site.outcome(frontend)
        assert outcome.status == "finished"
        assert_same_model(outcome.model, expected_model(2, sites=[envoy]))


@pytest.mark.parametrize("tls", [False, pytest.param(True, marks=FULL)])
@pytest.mark.cell(must="a director killed in mid-experiment")
async def test_envoys_come_through_the_death_of_the_director(
    programs: Programs, tmp_path: Path, ca_folder: Path, tls: bool
) -> None:
    """So would the frontend, but the one of 1.6 ends with its metric stream: ours looks at what became of its experiment."""
    site = Site(programs, tmp_path, cert=ca_folder if tls else None)
    director = site.director("ours")
    for name in ("one", "two"):
        site.envoy(name, "real")
    site.submit("--rounds", "40")
    await to_thread.run_sync(lambda: director.hear("round 5 closed", seconds=90))
    director.kill()
    again = site.director("ours")
    assert "goes on: it was in_progress" in again.said()
    layout = CertificateLayout(ca_folder)
    pair = layout.client("three")
    certificates = TLSConfig(ca=layout.chain, certificate=pair.certificate, private_key=pair.private_key)
    endpoint = Endpoint(host="localhost", port=site.port)
    async with DirectorClient(endpoint, tls=certificates if tls else None, client_id="three") as owner:
        with anyio.fail_after(90):
            metrics = [metric async for metric in owner.get_metric_stream("steps")]
        assert {metric.round_number for metric in metrics} == set(range(40))
        assert await owner.get_experiment_status("steps") is ExperimentStatus.FINISHED
        model = await owner.get_trained_model("steps", ModelKind.LAST)
        assert model is not None
        trained, expected = decode_model(model), expected_model(40)
        assert_same_model({name: trained[name] for name in expected}, expected)  # the optimizer's state is there too
    frontend = site.submit("--name", "second")
    assert (await to_thread.run_sync(lambda: site.outcome(frontend))).status == "finished"


@pytest.mark.parametrize("tls", [pytest.param(False, marks=FULL), True])
@pytest.mark.cell(must="a director that forgot an experiment")
def test_envoys_come_free_of_an_experiment_that_nobody_knows_any_more(
    programs: Programs, tmp_path: Path, ca_folder: Path, tls: bool
) -> None:
    """Whatever they ask for, they would ask for it for ever."""
    site = Site(programs, tmp_path, cert=ca_folder if tls else None)
    director = site.director("ours", durability="memory")
    for name in ("one", "two"):
        site.envoy(name, "real")
    site.submit("--rounds", "1000")
    director.hear("round 5 closed", seconds=90)
    director.kill()
    site.director("ours", durability="memory")
    outcome = site.outcome(site.submit("--name", "second"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(2))


@FULL
@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.cell(must="an envoy that fails")
def test_a_failing_envoy_fails_the_experiment_and_both_envoys_work_on(
    programs: Programs, tmp_path: Path, ca_folder: Path, tls: bool
) -> None:
    site = start(programs, tmp_path, cert=ca_folder if tls else None)
    assert site.outcome(site.submit("--name", "failing", "--fail-at", "2")).status == "failed"
    outcome = site.outcome(site.submit("--name", "working"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(2))


@pytest.mark.cell(must="review rejected and accepted")
def test_a_review_turns_one_experiment_down_and_lets_the_next_run(programs: Programs, tmp_path: Path) -> None:
    site = Site(programs, tmp_path)
    asked: list[int] = []

    async def review(plan: Plan) -> bool:
        asked.append(plan.rounds)
        return len(asked) > 1

    config = DirectorConfig(
        listen=Endpoint(host="localhost", port=site.port),
        sample_shape=("1",),
        target_shape=("1",),
        envoy_health_check_period=2,
        workspace=tmp_path / "reviewed",
    )
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(Director(config, review=review)):
        for name in ("one", "two"):
            site.envoy(name, "real")
        assert site.outcome(site.submit("--rounds", "1")).status == "rejected"
        outcome = site.outcome(site.submit("--rounds", "2"))
        assert outcome.status == "finished"
        assert_same_model(outcome.model, expected_model(2))
    assert asked == [1, 2]


@FULL
@pytest.mark.parametrize(
    "pipeline",
    [
        "NoCompressionPipeline",
        "RandomShiftPipeline",
        "KCPipeline",
        "SKCPipeline",
        "STCPipeline",
        "eden_pipeline.EdenPipeline",
    ],
)
@pytest.mark.cell(
    server="our and real director",
    client="real and our envoys, real frontend",
    must="each pipeline loses no more than where all are real",
)
def test_each_pipeline(programs: Programs, tmp_path: Path, pipeline: str) -> None:
    """What is lost may not be more than where all are real.

    But for our envoys at the real director: they fetch deltas, which lose too, where real ones fetch whole models.
    """
    programs.traced = True
    mixtures: list[tuple[Kind, Kind]] = [("real", "real"), ("ours", "real"), ("real", "ours")]
    played = []
    for director, envoys in mixtures:  # all at once, since the real director lets everybody wait most of the time
        folder = tmp_path / f"{director}-{envoys}"
        folder.mkdir()
        site = Site(programs, folder)
        serving = site.director(director)
        for name in ("one", "two"):
            site.envoy(name, envoys)
        options = ["--pipeline", f"openfl.pipelines.{pipeline}", "--rounds", "2", "--deltas", "--large", "2000"]
        played.append((envoys, serving, site.submit(*options)))
    lost = []
    for envoys, serving, frontend in played:
        outcome = Site.outcome(frontend)
        assert outcome.status == "finished"
        lossy = pipeline not in ("NoCompressionPipeline", "RandomShiftPipeline")
        members = dict.fromkeys(("one", "two"), envoys)
        assert tensors(serving) == expected_tensors(members, 2, lossy=lossy, interactive=True)
        lost.append(distance(outcome.model, expected_model(2, large=2000)))
    all_real, our_director, our_envoys = lost
    assert our_director <= 1.25 * all_real + 1e-6, lost
    assert our_envoys <= 2 * all_real + 1e-6, lost


def distance(got: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]]) -> float:
    """How far a model is from another, relative to the way that was gone."""
    assert sorted(got) == sorted(expected)
    began = initial_model(2000)
    way = sum(float(np.abs(expected[name] - began[name]).sum()) for name in expected)
    return sum(float(np.abs(expected[name] - got[name]).sum()) for name in expected) / way


@FULL
@pytest.mark.cell(client="real envoys, real frontend", must="a shift for each of 78,400 elements")
def test_a_shift_for_each_element_of_a_layer(programs: Programs, tmp_path: Path) -> None:
    site, large = start(programs, tmp_path), 78_400
    options = ["--pipeline", "openfl.pipelines.RandomShiftPipeline", "--rounds", "2", "--deltas", "--large", str(large)]
    outcome = site.outcome(site.submit(*options))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(2, large=large), within=1e-5)


@FULL
@pytest.mark.parametrize("treatment", ["RESET", "CONTINUE_LOCAL", "CONTINUE_GLOBAL"])
@pytest.mark.cell(must="each treatment of optimizers")
def test_optimizers_go_on_at_real_envoys(programs: Programs, tmp_path: Path, treatment: str) -> None:
    site = start(programs, tmp_path)
    outcome = site.outcome(site.submit("--rounds", "4", "--momentum", "0.7", "--treatment", treatment, "--deltas"))
    assert outcome.status == "finished"
    expected = {
        "RESET": expected_model(4),
        "CONTINUE_LOCAL": expected_model(4, momentum=0.7),
        "CONTINUE_GLOBAL": expected_model(4, momentum=0.7, shared=True),
    }
    for one, other in combinations(expected.values(), 2):
        assert np.abs(one["matrix"] - other["matrix"]).max() > 1e-2
    assert_same_model(outcome.model, expected[treatment])


@pytest.mark.cell(must="a user's own aggregation function")
def test_an_aggregation_function_of_the_users_own_runs_if_the_operator_says_so(
    programs: Programs, tmp_path: Path
) -> None:
    site = start(programs, tmp_path, allow_pickled_code=True)
    outcome = site.outcome(site.submit("--own-function", "Halfway", "--rounds", "3"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(3, share=0.5))


def at_both_directors(
    programs: Programs, folder: Path, *options: str, pickled: bool = False
) -> list[dict[str, np.ndarray]]:
    """Return the models after three rounds at our director, which runs pickled code or not, and at the real one."""
    models = []
    kinds: tuple[Kind, ...] = ("ours", "real")
    for kind in kinds:
        below = folder / kind
        below.mkdir()
        site = Site(programs, below)
        started = [site.director(kind, **({"allow_pickled_code": True} if pickled and kind == "ours" else {}))]
        started += [site.envoy(name, "real") for name in ("one", "two")]
        outcome = site.outcome(site.submit("--rounds", "3", *options))
        assert outcome.status == "finished"
        models.append(outcome.model)
        for program in started:
            program.kill()
    return models


@FULL
@pytest.mark.parametrize(
    "function",
    [
        "ExponentialSmoothingAveraging",
        "ClippedAveraging",
        "ConditionalThresholdAveraging",
        "FedAvgM_Selection",
    ],
)
@pytest.mark.cell(server="our and real director", must="functions of OpenFL's tutorial give the same")
def test_functions_of_openfls_tutorial_give_what_they_give_at_its_own_director(
    programs: Programs, tmp_path: Path, function: str
) -> None:
    ours, real = at_both_directors(programs, tmp_path, "--own-function", function, "--large", "50", pickled=True)
    assert_same_model(ours, real)
    average = expected_model(3, large=50)["large.weight"]
    assert np.abs(ours["large.weight"] - average).max() > 1e-2, "that is the average"


@pytest.mark.parametrize(
    "function",
    [
        *(
            pytest.param(name, marks=FULL)
            for name in ("WeightedAverage", "Median", "GeometricMedian", "FedCurvWeightedAverage")
        ),
        pytest.param("AdamAdaptiveAggregation", marks=FULL),
        "AdagradAdaptiveAggregation",
        pytest.param("Yogi", marks=FULL),
        pytest.param("Adam of some", marks=FULL),
    ],
)
def test_openfls_own_functions_give_what_they_give_at_its_own_director(
    programs: Programs, tmp_path: Path, function: str
) -> None:
    """And ours is asked for nothing: they are read as data. The sites' optimizers are aggregated, and have no parameter."""
    options = ["--momentum", "0.5", "--treatment", "CONTINUE_GLOBAL", "--stock-function", function]
    ours, real = at_both_directors(programs, tmp_path, *options)
    assert sorted(ours) == sorted(real)
    for name, values in real.items():
        np.testing.assert_allclose(ours[name], values, rtol=2e-5, atol=2e-6)  # OpenFL's moments are float64
    if function != "WeightedAverage":
        average = expected_model(3, momentum=0.5, shared=True)["matrix"]
        changed = "matrix_u" if function == "FedCurvWeightedAverage" else "matrix"
        assert np.abs(ours[changed] - average).max() > 1e-2, "that is the average"


@FULL
@pytest.mark.cell(must="a user's own assigner")
def test_an_assigner_of_the_users_own_runs_if_the_operator_says_so(programs: Programs, tmp_path: Path) -> None:
    site = start(programs, tmp_path, allow_pickled_code=True)
    outcome = site.outcome(site.submit("--own-assigner", "--rounds", "3"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(3))
    assert outcome.done in (turns("one", "two"), turns("two", "one"))


@FULL
@pytest.mark.cell(must="a broken archive and refused code fail alone")
def test_what_cannot_be_read_fails_alone_and_says_why(programs: Programs, tmp_path: Path) -> None:
    site = Site(programs, tmp_path)
    director = site.director("ours")
    for name in ("one", "two"):
        site.envoy(name, "real")
    refused = site.submit("--name", "broken", "--broken")
    assert refused.wait() != 0
    assert "not a zip archive" in refused.said()
    for name, option, what in (
        ("assigned", ["--own-assigner"], "task_assigner_obj.pkl holds .*turns"),
        ("averaged", ["--own-function", "Halfway"], "aggregation_function_obj.pkl holds .*Halfway"),
    ):
        outcome = site.outcome(site.submit("--name", name, *option))
        assert (outcome.status, outcome.done) == ("failed", frozenset())
        director.hear(f"experiment '{name}' is failed: .*{what}.*ask the operator for 'allow_pickled_code'")
    outcome = site.outcome(site.submit("--name", "working"))
    assert outcome.status == "finished"
    assert_same_model(outcome.model, expected_model(2))
