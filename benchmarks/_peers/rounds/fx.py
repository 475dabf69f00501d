"""The real OpenFL, 1.6 or later: ``fx aggregator start`` and ``fx collaborator start`` on a workspace, in plaintext."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stage import TENSORS, Stage, free_port, play

FX = Path(sys.executable).parent / "fx"
SOURCES = Path(__file__).parent / "openfl_workspace" / "src"
RECONNECT_SECONDS = 1  # tuned; 5 as it comes


def plan(settings: dict[str, Any], port: int) -> dict[str, Any]:
    """Return the plan: one task, of the workspace's own task runner, and OpenFL's defaults for the rest."""
    later = tuple(map(int, version("openfl").split(".")[:2])) >= (1, 8)
    paths = {f"{which}_state_path": f"save/{which}.pbuf" for which in ("init", "best", "last")}
    network: dict[str, Any] = {"agg_addr": "localhost", "agg_port": port}
    network |= {"use_tls": False, "require_client_auth": False} if later else {"tls": False}
    if settings["tuned"]:
        network["client_reconnect_interval"] = RECONNECT_SECONDS
    groups = [{"name": "train", "percentage": 1.0, "tasks": ["train"]}]
    sections: dict[str, Any] = {
        "aggregator": {
            "template": "openfl.component.Aggregator",
            "settings": paths | {"rounds_to_train": settings["rounds"]},
        },
        "collaborator": {"template": "openfl.component.Collaborator", "settings": {}},
        "data_loader": {
            "template": "src.dataloader.Nothing",
            "settings": {"size": settings["parameters"] // TENSORS, "tensors": TENSORS},
        },
        "task_runner": {"template": "src.taskrunner.Echo", "settings": {}},
        "network": {"settings": network},
        "assigner": {"settings": {"task_groups": groups}},
    }
    if later:  # it fails at the end of a round in which no model was validated
        sections["aggregator"]["settings"]["persist_checkpoint"] = False
    for name, section in sections.items():
        section["defaults"] = f"plan/defaults/{name}.yaml"
    sections["tasks"] = {"train": {"function": "train", "kwargs": {}}}
    return sections


def workspace(stage: Stage, member: str, document: dict[str, Any]) -> Path:
    """Return the workspace of one member."""
    root = stage.folder / member
    shutil.copytree(SOURCES, root / "src")
    for name in ("plan", "save", "logs", "local_state"):
        (root / name).mkdir()
    names = [f"site-{index}" for index in range(stage.settings["collaborators"])]
    (root / "plan" / "plan.yaml").write_text(json.dumps(document))  # JSON is YAML
    (root / "plan" / "cols.yaml").write_text(json.dumps({"collaborators": names}))
    (root / "plan" / "data.yaml").write_text("".join(f"{name},{index}\n" for index, name in enumerate(names)))
    (root / ".workspace").write_text("current_plan_name: default\n")
    return root


def begin(stage: Stage) -> tuple[list[int], Callable[[], None]]:
    port = free_port()
    document = plan(dict(stage.settings), port)
    root = workspace(stage, "server", document)
    extra = ["--install_reqs", "False"] if version("openfl").startswith("1.6") else []
    stage.run("initialize", FX, "plan", "initialize", *extra, cwd=root)
    server = stage.start("server", FX, "aggregator", "start", cwd=root)
    stage.listening(port)

    def start() -> None:
        for index in range(stage.settings["collaborators"]):
            name = f"site-{index}"
            member = workspace(stage, name, document)
            shutil.copytree(root / "save", member / "save", dirs_exist_ok=True)
            stage.start(name, FX, "collaborator", "start", "-n", name, cwd=member)

    return [server], start


if __name__ == "__main__":
    play(begin)
