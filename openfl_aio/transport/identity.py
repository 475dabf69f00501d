"""Who calls: the name in the client certificate, never one in a message.

Without TLS a name is only a claim: the metadata ``client_id``, as OpenFL 1.6 sends it, or ``__default__``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from openfl_aio.domain import COMMON_NAME_PATTERN
from openfl_aio.errors import AuthenticationError, AuthorizationError, LocalProtocolError

__all__ = [
    "CLIENT_ID",
    "DEFAULT_NAME",
    "Caller",
    "as_caller",
    "certificate_name",
    "check_speaks_for",
    "current_caller",
    "identify",
]

CLIENT_ID: Final = "client_id"
DEFAULT_NAME: Final = "__default__"
CLAIM_PATTERN: Final = re.compile(r"[\x20-\x7e]{1,100}")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes the current call. ``authenticated``: the name is proven by a certificate; ``address``: for the log."""

    name: str
    authenticated: bool
    address: str = ""


_caller: ContextVar[Caller] = ContextVar("caller")


def current_caller() -> Caller:
    """Return who makes the current call. Raises `LocalProtocolError` outside of a call."""
    try:
        return _caller.get()
    except LookupError:
        raise LocalProtocolError("no caller: use 'as_caller' around calls that do not come over the network") from None


@contextmanager
def as_caller(caller: Caller) -> Iterator[None]:
    """Make ``caller`` the current one inside the block."""
    token = _caller.set(caller)
    try:
        yield
    finally:
        _caller.reset(token)


def certificate_name(certificate: Mapping[str, Any]) -> str:
    """Return the only common name of a peer certificate, given as `ssl.SSLSocket.getpeercert` does.

    Raises `AuthenticationError` unless there is exactly one and it is printable ASCII of 1 to 64 characters without a
    blank at an end.
    """
    names = [value for part in certificate.get("subject", ()) for key, value in part if key == "commonName"]
    if len(names) != 1:
        raise AuthenticationError(f"the client certificate has {len(names)} common names; expected exactly one")
    if not COMMON_NAME_PATTERN.fullmatch(names[0]):
        raise AuthenticationError(
            f"the client certificate's common name {names[0]!r} is not printable ASCII of 1 to 64 characters"
        )
    return str(names[0])


def identify(*, certificate: Mapping[str, Any] | None, metadata: Mapping[str, Any], address: str) -> Caller:
    """Return who calls: by ``certificate`` if there is one, else by the claim in ``metadata``.

    Raises `AuthenticationError` for a name that cannot be one.
    """
    if certificate is not None:
        return Caller(certificate_name(certificate), authenticated=True, address=address)
    name = metadata.get(CLIENT_ID, DEFAULT_NAME)
    if not isinstance(name, str) or not CLAIM_PATTERN.fullmatch(name):
        raise AuthenticationError(f"{CLIENT_ID} {name!r} is not printable ASCII of 1 to 100 characters")
    return Caller(name, authenticated=False, address=address)


def check_speaks_for(caller: Caller, name: str) -> None:
    """Raise `AuthorizationError` if a message of ``caller`` has another name in it than the caller's own.

    A claim counts as a name too: whoever says ``client_id`` says the same in the message. Peers of OpenFL 1.6 that send
    none are believed what their messages say.
    """
    if caller.name != name and (caller.authenticated or caller.name != DEFAULT_NAME):
        raise AuthorizationError(f"{caller.name!r} may not speak for {name!r}")
