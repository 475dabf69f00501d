"""OpenFL 1.6's compression pipelines and its tensor codec by name, over ours (`openfl_aio.tensors.pipelines`).

An archive whose code compresses for itself, or brings a pipeline of its own, builds on them. As in 1.6 a pipeline turns an
array to bytes and a list with one dictionary a stage: ``int_to_float``, ``int_list`` and ``bool_list``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from openfl_aio.compat.imports.utilities import change_tags
from openfl_aio.tensors.encoded import TransformerMetadata
from openfl_aio.tensors.key import TensorKey
from openfl_aio.tensors.pipelines import KNOWN_PIPELINES, NoCompression, Pipeline

__all__ = [
    "EdenPipeline",
    "Float32NumpyArrayToBytes",
    "KCPipeline",
    "NoCompressionPipeline",
    "RandomShiftPipeline",
    "SKCPipeline",
    "STCPipeline",
    "TensorCodec",
    "TransformationPipeline",
    "Transformer",
]

Metadata = Mapping[str, Any]


class Transformer:
    """Base of one stage: subclasses say `forward` and `backward`, and whether values may change (``lossy``)."""

    lossy: bool = False

    def forward(self, data: Any, **kwargs: Any) -> tuple[Any, Metadata]:
        """Return what ``data`` becomes, and what is needed on the way back."""
        raise NotImplementedError(f"{type(self).__name__} has no method `forward`")

    def backward(self, data: Any, metadata: Metadata, **kwargs: Any) -> Any:
        """Return what ``data`` was."""
        raise NotImplementedError(f"{type(self).__name__} has no method `backward`")


class Float32NumpyArrayToBytes(Transformer):
    """The last stage of a pipeline without compression: float32 in C order, and the shape."""

    def forward(self, data: Any, **kwargs: Any) -> tuple[bytes, Metadata]:
        """Return the bytes and the shape."""
        encoded, (shape,) = NoCompression().forward(np.asarray(data))
        return bytes(encoded), _written(shape)

    def backward(self, data: Any, metadata: Metadata, **kwargs: Any) -> Any:
        """Return the array, read-only. Raises `CodecError` if the bytes are not of this shape."""
        return NoCompression().backward(data, (_read(metadata),))


class TransformationPipeline:
    """Stages one after the other; the way back goes through them in reverse."""

    def __init__(self, transformers: Sequence[Any], **kwargs: Any) -> None:
        self.transformers = transformers

    def forward(self, data: Any, **kwargs: Any) -> tuple[Any, list[Metadata]]:
        """Return what ``data`` becomes, and the metadata of every stage. ``data`` is not changed."""
        stages: list[Metadata] = []
        changed = data.copy()
        for transformer in self.transformers:
            changed, metadata = transformer.forward(data=changed, **kwargs)
            stages.append(metadata)
        return changed, stages

    def backward(self, data: Any, transformer_metadata: Sequence[Metadata], **kwargs: Any) -> Any:
        """Return what ``data`` was. Raises `ValueError` unless there is metadata for every stage."""
        for transformer, metadata in reversed(list(zip(self.transformers, transformer_metadata, strict=True))):
            data = transformer.backward(data=data, metadata=metadata, **kwargs)
        return data

    def is_lossy(self) -> bool:
        """Return whether a stage may change values."""
        return any(transformer.lossy for transformer in self.transformers)


class _OfOurs(TransformationPipeline):
    """All stages of one of ours, which does them in one go, as a single transformer would."""

    name: ClassVar[str]

    def __init__(self, **kwargs: Any) -> None:
        self._ours: Pipeline = KNOWN_PIPELINES[self.name](**kwargs)
        super().__init__([])

    def forward(self, data: Any, **kwargs: Any) -> tuple[bytes, list[Metadata]]:
        """Return the bytes, and the metadata of every stage. Raises `CodecError` for values that cannot be coded."""
        encoded, stages = self._ours.forward(np.asarray(data))
        return bytes(encoded), [_written(stage) for stage in stages]

    def backward(self, data: Any, transformer_metadata: Sequence[Metadata], **kwargs: Any) -> Any:
        """Return the float32 array, read-only. Raises `CodecError` if bytes and metadata do not fit."""
        return self._ours.backward(data, tuple(_read(stage) for stage in transformer_metadata))

    def is_lossy(self) -> bool:
        """Return whether values may change."""
        return self._ours.lossy


class NoCompressionPipeline(_OfOurs):
    """Float32 as it is."""

    name = "no_compression"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()


class RandomShiftPipeline(_OfOurs):
    """A shift of each element by a random number, an example of OpenFL's."""

    name = "random_shift"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__()


class KCPipeline(_OfOurs):
    """K-means and gzip."""

    name = "kc"

    def __init__(self, p_sparsity: float = 0.01, n_clusters: int = 6, **kwargs: Any) -> None:
        super().__init__(p_sparsity=p_sparsity, n_clusters=n_clusters)


class SKCPipeline(_OfOurs):
    """The largest elements, k-means and gzip."""

    name = "skc"

    def __init__(self, p_sparsity: float = 0.1, n_clusters: int = 6, **kwargs: Any) -> None:
        super().__init__(p_sparsity=p_sparsity, n_clusters=n_clusters)


