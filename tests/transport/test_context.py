from __future__ import annotations

from enum import Enum

import pytest
from grpclib.const import Status
from grpclib.exceptions import GRPCError

from openfl_aio.transport.context import CallContext, status_named
from openfl_aio.transport.identity import Caller


class StatusCode(Enum):  # as grpcio's are
    NOT_FOUND = (5, "not found")


@pytest.mark.parametrize("code", [StatusCode.NOT_FOUND, Status.NOT_FOUND, "NOT_FOUND", 5])
def test_a_call_is_aborted_with_any_librarys_status(code: object) -> None:
    with pytest.raises(GRPCError) as raised:
        CallContext((), Caller("one", authenticated=False)).abort(code, "gone")
    assert (raised.value.status, raised.value.message) == (Status.NOT_FOUND, "gone")


@pytest.mark.parametrize("code", [0, "OK", Status.OK])
def test_no_call_is_aborted_with_ok(code: object) -> None:
    with pytest.raises(ValueError, match="got OK; return an answer"):
        CallContext((), Caller("one", authenticated=False)).abort(code, "fine")


@pytest.mark.parametrize("code", [99, "NO_SUCH", None, object()])
def test_anything_else_is_no_status(code: object) -> None:
    with pytest.raises(ValueError, match=r"99|expected a gRPC status"):
        status_named(code)


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        ("127.0.0.1:5", "ipv4:127.0.0.1:5"),
        ("[::1]:5", "ipv6:[::1]:5"),
        ("::1:5", "ipv6:[::1]:5"),
        ("[::ffff:127.0.0.1]:5", "ipv4:127.0.0.1:5"),
        ("/run/socket", "/run/socket"),
        ("", "unknown"),
    ],
)
def test_the_peer_is_written_as_grpcio_does(address: str, peer: str) -> None:
    assert CallContext((), Caller("one", authenticated=False, address=address)).peer() == peer


def test_a_name_is_proven_by_a_certificate_alone() -> None:
    assert CallContext((), Caller("one", authenticated=False)).auth_context() == {}
    assert CallContext((), Caller("one", authenticated=True)).auth_context()["x509_common_name"] == [b"one"]


def test_metadata_are_pairs_with_names() -> None:
    metadata = CallContext((("a", "b"), ("c-bin", b"d")), Caller("one", authenticated=True)).invocation_metadata()
    assert metadata == (("a", "b"), ("c-bin", b"d"))
    assert [(item.key, item.value) for item in metadata] == list(metadata)
