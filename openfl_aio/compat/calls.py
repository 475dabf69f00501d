"""What the servers of the facade take: the context of a call, and streams of messages of either kind."""

from __future__ import annotations

import inspect
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Context", "each", "plain"]

T = TypeVar("T")


class Context(Protocol):
    """What the facade asks of a call's context: of `CallContext`, and of one that a caller made himself."""

    def invocation_metadata(self) -> Iterable[tuple[str, str | bytes]]:
        """Return the metadata of the request, as pairs."""

    def auth_context(self) -> Mapping[str, Sequence[bytes]]:
        """Return what the peer's certificate proves, its common name as ``x509_common_name``."""

    def peer(self) -> str:
        """Return the peer's address."""

    def abort(self, code: Any, details: str = "") -> Any:
        """End the call with a status."""


def plain(answer: T, method: str) -> T:
    """Return what ``method``, perhaps an override, answered. Raises TypeError for what would have to be awaited.

    A check that nobody awaits would refuse nothing.
    """
    if inspect.isawaitable(answer):
        if inspect.iscoroutine(answer):
            answer.close()
        raise TypeError(
            f"{method}: expected a plain method, got one whose answer has to be awaited; "
            "write it without 'async', and await in the method of the call that you override"
        )
    return answer


async def each(stream: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    """Yield what ``stream`` has, which may be asynchronous or not."""
    if isinstance(stream, AsyncIterable):
        async for item in stream:
            yield item
    else:
        for item in stream:
            yield item
