"""A call as handlers written for grpcio see it: ``Method(request, context)``, under the method's own name.

`NamedService` mounts an object with such methods in our server; methods that it has not are answered by the service
that stands behind it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from typing import Any, Final, NamedTuple, NoReturn, Protocol, cast

import grpclib.const
from betterproto2.grpclib.grpclib_server import ServiceBase
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio.transport.identity import Caller, current_caller

__all__ = ["COMMON_NAME", "CallContext", "Metadatum", "NamedService", "status_named"]

COMMON_NAME: Final = "x509_common_name"


def status_named(code: object) -> Status:
    """Return the status that ``code`` means: ours, grpcio's, a number or a name. Raises ValueError for anything else."""
    if isinstance(code, int):
        return Status(code)
    name = code if isinstance(code, str) else getattr(code, "name", None)
    if not isinstance(name, str) or name not in Status.__members__:
        raise ValueError(f"expected a gRPC status, its name or its number, got {code!r}")
    return Status[name]


class Metadatum(NamedTuple):
    """One piece of metadata: a pair, whose halves have names as grpcio's have."""

    key: str
    value: str | bytes


class CallContext:
    """Who makes a call and with what metadata, by the names that grpcio's ``ServicerContext`` has for it."""

    def __init__(self, metadata: tuple[tuple[str, str | bytes], ...], caller: Caller) -> None:
        self._metadata = tuple(Metadatum(key, value) for key, value in metadata)
        self._caller = caller

    def __repr__(self) -> str:
        return f"<CallContext {self._caller.name!r} from {self._caller.address}>"

    def invocation_metadata(self) -> tuple[Metadatum, ...]:
        """Return the metadata of the request, as pairs; values of names that end with ``-bin`` are bytes."""
        return self._metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        """Return what the peer's certificate proves; empty without one."""
        if not self._caller.authenticated:
            return {}
        return {"transport_security_type": [b"ssl"], COMMON_NAME: [self._caller.name.encode()]}

    def peer(self) -> str:
        """Return the peer's address as grpcio writes it: ``ipv4:127.0.0.1:50051``, ``ipv6:[::1]:50051``."""
        host, _, port = self._caller.address.rpartition(":")
        try:
            address = ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            return self._caller.address or "unknown"
        address = getattr(address, "ipv4_mapped", None) or address
        return f"ipv4:{address}:{port}" if address.version == 4 else f"ipv6:[{address}]:{port}"

    def abort(self, code: object, details: str = "") -> NoReturn:
        """End the call with a status; raises, so ``await context.abort(...)`` does the same. ValueError for OK."""
        status = status_named(code)
        if status is Status.OK:
            raise ValueError("expected a status that says why the call is ended, got OK; return an answer instead")
        raise GRPCError(status, details)


class Mounted(Protocol):
    """What a generated service is to grpclib."""

    def __mapping__(self) -> Mapping[str, grpclib.const.Handler]:
        """Return the calls, by path."""


class NamedService(ServiceBase):
    """Mounts ``target``, whose methods take ``(request, context)``, under the paths of a generated service.

    ``behind`` makes that service, for one call or (with None) to ask for its paths. A method that streams takes an
    async iterator, one that answers with a stream is an async generator. An overridden method is called as well as
    an inherited one.
    """

    def __init__(self, target: object, behind: Callable[[CallContext | None], Mounted]) -> None:
        self._target = target
        self._behind = behind

    def __mapping__(self) -> dict[str, grpclib.const.Handler]:
        """Return the calls, by path."""
        return {path: self._handler(path, handler) for path, handler in self._behind(None).__mapping__().items()}

    def _handler(self, path: str, handler: grpclib.const.Handler) -> grpclib.const.Handler:
        method = getattr(self._target, path.rpartition("/")[2], None)
        cardinality = handler.cardinality

        async def answer(stream: Any) -> None:
            context = CallContext(tuple(stream.metadata.items()), current_caller())
            if method is None:
                await self._behind(context).__mapping__()[path].func(stream)
                return
            request = aiter(stream) if cardinality.client_streaming else await stream.recv_message()
            if not cardinality.server_streaming:
                await stream.send_message(await method(request, context))
                return
            async with aclosing(cast("AsyncGenerator[Any]", method(request, context))) as messages:
                async for message in messages:
                    await stream.send_message(message)

        return handler._replace(func=answer)
