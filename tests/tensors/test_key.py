from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.errors import TensorError
from openfl_aio.tensors.key import TensorKey, normalise_tags

tag_lists = st.lists(st.sampled_from(["aggregated", "delta", "metric", "model", "trained"]), max_size=6)


@given(tag_lists)
def test_tags_are_sorted_and_unique(tags: list[str]) -> None:
    normal = normalise_tags(tags)
    assert list(normal) == sorted(set(tags))
    assert normalise_tags(reversed(tags)) == normal
    assert normalise_tags(normal) == normal


@given(tag_lists, tag_lists)
def test_adding_and_removing_gives_the_difference(tags: list[str], added: list[str]) -> None:
    key = TensorKey.of("w", "agg", 0, tags=tags)
    more = key.with_tags(add=added)
    assert set(more.tags) == set(tags) | set(added)
    assert more.with_tags(remove=set(added) - set(tags)) == key


def test_a_tag_both_removed_and_added_stays() -> None:
    key = TensorKey.of("w", "agg", 0, tags=["model"])
    assert key.with_tags(add=["model"], remove=["model"]) == key


def test_removing_an_absent_tag_is_refused() -> None:
    key = TensorKey.of("w", "agg", 0, tags=["model"])
    with pytest.raises(TensorError, match=r"cannot remove tags \['delta'\]: 'w' has only \['model'\]"):
        key.with_tags(remove=["model", "delta"])


def test_a_key_unpacks_into_its_five_fields() -> None:
    name, origin, round_number, report, tags = TensorKey.of("w", "agg", 7, report=True, tags="ba")
    assert (name, origin, round_number, report, tags) == ("w", "agg", 7, True, ("a", "b"))
