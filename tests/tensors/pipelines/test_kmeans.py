from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from openfl_aio.tensors.pipelines.kmeans import CANDIDATES, cluster

SEED = 7


def error_of(values: NDArray[np.float32], centres: NDArray[np.float32], labels: NDArray[np.uint8]) -> float:
    return float(np.square(centres[labels].astype(np.float64) - values).sum())


def least_error(values: NDArray[np.float32], clusters: int) -> float:
    """Try every way to cut the sorted values."""
    ordered = np.sort(values).astype(np.float64)
    return min(
        sum(float(np.square(part - part.mean()).sum()) for part in np.split(ordered, cuts))
        for cuts in combinations(range(1, len(ordered)), clusters - 1)
    )


@given(
    values=npst.arrays(np.float32, st.integers(5, 12), elements=st.floats(-100, 100, width=16), unique=True),
    clusters=st.integers(1, 4),
)
@settings(max_examples=100, deadline=None)
def test_no_other_clusters_have_a_smaller_error(values: NDArray[np.float32], clusters: int) -> None:
    centres, labels = cluster(values, clusters)
    assert error_of(values, centres, labels) <= least_error(values, clusters) * (1 + 1e-6) + 1e-6


@given(
    values=npst.arrays(np.float32, st.integers(0, 300), elements=st.floats(-1e6, 1e6, width=32)),
    clusters=st.integers(1, 256),
)
@settings(max_examples=60, deadline=None)
def test_every_value_has_a_centre_near_it(values: NDArray[np.float32], clusters: int) -> None:
    centres, labels = cluster(values, clusters)
    assert len(centres) <= clusters
    assert (np.diff(centres) >= 0).all()
    assert labels.shape == values.shape
    assert labels.dtype == np.uint8
    if len(values):
        assert centres[0] >= values.min()
        assert centres[-1] <= values.max()


@pytest.mark.parametrize("clusters", [3, 4, 200])
def test_few_different_values_are_kept_as_they_are(clusters: int) -> None:
    values = np.array([3, 1, 1, 3, 0.1, 1], np.float32)
    centres, labels = cluster(values, clusters)
    assert centres.tolist() == [np.float32(0.1), 1, 3]
    assert centres[labels].tolist() == values.tolist()


def test_one_cluster_is_the_mean() -> None:
    centres, labels = cluster(np.array([1, 2, 6], np.float32), 1)
    assert centres.tolist() == [3]
    assert labels.tolist() == [0, 0, 0]


@pytest.mark.parametrize("offset", [0.0, 1000.0])
@pytest.mark.parametrize("kind", ["normal", "heavy", "crowds"])
def test_with_more_values_than_places_to_cut_no_value_is_nearer_to_another_centre(kind: str, offset: float) -> None:
    source = np.random.default_rng(SEED)
    size = 10 * CANDIDATES
    values = {
        "normal": source.normal(size=size),
        "heavy": source.standard_t(2, size=size),
        "crowds": source.choice([-5.0, 0.0, 0.1, 40.0], size=size) + source.normal(scale=0.01, size=size),
    }[kind]
    single = (values + offset).astype(np.float32)
    centres, labels = cluster(single, 6)
    nearest = np.abs(single[:, None].astype(np.float64) - centres).min(axis=1)
    assert np.allclose(np.abs(single - centres[labels].astype(np.float64)), nearest, atol=1e-3 * single.std())
    for index, centre in enumerate(centres):
        assert centre == pytest.approx(single[labels == index].mean(dtype=np.float64), rel=1e-5, abs=1e-6)


def test_lonely_values_far_away_get_their_own_centres() -> None:
    values = np.random.default_rng(SEED).normal(size=5 * CANDIDATES).astype(np.float32)
    values[17], values[4711] = 1e6, -1e6
    centres, _ = cluster(values, 3)
    assert centres[0] == -1e6
    assert centres[2] == 1e6
