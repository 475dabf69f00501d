"""Certificate signing requests: a site makes its key at home and sends only the request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from openfl_aio.errors import ConfigurationError
from openfl_aio.pki.material import (
    check_common_name,
    common_names,
    key_to_pem,
    new_key,
    subject_alternative_name,
    subject_name,
)

__all__ = ["CertificateRequest", "create_request", "load_request", "request_common_name", "request_hosts"]


@dataclass(frozen=True, slots=True)
class CertificateRequest:
    """What is sent to the authority, and the key that stays at home."""

    request_pem: bytes
    key_pem: bytes = field(repr=False)


def create_request(name: str, *, hosts: Sequence[str] = ()) -> CertificateRequest:
    """Return a new key and a request for ``name``; ``hosts`` are the DNS names and addresses of a server."""
    key = new_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject_name(name))
    if hosts:
        builder = builder.add_extension(subject_alternative_name(hosts), critical=False)
    return CertificateRequest(builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), key_to_pem(key))


def load_request(pem: bytes) -> x509.CertificateSigningRequest:
    """Read a request and check that it is signed by its own key. Raises `ConfigurationError`."""
    try:
        request = x509.load_pem_x509_csr(pem)
        valid = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        raise ConfigurationError("the request is no PEM certificate request") from None
    if not valid:
        raise ConfigurationError("the request is not signed by its own key; make it anew")
    return request


def request_common_name(request: x509.CertificateSigningRequest) -> str:
    """Return the one common name of ``request``. Raises `ConfigurationError`."""
    names = common_names(request.subject)
    if len(names) != 1:
        raise ConfigurationError(f"the request has {len(names)} common names; expected exactly one")
    return check_common_name(names[0])


def request_hosts(request: x509.CertificateSigningRequest) -> tuple[str, ...]:
    """Return the DNS names and addresses that ``request`` asks for; other kinds of names are left out."""
    try:
        extension = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    except ValueError:
        raise ConfigurationError("the request's extensions cannot be read; make it anew") from None
    addresses = tuple(str(address) for address in extension.get_values_for_type(x509.IPAddress))
    return (*extension.get_values_for_type(x509.DNSName), *addresses)
