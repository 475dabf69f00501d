"""What certificates the authority makes, and what it refuses."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from openfl_aio.errors import ConfigurationError
from openfl_aio.pki import (
    CertificateAuthority,
    CertificateRequest,
    Usage,
    create_ca,
    create_request,
    describe,
    issue_client,
    issue_server,
    sign,
)
from openfl_aio.pki.ca import key_usage, new_serial_number
from openfl_aio.pki.issue import PURPOSES
from openfl_aio.pki.material import load_key, new_key


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return create_ca("test CA", days=30)


def load(pem: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(pem)


def test_authority_may_sign_end_entities_only(ca: CertificateAuthority) -> None:
    certificate = load(ca.certificate_pem)
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert (constraints.value.ca, constraints.value.path_length) == (True, 0)
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    assert usage.key_cert_sign
    assert not usage.digital_signature
    certificate.verify_directly_issued_by(certificate)
    info = describe(ca.certificate_pem)
    assert (info.common_name, info.issuer, info.usages) == ("test CA", "test CA", ("authority",))


def test_key_does_not_show_in_repr(ca: CertificateAuthority) -> None:
    assert "PRIVATE" not in repr(ca)
    assert "PRIVATE" not in repr(issue_client(ca, "one"))
    assert "PRIVATE" not in repr(create_request("one"))


def test_server_certificate_names_its_hosts_and_only_serves(ca: CertificateAuthority) -> None:
    pem = issue_server(ca, "director", hosts=["Localhost", "127.0.0.1", "::1", "localhost"]).certificate_pem
    info = describe(pem)
    assert set(info.hosts) == {"localhost", "127.0.0.1", "::1"}
    assert info.usages == ("server",)
    load(pem).verify_directly_issued_by(load(ca.certificate_pem))


def test_server_without_hosts_is_named_by_its_common_name(ca: CertificateAuthority) -> None:
    assert describe(issue_server(ca, "director.example").certificate_pem).hosts == ("director.example",)


def test_client_certificate_is_short_lived_and_only_connects(ca: CertificateAuthority) -> None:
    credentials = issue_client(create_ca(days=365), "hospital one")
    info = describe(credentials.certificate_pem)
    assert (info.common_name, info.usages, info.hosts) == ("hospital one", ("client",), ())
    assert timedelta(days=89) < info.not_after - info.not_before < timedelta(days=91)
    assert 0 < info.serial_number < 2**128
    extensions = load(credentials.certificate_pem).extensions
    assert extensions.get_extension_for_class(x509.KeyUsage).value.digital_signature
    authority = load(ca.certificate_pem).extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    own = load(issue_client(ca, "one").certificate_pem).extensions
    assert own.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == authority.digest
    assert own.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest != authority.digest
    load_key(credentials.key_pem)


def test_certificate_does_not_outlive_its_authority(ca: CertificateAuthority) -> None:
    assert describe(issue_client(ca, "one").certificate_pem).not_after == describe(ca.certificate_pem).not_after


def test_serial_numbers_differ(ca: CertificateAuthority) -> None:
    assert len({describe(issue_client(ca, "one").certificate_pem).serial_number for _ in range(5)}) == 5


def test_signed_request_takes_name_key_and_hosts_only(ca: CertificateAuthority) -> None:
    request = create_request("agg.example", hosts=["agg.example", "10.0.0.1"])
    info = describe(sign(ca, request.request_pem, usage="server"))
    assert (info.common_name, info.hosts, info.usages) == ("agg.example", ("agg.example", "10.0.0.1"), ("server",))
    assert describe(sign(ca, request.request_pem, usage="server", hosts=["other"])).hosts == ("other",)
    info = describe(sign(ca, request.request_pem, usage="client"))
    assert (info.hosts, info.usages) == ((), ("client",))


def test_request_of_a_server_without_hosts_uses_its_name(ca: CertificateAuthority) -> None:
    assert describe(sign(ca, create_request("agg").request_pem, usage="server")).hosts == ("agg",)


def test_request_cannot_make_itself_an_authority(ca: CertificateAuthority) -> None:
    key = rsa.generate_private_key(65537, 2048)
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil")]))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    certificate = load(sign(ca, request.public_bytes(Encoding.PEM), usage="client"))
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert certificate.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment  # RSA
    fake = CertificateAuthority(
        certificate.public_bytes(Encoding.PEM), key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    with pytest.raises(ConfigurationError, match="no certificate authority"):
        issue_client(fake, "one")


@pytest.mark.parametrize("usage", ["server", "client"])
def test_what_a_request_asks_for_beyond_its_name_is_left_out(ca: CertificateAuthority, usage: Usage) -> None:
    key = new_key()
    asked = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(
            x509.Name(
                [
                    x509.NameAttribute(NameOID.ORGANIZATION_NAME, "somebody else's"),
                    x509.NameAttribute(NameOID.COMMON_NAME, "evil"),
                ]
            )
        )
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("bank.example"), x509.RFC822Name("a@b")]), critical=True
        )
        .add_extension(x509.ExtendedKeyUsage([*PURPOSES.values(), ExtendedKeyUsageOID.CODE_SIGNING]), critical=False)
        .add_extension(key_usage(authority=True), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName("bank.example")], None), critical=True)
        .add_extension(x509.OCSPNoCheck(), critical=False)
        .sign(key, hashes.SHA256())
    )
    hosts = ["director.example"] if usage == "server" else None
    certificate = load(sign(ca, asked.public_bytes(Encoding.PEM), usage=usage, hosts=hosts))
    assert certificate.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "evil")])
    found = {type(extension.value): extension.value for extension in certificate.extensions}
    own = {x509.BasicConstraints, x509.KeyUsage, x509.ExtendedKeyUsage}
    identifiers = {x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier}
    assert set(found) == own | identifiers | ({x509.SubjectAlternativeName} if hosts else set())
    assert found[x509.KeyUsage] == key_usage()
    assert found[x509.ExtendedKeyUsage] == x509.ExtendedKeyUsage([PURPOSES[usage]])
    if hosts:
        assert found[x509.SubjectAlternativeName] == x509.SubjectAlternativeName([x509.DNSName("director.example")])


def test_serial_numbers_use_their_128_bits(ca: CertificateAuthority) -> None:
    numbers = [new_serial_number() for _ in range(200)]
    assert all(0 < number < 2**128 for number in numbers)
    union = 0
    for number in numbers:
        union |= number
    assert union == 2**128 - 1  # each bit is missing in all of them once in 2**193 times
    assert describe(ca.certificate_pem).serial_number < 2**128


def test_server_certificates_are_short_lived_too() -> None:
    info = describe(issue_server(create_ca(days=365), "director").certificate_pem)
    assert timedelta(days=89) < info.not_after - info.not_before < timedelta(days=91)
    signed = describe(sign(create_ca(days=365), create_request("one").request_pem, usage="client"))
    assert timedelta(days=89) < signed.not_after - signed.not_before < timedelta(days=91)


def _request(names: list[str], key: rsa.RSAPrivateKey | dsa.DSAPrivateKey) -> bytes:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name) for name in names])
    return (
        x509.CertificateSigningRequestBuilder()
        .subject_name(subject)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.PEM)
    )


def test_weak_or_strange_requests_are_refused(ca: CertificateAuthority) -> None:
    strong = rsa.generate_private_key(65537, 2048)
    with pytest.raises(ConfigurationError, match="2 common names"):
        sign(ca, _request(["one", "two"], strong), usage="client")
    with pytest.raises(ConfigurationError, match="cannot be a common name"):
        sign(ca, _request(["one\ntwo"], strong), usage="client")
    with pytest.raises(ConfigurationError, match="1024 bits"):
        sign(ca, _request(["one"], rsa.generate_private_key(65537, 1024)), usage="client")
    with pytest.raises(ConfigurationError, match="expected RSA or an elliptic curve"):
        sign(ca, _request(["one"], dsa.generate_private_key(2048)), usage="client")
    with pytest.raises(ConfigurationError, match="no PEM certificate request"):
        sign(ca, b"nonsense", usage="client")


def test_request_not_signed_by_its_key_is_refused(ca: CertificateAuthority) -> None:
    request = x509.load_pem_x509_csr(create_request("honest").request_pem)
    der = bytearray(request.public_bytes(Encoding.DER))
    position = der.index(b"honest")
    der[position : position + 6] = b"victim"
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(ConfigurationError, match="not signed by its own key"):
        sign(ca, forged, usage="client")


@pytest.mark.parametrize("name", ["", " one", "one ", "a" * 65, "a\nb", "a\0b", "é"])
def test_names_that_cannot_be_common_names_are_refused(ca: CertificateAuthority, name: str) -> None:
    with pytest.raises(ConfigurationError, match="cannot be a common name"):
        issue_client(ca, name)


@pytest.mark.parametrize("host", ["", "a b", "-a", "a..b", "é", "a" * 300])
def test_hosts_that_are_none_are_refused(ca: CertificateAuthority, host: str) -> None:
    with pytest.raises(ConfigurationError, match="neither a host name"):
        issue_server(ca, "director", hosts=[host])


@pytest.mark.parametrize("days", [0, -1, 367])
def test_lifetimes_are_bounded(ca: CertificateAuthority, days: int) -> None:
    with pytest.raises(ConfigurationError, match="expected 1 to 366"):
        issue_client(ca, "one", days=days)


def test_authority_with_a_foreign_key_is_refused(ca: CertificateAuthority) -> None:
    with pytest.raises(ConfigurationError, match="does not belong"):
        issue_client(CertificateAuthority(ca.certificate_pem, create_ca().key_pem), "one")


def test_unusable_keys_and_certificates_are_refused(ca: CertificateAuthority) -> None:
    with pytest.raises(ConfigurationError, match="no PEM private key"):
        issue_client(CertificateAuthority(ca.certificate_pem, b"nonsense"), "one")
    encrypted = new_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    with pytest.raises(ConfigurationError, match="encrypted"):
        load_key(encrypted)
    odd = dsa.generate_private_key(2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    with pytest.raises(ConfigurationError, match="expected elliptic curve or RSA"):
        load_key(odd)
    with pytest.raises(ConfigurationError, match="no PEM certificate"):
        describe(b"nonsense")


def test_request_holds_no_key() -> None:
    request: CertificateRequest = create_request("one")
    assert b"PRIVATE" not in request.request_pem


def test_authorities_of_other_tools_can_sign() -> None:
    key, now = rsa.generate_private_key(65537, 2048), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Simple Root CA")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(7)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    key_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    good = (
        builder.not_valid_before(now - timedelta(days=9))
        .not_valid_after(now + timedelta(days=9))
        .sign(key, hashes.SHA256())
    )
    pem = issue_client(CertificateAuthority(good.public_bytes(Encoding.PEM), key_pem), "one").certificate_pem
    load(pem).verify_directly_issued_by(good)
    old = (
        builder.not_valid_before(now - timedelta(days=9))
        .not_valid_after(now - timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    with pytest.raises(ConfigurationError, match="expired"):
        issue_client(CertificateAuthority(old.public_bytes(Encoding.PEM), key_pem), "one")
