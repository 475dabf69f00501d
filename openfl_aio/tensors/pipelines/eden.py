"""EDEN: a random rotation, then one of a few centroids an element, packed to as few bits (OpenFL's EdenPipeline).

After Vargaftik et al., "EDEN: Communication-Efficient and Robust Distributed Mean Estimation for Federated Learning",
ICML 2022: section 3, with the randomised Hadamard transform of its section 5 as the rotation, twice. In expectation
over the rotation the decoded vector is the original.

The rotation and the way back are OpenFL's to the bit. The length of the rotated vector, which scales it before its
elements are rounded to centroids, is summed in another order than torch does, so an element on the boundary of two
centroids may now and then become the other one. The rotation's seed comes from the values, so that equal tensors give
equal bytes.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import Buffer, TransformerMetadata
from openfl_aio.tensors.pipelines.eden_centroids import boundaries, centroids
from openfl_aio.tensors.pipelines.floats import WIRE_DTYPE, element_count, shaped, to_finite_wire
from openfl_aio.tensors.pipelines.hadamard import flip_signs, hadamard
from openfl_aio.tensors.pipelines.no_compression import NoCompression
from openfl_aio.tensors.pipelines.settings import check_integer

__all__ = ["Eden"]

_SEEDS: Final = 1 << 16
_ROTATIONS: Final = 2
_MOST_PADDING: Final = 0.1  # of the tensor's elements
_LARGEST: Final = 2**31 - 1


class Eden:
    """One stage: the shape, and a table with the seed, the number of elements, and each slice's scale and length.

    ``n_bits`` (1 to 8) an element; tensors of fewer than ``dim_threshold`` elements travel as they are, without a
    table. (OpenFL 1.6 sends one of just that many elements as it is, and cannot read it.) ``device`` is accepted
    because plans give it; it has no effect.
    """

    name: ClassVar[str] = "eden"
    lossy: ClassVar[bool] = True

    def __init__(self, *, n_bits: int = 8, dim_threshold: int = 100, device: str = "cpu") -> None:
        self._bits = check_integer("n_bits", n_bits, 1, 8)
        self._threshold = check_integer("dim_threshold", dim_threshold, 0, _LARGEST)

    def forward(self, array: NDArray[Any]) -> tuple[Buffer, tuple[TransformerMetadata, ...]]:
        """Return the packed bits, or the float32 bytes of a small tensor, and the record. Raises `CodecError`."""
        wire = to_finite_wire(array)
        if wire.size < self._threshold or not wire.size:
            return NoCompression().forward(wire)
        flat = wire.reshape(-1)
        seed = zlib.crc32(flat.view(np.uint8).data) % _SEEDS
        table = {0: float(seed), 1: float(np.float32(flat.size))}
        slices = _slices(flat.size)
        bins = np.empty(sum(length for _, length in slices), np.uint8)
        taken = filled = 0
        for index, (elements, length) in enumerate(slices):
            rotated = np.zeros(length, np.float32)
            rotated[:elements] = flat[taken : taken + elements]
            try:
                with np.errstate(over="raise"):
                    for rotation in range(_ROTATIONS):
                        flip_signs(rotated, seed + rotation)
                        hadamard(rotated)
                    scale = self._quantise(rotated, bins[filled : filled + length])
            except FloatingPointError as error:
                raise CodecError("expected values whose sum is in the range of float32, got larger ones") from error
            table[2 + 2 * index] = scale
            table[3 + 2 * index] = float(length)
            taken += elements
            filled += length
        return _to_planes(bins, self._bits), (TransformerMetadata(table, wire.shape),)

    def backward(self, data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
        """Return the read-only float32 array. Raises `CodecError`, before memory is spent on sizes that do not fit."""
        if len(metadata) != 1:
            raise CodecError(f"expected 1 metadata record with the shape and the scales, got {len(metadata)}")
        if not metadata[0].int_to_float:
            return NoCompression().backward(data, metadata)
        shape = metadata[0].int_list
        count = element_count(shape)
        nbytes = memoryview(data).nbytes
        # first of all, because a shape may tell any number: as padding can at most double it
        if not 0 < count <= 8 * nbytes // self._bits:
            raise CodecError(f"expected the bits of an array of shape {shape}, got {nbytes} bytes")
        slices = _slices(count)
        total = sum(length for _, length in slices)
        if total * self._bits != 8 * nbytes:
            raise CodecError(f"expected {self._bits} bits for each of {total} elements, got {nbytes} bytes")
        seed, scales = _read_table(metadata[0].int_to_float, count, [length for _, length in slices])
        bins = _from_planes(data, self._bits)
        values = np.empty(count, WIRE_DTYPE)
        taken = filled = 0
        for (elements, length), scale in zip(slices, scales, strict=True):
            rotated = centroids(self._bits)[bins[taken : taken + length]]
            for rotation in reversed(range(_ROTATIONS)):
                hadamard(rotated)
                flip_signs(rotated, seed + rotation)
            try:
                with np.errstate(over="raise"):
                    np.multiply(rotated[:elements], scale, out=values[filled : filled + elements])
            except FloatingPointError as error:
                raise CodecError(
                    "expected scales that leave values in the range of float32, got larger ones"
                ) from error
            taken += length
            filled += elements
        return shaped(values, shape)

    def _quantise(self, rotated: NDArray[np.float32], bins: NDArray[np.uint8]) -> float:
        """Write the index of each element's centroid to ``bins`` and return the scale, as a float32 value.

        Raises `FloatingPointError` where numpy is told to.
        """
        square = float(np.square(rotated, dtype=np.float64).sum())
        norm = np.float32(math.sqrt(square))
        if norm == 0:
            bins[:] = 0
            return 0.0
        normal = rotated * np.float32(math.sqrt(len(rotated)))
        normal /= norm
        bins[:] = np.searchsorted(boundaries(self._bits), normal)
        return float(np.float32(square / np.dot(centroids(self._bits)[bins].astype(np.float64), rotated)))


def _slices(count: int) -> list[tuple[int, int]]:
    """Return of each slice how many of ``count`` (above 0) elements are in it, and the power of two they are padded to.

    The last is padded by at most a tenth of all elements, and each to 8 at least. (Where that happens to another than
    the last, which takes fewer than 30 elements in all, OpenFL 1.6 reads padding for elements.)
    """
    slices = []
    left = count
    while ((1 << (left - 1).bit_length()) - left) / count > _MOST_PADDING:
        most = 1 << (left.bit_length() - 1)
        slices.append((most, max(most, 8)))
        left -= most
    return [*slices, (left, max(1 << (left - 1).bit_length(), 8))]


def _read_table(table: Mapping[int, float], count: int, lengths: list[int]) -> tuple[int, list[np.float32]]:
    """Return the seed and the scale of each slice."""
    seed = table.get(0, math.nan)
    if not (0 <= seed < _SEEDS and float(seed).is_integer()):
        raise CodecError(f"expected a seed from 0 to {_SEEDS - 1}, got {seed}")
    # lengths are powers of two, which float32 has; the number of elements need not be
    expected = {1: float(np.float32(count)), **{3 + 2 * index: float(length) for index, length in enumerate(lengths)}}
    if len(table) != 2 + 2 * len(lengths) or any(table.get(key) != value for key, value in expected.items()):
        raise CodecError(f"expected a table of {count} elements in slices of {lengths}, got another")
    scales = [table.get(2 + 2 * index, math.nan) for index in range(len(lengths))]
    if not all(abs(scale) <= np.finfo(np.float32).max for scale in scales):
        raise CodecError(f"expected finite scales, got {scales}")
    return int(seed), [np.float32(scale) for scale in scales]


def _to_planes(bins: NDArray[np.uint8], bits: int) -> bytes:
    """Return the lowest bit of every element, then the next one of every element, and so on, eight in a byte."""
    planes = [np.packbits((bins >> bit) & 1, bitorder="little") for bit in range(bits)]
    return b"".join(plane.data for plane in planes)


def _from_planes(data: Buffer, bits: int) -> NDArray[np.uint8]:
    planes = np.frombuffer(data, np.uint8).reshape(bits, -1)
    bins = np.zeros(planes.shape[1] * 8, np.uint8)
    for bit, plane in enumerate(planes):
        bins |= np.unpackbits(plane, bitorder="little") << bit
    return bins
