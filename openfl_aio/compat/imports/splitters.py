"""Ways to deal a data set to sites, under OpenFL 1.6's names: shard descriptors use them, and the same seed deals the same.

Each returns the indices of every site. The generator is NumPy's global one, as in 1.6.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import numpy as np

__all__ = [
    "DataSplitter",
    "DirichletNumPyDataSplitter",
    "EqualNumPyDataSplitter",
    "LogNormalNumPyDataSplitter",
    "NumPyDataSplitter",
    "RandomNumPyDataSplitter",
    "get_label_count",
    "one_hot",
]


def get_label_count(labels: Any, label: Any) -> int:
    """Return how often ``label`` is in ``labels``."""
    return int(np.count_nonzero(labels == label))


def one_hot(labels: Any, classes: int) -> Any:
    """Return a row of 0 and one 1 for each label."""
    return np.eye(classes)[labels]


class DataSplitter(ABC):
    """Deals data to sites."""

    @abstractmethod
    def split(self, data: Any, num_collaborators: int) -> Any:
        """Return one part for each site."""


class NumPyDataSplitter(DataSplitter):
    """Deals arrays; ``data`` are the samples or, where classes matter, their labels."""


class _Shuffled(NumPyDataSplitter):
    def __init__(self, shuffle: bool = True, seed: int = 0) -> None:
        self.shuffle = shuffle
        self.seed = seed

    def _indices(self, data: Any) -> Any:
        np.random.seed(self.seed)
        return np.random.permutation(len(data)) if self.shuffle else np.arange(len(data))


class EqualNumPyDataSplitter(_Shuffled):
    """Parts of equal size."""

    def split(self, data: Any, num_collaborators: int) -> Any:
        """Return one part for each site."""
        return np.array_split(self._indices(data), num_collaborators)


class RandomNumPyDataSplitter(_Shuffled):
    """Parts of random size."""

    def split(self, data: Any, num_collaborators: int) -> Any:
        """Return one part for each site."""
        indices = self._indices(data)
        cuts = np.random.choice(len(data), num_collaborators - 1, replace=False)
        return np.split(indices, np.sort(cuts))


class LogNormalNumPyDataSplitter(NumPyDataSplitter):
    """A few classes a site, in amounts of a log-normal law, as in the experiments of Li et al. 2020 (FedProx).

    Each site gets ``min_samples_per_class`` of each of its ``classes_per_col`` classes, and more by the law. The number
    of sites must be a multiple of ``num_classes``. Some samples are dealt to nobody.
    """

    def __init__(
        self,
        mu: float,
        sigma: float,
        num_classes: int,
        classes_per_col: int,
        min_samples_per_class: int,
        seed: int = 0,
    ) -> None:
        self.mu = mu
        self.sigma = sigma
        self.num_classes = num_classes
        self.classes_per_col = classes_per_col
        self.min_samples_per_class = min_samples_per_class
        self.seed = seed

    def split(self, data: Any, num_collaborators: int) -> Any:
        """Return one part for each site. Raises `SystemError` if there are too few samples of a class."""
        np.random.seed(self.seed)
        parts: list[Any] = [self._first(data, site) for site in range(num_collaborators)]
        expected = self.classes_per_col * self.min_samples_per_class
        if any(len(part) != expected for part in parts):
            raise SystemError(
                f"expected {expected} samples for every site, but there are {[len(part) for part in parts]}"
            )
        amounts = self._amounts(data, num_collaborators)
        for site in range(num_collaborators):
            for turn in range(self.classes_per_col):
                label = (site + turn) % self.num_classes
                taken = get_label_count(data[np.hstack(parts)], label)
                end = taken + int(amounts[label, site // self.num_classes, turn])
                members = np.nonzero(data == label)[0]
                if end < len(members):
                    parts[site] = np.append(parts[site], members[taken:end])
        return parts

    def _first(self, data: Any, site: int) -> list[Any]:
        """Return the samples that every site gets: the next ones of each of its classes."""
        part: list[Any] = []
        for turn in range(self.classes_per_col):
            start = site // self.num_classes * self.classes_per_col * self.min_samples_per_class
            start += self.min_samples_per_class * turn
            members = np.nonzero(data == (site + turn) % self.num_classes)[0]
            part += list(members[start : start + self.min_samples_per_class])
        return part

    def _amounts(self, data: Any, num_collaborators: int) -> Any:
        """Draw how many more samples: an array by class, by the site's turn with it, and by the class's turn at the site."""
        shape = (self.num_classes, num_collaborators // self.num_classes, self.classes_per_col)
        drawn = np.random.lognormal(self.mu, self.sigma, shape)
        left = [get_label_count(data, label) - self.min_samples_per_class for label in range(self.num_classes)]
        return np.array(left).reshape(-1, 1, 1) * drawn / drawn.sum((1, 2), keepdims=True)


class DirichletNumPyDataSplitter(NumPyDataSplitter):
    """Each class in shares of a Dirichlet law, drawn again until every site has ``min_samples_per_col`` samples."""

    def __init__(self, alpha: float = 0.5, min_samples_per_col: int = 10, seed: int = 0) -> None:
        self.alpha = alpha
        self.min_samples_per_col = min_samples_per_col
        self.seed = seed

    def split(self, data: Any, num_collaborators: int) -> Any:
        """Return one part for each site."""
        np.random.seed(self.seed)
        parts: list[list[int]] = []
        while not parts or min(len(part) for part in parts) < self.min_samples_per_col:
            parts = self._drawn(data, num_collaborators)
        return parts

    def _drawn(self, data: Any, num_collaborators: int) -> list[list[int]]:
        parts: list[list[int]] = [[] for _ in range(num_collaborators)]
        fair = len(data) / num_collaborators
        for label in range(len(np.unique(data))):
            members = np.where(data == label)[0]
            np.random.shuffle(members)
            shares = np.random.dirichlet(np.repeat(self.alpha, num_collaborators))
            shares = np.array([share * (len(part) < fair) for share, part in zip(shares, parts, strict=True)])
            cuts = (np.cumsum(shares / shares.sum()) * len(members)).astype(int)[:-1]
            for part, more in zip(parts, np.split(members, cuts), strict=True):
                part += more.tolist()
        return parts
