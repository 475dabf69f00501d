"""Long byte strings as streams of chunks, as OpenFL sends them: ``DataStream`` and ``ExperimentData``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from openfl_aio.errors import EmptyStreamError, MalformedStreamError, MessageTooLargeError
from openfl_aio.wire.codec import Buffer
from openfl_aio.wire.messages import DataStream, director

__all__ = ["ChunkChecker", "data_stream", "experiment_data", "split"]


def split(parts: Iterable[Buffer], chunk_bytes: int) -> Iterator[list[Buffer]]:
    """Yield the bytes of ``parts`` in lists of exactly ``chunk_bytes`` bytes each, except the last.

    Nothing is copied: a list holds the given parts, or views of them. Of ``parts`` one item is taken at a time.
    """
    chunk: list[Buffer] = []
    room = chunk_bytes
    for part in parts:
        view = memoryview(part).cast("B")
        while len(view) >= room:
            chunk.append(view[:room])
            view = view[room:]
            yield chunk
            chunk, room = [], chunk_bytes
        if len(view):
            chunk.append(view)
            room -= len(view)
    if chunk:
        yield chunk


def _joined(parts: Iterable[Buffer], chunk_bytes: int) -> Iterator[Buffer]:
    # a message field is one buffer, so a chunk of several parts is copied once; one within a large part is a view
    for chunk in split(parts, chunk_bytes):
        yield chunk[0] if len(chunk) == 1 else b"".join(chunk)


def data_stream(parts: Iterable[Buffer], *, chunk_bytes: int) -> Iterator[DataStream]:
    """Yield ``parts`` as the messages of an upload (OpenFL's own ``chunk_bytes`` is 2 MiB)."""
    for payload in _joined(parts, chunk_bytes):
        yield DataStream(size=len(payload), npbytes=payload)  # type: ignore[arg-type] # our codec writes any buffer


def experiment_data(parts: Iterable[Buffer], *, chunk_bytes: int) -> Iterator[director.ExperimentData]:
    """Yield ``parts``, the bytes of an experiment archive, as messages."""
    for payload in _joined(parts, chunk_bytes):
        yield director.ExperimentData(size=len(payload), npbytes=payload)  # type: ignore[arg-type]


class ChunkChecker:
    """Checks the chunks of one incoming stream as they come.

    ``limit`` is the number of bytes that the stream may have. With ``strict`` a declared size must be the length of the
    payload, or 0: OpenFL 1.6 fills it in, and its aggregator never looked at it. Without, it is not looked at.
    """

    def __init__(self, limit: int, strict: bool = True) -> None:
        self._limit = limit
        self._strict = strict
        self._total = 0

    def __repr__(self) -> str:
        return f"ChunkChecker(limit={self._limit}, strict={self._strict}, total={self._total})"

    @property
    def total(self) -> int:
        """Bytes that have passed so far."""
        return self._total

    def check(self, chunk: DataStream | director.ExperimentData) -> memoryview:
        """Return the payload of ``chunk``; raises `MalformedStreamError` and `MessageTooLargeError`."""
        payload = memoryview(chunk.npbytes)
        if self._strict and chunk.size not in (0, len(payload)):
            raise MalformedStreamError(f"expected a chunk of {chunk.size} bytes as declared, got {len(payload)}")
        if self._total + len(payload) > self._limit:
            raise MessageTooLargeError(f"expected a stream of at most {self._limit} bytes, got more")
        self._total += len(payload)
        return payload

    def finish(self) -> None:
        """Tell that the stream ended; raises `EmptyStreamError` when not a single byte came."""
        if not self._total:
            raise EmptyStreamError(
                "expected at least one byte in the stream, got none; send it again from the beginning"
            )
