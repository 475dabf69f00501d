"""Global models as they are sent, encoded once for all who ask."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from openfl_aio.aggregator.closing import Arrays
from openfl_aio.aggregator.models import GlobalModels
from openfl_aio.aggregator.offload import Offload
from openfl_aio.domain import ModelKind
from openfl_aio.wire.codec import EncodedMessage

__all__ = ["EncodedModels", "ModelEncoder"]

ModelEncoder: TypeAlias = Callable[[Arrays, int], EncodedMessage]
"""Makes of a model and its round what is sent."""


class EncodedModels:
    """What encoders made of the last and the best model of ``models``."""

    def __init__(self, models: GlobalModels, offload: Offload) -> None:
        self._models = models
        self._offload = offload
        self._known: dict[tuple[ModelKind, ModelEncoder], tuple[Arrays, EncodedMessage]] = {}

    def __repr__(self) -> str:
        return f"<EncodedModels {len(self._known)} known>"

    async def get(self, kind: ModelKind, encode: ModelEncoder) -> EncodedMessage | None:
        """Return what ``encode`` makes of the model of that kind, None if there is none yet."""
        model = self._models.model(kind)
        if model is None:
            return None
        known = self._known.get((kind, encode))
        if known is not None and known[0] is model:
            return known[1]
        best = self._models.best if kind is ModelKind.BEST else None
        number = self._models.round_number if best is None else best.round_number
        encoded = await self._offload(lambda: encode(model, number))
        if self._models.model(kind) is model:
            self._known[kind, encode] = model, encoded
        return encoded

    def clear(self) -> None:
        """Let go of what was made: it holds the memory of its models."""
        self._known.clear()
