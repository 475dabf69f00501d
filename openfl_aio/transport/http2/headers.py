"""Header blocks: HPACK (RFC 7541) behind a cache, and what a request or response may say (RFC 9113, section 8)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Final, TypeAlias

from hpack import Decoder, Encoder, HPACKError
from hpack.exceptions import OversizedHeaderListError

from openfl_aio.transport.http2.frames import ConnectionFault, ErrorCode

__all__ = ["NO_TABLE", "HeaderDecoder", "Headers", "encode_headers", "malformed_request", "malformed_response"]

Headers: TypeAlias = list[tuple[str, str]]

NO_TABLE: Final = b"\x20"
"""First byte of a connection's first header block: from here on the dynamic table has size 0 (RFC 7541, section 6.3)."""

_CACHED_BLOCKS: Final = 32
_CACHED_BYTES: Final = 2048
_CONNECTION_SPECIFIC: Final = frozenset(
    {"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"}
)
_NAME: Final = re.compile(r":?[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE: Final = re.compile(r"[\x00\r\n]|^[ \t]|[ \t]$")
_REQUEST: Final = frozenset({":method", ":scheme", ":path", ":authority"})
_STATELESS: Final = Encoder()


@lru_cache(maxsize=1024)
def encode_headers(headers: tuple[tuple[str, str], ...]) -> bytes:
    """Return ``headers`` as a block that neither uses nor changes a dynamic table.

    So one block serves all connections, and none has an encoder to keep in step. The price is some fifty bytes a call.
    """
    # hpack keeps what is "never indexed" out of its table, and finds the rest in the static one
    return bytes(_STATELESS.encode([(name, value, True) for name, value in headers]))


class _Checked(list[tuple[str, str]]):
    """Headers that remember whether they make a request: a block that comes again is not checked again."""

    __slots__ = ("checked", "fault")

    def __init__(self, fields: Iterable[tuple[str, str]]) -> None:
        super().__init__(fields)
        self.checked = False
        self.fault: str | None = None


class HeaderDecoder:
    """Decodes the blocks of one connection. A block that left the dynamic table alone is decoded once."""

    __slots__ = ("_cache", "_decoder")

    def __init__(self, max_header_bytes: int) -> None:
        self._decoder = Decoder(max_header_list_size=max_header_bytes)
        self._cache: dict[bytes, tuple[Headers, int]] = {}

    def decode(self, block: bytes) -> tuple[Headers, int]:
        """Return the fields of ``block`` and their size (RFC 9113, section 6.5.2); the list is not to be changed.

        Raises `ConnectionFault`: COMPRESSION_ERROR, or ENHANCE_YOUR_CALM for a list that is too long.
        """
        found = self._cache.get(block)
        if found is not None:
            return found
        table = self._decoder.header_table
        entries = table.dynamic_entries
        before, first, size = len(entries), entries[0] if entries else None, table.maxsize
        try:
            headers = _Checked(
                (str(name, "latin-1"), str(value, "latin-1")) for name, value in self._decoder.decode(block, raw=True)
            )
        except OversizedHeaderListError:
            raise ConnectionFault(ErrorCode.ENHANCE_YOUR_CALM, "the list of headers is too long") from None
        except (HPACKError, IndexError, ValueError) as exc:
            raise ConnectionFault(ErrorCode.COMPRESSION_ERROR, f"bad header block: {exc}"[:120]) from None
        total = sum(len(name) + len(value) + 32 for name, value in headers)
        entries = table.dynamic_entries
        if len(entries) != before or table.maxsize != size or (entries and entries[0] is not first):
            self._cache.clear()  # an index means something else now
        elif len(block) <= _CACHED_BYTES:
            if len(self._cache) >= _CACHED_BLOCKS:
                self._cache.clear()
            self._cache[block] = headers, total
        return headers, total


def _malformed(headers: Headers, pseudo: frozenset[str]) -> str | None:
    seen: set[str] = set()
    regular = False
    for name, value in headers:
        if not _NAME.fullmatch(name):
            return f"field name {name!r}"
        if _BAD_VALUE.search(value) or not value.isascii():
            return f"value of field {name!r}"
        if name[0] == ":":
            if regular:
                return f"{name!r} after regular fields"
            if name not in pseudo:
                return f"pseudo-header {name!r}"
            if name in seen:
                return f"{name!r} twice"
            seen.add(name)
            continue
        regular = True
        if name in _CONNECTION_SPECIFIC or (name == "te" and value != "trailers"):
            return f"connection-specific field {name!r}"
    return None


def malformed_request(headers: Headers) -> str | None:
    """Return what is malformed in a request's headers, or None (RFC 9113, sections 8.2 and 8.3.1)."""
    if not isinstance(headers, _Checked):
        return _malformed_request(headers)
    if not headers.checked:
        headers.fault = _malformed_request(headers)
        headers.checked = True
    return headers.fault


def _malformed_request(headers: Headers) -> str | None:
    fault = _malformed(headers, _REQUEST)
    if fault is not None:
        return fault
    fields = dict(headers)
    for name in (":method", ":scheme", ":path"):
        if not fields.get(name):
            return f"no {name!r}"
    return None


def malformed_response(headers: Headers) -> str | None:
    """Return what is malformed in a response's headers, or None (RFC 9113, section 8.3.2)."""
    fault = _malformed(headers, frozenset({":status"}))
    if fault is None and not any(name == ":status" for name, _ in headers):
        return "no ':status'"
    return fault


def malformed_trailers(headers: Headers) -> str | None:
    """Return what is malformed in trailers, or None: they have no pseudo-headers (RFC 9113, section 8.1)."""
    return _malformed(headers, frozenset())
