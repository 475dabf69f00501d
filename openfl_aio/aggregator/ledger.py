"""An aggregator's decisions, written down before anybody is told, and known again after a restart."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from functools import partial

from openfl_aio.aggregator import past
from openfl_aio.aggregator.closing import AggregatedMetric, States, decode_result, scalar, tags_of
from openfl_aio.aggregator.metrics import MetricLog
from openfl_aio.aggregator.models import GlobalModels
from openfl_aio.aggregator.past import Result
from openfl_aio.aggregator.rounds import RoundClosed, Rounds
from openfl_aio.aggregator.saving import Saver
from openfl_aio.config import AggregatorConfig
from openfl_aio.domain import Metric
from openfl_aio.errors import StorageError
from openfl_aio.storage.checkpoint_file import Checkpoint
from openfl_aio.storage.federations import FederationStore
from openfl_aio.storage.journal import ALL_ROUNDS, Entry, Journal
from openfl_aio.tensors.codec import TensorCodec

__all__ = ["Ledger"]

logger = logging.getLogger(__name__)


class Ledger:
    """Keeps in ``store`` what a federation needs to go on, beside the uploads in ``journal``.

    Metrics are shown in ``metrics`` once the log has them, so that an offset stays good.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        *,
        store: FederationStore,
        journal: Journal,
        models: GlobalModels,
        metrics: MetricLog,
        codec: TensorCodec,
        saver: Saver,
    ) -> None:
        self._config = config
        self._store = store
        self._journal = journal
        self._models = models
        self._metrics = metrics
        self._codec = codec
        self._saver = saver
        self._durable = config.durability == "power"
        self._past = past.Past()
        self._begun = False
        self._settings = {
            "pipeline": config.pipeline,
            "aggregation": {
                task.name: config.task_aggregation.get(task.name, config.aggregation) for task in config.tasks
            },
        }

    def __repr__(self) -> str:
        return f"<Ledger {self._store!r}>"

    @property
    def empty(self) -> bool:
        """Whether no result ever counted, so that nothing is lost with it."""
        return not self._begun

    async def load(self, rounds: Rounds[Entry]) -> States:
        """Bring models, metrics and ``rounds`` to where the newest checkpoint was; return the states of then.

        Raises `ConfigurationError` for a federation that was begun with other settings, and `CorruptFileError`.
        """
        stored = await self._store.load()
        self._past = past.read_lines(stored.lines)
        self._begun = bool(self._past.events)
        states: States = {}
        if stored.checkpoints:
            states = past.restore(self._models, stored.checkpoints, stored.best, self._settings)
            rounds.resume(self._models.round_number, self._past.quits)
            best = self._models.best
            if best is not None and (stored.best is None or stored.best.round_number != best.round_number):
                # the process died between the two: its checkpoint will be dropped with the others
                await self._store.save_best(best.round_number, durable=self._durable)
        shown = 0
        for event in self._past.events:
            shown = self._put_local(event) if isinstance(event, past.Accepted) else self._put_round(*event)
        self._metrics.show(shown)
        if not stored.checkpoints:
            await self.keep_checkpoint(states)
        return states

    async def put_back(self, rounds: Rounds[Entry], now: float) -> int:
        """Give ``rounds`` the uploads of its round that are in the journal; return how many."""
        number = rounds.round_number
        found: dict[Result, Entry] = {}
        for entry in await self._journal.entries(self._config.federation_uuid, number):
            key = (entry.record.collaborator, entry.record.task_name)
            if any(task.name == key[1] for task in rounds.assigned(key[0])):
                found[key] = entry
            else:
                logger.warning("results of %s for %s left out: it is not asked for them any more", *key)
                entry.close()
        accepted = self._past.accepted.get(number, [])
        results = {key: found[key] for key in accepted if key in found}
        closed = self._past.closed.get(number)
        if closed is not None and not set(closed) <= set(results):
            missing = sorted(set(closed) - set(results))
            logger.error("round %d was closed, but results of it are lost and asked for again: %r", number, missing)
            del self._past.closed[number]
            closed = None
        if closed is not None:
            results = {key: results[key] for key in closed}
        else:
            # kept, but not told before the process died: it counts now
            for key in (untold := sorted(found.keys() - results.keys())):
                results[key] = found[key]
                shown = self.note_accepted(found[key])
            if untold:
                await self.show_accepted(shown)
        for key, entry in found.items():
            if key not in results:
                entry.close()
        rounds.put_back(results, now, closed=closed is not None)
        return len(results)

    async def forget_later(self, number: int) -> None:
        """Forget what came after round ``number``, whose checkpoint was lost: it is played again."""
        await self._journal.drop(self._config.federation_uuid, 0, after_round=number)
        self._past.closed = {each: results for each, results in self._past.closed.items() if each <= number}

    def note_accepted(self, entry: Entry) -> int:
        """Write down that a result counts; return how many metrics there are then, to be shown after `flush`."""
        self._begun = True
        record, metrics = entry.record, []
        for tensor in record.tensors:
            if "metric" in tensor.tags:
                value = scalar(decode_result(self._codec, entry.tensor(tensor), None))
                metrics.append(past.LocalMetric(tensor.name, (*tags_of(tensor), record.collaborator), value))
        accepted = past.Accepted(record.round_number, record.collaborator, record.task_name, tuple(metrics))
        self._store.add(past.accept_line(accepted))
        return self._put_local(accepted)

    async def show_accepted(self, shown: int) -> None:
        """Keep the lines so far, then let readers have the first ``shown`` metrics."""
        try:
            await self._store.flush(durable=self._durable)
        except StorageError as exc:
            # the result itself is kept; its place among the others is not, so readers have it with what comes next
            logger.warning("the log of the federation waits: %s", exc)
        else:
            self._metrics.show(shown)

    async def note_closed(self, closed: RoundClosed[Entry]) -> None:
        """Keep which results make up a round before they are aggregated: a restart must not count others."""
        if closed.round_number not in self._past.closed:
            results = [(by, task) for task, of_task in closed.results.items() for by in of_task]
            self._store.add(past.close_line(closed.round_number, results))
            await self._saver.insist(partial(self._store.flush, durable=self._durable))

    async def note_round(self, number: int, metrics: Iterable[AggregatedMetric]) -> None:
        """Keep and show the metrics that a round gave."""
        if number not in self._past.rounds:
            metrics = tuple(metrics)
            self._store.add(past.round_line(number, metrics))
            shown = self._put_round(number, metrics)
            await self._saver.insist(partial(self._store.flush, durable=self._durable))
            self._metrics.show(shown)

    async def note_quit(self, collaborator: str) -> None:
        """Keep that a collaborator was told to quit: it will not come again."""
        if collaborator not in self._past.quits:
            self._past.quits.add(collaborator)
            self._store.add(past.quit_line(collaborator))
            try:
                await self._store.flush(durable=self._durable)
            except StorageError as exc:
                logger.warning("that %s was told to quit is not kept: %s", collaborator, exc)

    async def keep_checkpoint(self, states: States, *, best_round: int | None = None) -> None:
        """Keep what the current round begins with, at once or soon, and let go of the uploads before it then."""
        checkpoint = past.checkpoint_of(self._models, states, self._settings)
        await self._saver.write(partial(self._keep, checkpoint, best_round))

    async def _keep(self, checkpoint: Checkpoint, best_round: int | None) -> None:
        number, uuid = checkpoint.round_number, self._config.federation_uuid
        await self._store.save(checkpoint, durable=self._durable)
        if best_round is not None:
            await self._store.save_best(best_round, durable=self._durable)
        await self._store.drop(number - self._config.store_rounds)
        await self._journal.drop(uuid, ALL_ROUNDS if number >= self._config.rounds else number)
        try:
            await self._store.compact(partial(past.settle, before_round=number), durable=self._durable)
        except StorageError as exc:
            logger.warning("the log of the federation stays as long as it is: %s", exc)

    async def forget(self) -> None:
        """Remove everything: nobody will go on with this federation."""
        await self._journal.drop(self._config.federation_uuid, ALL_ROUNDS)
        await self._store.forget()

    def _put_local(self, accepted: past.Accepted) -> int:
        number, by = accepted.round_number, accepted.collaborator
        for metric in accepted.metrics:
            self._models.put_metric(metric.name, number, metric.tags, metric.value)
        return self._metrics.append(
            Metric(by, accepted.task_name, metric.name, metric.value, number) for metric in accepted.metrics
        )

    def _put_round(self, number: int, metrics: Iterable[AggregatedMetric]) -> int:
        metrics = tuple(metrics)
        for metric in metrics:
            self._models.put_metric(metric.name, number, metric.tags, metric.value)
        return self._metrics.append(Metric("aggregator", m.task_name, m.name, m.value, number) for m in metrics)
