from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.demo.digits import load_digits, site_digits
from openfl_aio.errors import ConfigurationError


def test_training_and_held_out_digits_are_disjoint_and_scaled() -> None:
    training, held_out = load_digits(seed=1)
    assert len(training) + len(held_out) == 1797
    assert training.images.dtype == np.float32
    assert training.images.shape == (len(training), 64)
    assert training.images.min() == 0
    assert training.images.max() == 1
    assert np.array_equal(load_digits(seed=1)[1].labels, held_out.labels)


@pytest.mark.parametrize("sites", [1, 3, 8])
def test_every_sample_belongs_to_exactly_one_site(sites: int) -> None:
    training, _ = load_digits()
    parts = [site_digits(training, site=site, sites=sites) for site in range(sites)]
    assert sum(map(len, parts)) == len(training)
    together = np.concatenate([part.images for part in parts])
    assert sorted(map(bytes, together)) == sorted(map(bytes, training.images))


def test_sites_differ_in_the_classes_they_see() -> None:
    training, _ = load_digits()
    histograms = [np.bincount(site_digits(training, site=s, sites=3).labels, minlength=10) for s in range(3)]
    shares = np.array(histograms) / np.sum(histograms, axis=0)
    assert shares.max() > 0.8


def test_a_site_that_is_not_there_and_too_many_sites_are_refused() -> None:
    training, _ = load_digits()
    with pytest.raises(ConfigurationError, match="0 to 2"):
        site_digits(training, site=3, sites=3)
    with pytest.raises(ConfigurationError, match="fewer sites"):
        site_digits(training, site=0, sites=100)
