from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from openfl_aio.compat.imports import pipelines
from openfl_aio.errors import CodecError
from openfl_aio.tensors.key import TensorKey

PIPELINES = [
    pipelines.NoCompressionPipeline(),
    pipelines.RandomShiftPipeline(),
    pipelines.KCPipeline(),
    pipelines.SKCPipeline(p_sparsity=0.3, n_clusters=4),
    pipelines.STCPipeline(),
    pipelines.EdenPipeline(n_bits=4),
]
VALUES = np.random.default_rng(4).normal(size=(20, 30)).astype(np.float32)
KEY = TensorKey("w", "one", 2, False, ("trained",))


class Halved(pipelines.Transformer):
    def forward(self, data: Any, **kwargs: Any) -> Any:
        data /= 2
        return data, {}

    def backward(self, data: Any, metadata: Any, **kwargs: Any) -> Any:
        return data * 2


@pytest.mark.parametrize("pipeline", PIPELINES, ids=lambda pipeline: type(pipeline).__name__)
def test_bytes_and_back(pipeline: Any) -> None:
    data, metadata = pipeline.forward(VALUES)
    assert isinstance(data, bytes)
    assert metadata[0]["int_list"] == [20, 30] or metadata[-1]["int_list"] == [20, 30]
    back = pipeline.backward(data, metadata)
    assert back.shape == VALUES.shape
    assert back.dtype == np.float32
    if not pipeline.is_lossy():
        np.testing.assert_allclose(back, VALUES, atol=1e-5)


def test_stages_of_a_users_own() -> None:
    pipeline = pipelines.TransformationPipeline([Halved(), pipelines.Float32NumpyArrayToBytes()])
    values = VALUES.copy()
    data, metadata = pipeline.forward(values)
    np.testing.assert_array_equal(values, VALUES)
    assert data == (VALUES / 2).tobytes()
    np.testing.assert_array_equal(pipeline.backward(data, metadata), VALUES)
    with pytest.raises(ValueError, match="shorter"):
        pipeline.backward(data, metadata[:1])
    with pytest.raises(CodecError):
        pipeline.backward(data[:-4], metadata)


def test_the_codecs_keys() -> None:
    codec = pipelines.TensorCodec(pipelines.STCPipeline())
    key, data, metadata = codec.compress(KEY, VALUES)
    assert key.tags == ("lossy_compressed", "trained")
    key, lossy = codec.decompress(key, data, metadata)
    assert key.tags == ("lossy_decompressed", "trained")
    assert not np.array_equal(lossy, VALUES)
    key, data, metadata = codec.compress(KEY, VALUES, require_lossless=True)
    assert key.tags == ("compressed", "trained")
    key, exact = codec.decompress(key, data, metadata, require_lossless=True)
    assert key == KEY
    np.testing.assert_array_equal(exact, VALUES)
    model = TensorKey("w", "aggregator", 2, False, ("model",))
    assert codec.find_dependencies(model, True) == [
        model._replace(round_number=1),
        model._replace(tags=("aggregated", "delta", "lossy_compressed")),
    ]
    assert codec.find_dependencies(model._replace(round_number=0), True) == []
    assert codec.find_dependencies(model, False) == []


def test_deltas_of_the_codec() -> None:
    codec = pipelines.TensorCodec(pipelines.NoCompressionPipeline())
    key, delta = codec.generate_delta(KEY, VALUES * 2, VALUES)
    assert key.tags == ("delta", "trained")
    np.testing.assert_array_equal(delta, VALUES)
    key, model = codec.apply_delta(key, delta, VALUES)
    assert key.tags == ("model",)
    np.testing.assert_array_equal(model, VALUES * 2)
    aggregated = TensorKey("w", "aggregator_1", 2, False, ("aggregated", "delta"))
    assert codec.apply_delta(aggregated, delta, VALUES)[0].tags == ("aggregated",)
    assert codec.apply_delta(aggregated, delta, VALUES, creates_model=True)[0].tags == ("model",)


def test_what_the_codec_refuses() -> None:
    codec = pipelines.TensorCodec(pipelines.KCPipeline())
    with pytest.raises(ValueError, match="expected a lossless pipeline, got KCPipeline"):
        codec.set_lossless_pipeline(pipelines.KCPipeline())
    with pytest.raises(ValueError, match=r"a tag of compressed or lossy_compressed, got \['trained'\]"):
        codec.decompress(KEY, b"", [])
    with pytest.raises(ValueError, match="got that of a model"):
        codec.generate_delta(KEY._replace(tags=("model",)), VALUES, VALUES)
    with pytest.raises(ValueError, match=r"one shape, got \(20, 30\) and \(30, 20\)"):
        codec.generate_delta(KEY, VALUES, VALUES.T)
