"""OpenFL 1.6 under its own names: a facade for code that was written for it, and import names for its archives.

The facade has OpenFL's classes, methods, parameters and attributes over this package's own; what does input or output
is a coroutine or an async generator, and `blocking` serves callers without an event loop. README.md has a table of
what differs. Messages are those of `openfl_aio.wire.messages`, with OpenFL's fields. Each name is imported when it is
first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from openfl_aio.compat.aggregator_client import AggregatorGRPCClient
    from openfl_aio.compat.aggregator_server import AggregatorGRPCServer
    from openfl_aio.compat.director_client import DirectorClient, ShardDirectorClient
    from openfl_aio.compat.director_server import DirectorGRPCServer
    from openfl_aio.compat.portal import blocking

__all__ = [
    "AggregatorGRPCClient",
    "AggregatorGRPCServer",
    "DirectorClient",
    "DirectorGRPCServer",
    "ShardDirectorClient",
    "blocking",
]

_HOME_OF = {
    "AggregatorGRPCClient": "aggregator_client",
    "AggregatorGRPCServer": "aggregator_server",
    "DirectorClient": "director_client",
    "DirectorGRPCServer": "director_server",
    "ShardDirectorClient": "director_client",
    "blocking": "portal",
}


def __getattr__(name: str) -> object:
    # lazily, because an envoy's child process needs the import names alone
    if name not in _HOME_OF:
        raise AttributeError(f"module 'openfl_aio.compat' has no attribute {name!r}")
    return getattr(import_module(f"openfl_aio.compat.{_HOME_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
