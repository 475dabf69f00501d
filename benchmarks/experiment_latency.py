"""How long is an experiment of OpenFL's interactive frontend at our director, and at the real one?

The frontend and both envoys are OpenFL 1.6, unmodified; what is compared is the director. Three rounds of two tiny tensors,
plaintext, no requirements to install: all that is measured is waiting. The clock starts when the frontend begins to send
the experiment and stops when it sees the end, for which it asks ten times a second. Director, envoys and frontend are new
in every round of the benchmark, and the sides take turns.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from _harness import expect, options_of
from _sides import OURS, Measurement, report_sides

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the processes are those of the tests with the real OpenFL

from tests.interop_openfl.interactive_sites import Kind, Site, expected_model  # noqa: E402
from tests.interop_openfl.processes import Programs  # noqa: E402

OPENFL = "OpenFL 1.6"
ROUNDS = 3
VERSIONS = "from importlib.metadata import version as v; print(*(f'{n} {v(n)}' for n in ('openfl', 'grpcio')))"


@dataclass
class Run:
    """What the report says of this run."""

    options: argparse.Namespace
    peer_versions: str | None


def experiment(kind: Kind) -> float:
    """Return the seconds of one experiment at a director of that kind."""
    with tempfile.TemporaryDirectory(prefix="openfl-aio-bench-") as folder:
        programs = Programs(Path(folder) / "logs")
        try:
            site = Site(programs, Path(folder))
            site.director(kind)
            for name in ("one", "two"):
                site.envoy(name, "real")
            outcome = site.outcome(site.submit("--rounds", str(ROUNDS)))
        except AssertionError as exc:
            sys.exit(f"the experiment did not run: {exc}")
        finally:
            programs.end()
    expect(outcome.status == "finished", f"the experiment is {outcome.status}")
    for name, values in expected_model(ROUNDS).items():
        expect(bool(np.allclose(outcome.model[name], values, rtol=1e-5, atol=1e-6)), f"the tensor {name}")
    return outcome.seconds


def main() -> None:
    parser = options_of(__doc__, rounds=5)
    parser.add_argument("--openfl-python", metavar="PATH", required=True, help="a Python with openfl==1.6 and its fx")
    options = parser.parse_args()
    options.pairs = options.pairs or (1 if options.small else 5)
    os.environ["OPENFL16_PYTHON"] = options.openfl_python
    sides: dict[str, Kind] = {OURS: "ours", OPENFL: "real"}
    seconds: dict[str, list[float]] = {side: [] for side in sides}
    for number in range(options.pairs):
        for side in list(sides)[:: -1 if number % 2 else 1]:
            seconds[side].append(experiment(sides[side]))
    row = Measurement("submitted to finished", "s", seconds, more_is_better=False, peers=(OPENFL,))
    told = subprocess.run([options.openfl_python, "-c", VERSIONS], capture_output=True, text=True, check=True)
    run = Run(options, told.stdout.strip())
    report_sides("an experiment without work: 3 rounds, 2 envoys of OpenFL 1.6", [row], run, compared=OPENFL)


if __name__ == "__main__":
    main()
