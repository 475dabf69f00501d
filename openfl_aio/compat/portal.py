"""The facade for callers without an event loop: `blocking` runs one in a thread and waits for it."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial, wraps
from typing import Any, Final

from anyio.from_thread import BlockingPortal, start_blocking_portal

__all__ = ["Blocking", "blocking"]

END: Final = object()


class Blocking:
    """Has the attributes of one object of the facade, and sets them there; its methods are called in the loop's thread.

    What has to be awaited is waited for, and what iterates asynchronously is an iterator.
    """

    _facade: Any
    _portal: BlockingPortal

    def __init__(self, facade: Any, portal: BlockingPortal) -> None:
        self.__dict__.update(_facade=facade, _portal=portal)  # everything else is set at the facade

    def __repr__(self) -> str:
        return f"Blocking({self._facade!r})"

    def __dir__(self) -> Iterable[str]:
        return dir(self._facade)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._facade, name)
        return _waiting(found, self._portal) if callable(found) and not isinstance(found, type) else found

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._facade, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._facade, name)


def _waiting(method: Callable[..., Any], portal: BlockingPortal) -> Callable[..., Any]:
    @wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        # the portal awaits an awaitable; a method that was wrapped does not show what it will answer
        answer = portal.call(partial(method, *args, **kwargs))
        return _iterating(aiter(answer), portal) if isinstance(answer, AsyncIterable) else answer

    return call


def _iterating(answers: AsyncIterator[Any], portal: BlockingPortal) -> Iterator[Any]:
    async def step() -> Any:
        return await anext(answers, END)

    try:
        while (answer := portal.call(step)) is not END:
            yield answer
    finally:
        if hasattr(answers, "aclose"):
            portal.call(answers.aclose)


@contextmanager
def blocking(facade: Any) -> Iterator[Any]:
    """Enter ``facade``, an object of this package's facade, in a thread of its own and give it to a blocking caller.

    A client is connected inside the block, and a server serves; ``serve()`` and ``start()`` then only wait.
    """
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(facade):
        yield Blocking(facade, portal)
