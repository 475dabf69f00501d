"""What a call held is gone with it, without waiting for the garbage collector."""

from __future__ import annotations

import gc
import weakref

import anyio
import pytest

from openfl_aio.config import Endpoint
from openfl_aio.errors import NotFoundError, OpenFLAioError
from openfl_aio.transport.channel import open_channel, translate
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import aggregator

pytestmark = pytest.mark.real_time


class Model:
    """Something large that a handler works with."""


class Refusing(aggregator.AggregatorBase):
    """Refuses every call, from a frame that holds a model."""

    def __init__(self) -> None:
        self.models: list[weakref.ref[Model]] = []

    async def get_tasks(self, message: aggregator.GetTasksRequest) -> aggregator.GetTasksResponse:
        model = Model()
        self.models.append(weakref.ref(model))
        try:
            raise KeyError(model)
        except KeyError as exc:
            raise NotFoundError("there are no tasks") from exc


async def test_a_refused_call_leaves_nothing_behind() -> None:
    service = Refusing()
    async with (
        Server([service], listen=Endpoint(), tls=None) as server,
        open_channel(server.endpoint, tls=None) as channel,
    ):
        gc.collect()
        gc.disable()
        try:
            with pytest.raises(OpenFLAioError, match="no tasks"), translate():
                await aggregator.AggregatorStub(channel).get_tasks(aggregator.GetTasksRequest())
            with anyio.move_on_after(1):
                while service.models[0]() is not None:
                    await anyio.sleep(0.01)
        finally:
            gc.enable()
    assert service.models[0]() is None
