"""A federation on virtual time: a server that dies and comes back, sites behind a bad network, and a reader of metrics."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import anyio
import anyio.abc
import numpy as np
from numpy.typing import NDArray

from openfl_aio.aggregator.api import get_each
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.task_runner import TaskContext, TaskOutput
from openfl_aio.config import RetryPolicy
from openfl_aio.domain import Assignment, Header, Metric, ModelKind, TensorQuery, Verdict
from openfl_aio.errors import (
    AlreadyExistsError,
    ConnectError,
    ConnectionLostError,
    NotFoundError,
    OpenFLAioError,
)
from openfl_aio.storage.federations import Line
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.testing.clock import AutojumpEventLoop
from openfl_aio.transport.channel import call_with_retries
from openfl_aio.wire.incremental import encode_task_results
from tests.crash.history import (
    Fetched,
    History,
    Metrics,
    Model,
    Tasks,
    Upload,
    Uploaded,
    digest,
    digest_model,
    digest_upload,
)
from tests.simulate.disk import Disk, Killed, Life
from tests.simulate.schedule import AGGREGATOR, Schedule
from tests.simulate.site import initial_model, work

__all__ = ["Ack", "Played", "play"]

T = TypeVar("T")

RETRY: Final = RetryPolicy(first_delay=0.2, max_delay=10.0, max_elapsed=600.0)
PLAY_SECONDS: Final = 4 * 3600.0
SILENT_SECONDS: Final = 300.0  # a site that fell silent comes back then, also if the round is not over
CALLS_OF_A_ROUND: Final = 5  # two tensors are fetched, three results are handed in
READER: Final = "reader"


@dataclass(frozen=True, slots=True)
class Ack:
    """The answer to an upload, as the site got it."""

    site: str
    round_number: int
    task_name: str
    verdict: Verdict


@dataclass(slots=True)
class Played:
    """What everybody saw of one schedule, and what the server kept.

    ``lines`` are the log that the federation had when it was over, ``attempts`` the most that one call took. ``error``
    says why the schedule did not come to its end.
    """

    schedule: Schedule
    history: History = field(default_factory=History)
    acks: list[Ack] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)
    attempts: int = 0
    lives: int = 0
    died: int = 0
    stopped: int = 0
    refused: int = 0
    seconds: float = 0.0
    left_behind: bool = False
    error: str = ""


class _SiteDied(Exception):
    """A site's process is no more; another one of its name begins."""


def play(schedule: Schedule) -> Played:
    """Play a schedule to its end, on an event loop of its own."""
    world = _World(schedule)
    with asyncio.Runner(loop_factory=AutojumpEventLoop) as runner:
        runner.run(world.run())
    return world.played


