"""The frontend: connect to a federation, submit an experiment, follow it, take the model.

>>> async with Federation("director.example", 50051, tls=tls) as federation:
...     run = await federation.submit(Experiment(name="digits", workspace=Path("work"), task_runner="task.Digits", rounds=10))
...     async for metric in run.metrics():
...         print(metric)
...     model = await run.best_model()
"""

from __future__ import annotations

from openfl_aio.experiment.experiment import Experiment
from openfl_aio.experiment.federation import Federation
from openfl_aio.experiment.run import Run

__all__ = ["Experiment", "Federation", "Run"]