class STCPipeline(_OfOurs):
    """The largest elements as three values, and gzip."""

    name = "stc"

    def __init__(self, p_sparsity: float = 0.1, n_clusters: int = 6, **kwargs: Any) -> None:
        super().__init__(p_sparsity=p_sparsity, n_clusters=n_clusters)


class EdenPipeline(_OfOurs):
    """EDEN, a few bits an element."""

    name = "eden"

    def __init__(self, n_bits: int = 8, dim_threshold: int = 100, device: str = "cpu", **kwargs: Any) -> None:
        super().__init__(n_bits=n_bits, dim_threshold=dim_threshold, device=device)


class TensorCodec:
    """Compresses tensors under their keys: the tags of the key that comes back say what was done."""

    def __init__(self, compression_pipeline: Any) -> None:
        self.compression_pipeline = compression_pipeline
        self.lossless_pipeline = NoCompressionPipeline() if compression_pipeline.is_lossy() else compression_pipeline

    def set_lossless_pipeline(self, lossless_pipeline: Any) -> None:
        """Use another pipeline for what must be lossless. Raises `ValueError` for a lossy one."""
        if lossless_pipeline.is_lossy():
            raise ValueError(f"expected a lossless pipeline, got {type(lossless_pipeline).__name__}")
        self.lossless_pipeline = lossless_pipeline

    def compress(
        self, tensor_key: TensorKey, data: Any, require_lossless: bool = False, **kwargs: Any
    ) -> tuple[TensorKey, Any, list[Metadata]]:
        """Return the key of the compressed tensor, its bytes and their metadata."""
        pipeline = self.lossless_pipeline if require_lossless else self.compression_pipeline
        encoded, stages = pipeline.forward(data, **kwargs)
        is_lossy = not require_lossless and pipeline.is_lossy()
        return _retagged(tensor_key, add="lossy_compressed" if is_lossy else "compressed"), encoded, stages

    def decompress(
        self,
        tensor_key: TensorKey,
        data: Any,
        transformer_metadata: Sequence[Metadata],
        require_lossless: bool = False,
        **kwargs: Any,
    ) -> tuple[TensorKey, Any]:
        """Return the key of the tensor and its values. Raises `ValueError` if the key's tags name no coding, or a lossy one."""
        tags = TensorKey(*tensor_key).tags
        allowed = ("compressed",) if require_lossless else ("compressed", "lossy_compressed")
        if not set(allowed) & set(tags):
            raise ValueError(f"expected a tag of {' or '.join(allowed)}, got {list(tags)}")
        pipeline = self.lossless_pipeline if "compressed" in tags else self.compression_pipeline
        array = pipeline.backward(data, transformer_metadata, **kwargs)
        if "lossy_compressed" in tags:
            return _retagged(tensor_key, add="lossy_decompressed", remove="lossy_compressed"), array
        return _retagged(tensor_key, remove="compressed"), array

    @staticmethod
    def generate_delta(tensor_key: TensorKey, nparray: Any, base_model_nparray: Any) -> tuple[TensorKey, Any]:
        """Return the key and the values of the difference. Raises `ValueError` for two shapes, or the key of a model."""
        if "model" in TensorKey(*tensor_key).tags:
            raise ValueError("expected the key of new values, got that of a model")
        _check_shapes(nparray, base_model_nparray)
        return _retagged(tensor_key, add="delta"), nparray - base_model_nparray

    @staticmethod
    def apply_delta(
        tensor_key: TensorKey, delta: Any, base_model_nparray: Any, creates_model: bool = False
    ) -> tuple[TensorKey, Any]:
        """Return the key and the values of base and difference together. Raises `ValueError` for two shapes."""
        key = TensorKey(*tensor_key)
        _check_shapes(delta, base_model_nparray)
        if "aggregator" in key.origin and not creates_model:
            return _retagged(key, remove="delta"), base_model_nparray + delta
        return key._replace(tags=("model",)), base_model_nparray + delta

    def find_dependencies(self, tensor_key: TensorKey, send_model_deltas: bool) -> list[TensorKey]:
        """Return the keys of what a model is made of where deltas are sent: the one before, and the difference."""
        key = TensorKey(*tensor_key)
        if not send_model_deltas or "model" not in key.tags or key.round_number < 1:
            return []
        coding = "lossy_compressed" if self.compression_pipeline.is_lossy() else "compressed"
        return [
            key._replace(round_number=key.round_number - 1),
            key._replace(tags=("aggregated", "delta", coding)),
        ]


def _retagged(key: TensorKey, *, add: str | None = None, remove: str | None = None) -> TensorKey:
    known = TensorKey(*key)
    return known._replace(tags=change_tags(known.tags, add_field=add, remove_field=remove))


def _check_shapes(values: Any, base: Any) -> None:
    if np.isscalar(values) or np.isscalar(base):
        return
    if values.shape != base.shape:
        raise ValueError(f"expected two arrays of one shape, got {values.shape} and {base.shape}")


def _written(stage: TransformerMetadata) -> Metadata:
    return {
        "int_to_float": dict(stage.int_to_float),
        "int_list": list(stage.int_list),
        "bool_list": list(stage.bool_list),
    }


def _read(stage: Metadata) -> TransformerMetadata:
    return TransformerMetadata(
        dict(stage.get("int_to_float", {})), tuple(stage.get("int_list", ())), tuple(stage.get("bool_list", ()))
    )
