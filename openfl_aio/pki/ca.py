"""A federation's certificate authority: one self-signed root that signs servers and clients directly."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from openfl_aio.errors import ConfigurationError
from openfl_aio.pki.material import (
    PrivateKey,
    certificate_to_pem,
    check_key_fits,
    check_public_key,
    key_to_pem,
    load_certificate,
    load_key,
    new_key,
    subject_name,
)

__all__ = ["CLOCK_SKEW", "CertificateAuthority", "check_days", "create_ca", "key_usage", "new_serial_number"]

CLOCK_SKEW = timedelta(minutes=5)  # hospitals' clocks differ: certificates are valid a little before they are made
MAX_CA_DAYS = 3650


@dataclass(frozen=True, slots=True)
class CertificateAuthority:
    """The root certificate, which everybody gets, and its key, which nobody gets."""

    certificate_pem: bytes
    key_pem: bytes = field(repr=False)

    def open(self) -> tuple[x509.Certificate, PrivateKey]:
        """Return certificate and key, ready to sign.

        Raises `ConfigurationError` if they do not belong together or the certificate is no authority's.
        """
        certificate, key = load_certificate(self.certificate_pem), load_key(self.key_pem)
        check_key_fits(certificate, key)
        try:
            constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        except x509.ExtensionNotFound:
            constraints = x509.BasicConstraints(ca=False, path_length=None)
        if not constraints.ca:
            raise ConfigurationError(
                "the certificate is no certificate authority's; sign with the one made by 'pki init'"
            )
        return certificate, key


def check_days(days: int, *, most: int) -> timedelta:
    """Return ``days`` as a time span, or raise `ConfigurationError` outside 1 to ``most``."""
    if not 1 <= days <= most:
        raise ConfigurationError(f"lifetime of {days} days; expected 1 to {most}")
    return timedelta(days=days)


def new_serial_number() -> int:
    """Return a random positive serial number of at most 128 bits (RFC 5280, 4.1.2.2)."""
    return x509.random_serial_number() >> 31  # the library draws 159 bits


def key_usage(*, authority: bool = False, key_encipherment: bool = False) -> x509.KeyUsage:
    """Return the KeyUsage of an authority (sign certificates and lists) or of an end entity (sign handshakes)."""
    return x509.KeyUsage(
        digital_signature=not authority,
        content_commitment=False,
        key_encipherment=key_encipherment,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )


def create_ca(name: str = "openfl_aio federation CA", days: int = 365) -> CertificateAuthority:
    """Return a new self-signed authority that may sign end entities only (path length 0).

    Raises `ConfigurationError` for a name that cannot be a common name or a lifetime outside 1 to 3650 days.
    """
    lifetime = check_days(days, most=MAX_CA_DAYS)
    subject = subject_name(name)
    key = new_key()
    public = check_public_key(key.public_key())
    identifier = x509.SubjectKeyIdentifier.from_public_key(public)
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(new_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + lifetime)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(identifier, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
        .sign(key, hashes.SHA256())
    )
    return CertificateAuthority(certificate_to_pem(certificate), key_to_pem(key))
