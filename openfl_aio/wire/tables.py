"""``int_to_float`` as bytes, many entries at a time.

The codec takes microseconds and some hundred bytes for an entry of a map, which is much where a pipeline has one for each
element of a tensor. Here an entry takes a small part of a microsecond and its eight bytes. What is read is what every
protobuf library writes: an entry after the other, the key before the value, either left out if it is zero. Whatever is
written otherwise ends the run, and is for the codec.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.wire.varints import Buffer

__all__ = ["ENTRY_BYTES", "LEAST_TABLE_BYTES", "MOST_ENTRY_BYTES", "encode_table", "read_entries", "read_table"]

MOST_ENTRY_BYTES: Final = 12 + 1
"""Of one entry as it is read here: with its tag and length, a key of five bytes and a value."""

ENTRY_BYTES: Final = 9 + 4
"""What an element of a tensor has at least where it has an entry: that, and its own value."""

LEAST_TABLE_BYTES: Final = 1024
"""Shorter metadata are read entry by entry."""

_BLOCK: Final = 256 * 1024
_ENTRY, _KEY, _VALUE = 0x0A, 0x08, 0x15  # tags: field << 3 | wire type
_KEY_BYTES: Final = 5
_VALUE_BYTES: Final = 5  # with its tag
_MOST_LENGTH: Final = MOST_ENTRY_BYTES - 2

Keys = NDArray[np.int32]
Values = NDArray[np.float32]


def read_entries(data: bytes) -> tuple[Keys, Values, int]:
    """Return the keys and values of the entries that ``data`` begins with, and how many bytes they are."""
    starts, stop = _chain(data)
    if not starts:
        return np.empty(0, np.int32), np.empty(0, np.float32), 0
    # bytes behind the end may be looked at, and are not used
    raw = np.frombuffer(data + bytes(MOST_ENTRY_BYTES), np.uint8)
    start = np.array(starts, np.int64)
    length = raw[start + 1].astype(np.int64)
    at = start + 2
    has_key = (length > 0) & (raw[at] == _KEY)
    at += has_key
    used = has_key.astype(np.int64)
    key = np.zeros(len(start), np.uint64)
    going = has_key
    for number in range(_KEY_BYTES):
        if not going.any():
            break
        byte = raw[at]
        key |= np.where(going, byte & 0x7F, 0).astype(np.uint64) << np.uint64(7 * number)
        used += going
        at += going
        going = going & (byte >= 0x80)
    left = length - used
    has_value = (left == _VALUE_BYTES) & (raw[at] == _VALUE)
    good = ~going & (has_value | (left == 0))
    if not good.all():
        first = int(np.argmin(good))
        stop = starts[first]
        key, has_value, at = key[:first], has_value[:first], at[:first]
    bits = raw[at + 1].astype(np.uint32)
    for number in (1, 2, 3):
        bits |= raw[at + 1 + number].astype(np.uint32) << np.uint32(8 * number)
    values = np.where(has_value, bits, 0).astype(np.uint32).view(np.float32)
    return key.astype(np.uint32).view(np.int32), values, stop


def _chain(data: bytes) -> tuple[list[int], int]:
    """Return where the entries begin, as far as their lengths tell, and where the last of them ends."""
    starts: list[int] = []
    add = starts.append
    position, end = 0, len(data)
    last = end - 1
    while position < last and data[position] == _ENTRY:
        length = data[position + 1]
        stop = position + 2 + length
        if length > _MOST_LENGTH or stop > end:
            break
        add(position)
        position = stop
    return starts, position


def read_table(data: Buffer, most: int) -> tuple[FloatTable, int, int]:
    """Return the table that ``data`` begins with, how many entries it was and how many bytes.

    Once there are more than ``most`` it stops somewhere. A key that came twice is two entries.
    """
    view = memoryview(data)
    keys: list[Keys] = []
    values: list[Values] = []
    position = count = 0
    while position < len(view) and count <= most:
        some_keys, some_values, nbytes = read_entries(bytes(view[position : position + _BLOCK]))
        if not nbytes:
            break
        keys.append(some_keys)
        values.append(some_values)
        position += nbytes
        count += len(some_keys)
    if not count:
        return FloatTable(np.empty(0, np.float32)), 0, 0
    return FloatTable(np.concatenate(values), np.concatenate(keys)), count, position


def encode_table(table: FloatTable) -> bytes:
    """Return the entries of ``table``, each with key and value as the other implementations have them.

    They are kept with it: a tensor of the model is sent to every collaborator. It takes a second for some ten million.
    """
    if table.written is None:
        table.written = _written(table)
    return table.written


def _written(table: FloatTable) -> bytes:
    parts = []
    for start in range(0, len(table), _BLOCK):
        values = table.values_[start : start + _BLOCK]
        if table.keys_ is None:
            keys = np.arange(start, start + len(values), dtype=np.int64)
        else:
            keys = table.keys_[start : start + _BLOCK].astype(np.int64)
        parts.append(_encode(keys, values))
    return b"".join(parts)


def _encode(keys: NDArray[np.int64], values: Values) -> bytes:
    """Return entries: rows of the longest form, of which what a shorter key has not is left out."""
    number = keys.view(np.uint64)  # a negative one has ten bytes
    bits = 1 + np.sum([number >= np.uint64(1 << 7 * position) for position in range(1, 10)], axis=0, dtype=np.int64)
    longest = int(bits.max())
    rows = np.empty((len(keys), 3 + longest + _VALUE_BYTES), np.uint8)
    rows[:, 0] = _ENTRY
    rows[:, 1] = 1 + bits + _VALUE_BYTES
    rows[:, 2] = _KEY
    there = np.ones(rows.shape, bool)
    for position in range(longest):
        byte = (number >> np.uint64(7 * position)).astype(np.uint8) & np.uint8(0x7F)
        rows[:, 3 + position] = byte | np.where(position < bits - 1, np.uint8(0x80), np.uint8(0))
        there[:, 3 + position] = position < bits
    rows[:, 3 + longest] = _VALUE
    rows[:, 4 + longest :] = np.ascontiguousarray(values, "<f4").view(np.uint8).reshape(-1, 4)
    return rows.tobytes() if (bits == longest).all() else rows[there].tobytes()
