from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.errors import TensorError, TensorNotFoundError
from openfl_aio.tensors.key import TensorKey
from openfl_aio.tensors.store import TensorStore


def key(name: str = "w", round_number: int = 0, *tags: str, origin: str = "agg", report: bool = False) -> TensorKey:
    return TensorKey(name, origin, round_number, report, tags or ("model",))


def test_what_is_put_is_got_and_cannot_be_changed() -> None:
    store = TensorStore()
    array = np.ones(3, np.float32)
    store.put(key(), array)
    array[0] = 7
    assert store.get(key()).tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        store.get(key())[0] = 7


def test_a_read_only_array_is_not_copied() -> None:
    store = TensorStore()
    array = np.ones(3, np.float32)
    array.flags.writeable = False
    store.put(key(), array)
    assert store.get(key()) is array


def test_the_order_of_tags_does_not_matter() -> None:
    store = TensorStore()
    store.put(key("w", 0, "b", "a"), np.zeros(1))
    assert key("w", 0, "a", "b") in store
    assert store.keys_of_round(0) == (key("w", 0, "a", "b"),)


def test_an_absent_tensor_is_told() -> None:
    store = TensorStore()
    assert key() not in store
    assert store.find(key()) is None
    with pytest.raises(TensorNotFoundError, match=r"no tensor is stored under TensorKey\(tensor_name='w'"):
        store.get(key())


def test_the_same_values_again_change_nothing() -> None:
    store = TensorStore()
    store.put(key(), np.array([np.nan]))
    store.put(key(), np.array([np.nan]))
    assert len(store) == 1


@pytest.mark.parametrize("other", [np.array([2.0]), np.array([[1.0]]), np.array([1.0], np.float32)])
def test_a_taken_key_is_never_replaced(other: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
    store = TensorStore()
    store.put(key(), np.array([1.0]))
    with pytest.raises(TensorError, match="which is taken with other values"):
        store.put(key(), other)
    assert store.get(key()).tolist() == [1.0]


def test_only_numbers_are_stored() -> None:
    with pytest.raises(TensorError, match="expected an array of numbers"):
        TensorStore().put(key(), np.array([object()]))


def test_a_model_is_what_is_tagged_model_alone() -> None:
    store = TensorStore()
    store.put(key("w"), np.array(1.0))
    store.put(key("b"), np.array(2.0))
    store.put(key("other", origin="col"), np.array(3.0))
    store.put(key("trained", 0, "model", "trained"), np.array(4.0))
    store.put(key("metric", report=True), np.array(5.0))
    assert store.model(0, "agg") == {"w": 1.0, "b": 2.0}
    assert store.model(1, "agg") == {}


@pytest.mark.parametrize(("keep_reports", "dropped", "left"), [(True, 2, {"acc", "new"}), (False, 3, {"new"})])
def test_old_rounds_are_dropped(keep_reports: bool, dropped: int, left: set[str]) -> None:
    store = TensorStore()
    store.put(key("w", 0), np.zeros(4))
    store.put(key("acc", 0, "metric", report=True), np.zeros(4))
    store.put(key("w", 1), np.zeros(4))
    store.put(key("new", 2), np.zeros(4))
    assert store.nbytes == 128
    assert store.drop_rounds(2, keep_reports=keep_reports) == dropped
    assert {k.tensor_name for number in range(3) for k in store.keys_of_round(number)} == left
    assert len(store) == len(left)
    assert store.nbytes == 32 * len(left)


def test_repr_tells_the_size() -> None:
    store = TensorStore()
    store.put(key(), np.zeros(2, np.float32))
    assert repr(store) == "<TensorStore 1 tensors of 1 rounds, 8 bytes>"
