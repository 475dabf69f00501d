"""TLS contexts from files: both sides prove who they are, TLS 1.2 or later, HTTP/2 only; and who is denied.

The functions block, see `openfl_aio.transport.credentials`.
"""

from __future__ import annotations

import logging
import ssl
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from openfl_aio.config import TLSConfig
from openfl_aio.errors import ConfigurationError
from openfl_aio.pki import DenyList, RevocationList, Revocations

__all__ = ["load_context", "load_revocations"]

logger = logging.getLogger(__name__)

MAX_LIST_BYTES: Final = 64 * 1024 * 1024

# of TLS 1.2: those with authenticated encryption and forward secrecy; Python's own choice has CBC among them
CIPHERS: Final = "@SECLEVEL=2:ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:DHE+CHACHA20:!aNULL:!eNULL:!aDSS"


def load_revocations(tls: TLSConfig) -> Revocations:
    """Return who is denied. Raises `ConfigurationError` for files that cannot be used."""
    denied, crl = DenyList(), RevocationList()
    if tls.deny_list is not None:
        denied = DenyList.parse(_read(tls.deny_list, "deny list"), source=str(tls.deny_list))
    if tls.crl is not None:
        authorities = [_read(tls.ca, "CA certificate")]
        crl = RevocationList.parse(_read(tls.crl, "revocation list"), authorities=authorities, source=str(tls.crl))
        if crl.next_update is not None and crl.next_update < datetime.now(UTC):
            # better than nothing: without it everybody that it names would be let in again
            logger.warning(
                "the revocation list '%s' is used although a newer one was due on %s",
                tls.crl,
                crl.next_update.isoformat(timespec="minutes"),
            )
    return Revocations(denied, crl)


def load_context(tls: TLSConfig, purpose: ssl.Purpose) -> ssl.SSLContext:
    """Return the context of a server (``CLIENT_AUTH``) or client. Raises `ConfigurationError`."""
    for path, what in ((tls.ca, "CA certificate"), (tls.certificate, "certificate"), (tls.private_key, "private key")):
        if path is not None:
            _check_readable(path, what)
    try:
        context = ssl.create_default_context(purpose, cafile=tls.ca)
    except ssl.SSLError:
        raise ConfigurationError(f"the CA certificate '{tls.ca}' is no PEM certificate") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # authorities made by OpenFL 1.6 lack the key identifiers that Python 3.13 and later would insist on
    context.verify_flags &= ~ssl.VerifyFlags.VERIFY_X509_STRICT
    context.options |= ssl.OP_NO_RENEGOTIATION  # TLS 1.2 would let a peer ask for handshakes without end
    context.set_alpn_protocols(["h2"])
    if purpose is ssl.Purpose.CLIENT_AUTH:
        context.verify_mode = ssl.CERT_REQUIRED if tls.require_client_certificate else ssl.CERT_OPTIONAL
    if tls.certificate is not None:
        _load_own(context, tls.certificate, tls.private_key)
    elif purpose is ssl.Purpose.CLIENT_AUTH:
        raise ConfigurationError("a server needs a certificate and its private key, got none; give both files")
    return context


def _check_readable(path: Path, what: str) -> None:
    try:
        with path.open("rb"):
            pass
    except OSError as exc:
        raise ConfigurationError(
            f"cannot read the {what} '{path}': {exc.strerror}; check the path and its permissions"
        ) from None


def _read(path: Path, what: str) -> bytes:
    _check_readable(path, what)
    with path.open("rb") as file:
        data = file.read(MAX_LIST_BYTES + 1)
    if len(data) > MAX_LIST_BYTES:
        raise ConfigurationError(f"the {what} '{path}' has more than {MAX_LIST_BYTES} bytes")
    return data


def _load_own(context: ssl.SSLContext, certificate: Path, private_key: Path | None) -> None:
    try:
        # an empty password, or OpenSSL would ask for one at the terminal
        context.load_cert_chain(certificate, private_key, password=b"")
    except ssl.SSLError as exc:
        if exc.reason == "KEY_VALUES_MISMATCH":
            message = f"the private key '{private_key}' does not belong to the certificate '{certificate}'"
        else:
            message = (
                f"the certificate '{certificate}' and private key '{private_key}' cannot be used "
                f"({exc.reason or 'not PEM'}); expected an unencrypted PEM key and its certificate"
            )
        raise ConfigurationError(message) from None
