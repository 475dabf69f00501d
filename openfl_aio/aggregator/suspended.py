"""Uploads whose call was cut, kept for a while so that another call can go on where they ended."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, TypeAlias

import anyio

from openfl_aio.aggregator.uploads import Upload
from openfl_aio.config import Limits
from openfl_aio.errors import ConnectionLostError, MalformedStreamError, NotFoundError

__all__ = ["SuspendedUploads"]

MOST_INDEX_BYTES: Final = 512 * 1024
"""Of one upload's names, tags and metadata, which are kept in memory: some 5,000 tensors."""

_Key: TypeAlias = tuple[str, str]  # collaborator, name of the upload


@dataclass(eq=False, slots=True)
class _Held:
    upload: Upload
    scope: anyio.CancelScope = field(default_factory=anyio.CancelScope)  # of the task that waits for its end
    taken: bool = False  # by a call that goes on with it


@dataclass(eq=False, slots=True)
class _Call:
    scope: anyio.CancelScope
    over: anyio.Event = field(default_factory=anyio.Event)


class SuspendedUploads:
    """The uploads of one federation that may be gone on with.

    Each is kept for `Limits.suspended_seconds`, as many of one collaborator as there are tasks (``per_collaborator``),
    and of all together as `Limits.max_suspended_uploads` and `Limits.max_suspended_bytes` allow: beyond that the oldest
    of the collaborator who has most goes. What is dropped is sent again as a whole, and nothing else is lost.
    ``start`` runs a coroutine function in a task that outlives the caller.
    """

    def __init__(
        self,
        limits: Limits,
        *,
        per_collaborator: int,
        start: Callable[[Callable[[], Coroutine[Any, Any, None]]], object],
    ) -> None:
        self._limits = limits
        self._per_collaborator = per_collaborator
        self._start = start
        self._held: dict[_Key, _Held] = {}  # the oldest first
        self._calls: dict[_Key, _Call] = {}
        self._kept: dict[str, deque[str]] = {}
        self._closed = False

    def __len__(self) -> int:
        return len(self._held)

    def __repr__(self) -> str:
        return f"<SuspendedUploads {len(self)} of {self.nbytes} bytes, {len(self._calls)} under way>"

    @property
    def nbytes(self) -> int:
        """Bytes of all of them."""
        return sum(held.upload.nbytes for held in self._held.values())

    @contextmanager
    def sending(self, collaborator: str, upload_id: str) -> Iterator[None]:
        """Be the call that brings an upload, until another one goes on with it: then this ends with `ConnectionLostError`.

        A server may know later than the client that a connection is lost.
        """
        key = collaborator, upload_id
        self._drop(key)
        former = self._calls.pop(key, None)
        if former is not None:
            former.scope.cancel()
        with anyio.CancelScope() as scope:
            call = self._calls[key] = _Call(scope)
            try:
                yield
            finally:
                if self._calls.get(key) is call:
                    del self._calls[key]
                call.over.set()
        if scope.cancelled_caught:
            raise ConnectionLostError("another call goes on with this upload, or nobody waits for it any more")

    async def suspend(self, collaborator: str, upload_id: str, upload: Upload) -> bool:
        """Keep an upload whose call was cut; False if nothing can go on with it, or it is not to be kept."""
        if not self._limits.suspended_seconds or upload.index_bytes > MOST_INDEX_BYTES or not await upload.pause():
            return False
        if self._closed:
            return False
        key = collaborator, upload_id
        held = self._held[key] = _Held(upload)
        self._start(partial(self._keep, key, held))
        self._make_room(collaborator)
        return True

    async def _keep(self, key: _Key, held: _Held) -> None:
        try:
            with held.scope:
                await anyio.sleep(self._limits.suspended_seconds)
        finally:
            if self._held.get(key) is held:
                del self._held[key]
            if not held.taken:
                await held.upload.abort()

    def _make_room(self, collaborator: str) -> None:
        limits = self._limits
        own = [key for key in self._held if key[0] == collaborator]
        if len(own) > self._per_collaborator:
            self._drop(own[0])
        while len(self._held) > limits.max_suspended_uploads or self.nbytes > limits.max_suspended_bytes:
            count: Counter[str] = Counter()
            nbytes: Counter[str] = Counter()
            for (name, _), held in self._held.items():
                count[name] += 1
                nbytes[name] += held.upload.nbytes
            most = max(count, key=lambda name: (nbytes[name], count[name], name))
            self._drop(next(key for key in self._held if key[0] == most))

    def _drop(self, key: _Key) -> Upload | None:
        held = self._held.pop(key, None)
        if held is None:
            return None
        held.scope.cancel()
        return held.upload

    async def offset(self, collaborator: str, upload_id: str) -> int:
        """Return how many bytes of an upload need not be sent again. A call that is still bringing it is ended."""
        key = collaborator, upload_id
        await self._interrupt(key)
        held = self._held.get(key)
        return 0 if held is None else held.upload.nbytes

    async def resume(self, collaborator: str, upload_id: str, offset: int) -> Upload:
        """Return an upload to go on with, which the caller then owns.

        Raises `NotFoundError` if it is not here, `MalformedStreamError` if ``offset`` is not where it ended.
        """
        key = collaborator, upload_id
        await self._interrupt(key)
        held = self._held.get(key)
        if held is None:
            raise NotFoundError(f"no upload {upload_id!r} of {collaborator!r} was cut lately: send it as a whole")
        if held.upload.nbytes != offset:
            raise MalformedStreamError(
                f"expected upload {upload_id!r} to go on at {held.upload.nbytes} bytes, got the offset {offset}"
            )
        held.taken = True
        self._drop(key)
        return held.upload

    async def _interrupt(self, key: _Key) -> None:
        call = self._calls.get(key)
        if call is not None:
            call.scope.cancel()
            await call.over.wait()

    def kept(self, collaborator: str, upload_id: str) -> None:
        """Remember that an upload needs nothing more, whether it counts or not: its reply may be lost."""
        self._kept.setdefault(collaborator, deque(maxlen=self._per_collaborator)).append(upload_id)

    def was_kept(self, collaborator: str, upload_id: str) -> bool:
        """Return whether an upload was `kept` lately."""
        return upload_id in self._kept.get(collaborator, ())

    def clear(self) -> None:
        """Let go of all that are suspended: nobody wants them any more."""
        for key in list(self._held):
            self._drop(key)

    def close(self) -> None:
        """Do the same, for good, and end the calls that bring others."""
        self._closed = True
        self.clear()
        for call in list(self._calls.values()):
            call.scope.cancel()
