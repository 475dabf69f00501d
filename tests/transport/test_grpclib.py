"""The private names of grpclib that the transport stands on: this fails loudly when a new version moves them."""

from __future__ import annotations

import inspect

import grpclib.client
import grpclib.protocol
import grpclib.server
import pytest


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (grpclib.client.Channel, ["_create_connection", "_protocol_factory"]),
        (grpclib.server.Server, ["_protocol_factory", "__gc_step__"]),
        (grpclib.protocol.H2Protocol, ["connection_made", "data_received", "connection_lost"]),
        (grpclib.protocol.Connection, ["flush", "is_closing"]),
        (grpclib.protocol.EventsProcessor, ["close"]),
        (grpclib.protocol.Stream, ["recv_data"]),
        (grpclib.protocol.Buffer, ["read", "eof"]),
    ],
)
def test_methods_are_there(owner: type, names: list[str]) -> None:
    assert [name for name in names if not callable(getattr(owner, name, None))] == []


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (
            grpclib.server.Server.__init__,
            ["_mapping", "_codec", "_status_details_codec", "_config", "_h2_config", "_loop", "_handlers"],
        ),
        (grpclib.server.Handler.__init__, ["_tasks", "_cancelled"]),
        (grpclib.server.Stream.__init__, ["_stream", "_cardinality", "_codec", "_recv_type"]),
        (grpclib.protocol.Buffer.__init__, ["_eof", "_unacked", "_acked_size"]),
        (grpclib.protocol.Connection.__init__, ["_connection"]),
        (grpclib.protocol.H2Protocol.connection_made, ["connection", "processor"]),
    ],
)
def test_attributes_are_set(function: object, names: list[str]) -> None:
    assert inspect.isfunction(function)
    assert [name for name in names if f"self.{name}" not in inspect.getsource(function)] == []
