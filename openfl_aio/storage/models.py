"""Model files in OpenFL's ``.pbuf`` format: a serialized ModelProto, with a checksum beside.

The checksum file ``<name>.sha256`` has one line: hex digest, size in bytes, number of tensors. Files written by
OpenFL 1.6 have none and are read as they are.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import anyio.to_thread
import numpy as np
from numpy.typing import NDArray

from openfl_aio.errors import CodecError, CorruptFileError, MalformedMessageError, MessageTooLargeError, TensorError
from openfl_aio.storage.files import disk_errors, make_folder, sweep_partials, write_atomic, writing_atomic
from openfl_aio.tensors.codec import TensorCodec
from openfl_aio.tensors.encoded import EncodedTensor
from openfl_aio.tensors.pipelines import NoCompression, get_pipeline
from openfl_aio.wire.codec import decode
from openfl_aio.wire.convert import model_from_proto
from openfl_aio.wire.incremental import encode_model
from openfl_aio.wire.messages import ModelProto

__all__ = ["MODEL_TAG", "ModelFiles", "SavedModel", "checksum_path"]

MODEL_TAG: Final = "model"
UNKNOWN_COUNT: Final = "?"
READ_BLOCK: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SavedModel:
    """A model as it was saved: read-only float32 arrays by tensor name, and the round that starts with it."""

    tensors: dict[str, NDArray[np.float32]]
    round_number: int


def checksum_path(path: Path) -> Path:
    """Return the name of the checksum file of a model file."""
    return path.with_name(f"{path.name}.sha256")


class ModelFiles:
    """Saves and loads models. ``pipeline`` names the coding of the bytes, which OpenFL takes from the plan.

    Tensors that are not coded are read whatever the pipeline.
    """

    def __init__(self, *, pipeline: str = "no_compression") -> None:
        self._pipeline = get_pipeline(pipeline)
        # two saves of one path must not mix their checksums; held in worker threads only
        self._lock = threading.Lock()
        self._swept: set[Path] = set()

    def __repr__(self) -> str:
        return f"<ModelFiles {self._pipeline.name}>"

    async def save(
        self, path: Path, tensors: Mapping[str, NDArray[Any]], *, round_number: int, durable: bool = True
    ) -> None:
        """Write a model, all or nothing: whenever the process dies, the old or the new one loads.

        Unless it is to be ``durable``, which takes longer, that does not hold for the loss of power. Arrays are read
        in a worker thread, so they must not change meanwhile.

        Raises:
            TensorError: there is no tensor, or one that cannot be encoded.
            StorageFullError, StorageError: the disk refuses; the old file is as it was.
        """
        await anyio.to_thread.run_sync(self._save, path, dict(tensors), round_number, durable)

    async def load(self, path: Path) -> SavedModel:
        """Read a model.

        Raises `CorruptFileError` if the bytes do not fit their checksum or are no model, `StorageError` if the file
        cannot be read.
        """
        return await anyio.to_thread.run_sync(self._load, path)

    def _save(self, path: Path, tensors: dict[str, NDArray[Any]], round_number: int, durable: bool) -> None:
        if not tensors:
            raise TensorError("a model without tensors cannot be saved; expected at least one")
        with self._lock, disk_errors(path):
            make_folder(path.parent, mode=0o777, durable=durable)
            if path.parent not in self._swept:
                sweep_partials(path.parent)  # what a killed process had not finished
                self._swept.add(path.parent)
            previous = _accepted_lines(path)
            digest, nbytes = hashlib.sha256(), 0
            with writing_atomic(path, durable=durable) as file:
                for part in encode_model(self._encoded(tensors, round_number)):
                    digest.update(part)
                    nbytes += file.write(part)
                line = f"{digest.hexdigest()} {nbytes} {len(tensors)}\n"
                # Two files cannot be renamed at once. Between the renames the checksum file accepts both models,
                # so a crash at any moment leaves one that loads.
                write_atomic(checksum_path(path), [(line + previous).encode()], durable=durable)
            if previous:
                write_atomic(checksum_path(path), [line.encode()], durable=durable)

    def _encoded(self, tensors: dict[str, NDArray[Any]], round_number: int) -> Iterator[EncodedTensor]:
        for name, array in tensors.items():
            try:
                data, metadata = self._pipeline.forward(array)
            except CodecError as exc:
                raise CodecError(f"cannot save tensor {name!r}: {exc}") from exc
            # OpenFL says lossless whatever the pipeline
            yield EncodedTensor(name, round_number, True, False, (MODEL_TAG,), metadata, data)

    def _load(self, path: Path) -> SavedModel:
        with disk_errors(path):
            data = path.read_bytes()
            checksum = _read_checksum(path)
        counts: list[str] = []
        if checksum is not None:
            found = f"{hashlib.sha256(data).hexdigest()} {len(data)} "
            counts = [line.removeprefix(found) for line in checksum.splitlines() if line.startswith(found)]
        if checksum is not None and not counts:
            raise CorruptFileError(
                f"model {str(path)!r} does not fit its checksum; restore it, or remove {checksum_path(path).name!r} "
                "if the file was replaced on purpose"
            )
        model = self._decoded(path, data)
        if counts and not {str(len(model.tensors)), UNKNOWN_COUNT} & set(counts):
            raise CorruptFileError(
                f"model {str(path)!r} has {len(model.tensors)} tensors, its checksum says {counts[0]}"
            )
        return model

    def _decoded(self, path: Path, data: bytes) -> SavedModel:
        try:
            encoded = model_from_proto(
                decode(ModelProto, data, views=True, tables=TensorCodec(self._pipeline).has_tables)
            )
            tensors = {tensor.name: self._values(tensor) for tensor in encoded}
        except (MalformedMessageError, MessageTooLargeError, CodecError) as exc:
            raise CorruptFileError(f"{str(path)!r} is no model file: {exc}") from exc
        rounds = {tensor.round_number for tensor in encoded}
        if len(rounds) != 1 or len(tensors) != len(encoded):
            raise CorruptFileError(
                f"{str(path)!r} is no model file: expected tensors of one round with different names, "
                f"got {len(encoded)} tensors with {len(tensors)} names of rounds {sorted(rounds)}"
            )
        return SavedModel(tensors, rounds.pop())

    def _values(self, tensor: EncodedTensor) -> NDArray[np.float32]:
        # a single record without a table: no other pipeline leaves that, unless the tensor is not coded
        plain = len(tensor.metadata) == 1 and not tensor.metadata[0].int_to_float
        pipeline = NoCompression() if plain else self._pipeline
        return pipeline.backward(tensor.data, tensor.metadata)


def _read_checksum(path: Path) -> str | None:
    """Return the checksum file's text; None if there is none, which is not the same as an empty one."""
    try:
        return checksum_path(path).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None


def _accepted_lines(path: Path) -> str:
    """Return checksum lines that fit the file that is about to be replaced; nothing if there is none."""
    if not path.exists():
        return ""
    if known := _read_checksum(path):
        return known
    digest, nbytes = hashlib.sha256(), 0
    with path.open("rb") as file:
        while block := file.read(READ_BLOCK):
            digest.update(block)
            nbytes += len(block)
    # how many tensors a file of somebody else holds is not known; `_load` then has nothing to compare
    return f"{digest.hexdigest()} {nbytes} {UNKNOWN_COUNT}\n"
