"""Flower: a SuperLink, a SuperNode for each collaborator, and ``flwr run`` on an app with FedAvg, in plaintext."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from stage import TENSORS, Stage, free_port, play

BIN = Path(sys.executable).parent
APP = Path(__file__).parent / "flower_app"

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "rounds"
version = "1.0.0"
description = "Rounds without training"
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "benchmark"

[tool.flwr.app.components]
serverapp = "rounds.server:app"
clientapp = "rounds.client:app"

[tool.flwr.app.config]
rounds = {rounds}
collaborators = {collaborators}
size = {size}
tensors = {tensors}
"""

CONNECTION = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
insecure = true
"""


def begin(stage: Stage) -> tuple[list[int], Callable[[], None]]:
    settings = stage.settings
    port = free_port()
    app = stage.folder / "app"
    shutil.copytree(APP, app)
    size = settings["parameters"] // TENSORS
    values = {name: settings[name] for name in ("rounds", "collaborators")}
    (app / "pyproject.toml").write_text(PROJECT.format(size=size, tensors=TENSORS, **values))
    home = stage.folder / "flwr"
    home.mkdir()
    (home / "config.toml").write_text(CONNECTION.format(port=port))
    # programs find each other by name
    path = f"{BIN}:{stage.environment['PATH']}"
    stage.environment |= {"FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "PATH": path}
    command = [BIN / "flower-superlink", "--insecure", "--disable-runtime-dependency-installation"]
    server = stage.start("server", *command, "--port", str(port))
    stage.listening(port)

    def start() -> None:
        for index in range(settings["collaborators"]):
            own = free_port()
            node = [BIN / "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}", "--port", str(own)]
            stage.start(f"node-{index}", *node, FLWR_HOME=str(stage.folder / f"flwr-{index}"))
            stage.listening(own)
        stage.run("run", BIN / "flwr", "run", app, "here", cwd=app)

    return [server], start


if __name__ == "__main__":
    play(begin)
