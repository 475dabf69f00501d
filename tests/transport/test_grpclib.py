"""The private names of grpclib that the transport stands on: this fails loudly when a new version moves them."""

from __future__ import annotations

import inspect
import re

import grpclib.client
import grpclib.events
import grpclib.protocol
import grpclib.server
import grpclib.utils
import pytest

from openfl_aio.transport.http2.connection import Connection
from openfl_aio.transport.http2.stream import Stream


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (grpclib.client.Channel, ["_create_connection", "__connect__", "close"]),
        (grpclib.client.Stream, ["_maybe_raise", "_maybe_finish", "send_request", "recv_initial_metadata"]),
        (grpclib.server.Stream, ["send_initial_metadata"]),
        (grpclib.utils.Wrapper, ["cancel", "__enter__", "__exit__"]),
        (grpclib.utils.DeadlineWrapper, ["start"]),
    ],
)
def test_methods_are_there(owner: type, names: list[str]) -> None:
    assert [name for name in names if not callable(getattr(owner, name, None))] == []


def test_whether_a_channel_is_connected_is_asked_of_a_property() -> None:
    assert isinstance(grpclib.client.Channel._connected, property)


@pytest.mark.parametrize(
    ("function", "names"),
    [
        (grpclib.server.Server.__init__, ["_mapping", "__dispatch__"]),
        (
            grpclib.server.Stream.__init__,
            ["_stream", "_cardinality", "_codec", "_recv_type", "_method_name", "_dispatch", "deadline", "metadata"],
        ),
        (
            grpclib.client.Channel.__init__,
            ["_host", "_port", "_loop", "_ssl", "_codec", "__dispatch__"],
        ),
        (
            grpclib.client.Stream.__init__,
            ["_cardinality", "_send_type", "_recv_type", "_codec", "_deadline", "_dispatch"],
        ),
        (grpclib.client.Stream.__aenter__, ["_wrapper", "_wrapper_ctx"]),
        (grpclib.client.Stream.send_request, ["_stream", "_release_stream", "_send_request_done", "_end_done"]),
        (grpclib.utils.Wrapper.__init__, ["_tasks"]),
    ],
)
def test_attributes_are_set(function: object, names: list[str]) -> None:
    assert inspect.isfunction(function)
    assert [name for name in names if f"self.{name}" not in inspect.getsource(function)] == []


@pytest.mark.parametrize(
    ("owner", "names"),
    [
        (
            grpclib.server.Stream,
            ["_send_initial_metadata_done", "_send_message_done", "_send_trailing_metadata_done", "_cancel_done"],
        ),
        (grpclib.client.Stream, ["_recv_initial_metadata_done", "_send_message_done", "_end_done"]),
    ],
)
def test_states_are_there_before_anything_happened(owner: type, names: list[str]) -> None:
    assert [name for name in names if getattr(owner, name, None) is not False] == []


@pytest.mark.parametrize(
    ("caller", "used", "ours"),
    [
        (grpclib.client.Stream, "self._stream.", Stream),
        (grpclib.server.Stream, "self._stream.", Stream),
        (grpclib.client.Stream, "protocol.processor.connection\\\n                .", Connection),
        (grpclib.client.Stream, "self._stream.connection.", Connection),
        (grpclib.server.Stream, "self._stream.connection.", Connection),
    ],
)
def test_ours_has_every_name_that_grpclib_uses(caller: type, used: str, ours: type) -> None:
    names = set(re.findall(re.escape(used) + r"(\w+)", inspect.getsource(caller)))
    assert names
    assert sorted(name for name in names if not hasattr(ours, name)) == []
