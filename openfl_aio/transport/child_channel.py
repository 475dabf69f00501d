"""Frames between a process and its child: a JSON header and raw arrays over a socket pair. No pickle.

A frame is the header's length (4 bytes, big-endian), the header (UTF-8 JSON), then the bytes of each array that the
header lists under ``arrays`` as ``[name, dtype, shape]``: C order, little-endian. Calls block: the parent makes them
in a worker thread.
"""

from __future__ import annotations

import json
import math
import socket
import struct
from collections.abc import Mapping
from typing import Any, Final

import numpy as np

from openfl_aio.errors import MalformedMessageError, MessageTooLargeError

__all__ = ["MAX_HEADER_BYTES", "ChannelClosed", "FrameChannel"]

MAX_HEADER_BYTES: Final = 16 * 1024 * 1024
_LENGTH: Final = struct.Struct(">I")


class ChannelClosed(Exception):
    """The other end is gone."""


class FrameChannel:
    """One end of the channel. Used by one thread at a time."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock

    def send(self, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> None:
        """Send ``header`` and ``arrays`` (numeric dtypes; not copied when little-endian and contiguous).

        Raises `ChannelClosed`, and `ValueError` for an array that has no raw form.
        """
        flat = {name: _raw(name, array) for name, array in (arrays or {}).items()}
        listed = [[name, array.dtype.str, list(array.shape)] for name, array in flat.items()]
        text = json.dumps({**header, "arrays": listed}, allow_nan=True).encode()
        try:
            self._socket.sendall(_LENGTH.pack(len(text)) + text)
            for array in flat.values():
                if array.nbytes:
                    self._socket.sendall(array.reshape(-1).view(np.uint8).data)
        except OSError as exc:
            raise ChannelClosed(f"the channel broke: {exc}") from exc

    def receive(self, *, max_array_bytes: int) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
        """Return the next frame: header and arrays.

        Raises `ChannelClosed` at the end, `MalformedMessageError` for what is no frame, and `MessageTooLargeError`
        before memory is spent on arrays of more than ``max_array_bytes`` in all.
        """
        (length,) = _LENGTH.unpack(self._exactly(_LENGTH.size))
        if length > MAX_HEADER_BYTES:
            raise MessageTooLargeError(f"expected a frame header of at most {MAX_HEADER_BYTES} bytes, got {length}")
        header, listed = _parse(self._exactly(length))
        total = sum(dtype.itemsize * math.prod(shape) for _, dtype, shape in listed)
        if total > max_array_bytes:
            raise MessageTooLargeError(f"expected arrays of at most {max_array_bytes} bytes, got {total}")
        arrays = {}
        for name, dtype, shape in listed:
            array = np.empty(shape, dtype)
            if array.nbytes:
                self._fill(array.reshape(-1).view(np.uint8).data)
            arrays[name] = array
        return header, arrays

    def close(self) -> None:
        """Close this end; a call that blocks in another thread ends."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # the other end is gone already
        self._socket.close()

    def interrupt(self) -> None:
        """Make a call that blocks in another thread end with `ChannelClosed`."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def _exactly(self, size: int) -> bytearray:
        data = bytearray(size)
        self._fill(memoryview(data))
        return data

    def _fill(self, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                got = self._socket.recv_into(view[done:])
            except OSError as exc:
                raise ChannelClosed(f"the channel broke: {exc}") from exc
            if not got:
                raise ChannelClosed("the other end closed the channel")
            done += got


def _raw(name: str, array: np.ndarray) -> np.ndarray:
    if array.dtype.kind not in "fiub":
        raise ValueError(f"array {name!r} must be numeric, got dtype {array.dtype}")
    # not ascontiguousarray: that turns a scalar into one dimension
    return np.asarray(array, dtype=array.dtype.newbyteorder("<"), order="C")


def _parse(text: bytearray) -> tuple[dict[str, Any], list[tuple[str, np.dtype[Any], tuple[int, ...]]]]:
    try:
        header = json.loads(text)
        listed = [_declaration(*entry) for entry in header.pop("arrays")]
    except (ValueError, TypeError, KeyError, AttributeError) as exc:
        raise MalformedMessageError(f"expected a frame header, got what does not parse: {exc}") from exc
    return header, listed


def _declaration(name: str, dtype: str, shape: list[int]) -> tuple[str, np.dtype[Any], tuple[int, ...]]:
    kind = np.dtype(dtype)
    if kind.kind not in "fiub" or not all(size >= 0 for size in shape):
        raise ValueError(f"array {name!r} of dtype {dtype} and shape {shape}")
    return str(name), kind, tuple(shape)
