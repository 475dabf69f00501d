from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.errors import ConfigurationError, ShapeMismatchError, TensorError
from openfl_aio.plan.templates import AGGREGATIONS
from openfl_aio.tensors.aggregation import (
    KNOWN_AGGREGATIONS,
    AggregationContext,
    LocalTensor,
    check_enough,
    describe_aggregation,
    get_aggregation,
    parse_aggregation,
)

CONTEXT = AggregationContext("w", 2, ("trained",), np.zeros((3, 4), np.float32))
NAMES = sorted(KNOWN_AGGREGATIONS)


def local_tensors(*, kept: bool = False, count: int = 9) -> list[LocalTensor]:
    random = np.random.default_rng(7)
    return [
        LocalTensor(f"c{i}", float(i + 1), random.standard_normal((3, 4)).astype(np.float32), kept=kept)
        for i in range(count)
    ]


@pytest.mark.parametrize("name", NAMES)
def test_every_function_gives_a_new_read_only_float32_array_of_the_shape(name: str) -> None:
    tensors = local_tensors()
    before = [tensor.values.copy() for tensor in tensors]
    result = get_aggregation(name).aggregate(iter(tensors), CONTEXT)
    assert result.shape == (3, 4)
    assert result.dtype == np.float32
    assert not result.flags.writeable
    assert all(np.array_equal(tensor.values, old) for tensor, old in zip(tensors, before, strict=True))
    assert not any(np.shares_memory(result, tensor.values) for tensor in tensors)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (40_001,)])
def test_every_shape_and_the_same_values_from_everybody(name: str, shape: tuple[int, ...]) -> None:
    base = np.full(shape, 2.5, np.float32)
    tensors = [LocalTensor(f"c{i}", 1.0, base) for i in range(7)]
    result = get_aggregation(name).aggregate(tensors, AggregationContext("w", 0, (), base))
    assert np.array_equal(result, base)  # nobody moved: an optimizer stays where it is, too


@pytest.mark.parametrize("name", NAMES)
def test_the_result_is_the_same_to_the_bit_kept_or_not_and_from_call_to_call(name: str) -> None:
    results = {
        get_aggregation(name).aggregate(local_tensors(kept=kept), CONTEXT).tobytes() for kept in (False, True, True)
    }
    assert len(results) == 1


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_aggregate_is_an_error(name: str) -> None:
    with pytest.raises(TensorError, match=r"nothing to (aggregate|average) for tensor 'w' in round 2"):
        get_aggregation(name).aggregate([], CONTEXT)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_must_agree(name: str) -> None:
    tensors = [*local_tensors(), LocalTensor("other", 1, np.zeros((4, 3)))]
    with pytest.raises(ShapeMismatchError, match=r"got \(4, 3\) from 'other'"):
        get_aggregation(name).aggregate(tensors, CONTEXT)


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_checked_even_where_they_do_not_count(name: str) -> None:
    with pytest.raises(TensorError, match="expected a weight of 0 or more"):
        get_aggregation(name).aggregate([LocalTensor("c", -1.0, np.zeros((3, 4)))], CONTEXT)


@pytest.mark.parametrize("name", NAMES)
def test_plans_can_name_it(name: str) -> None:
    assert AGGREGATIONS.name_of(AGGREGATIONS.template_of(name)) == name


def test_plans_know_no_other() -> None:
    assert sorted(AGGREGATIONS.names) == NAMES
    assert AGGREGATIONS.name_of("openfl.interface.aggregation_functions.median.Median") == "median"


@pytest.mark.parametrize(
    ("name", "settings", "text"),
    [
        ("median", {}, "median"),
        ("trimmed_mean", {"share": 0.25}, "trimmed_mean:share=0.25"),
        ("multi_krum", {"byzantine": 2, "chosen": 3}, "multi_krum:byzantine=2,chosen=3"),
        ("adam", {"epsilon": 1e-09, "betas": [0.5, 0.75]}, "adam:epsilon=1e-09,betas=0.5/0.75"),
    ],
)
def test_settings_are_written_and_read_back(name: str, settings: dict[str, object], text: str) -> None:
    assert describe_aggregation(name, settings) == text
    assert parse_aggregation(text) == (name, settings)
    assert get_aggregation(text).name == name


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("mean", "unknown aggregation function 'mean'; known are: adagrad, adam, bulyan"),
        ("median:x=1", "'median' has no setting 'x'; it takes none"),
        ("krum:f=1", "'krum' has no setting 'f'; it takes byzantine"),
        ("krum:byzantine", "'krum:byzantine': expected 'name:setting=value,setting=value'"),
        ("krum:byzantine=1,byzantine=2", "expected 'name:setting=value"),
        ("krum:byzantine=1.5", "'krum': byzantine: expected a whole number of 0 or more, got 1.5"),
        ("krum:byzantine=-1", "byzantine: expected a whole number of 0 or more, got -1"),
        ("multi_krum:chosen=0", "chosen: expected a whole number of 1 or more, got 0"),
        ("trimmed_mean:share=0.5", "share: expected a number from 0 and below 0.5, got 0.5"),
        ("trimmed_mean:share=a", "share: expected a number from 0 and below 0.5, got 'a'"),
        ("adam:learning_rate=inf", "learning_rate: expected a number from 0, got inf"),
        ("adam:learning_rate=nan", "learning_rate: expected a number from 0, got nan"),
        ("adam:epsilon=0", "epsilon: expected a number above 0, got 0"),
        ("adam:betas=0.9", "betas: expected two numbers, got 0.9"),
        ("adam:betas=0.9/1", "betas: expected a number from 0 and below 1, got 1"),
        ("adagrad:epsilon=0", "epsilon: expected a number above 0, got 0"),
        ("fedavgm:momentum=2", "momentum: expected a number from 0 and below 1, got 2"),
    ],
)
def test_wrong_settings_are_named(text: str, error: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        get_aggregation(text)
    assert error in str(caught.value)


def test_a_federation_must_have_as_many_members_as_its_functions_need() -> None:
    functions = {"train": get_aggregation("krum:byzantine=1"), "other": get_aggregation("median")}
    check_enough(functions, ["a", "b", "c", "d", "e"])
    with pytest.raises(
        ConfigurationError, match="task 'train': krum needs 5 collaborators or more, the federation has 2"
    ):
        check_enough(functions, ["a", "b"])
