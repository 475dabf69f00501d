"""Certificate authority, requests and signing: bytes in, bytes out. Files are the storage floor's business."""

from __future__ import annotations

from openfl_aio.pki.ca import CertificateAuthority, create_ca
from openfl_aio.pki.inspection import CertificateInfo, describe
from openfl_aio.pki.issue import Credentials, Usage, issue_client, issue_server, sign
from openfl_aio.pki.requests import CertificateRequest, create_request

__all__ = [
    "CertificateAuthority",
    "CertificateInfo",
    "CertificateRequest",
    "Credentials",
    "Usage",
    "create_ca",
    "create_request",
    "describe",
    "issue_client",
    "issue_server",
    "sign",
]
