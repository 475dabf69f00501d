"""Federations with a director: the director, envoys and the frontend are processes, each of either kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from tests.interop_openfl.processes import Program, Programs, free_port

__all__ = ["Outcome", "Site", "expected_model", "initial_model", "turns"]

Kind = Literal["ours", "real"]
SOURCES: Final = Path(__file__).parent / "workspaces"
START_SECONDS: Final = 60.0
RUN_SECONDS: Final = 150.0
NUMBERS: Final = {"one": 1, "two": 2}


@dataclass(frozen=True)
class Outcome:
    """How the frontend saw an experiment end: its status, the last model, how many metrics came.

    ``done`` is who told metrics of which task in which round, but for the aggregator.
    ``seconds``: from the submission's first byte until the frontend saw the end, for which it asks ten times a second.
    """

    status: str
    metrics: int
    model: dict[str, NDArray[np.float32]]
    seconds: float
    done: frozenset[tuple[str, str, int]]


class Site:
    """A director and its envoys below ``folder``. ``cert``: a folder of certificates, None for plaintext.

    The real programs are those of ``release``.
    """

    def __init__(self, programs: Programs, folder: Path, *, cert: Path | None = None, release: str = "1.6") -> None:
        self._release = release
        self.port = free_port()
        self._programs = programs
        self._folder = folder
        self._cert = cert
        self._frontends = 0
        self._director: Kind = "ours"

    def director(self, kind: Kind, **more: object) -> Program:
        """Start a director, with ``more`` settings, and wait until it listens.

        A second one of the other kind may take the first one's place.
        """
        self._director = kind
        root = self._folder / f"director-{kind}"
        root.mkdir(exist_ok=True)  # it may be the same one again
        settings = {
            "listen_host": "localhost",
            "listen_port": self.port,
            "sample_shape": ["1"],
            "target_shape": ["1"],
            "envoy_health_check_period": 2,
            **more,
        }
        (root / "director.yaml").write_text(yaml.safe_dump({"settings": settings}))
        arguments = ["start", "-c", "director.yaml", *self._certificates("server", "agg_localhost")]
        if kind == "ours":
            program = self._programs.ours("director", *arguments, cwd=root)
            program.hear(str(self.port), START_SECONDS)
        else:
            program = self._programs.fx("director", *arguments, cwd=root, release=self._release)
            program.hear("Starting director server", START_SECONDS)
        return program

    def envoy(self, name: str, kind: Kind, *, beside_openfl: bool = False) -> Program:
        """Start an envoy. It is not waited for. One of the other kind may take its place.

        Ours may run where OpenFL is installed, and take OpenFL's names from OpenFL itself.
        """
        root = self._folder / f"{name}-{kind}"
        shutil.copytree(SOURCES / "interactive_site", root)
        config = {
            "params": {"install_requirements": False, "cuda_devices": []},
            "shard_descriptor": {"template": "interactive_shard.Number", "params": {"number": NUMBERS[name]}},
        }
        (root / "envoy.yaml").write_text(yaml.safe_dump(config))
        arguments = ["start", "-n", name, "-dh", "localhost", "-dp", str(self.port), "-ec", "envoy.yaml"]
        arguments += self._certificates("client", f"col_{name}")
        if beside_openfl:
            return self._programs.peer("our_envoy", *arguments, "--real-openfl", cwd=root)
        if kind == "ours":
            return self._programs.ours("envoy", *arguments, cwd=root)
        return self._programs.fx("envoy", *arguments, cwd=root, release=self._release, env={"PYTHONPATH": str(root)})

    def submit(self, *options: str) -> Program:
        """Start the real frontend, which submits an experiment once both envoys are online, and follows it."""
        self._frontends += 1
        root = self._folder / f"frontend{self._frontends}"
        shutil.copytree(SOURCES / "interactive", root)
        arguments = ["--port", str(self.port), *options]
        if self._cert is not None:
            arguments += ["--cert", str(self._cert)]
        if self._director == "real" and self._release == "1.6":
            # the one that follows from the plan may be somebody's, and then the real director fails the experiment
            arguments += ["--agg-port", str(free_port())]
        return self._programs.peer("interactive_frontend", *arguments, cwd=root, release=self._release)

    @staticmethod
    def outcome(frontend: Program, seconds: float = RUN_SECONDS) -> Outcome:
        """Wait for the frontend's end and return what it saw."""
        said: dict[str, Any] = json.loads(frontend.succeed(seconds).splitlines()[-1])
        model = {name: np.asarray(values, np.float32) for name, values in said["model"].items()}
        done = frozenset((who, task, number) for who, task, number in said["done"] if who != "aggregator")
        return Outcome(said["status"], said["metrics"], model, said["seconds"], done)

    def _certificates(self, folder: str, name: str) -> list[str]:
        if self._cert is None:
            return ["--disable-tls"]
        pair = self._cert / folder / name
        return ["-rc", str(self._cert / "cert_chain.crt"), "-pk", f"{pair}.key", "-oc", f"{pair}.crt"]


def initial_model(large: int = 0) -> dict[str, NDArray[np.float32]]:
    """Return the model that the frontend's program begins with."""
    out = {"matrix": np.arange(12, dtype=np.float32).reshape(3, 4) / np.float32(7), "number": np.array(2, np.float32)}
    if large:
        out["large.weight"] = np.linspace(-3, 3, large, dtype=np.float32)
    return out


def expected_model(
    rounds: int,
    *,
    momentum: float = 0.0,
    shared: bool = False,
    large: int = 0,
    share: float = 1.0,
    sites: Collection[str] = tuple(NUMBERS),
) -> dict[str, NDArray[np.float32]]:
    """Return the last model as it follows from the frontend's program, in double precision.

    ``shared``: the sites go on with the mean of their velocities. ``share``: how far the model moves to the average.
    ``sites``: those that take part.
    """
    out = {name: values.astype(float) for name, values in initial_model(large).items()}
    numbers = [NUMBERS[site] for site in sites]
    weights = [10 * number for number in numbers]
    velocities = {name: [np.zeros_like(values)] * len(numbers) for name, values in out.items()}
    for _ in range(rounds):
        for name, values in out.items():
            moved = [
                momentum / number * before + 0.5 * (number - values)
                for before, number in zip(velocities[name], numbers, strict=True)
            ]
            average = np.average([values + velocity for velocity in moved], axis=0, weights=weights)
            out[name] = values + share * (average - values)
            velocities[name] = [np.average(moved, axis=0, weights=weights)] * len(numbers) if shared else moved
    return {name: values.astype(np.float32) for name, values in out.items()}


def turns(*names: str) -> frozenset[tuple[str, str, int]]:
    """Who does what in three rounds by the frontend's own assigner, if the director's order of envoys is that of ``names``."""
    train = {(name, "train", number) for name in names for number in range(3)}
    return frozenset(train | {(names[number % 2], "aggregated_model_validate", number) for number in range(3)})
