"""Federations without a director: a plan, a workspace a member, and processes, each of either kind.

A workspace is a folder as ``fx workspace create`` makes it. The plan is the same in all of them, as it must be, for the
federation's uuids come from it; what differs is the task runner's source: ``real`` for OpenFL's, ``ours`` for ours.
"""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import anyio
import numpy as np
import yaml
from numpy.typing import NDArray

from openfl_aio.plan.templates import PIPELINES
from openfl_aio.storage.models import ModelFiles, SavedModel
from tests.interop_openfl.processes import Program, Programs, free_port, peer_python

__all__ = ["Federation", "Kind", "MakeFederation", "Outline", "assert_same_model", "expected_model"]

Kind = Literal["ours", "real", "adopted"]
"""Whose program runs a member; ``adopted``: ours, with the task runner of a real one, where OpenFL 1.6 is installed."""
SOURCES: Final = Path(__file__).parent / "workspaces"
SHAPES: Final[Mapping[str, tuple[int, ...]]] = {"matrix": (40, 30), "vector": (150,)}
RUN_SECONDS: Final = 150.0


@dataclass(frozen=True)
class Outline:
    """What differs from plan to plan. ``data`` is each collaborator's data path: a number, see the workspace's loader."""

    rounds: int = 2
    tls: bool = False
    delta_updates: bool = False
    pipeline: str = "openfl.pipelines.NoCompressionPipeline"
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=lambda: SHAPES)
    seconds: float = 0.0  # of training
    validating: float = 0.0  # seconds of the validation of the local model
    data: Mapping[str, int] = field(default_factory=lambda: {"one": 1, "two": 2})
    aggregator: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    runner: Mapping[str, Any] = field(default_factory=dict)
    assigner: Mapping[str, Any] = field(default_factory=dict)  # the section; empty is OpenFL's default
    stragglers: Mapping[str, Any] = field(default_factory=dict)  # the section; empty is none
    aggregation: Mapping[str, Any] = field(default_factory=dict)  # of the training; empty is OpenFL's default
    release: str = "1.6"
    neutral: bool = False  # no key that a release spells in its own way

    def plan(self, port: int) -> dict[str, Any]:
        """Return the plan as a workspace has it, with OpenFL's defaults named and not written out."""
        shapes = {name: list(shape) for name, shape in self.shapes.items()}
        paths = {f"{which}_state_path": f"save/{which}.pbuf" for which in ("init", "best", "last")}
        tls = "tls" if self.release in ("1.5.1", "1.6") else "use_tls"
        delta_updates = "use_delta_updates" if self.release in ("1.8", "1.9") else "delta_updates"
        updates: dict[str, Any] = {} if self.neutral else {delta_updates: self.delta_updates}
        network = {"agg_addr": "localhost", "agg_port": port, "client_reconnect_interval": 1}
        network |= {} if self.neutral else {tls: self.tls}
        sections: dict[str, dict[str, Any]] = {
            "aggregator": {
                "template": "openfl.component.Aggregator",
                "settings": {**paths, "rounds_to_train": self.rounds, **self.aggregator},
            },
            "collaborator": {
                "template": "openfl.component.Collaborator",
                "settings": {"opt_treatment": "RESET", **updates},
            },
            "data_loader": {"template": "src.dataloader.Targets", "settings": {"shapes": shapes}},
            "task_runner": {
                "template": "src.taskrunner.Steps",
                "settings": {"step": 0.5, "seconds": self.seconds, "validating": self.validating, **self.runner},
            },
            "network": {"settings": {**network, **self.network}},
            "assigner": dict(self.assigner),
            "compression_pipeline": {"template": self.pipeline},
        }
        for name, section in sections.items():
            section["defaults"] = f"plan/defaults/{name}.yaml"
        if self.stragglers:
            sections["straggler_handling_policy"] = dict(self.stragglers)
        aggregation = {"aggregation_type": dict(self.aggregation)} if self.aggregation else {}
        validate = {"function": "validate", "kwargs": {"apply": "global"}}
        sections["tasks"] = {
            "aggregated_model_validation": validate,
            "train": {"function": "train", "kwargs": {}, **aggregation},
            "locally_tuned_model_validation": {"function": "validate", "kwargs": {"apply": "local"}},
        }
        return sections


