"""A tensor as it crosses the wire: bytes, and what is needed to read them back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

__all__ = ["Buffer", "EncodedTensor", "TransformerMetadata"]

Buffer: TypeAlias = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class TransformerMetadata:
    """What one stage of a pipeline leaves for its way back (OpenFL's MetadataProto).

    ``int_list`` of the first stage is the shape; ``int_to_float`` is a table of values, such as cluster centres, and a
    `FloatTable` where it has a value for each element.
    """

    int_to_float: Mapping[int, float] = field(default_factory=dict)
    int_list: tuple[int, ...] = ()
    bool_list: tuple[bool, ...] = ()


@dataclass(frozen=True, slots=True)
class EncodedTensor:
    """A tensor ready for the wire, or as it came from it (OpenFL's NamedTensor).

    There is no origin: the receiver puts its own. ``tags`` name the coding too (``compressed`` or
    ``lossy_compressed``). ``data`` may be a view of somebody's memory, which must not change while this lives.
    """

    name: str
    round_number: int
    lossless: bool
    report: bool
    tags: tuple[str, ...]
    metadata: tuple[TransformerMetadata, ...]
    data: Buffer = field(repr=False)
