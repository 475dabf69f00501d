"""One federation from its beginning to its end, with a server that is killed on the way."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import anyio
import anyio.to_thread

from openfl_aio.domain import Metric, ModelKind
from openfl_aio.errors import OpenFLAioError
from openfl_aio.plan.plan import Plan
from openfl_aio.storage.models import ModelFiles
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.transport.channel import call_with_retries, translate
from openfl_aio.wire import convert
from openfl_aio.wire.messages import aggregator
from tests.crash.catalogue import Case
from tests.crash.checker import Reference, judge, reference_of
from tests.crash.experiments import DirectorClients
from tests.crash.following import read_all
from tests.crash.history import History, Model, Uploaded, digest_model
from tests.crash.replay import replay
from tests.crash.server import WITNESS, Kill, Life, Server, ServerEnded
from tests.crash.sites import RETRY, take_part
from tests.crash.targets import Targets

__all__ = ["Played", "play"]

PLAY_SECONDS: Final = 300.0
LEAVE_SECONDS: Final = 10.0


@dataclass(slots=True)
class Played:
    """What came of one federation."""

    case: Case
    lives: list[Life] = field(default_factory=list)
    history: History = field(default_factory=History)
    reference: Reference | None = None
    at_points: int = 0
    at_random: int = 0
    broken: list[str] = field(default_factory=list)

    @property
    def kills(self) -> int:
        """How often the server was killed."""
        return self.at_points + self.at_random

    @property
    def answered(self) -> int:
        """How many uploads were answered OK for the first time."""
        return sum(not seen.again for call in self.history.calls if isinstance(seen := call.seen, Uploaded))

    @property
    def slowest(self) -> float:
        """The longest time from a start to the first answer, in seconds."""
        return max((life.first_answer or 0.0 for life in self.lives), default=0.0)


async def play(
    case: Case, folder: Path, *, kills: int, targets: Targets, reference: Reference | None, seed: int
) -> Played:
    """Play ``case`` with a server that is killed ``kills`` times, and judge what the clients saw."""
    player = _Player(case, folder, kills=kills, targets=targets, seed=seed)
    played = player.played
    try:
        with anyio.fail_after(PLAY_SECONDS):
            await player.run()
    except TimeoutError:
        played.broken.append(f"the federation did not end within {PLAY_SECONDS:g} s: {player.server.tail()}")
        return played
    except ExceptionGroup as group:
        errors = [str(error) or type(error).__name__ for error in _leaves(group)]
        played.broken.append(f"{' and '.join(dict.fromkeys(errors))}; the server's log ends: {player.server.tail()}")
        return played
    if case.cutoff is not None:
        initial = await player.server.initial_model()
        expected, unfit = await anyio.to_thread.run_sync(replay, case, played.history, initial)
        played.broken += unfit
    else:
        expected = reference_of(played.history) if reference is None else reference
    if all(life.first_answer is None for life in played.lives):
        played.broken.append("no start was ever measured: the probe's calls are not answered")
    if not played.broken:
        played.broken += judge(played.history, expected)
    played.reference = expected
    return played


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    found: list[BaseException] = []
    for error in group.exceptions:
        found += _leaves(error) if isinstance(error, BaseExceptionGroup) else [error]
    return found


class _Player:
    def __init__(self, case: Case, folder: Path, *, kills: int, targets: Targets, seed: int) -> None:
        self.case = case
        self.server = Server(folder, case)
        self.played = Played(case, lives=self.server.lives)
        self._history = self.played.history
        self._targets = targets
        self._kills = kills
        self._seed = seed
        self._random = random.Random(f"{seed}:{case.name}")
        self._director = DirectorClients(self.server, self._history, self.played.broken, seed=seed)
        self._over = anyio.Event()  # every client knows all that it wants to know
        self._known = anyio.Event()  # ... and all but who keeps the aggregator going

    async def run(self) -> None:
        await self.server.prepare()
        async with anyio.create_task_group() as group:
            group.start_soon(self._keep_serving)
            if self.case.director:
                await self._director.run(known=self._known)
            else:
                await self._as_federation()
            self._over.set()
        if self.case.director:
            await self._director.look_at_files()
        else:
            await self._look_at_files()

    # --- the server -----------------------------------------------------------------------------------------------

    async def _keep_serving(self) -> None:
        """Start the server whenever it was killed, and kill it, until all is over."""
        died_at: tuple[str, int] | None = None
        once_more = False
        while once_more or not self._over.is_set():
            was_over, once_more = self._over.is_set(), False
            target: Kill | None = None
            at_random = False
            if not was_over and self.played.kills < self._kills and len(self.server.lives) < 3 * self._kills:
                at_random = self._random.random() < 0.25
                target = None if at_random else self._targets.next(first=not self.server.lives)
            async with self.server.life(target) as life, anyio.create_task_group() as group:
                if at_random:
                    group.start_soon(self._kill_soon, life)
                group.start_soon(self._end_with_clients)
                await self.server.ended()
                group.cancel_scope.cancel()
            self._targets.learn(life, first=len(self.server.lives) == 1, after=died_at)
            died_at = None if target is None else self._targets.note(target, life)
            if died_at is not None:
                self.played.at_points += 1
            elif at_random and life.code == -9 and not self._over.is_set():
                self.played.at_random += 1
            if life.code == 0 and self._known.is_set():
                self._look_for_leftovers()
                return
            if life.code != -9:
                raise ServerEnded(f"the server ended by itself with code {life.code}")
            await self._look_for_torn_files()
            # killed when all were told, perhaps before the last file was written: its operator starts it again
            once_more = self._over.is_set() and not was_over and not self.case.director

    async def _kill_soon(self, life: Life) -> None:
        """Kill the server while it starts, or at work."""
        if self._random.random() < 0.3:
            await anyio.sleep(self._random.uniform(0.3, 1.0))
        else:
            while life.first_answer is None:
                await anyio.sleep(0.005)
            await anyio.sleep(self._random.uniform(0.0, 0.4))
        self.server.kill()

    async def _end_with_clients(self) -> None:
        """End a director, which does not end by itself; an aggregator does, once everybody was told to quit."""
        await self._over.wait()
        if not self.case.director:
            await anyio.sleep(LEAVE_SECONDS)
        self.server.kill()

    async def _look_for_torn_files(self) -> None:
        """Load every file that has a name of its own: whenever the process died, each is whole."""
        for path in [*self.server.folder.glob("save/*.pbuf"), *self.server.folder.rglob("models/*/*.pbuf")]:
            try:
                await ModelFiles(pipeline=self.case.pipeline).load(path)
            except OpenFLAioError as exc:
                self.played.broken.append(f"a file is torn: {exc}")

    def _look_for_leftovers(self) -> None:
        """See that an aggregator that left by itself took along what its former lives had not finished."""
        left = [str(path.relative_to(self.server.folder)) for path in self.server.folder.rglob(".*.partial")]
        if left:
            self.played.broken.append(f"left behind: {left[:3]}")

    async def _look_at_files(self) -> None:
        """Note the models that an aggregator leaves in files."""
        for kind in ("last", "best"):
            saved = await ModelFiles().load(self.server.folder / "save" / f"{kind}.pbuf")
            self._history.note("file", kind, Model(kind, digest_model(saved.tensors)))

    # --- the clients ----------------------------------------------------------------------------------------------

    async def _as_federation(self) -> None:
        plan = self.server.plan
        async with anyio.create_task_group() as group:
            group.start_soon(self._witness)
            for site in self.case.collaborators:
                config = plan.collaborator_config(site, endpoint=self.server.endpoint, tls=self.server.tls_of(site))
                group.start_soon(self._site, config, plan)

    async def _site(self, config: Any, plan: Plan) -> None:
        await take_part(config, self.case, self._history, tasks=plan.tasks, seed=self._seed)

    async def _witness(self) -> None:
        """Read what the aggregator tells of the federation, to its end, and only then ask for tasks oneself."""
        plan = self.server.plan
        async with self.server.channel() as channel:
            stub = aggregator.AggregatorStub(channel)
            request = aggregator.GetMetricStreamRequest(experiment_name=plan.federation_uuid)

            async def stream() -> AsyncIterator[Metric]:
                with translate():
                    async for message in stub.get_metric_stream(request):
                        yield convert.metric_from_proto(message)

            async def model(kind: ModelKind) -> str | None:
                wanted = aggregator.GetTrainedModelRequest(
                    experiment_name=plan.federation_uuid,
                    model_type=aggregator.GetTrainedModelRequestModelType(kind.value),
                )
                reply = await call_with_retries(RETRY, lambda: stub.get_trained_model(wanted), what="GetTrainedModel")
                tensors = () if reply.model_proto is None else convert.model_from_proto(reply.model_proto)
                return digest_model({t.name: TensorCodec().decode(t) for t in tensors}) if tensors else None

            await read_all(self._history, stream, model)
        self._known.set()
        config = plan.collaborator_config(WITNESS, endpoint=self.server.endpoint, tls=self.server.tls_of(WITNESS))
        await take_part(config, self.case, self._history, tasks=plan.tasks)
