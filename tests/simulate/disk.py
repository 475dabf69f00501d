"""The disk of a server that dies: what outlives it, and how each life of it sees that."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.errors import ConnectionLostError, OpenFLAioError, StorageFullError
from openfl_aio.storage.checkpoint_file import Checkpoint
from openfl_aio.storage.federations import FederationStore, Line, MemoryFederation, Settle, Stored
from openfl_aio.storage.journal import ALL_ROUNDS, Entry, Inspect, InspectEntry, MemoryJournal, Spool, UploadRecord
from openfl_aio.storage.storage import Storage
from openfl_aio.tensors.encoded import Buffer
from tests.simulate.schedule import Death, Schedule

__all__ = ["Disk", "Killed", "Life"]

T = TypeVar("T")


class Killed(BaseException):
    """The process is no more. No code of it handles that, as no code handles SIGKILL."""


class Disk:
    """What outlives a server: committed uploads, kept lines, checkpoints.

    Things that were not to be durable are lost with the power. ``lines`` are all that were kept when the federation was
    forgotten, ``died`` how often a server died, ``refused`` how often there was no room.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        self.uploads = MemoryJournal()
        self.federation = MemoryFederation()
        self.lines: list[Line] = []
        self.died = self.refused = 0
        self._not_durable: list[Callable[[], object]] = []

    async def is_empty(self) -> bool:
        """Return whether nothing is left of the federation."""
        return await self.federation.load() == Stored() and not self.uploads._uploads

    def note_kept(self, *, durable: bool, lose: Callable[[], object]) -> None:
        """Remember how to lose what was kept, until it is durable."""
        if not durable:
            self._not_durable.append(lose)

    def lose_power(self) -> None:
        """Lose all that was never made durable, the newest first."""
        while self._not_durable:
            self._not_durable.pop()()


class Life:
    """One process of the server, from its start to its death."""

    def __init__(self, disk: Disk, death: Death | None, number: int) -> None:
        self.disk = disk
        self.death = death
        self.dead = self.stopped = False
        self.over = anyio.Event()
        self.aggregator: Aggregator | None = None
        self.flushing = 0
        self._random = random.Random(f"life {disk.schedule.seed} {number}")
        self._steps: Counter[str] = Counter()
        self._calls: dict[int, anyio.CancelScope] = {}
        self._number = 0

    def storage(self) -> Storage:
        """Return the disk as this life sees it."""
        return _Storage(self)

    async def offload(self, function: Callable[[], T]) -> T:
        """Run ``function`` after a while, as a worker thread would."""
        await self.step("thread")
        return function()

    async def step(self, name: str) -> None:
        """Come to a step, and die there if it is time. Raises `Killed`, for ever from then on."""
        self.check()
        self._steps[name] += 1
        death = self.death
        if death is not None and death.step == name and self._steps[name] == death.count:
            self.kill()
        self.check()
        await anyio.sleep(self._random.uniform(0, self.disk.schedule.disk))
        self.check()

    def check(self) -> None:
        """Raise `Killed` if the process is dead."""
        if self.dead:
            raise Killed

    def check_room(self) -> None:
        """Raise `StorageFullError` while there is no room."""
        if any(begin <= anyio.current_time() < end for begin, end in self.disk.schedule.full):
            self.disk.refused += 1
            raise StorageFullError("no space; nothing was changed")

    def stop(self) -> None:
        """Let nobody in any more, and end the calls under way: who made them loses the connection."""
        if not self.dead:
            self.stopped = True
            self._end_calls()

    def kill(self) -> None:
        """End the process here and now. Whoever waits for an answer loses the connection."""
        if self.dead:
            return
        self.dead = True
        self.disk.died += 1
        federation = self.disk.federation
        if self.flushing:  # a part of what was being written is there
            kept = self._random.randint(0, len(federation._added))
            federation._lines += federation._added[:kept]
        federation._added.clear()
        if self.disk.schedule.durability == "power":
            self.disk.lose_power()
        self._end_calls()

    def _end_calls(self) -> None:
        for scope in self._calls.values():
            scope.cancel()
        self.over.set()

    async def serve(self, call: Callable[[Aggregator], Awaitable[T]], *, cut: float | None = None) -> T:
        """Return what the server answers to ``call``; the connection breaks after ``cut`` seconds.

        Raises `ConnectionLostError` then, and when the server dies meanwhile.
        """
        aggregator, answers = self.aggregator, []
        assert aggregator is not None, "only a server that has started is called"
        self._number += 1
        number = self._number
        with anyio.CancelScope() as scope:
            self._calls[number] = scope
            if cut is not None:
                scope.deadline = anyio.current_time() + cut
            try:
                answers.append(await call(aggregator))
            except Killed:
                pass
            except OpenFLAioError:
                if not self.dead:
                    raise
            finally:
                del self._calls[number]
        if self.dead or not answers:
            raise ConnectionLostError("the connection broke")
        return answers[0]