class _World:
    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.played = Played(schedule)
        self.history = self.played.history
        self.disk = Disk(schedule)
        self.life: Life | None = None
        self.moved = anyio.Event()  # somebody learnt of a later round
        self._over = anyio.Event()
        self._background: anyio.abc.TaskGroup

    async def run(self) -> None:
        try:
            with anyio.fail_after(PLAY_SECONDS):
                await self._run()
        except TimeoutError:
            self.played.error = f"it did not end within {PLAY_SECONDS:g} s"
        except (OpenFLAioError, ExceptionGroup) as exc:
            self.played.error = " and ".join(dict.fromkeys(_leaves(exc)))
        self.played.lines, self.played.died, self.played.refused = self.disk.lines, self.disk.died, self.disk.refused
        self.played.seconds = anyio.current_time()

    async def _run(self) -> None:
        async with anyio.create_task_group() as background:
            self._background = background
            async with anyio.create_task_group() as group:
                group.start_soon(self._keep_serving)
                async with anyio.create_task_group() as clients:
                    for name in self.schedule.collaborators:
                        clients.start_soon(_Site(self, name).take_part)
                    clients.start_soon(self._read)
                self._over.set()
            background.cancel_scope.cancel()
        self.played.left_behind = not await self.disk.is_empty()

    def later(self, function: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something that nobody waits for."""
        self._background.start_soon(function)

    # --- the server -----------------------------------------------------------------------------------------------

    async def _keep_serving(self) -> None:
        deaths = list(self.schedule.deaths)
        draw = random.Random(f"server {self.schedule.seed}")
        while True:
            life = Life(self.disk, deaths.pop(0) if deaths else None, self.played.lives)
            self.played.lives += 1
            try:
                await self._live(life)
                if not life.stopped:
                    return
                self.played.stopped += 1
            except BaseExceptionGroup as group:
                _, others = group.split(Killed)
                if others is not None or not life.dead:
                    raise
            except Killed:
                pass
            finally:
                self.life = None
            await anyio.sleep(draw.uniform(0, 3))

    async def _live(self, life: Life) -> None:
        async with anyio.create_task_group() as group:
            if life.death is not None and life.death.seconds is not None:
                end = self._stop_later if life.death.stops else self._kill_later
                group.start_soon(end, life, life.death.seconds)
            aggregator = Aggregator(
                self.schedule.config(),
                initial_model=initial_model(),
                storage=life.storage(),
                offload=life.offload,
            )
            async with aggregator:
                life.aggregator, self.life = aggregator, life
                group.start_soon(self._end_with_clients, life)
                await life.over.wait()
                self.life = None
                life.check()
                if not life.stopped:
                    with anyio.fail_after(100):  # they all know; after a restart one more long poll is waited for
                        await aggregator.wait_complete()
                        await aggregator.wait_quits_sent()
                life.check()
            group.cancel_scope.cancel()

    async def _kill_later(self, life: Life, seconds: float) -> None:
        await anyio.sleep(seconds)
        life.kill()

    async def _stop_later(self, life: Life, seconds: float) -> None:
        await anyio.sleep(seconds)
        if self.life is not life:
            return  # it does not serve yet, or everybody is gone
        self.life = None  # as its network would: no new calls, a moment for those that are there
        await anyio.sleep(1)
        assert life.aggregator is not None
        if life.aggregator.phase.ended and not life.dead:
            self.life = life  # one that is over and is stopped has ended, and the next would begin anew
        else:
            life.stop()

    async def _end_with_clients(self, life: Life) -> None:
        await self._over.wait()
        life.over.set()

    # --- who reads what it tells ----------------------------------------------------------------------------------

    async def _read(self) -> None:
        """Follow the log of metrics from its beginning, anew after each death; at the end fetch the models."""
        whole = False
        while not whole:
            metrics: list[Metric] = []

            async def follow(aggregator: Aggregator, metrics: list[Metric] = metrics) -> None:
                metrics.extend([metric async for metric in aggregator.metrics()])

            whole = await self._ask(follow) is not None
            self.history.note(READER, "GetMetricStream", Metrics(tuple(metrics), whole))
        for _ in range(2):
            for kind in (ModelKind.LAST, ModelKind.BEST):
                model = await self._model(kind)
                self.history.note(READER, "GetTrainedModel", Model(kind.name.lower(), digest_model(model)))

    async def _model(self, kind: ModelKind) -> Mapping[str, NDArray[np.float32]]:
        async def fetch(aggregator: Aggregator) -> Mapping[str, NDArray[np.float32]]:
            await anyio.sleep(0.1)
            return aggregator.model(kind) or {}

        while True:
            if model := await self._ask(fetch):
                return model[0]

    async def _ask(self, call: Callable[[Aggregator], Awaitable[T]]) -> list[T] | None:
        """Return the answer, None if there is none because the server is not there or died."""
        life = self.life
        try:
            if life is not None:
                return [await life.serve(call)]
        except ConnectionLostError:
            pass
        await anyio.sleep(1)
        return None


class _Trainer:
    """What a `Collaborator` drives."""

    async def tensor_names(self) -> Sequence[str]:
        """Return the names of the model's tensors."""
        return ("b", "w")

    async def run(self, context: TaskContext, tensors: Mapping[str, np.ndarray]) -> TaskOutput:
        """Do a task."""
        return work(context, tensors)


class _Site:
    """A site, and its `AggregatorAPI` over a network that loses, delays, repeats and cuts."""

    def __init__(self, world: _World, name: str) -> None:
        self._world = world
        self._name = name
        self._history = world.history
        self._network = world.schedule.network
        self._config = world.schedule.config()
        self._codec = TensorCodec(self._config.pipeline)
        self._random = random.Random(f"site {world.schedule.seed} {name}")
        self._silent_at: int | None = None
        self._round = -1

    async def take_part(self) -> None:
        """Work until told to quit. A process that died, or that was away for too long, begins anew."""
        while True:
            collaborator = Collaborator(
                name=self._name,
                aggregator=self,
                aggregator_uuid=AGGREGATOR,
                runner=_Trainer(),
                delta_updates=self._world.schedule.delta_updates,
                pipeline=self._config.pipeline,
                offload=_inline,
            )
            try:
                await collaborator.run()
                return
            except _SiteDied:
                await anyio.sleep(self._random.uniform(0, 10))
            except NotFoundError:
                if self._world.schedule.waits_for_all:
                    raise

    async def get_tasks(self) -> Assignment:
        """Ask what to do."""
        self._maybe_die()

        async def ask(aggregator: Aggregator) -> Assignment:
            return await aggregator.get_tasks(self._name)

        call = self._history.begin(self._name, "GetTasks")
        answer = await self._call(ask)
        self._history.end(call, Tasks(answer.round_number, tuple(task.name for task in answer.tasks), answer.quit))
        if answer.round_number > self._round:
            self._enter(answer.round_number)
        return answer

    async def get_aggregated_tensor(self, query: TensorQuery) -> EncodedTensor:
        """Fetch a tensor."""
        self._maybe_die()
        await self._maybe_silent()

        async def fetch(aggregator: Aggregator) -> EncodedTensor:
            return await aggregator.get_aggregated_tensor(self._name, query)

        call = self._history.begin(self._name, f"GetAggregatedTensor {query.tensor_name} of {query.round_number}")
        encoded = await self._call(fetch)
        values = np.ascontiguousarray(self._codec.decode(encoded))
        self._history.end(call, Fetched(query.tensor_name, query.round_number, query.tags, digest(values)))
        return encoded

    async def get_aggregated_tensors(self, queries: Sequence[TensorQuery]) -> list[EncodedTensor]:
        """Fetch several tensors."""
        return await get_each(self.get_aggregated_tensor, queries)

    async def send_local_task_results(
        self, *, round_number: int, task_name: str, data_size: int, tensors: Iterable[EncodedTensor]
    ) -> None:
        """Hand in results; some of them are handed in again with other content."""
        tensors = tuple(tensors)
        self._history.uploads.setdefault((self._name, round_number, task_name), Upload(data_size, tensors))
        await self._maybe_silent()
        named = digest_upload(data_size, tensors)
        again = False
        while True:
            call = self._history.begin(self._name, f"SendLocalTaskResults {task_name} of {round_number}")
            try:
                verdict = await self._call(self._sender(round_number, task_name, data_size, tensors))
                self._world.played.acks.append(Ack(self._name, round_number, task_name, verdict))
            except AlreadyExistsError:
                if not again:
                    raise
            self._history.end(call, Uploaded(round_number, task_name, named, again))
            if again or self._random.random() >= self._network.alter:
                return
            again = True
            data_size += 1000  # it would weigh more than all the others

    def _sender(
        self, round_number: int, task_name: str, data_size: int, tensors: Sequence[EncodedTensor]
    ) -> Callable[[Aggregator], Awaitable[Verdict]]:
        header = Header(self._name, AGGREGATOR, self._config.federation_uuid, "")

        async def send(aggregator: Aggregator) -> Verdict:
            upload = aggregator.upload(self._name)
            try:
                for part in encode_task_results(
                    header=header, round_number=round_number, task_name=task_name, data_size=data_size, tensors=tensors
                ):
                    await upload.feed(part)
                verdict = await upload.finish()
            finally:
                await upload.abort()
            if verdict is Verdict.CONFLICT:
                raise AlreadyExistsError("other results came before")  # as over the network
            return verdict

        return send

    # --- the network ----------------------------------------------------------------------------------------------

    async def _call(self, call: Callable[[Aggregator], Awaitable[T]]) -> T:
        attempts = 0

        async def attempt() -> T:
            nonlocal attempts
            attempts += 1
            self._world.played.attempts = max(self._world.played.attempts, attempts)
            return await self._attempt(call)

        return await call_with_retries(RETRY, attempt, what=self._name, draw=self._random.uniform)

    async def _attempt(self, call: Callable[[Aggregator], Awaitable[T]]) -> T:
        network, rng = self._network, self._random
        # all is drawn at once, so that one schedule has the same draws however its calls interleave
        lost, reply_lost, repeat, cut = (rng.random() for _ in range(4))
        there, back, later, moment = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0, 60), rng.uniform(0, 2)
        await anyio.sleep(network.delay * there)
        life = self._world.life
        if life is None or lost < network.lose_request:
            raise ConnectError("nobody answers")
        if repeat < network.repeat:
            self._world.later(lambda: self._repeat(call, later))
        answer = await life.serve(call, cut=moment if cut < network.cut else None)
        if reply_lost < network.lose_reply:
            raise ConnectionLostError("the answer was lost")
        await anyio.sleep(network.delay * back)
        return answer

    async def _repeat(self, call: Callable[[Aggregator], Awaitable[object]], seconds: float) -> None:
        await anyio.sleep(seconds)
        life = self._world.life
        if life is not None:
            try:
                await life.serve(call)
            except OpenFLAioError:
                pass  # nobody listens

    # --- the site's own faults ------------------------------------------------------------------------------------

    def _enter(self, round_number: int) -> None:
        self._round = round_number
        silent = self._random.random() < self._world.schedule.dropout
        self._silent_at = self._random.randrange(CALLS_OF_A_ROUND) if silent else None
        self._world.moved.set()
        self._world.moved = anyio.Event()

    def _maybe_die(self) -> None:
        """Die, where nothing was handed in of the round: a validation of what was trained needs that at hand."""
        if self._random.random() < self._world.schedule.site_dies:
            raise _SiteDied

    async def _maybe_silent(self) -> None:
        """Be away for the rest of the round, if this is the call before which that happens."""
        if self._silent_at is None:
            return
        self._silent_at -= 1
        if self._silent_at >= 0:
            return
        self._silent_at = None
        number = self._round
        with anyio.move_on_after(SILENT_SECONDS):
            while not self._history.is_over(number):
                await self._world.moved.wait()
        if self._history.is_over(number) and self._random.random() < 0.5:
            raise _SiteDied


async def _inline(function: Callable[[], T]) -> T:
    return function()


def _leaves(exc: BaseException) -> list[str]:
    if isinstance(exc, BaseExceptionGroup):
        return [text for error in exc.exceptions for text in _leaves(error)]
    return [f"{type(exc).__name__}: {exc}"]
