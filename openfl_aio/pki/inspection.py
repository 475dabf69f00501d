"""What a certificate says, in plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from openfl_aio.pki.material import common_names, load_certificate

__all__ = ["CertificateInfo", "describe"]

USAGE_NAMES = {ExtendedKeyUsageOID.SERVER_AUTH: "server", ExtendedKeyUsageOID.CLIENT_AUTH: "client"}


@dataclass(frozen=True, slots=True)
class CertificateInfo:
    """A certificate in plain values. ``usages`` are ``server``, ``client``, ``authority`` or a dotted identifier."""

    common_name: str
    issuer: str
    serial_number: int
    not_before: datetime
    not_after: datetime
    hosts: tuple[str, ...]
    usages: tuple[str, ...]
    sha256: str


def describe(pem: bytes) -> CertificateInfo:
    """Return what the first certificate in ``pem`` says. Raises `ConfigurationError` if there is none."""
    certificate = load_certificate(pem)
    hosts: tuple[str, ...] = ()
    usages: list[str] = []
    for extension in certificate.extensions:
        value = extension.value
        if isinstance(value, x509.SubjectAlternativeName):
            addresses = (str(address) for address in value.get_values_for_type(x509.IPAddress))
            hosts = (*value.get_values_for_type(x509.DNSName), *addresses)
        elif isinstance(value, x509.BasicConstraints) and value.ca:
            usages.append("authority")
        elif isinstance(value, x509.ExtendedKeyUsage):
            usages.extend(USAGE_NAMES.get(purpose, purpose.dotted_string) for purpose in value)
    return CertificateInfo(
        common_name=", ".join(common_names(certificate.subject)),
        issuer=", ".join(common_names(certificate.issuer)),
        serial_number=certificate.serial_number,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
        hosts=hosts,
        usages=tuple(usages),
        sha256=certificate.fingerprint(hashes.SHA256()).hex(),
    )
