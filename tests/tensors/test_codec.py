from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from openfl_aio.errors import CodecError, ConfigurationError
from openfl_aio.tensors.codec import Buffer, EncodedTensor, TensorCodec, TransformerMetadata, strip_compression
from openfl_aio.tensors.key import TensorKey

KEY = TensorKey.of("w", "agg", 3, report=True, tags=("trained", "delta"))

arrays = npst.arrays(np.float32, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


class Halved:
    """A lossy pipeline: float16."""

    name = "halved"
    lossy = True

    def forward(self, array: NDArray[Any]) -> tuple[bytes, tuple[TransformerMetadata, ...]]:
        return array.astype(np.float16).tobytes(), (TransformerMetadata(int_list=array.shape),)

    def backward(self, data: Buffer, metadata: tuple[TransformerMetadata, ...]) -> NDArray[np.float32]:
        return np.frombuffer(data, np.float16).astype(np.float32).reshape(metadata[0].int_list)


@given(arrays, st.booleans())
@settings(max_examples=60)
def test_the_lossless_way_there_and_back_keeps_every_bit(array: NDArray[np.float32], lossless: bool) -> None:
    codec = TensorCodec()
    decoded = codec.decode(codec.encode(KEY, array, lossless=lossless))
    assert decoded.shape == array.shape
    assert decoded.dtype == np.float32
    assert decoded.tobytes() == array.tobytes()
    assert not decoded.flags.writeable


def test_encode_fills_in_the_key_and_the_tag_of_the_coding() -> None:
    encoded = TensorCodec().encode(KEY, np.ones((2, 3)), lossless=False)
    assert encoded == EncodedTensor(
        name="w",
        round_number=3,
        lossless=False,
        report=True,
        tags=("compressed", "delta", "trained"),
        metadata=(TransformerMetadata(int_list=(2, 3)),),
        data=np.ones(6, "<f4").tobytes(),
    )


def test_a_lossy_pipeline_is_used_only_where_loss_is_allowed() -> None:
    codec = TensorCodec(Halved())
    value = np.array([1.0001], np.float32)
    lossy = codec.encode(KEY.with_tags(add=["compressed"]), value, lossless=False)
    assert lossy.tags == ("delta", "lossy_compressed", "trained")
    assert codec.decode(lossy) == np.float32(1.0)
    exact = codec.encode(KEY, value, lossless=True)
    assert exact.tags == ("compressed", "delta", "trained")
    assert codec.decode(exact) == value


def test_a_pipeline_is_found_by_name() -> None:
    assert repr(TensorCodec()) == "TensorCodec('no_compression')"
    with pytest.raises(
        ConfigurationError, match=r"unknown compression pipeline 'zip'; known are: eden, kc, no_compression, "
    ):
        TensorCodec("zip")


@pytest.mark.parametrize("tags", [(), ("trained",), ("compressed", "lossy_compressed")])
def test_a_tensor_must_name_one_coding(tags: tuple[str, ...]) -> None:
    encoded = EncodedTensor("w", 0, True, False, tags, (TransformerMetadata(),), bytes(4))
    with pytest.raises(CodecError, match="expected tensor 'w' to be tagged either"):
        TensorCodec().decode(encoded)


def test_errors_name_the_tensor() -> None:
    with pytest.raises(CodecError, match="cannot encode tensor 'w': expected an array of real numbers"):
        TensorCodec().encode(KEY, np.array(["text"]))
    encoded = EncodedTensor("w", 0, True, False, ("compressed",), (), bytes(4))
    with pytest.raises(CodecError, match="cannot decode tensor 'w': expected 1 metadata record"):
        TensorCodec().decode(encoded)


def test_the_coding_can_be_taken_off_the_tags() -> None:
    assert strip_compression(["z", "lossy_compressed", "a", "compressed", "a"]) == ("a", "z")
