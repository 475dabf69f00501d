"""Keys, certificates and names as PEM bytes, with one clear sentence for whatever cannot be used."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from openfl_aio.domain import COMMON_NAME_PATTERN
from openfl_aio.errors import ConfigurationError

__all__ = [
    "PrivateKey",
    "PublicKey",
    "certificate_to_pem",
    "check_common_name",
    "check_key_fits",
    "check_public_key",
    "common_names",
    "first_certificate",
    "key_to_pem",
    "load_certificate",
    "load_key",
    "new_key",
    "public_bytes",
    "subject_alternative_name",
    "subject_name",
]

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

MIN_RSA_BITS = 2048
CURVES = ("secp256r1", "secp384r1", "secp521r1")
HOST_PATTERN = re.compile(r"(\*\.)?[A-Za-z0-9_]([A-Za-z0-9_-]{0,62})(\.[A-Za-z0-9_-]{1,63})*")


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh NIST P-256 key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: PrivateKey) -> bytes:
    """Return ``key`` as unencrypted PKCS #8 PEM."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def certificate_to_pem(certificate: x509.Certificate) -> bytes:
    """Return ``certificate`` as PEM."""
    return certificate.public_bytes(Encoding.PEM)


def public_bytes(key: PublicKey) -> bytes:
    """Return the public key's canonical bytes, for comparison."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def load_key(pem: bytes) -> PrivateKey:
    """Read an unencrypted private key. Raises `ConfigurationError` for anything else than elliptic curve or RSA."""
    try:
        key = load_pem_private_key(pem, password=None)
    except TypeError:
        raise ConfigurationError("the private key is encrypted; expected an unencrypted PEM key") from None
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError("the private key is no PEM private key") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise ConfigurationError(f"the private key is {type(key).__name__}; expected elliptic curve or RSA")
    return key


def load_certificate(pem: bytes) -> x509.Certificate:
    """Read the first certificate of a PEM text. Raises `ConfigurationError`."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise ConfigurationError("the certificate is no PEM certificate") from None


def first_certificate(pem: bytes) -> bytes:
    """Return the first certificate of a PEM text, alone. Raises `ConfigurationError`."""
    return certificate_to_pem(load_certificate(pem))


def check_public_key(key: object) -> PublicKey:
    """Return ``key`` if it is strong enough to be certified, else raise `ConfigurationError`."""
    if isinstance(key, rsa.RSAPublicKey):
        if key.key_size < MIN_RSA_BITS:
            raise ConfigurationError(f"the RSA key has {key.key_size} bits; expected at least {MIN_RSA_BITS}")
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in CURVES:
        return key
    raise ConfigurationError(
        f"the public key is {type(key).__name__}; expected RSA or an elliptic curve of {', '.join(CURVES)}"
    )


def check_key_fits(certificate: x509.Certificate, key: PrivateKey) -> None:
    """Raise `ConfigurationError` unless ``key`` is the private key of ``certificate``."""
    if public_bytes(check_public_key(certificate.public_key())) != public_bytes(key.public_key()):
        raise ConfigurationError("the private key does not belong to the certificate")


def check_common_name(name: str) -> str:
    """Return ``name`` if it may be a certificate's common name, else raise `ConfigurationError`.

    Printable ASCII, 1 to 64 characters, no space at either end.
    """
    if not COMMON_NAME_PATTERN.fullmatch(name):
        raise ConfigurationError(
            f"{name!r} cannot be a common name; expected 1 to 64 printable ASCII characters, no space at the ends"
        )
    return name


def subject_name(name: str) -> x509.Name:
    """Return the subject with ``name`` as its only attribute."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, check_common_name(name))])


def common_names(name: x509.Name) -> tuple[str, ...]:
    """Return every common name in ``name``."""
    return tuple(str(attribute.value) for attribute in name.get_attributes_for_oid(NameOID.COMMON_NAME))


def subject_alternative_name(hosts: Iterable[str]) -> x509.SubjectAlternativeName:
    """Return the extension for DNS names and IP addresses; repeats are dropped. Raises `ConfigurationError`."""
    names: list[x509.GeneralName] = []
    for host in dict.fromkeys(hosts):
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            if len(host) > 253 or not HOST_PATTERN.fullmatch(host):
                raise ConfigurationError(f"{host!r} is neither a host name nor an IP address") from None
            names.append(x509.DNSName(host.lower()))
    if not names:
        raise ConfigurationError("no host name: a server certificate needs at least one")
    return x509.SubjectAlternativeName(names)
