"""NVFlare: its proof-of-concept federation of processes with its certificates, and the FedAvg recipe for NumPy."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

from stage import TENSORS, Stage, play

BIN = Path(sys.executable).parent
HERE = Path(__file__).parent
REQUEST_SECONDS = 0.05  # between a client's questions for a task, tuned; 2 as it comes


def job(values: list[str]) -> None:
    """Prepare and start the processes, and submit the job: this program's second face."""
    import numpy as np
    from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
    from nvflare.recipe.poc_env import PocEnv

    parameters, collaborators, rounds = map(int, values[:3])
    folder = Path(values[3])
    # its models for NumPy are one array
    np.save(folder / "initial.npy", np.ones((TENSORS, parameters // TENSORS), np.float32))
    recipe = NumpyFedAvgRecipe(
        name="rounds",
        initial_ckpt=str(folder / "initial.npy"),
        min_clients=collaborators,
        num_rounds=rounds,
        train_script=str(HERE / "nvflare_client.py"),
    )
    if values[4] == "True":
        recipe.add_server_config({"server": {"task_request_interval": REQUEST_SECONDS}})
    run = recipe.execute(PocEnv(num_clients=collaborators))
    print(json.dumps({"job": run.get_job_id()}), flush=True)


def begin(stage: Stage) -> tuple[list[str], Callable[[], None]]:
    settings = stage.settings
    poc = stage.folder / "poc"
    stage.environment |= {"NVFLARE_POC_WORKSPACE": str(poc), "PATH": f"{BIN}:{stage.environment['PATH']}"}
    values = [str(settings[name]) for name in ("parameters", "collaborators", "rounds")]

    def start() -> None:
        stage.start("job", sys.executable, __file__, "job", *values, stage.folder, str(settings["tuned"]))

    return [f"{poc}/example_project/prod_00/server"], start


if __name__ == "__main__":
    if sys.argv[1:2] == ["job"]:
        job(sys.argv[2:])
    else:
        play(begin)
