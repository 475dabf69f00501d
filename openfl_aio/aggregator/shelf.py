"""Where a federation's older models and their deltas lie: in files, so that one model alone takes memory."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import anyio
import numpy as np
from numpy.typing import NDArray

from openfl_aio.aggregator.models import Difference, GlobalModels, Uncoded
from openfl_aio.aggregator.offload import Offload
from openfl_aio.aggregator.scratch import LEAST_BYTES, is_put_away, put_away, put_away_parts
from openfl_aio.errors import StorageError
from openfl_aio.storage.checkpoint_file import Checkpoint
from openfl_aio.storage.federations import FederationStore
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.delta import delta
from openfl_aio.tensors.float_table import FloatTable
from openfl_aio.tensors.key import TensorKey
from openfl_aio.wire.tables import encode_table

__all__ = ["Shelf"]

logger = logging.getLogger(__name__)

_PART = 1 << 18  # elements of a delta at a time: 1 MiB


class Shelf:
    """Puts the older ones of ``models`` away in ``folder``, and codes tensors and deltas when the first asks. Without a
    folder all stays in memory. What is in a checkpoint of ``store`` lies on the disk already.
    """

    def __init__(
        self,
        models: GlobalModels,
        codec: TensorCodec,
        offload: Offload,
        folder: Path | None,
        store: FederationStore | None = None,
    ) -> None:
        self._models = models
        self._store = store
        self._codec = codec
        self._offload = offload
        self._folder = folder
        self._making = anyio.Lock()

    def __repr__(self) -> str:
        return f"<Shelf in {'memory' if self._folder is None else str(self._folder)!r}>"

    async def coded(self, wanted: Uncoded) -> EncodedTensor:
        """Return the encoded tensor, made once for all who want it at once and later, one at a time."""
        key, values = wanted.key, wanted.values
        async with self._making:
            known = self._models.known_coded(key)
            if known is None:
                encode = partial(self._encode, key, values, lossless=True)
                known = encode() if values.nbytes < LEAST_BYTES else await self._offload(encode)
                self._models.put_coded(key, known)
        return replace(known, lossless=wanted.lossless)

    async def delta(self, wanted: Difference) -> EncodedTensor:
        """Return the encoded delta, made once for all who want it at once and later, one at a time.

        Raises `TensorError` if it leaves the range of float32, `StorageError` if the disk refuses it.
        """
        if wanted.new.nbytes < LEAST_BYTES:
            return self._keep(wanted, self._make(wanted))
        async with self._making:
            key = wanted.key
            known = self._models.known_delta(key.round_number, key.tensor_name)
            if known is None:
                return self._keep(wanted, await self._offload(partial(self._make, wanted)))
            return replace(known, lossless=wanted.lossless)

    async def put_away_current(self) -> None:
        """Let the current model lie in its checkpoint alone, if that is written: the next one needs the memory."""
        if self._folder is None or self._store is None:
            return
        number = self._models.round_number
        try:
            checkpoint = await self._store.look(number)
        except StorageError as exc:
            logger.warning("the model of round %d stays in memory: %s", number, exc)
            return
        if checkpoint is None or number != self._models.round_number:
            return
        for name, array in self._models.current.items():
            kept = checkpoint.arrays.get(("model", name))
            if kept is not None and array.nbytes >= LEAST_BYTES and not is_put_away(array):
                self._models.move(number, name, kept)

    async def put_away(self) -> None:
        """Move what is kept of older models out of memory; what a disk does not take stays."""
        if self._folder is None:
            return
        checkpoints: dict[int, Checkpoint | None] = {}
        for round_number, name, array in list(self._models.older()):
            if array.nbytes >= LEAST_BYTES and not is_put_away(array):
                try:
                    if round_number not in checkpoints and self._store is not None:
                        checkpoints[round_number] = await self._store.look(round_number)
                    kept = checkpoints.get(round_number)
                    moved = None if kept is None else kept.arrays.get(("model", name))
                    if moved is None:
                        moved = await self._offload(partial(put_away, array, self._folder))
                except StorageError as exc:
                    logger.warning("an older model stays in memory: %s", exc)
                    return
                self._models.move(round_number, name, moved)

    def _keep(self, wanted: Difference, encoded: EncodedTensor) -> EncodedTensor:
        self._models.put_delta(encoded)
        return replace(encoded, lossless=wanted.lossless)

    def _make(self, wanted: Difference) -> EncodedTensor:
        new, base = wanted.new, wanted.base
        if self._folder is None or new.nbytes < LEAST_BYTES:
            values = delta(new, base)
        else:
            values = put_away_parts(_deltas(new, base), new.shape, new.dtype, self._folder)
        return self._encode(wanted.key, values, lossless=False)

    def _encode(self, key: TensorKey, values: NDArray[np.float32], *, lossless: bool) -> EncodedTensor:
        encoded = self._codec.encode(key, values, lossless=lossless)
        for stage in encoded.metadata:
            if isinstance(stage.int_to_float, FloatTable):
                encode_table(stage.int_to_float)  # it keeps its bytes: the event loop then only sends them
        return encoded


def _deltas(new: NDArray[np.float32], base: NDArray[np.float32]) -> Iterator[NDArray[np.float32]]:
    flat, flat_base = new.reshape(-1), base.reshape(-1)
    for start in range(0, flat.size, _PART):
        yield delta(flat[start : start + _PART], flat_base[start : start + _PART])
