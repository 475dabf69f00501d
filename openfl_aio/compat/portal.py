"""The facade for callers without an event loop: `blocking` runs one in a thread and waits for it."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, Final

from anyio.from_thread import BlockingPortal, start_blocking_portal

__all__ = ["Blocking", "blocking"]

END: Final = object()


class Blocking:
    """Has the attributes of one object of the facade; its coroutines block, its async generators are iterators."""

    def __init__(self, facade: Any, portal: BlockingPortal) -> None:
        self._facade = facade
        self._portal = portal

    def __repr__(self) -> str:
        return f"Blocking({self._facade!r})"

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._facade, name)
        if inspect.iscoroutinefunction(found):
            return _waiting(found, self._portal)
        if inspect.isasyncgenfunction(found):
            return _iterating(found, self._portal)
        return found


def _waiting(method: Callable[..., Any], portal: BlockingPortal) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return portal.call(partial(method, *args, **kwargs))

    return call


def _iterating(method: Callable[..., Any], portal: BlockingPortal) -> Callable[..., Iterator[Any]]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Iterator[Any]:
        answers = method(*args, **kwargs)

        async def step() -> Any:
            return await anext(answers, END)

        try:
            while (answer := portal.call(step)) is not END:
                yield answer
        finally:
            portal.call(answers.aclose)

    return call


@contextmanager
def blocking(facade: Any) -> Iterator[Any]:
    """Enter ``facade``, an object of this package's facade, in a thread of its own and give it to a blocking caller.

    A client is connected inside the block, and a server serves; ``serve()`` and ``start()`` then only wait.
    """
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(facade):
        yield Blocking(facade, portal)
