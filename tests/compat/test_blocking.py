"""The facade for callers without an event loop."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Callable
from typing import Any

import numpy as np
import pytest

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.compat import AggregatorGRPCClient, AggregatorGRPCServer, DirectorClient, DirectorGRPCServer, blocking
from openfl_aio.config import AggregatorConfig, Timeouts
from openfl_aio.director.service import Director
from openfl_aio.errors import NotFoundError

pytestmark = pytest.mark.real_time


def test_a_server_and_a_client_without_a_loop() -> None:
    config = AggregatorConfig(collaborators=("one",), rounds=1, timeouts=Timeouts(drain=0.2))
    aggregator = Aggregator(config, initial_model={"w": np.zeros(1, np.float32)})
    with blocking(AggregatorGRPCServer(aggregator, 0, tls=False)) as server:
        port = server.server.endpoint.port
        uuids = (aggregator.uuid, aggregator.federation_uuid)
        with blocking(AggregatorGRPCClient("localhost", port, False, None, None, None, False, *uuids)) as client:
            assert repr(client) == f"Blocking(AggregatorGRPCClient('localhost:{port}'))"
            assert client.get_tasks.__name__ == "get_tasks"
            assert len(client.get_tasks("one")[0]) == 3
            with pytest.raises(NotFoundError):
                client.get_aggregated_tensor("one", "v", 0, False, ["model"], True)
            assert client.uri == f"localhost:{port}"
        server._portal.call(aggregator.stop, "enough")
        with blocking(AggregatorGRPCClient("localhost", port, False, None, None, None, False, *uuids)) as client:
            assert client.get_tasks("one")[3] is True
        server.serve()  # everybody was told to quit


def test_a_stream_is_an_iterator_that_may_be_left() -> None:
    class Metrics(DirectorClient):
        left = False

        async def stream_metrics(self, experiment_name):  # type: ignore[no-untyped-def]
            try:
                for number in range(3):
                    yield {"round": number}
            finally:
                self.left = True

    with blocking(DirectorGRPCServer(director_cls=Director, tls=False, listen_port=0)) as server:
        port = server.endpoint.port
        files = {"root_certificate": None, "private_key": None, "certificate": None}
        metrics = Metrics(client_id="alice", director_host="localhost", director_port=port, tls=False, **files)
        with blocking(metrics) as client:
            assert client.get_dataset_info() == ([], [])
            assert [metric["round"] for metric in client.stream_metrics("exp")] == [0, 1, 2]
            metrics.left = False
            stream = client.stream_metrics("exp")
            assert next(stream) == {"round": 0}
            stream.close()
            assert metrics.left


def traced(method: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a method as code that knows nothing of coroutines does."""

    @functools.wraps(method)
    def call(*args: Any, **kwargs: Any) -> Any:
        return method(*args, **kwargs)

    return call


class Traced(DirectorClient):
    get_dataset_info = traced(DirectorClient.get_dataset_info)

    async def _numbers(self, experiment_name: str) -> AsyncIterator[dict[str, Any]]:
        for number in range(3):
            yield {"round": number}

    stream_metrics = traced(_numbers)


def test_a_wrapped_method_is_waited_for_too() -> None:
    with blocking(DirectorGRPCServer(director_cls=Director, tls=False, listen_port=0)) as server:
        files = {"root_certificate": None, "private_key": None, "certificate": None}
        port = server.endpoint.port
        ours = Traced(client_id="alice", director_host="localhost", director_port=port, tls=False, **files)
        with blocking(ours) as client:
            assert client.get_dataset_info() == ([], [])
            assert [metric["round"] for metric in client.stream_metrics("exp")] == [0, 1, 2]


def test_attributes_are_the_facades() -> None:
    ours = AggregatorGRPCClient("localhost", 1, False, None, None, None, tls=False)
    with blocking(ours) as client:
        client.aggregator_uuid = "aggregator_f"
        assert ours.aggregator_uuid == client.aggregator_uuid == "aggregator_f"
        assert set(dir(client)) == set(dir(ours))
        client.note = "mine"
        del client.note
        assert not hasattr(ours, "note")
        with pytest.raises(AttributeError, match="nothing"):
            _ = client.nothing


def test_a_plain_method_that_needs_a_loop_has_one() -> None:
    with blocking(AggregatorGRPCClient("localhost", 1, False, None, None, None, tls=False)) as client:
        assert client.create_insecure_channel("host:5").endpoint.port == 5
        client.disconnect()
        client.reconnect()
        assert client.channel is not None
