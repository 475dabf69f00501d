"""The demonstration's data: scikit-learn's handwritten digits, split unevenly by class among sites.

Images are float32 of shape (n, 64) in [0, 1]; labels are int64 of shape (n,), 0 to 9.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from openfl_aio.errors import ConfigurationError

__all__ = ["CLASSES", "FEATURES", "Digits", "load_digits", "site_digits"]

FEATURES = 64
CLASSES = 10
TEST_SHARE = 0.25
CONCENTRATION = 0.3  # of the Dirichlet split: the smaller, the fewer classes a site sees
SMALLEST_SITE = 20


@dataclass(frozen=True, slots=True)
class Digits:
    """Some images and their labels."""

    images: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: npt.NDArray[np.int64]) -> Digits:
        """Return the samples at ``indices``."""
        return Digits(self.images[indices], self.labels[indices])


def load_digits(seed: int = 0) -> tuple[Digits, Digits]:
    """Return (training, held-out test) digits; the same for every site that uses the same seed.

    Raises `ConfigurationError` if scikit-learn, which ships the images, is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError:
        raise ConfigurationError(
            "the demonstration needs scikit-learn, which ships the images; install it with: pip install 'openfl-aio[demo]'"
        ) from None
    data, target = datasets.load_digits(return_X_y=True)
    everything = Digits((np.asarray(data) / 16.0).astype(np.float32), np.asarray(target).astype(np.int64))
    order = np.random.default_rng(seed).permutation(len(everything))
    held_out = int(len(everything) * TEST_SHARE)
    return everything.subset(order[held_out:]), everything.subset(order[:held_out])


def site_digits(training: Digits, *, site: int, sites: int, seed: int = 0) -> Digits:
    """Return the share of ``training`` that belongs to ``site`` (0-based) of ``sites``.

    Each class is divided by one draw of a symmetric Dirichlet distribution (Hsu, Qi and Brown, 2019, section 3),
    so that some sites hardly know some digits. Every sample belongs to exactly one site.
    """
    if not 0 <= site < sites:
        raise ConfigurationError(f"site must be 0 to {sites - 1} for {sites} sites, got {site}")
    attempts = 1000
    for attempt in range(attempts):
        random = np.random.default_rng((seed, sites, attempt))
        shares: list[list[npt.NDArray[np.int64]]] = [[] for _ in range(sites)]
        for label in range(CLASSES):
            members = random.permutation(np.flatnonzero(training.labels == label))
            cuts = (np.cumsum(random.dirichlet([CONCENTRATION] * sites))[:-1] * len(members)).astype(int)
            for share, part in zip(shares, np.split(members, cuts), strict=True):
                share.append(part)
        if min(sum(map(len, share)) for share in shares) >= SMALLEST_SITE:
            return training.subset(np.sort(np.concatenate(shares[site])))
    raise ConfigurationError(
        f"cannot give each of {sites} sites {SMALLEST_SITE} of {len(training)} digits; use fewer sites"
    )
