"""Compression pipelines: how the values of a tensor become bytes. One algorithm a module.

A pipeline is written as its name, with settings where they are not the usual ones: ``"stc"``,
``"eden:n_bits=4,dim_threshold=1000"``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import ConfigurationError
from openfl_aio.tensors.encoded import Buffer, TransformerMetadata
from openfl_aio.tensors.pipelines.eden import Eden
from openfl_aio.tensors.pipelines.kc import KC
from openfl_aio.tensors.pipelines.no_compression import NoCompression
from openfl_aio.tensors.pipelines.random_shift import RandomShift
from openfl_aio.tensors.pipelines.skc import SKC
from openfl_aio.tensors.pipelines.stc import STC

__all__ = [
    "KC",
    "KNOWN_PIPELINES",
    "SKC",
    "STC",
    "Eden",
    "NoCompression",
    "Pipeline",
    "RandomShift",
    "describe_pipeline",
    "get_pipeline",
    "parse_pipeline",
]


class Pipeline(Protocol):
    """Turns arrays to bytes and back.

    ``lossy`` tells whether ``backward(*forward(a))`` is meant to differ from ``a`` as float32, and with it which
    tag tensors carry. Implementations keep no state between calls, may be used from several threads, and give equal
    bytes for equal arrays.
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


KNOWN_PIPELINES: Final[Mapping[str, Callable[..., Pipeline]]] = MappingProxyType(
    {
        NoCompression.name: NoCompression,
        RandomShift.name: RandomShift,
        KC.name: KC,
        SKC.name: SKC,
        STC.name: STC,
        Eden.name: Eden,
    }
)
"""Every pipeline by its name; called with its settings."""


def parse_pipeline(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings in ``text``; neither need be known. Raises `ConfigurationError`."""
    name, _, written = text.partition(":")
    settings: dict[str, Any] = {}
    for item in written.split(",") if written else ():
        key, equals, value = item.partition("=")
        if not equals or key in settings:
            raise ConfigurationError(
                f"compression pipeline {text[:200]!r}: expected 'name:setting=value,setting=value'"
            )
        settings[key] = _value(value)
    return name, settings


def get_pipeline(text: str) -> Pipeline:
    """Return the pipeline that ``text`` writes. Raises `ConfigurationError`, listing what is known."""
    name, settings = parse_pipeline(text)
    factory = KNOWN_PIPELINES.get(name)
    if factory is None:
        raise ConfigurationError(
            f"unknown compression pipeline {name[:200]!r}; known are: {', '.join(sorted(KNOWN_PIPELINES))}"
        )
    known = inspect.signature(factory).parameters
    for key in settings:
        if key not in known:
            takes = ", ".join(known) or "none"
            raise ConfigurationError(f"compression pipeline {name!r} has no setting {key[:60]!r}; it takes {takes}")
    try:
        return factory(**settings)
    except ConfigurationError as error:
        raise ConfigurationError(f"compression pipeline {name!r}: {error}") from None


def describe_pipeline(name: str, settings: Mapping[str, Any]) -> str:
    """Return how the pipeline ``name`` with ``settings`` is written. Raises `ConfigurationError` as `get_pipeline`."""
    written = ",".join(f"{key}={value}" for key, value in settings.items())
    text = f"{name}:{written}" if written else name
    get_pipeline(text)
    return text


def _value(text: str) -> int | float | str:
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text
