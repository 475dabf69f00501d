"""What the servers of the facade take: the context of a call, and streams of messages of either kind."""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Protocol, TypeVar

__all__ = ["Context", "each"]

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


async def each(stream: AsyncIterable[T] | Iterable[T]) -> AsyncIterator[T]:
    """Yield what ``stream`` has, which may be asynchronous or not."""
    if isinstance(stream, AsyncIterable):
        async for item in stream:
            yield item
    else:
        for item in stream:
            yield item