class _Storage(Storage):
    def __init__(self, life: Life) -> None:
        super().__init__(None)
        self.journal = _Journal(life)
        self._store = _Federation(life)

    def federation(self, uuid: str) -> FederationStore:
        return self._store


class _Journal:
    """A `Journal` that takes its time, and on whose way the process may die."""

    def __init__(self, life: Life) -> None:
        self._life = life

    def spool(self, *, durable: bool = True) -> Spool:
        return _Spool(self._life, self._life.disk.uploads.spool(), durable)

    async def entries(self, federation_uuid: str, round_number: int) -> list[Entry]:
        await self._life.step("entries")
        return await self._life.disk.uploads.entries(federation_uuid, round_number)

    async def drop(self, federation_uuid: str, before_round: int, *, after_round: int = ALL_ROUNDS) -> None:
        if after_round < ALL_ROUNDS:
            return  # no checkpoint of this disk is ever lost, so there is nothing to forget
        await self._life.step("forget uploads")
        await self._life.disk.uploads.drop(federation_uuid, before_round)
        await self._life.step("uploads forgotten")


class _Spool:
    def __init__(self, life: Life, spool: Spool, durable: bool) -> None:
        self._life = life
        self._spool = spool
        self._durable = durable

    async def write(self, data: Buffer, *, inspect: Inspect | None = None) -> None:
        await self._life.step("write")
        self._life.check_room()
        await self._spool.write(data, inspect=inspect)

    async def same_as(self, payload: memoryview) -> bool:
        await self._life.step("thread")
        return await self._spool.same_as(payload)

    async def commit(self, record: UploadRecord, *, inspect: InspectEntry | None = None) -> Entry:
        await self._life.step("commit")
        self._life.check_room()
        entry = await self._spool.commit(record, inspect=inspect)
        key = (record.federation_uuid, record.round_number, record.task_name, record.collaborator)
        uploads = self._life.disk.uploads._uploads
        self._life.disk.note_kept(durable=self._durable, lose=lambda: uploads.pop(key, None))
        await self._life.step("committed")
        return entry

    async def abort(self) -> None:
        await self._spool.abort()


class _Federation:
    """A `FederationStore` of the same kind."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._disk = life.disk
        self._store = life.disk.federation

    async def load(self) -> Stored:
        await self._life.step("load")
        return await self._store.load()

    def add(self, line: Line) -> None:
        self._life.check()
        self._store.add(line)

    async def flush(self, *, durable: bool) -> None:
        self._life.flushing += 1
        try:
            await self._life.step("flush")
            self._life.check_room()
        finally:
            self._life.flushing -= 1
        before, lines = len(self._store._lines), self._store._lines
        await self._store.flush(durable=durable)
        self._disk.note_kept(durable=durable, lose=lambda: lines.__delitem__(slice(before, None)))
        await self._life.step("flushed")

    async def compact(self, settle: Settle, *, durable: bool) -> None:
        """Leave the lines as they are: who judges the federation wants them all."""

    async def save(self, checkpoint: Checkpoint, *, durable: bool) -> None:
        await self._life.step("save")
        self._life.check_room()
        await self._store.save(checkpoint, durable=durable)
        number, checkpoints = checkpoint.round_number, self._store._checkpoints
        self._disk.note_kept(durable=durable, lose=lambda: checkpoints.pop(number, None))
        await self._life.step("saved")

    async def look(self, round_number: int) -> Checkpoint | None:
        await self._life.step("thread")
        return await self._store.look(round_number)

    async def save_best(self, round_number: int, *, durable: bool) -> None:
        await self._life.step("best")
        await self._store.save_best(round_number, durable=durable)
        await self._life.step("best saved")

    async def drop(self, before_round: int) -> None:
        await self._life.step("drop")
        await self._store.drop(before_round)
        await self._life.step("dropped")

    async def forget(self) -> None:
        self._life.check()
        self._disk.lines = list(self._store._lines)
        await self._store.forget()
