from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.domain import Header
from openfl_aio.errors import LocalProtocolError, MalformedMessageError, MessageTooLargeError, RemoteProtocolError
from openfl_aio.wire.continuation import HEADER, OFFSET, UPLOAD, Continuation, new_upload_id, rest_of

SENDER = Header("one", "aggregator", "federation", "")
ID = new_upload_id()


@pytest.mark.parametrize("said", [Continuation(ID), Continuation(ID, 1, SENDER), Continuation(ID, 2**62, SENDER)])
def test_what_is_said_is_understood(said: Continuation) -> None:
    assert Continuation.from_metadata({"client_id": "one", **said.metadata()}) == said


def test_an_upload_without_a_name_is_no_continuation() -> None:
    assert Continuation.from_metadata({"client_id": "one", OFFSET: "7"}) is None


def test_names_differ() -> None:
    assert len({new_upload_id() for _ in range(1000)}) == 1000


GOOD = Continuation(ID, 7, SENDER).metadata()


@pytest.mark.parametrize(
    "change",
    [
        {UPLOAD: ""},
        {UPLOAD: "short"},
        {UPLOAD: "x" * 65},
        {UPLOAD: "../" * 8},
        {UPLOAD: "a\nb" * 8},
        {UPLOAD: b"0123456789abcdef"},
        {OFFSET: "0"},
        {OFFSET: "-1"},
        {OFFSET: "1e3"},
        {OFFSET: "٧"},
        {OFFSET: "9" * 20},
        {OFFSET: None},
        {HEADER: None},
        {HEADER: "text"},
        {HEADER: b"\x0a\xff"},
    ],
)
def test_nonsense_is_refused(change: dict[str, Any]) -> None:
    said = {name: value for name, value in (GOOD | change).items() if value is not None}
    with pytest.raises((MalformedMessageError, MessageTooLargeError)) as caught:
        Continuation.from_metadata(said)
    assert isinstance(caught.value, RemoteProtocolError)
    assert "\n" not in str(caught.value)


@given(st.lists(st.binary(max_size=9)), st.integers(0, 100))
def test_the_rest_is_the_rest(parts: list[bytes], offset: int) -> None:
    whole = b"".join(parts)
    if offset > len(whole):
        with pytest.raises(LocalProtocolError, match=f"ends {offset - len(whole)} bytes before"):
            list(rest_of(parts, offset))
    else:
        rest = list(rest_of(parts, offset))
        assert b"".join(bytes(part) for part in rest) == whole[offset:]


def test_the_rest_is_not_copied() -> None:
    data = bytearray(b"0123456789")
    (rest,) = rest_of([data], 4)
    data[9] = ord("x")
    assert bytes(rest) == b"45678x"
