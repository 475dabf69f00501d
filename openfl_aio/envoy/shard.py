"""The data of a site: the protocol of shard descriptors, and how one is loaded and described.

Classes written for OpenFL (``ShardDescriptor`` with ``get_dataset``, ``sample_shape``, ``target_shape`` and
``dataset_description``) fit without inheriting from anything here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol, cast

from openfl_aio.collaborator.templates import import_class
from openfl_aio.domain import ShardInfo
from openfl_aio.errors import ConfigurationError

__all__ = ["ShardDescriptor", "describe_shard", "load_shard"]


class ShardDescriptor(Protocol):
    """A site's data. Shapes are lists of strings, as in OpenFL: ``["8", "8"]``."""

    @property
    def sample_shape(self) -> Iterable[str]:
        """Shape of one sample."""
        ...

    @property
    def target_shape(self) -> Iterable[str]:
        """Shape of one target."""
        ...

    @property
    def dataset_description(self) -> str:
        """One sentence about the data."""
        ...

    def get_dataset(self, dataset_type: str) -> Any:
        """Return the part ``dataset_type`` (``train``, ``val``): what it is, the task runner knows."""
        ...


def load_shard(template: str, *, path: Path | None, params: Mapping[str, Any]) -> ShardDescriptor:
    """Import the class ``template`` names (from the folder ``path``) and build it with ``params``.

    Runs foreign code. Raises `ConfigurationError` if it cannot be imported, refuses its params, or is no descriptor.
    """
    cls = import_class(template, path=path, what="shard descriptor")
    try:
        shard = cls(**params)
    except Exception as exc:
        raise ConfigurationError(
            f"shard descriptor {template!r} could not be built with params {sorted(params)}: {type(exc).__name__}: {exc}"
        ) from exc
    if not callable(getattr(shard, "get_dataset", None)):
        raise ConfigurationError(f"shard descriptor {template!r} has no method get_dataset(); see ShardDescriptor")
    return cast("ShardDescriptor", shard)


def describe_shard(shard: ShardDescriptor, *, name: str) -> ShardInfo:
    """Return what is told of ``shard`` to a director. Runs foreign code.

    Raises `ConfigurationError` if a shape is absent or no sequence of numbers.
    """
    try:
        n_samples = len(cast("Any", shard))
    except TypeError:
        n_samples = 0  # __len__ is optional: unknown
    return ShardInfo(
        name=name,
        description=str(getattr(shard, "dataset_description", "")),
        n_samples=n_samples,
        sample_shape=_shape(shard, "sample_shape"),
        target_shape=_shape(shard, "target_shape"),
    )


def _shape(shard: ShardDescriptor, attribute: str) -> tuple[str, ...]:
    try:
        value: object = getattr(shard, attribute)
    except Exception as exc:
        raise ConfigurationError(
            f"shard descriptor {type(shard).__name__} must have {attribute}, a list like ['8', '8']; "
            f"reading it raised {type(exc).__name__}: {exc}"
        ) from exc
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise ConfigurationError(
            f"{attribute} of shard descriptor {type(shard).__name__} must be a list like ['8', '8'], got {value!r}"
        )
    return tuple(str(size) for size in value)
