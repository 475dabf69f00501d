"""TensorKey and the algebra of tags.

OpenFL looks tensors up by exact equality of all five fields, so tags are kept sorted and unique at all times.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

from openfl_aio.errors import TensorError

__all__ = ["TensorKey", "normalise_tags"]


def normalise_tags(tags: Iterable[str]) -> tuple[str, ...]:
    """Return ``tags`` sorted and unique."""
    return tuple(sorted(set(tags)))


class TensorKey(NamedTuple):
    """Names one tensor: what, whose, when, whether it is a metric (``report``), and in which role (``tags``).

    A `NamedTuple` because code written for OpenFL unpacks it. Build with `of` where tags may be unsorted.
    """

    tensor_name: str
    origin: str
    round_number: int
    report: bool = False
    tags: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, tensor_name: str, origin: str, round_number: int, *, report: bool = False, tags: Iterable[str] = ()
    ) -> Self:
        """Build a key with sorted, unique tags."""
        return cls(tensor_name, origin, round_number, report, normalise_tags(tags))

    def with_tags(self, *, add: Iterable[str] = (), remove: Iterable[str] = ()) -> Self:
        """Return the key with tags added and removed, sorted. Raises `TensorError` if a tag to remove is absent."""
        removed = set(remove)
        missing = removed - set(self.tags)
        if missing:
            raise TensorError(
                f"cannot remove tags {sorted(missing)!r}: {self.tensor_name!r} has only {list(self.tags)!r}"
            )
        return self._replace(tags=normalise_tags((set(self.tags) - removed) | set(add)))
