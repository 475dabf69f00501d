"""What the facade's constructors have in common: files for TLS, addresses, keyword arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from openfl_aio.config import Endpoint, TLSConfig
from openfl_aio.errors import ConfigurationError

__all__ = ["EVERYWHERE", "PLAN_ARGUMENTS", "SERVER_ARGUMENTS", "File", "endpoint_of", "only", "server_host", "tls_of"]

File: TypeAlias = str | Path | None

PLAN_ARGUMENTS: Final = frozenset({"cert_folder", "client_reconnect_interval", "hash_salt"})
"""What a plan's section ``network`` hands on to both classes of the aggregator; only the client uses one of them."""

SERVER_ARGUMENTS: Final = frozenset({"allow_plaintext_anywhere", "crl", "deny_list"})
"""Fields of our configuration that a server may be given."""

EVERYWHERE: Final = "[::]"


def only(what: str, given: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise TypeError for a keyword argument of ``what`` that OpenFL had no use for either."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(
            f"{what}: unexpected keyword argument {unknown[0]!r}; expected the documented ones or {sorted(known)}"
        )


def tls_of(
    tls: bool,
    root_certificate: File,
    certificate: File,
    private_key: File,
    *,
    require_client_certificate: bool = True,
    deny_list: File = None,
    crl: File = None,
) -> TLSConfig | None:
    """Return the files of one side, None for plaintext. Raises `ConfigurationError` for TLS without all three."""
    if not tls:
        return None
    if not (root_certificate and certificate and private_key):
        raise ConfigurationError(
            "TLS needs root_certificate, certificate and private_key, at least one is missing; "
            "give the three files, or tls=False"
        )
    return TLSConfig(
        ca=Path(root_certificate),
        certificate=Path(certificate),
        private_key=Path(private_key),
        require_client_certificate=require_client_certificate,
        deny_list=Path(deny_list) if deny_list else None,
        crl=Path(crl) if crl else None,
    )


def endpoint_of(uri: str) -> Endpoint:
    """Return ``host:port`` as an endpoint. Raises `ConfigurationError`."""
    host, _, port = uri.rpartition(":")
    if not host or not port.isdecimal():
        raise ConfigurationError(f"expected an address as 'host:port', got {uri!r}")
    return Endpoint(host=host.strip("[]"), port=int(port))


def server_host(host: str, *, tls: bool, allow_plaintext_anywhere: bool) -> str:
    """Return where a server listens: without TLS OpenFL's ``[::]`` is this machine alone, unless the caller insists."""
    return "localhost" if host == EVERYWHERE and not tls and not allow_plaintext_anywhere else host
