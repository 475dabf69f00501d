"""Receiving a submission: the archive to disk as it comes, the model from the last message."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio.to_thread
import numpy as np

from openfl_aio.config import Limits
from openfl_aio.errors import EmptyStreamError
from openfl_aio.tensors.codec import COMPRESSED, EncodedTensor, TensorCodec
from openfl_aio.wire import convert
from openfl_aio.wire.framing import ChunkChecker

if TYPE_CHECKING:
    from openfl_aio.director.service import Director
    from openfl_aio.transport.identity import Caller
    from openfl_aio.wire.messages import director as director_messages

__all__ = ["decode_model", "receive_experiment"]


async def receive_experiment(
    director: Director, caller: Caller, stream: AsyncIterator[director_messages.ExperimentInfo], *, limits: Limits
) -> bool:
    """Take one submission from its stream and return whether it was accepted.

    Every message repeats the whole model; only the last is kept, as OpenFL does. Names that cannot be taken are
    refused at the first message, and a user who has all that a user may have before it. Raises `EmptyStreamError`,
    `MalformedStreamError`, `MessageTooLargeError`, and what `Director.set_new_experiment` raises; nothing stays on disk
    then.
    """
    checker = ChunkChecker(limits.max_archive_bytes, strict=True)
    last: director_messages.ExperimentInfo | None = None
    async with director.submission(caller) as sink:
        async for info in stream:
            if last is None:
                director.check_submission(caller, info.name, info.collaborator_names)
            last = info
            if info.experiment_data is not None:
                await sink.write(checker.check(info.experiment_data))
        if last is None:
            raise EmptyStreamError("the submission came without a single message; send the archive in chunks")
        checker.finish()
        director.check_submission(caller, last.name, last.collaborator_names)
        # ten thousand small tensors take as long as a large one
        model = await anyio.to_thread.run_sync(_model_of, last)
        archive = await sink.keep()
    return await director.set_new_experiment(
        caller, last.name, collaborators=last.collaborator_names, model=model, archive=archive
    )


def _model_of(info: director_messages.ExperimentInfo) -> dict[str, np.ndarray]:
    return decode_model(convert.model_from_proto(info.model_proto))


def decode_model(tensors: Sequence[EncodedTensor]) -> dict[str, np.ndarray]:
    """Return name -> float32 array of a model as frontends send it: uncompressed, whatever its tags."""
    codec = TensorCodec()
    return {tensor.name: codec.decode(replace(tensor, tags=(COMPRESSED,), lossless=True)) for tensor in tensors}