class Federation:
    """One federation below ``folder``, whose members are started one by one. ``cert`` is a folder of certificates."""

    def __init__(self, programs: Programs, folder: Path, outline: Outline | None = None, *, cert: Path) -> None:
        self.outline = outline or Outline()
        self.port = free_port()
        self._programs = programs
        self._folder = folder
        self._cert = cert
        self._plan = self.outline.plan(self.port)
        self.initialise()

    def workspace(self, member: str, kind: Kind) -> Path:
        """Return the workspace of a member, made when it is first asked for."""
        root = self._folder / member
        if root.exists():
            return root
        for source in ("both", "real" if kind == "adopted" else kind):
            shutil.copytree(SOURCES / source / "src", root / "src", dirs_exist_ok=True)
        for name in ("plan", "save", "logs", "local_state"):
            (root / name).mkdir()
        (root / "plan" / "plan.yaml").write_text(yaml.safe_dump(self._plan, sort_keys=False))
        (root / "plan" / "cols.yaml").write_text(yaml.safe_dump({"collaborators": list(self.outline.data)}))
        lines = [f"{name},{number}\n" for name, number in self.outline.data.items()]
        (root / "plan" / "data.yaml").write_text("# name,path\n" + "".join(lines))
        (root / ".workspace").write_text("current_plan_name: default\n")
        if self.outline.tls:
            shutil.copytree(self._cert, root / "cert")
        initial = self._folder / "initial" / "save" / "init.pbuf"
        if initial.is_file():
            shutil.copy(initial, root / "save" / "init.pbuf")
        return root

    def initialise(self) -> None:
        """Let the real ``fx plan initialize`` make the initial model of this federation."""
        root = self.workspace("initial", "real")
        self._programs.fx("plan", "initialize", cwd=root, release=self.outline.release).succeed()

    @property
    def state(self) -> Path:
        """The folder in which our aggregator keeps what it has promised."""
        return self._folder / "aggregator" / "state"

    def aggregator(self, kind: Kind) -> Program:
        """Start the aggregator. It is not waited for."""
        root = self.workspace("aggregator", kind)
        if kind == "real":
            return self._programs.fx("aggregator", "start", cwd=root, release=self.outline.release)
        return self._programs.ours("aggregator", "start", cwd=root)

    def collaborator(self, name: str, kind: Kind, *, release: str | None = None) -> Program:
        """Start a collaborator, of the plan's release or another. It is not waited for."""
        root = self.workspace(name, kind)
        if kind == "real":
            return self._programs.fx(
                "collaborator", "start", "-n", name, cwd=root, release=release or self.outline.release
            )
        # the plan's keys tell 1.8 and 1.9 apart only where they differ
        told = [] if self.outline.neutral else ["--openfl-release", self.outline.release]
        python = peer_python() if kind == "adopted" else None
        return self._programs.ours("collaborator", "start", "-n", name, *told, cwd=root, python=python)

    def start(self, aggregator: Kind, collaborators: Mapping[str, Kind]) -> list[Program]:
        """Start all; the aggregator is the first."""
        return [self.aggregator(aggregator), *(self.collaborator(name, kind) for name, kind in collaborators.items())]

    def run(self, aggregator: Kind, collaborators: Mapping[str, Kind], *, seconds: float = RUN_SECONDS) -> Program:
        """Start all, wait until each has ended with code 0, and return the aggregator."""
        serving, *members = self.start(aggregator, collaborators)
        for program in (*members, serving):
            program.succeed(seconds)
        return serving

    def begin_with(self, tensors: Mapping[str, NDArray[Any]], *, round_number: int) -> None:
        """Let the federation begin at ``round_number`` with these ``tensors``; called before a member is started."""
        files = ModelFiles(pipeline=pipeline_name(self.outline.pipeline))
        save = functools.partial(files.save, round_number=round_number)
        anyio.run(save, self._folder / "initial" / "save" / "init.pbuf", tensors)

    def begin_where_ended(self, other: Federation) -> None:
        """Let the federation begin with the file of the last model of ``other``; called before a member is started."""
        source = other._folder / "aggregator" / "save" / "last.pbuf"
        shutil.copy(source, self._folder / "initial" / "save" / "init.pbuf")

    def load(self, which: str = "last", member: str = "aggregator") -> SavedModel:
        """Return the model that the aggregator saved, or with ``init`` the one that a member has for the beginning."""
        files = ModelFiles(pipeline=pipeline_name(self.outline.pipeline))
        return anyio.run(files.load, self._folder / member / "save" / f"{which}.pbuf")

    def model(self, which: str = "last") -> dict[str, NDArray[np.float32]]:
        """Return the tensors of `load`; the last model must be that of the last round."""
        saved = self.load(which)
        assert which != "last" or saved.round_number == self.outline.rounds
        return saved.tensors


MakeFederation = Callable[[Outline], Federation]


def expected_model(
    federation: Federation, *, rounds: int | None = None, trained_by: Collection[str] = ()
) -> dict[str, NDArray[np.float32]]:
    """Return the model after ``rounds`` (all) as it follows from the initial one by the arithmetic of ``workspaces``.

    ``trained_by``: whose results counted, if not everybody's. Computed in double precision.
    """
    outline, tensors = federation.outline, federation.model("init")
    out = {name: array.astype(np.float64) for name, array in tensors.items()}
    weights = {number: 10 * number for name, number in outline.data.items() if name in (trained_by or outline.data)}
    targets = {}
    for number in weights:
        source = np.random.default_rng(number)
        targets[number] = {name: source.normal(size=shape).astype(np.float32) for name, shape in outline.shapes.items()}
    for _ in range(outline.rounds if rounds is None else rounds):
        for name, values in out.items():
            trained = [values + 0.5 * (targets[number][name] - values) for number in weights]
            out[name] = np.average(trained, axis=0, weights=list(weights.values()))
    return {name: values.astype(np.float32) for name, values in out.items()}


def pipeline_name(template: str) -> str:
    """Return our name of a pipeline."""
    return PIPELINES.name_of(template)


def assert_same_model(
    got: Mapping[str, NDArray[np.float32]], expected: Mapping[str, NDArray[np.float32]], *, within: float = 2e-6
) -> None:
    """Compare two models; ``within`` is relative to the largest value of each tensor: some roundings of a float32."""
    assert sorted(got) == sorted(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(got[name], array, rtol=0, atol=within * float(np.abs(array).max()), err_msg=name)
