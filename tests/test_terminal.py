"""Reviews at a pseudo-terminal: the other end of it types and reads."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import pytest

from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.plan import Plan
from openfl_aio.terminal import TerminalReview, terminal_review
from tests.typist import Typist

pytestmark = pytest.mark.real_time

PLAN = Plan.parse("""
aggregator: {settings: {rounds_to_train: 3, init_state_path: "\\e[2Jgone"}}
network: {settings: {agg_addr: localhost, agg_port: 1, hash_salt: x}}
tasks: {train: {function: train}}
""").of("exp")
QUESTION = "Accept the plan of exp? [y/N]: "
END_OF_INPUT = b"\x04"


def review_at(typist: Typist, **options: float) -> TerminalReview:
    sink = io.TextIOWrapper(io.FileIO(typist.near, "w", closefd=False), write_through=True)
    return TerminalReview(typist.near, sink, **options)


@asynccontextmanager
async def asked(typist: Typist, review: TerminalReview, plan: Plan = PLAN) -> AsyncIterator[list[bool]]:
    """Yield the list in which the answer will be; leave when it is there."""
    answers: list[bool] = []

    async def ask() -> None:
        answers.append(await review(plan))

    with anyio.fail_after(20):
        async with anyio.create_task_group() as group:
            group.start_soon(ask)
            yield answers


@pytest.mark.parametrize(
    ("typed", "accepted"),
    [(b"y\n", True), (b"Yes\n", True), (b"n\n", False), (b"\n", False), (END_OF_INPUT, False), (b"maybe\ny\n", True)],
)
async def test_nothing_but_a_yes_accepts(typed: bytes, accepted: bool) -> None:
    typist = Typist()
    async with asked(typist, review_at(typist)) as answers:
        shown = await typist.read(QUESTION)
        await typist.type(typed)
        if b"maybe" in typed:
            await typist.read("expected y or n, got 'maybe'")
        await typist.read("exp is accepted" if accepted else "exp is rejected")
    assert answers == [accepted]
    assert "review the plan of exp" in shown
    assert "rounds_to_train: 3" in shown
    assert "\x1b" not in shown, "what a plan says must not steer the terminal"


async def test_what_was_typed_before_the_question_answers_nothing() -> None:
    typist = Typist()
    await typist.type(b"y\n")
    async with asked(typist, review_at(typist)) as answers:
        await typist.read(QUESTION)
        await typist.type(b"n\n")
    assert answers == [False]


async def test_a_question_that_nobody_answers_is_a_no() -> None:
    typist = Typist()
    async with asked(typist, review_at(typist, seconds=0.2)) as answers:
        await typist.read("nobody answered for 0.2 seconds: exp is rejected")
    assert answers == [False]


async def test_one_question_at_a_time_and_the_loop_goes_on() -> None:
    typist = Typist()
    review = review_at(typist)
    async with asked(typist, review) as first, asked(typist, review, PLAN.of("other")) as second:
        shown = await typist.read(QUESTION)
        for _ in range(20):
            await anyio.lowlevel.checkpoint()
        assert "other" not in shown
        assert (first, second) == ([], [])
        await typist.type(b"y\n")
        assert "exp is accepted" in await typist.read("Accept the plan of other? [y/N]: ")
        await typist.type(b"n\n")
    assert (first, second) == ([True], [False])


async def test_cancelled_it_asks_no_more() -> None:
    typist = Typist()
    review = review_at(typist)
    async with anyio.create_task_group() as group:
        group.start_soon(review, PLAN)
        await typist.read(QUESTION)
        group.cancel_scope.cancel()
    async with asked(typist, review) as answers:
        await typist.read(QUESTION)
        await typist.type(b"y\n")
    assert answers == [True]


async def test_a_terminal_that_is_gone_is_a_no() -> None:
    typist = Typist()
    review = review_at(typist)
    async with asked(typist, review) as answers:
        await typist.read(QUESTION)
        os.close(typist.far)
    assert answers == [False]
    assert await review(PLAN) is False, "nor will anybody be there for the next one"


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("inf"), float("nan")])
def test_how_long_to_wait_is_a_number(seconds: float) -> None:
    with pytest.raises(ConfigurationError, match="--review-seconds: expected a number above 0, got"):
        terminal_review("f: k", seconds=seconds)


def test_without_a_terminal_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(ConfigurationError, match=r"^f: k: expected false, got true, but there is no terminal here"):
        terminal_review("f: k")
    typist = Typist()
    with open(typist.near, "r+b", buffering=0, closefd=False) as near:
        terminal = io.TextIOWrapper(near)
        monkeypatch.setattr(sys, "stdin", terminal)
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(sys, stream, io.StringIO())
        with pytest.raises(ConfigurationError, match="no terminal here"):
            terminal_review("f: k")
        monkeypatch.setattr(sys, "stderr", terminal)
        assert repr(terminal_review("f: k")) == f"<TerminalReview of {typist.near}>"
