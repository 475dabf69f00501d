"""The participant of one federation: asks for tasks, fetches what they need, runs them, hands in what they made."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import anyio
import anyio.to_thread
import numpy as np

from openfl_aio.aggregator.api import AggregatorAPI
from openfl_aio.collaborator.resolver import Download, Encoding, Resolver
from openfl_aio.collaborator.task_runner import AsyncTaskRunner, TaskContext, TaskOutput, check_output
from openfl_aio.domain import CollaboratorProgress, Task, TaskKind
from openfl_aio.errors import AlreadyExistsError, TaskError
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.delta import apply_delta, delta
from openfl_aio.tensors.key import TensorKey
from openfl_aio.tensors.pipelines import NoCompression, get_pipeline
from openfl_aio.tensors.store import TensorStore

__all__ = ["Collaborator", "Offload"]

logger = logging.getLogger(__name__)

Offload = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs a function that takes a while off the event loop and returns its result."""

Progress = Callable[[CollaboratorProgress], None]

_LARGEST_SAMPLES: Final = 2**31 - 1  # the weight is an int32 on the wire
_UNKNOWN_AT_ONCE: Final = 16  # tensors whose size is not known yet
_TENSORS_AT_ONCE: Final = 256
_BYTES_AT_ONCE: Final = 4 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class _Done:
    """What a task made: the keys of its tensors in the store, its metrics, its weight."""

    samples: int
    encodings: tuple[Encoding, ...]
    metrics: tuple[tuple[TensorKey, float], ...]


class Collaborator:
    """Works for one aggregator until told to quit.

    ``tasks`` are the plan's: OpenFL's task-runner aggregators hand out names only, and what a name means is looked up
    there; a plan of the interactive frontend has none. ``pipeline`` and ``delta_updates`` say how tensors travel, as in
    the plan. ``store_rounds`` rounds of tensors are kept. ``progress`` is told whenever a task begins, when the
    collaborator waits, and at the end.
    """

    def __init__(
        self,
        *,
        name: str,
        aggregator: AggregatorAPI,
        aggregator_uuid: str,
        runner: AsyncTaskRunner,
        tasks: Sequence[Task] = (),
        delta_updates: bool = False,
        pipeline: str = "no_compression",
        store_rounds: int = 1,
        progress: Progress | None = None,
        offload: Offload = anyio.to_thread.run_sync,
    ) -> None:
        self._name = name
        self._aggregator = aggregator
        self._runner = runner
        self._tasks = {task.name: task for task in tasks}
        self._store_rounds = store_rounds
        self._progress = progress
        self._offload = offload
        known = get_pipeline(pipeline)
        self._codec = TensorCodec(known)
        self._compressing = known.name != NoCompression.name
        self._resolver = Resolver(
            collaborator=name,
            aggregator_uuid=aggregator_uuid,
            delta_updates=delta_updates,
            lossy=known.lossy,
            interactive=not tasks,
        )
        self._store = TensorStore()
        self._round = 0
        self._done: dict[str, _Done] = {}
        self._sizes: dict[str, int] = {}  # bytes of each tensor that was fetched before
        self._state: tuple[str, ...] = ()  # names of what training starts from besides the model

    def __repr__(self) -> str:
        return f"Collaborator({self._name!r}, round {self._round})"

    async def run(self) -> None:
        """Work until the aggregator says that the federation is over.

        Raises `TaskError` if a task fails, and what the aggregator's calls raise when they cannot be made.
        """
        names = tuple(await self._runner.tensor_names())
        while True:
            assignment = await self._aggregator.get_tasks()
            if assignment.quit:
                self._tell("finished")
                return
            self._enter_round(assignment.round_number)
            if not assignment.tasks:
                self._tell("waiting")
                await anyio.sleep(assignment.sleep_seconds)
                continue
            tasks = [self._complete(task) for task in assignment.tasks]
            for index, task in enumerate(tasks):
                following = tasks[index + 1].name if index + 1 < len(tasks) else ""
                self._tell("running", task=task.name, following=following, done=index / len(tasks))
                await self._do(task, names)
            self._store.drop_rounds(self._resolver.forget_before(self._round, self._store_rounds), keep_reports=False)

    def _enter_round(self, round_number: int) -> None:
        if round_number == self._round:
            return
        if round_number < self._round:
            # the aggregator was restored from an older state: its models may be others than those kept here
            logger.warning("collaborator %s: the aggregator went back to round %d", self._name, round_number)
            self._store = TensorStore()
            self._state = ()
        self._round = round_number
        self._done.clear()

    def _complete(self, task: Task) -> Task:
        """Return ``task`` with what it means; from the plan, where the aggregator told only the name."""
        if task.kind is not TaskKind.UNSPECIFIED:
            return task
        known = self._tasks.get(task.name)
        if known is None:
            raise TaskError(f"the aggregator asks for task {task.name!r}, which the plan does not define")
        return replace(known)

    async def _do(self, task: Task, names: Sequence[str]) -> None:
        done = self._done.get(task.name)
        if done is None:
            wanted = (*names, *self._state) if task.kind is TaskKind.TRAIN else names
            tensors = await self._gather(self._resolver.needs(task, self._round, wanted))
            logger.info("collaborator %s: round %d, task %s", self._name, self._round, task.name)
            output = await self._runner.run(TaskContext(task, self._round, self._name), tensors)
            trained = await self._offload(lambda: _checked(output, task=task, given=tensors))
            done = self._done[task.name] = self._keep(task, output, trained)
            if output.state_is_shared:
                self._state = tuple(sorted(output.state))
        # asked again although it is done: the results were lost on their way, and are sent as they were
        results = _Results(done, self._store, self._codec)
        try:
            await self._aggregator.send_local_task_results(
                round_number=self._round,
                task_name=task.name,
                data_size=done.samples,
                # compressing may take seconds, and what comes out is small
                tensors=await self._offload(lambda: tuple(results)) if self._compressing else results,
            )
        except AlreadyExistsError as exc:
            # sent by an earlier process of this name, whose reply was lost: the task is done all the same
            logger.warning("collaborator %s: results of task %s do not count: %s", self._name, task.name, exc)

    async def _gather(self, keys: Mapping[str, TensorKey]) -> dict[str, np.ndarray]:
        """Return the tensors ``keys``, in their order: those that are here, and the others from the aggregator."""
        tensors, downloads = {}, []
        for name, key in keys.items():
            source = self._resolver.source(key, self._store.__contains__)
            if isinstance(source, Download):
                downloads.append(source)
            else:
                tensors[name] = self._store.get(source)
        for group in self._groups(downloads):
            for source, values in zip(group, await self._fetch(group), strict=True):
                self._store.put(source.key, values)
                tensors[source.key.tensor_name] = self._store.get(source.key)
                self._sizes[source.key.tensor_name] = values.nbytes
        return {name: tensors[name] for name in keys}

    def _groups(self, downloads: Sequence[Download]) -> Iterator[list[Download]]:
        """Yield ``downloads`` in groups that are fetched at once: a round trip for each tensor would be most of a round.

        Large tensors, whose size is known after the first round, are better fetched alone: they are no faster together,
        and each takes the memory of its encoded form, or of the difference that it comes as, until it is here.
        """
        group: list[Download] = []
        nbytes = 0
        for source in downloads:
            size = self._sizes.get(source.key.tensor_name)
            most = _UNKNOWN_AT_ONCE if size is None else _TENSORS_AT_ONCE
            if group and (len(group) >= most or nbytes + (size or 0) > _BYTES_AT_ONCE):
                yield group
                group, nbytes = [], 0
            group.append(source)
            nbytes += size or 0
        if group:
            yield group

    async def _fetch(self, group: Sequence[Download]) -> list[np.ndarray]:
        queries = [source.query for source in group]
        if len(queries) == 1:
            encoded = [await self._aggregator.get_aggregated_tensor(queries[0])]
        else:
            encoded = await self._aggregator.get_aggregated_tensors(queries)
        bases = [None if source.base is None else self._store.get(source.base) for source in group]

        def values() -> list[np.ndarray]:
            decoded = map(self._codec.decode, encoded)
            return [
                change if base is None else apply_delta(base, change)
                for base, change in zip(bases, decoded, strict=True)
            ]

        # what is neither compressed nor a difference is looked at where it was received
        return await self._offload(values) if self._compressing or any(base is not None for base in bases) else values()

    def _keep(self, task: Task, output: TaskOutput, trained: Mapping[str, np.ndarray]) -> _Done:
        encodings = []
        for name, values in trained.items():
            key = self._resolver.output_key(task, self._round, name)
            self._store.put(key, values)
            encodings.append(self._resolver.encoding(key, self._store.__contains__))
        metrics = tuple(
            (self._resolver.metric_key(task, self._round, name), float(value)) for name, value in output.metrics.items()
        )
        return _Done(int(output.samples), tuple(encodings), metrics)

    def _tell(self, status: str, *, task: str = "", following: str = "", done: float = 0.0) -> None:
        if self._progress is not None:
            self._progress(CollaboratorProgress(self._name, status, done, self._round, task, following))


