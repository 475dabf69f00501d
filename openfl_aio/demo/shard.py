"""The shard descriptor of the demonstration: one site's share of the digits."""

from __future__ import annotations

import numpy as np

from openfl_aio.demo.digits import FEATURES, Digits, load_digits, site_digits
from openfl_aio.errors import ConfigurationError

__all__ = ["DigitsShard"]

VALIDATE_EVERY = 5


class DigitsShard:
    """Digits of site ``site`` (0-based) of ``sites``, four fifths to train on and one to validate with."""

    def __init__(self, *, site: int, sites: int, seed: int = 0) -> None:
        training, _ = load_digits(seed)
        mine = site_digits(training, site=site, sites=sites, seed=seed)
        places = np.arange(len(mine))
        kept_back = places % VALIDATE_EVERY == 0
        self._parts = {"train": mine.subset(places[~kept_back]), "val": mine.subset(places[kept_back])}
        self._description = f"handwritten digits, site {site + 1} of {sites}, {len(mine)} samples"

    def __len__(self) -> int:
        return sum(map(len, self._parts.values()))

    @property
    def sample_shape(self) -> list[str]:
        """Shape of one sample: 64 grey values."""
        return [str(FEATURES)]

    @property
    def target_shape(self) -> list[str]:
        """Shape of one target: a digit."""
        return ["1"]

    @property
    def dataset_description(self) -> str:
        """One sentence about the data."""
        return self._description

    def get_dataset(self, dataset_type: str) -> Digits:
        """Return the part ``train`` or ``val``."""
        try:
            return self._parts[dataset_type]
        except KeyError:
            raise ConfigurationError(f"no dataset {dataset_type!r}; this shard has {', '.join(self._parts)}") from None
