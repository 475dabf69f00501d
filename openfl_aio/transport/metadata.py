"""What a request brought besides its messages, for those who answer it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Final

__all__ = ["as_request", "current_metadata"]

NOTHING: Final[Mapping[str, Any]] = {}

_metadata: ContextVar[Mapping[str, Any]] = ContextVar("metadata", default=NOTHING)


def current_metadata() -> Mapping[str, Any]:
    """Return the metadata of the current call; values of names that end with ``-bin`` are bytes. Empty outside of calls."""
    return _metadata.get()


@contextmanager
def as_request(metadata: Mapping[str, Any]) -> Iterator[None]:
    """Make ``metadata`` those of the current call inside the block."""
    token = _metadata.set(metadata)
    try:
        yield
    finally:
        _metadata.reset(token)