class _Results(Iterable[EncodedTensor]):
    """The results of a task, encoded one tensor at a time, each time they are read."""

    def __init__(self, done: _Done, store: TensorStore, codec: TensorCodec) -> None:
        self._done = done
        self._store = store
        self._codec = codec

    def __iter__(self) -> Iterator[EncodedTensor]:
        for encoding in self._done.encodings:
            values = self._store.get(encoding.key.with_tags(remove=("delta",)) if encoding.base else encoding.key)
            if encoding.base is not None:
                values = delta(values, self._store.get(encoding.base))
            yield self._codec.encode(encoding.key, values, lossless=encoding.lossless)
        for key, value in self._done.metrics:
            yield self._codec.encode(key, np.array(value, np.float32))


def _checked(output: TaskOutput, *, task: Task, given: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the output's tensors and state as read-only float32, the type of the wire. Raises `TaskError`.

    They are copies, as a task may go on to change its arrays, but for those it hands back as it was ``given`` them.
    """
    check_output(output, task=task, shapes={name: array.shape for name, array in given.items()})
    if output.samples > _LARGEST_SAMPLES:
        raise TaskError(f"task {task.name!r} counts {output.samples} samples; at most {_LARGEST_SAMPLES} can be told")
    trained = {}
    for name, values in (*output.tensors.items(), *output.state.items()):
        if values is given.get(name) and values.dtype == np.float32 and not values.flags.writeable:
            trained[name] = values
            continue
        try:
            with np.errstate(over="raise"):
                single = np.array(values, np.float32)
        except FloatingPointError:
            raise TaskError(f"task {task.name!r}: tensor {name!r} has values beyond the range of float32") from None
        single.flags.writeable = False
        trained[name] = single
    return trained
