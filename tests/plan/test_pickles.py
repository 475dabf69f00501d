"""Pickles are read as data, and hostile ones are refused before anything is done."""

from __future__ import annotations

import os
import pickle
import struct
from collections import OrderedDict
from pathlib import Path

import cloudpickle
import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.errors import ArchiveError
from openfl_aio.plan.pickles import MAX_PICKLE_BYTES, Nested, Record, UnreadablePickleError, read_pickle

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=10,
)


class Evil:
    """Runs a command when it is unpickled by pickle."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, (f"touch {self.path}",)


@given(PLAIN)
def test_plain_values_come_as_they_are(value: object) -> None:
    assert read_pickle(pickle.dumps(value, protocol=4), name="x.pkl") == value


def test_nothing_is_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    found = read_pickle(pickle.dumps(Evil(victim), protocol=4), name="x.pkl")
    assert isinstance(found, Record)
    assert found.path.endswith(".system")
    assert found.args == (f"touch {victim}",)
    assert not victim.exists()


def test_an_object_keeps_its_arguments_its_state_and_its_items() -> None:
    found = read_pickle(pickle.dumps(OrderedDict(a=1), protocol=4), name="x.pkl")
    assert (found.path, found.items) == ("collections.OrderedDict", {"a": 1})


def test_a_function_of_cloudpickle_has_its_state() -> None:
    inner = 7
    found = read_pickle(cloudpickle.dumps(lambda: inner), name="x.pkl")
    assert found.path.endswith("._make_function")
    assert found.state[1]["__closure__"][0].args == (7,)


HOSTILE = {
    "no pickle": b"hello",
    "nothing": b"",
    "cut": pickle.dumps([1, 2, 3], protocol=4)[:-3],
    "a text that is not there": b"\x80\x04h\x07.",
    "an extension": b"\x80\x04\x82\x01.",
    "a persistent id": b"\x80\x04U\x01aQ.",
    "text that is evaluated": b"S'a'\n.",
    "a dictionary of protocol 0": b"(dp0\n.",
    "a stack that is empty": b"\x80\x04R.",
    "calling a number": b"\x80\x04K\x01)R.",
    "far too many": b"\x80\x04" + b"N0" * 150_000 + b"N.",
    "too long": b"\x80\x04" + b"N" * MAX_PICKLE_BYTES + b".",
    "a length that lies": b"\x80\x04\x8d" + struct.pack("<Q", 2**40) + b".",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_pickle_is_refused_with_its_name(data: bytes) -> None:
    with pytest.raises(ArchiveError, match=r"x\.pkl"):
        read_pickle(data, name="x.pkl")


LAUGHS = b")" + b"2\x86" * 60  # sixty tuples, each twice the one before
DEEP = b")" + b"\x85" * 150_000


@pytest.mark.parametrize("key", [LAUGHS, DEEP], ids=["laughing", "deep"])
@pytest.mark.parametrize("how", [b"}%sNs.", b"}(%sNu.", b"\x8c\x01x\x8c\x01y\x93)R%sNs."])
def test_a_key_whose_hash_would_never_come_is_not_hashed(how: bytes, key: bytes) -> None:
    found = read_pickle(b"\x80\x04" + how % key, name="x.pkl")
    items = found.items if isinstance(found, Record) else found
    assert [type(key) for key in items] == [Nested]


def test_what_older_protocols_write_is_read(tmp_path: Path) -> None:
    shared = ["x"]
    for protocol in (2, 3):
        found = read_pickle(pickle.dumps([shared, shared, Evil(tmp_path)], protocol=protocol), name="x.pkl")
        assert found[:2] == [shared, shared]
        assert found[0] is found[1]
        assert found[2].path.endswith(".system")
    # CPython reserves memory up to the index
    assert read_pickle(b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b".", name="x.pkl") is None


def test_bytes_that_can_be_changed_are_values() -> None:
    assert read_pickle(pickle.dumps([bytearray(b"abc")], protocol=5), name="x.pkl") == [b"abc"]
    lies = b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"."
    with pytest.raises(ArchiveError, match=r"x\.pkl is no pickle"):
        read_pickle(lies, name="x.pkl")


def test_a_pickle_that_cannot_be_read_says_with_what_it_begins() -> None:
    with pytest.raises(UnreadablePickleError, match=r"^x\.pkl is no pickle") as info:
        read_pickle(pickle.dumps(Evil(Path("x")), protocol=4)[:-4], name="x.pkl")
    assert isinstance(info.value.begun, Record)
    assert info.value.begun.path.endswith(".system")


@pytest.mark.parametrize("nested", [LAUGHS, DEEP], ids=["laughing", "deep"])
def test_a_nested_member_of_a_set_is_kept_without_a_look_at_it(nested: bytes) -> None:
    assert len(read_pickle(b"\x80\x04\x8f(" + nested + b"\x90.", name="x.pkl")) == 1
    assert len(read_pickle(b"\x80\x04(" + nested + b"\x91.", name="x.pkl")) == 1


LONG = b"X" + struct.pack("<I", 200_000) + b"a" * 200_000 + b"\x94"


@pytest.mark.parametrize(
    "body",
    [
        LONG + b"\x8c\x01b\x93.",
        b"\x8c\x01b" + LONG + b"\x93.",
        b"c" + b"a" * 200_000 + b"\nb\n.",
        LONG + b"c__main__\n_make_skeleton_class\nNh\x00\x86R.",
        LONG + b"c__main__\n_make_skeleton_class\n(N\x8c\x01aN}\x8c\x0a__module__h\x00stR.",
        LONG + b"c__main__\n_builtin_type\nh\x00\x85R)R.",
    ],
)
def test_a_name_that_could_be_joined_over_and_over_from_one_long_text_is_refused(body: bytes) -> None:
    with pytest.raises(UnreadablePickleError, match=r"a name of more than 1000 characters"):
        read_pickle(b"\x80\x04" + body, name="x.pkl")


def test_a_tree_that_laughs_is_no_larger_than_its_text() -> None:
    # each list holds the one before ten times: only whoever walks through it sees 10**50 leaves
    body = b""
    for index in range(50):
        body += b"](" + (b"N" if index == 0 else b"h" + bytes([index - 1])) * 10 + b"e\x94"
    found = read_pickle(b"\x80\x04" + body + b".", name="x.pkl")
    assert len(found) == 10


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        read_pickle(b"\x80\x04" + data, name="x.pkl")
    except ArchiveError:
        pass
