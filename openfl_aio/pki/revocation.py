"""Certificates that are no longer valid although their time has not come: a deny list, and lists that the CA signs.

A deny list is a text for people, a line each of

- a serial number in hexadecimal: ``0A1B…``, ``0a:1b:…``, or as ``openssl x509 -noout -serial`` prints it,
- a SHA-256 fingerprint: 64 digits, with or without colons, or as ``openssl x509 -noout -fingerprint -sha256`` prints it,
- ``CN=NAME``: every certificate of that name, also those that are made later,

with empty lines and ``#`` comments. Serial numbers count for every issuer: those of different authorities are random.

A certificate revocation list (CRL) is RFC 5280's, section 5, as PEM (several are fine) or DER, and counts for its
issuer's certificates. Delta, partial and indirect lists have critical extensions, and are refused.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from openfl_aio.errors import ConfigurationError
from openfl_aio.pki.ca import CertificateAuthority, check_days
from openfl_aio.pki.material import check_common_name, check_public_key, common_names, load_certificate

__all__ = [
    "DenyList",
    "PeerCertificate",
    "RevocationList",
    "Revocations",
    "deny_line",
    "parse_entry",
    "revocable",
    "sign_crl",
]

MAX_CRL_DAYS: Final = 366
SERIAL: Final = re.compile(r"(?:serial=)?([0-9a-f]{1,40})", re.IGNORECASE)  # at most 20 octets: RFC 5280, 4.1.2.2
FINGERPRINT: Final = re.compile(r"(?:sha256 fingerprint=)?([0-9a-f]{64})", re.IGNORECASE)
NAME_PREFIX: Final = "CN="
PEM_CRL: Final = re.compile(rb"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)


@dataclass(frozen=True, slots=True)
class PeerCertificate:
    """What a certificate is denied by. ``fingerprint`` is SHA-256 of the whole, in lower-case hexadecimal."""

    fingerprint: str
    serial_number: int
    issuer: x509.Name
    names: tuple[str, ...]

    @classmethod
    def from_der(cls, der: bytes) -> PeerCertificate:
        """Read a certificate. Raises `ConfigurationError` for bytes that are none."""
        try:
            certificate = x509.load_der_x509_certificate(der)
            return cls(
                certificate.fingerprint(hashes.SHA256()).hex(),
                certificate.serial_number,
                certificate.issuer,
                common_names(certificate.subject),
            )
        except ValueError:
            raise ConfigurationError("the certificate cannot be read") from None


@dataclass(frozen=True, slots=True)
class DenyList:
    """See the module."""

    serial_numbers: frozenset[int] = frozenset()
    fingerprints: frozenset[str] = frozenset()
    names: frozenset[str] = frozenset()

    def __len__(self) -> int:
        return len(self.serial_numbers) + len(self.fingerprints) + len(self.names)

    @classmethod
    def parse(cls, data: bytes, *, source: str) -> DenyList:
        """Read a deny list. Raises `ConfigurationError` that names ``source``, the line, and what was expected."""
        serial_numbers: set[int] = set()
        fingerprints: set[str] = set()
        names: set[str] = set()
        for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").splitlines(), start=1):
            try:
                entry = parse_entry(raw.decode())
            except (ConfigurationError, UnicodeDecodeError) as exc:
                reason = "it is no UTF-8 text" if isinstance(exc, UnicodeDecodeError) else str(exc)
                raise ConfigurationError(f"{source}, line {number}: {reason}") from None
            if isinstance(entry, int):
                serial_numbers.add(entry)
            elif entry is not None and entry.startswith(NAME_PREFIX):
                names.add(entry.removeprefix(NAME_PREFIX))
            elif entry is not None:
                fingerprints.add(entry)
        return cls(frozenset(serial_numbers), frozenset(fingerprints), frozenset(names))

    def denies(self, certificate: PeerCertificate) -> str | None:
        """Return by what ``certificate`` is denied, or None."""
        if certificate.fingerprint in self.fingerprints:
            return "its fingerprint is on the deny list"
        if certificate.serial_number in self.serial_numbers:
            return "its serial number is on the deny list"
        if not self.names.isdisjoint(certificate.names):
            return "its name is on the deny list"
        return None


def parse_entry(line: str) -> int | str | None:
    """Return what one line of a deny list denies: a serial number, a fingerprint, ``CN=…``, or None for nothing.

    A fingerprint comes back in lower case without colons. Raises `ConfigurationError`.
    """
    text = line.strip()
    if text.startswith(NAME_PREFIX):
        name = re.split(r"\s+#", text.removeprefix(NAME_PREFIX), maxsplit=1)[0]
        return NAME_PREFIX + check_common_name(name.strip())
    text = text.partition("#")[0].strip()
    if not text:
        return None
    digits = text.replace(":", "")
    if found := FINGERPRINT.fullmatch(digits):
        return found[1].lower()
    if found := SERIAL.fullmatch(digits):
        return int(found[1], 16)
    raise ConfigurationError(
        "expected a serial number in hexadecimal (at most 40 digits), a SHA-256 fingerprint (64 digits) or CN=NAME, "
        f"got {text[:80]!r}"
    )


@dataclass(frozen=True, slots=True)
class RevocationList:
    """What authorities have revoked: issuer and serial number. ``next_update`` is the first that is promised, if any."""

    revoked: frozenset[tuple[x509.Name, int]] = frozenset()
    next_update: datetime | None = None

    def __len__(self) -> int:
        return len(self.revoked)

    @classmethod
    def parse(cls, data: bytes, *, authorities: Sequence[bytes], source: str) -> RevocationList:
        """Read CRLs. Each must be signed by one of ``authorities``, PEM texts of certificates.

        Raises `ConfigurationError` that names ``source`` and says what is wrong.
        """
        try:
            certificates = [certificate for pem in authorities for certificate in x509.load_pem_x509_certificates(pem)]
        except ValueError:
            raise ConfigurationError("the CA certificate is no PEM certificate") from None
        revoked: set[tuple[x509.Name, int]] = set()
        updates: list[datetime] = []
        for crl in _load(data, source):
            _check_issuer(crl, certificates, source)
            for extension in _extensions(crl, source):
                if extension.critical:
                    raise ConfigurationError(
                        f"{source}: the revocation list has the critical extension {extension.oid.dotted_string}; "
                        "expected a complete list of one issuer, without"
                    )
            if crl.next_update_utc is not None:
                updates.append(crl.next_update_utc)
            revoked.update((crl.issuer, entry.serial_number) for entry in crl)
        return cls(frozenset(revoked), min(updates, default=None))

    def denies(self, certificate: PeerCertificate) -> str | None:
        """Return by what ``certificate`` is denied, or None."""
        if (certificate.issuer, certificate.serial_number) in self.revoked:
            return "its issuer has revoked it"
        return None


@dataclass(frozen=True, slots=True)
class Revocations:
    """All that is denied."""

    deny_list: DenyList = DenyList()
    crl: RevocationList = RevocationList()

    def denies(self, certificate: PeerCertificate) -> str | None:
        """Return by what ``certificate`` is denied, or None."""
        return self.deny_list.denies(certificate) or self.crl.denies(certificate)


def sign_crl(
    ca: CertificateAuthority, serial_numbers: Collection[int], *, before: bytes | None = None, days: int = 30
) -> bytes:
    """Return the CA's next revocation list (PEM): what ``before`` has, its last one, and ``serial_numbers``.

    The next update is promised in ``days``, 1 to 366. Lists in ``before`` of authorities that this one follows, and
    whose certificates stand behind its own, are kept as they are. Raises `ConfigurationError` for other lists.
    """
    lifetime = check_days(days, most=MAX_CRL_DAYS)
    issuer, key = ca.open()
    predecessors = x509.load_pem_x509_certificates(ca.certificate_pem)[1:]
    kept = b""
    now = datetime.now(UTC)
    number = 0
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.subject)
    known: set[int] = set()
    for crl in _load(before, "the list until now") if before is not None else ():
        if not _is_signed_by(crl, issuer):
            _check_issuer(crl, predecessors, "the list until now")
            kept += crl.public_bytes(Encoding.PEM)
            continue
        number = max(number, _number(crl))
        for entry in crl:
            known.add(entry.serial_number)
            builder = builder.add_revoked_certificate(entry)
    for serial_number in sorted(set(serial_numbers) - known):
        revoked = x509.RevokedCertificateBuilder().serial_number(serial_number).revocation_date(now)
        builder = builder.add_revoked_certificate(revoked.build())
    authority = x509.AuthorityKeyIdentifier.from_issuer_public_key(check_public_key(issuer.public_key()))
    crl = (
        builder.last_update(now)
        .next_update(now + lifetime)
        .add_extension(x509.CRLNumber(number + 1), critical=False)
        .add_extension(authority, critical=False)
        .sign(key, hashes.SHA256())
    )
    return crl.public_bytes(Encoding.PEM) + kept


def revocable(ca: CertificateAuthority, what: bytes | str) -> int:
    """Return the serial number that a list of ``ca`` has for ``what``: a certificate (PEM), or the number as text.

    Raises `ConfigurationError` for a certificate of another authority, which would not be denied by it, and for a
    fingerprint or a name.
    """
    if isinstance(what, bytes):
        certificate, (issuer, _) = load_certificate(what), ca.open()
        try:
            certificate.verify_directly_issued_by(issuer)
        except (InvalidSignature, TypeError, ValueError):
            raise ConfigurationError(
                f"the certificate {certificate.serial_number:x} is not this authority's, so its revocation list cannot "
                "deny it; use a deny list"
            ) from None
        return certificate.serial_number
    entry = parse_entry(what)
    if not isinstance(entry, int):
        raise ConfigurationError(
            f"a revocation list has serial numbers only, got {what!r}; give certificate files, or use a deny list"
        )
    return entry


def deny_line(text: str, *, comment: str = "") -> str:
    """Return ``text`` as a line of a deny list. Raises `ConfigurationError` if it denies nothing, or cannot be read."""
    entry = parse_entry(text)
    if entry is None:
        raise ConfigurationError(f"expected a serial number, a SHA-256 fingerprint or CN=NAME, got {text!r}")
    written = f"{entry:x}" if isinstance(entry, int) else entry
    return f"{written}  # {comment}\n" if comment else f"{written}\n"


def _load(data: bytes, source: str) -> list[x509.CertificateRevocationList]:
    try:
        if pems := PEM_CRL.findall(data):
            return [x509.load_pem_x509_crl(pem) for pem in pems]
        return [x509.load_der_x509_crl(data)]
    except (ValueError, UnsupportedAlgorithm):
        raise ConfigurationError(f"{source}: expected a certificate revocation list, PEM or DER") from None


def _check_issuer(crl: x509.CertificateRevocationList, authorities: Sequence[x509.Certificate], source: str) -> None:
    """Raise `ConfigurationError` unless one of ``authorities`` has signed ``crl``."""
    if any(_is_signed_by(crl, authority) for authority in authorities):
        return
    issuer = ", ".join(common_names(crl.issuer)) or "nobody"
    raise ConfigurationError(
        f"{source}: the revocation list of {issuer!r} is not signed by an authority that is trusted here; "
        "expected one made with the key of the CA certificate"
    )


def _is_signed_by(crl: x509.CertificateRevocationList, authority: x509.Certificate) -> bool:
    try:
        return authority.subject == crl.issuer and crl.is_signature_valid(check_public_key(authority.public_key()))
    except (UnsupportedAlgorithm, TypeError, ValueError):  # no signature that we know
        return False


def _extensions(crl: x509.CertificateRevocationList, source: str) -> x509.Extensions:
    try:
        return crl.extensions
    except ValueError:
        raise ConfigurationError(f"{source}: the extensions of the revocation list cannot be read") from None


def _number(crl: x509.CertificateRevocationList) -> int:
    try:
        return crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    except x509.ExtensionNotFound:
        return 0
