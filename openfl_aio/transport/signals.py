"""Ending a process cleanly at SIGTERM or SIGINT, and reading files again at SIGHUP.

For ``__main__`` modules only: a library sets no handlers.
"""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, ExitStack, contextmanager
from functools import partial
from typing import Final, TypeVar

import anyio

__all__ = ["run_until_signalled", "serve_until_signalled"]

S = TypeVar("S")
T = TypeVar("T")

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


@contextmanager
def _single_errors() -> Iterator[None]:
    """Raise an exception group of one as that one: the caller prints it in one sentence."""
    try:
        yield
    except BaseExceptionGroup as group:
        error: BaseException = group
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if error is group:
            raise
        raise error from error.__cause__


@contextmanager
def _on_first_signal(act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` at the first signal; a second one has its usual effect, which ends the process at once."""
    loop = asyncio.get_running_loop()

    def restore() -> None:
        for number in SIGNALS:
            loop.remove_signal_handler(number)

    def received() -> None:
        restore()
        act()

    for number in SIGNALS:
        loop.add_signal_handler(number, received)
    try:
        yield
    finally:
        restore()


@contextmanager
def _on_hangup(act: Callable[[], None]) -> Iterator[None]:
    """Call ``act`` at every SIGHUP, which else would end the process."""
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, act)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGHUP)


@contextmanager
def _settled_heap() -> Iterator[None]:
    """Take what exists now out of the garbage collector's sight: modules, mostly, which live as long as the process.

    Else every full collection goes through all of it, and the event loop, and so everybody, waits for a tenth of a
    second; a peer who makes garbage could cause that at will.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def serve_until_signalled(
    service: AbstractAsyncContextManager[S],
    *,
    started: Callable[[S], None] | None = None,
    until: Callable[[S], Awaitable[object]] | None = None,
    reload: Callable[[S], None] | None = None,
) -> None:
    """Run ``service`` until SIGTERM or SIGINT, or until ``until`` has returned, then leave it in the usual way.

    ``started`` is called once the service is entered, to print its address. Returns normally after a signal, so that
    the exit code is 0. ``reload`` is called at every SIGHUP from then on. An error in an exception group of its own is
    raised alone.
    """
    stopped = anyio.Event()
    with _single_errors(), _on_first_signal(stopped.set), ExitStack() as hangups:
        async with service as entered:
            if reload is not None:
                hangups.enter_context(_on_hangup(partial(reload, entered)))  # also while the service is left
            with _settled_heap():
                if started is not None:
                    started(entered)
                if until is None:
                    await stopped.wait()
                else:
                    await _first(until(entered), stopped.wait())


async def _first(*work: Awaitable[object]) -> None:
    """Wait for whatever ends first, cancel the rest, and raise what the first raised."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()


async def run_until_signalled(run: Callable[[], Awaitable[T]]) -> T | None:
    """Return the result of ``run``, or None after it was cancelled by SIGTERM or SIGINT."""
    with _single_errors(), anyio.CancelScope() as scope, _on_first_signal(scope.cancel):
        return await run()
    return None
