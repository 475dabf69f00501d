"""From a closed round to the next one: aggregated, written down, saved, opened. And the same again after a restart."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from pathlib import Path

import anyio

from openfl_aio.aggregator.closing import Arrays, RoundOutcome, States, aggregate_round
from openfl_aio.aggregator.ledger import Ledger
from openfl_aio.aggregator.models import GlobalModels
from openfl_aio.aggregator.offload import Offload
from openfl_aio.aggregator.rounds import Phase, RoundClosed, Rounds
from openfl_aio.aggregator.saving import Saver, model_paths
from openfl_aio.aggregator.scratch import put_away, unload
from openfl_aio.config import AggregatorConfig
from openfl_aio.domain import ModelKind
from openfl_aio.errors import OpenFLAioError
from openfl_aio.storage.journal import Entry
from openfl_aio.tensors.aggregation import AggregationFunction
from openfl_aio.tensors.codec import TensorCodec

__all__ = ["RoundCloser"]

logger = logging.getLogger(__name__)


class RoundCloser:
    """Makes of the results of a closed round the next models, and has ``rounds`` open the next one.

    Arrays that need not lie in memory are put away in ``folder``, if there is one; ``make_room`` is called before a
    round is aggregated. ``changed`` is called after each round, ``failed`` with the reason why there is none.
    """

    def __init__(
        self,
        config: AggregatorConfig,
        *,
        rounds: Rounds[Entry],
        models: GlobalModels,
        codec: TensorCodec,
        functions: Mapping[str, AggregationFunction],
        ledger: Ledger,
        saver: Saver,
        offload: Offload,
        folder: Path | None,
        make_room: Callable[[], Awaitable[object]],
        changed: Callable[[], object],
        failed: Callable[[str], object],
    ) -> None:
        self._config = config
        self._rounds = rounds
        self._models = models
        self._codec = codec
        self._functions = functions
        self._ledger = ledger
        self._saver = saver
        self._offload = offload
        self._folder = folder
        self._make_room = make_room
        self._changed = changed
        self._failed = failed
        self._initial_round = rounds.round_number
        self._states: States = {}

    def __repr__(self) -> str:
        return f"<RoundCloser {self._rounds!r}>"

    async def recover(self) -> None:
        """Go on where an earlier aggregator was: the same machine gets the same results in the same order."""
        self._states = await self._ledger.load(self._rounds)
        begun = self._rounds.round_number
        count = 0
        while not self._rounds.phase.ended:
            count = await self._ledger.put_back(self._rounds, anyio.current_time())
            closed = [event for event in self._rounds.events() if isinstance(event, RoundClosed)]
            if not closed:
                break
            await self.close(closed[0])
        if not self._rounds.phase.ended:
            await self._ledger.forget_later(self._rounds.round_number)
        if begun or count:
            logger.warning(
                "goes on in round %d of %d with %d results", self._rounds.round_number, self._rounds.rounds, count
            )
            await self._save_models()  # the process may have died before it had saved what it knew

    async def _save_models(self) -> None:
        best, last = model_paths(self._config)
        model = self._models.model(ModelKind.BEST)
        if best is not None and model is not None and self._models.best is not None:
            await self._saver.save(best, model, round_number=self._models.best.round_number)
        if last is not None and self._rounds.round_number > self._initial_round:
            await self._saver.save(last, self._models.current, round_number=self._rounds.round_number)

    async def close(self, closed: RoundClosed[Entry]) -> None:
        """Aggregate the round, and open the next one; never raises."""
        number = closed.round_number
        try:
            await self._ledger.note_closed(closed)
            await self._make_room()
            before = self._models.current
            outcome = await self._aggregated(closed, before)
            if self._rounds.phase is Phase.AGGREGATING:
                await self._take(outcome, before)
        except OpenFLAioError as exc:
            self._failed(f"round {number} could not be aggregated: {exc}")
        except Exception:
            logger.exception("round %d could not be aggregated", number)
            self._failed(f"round {number} could not be aggregated: an internal error, see the log")
        finally:
            _close_all(closed)

    async def _aggregated(self, closed: RoundClosed[Entry], model: Arrays) -> RoundOutcome:
        """Return what a round gives; begins anew while the disk has no room for what must not lie in memory."""
        outcomes: list[RoundOutcome] = []

        async def aggregate() -> None:
            outcomes.append(await self._offload(lambda: self._aggregate(closed, model)))

        await self._saver.insist(aggregate)
        return outcomes.pop()

    def _aggregate(self, closed: RoundClosed[Entry], model: Arrays) -> RoundOutcome:
        outcome = aggregate_round(
            closed.round_number,
            closed.results,
            model,
            codec=self._codec,
            function_of=self._functions.__getitem__,
            origin=self._config.uuid,
            states=self._states,
            history=self._models.history(),
            max_share=self._config.uploads.max_share,
            put_away=None if self._folder is None else partial(put_away, folder=self._folder),
            done_with=unload,
        )
        _close_all(closed)  # here, because giving the mapped memory back takes milliseconds a GiB
        return outcome

    async def _take(self, outcome: RoundOutcome, before: Arrays) -> None:
        """Take what a round gave and open the next one, after saving all of it or before, as the durability says."""
        improved = self._models.close_round(outcome)
        self._states = outcome.states
        number = outcome.round_number
        await self._ledger.note_round(number, outcome.metrics)
        best, last = model_paths(self._config)
        if improved and best is not None:
            await self._saver.save(best, before, round_number=number)
        if last is not None:
            await self._saver.save(last, self._models.current, round_number=number + 1)
        await self._ledger.keep_checkpoint(self._states, best_round=number if improved else None)
        if self._rounds.phase is Phase.AGGREGATING:
            self._rounds.round_aggregated(anyio.current_time())
        self._changed()


def _close_all(closed: RoundClosed[Entry]) -> None:
    for by_collaborator in closed.results.values():
        for entry in by_collaborator.values():
            entry.close()
