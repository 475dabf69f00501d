"""TensorCodec: from a key and an array to an `EncodedTensor` and back."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CodecError
from openfl_aio.tensors.encoded import Buffer, EncodedTensor, TransformerMetadata
from openfl_aio.tensors.key import TensorKey, normalise_tags
from openfl_aio.tensors.pipelines import Pipeline, get_pipeline
from openfl_aio.tensors.pipelines.no_compression import NoCompression

__all__ = [
    "COMPRESSED",
    "LOSSY_COMPRESSED",
    "Buffer",
    "EncodedTensor",
    "TensorCodec",
    "TransformerMetadata",
    "strip_compression",
]

COMPRESSED: Final = "compressed"
"""The tag of a tensor coded by a lossless pipeline."""

LOSSY_COMPRESSED: Final = "lossy_compressed"
"""The tag of a tensor coded by a lossy pipeline."""

_CODINGS: Final = frozenset({COMPRESSED, LOSSY_COMPRESSED})


def strip_compression(tags: Iterable[str]) -> tuple[str, ...]:
    """Return ``tags`` without those that name a coding, sorted and unique."""
    return normalise_tags(set(tags) - _CODINGS)


class TensorCodec:
    """Encodes and decodes tensors with the pipeline of a federation, given itself or by name.

    What must be lossless goes through the pipeline if it is lossless, else through `NoCompression`.
    """

    def __init__(self, pipeline: Pipeline | str = NoCompression.name) -> None:
        self._pipeline: Pipeline = get_pipeline(pipeline) if isinstance(pipeline, str) else pipeline
        self._lossless: Pipeline = NoCompression() if self._pipeline.lossy else self._pipeline

    def __repr__(self) -> str:
        return f"TensorCodec({self._pipeline.name!r})"

    def encode(self, key: TensorKey, array: NDArray[Any], *, lossless: bool = True) -> EncodedTensor:
        """Return ``array`` encoded under ``key``, with the tag of its coding added.

        ``data`` may be a view of ``array``, which must not change while the result is in use. Raises `CodecError`.
        """
        pipeline = self._lossless if lossless else self._pipeline
        coding = LOSSY_COMPRESSED if pipeline.lossy else COMPRESSED
        try:
            data, metadata = pipeline.forward(array)
        except CodecError as error:
            raise CodecError(f"cannot encode tensor {key.tensor_name!r}: {error}") from error
        return EncodedTensor(
            name=key.tensor_name,
            round_number=key.round_number,
            lossless=lossless,
            report=key.report,
            tags=normalise_tags((*strip_compression(key.tags), coding)),
            metadata=metadata,
            data=data,
        )

    @property
    def exact(self) -> bool:
        """Whether values come back to the bit, and encoding costs nothing: a view of the array."""
        return self._pipeline.name == NoCompression.name

    @property
    def gives_views(self) -> bool:
        """Whether what is encoded as lossless is a view of the array, which costs nothing."""
        return self._lossless.name == NoCompression.name

    @property
    def has_tables(self) -> bool:
        """Whether metadata have a value for each element: these may be as many, and need not be few."""
        # not of `Pipeline`: one that somebody wrote need not know of it
        return bool(getattr(self._pipeline, "table_of_elements", False))

    def checks_by_size(self, tags: Iterable[str]) -> bool:
        """Return whether bytes with these tags are float32 values, of which only the number can be wrong."""
        return LOSSY_COMPRESSED not in tags and self.gives_views

    def decode(self, encoded: EncodedTensor) -> NDArray[np.float32]:
        """Return the read-only float32 array, a view of ``encoded.data`` where the pipeline allows.

        Raises `CodecError` when the tags do not name one coding, or the bytes do not fit the metadata.
        """
        codings = _CODINGS.intersection(encoded.tags)
        if len(codings) != 1:
            raise CodecError(
                f"expected tensor {encoded.name!r} to be tagged either {COMPRESSED!r} or {LOSSY_COMPRESSED!r}, "
                f"got tags {list(encoded.tags)!r}"
            )
        pipeline = self._lossless if COMPRESSED in codings else self._pipeline
        try:
            return pipeline.backward(encoded.data, encoded.metadata)
        except CodecError as error:
            raise CodecError(f"cannot decode tensor {encoded.name!r}: {error}") from error
