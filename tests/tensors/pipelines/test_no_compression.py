from __future__ import annotations

import numpy as np
import pytest

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.tensors.pipelines import KNOWN_PIPELINES, get_pipeline
from openfl_aio.tensors.pipelines.no_compression import NoCompression


def shaped(*shape: int) -> tuple[TransformerMetadata, ...]:
    return (TransformerMetadata(int_list=shape),)


def test_the_registry_knows_it() -> None:
    assert "no_compression" in KNOWN_PIPELINES
    assert isinstance(get_pipeline("no_compression"), NoCompression)


def test_float32_is_not_copied_either_way() -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    data, metadata = NoCompression().forward(array)
    assert np.shares_memory(np.frombuffer(data, np.float32), array)
    assert data.readonly
    assert np.shares_memory(NoCompression().backward(data, metadata), array)


@pytest.mark.parametrize(
    "array",
    [
        np.array([[1, 2], [3, 4]]),
        np.array([[True, False], [True, True]]),
        np.array([[1.5, 2.5], [3.5, np.inf]]),
        np.array([[1.5, np.nan], [3.5, 4.5]], ">f4"),
        np.asfortranarray(np.array([[1, 2], [3, 4]], np.float32)),
        np.array([[1, 2], [3, 4]], np.float16)[::-1],
    ],
)
def test_the_wire_is_little_endian_float32_in_c_order(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    data, metadata = NoCompression().forward(array)
    assert metadata == shaped(2, 2)
    assert bytes(data) == b"".join(np.array(value, "<f4").tobytes() for row in array for value in row)


def test_a_scalar_has_no_shape_and_four_bytes() -> None:
    data, metadata = NoCompression().forward(np.array(0.5))
    assert metadata == shaped()
    assert bytes(data) == b"\x00\x00\x00\x3f"
    assert NoCompression().backward(data, metadata).shape == ()


def test_an_array_without_elements_keeps_its_shape() -> None:
    data, metadata = NoCompression().forward(np.zeros((0, 3), np.float32))
    assert len(data) == 0
    assert NoCompression().backward(data, metadata).shape == (0, 3)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([object()])])
def test_only_real_numbers_are_sent(array: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> None:
    with pytest.raises(CodecError, match="expected an array of real numbers, got dtype"):
        NoCompression().forward(array)


def test_values_beyond_float32_are_refused() -> None:
    with pytest.raises(CodecError, match="expected values in the range of float32"):
        NoCompression().forward(np.array([1e300]))


@pytest.mark.parametrize("buffer", [bytes(8), bytearray(8), memoryview(bytes(8)), memoryview(bytearray(8))])
def test_any_buffer_is_read_and_never_writeable(buffer: bytes | bytearray | memoryview) -> None:
    array = NoCompression().backward(buffer, shaped(2))
    assert array.tolist() == [0.0, 0.0]
    assert not array.flags.writeable


@pytest.mark.parametrize(
    ("shape", "nbytes"), [((2,), 4), ((), 0), ((), 8), ((-1,), 8), ((-1, -2), 8), ((2**32, 2**32), 0), ((3,), 13)]
)
def test_a_shape_that_does_not_fit_the_bytes_is_refused(shape: tuple[int, ...], nbytes: int) -> None:
    with pytest.raises(CodecError, match=rf"got {nbytes} bytes"):
        NoCompression().backward(bytes(nbytes), shaped(*shape))


@pytest.mark.parametrize("shape", [(1,) * 100, (0, 2**62, 2**62), (0, 2**70)])
def test_a_shape_beyond_numpy_is_refused(shape: tuple[int, ...]) -> None:
    nbytes = 4 if 0 not in shape else 0
    with pytest.raises(CodecError, match="expected a shape that numpy can hold"):
        NoCompression().backward(bytes(nbytes), shaped(*shape))


@pytest.mark.parametrize("count", [0, 2])
def test_exactly_one_record_of_metadata_is_expected(count: int) -> None:
    with pytest.raises(CodecError, match=f"expected 1 metadata record with the shape, got {count}"):
        NoCompression().backward(bytes(4), shaped(1) * count)
