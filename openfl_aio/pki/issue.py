"""Server and client certificates. The authority alone decides what a certificate may be used for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

from openfl_aio.errors import ConfigurationError
from openfl_aio.pki.ca import CLOCK_SKEW, CertificateAuthority, check_days, key_usage, new_serial_number
from openfl_aio.pki.material import (
    PublicKey,
    certificate_to_pem,
    check_public_key,
    key_to_pem,
    new_key,
    subject_alternative_name,
    subject_name,
)
from openfl_aio.pki.requests import load_request, request_common_name, request_hosts

__all__ = ["DEFAULT_DAYS", "Credentials", "Usage", "issue_client", "issue_server", "sign"]

DEFAULT_DAYS = 90
MAX_DAYS = 366

Usage = Literal["server", "client"]

PURPOSES = {"server": ExtendedKeyUsageOID.SERVER_AUTH, "client": ExtendedKeyUsageOID.CLIENT_AUTH}


@dataclass(frozen=True, slots=True)
class Credentials:
    """A certificate and its private key."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)


def issue_server(
    ca: CertificateAuthority, name: str, *, hosts: Sequence[str] = (), days: int = DEFAULT_DAYS
) -> Credentials:
    """Return a new key and server certificate for ``hosts`` (default: ``name``), the names clients connect to."""
    key = new_key()
    return Credentials(_certify(ca, name, key.public_key(), "server", hosts or (name,), days), key_to_pem(key))


def issue_client(ca: CertificateAuthority, name: str, *, days: int = DEFAULT_DAYS) -> Credentials:
    """Return a new key and client certificate for the collaborator, envoy or user ``name``."""
    key = new_key()
    return Credentials(_certify(ca, name, key.public_key(), "client", (), days), key_to_pem(key))


def sign(
    ca: CertificateAuthority,
    request_pem: bytes,
    *,
    usage: Usage,
    hosts: Sequence[str] | None = None,
    days: int = DEFAULT_DAYS,
) -> bytes:
    """Return the certificate (PEM) for a request.

    Only the request's common name, key and, for a server, host names are taken (``hosts`` overrides them; without
    any, the common name is the host). Whatever else it asks for is ignored. Raises `ConfigurationError`.
    """
    request = load_request(request_pem)
    name = request_common_name(request)
    if usage == "server":
        wanted = tuple(hosts) if hosts is not None else request_hosts(request)
        return _certify(ca, name, check_public_key(request.public_key()), usage, wanted or (name,), days)
    return _certify(ca, name, check_public_key(request.public_key()), usage, (), days)


def _certify(
    ca: CertificateAuthority, name: str, public: PublicKey, usage: Usage, hosts: Sequence[str], days: int
) -> bytes:
    lifetime = check_days(days, most=MAX_DAYS)
    issuer, issuer_key = ca.open()
    now = datetime.now(UTC)
    if issuer.not_valid_after_utc <= now:
        raise ConfigurationError("the certificate authority has expired; make a new one with 'pki init'")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject_name(name))
        .issuer_name(issuer.subject)
        .public_key(public)
        .serial_number(new_serial_number())
        .not_valid_before(max(now - CLOCK_SKEW, issuer.not_valid_before_utc))
        .not_valid_after(min(now + lifetime, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_usage(key_encipherment=isinstance(public, rsa.RSAPublicKey)), critical=True)
        .add_extension(x509.ExtendedKeyUsage([PURPOSES[usage]]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .add_extension(_authority_identifier(issuer), critical=False)
    )
    if hosts:
        builder = builder.add_extension(subject_alternative_name(hosts), critical=False)
    return certificate_to_pem(builder.sign(issuer_key, hashes.SHA256()))


def _authority_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    try:
        identifier = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:  # an authority that another tool made
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(check_public_key(issuer.public_key()))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier)
