"""Pickle OpenFL 1.6's aggregation functions as its frontend does, and keep them in the file of this Python in ``functions``.

Run with a Python that has ``openfl==1.6`` and cloudpickle.
"""

from __future__ import annotations

import base64
import json
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
from openfl.interface import aggregation_functions as functions
from openfl.interface.aggregation_functions.core import AdaptiveAggregation
from openfl.interface.interactive_api.experiment import ModelInterface, TaskInterface
from openfl.utilities.optimizers.numpy import NumPyYogi
from openfl.utilities.types import SingletonABCMeta


def params() -> dict[str, np.ndarray]:
    """Return new parameters: arrays of C's and of Fortran's order, one without axes, one cut out of a larger one."""
    wide = np.arange(12, dtype=np.float32).reshape(3, 4)
    return {"c": wide / 8, "f": np.asfortranarray(wide), "one": np.array(2, np.float32), "cut": wide[:, ::2]}


def pickled(function: Any) -> str:
    """Return the text of the file that the frontend writes for a task function with ``function``."""
    tasks = TaskInterface()

    @tasks.set_aggregation_function(function)  # type: ignore[untyped-decorator]
    @tasks.register_fl_task(model="model", data_loader="data", device="device", optimizer="optimizer")  # type: ignore[untyped-decorator]
    def train(model: Any, data: Any, device: Any, optimizer: Any) -> None:
        """Do nothing."""

    return base64.b64encode(cloudpickle.dumps(tasks.aggregation_functions)).decode()


class Adapter:
    """Gives the tensors of a model that is a dictionary."""

    @staticmethod
    def get_tensor_dict(model: Any, optimizer: Any = None) -> Any:
        """Return the model."""
        return model


def made() -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield each function by its name here."""
    for name in ("WeightedAverage", "Median", "GeometricMedian", "FedCurvWeightedAverage"):
        yield name, getattr(functions, name)
    yield "Adam", lambda: functions.AdamAdaptiveAggregation(params=params())
    yield (
        "Adam with settings",
        lambda: functions.AdamAdaptiveAggregation(
            agg_func=functions.Median(),
            params={"c": params()["c"]},
            learning_rate=0.5,
            betas=(0.5, 0.75),
            initial_accumulator_value=0.1,
            epsilon=0.01,
        ),
    )
    model = ModelInterface(params(), None, "make.Adapter")
    yield "Adam of a model", lambda: functions.AdamAdaptiveAggregation(model_interface=model, learning_rate=0.25)
    yield (
        "Adagrad",
        lambda: functions.AdagradAdaptiveAggregation(params=params(), learning_rate=np.float64(0.5), epsilon=0.001),
    )
    yield "Yogi", lambda: AdaptiveAggregation(NumPyYogi(params=params()), functions.WeightedAverage())


def main() -> None:
    """Write the file."""
    sys.modules["make"] = sys.modules["__main__"]
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    kept = {"python": platform.python_version(), "cloudpickle": cloudpickle.__version__, "numpy": np.__version__}
    for name, make in made():
        SingletonABCMeta._instances.clear()
        kept[name] = pickled(make())
    folder = Path(__file__).with_name("functions")
    folder.mkdir(exist_ok=True)
    (folder / f"python{python}.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
