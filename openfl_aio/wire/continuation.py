"""An upload in more than one call: how the calls say that they belong together.

The first call of OpenFL's ``SendLocalTaskResults`` names the upload. If it is cut, ``openfl_aio.v1.Uploads/GetOffset``
tells how much of it arrived, and another call with the same name goes on there. All this is metadata, which servers of
OpenFL do not look at.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from openfl_aio.domain import Header
from openfl_aio.errors import LocalProtocolError, MalformedMessageError
from openfl_aio.wire.codec import Buffer, decode, encode
from openfl_aio.wire.convert import header_from_proto, header_to_proto
from openfl_aio.wire.messages import aggregator

__all__ = ["Continuation", "new_upload_id", "rest_of"]

UPLOAD: Final = "openfl-aio-upload"
OFFSET: Final = "openfl-aio-offset"
HEADER: Final = "openfl-aio-header-bin"

_ID: Final = re.compile(r"[0-9A-Za-z_-]{16,64}")
_NUMBER: Final = re.compile(r"[0-9]{1,19}")


def new_upload_id() -> str:
    """Return a name that no other upload has and nobody guesses."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Continuation:
    """Which upload a call belongs to, and how many bytes came with the calls before: with none it is the first.

    ``header`` is that of the upload, which only the first call has in its bytes; None there.
    """

    upload_id: str
    offset: int = 0
    header: Header | None = None

    def metadata(self) -> dict[str, str | bytes]:
        """Return what the call says of it."""
        said: dict[str, str | bytes] = {UPLOAD: self.upload_id}
        if self.header is not None:
            said |= {OFFSET: str(self.offset), HEADER: encode(header_to_proto(self.header))}
        return said

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> Continuation | None:
        """Return what a call's metadata say; None for an upload that has no name. Raises `MalformedMessageError`."""
        upload_id = metadata.get(UPLOAD)
        if upload_id is None:
            return None
        if not isinstance(upload_id, str) or not _ID.fullmatch(upload_id):
            raise MalformedMessageError(f"expected 16 to 64 letters and digits as {UPLOAD}, got {upload_id!r:.80}")
        said, header = metadata.get(OFFSET), metadata.get(HEADER)
        if said is None and header is None:
            return cls(upload_id)
        if not isinstance(said, str) or not _NUMBER.fullmatch(said) or not int(said):
            raise MalformedMessageError(f"expected a number of bytes above 0 as {OFFSET}, got {said!r:.80}")
        if not isinstance(header, bytes):
            raise MalformedMessageError(f"expected the upload's header as {HEADER}, beside {OFFSET}")
        return cls(upload_id, int(said), header_from_proto(decode(aggregator.MessageHeader, header)))


def rest_of(parts: Iterable[Buffer], offset: int) -> Iterator[Buffer]:
    """Yield the bytes of ``parts`` from ``offset`` on, without a copy. Raises `LocalProtocolError` if there are fewer."""
    for part in parts:
        view = memoryview(part).cast("B")
        if offset < len(view):
            yield view[offset:] if offset else part
        offset = max(0, offset - len(view))
    if offset:
        raise LocalProtocolError(f"expected an upload to go on with, it ends {offset} bytes before")
