"""Who must be let in, and who must not: certificates, TLS and names, each tried over a real socket.

`CASES` are made by hand with the cryptography library and Python's ssl, so that nothing of ours keeps them from being
wrong.
"""

from __future__ import annotations

import ssl
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from openfl_aio.pki import CertificateAuthority, create_ca
from openfl_aio.testing.ca import ThrowawayCA
from tests.attacks import frames, payloads
from tests.attacks.wire import Target, Wire

SERVED, UNAUTHENTICATED, NOT_SERVED = "served", "UNAUTHENTICATED", "not served"
SECONDS = 10.0
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


def names(*values: str) -> tuple[x509.NameAttribute[str], ...]:
    """Return common names, of whatever form."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a length that X.509 does not have
        return tuple(x509.NameAttribute(NameOID.COMMON_NAME, value, _validate=False) for value in values)


@dataclass
class Workshop:
    """Makes certificates that no authority should."""

    folder: Path
    ca: ThrowawayCA
    count: int = 0
    foreign: CertificateAuthority = field(default_factory=lambda: create_ca("throw-away CA", days=1))

    def make(
        self,
        subject: Sequence[x509.NameAttribute[str]] = names("one"),
        *,
        issuer: tuple[x509.Name, Any] | None = None,
        key: Key | None = None,
        usage: x509.ObjectIdentifier = CLIENT,
        days: tuple[float, float] = (-0.1, 0.1),
        san: str | None = None,
        own: bool = False,
    ) -> tuple[Path, Key, x509.Name]:
        """Return a file with certificate and key, the key, and the subject. ``own``: it signs itself."""
        certificate, authority_key = self.ca.authority.open()
        key = key or ec.generate_private_key(ec.SECP256R1())
        name = x509.Name(subject)
        issuer_name, issuer_key = (name, key) if own else issuer or (certificate.subject, authority_key)
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(issuer_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + timedelta(days=days[0]))
            .not_valid_after(now + timedelta(days=days[1]))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        if san is not None:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(san)]), critical=False)
        pem = builder.sign(issuer_key, hashes.SHA256()).public_bytes(Encoding.PEM)
        self.count += 1
        path = self.folder / f"{self.count}.pem"
        path.write_bytes(pem + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return path, key, name

    def context(self, chain: Path | None = None, *, alpn: Sequence[str] = ("h2",), **settings: Any) -> ssl.SSLContext:
        """Return a client that accepts everything itself; ``settings`` are attributes, or ``ciphers``."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.set_ciphers(settings.pop("ciphers", "ALL:@SECLEVEL=0"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of old versions, which are the point
            for name, value in settings.items():
                setattr(context, name, value)
        if chain is not None:
            context.load_cert_chain(chain)
        if alpn:
            context.set_alpn_protocols(list(alpn))
        return context

    def version(self, version: ssl.TLSVersion, **settings: Any) -> ssl.SSLContext:
        """Return a client with a good certificate that speaks one version of TLS only."""
        chain, _, _ = self.make()
        return self.context(chain, maximum_version=version, minimum_version=version, **settings)

    def named(self, *values: str) -> ssl.SSLContext:
        """Return a client whose certificate has these common names."""
        return self.context(self.make(names(*values))[0])

    def signed_by_leaf(self) -> ssl.SSLContext:
        """Return a client whose certificate was issued by a participant."""
        leaf, leaf_key, leaf_name = self.make(names("two"))
        chain, _, _ = self.make(issuer=(leaf_name, leaf_key))
        chain.write_bytes(chain.read_bytes() + leaf.read_bytes().partition(b"-----BEGIN PRIVATE")[0])
        return self.context(chain)

    def foreign_issuer(self) -> tuple[x509.Name, Any]:
        """Return another authority, of the same name."""
        certificate, key = self.foreign.open()
        return certificate.subject, key


@dataclass(frozen=True)
class Case:
    """One client, as whom it calls, and what must come of it. A context of None is plaintext."""

    what: str
    expected: str
    context: Callable[[Workshop], ssl.SSLContext | None]
    sender: str = "one"
    claim: str | None = None


def other_attribute(shop: Workshop) -> ssl.SSLContext:
    """Return a client that is "one" in every attribute but the common name."""
    kinds = (NameOID.USER_ID, NameOID.EMAIL_ADDRESS, NameOID.ORGANIZATION_NAME)
    return shop.context(shop.make([x509.NameAttribute(kind, "one") for kind in kinds])[0])


