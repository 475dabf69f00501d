"""A director, its envoys and two frontends on virtual time: the programs as they are, down to their frames and files."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import anyio
import anyio.abc
import numpy as np

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.config import CollaboratorConfig, DirectorConfig, Endpoint, EnvoyConfig, RetryPolicy
from openfl_aio.director.service import Director
from openfl_aio.domain import Assignment, ExperimentStatus, Metric, TensorQuery
from openfl_aio.envoy.envoy import Envoy
from openfl_aio.errors import AlreadyExistsError, ExperimentNotFoundError, OpenFLAioError, TransportError
from openfl_aio.experiment import Experiment, Federation, Run
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.transport.identity import Caller
from tests.crash.checker import AGGREGATOR
from tests.crash.history import (
    Call,
    Fetched,
    History,
    Metrics,
    Model,
    Observation,
    Tasks,
    Uploaded,
    digest,
    digest_model,
    digest_upload,
)
from tests.simulate.directed import DIRECTOR, Directed
from tests.simulate.machine import simulated
from tests.simulate.network import Network, SimulatedLoop
from tests.simulate.process import Process
from tests.simulate.schedule import Death
from tests.simulate.site import initial_model

__all__ = ["Directing", "direct"]

ENDPOINT: Final = Endpoint(host="127.0.0.1", port=50051)
PLAY_SECONDS: Final = 4 * 3600.0
SETTLED_SECONDS: Final = 900.0  # then everybody is where they were before the experiments
FRONTEND: Final = RetryPolicy(max_elapsed=600.0)
USER: Final = "user"
FOLLOWERS: Final = ("owner", "watcher")
MODELS: Final = ("last", "best")


@dataclass(slots=True)
class Directing:
    """What everybody saw of one schedule. ``histories`` are by experiment; ``error`` says why it did not come to its end.

    ``died`` counts the deaths by process, ``trace`` is a digest of all that happened, in order.
    """

    schedule: Directed
    histories: dict[str, History] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    died: dict[str, int] = field(default_factory=dict)
    stopped: int = 0
    breaks: int = 0
    seconds: float = 0.0
    trace: str = ""
    error: str = ""
    events: list[str] = field(default_factory=list)

    @property
    def answered(self) -> int:
        """How many uploads were answered."""
        return sum(len(history.answered(Uploaded)) for history in self.histories.values())


def direct(schedule: Directed) -> Directing:
    """Play a schedule to its end, on an event loop of its own."""
    played = Directing(schedule)
    network = Network(schedule.seed, schedule.links)
    with simulated(schedule.seed) as folder, asyncio.Runner(loop_factory=lambda: SimulatedLoop(network)) as runner:
        runner.run(_House(played, network, folder).run())
    played.events = network.events
    played.breaks = network.broken
    played.trace = hashlib.sha256("\n".join(network.events).encode()).hexdigest()[:16]
    return played


class _House:
    def __init__(self, played: Directing, network: Network, folder: Path) -> None:
        self.played = played
        self.schedule = played.schedule
        self.network = network
        self.folder = folder
        self.names = [f"experiment_{number}" for number in range(self.schedule.experiments)]
        self.lives: dict[str, Process] = {}
        self.envoys: dict[str, Envoy] = {}
        self.director: Director | None = None
        self._background: anyio.abc.TaskGroup
        self._numbers: dict[str, int] = {}
        played.histories = {name: History() for name in self.names}

    async def run(self) -> None:
        try:
            with anyio.fail_after(PLAY_SECONDS):
                await self._run()
        except TimeoutError:
            self.played.error = f"it did not end within {PLAY_SECONDS:g} s"
        except (OpenFLAioError, ExceptionGroup) as exc:
            self.played.error = " and ".join(dict.fromkeys(_leaves(exc)))
        self.played.seconds = anyio.current_time()

    async def _run(self) -> None:
        (self.folder / "work").mkdir()
        (self.folder / "work" / "readme").write_text("what every site gets")
        async with anyio.create_task_group() as background:
            self._background = background
            async with anyio.create_task_group() as keepers:
                keepers.start_soon(self._keep_directing)
                for name in self.schedule.collaborators:
                    keepers.start_soon(self._keep_working, name)
                async with anyio.create_task_group() as frontends:
                    for who in FOLLOWERS:
                        frontends.start_soon(_Frontend(self, who).run)
                await self._settle()
                self.lives[DIRECTOR].kill()  # what was told holds after one more death
                self.director = None
                if not self.schedule.removes:
                    await _Frontend(self, "auditor").run()
                await self._settle()
                keepers.cancel_scope.cancel()
            lives = list(self.lives.values())
            for life in lives:
                life.stop()
            for life in lives:
                await life.gone.wait()
            background.cancel_scope.cancel()
        self._look_at_the_disk()

    async def _settle(self) -> None:
        """Wait until all envoys wait for more, and nobody has to be told anything."""
        with anyio.move_on_after(SETTLED_SECONDS) as scope:
            while not self.is_settled:
                await anyio.sleep(1)
        if scope.cancelled_caught:
            working = sorted(name for name, envoy in self.envoys.items() if envoy.running)
            self.played.broken.append(
                f"it did not come to rest: working {working}, "
                f"waiting {0 if self.director is None else self.director.parked} of {self.schedule.sites} envoys"
            )

    @property
    def is_settled(self) -> bool:
        """Whether all envoys wait for more."""
        return (
            self.director is not None
            and self.director.parked == self.schedule.sites
            and not any(envoy.running for envoy in self.envoys.values())
        )

    def _look_at_the_disk(self) -> None:
        """Find what is left of federations of which everybody knows that they are over."""
        folders = ["director/federations", "director/journal", *(f"{name}/runs" for name in self.envoys)]
        if self.schedule.removes:
            folders += ["director/archives", "director/models"]
        left = [
            str(path.relative_to(self.folder)) for below in folders for path in sorted((self.folder / below).rglob("*"))
        ]
        if left and not self.played.error:
            self.played.broken.append(f"left behind: {left[:4]}")

    def why(self, name: str) -> str:
        """Return what the director says of the end of an experiment."""
        return "" if self.director is None else self.director.error_of(Caller(USER, authenticated=False), name)

    # --- processes ------------------------------------------------------------------------------------------------

    async def live(self, name: str, main: Callable[[], Awaitable[object]], death: Death | None = None) -> Process:
        """Run ``main`` as a process, until it has ended or is dead; what it raised is its failure."""
        number = self._numbers.get(name, 0)
        self._numbers[name] = number + 1
        process = Process(name, number, self.network, disk=self.schedule.disk, death=death)
        self.lives[name] = process
        self.network.trace(f"{process!r} begins")
        self._background.start_soon(process.run, main)
        await process.over.wait()
        if process.dead:
            self.played.died[name] = self.played.died.get(name, 0) + 1
        else:
            self.network.trace(f"{process!r} ends: {process.failure!r}")
        return process

    async def _keep_directing(self) -> None:
        deaths, stops = self.schedule.of(DIRECTOR), list(self.schedule.stops)
        draw = random.Random(f"keeper of the director {self.schedule.seed}")
        while True:
            # an orderly stop takes the place of a death, where there are both
            stop = stops.pop() if stops and draw.random() < 0.5 else None
            death = deaths.pop(0) if deaths and stop is None else None

            async def main(stop: float | None = stop) -> None:
                await self._direct(stop)

            process = await self.live(DIRECTOR, main, death)
            self.director = None
            if process.failure is not None:
                raise process.failure
            await anyio.sleep(draw.uniform(0, draw.choice((3.0, 60.0))))

    async def _direct(self, stop: float | None) -> None:
        config = DirectorConfig(
            listen=ENDPOINT, sample_shape=("1",), target_shape=("1",), workspace=self.folder / "director"
        )
        async with Director(config) as director:
            self.director = director
            self.network.trace("the director serves")
            await (anyio.sleep_forever() if stop is None else anyio.sleep(stop))
            self.director = None
            self.played.stopped += 1
            self.network.trace("the director stops")

    async def _keep_working(self, name: str) -> None:
        deaths = self.schedule.of(name)
        draw = random.Random(f"keeper of {name} {self.schedule.seed}")
        config = EnvoyConfig(
            name=name,
            director=ENDPOINT,
            shard_template="tests.simulate.site.Shard",
            workspace=self.folder / name,
        )
        while True:
            envoy = Envoy(config, aggregator=lambda config: _Recorder(self, config))
            self.envoys[name] = envoy
            process = await self.live(name, envoy.run, deaths.pop(0) if deaths else None)
            # one that finds no director for a minute ends, and whoever started it starts it again
            if process.failure is not None and not isinstance(process.failure, TransportError):
                raise process.failure
            await anyio.sleep(draw.uniform(0, 10))


class _Recorder:
    """An `AggregatorClient` of a site, all of whose answers are noted."""

    def __init__(self, house: _House, config: CollaboratorConfig) -> None:
        self._client = AggregatorClient(config)
        self._site = config.name
        self._trace = house.network.trace
        self._history = house.played.histories[house.envoys[config.name].running]
        self._codec = TensorCodec(config.pipeline)

    async def __aenter__(self) -> Self:
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._client.__aexit__(kind, exc, traceback)

    def _end(self, call: Call, seen: Observation) -> None:
        self._history.end(call, seen)
        self._trace(f"{call.site} {call.what}: {seen}")

    async def get_tasks(self) -> Assignment:
        """Ask what to do."""
        call = self._history.begin(self._site, "GetTasks")
        answer = await self._client.get_tasks()
        # whoever says after a restart that the federation is over need not know how many rounds it had
        number = 0 if answer.quit else answer.round_number
        self._end(call, Tasks(number, tuple(task.name for task in answer.tasks), answer.quit))
        return answer

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        """Fetch a tensor."""
        return (await self.get_aggregated_tensors([query]))[0]

    async def get_aggregated_tensors(self, queries: Sequence[TensorQuery]) -> list[EncodedTensor]:
        """Fetch several tensors."""
        call = self._history.begin(self._site, "GetTensors")
        found = await self._client.get_aggregated_tensors(queries)
        self._trace(f"{self._site} has {len(found)} tensors")
        for query, encoded in zip(queries, found, strict=True):
            values = np.ascontiguousarray(self._codec.decode(encoded))
            call = self._history.begin(self._site, f"{query.tensor_name} of {query.round_number}")
            self._end(call, Fetched(query.tensor_name, query.round_number, query.tags, digest(values)))
        return found

    async def send_local_task_results(
        self, *, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
    ) -> None:
        """Hand in results."""
        tensors = tuple(tensors)
        call = self._history.begin(self._site, "SendLocalTaskResults")
        await self._client.send_local_task_results(
            round_number=round_number, task_name=task_name, data_size=data_size, tensors=tensors
        )
        self._end(call, Uploaded(round_number, task_name, digest_upload(data_size, tensors)))


class _Frontend:
    """A user's program: the ``owner`` submits and follows, and a ``watcher`` follows what the owner has submitted.

    What was acknowledged to one of them must be so for ever.
    """

    def __init__(self, house: _House, name: str) -> None:
        self._house = house
        self._name = name
        self._accepted: set[str] = set()

    async def run(self) -> None:
        process = await self._house.live(self._name, self._main)
        if process.failure is not None:
            raise process.failure

    async def _main(self) -> None:
        house = self._house
        async with Federation(ENDPOINT.host, ENDPOINT.port, client_id=USER, retry=FRONTEND) as federation:
            if house.schedule.together:
                async with anyio.create_task_group() as group:
                    for name in house.names:
                        group.start_soon(self._follow, federation, name)
            else:
                for name in house.names:
                    await self._follow(federation, name)

    async def _follow(self, federation: Federation, name: str) -> None:
        house, history = self._house, self._house.played.histories[name]
        await self._find(federation, name)
        run = federation.run(name)
        house.network.trace(f"{self._name} follows {name}")
        status = ExperimentStatus.PENDING
        while not status.ended:
            metrics = [_named(metric) async for metric in run.metrics()]
            status = await run.status()
            history.note(self._name, "GetMetricStream", Metrics(tuple(metrics), status.ended))
            house.network.trace(f"{self._name} has {len(metrics)} metrics of {name}, which is {status.value}")
            if not status.ended:
                await anyio.sleep(0.05)
        if status is not ExperimentStatus.FINISHED:
            house.played.broken.append(f"{name} ended as {status.value}: {house.why(name)}")
            return
        for kind, take in zip(MODELS, (run.last_model, run.best_model), strict=True):
            history.note(self._name, "GetTrainedModel", Model(kind, digest_model(await take())))
        house.network.trace(f"{self._name} has the models of {name}")
        if house.schedule.removes and self._name == FOLLOWERS[0]:
            await self._remove(run)

    async def _find(self, federation: Federation, name: str) -> None:
        """Wait until an experiment has begun: one that is pending and that nobody was told was accepted may be lost."""
        status: ExperimentStatus | None = ExperimentStatus.PENDING
        while status in (None, ExperimentStatus.PENDING):
            status = {summary.name: summary.status for summary in await federation.experiments()}.get(name)
            if status is None and name in self._accepted:
                raise ExperimentNotFoundError(f"{name} was accepted, and is lost")
            if status is None and self._name == FOLLOWERS[0]:
                await self._submit(federation, name)
            elif status in (None, ExperimentStatus.PENDING):
                await anyio.sleep(2)

    async def _remove(self, run: Run) -> None:
        """Remove an experiment when nobody follows it any more, and everybody knows that it is over."""
        house, history = self._house, self._house.played.histories[run.name]
        while len(history.answered(Model)) < len(MODELS) * len(FOLLOWERS) or not house.is_settled:
            await anyio.sleep(1)
        await run.remove()
        self._house.network.trace(f"{self._name} has removed {run.name}")

    async def _submit(self, federation: Federation, name: str) -> None:
        """Submit, again if it is not known whether it arrived: then the name may be taken, by ourselves."""
        schedule = self._house.schedule
        experiment = Experiment(
            name=name,
            workspace=self._house.folder / "work",
            task_runner="tests.simulate.site.Trainer",
            rounds=schedule.rounds,
            initial_model=initial_model(),
            aggregation=schedule.aggregation,
            collaborators=schedule.collaborators,
            delta_updates=schedule.delta_updates,
        )
        while True:
            try:
                await federation.submit(experiment)
            except AlreadyExistsError:
                return
            except TransportError as exc:
                self._house.network.trace(f"{self._name}: {name} may not have arrived: {type(exc).__name__}")
                await anyio.sleep(2)
            else:
                self._accepted.add(name)
                self._house.network.trace(f"{self._name} has submitted {name}")
                return


def _named(metric: Metric) -> Metric:
    """Return a metric under the name that all aggregators have here."""
    return replace(metric, origin=AGGREGATOR) if metric.origin.startswith(AGGREGATOR) else metric


def _leaves(exc: BaseException) -> list[str]:
    if isinstance(exc, BaseExceptionGroup):
        return [text for error in exc.exceptions for text in _leaves(error)]
    return [f"{type(exc).__name__}: {exc}"]
