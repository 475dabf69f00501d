"""A message on its way out: the same bytes, however they are asked for, and none of them copied."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.transport.http2.outgoing import Outgoing

LAW = settings(deadline=None)
PARTS = st.lists(st.binary(max_size=40), max_size=8)


@LAW
@given(parts=PARTS, counts=st.lists(st.integers(0, 30)))
def test_what_is_taken_is_what_was_put_in(parts: list[bytes], counts: list[int]) -> None:
    outgoing, whole = Outgoing(parts), b"".join(parts)
    taken = b""
    for count in counts:
        assert outgoing.left == len(whole) - len(taken)
        pieces = outgoing.take(count)
        assert all(pieces), "an empty piece is a buffer for nothing"
        assert sum(map(len, pieces)) == min(count, len(whole) - len(taken))
        taken += b"".join(pieces)
    taken += b"".join(outgoing.take(len(whole)))

    assert taken == whole
    assert outgoing.left == 0
    assert outgoing.take(5) == []


def test_pieces_are_views_of_the_parts() -> None:
    part = bytearray(b"0123456789")
    outgoing = Outgoing([part])

    (piece,) = outgoing.take(4)
    part[:4] = b"abcd"

    assert bytes(piece) == b"abcd"


def test_a_view_of_wider_items_counts_as_its_bytes() -> None:
    outgoing = Outgoing([memoryview(bytes(16)).cast("I"), b"", b"end"])

    assert outgoing.left == 19
    assert b"".join(outgoing.take(19)) == bytes(16) + b"end"
    assert repr(outgoing) == "<Outgoing left=0>"
