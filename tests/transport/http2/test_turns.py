"""Acts of many peers take turns."""

from __future__ import annotations

import asyncio
from functools import partial

from openfl_aio.transport.http2.turns import ACTS, Turns


class Log:
    """Who acted in which turn of the loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.turns = Turns()
        self.now: list[str] = []
        self.past: list[list[str]] = []

    def take(self, peer: str, count: int) -> None:
        for number in range(count):
            self.turns.take(peer, partial(self.act, f"{peer}{number}"), self.loop)

    def act(self, name: str) -> None:
        self.now.append(name)

    @property
    def order(self) -> list[str]:
        return [name for names in self.past for name in names]

    async def until_done(self) -> None:
        while "waiting=0" not in repr(self.turns) or self.now:
            self.past.append(self.now)
            self.now = []
            await asyncio.sleep(0)


async def test_a_few_acts_are_done_at_once() -> None:
    log = Log()
    log.take("a", ACTS)
    assert log.now == [f"a{number}" for number in range(ACTS)]


async def test_more_wait_for_the_next_turn_of_the_loop_and_keep_their_order() -> None:
    log = Log()
    log.take("a", 3 * ACTS)
    assert len(log.now) == ACTS
    await log.until_done()
    assert [len(names) for names in log.past if names] == [ACTS, ACTS, ACTS]
    assert log.order == [f"a{number}" for number in range(3 * ACTS)]


async def test_one_act_of_a_peer_waits_for_one_of_each_other_and_not_for_all() -> None:
    log = Log()
    for peer in ("a", "b", "c"):
        log.take(peer, 100)
    log.take("d", 1)
    await log.until_done()
    order = [name for name in log.order if not name.startswith("a") or int(name[1:]) >= ACTS]
    assert order.index("d0") == 3
    assert len(log.order) == 301


async def test_the_allowance_is_new_in_each_turn() -> None:
    log = Log()
    for _ in range(5):
        log.take("a", ACTS)
        assert len(log.now) == ACTS
        log.now.clear()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
