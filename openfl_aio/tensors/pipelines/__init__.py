"""Compression pipelines: how the values of a tensor become bytes. One algorithm a module."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ConfigurationError
from openfl_aio.tensors.encoded import Buffer, TransformerMetadata
from openfl_aio.tensors.pipelines.no_compression import NoCompression

__all__ = ["KNOWN_PIPELINES", "NoCompression", "Pipeline", "get_pipeline"]


class Pipeline(Protocol):
    """Turns arrays to bytes and back.

    ``lossy`` tells whether ``backward(*forward(a))`` may differ from ``a`` as float32. Implementations keep no state
    between calls and may be used from several threads.
    """

    @property
    def name(self) -> str:
        """The name the pipeline is configured by."""
        ...

    @property
    def lossy(self) -> bool:
        """Whether values may change on the way."""
        ...

    def forward(self, array: NDArray[Any]) -> tuple[Buffer, tuple[TransformerMetadata, ...]]:
        """Return the bytes and one metadata record for each stage. Raises `CodecError`."""
        ...

    def backward(self, data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
        """Return the read-only float32 array. Raises `CodecError` when bytes and metadata do not fit."""
        ...


KNOWN_PIPELINES: Final[Mapping[str, Callable[[], Pipeline]]] = MappingProxyType({NoCompression.name: NoCompression})
"""Every pipeline by its name."""


def get_pipeline(name: str) -> Pipeline:
    """Return a pipeline of that name. Raises `ConfigurationError`, listing the known ones."""
    factory = KNOWN_PIPELINES.get(name)
    if factory is None:
        raise ConfigurationError(
            f"unknown compression pipeline {name!r}; known are: {', '.join(sorted(KNOWN_PIPELINES))}"
        )
    return factory()
