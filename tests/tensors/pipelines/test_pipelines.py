"""What holds for every pipeline."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from numpy.typing import NDArray

from openfl_aio.errors import CodecError, ConfigurationError
from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.tensors.pipelines import KNOWN_PIPELINES, Pipeline, describe_pipeline, get_pipeline
from openfl_aio.wire.codec import decode, encode
from openfl_aio.wire.convert import metadata_from_proto, metadata_to_proto
from openfl_aio.wire.messages import MetadataProto

LOSSY = ("kc", "skc", "stc", "eden", "eden:n_bits=1,dim_threshold=9")
EVERY = ("no_compression", "random_shift", *LOSSY)
moderate = npst.arrays(
    np.float32,
    npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=9),
    elements=st.floats(-1000, 1000, width=32),
)


def travelled(metadata: tuple[TransformerMetadata, ...]) -> tuple[TransformerMetadata, ...]:
    """Return metadata as they arrive."""
    return tuple(
        metadata_from_proto(decode(MetadataProto, bytes(encode(metadata_to_proto(record))))) for record in metadata
    )


@pytest.mark.parametrize("text", EVERY)
@given(array=moderate)
@settings(max_examples=40, deadline=None)
def test_what_comes_back_has_the_shape_is_float32_and_read_only(text: str, array: NDArray[np.float32]) -> None:
    pipeline = get_pipeline(text)
    data, metadata = pipeline.forward(array)
    back = pipeline.backward(data, travelled(metadata))
    assert back.shape == array.shape
    assert back.dtype == np.float32
    assert not back.flags.writeable
    assert np.isfinite(back).all()


@pytest.mark.parametrize("text", EVERY)
def test_metadata_arrive_as_they_were_sent(text: str) -> None:
    _, metadata = get_pipeline(text).forward(np.linspace(-1, 1, 300).reshape(3, 100))
    assert travelled(metadata) == metadata


@pytest.mark.parametrize("text", EVERY)
def test_equal_arrays_give_equal_bytes_whatever_their_layout(text: str) -> None:
    array = np.random.default_rng(3).normal(size=(40, 30)).astype(np.float32)
    data, metadata = get_pipeline(text).forward(array)
    for same in (np.asfortranarray(array), array.astype(">f4"), array.astype(np.float64)):
        again, more = get_pipeline(text).forward(same)
        assert (bytes(again), more) == (bytes(data), metadata)


@pytest.mark.parametrize("text", EVERY)
def test_the_array_is_not_changed(text: str) -> None:
    array = np.random.default_rng(4).normal(size=200).astype(np.float32)
    before = array.copy()
    get_pipeline(text).forward(array)
    assert np.array_equal(array, before)


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("buffer", [bytes, bytearray, memoryview])
def test_any_buffer_is_read(text: str, buffer: Any) -> None:
    pipeline = get_pipeline(text)
    data, metadata = pipeline.forward(np.arange(200.0))
    expected = pipeline.backward(data, metadata)
    assert np.array_equal(pipeline.backward(buffer(bytes(data)), metadata), expected)


@pytest.mark.parametrize("text", LOSSY)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_lossy_pipeline_refuses_what_is_not_finite(text: str, value: float) -> None:
    array = np.ones(200, np.float32)
    array[77] = value
    with pytest.raises(CodecError, match="expected finite values, got NaN or infinity"):
        get_pipeline(text).forward(array)


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([object()]), np.array([1e300])])
def test_only_real_numbers_of_float32s_range_are_sent(text: str, array: NDArray[Any]) -> None:
    with pytest.raises(CodecError, match=r"^expected (an array of real numbers|values in the range of float32)"):
        get_pipeline(text).forward(array)


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("change", ["fewer", "more"])
def test_there_is_one_record_of_metadata_a_stage(text: str, change: str) -> None:
    pipeline = get_pipeline(text)
    data, metadata = pipeline.forward(np.arange(200.0))
    wrong = metadata[:-1] if change == "fewer" else (*metadata, TransformerMetadata())
    with pytest.raises(CodecError, match=rf"^expected {len(metadata)} metadata record.*, got {len(wrong)}"):
        pipeline.backward(data, wrong)


@pytest.mark.parametrize("text", EVERY)
@pytest.mark.parametrize("shape", [(199,), (201,), (-200,), (-20, -10), (2**40,), (2**32, 2**32), (0,), (1,) * 100])
def test_another_shape_is_refused(text: str, shape: tuple[int, ...]) -> None:
    pipeline = get_pipeline(text)
    data, metadata = pipeline.forward(np.arange(200.0))
    changed = tuple(TransformerMetadata(record.int_to_float, shape if record.int_list else ()) for record in metadata)
    with pytest.raises(CodecError):
        pipeline.backward(data, changed)


@pytest.mark.parametrize("text", EVERY)
@given(data=st.data())
@settings(max_examples=100, deadline=None)
def test_whatever_comes_is_decoded_or_refused(text: str, data: st.DataObject) -> None:
    pipeline = get_pipeline(text)
    sent, metadata = pipeline.forward(np.arange(0, 20, 0.1))
    raw = bytearray(bytes(sent))
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    raw = raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw
    stage = data.draw(st.integers(0, len(metadata) - 1))
    table = dict(metadata[stage].int_to_float)
    if data.draw(st.booleans()):
        table.update(data.draw(st.dictionaries(st.integers(-3, 9), st.floats(width=32), max_size=3)))
    shape = metadata[stage].int_list
    if data.draw(st.booleans()):
        shape = tuple(data.draw(st.lists(st.integers(-2, 300), max_size=3)))
    changed = (*metadata[:stage], TransformerMetadata(table, shape), *metadata[stage + 1 :])
    try:
        back = pipeline.backward(bytes(raw), changed)
    except CodecError:
        return
    assert back.dtype == np.float32
    assert back.shape == changed[0].int_list


@pytest.mark.parametrize(
    ("text", "lossy"), [*((text, True) for text in LOSSY), ("no_compression", False), ("random_shift", False)]
)
def test_a_pipeline_says_whether_it_loses(text: str, lossy: bool) -> None:
    pipeline = get_pipeline(text)
    assert pipeline.lossy is lossy
    assert pipeline.name == text.partition(":")[0]
    assert pipeline.name in KNOWN_PIPELINES


def test_settings_are_written_behind_the_name() -> None:
    array = np.arange(32.0)
    data, _ = get_pipeline("eden:n_bits=4,dim_threshold=10,device=cuda:0").forward(array)
    assert len(data) == 16
    assert get_pipeline("stc:p_sparsity=0.5,n_clusters=3").lossy
    assert describe_pipeline("kc", {}) == "kc"
    assert describe_pipeline("eden", {"n_bits": 4, "device": "cpu"}) == "eden:n_bits=4,device=cpu"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("zip", "unknown compression pipeline 'zip'; known are: eden, kc, no_compression, random_shift, skc, stc"),
        ("no_compression:n=1", "'no_compression' has no setting 'n'; it takes none"),
        ("kc:n=1", "'kc' has no setting 'n'; it takes p_sparsity, n_clusters, gzip_level"),
        ("kc:n_clusters", "expected 'name:setting=value,setting=value'"),
        ("kc:n_clusters=3,n_clusters=4", "expected 'name:setting=value,setting=value'"),
        ("kc:n_clusters=0", "compression pipeline 'kc': n_clusters: expected an integer from 1 to 256, got 0"),
        ("skc:n_clusters=257", "n_clusters: expected an integer from 1 to 256, got 257"),
        ("skc:n_clusters=six", "n_clusters: expected an integer from 1 to 256, got 'six'"),
        ("stc:p_sparsity=0", "p_sparsity: expected a number above 0 and at most 1, got 0"),
        ("stc:p_sparsity=nan", "p_sparsity: expected a number above 0 and at most 1, got nan"),
        ("stc:p_sparsity=True", "p_sparsity: expected a number above 0 and at most 1, got 'True'"),
        ("stc:gzip_level=10", "gzip_level: expected an integer from 1 to 9, got 10"),
        ("eden:n_bits=9", "n_bits: expected an integer from 1 to 8, got 9"),
        ("eden:n_bits=2.0", "n_bits: expected an integer from 1 to 8, got 2.0"),
        ("eden:dim_threshold=-1", "dim_threshold: expected an integer from 0 to 2147483647, got -1"),
    ],
)
def test_what_cannot_be_configured(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        get_pipeline(text)
    assert message in str(caught.value)


def test_flags_are_no_numbers() -> None:
    with pytest.raises(ConfigurationError, match="n_bits: expected an integer"):
        KNOWN_PIPELINES["eden"](n_bits=True)
    with pytest.raises(ConfigurationError, match="p_sparsity: expected a number"):
        KNOWN_PIPELINES["stc"](p_sparsity=True)


def test_a_pipeline_of_ones_own_fits_the_protocol() -> None:
    pipeline: Pipeline = get_pipeline("kc")
    assert pipeline.name == "kc"
