"""Certificate authority, requests and signing: bytes in, bytes out. Files are the storage floor's business."""

from __future__ import annotations

from openfl_aio.pki.ca import CertificateAuthority, create_ca
from openfl_aio.pki.inspection import CertificateInfo, describe
from openfl_aio.pki.issue import Credentials, Usage, issue_client, issue_server, sign
from openfl_aio.pki.material import first_certificate
from openfl_aio.pki.requests import CertificateRequest, create_request
from openfl_aio.pki.revocation import (
    DenyList,
    PeerCertificate,
    RevocationList,
    Revocations,
    deny_line,
    revocable,
    sign_crl,
)

__all__ = [
    "CertificateAuthority",
    "CertificateInfo",
    "CertificateRequest",
    "Credentials",
    "DenyList",
    "PeerCertificate",
    "RevocationList",
    "Revocations",
    "Usage",
    "create_ca",
    "create_request",
    "deny_line",
    "describe",
    "first_certificate",
    "issue_client",
    "issue_server",
    "revocable",
    "sign",
    "sign_crl",
]
