"""What deny lists and revocation lists say, and which of them are refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from openfl_aio.errors import ConfigurationError
from openfl_aio.pki import (
    CertificateAuthority,
    DenyList,
    PeerCertificate,
    RevocationList,
    Revocations,
    create_ca,
    describe,
    issue_client,
    sign_crl,
)


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return create_ca("test CA", days=30)


@pytest.fixture(scope="module")
def pem(ca: CertificateAuthority) -> bytes:
    return issue_client(ca, "hospital one").certificate_pem


def peer(pem: bytes) -> PeerCertificate:
    return PeerCertificate.from_der(x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER))


def colons(digits: str) -> str:
    return ":".join(digits[index : index + 2] for index in range(0, len(digits), 2))


def parse(text: str) -> DenyList:
    return DenyList.parse(text.encode(), source="deny.txt")


def test_a_certificate_is_denied_by_each_way_of_writing_serial_number_fingerprint_and_name(pem: bytes) -> None:
    info = describe(pem)
    serial, fingerprint = f"{info.serial_number:032x}", info.sha256
    for line in (
        serial,
        serial.upper(),
        colons(serial),
        f"serial={serial.upper()}",
        f"  {serial}  # left in May",
        fingerprint,
        colons(fingerprint.upper()),
        f"sha256 Fingerprint={colons(fingerprint.upper())}",
        "CN=hospital one",
        "CN=hospital one   # left in May",
    ):
        assert parse(f"# denied\r\n\r\n{line}\r\n").denies(peer(pem)), line


def test_others_are_not_denied(ca: CertificateAuthority, pem: bytes) -> None:
    info = describe(pem)
    denied = parse(f"\ufeff{info.serial_number:x}\n{info.sha256}\nCN=hospital one")
    assert len(denied) == 3
    assert denied.denies(peer(issue_client(ca, "hospital two").certificate_pem)) is None
    assert parse("# nobody\n").denies(peer(pem)) is None
    assert parse("CN=Hospital One\nCN=hospital").denies(peer(pem)) is None


@pytest.mark.parametrize(
    "line", ["zz", "12 34", "0x12", "a" * 41, "a" * 63, "a" * 65, "hospital one", "CN=", "CN=é", "serial="]
)
def test_a_wrong_line_is_named(line: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^deny\.txt, line 3: .*(expected|cannot be)"):
        parse(f"# fine\n0A\n{line}\n0B\n")


def test_what_is_no_text_is_named_by_its_line() -> None:
    with pytest.raises(ConfigurationError, match=r"^deny\.txt, line 2: it is no UTF-8"):
        DenyList.parse(b"0A\n\xff\xfe\n", source="deny.txt")


def test_a_signed_list_revokes_and_keeps_what_was_revoked(ca: CertificateAuthority, pem: bytes) -> None:
    first = sign_crl(ca, [describe(pem).serial_number])
    other = issue_client(ca, "hospital two").certificate_pem
    second = sign_crl(ca, [describe(other).serial_number], before=first)
    crls = [RevocationList.parse(data, authorities=[ca.certificate_pem], source="crl") for data in (first, second)]
    assert [len(crl) for crl in crls] == [1, 2]
    assert crls[0].denies(peer(pem))
    assert crls[0].denies(peer(other)) is None
    assert crls[1].denies(peer(pem))
    assert crls[1].denies(peer(other))
    loaded = x509.load_pem_x509_crl(second)
    assert loaded.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 2
    again = sign_crl(ca, [describe(pem).serial_number], before=second)
    assert len(list(x509.load_pem_x509_crl(again))) == 2


def test_lists_are_read_as_der_and_several_at_once(ca: CertificateAuthority, pem: bytes) -> None:
    data = sign_crl(ca, [describe(pem).serial_number])
    der = x509.load_pem_x509_crl(data).public_bytes(Encoding.DER)
    assert RevocationList.parse(der, authorities=[ca.certificate_pem], source="crl").denies(peer(pem))
    successor = create_ca("test CA", days=30)
    foreign = issue_client(successor, "hospital two").certificate_pem
    both = data + sign_crl(successor, [describe(foreign).serial_number])
    authorities = [successor.certificate_pem + ca.certificate_pem]
    crl = RevocationList.parse(both, authorities=authorities, source="crl")
    assert crl.denies(peer(pem))
    assert crl.denies(peer(foreign))


def test_a_list_counts_for_its_issuers_certificates_only(ca: CertificateAuthority, pem: bytes) -> None:
    stranger = create_ca("another CA", days=30)
    crl = sign_crl(stranger, [describe(pem).serial_number])
    parsed = RevocationList.parse(crl, authorities=[stranger.certificate_pem], source="crl")
    assert parsed.denies(peer(pem)) is None


def test_a_list_of_a_stranger_is_refused_also_under_the_name_of_the_authority(
    ca: CertificateAuthority, pem: bytes
) -> None:
    for name in ("another CA", "test CA"):
        forged = sign_crl(create_ca(name, days=30), [describe(pem).serial_number])
        with pytest.raises(ConfigurationError, match=f"^file.crl: the revocation list of '{name}' is not signed"):
            RevocationList.parse(forged, authorities=[ca.certificate_pem], source="file.crl")
        with pytest.raises(ConfigurationError, match="not signed"):
            sign_crl(ca, [], before=forged)


def test_an_altered_list_is_refused(ca: CertificateAuthority, pem: bytes) -> None:
    der = bytearray(x509.load_pem_x509_crl(sign_crl(ca, [describe(pem).serial_number])).public_bytes(Encoding.DER))
    position = der.index(describe(pem).serial_number.to_bytes(17, "big").lstrip(b"\0"))
    der[position + 3] ^= 1
    with pytest.raises(ConfigurationError, match="not signed"):
        RevocationList.parse(bytes(der), authorities=[ca.certificate_pem], source="crl")


@pytest.mark.parametrize("data", [b"", b"nonsense", b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n"])
def test_what_is_no_list_is_refused(ca: CertificateAuthority, data: bytes) -> None:
    with pytest.raises(ConfigurationError, match=r"^a\.crl: expected a certificate revocation list, PEM or DER"):
        RevocationList.parse(data, authorities=[ca.certificate_pem], source="a.crl")


def test_a_list_that_is_not_complete_is_refused(ca: CertificateAuthority) -> None:
    issuer, key = ca.open()
    now = datetime.now(UTC)
    delta = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now)
        .next_update(now + timedelta(days=1))
        .add_extension(x509.DeltaCRLIndicator(1), critical=True)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )
    with pytest.raises(ConfigurationError, match=r"critical extension 2\.5\.29\.27"):
        RevocationList.parse(delta, authorities=[ca.certificate_pem], source="crl")


def test_the_next_update_is_the_first_that_is_due(ca: CertificateAuthority) -> None:
    both = sign_crl(ca, [], days=9) + sign_crl(ca, [], days=3)
    crl = RevocationList.parse(both, authorities=[ca.certificate_pem], source="crl")
    assert crl.next_update is not None
    assert timedelta(days=2) < crl.next_update - datetime.now(UTC) < timedelta(days=4)


@pytest.mark.parametrize("days", [0, 367])
def test_the_next_update_is_bounded(ca: CertificateAuthority, days: int) -> None:
    with pytest.raises(ConfigurationError, match="expected 1 to 366"):
        sign_crl(ca, [], days=days)


def test_either_list_is_enough(ca: CertificateAuthority, pem: bytes) -> None:
    crl = RevocationList.parse(
        sign_crl(ca, [describe(pem).serial_number]), authorities=[ca.certificate_pem], source="crl"
    )
    assert Revocations().denies(peer(pem)) is None
    assert Revocations(crl=crl).denies(peer(pem)) == "its issuer has revoked it"
    assert Revocations(deny_list=parse("CN=hospital one")).denies(peer(pem)) == "its name is on the deny list"


def test_what_is_no_certificate_is_one_sentence() -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        PeerCertificate.from_der(b"nonsense")
