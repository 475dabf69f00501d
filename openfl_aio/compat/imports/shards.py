"""Base classes of a site's data, under OpenFL 1.6's names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

__all__ = ["DummyShardDataset", "DummyShardDescriptor", "ShardDataset", "ShardDescriptor"]


class ShardDataset:
    """A sequence of samples."""

    def __len__(self) -> int:
        raise NotImplementedError

    def __getitem__(self, index: int) -> Any:
        raise NotImplementedError


class ShardDescriptor:
    """Base of a site's data: shapes, a description, and the datasets by type."""

    def get_dataset(self, dataset_type: str) -> Any:
        """Return the dataset ``dataset_type``."""
        raise NotImplementedError

    @property
    def sample_shape(self) -> list[Any]:
        """Shape of one sample."""
        raise NotImplementedError

    @property
    def target_shape(self) -> list[Any]:
        """Shape of one target."""
        raise NotImplementedError

    @property
    def dataset_description(self) -> str:
        """One sentence about the data."""
        return ""


class DummyShardDataset(ShardDataset):
    """Random bytes as samples and targets."""

    def __init__(self, *, size: int, sample_shape: list[int], target_shape: list[int]) -> None:
        self.size = size
        self.samples = np.random.randint(0, 255, (size, *sample_shape), np.uint8)
        self.targets = np.random.randint(0, 255, (size, *target_shape), np.uint8)

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        return self.samples[index], self.targets[index]


class DummyShardDescriptor(ShardDescriptor):
    """A shard without data, for trying things out."""

    def __init__(self, sample_shape: Iterable[str], target_shape: Iterable[str], size: int) -> None:
        self._sample_shape = [int(length) for length in sample_shape]
        self._target_shape = [int(length) for length in target_shape]
        self.size = size

    def get_dataset(self, dataset_type: str = "train") -> DummyShardDataset:
        """Return random samples, whatever the type."""
        return DummyShardDataset(size=self.size, sample_shape=self._sample_shape, target_shape=self._target_shape)

    @property
    def sample_shape(self) -> list[int]:
        """Shape of one sample."""
        return self._sample_shape

    @property
    def target_shape(self) -> list[int]:
        """Shape of one target."""
        return self._target_shape

    @property
    def dataset_description(self) -> str:
        """One sentence about the data."""
        return "Dummy shard descriptor"