V12, V13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
CASES = (
    # TLS
    Case("TLS 1.3", SERVED, lambda shop: shop.version(V13)),
    Case("TLS 1.2", SERVED, lambda shop: shop.version(V12)),
    Case("TLS 1.1", NOT_SERVED, lambda shop: shop.version(ssl.TLSVersion.TLSv1_1)),
    Case("TLS 1.0", NOT_SERVED, lambda shop: shop.version(ssl.TLSVersion.TLSv1)),
    Case("CBC with SHA-1", NOT_SERVED, lambda shop: shop.version(V12, ciphers="ECDHE+AES+SHA1:@SECLEVEL=0")),
    Case("CBC with SHA-256", NOT_SERVED, lambda shop: shop.version(V12, ciphers="ECDHE-ECDSA-AES128-SHA256")),
    Case("no forward secrecy", NOT_SERVED, lambda shop: shop.version(V12, ciphers="kRSA:@SECLEVEL=0")),
    Case("no encryption", NOT_SERVED, lambda shop: shop.version(V12, ciphers="eNULL:@SECLEVEL=0")),
    Case("no ALPN", NOT_SERVED, lambda shop: shop.context(shop.make()[0], alpn=())),
    Case("ALPN http/1.1", NOT_SERVED, lambda shop: shop.context(shop.make()[0], alpn=("http/1.1",))),
    Case("plaintext", NOT_SERVED, lambda shop: None),
    # certificates
    Case("no certificate", NOT_SERVED, lambda shop: shop.context()),
    Case("expired", NOT_SERVED, lambda shop: shop.context(shop.make(days=(-2, -1))[0])),
    Case("not yet valid", NOT_SERVED, lambda shop: shop.context(shop.make(days=(1, 2))[0])),
    Case("another authority", NOT_SERVED, lambda shop: shop.context(shop.make(issuer=shop.foreign_issuer())[0])),
    Case("self-signed", NOT_SERVED, lambda shop: shop.context(shop.make(own=True)[0])),
    Case("for servers only", NOT_SERVED, lambda shop: shop.context(shop.make(usage=SERVER)[0])),
    Case("signed by a participant", NOT_SERVED, Workshop.signed_by_leaf),
    Case(
        "RSA of 1024 bits",
        NOT_SERVED,
        lambda shop: shop.context(shop.make(key=rsa.generate_private_key(65537, 1024))[0]),
    ),
    # names
    Case("two names, the own first", UNAUTHENTICATED, lambda shop: shop.named("one", "mallory")),
    Case("two names, the own last", UNAUTHENTICATED, lambda shop: shop.named("mallory", "one")),
    Case("no name", UNAUTHENTICATED, lambda shop: shop.context(shop.make(())[0])),
    Case("a name for hosts only", UNAUTHENTICATED, lambda shop: shop.context(shop.make((), san="one")[0])),
    Case("the name elsewhere", UNAUTHENTICATED, other_attribute),
    Case("newline at the end", UNAUTHENTICATED, lambda shop: shop.named("one\n")),
    Case("newline, in both places", UNAUTHENTICATED, lambda shop: shop.named("one\n"), sender="one\n"),
    Case("NUL at the end", UNAUTHENTICATED, lambda shop: shop.named("one\0")),
    Case("blank before", UNAUTHENTICATED, lambda shop: shop.named(" one")),
    Case("blank behind", UNAUTHENTICATED, lambda shop: shop.named("one ")),
    Case("blank, in both places", UNAUTHENTICATED, lambda shop: shop.named("one "), sender="one "),
    Case("capital letter", UNAUTHENTICATED, lambda shop: shop.named("One")),
    Case("letters that look alike", UNAUTHENTICATED, lambda shop: shop.named("\u043ene")),
    Case("65 characters", UNAUTHENTICATED, lambda shop: shop.named("o" * 65), sender="o" * 65),
    Case("another's name", UNAUTHENTICATED, lambda shop: shop.named("two")),
    Case("another's name, claimed", UNAUTHENTICATED, lambda shop: shop.named("two"), claim="one"),
    Case("one who takes no part", UNAUTHENTICATED, lambda shop: shop.named("mallory"), sender="mallory"),
)


def workshop(folder: Path) -> Workshop:
    """Return a workshop of a new authority. Blocks."""
    shop = Workshop(folder, ThrowawayCA(folder / "cert"))
    shop.ca.server()
    return shop


def attempt(port: int, case: Case, shop: Workshop) -> str:
    """Ask the aggregator at ``port`` for tasks, and return what came of it. Blocks."""
    context = case.context(shop)
    wire = Wire(deadline=time.monotonic() + SECONDS, answers=True)
    if not wire.connect(Target("127.0.0.1", port), context=context):
        return NOT_SERVED
    more = [] if case.claim is None else [("client_id", case.claim)]
    fields = frames.block(payloads.AGGREGATOR + "GetTasks", more, tls=context is not None)
    wire.greet()
    wire.send(frames.headers(1, fields) + frames.data(1, payloads.get_tasks(case.sender), end=True))
    while not wire.over and wire.ended is None and time.monotonic() < wire.deadline:
        time.sleep(0.002)
        wire.read()
    wire.drop()
    answers = {"status:0": SERVED, "status:16": UNAUTHENTICATED}
    return next((answers.get(how, how) for how in wire.outcomes), NOT_SERVED)
