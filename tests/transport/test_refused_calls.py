"""What a call held is gone with it, without waiting for the garbage collector."""

from __future__ import annotations

import gc
import weakref
from contextlib import suppress

import anyio
import pytest
from grpclib.exceptions import StreamTerminatedError

from openfl_aio.config import Endpoint
from openfl_aio.errors import NotFoundError, OpenFLAioError
from openfl_aio.transport.channel import open_channel, translate
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import aggregator

pytestmark = pytest.mark.real_time


class Model:
    """Something large that a handler works with."""


class Refusing(aggregator.AggregatorBase):
    """Ends every call with an error, from a frame that holds a model."""

    def __init__(self, error: Exception) -> None:
        self.error: Exception | None = error
        self.models: list[weakref.ref[Model]] = []

    async def get_tasks(self, message: aggregator.GetTasksRequest) -> aggregator.GetTasksResponse:
        model = Model()
        self.models.append(weakref.ref(model))
        try:
            raise KeyError(model)
        except KeyError as exc:
            error, self.error = self.error, None
            assert error is not None
            raise error from exc


@pytest.mark.parametrize("error", [NotFoundError, StreamTerminatedError], ids=["refused", "given up"])
async def test_a_call_that_failed_leaves_nothing_behind(error: type[Exception]) -> None:
    service = Refusing(error("there are no tasks"))
    async with (
        Server([service], listen=Endpoint(), tls=None) as server,
        open_channel(server.endpoint, tls=None) as channel,
    ):
        gc.collect()
        gc.disable()
        try:
            # nobody is told of the end of a call that the peer gave up
            with anyio.move_on_after(0.2), suppress(OpenFLAioError), translate():
                await aggregator.AggregatorStub(channel).get_tasks(aggregator.GetTasksRequest())
            with anyio.move_on_after(1):
                while service.models[0]() is not None:
                    await anyio.sleep(0.01)
        finally:
            gc.enable()
    assert service.models[0]() is None
