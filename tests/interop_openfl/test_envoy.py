"""Our envoys run archives of the real frontend, for our director and for the real one, also beside real envoys."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.interop_openfl.federations import assert_same_model
from tests.interop_openfl.interactive_sites import Kind, Site, expected_model
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
