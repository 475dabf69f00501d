"""The test service and the probe on our server."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextvars import ContextVar
from functools import partial
from typing import Any

import anyio
from grpclib.const import Handler, Status
from grpclib.exceptions import GRPCError

from tests.interop_grpc import stubs
from tests.interop_grpc.peers.shared import Book, Crc, as_pairs, echoes, pattern

testing: Any = stubs.testing()
probe: Any = stubs.probe()

_call: ContextVar[Any] = ContextVar("call")


async def _echo(function: Any, stream: Any) -> None:
    """Run a generated handler with the metadata that came sent back, initial before it and trailing after it."""
    call = stream
    initial, trailing = echoes(list(stream.metadata.items()))
    if initial:
        await call.send_initial_metadata(metadata=initial)
    _call.set(call)
    await function(stream)
    if trailing:
        await call.send_trailing_metadata(metadata=trailing)


def _echoing(mapping: dict[str, Handler]) -> dict[str, Handler]:
    return {path: handler._replace(func=partial(_echo, handler.func)) for path, handler in mapping.items()}


def _end_as_asked(request: Any) -> None:
    if request.response_status is not None:
        raise GRPCError(Status(request.response_status.code), request.response_status.message)


def _refuse_uncompressed(request: Any) -> None:
    # what was compressed has been refused before any handler saw it
    if request.expect_compressed is not None and request.expect_compressed.value:
        raise GRPCError(Status.INVALID_ARGUMENT, "the message is not compressed")


def _payload(size: int) -> Any:
    return testing.Payload(body=bytes(size))


class TestService(testing.TestServiceBase):  # type: ignore[misc] # generated, so known at run time only
    """gRPC's test service. It never compresses: the specification leaves that to the server."""

    __test__ = False

    def __mapping__(self) -> dict[str, Handler]:
        return _echoing(super().__mapping__())

    async def empty_call(self, message: Any) -> Any:
        return testing.Empty()

    async def unary_call(self, message: Any) -> Any:
        _end_as_asked(message)
        _refuse_uncompressed(message)
        return testing.SimpleResponse(payload=_payload(message.response_size))

    async def _answers(self, request: Any) -> AsyncIterator[Any]:
        for wanted in request.response_parameters:
            await anyio.sleep(wanted.interval_us / 1e6)
            yield testing.StreamingOutputCallResponse(payload=_payload(wanted.size))

    async def streaming_output_call(self, message: Any) -> AsyncIterator[Any]:
        _end_as_asked(message)
        async for answer in self._answers(message):
            yield answer

    async def streaming_input_call(self, messages: AsyncIterator[Any]) -> Any:
        size = 0
        async for message in messages:
            _refuse_uncompressed(message)
            size += len(message.payload.body)
        return testing.StreamingInputCallResponse(aggregated_payload_size=size)

    async def full_duplex_call(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        async for message in messages:
            _end_as_asked(message)
            async for answer in self._answers(message):
                yield answer

    async def half_duplex_call(self, messages: AsyncIterator[Any]) -> AsyncIterator[Any]:
        for message in [message async for message in messages]:
            async for answer in self._answers(message):
                yield answer


class Probe(probe.ProbeBase):  # type: ignore[misc]
    """Says what it noticed."""

    def __init__(self) -> None:
        self._book = Book()

    def __mapping__(self) -> dict[str, Handler]:
        return _echoing(super().__mapping__())

    async def park(self, message: Any) -> Any:
        deadline = _call.get().deadline
        parked = self._book.open(message.key, None if deadline is None else deadline.time_remaining())
        try:
            await anyio.sleep(message.milliseconds / 1000)
        except anyio.get_cancelled_exc_class():
            parked.end("cancelled")
            raise
        parked.end("finished")
        return probe.ParkResponse()

    async def wait_experiment(self, message: Any) -> Any:
        return await self.park(message)

    async def give_up(self, message: Any) -> Any:
        self._book.open(message.key, None).end("cancelled")
        await _call.get().cancel()  # RST_STREAM
        return probe.ParkResponse()

    async def observe(self, message: Any) -> Any:
        since = time.monotonic()
        while not message.at_once and not self._book.finished_or_late(message.key, since):
            await anyio.sleep(0.01)
        parked = self._book.find(message.key)
        if parked is None:
            return probe.ObserveResponse(state="absent")
        return probe.ObserveResponse(state=parked.state, seconds_left=parked.seconds_left)

    async def echo_metadata(self, message: Any) -> Any:
        pairs = as_pairs(list(_call.get().metadata.items()))
        return probe.MetadataResponse(pairs=[probe.Pair(key=key, value=value) for key, value in pairs])

    async def upload(self, messages: AsyncIterator[Any]) -> Any:
        crc = Crc()
        async for message in messages:
            crc.add(message.body)
        return probe.Digest(size=crc.size, crc32=crc.crc32)

    async def download(self, message: Any) -> AsyncIterator[Any]:
        for number in range(message.chunks):
            yield probe.Chunk(body=pattern(message.seed + number, message.size))
