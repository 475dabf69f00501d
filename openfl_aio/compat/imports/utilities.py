"""The small things of ``openfl.utilities`` that archives and shard descriptors import."""

from __future__ import annotations

import hashlib
import logging
from abc import ABCMeta
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from openfl_aio.tensors.key import TensorKey

__all__ = [
    "LocalTensor",
    "Metric",
    "SingletonABCMeta",
    "TaskResultKey",
    "TensorKey",
    "change_tags",
    "setup_logging",
    "split_tensor_dict_for_holdouts",
    "tqdm_report_hook",
    "validate_file_hash",
]


class TaskResultKey(NamedTuple):
    """Whose result of which task in which round."""

    task_name: str
    owner: str
    round_number: int


class Metric(NamedTuple):
    """A metric by name."""

    name: str
    value: Any


class LocalTensor(NamedTuple):
    """A collaborator's tensor and its weight."""

    col_name: str
    tensor: Any
    weight: float


class SingletonABCMeta(ABCMeta):
    """Makes one instance a class, which every call returns."""

    _instances: ClassVar[dict[type, Any]] = {}

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        """Return the instance, made at the first call."""
        if cls not in cls._instances:
            cls._instances[cls] = super().__call__(*args, **kwargs)
        return cls._instances[cls]


def change_tags(
    tags: Iterable[str], *, add_field: str | None = None, remove_field: str | None = None
) -> tuple[str, ...]:
    """Return the tags sorted, with one more or one less. Raises `ValueError` if the one to remove is absent."""
    changed = set(tags)
    if add_field is not None:
        changed.add(add_field)
    if remove_field is not None:
        if remove_field not in changed:
            raise ValueError(f"expected the tag {remove_field!r} to remove, got {sorted(changed)}")
        changed.remove(remove_field)
    return tuple(sorted(changed))


def split_tensor_dict_for_holdouts(
    logger: logging.Logger | None,
    tensor_dict: dict[str, Any],
    keep_types: tuple[type, ...] = (np.floating, np.integer),
    holdout_tensor_names: Iterable[str] = (),
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is sent and what stays at the site: named tensors, and those of other dtypes than ``keep_types``."""
    names = set(holdout_tensor_names)
    sent: dict[str, Any] = {}
    held: dict[str, Any] = {}
    for name, values in tensor_dict.items():
        dtype = getattr(values, "dtype", None)
        numeric = dtype is not None and any(np.issubdtype(dtype, kind) for kind in keep_types)
        (sent if numeric and name not in names else held)[name] = values
    return sent, held


def validate_file_hash(file_path: str | Path, expected_hash: str, chunk_size: int = 8192) -> None:
    """Raise `SystemError` unless the SHA-384 of the file is ``expected_hash``."""
    digest = hashlib.sha384()
    with Path(file_path).open("rb") as file:
        while chunk := file.read(chunk_size):
            digest.update(chunk)
    if digest.hexdigest() != expected_hash:
        raise SystemError(f"{file_path}: expected the SHA-384 {expected_hash}, got {digest.hexdigest()}")


def tqdm_report_hook() -> Callable[[int, int, int], None]:
    """Return a report hook for `urllib.request.urlretrieve`; it shows nothing, a child process has no terminal."""

    def report(count: int, block_size: int, total_size: int) -> None:
        return None

    return report


def setup_logging(level: str = "INFO", log_file: str | None = None) -> None:
    """Log to standard error, which the envoy keeps."""
    logging.basicConfig(level=level)
