"""A folder of certificates and keys, as the commands that make them see it.

The layout is that of `openfl_aio.storage.keys`. Nothing is overwritten unless told.
"""

from __future__ import annotations

from pathlib import Path

from openfl_aio.errors import AlreadyExistsError, ConfigurationError
from openfl_aio.pki import CertificateAuthority, Credentials, Usage
from openfl_aio.storage.files import disk_errors, write_atomic
from openfl_aio.storage.keys import CertificateLayout, KeyPair, read_pem

__all__ = ["PKIFolder"]


class PKIFolder:
    """Reads and writes one such folder. All methods block."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._layout = CertificateLayout(root)
        self.ca_certificate = self._layout.chain
        self.ca_key = self._layout.authority.private_key

    def __repr__(self) -> str:
        return f"PKIFolder({str(self.root)!r})"

    def certificate(self, usage: Usage, name: str) -> Path:
        """Return where the certificate of ``name`` belongs."""
        return self._pair(usage, name).certificate

    def key(self, usage: Usage, name: str) -> Path:
        """Return where the private key of ``name`` belongs."""
        return self._pair(usage, name).private_key

    def request(self, usage: Usage, name: str) -> Path:
        """Return where the certificate request of ``name`` belongs."""
        key = self.key(usage, name)
        return key.parent / f"{key.name.removesuffix('.key')}.csr"

    def _pair(self, usage: Usage, name: str) -> KeyPair:
        return self._layout.server(name) if usage == "server" else self._layout.client(name)

    def save_authority(self, authority: CertificateAuthority, *, force: bool = False) -> None:
        """Keep a new authority. Raises `AlreadyExistsError` if there is one and not ``force``."""
        self._write({self.ca_key: authority.key_pem, self.ca_certificate: authority.certificate_pem}, force=force)

    def load_authority(self) -> CertificateAuthority:
        """Return the authority. Raises `ConfigurationError` if there is none here."""
        if not self.ca_key.exists():
            raise ConfigurationError(
                f"no authority in {str(self.root)!r}: {str(self.ca_key)!r} is missing; make one with 'openfl-aio pki init', "
                "or send a request to whoever has the key"
            )
        return CertificateAuthority(
            read_pem(self.ca_certificate),
            read_pem(self.ca_key),
        )

    def save_credentials(self, usage: Usage, name: str, credentials: Credentials, *, force: bool = False) -> None:
        """Keep a certificate and its key."""
        self._write(
            {
                self.key(usage, name): credentials.key_pem,
                self.certificate(usage, name): credentials.certificate_pem,
            },
            force=force,
        )

    def save_request(self, usage: Usage, name: str, *, request_pem: bytes, key_pem: bytes, force: bool = False) -> None:
        """Keep a request, which travels, and its key, which does not."""
        self._write({self.key(usage, name): key_pem, self.request(usage, name): request_pem}, force=force)

    def save_certificate(self, usage: Usage, name: str, certificate_pem: bytes, *, force: bool = False) -> Path:
        """Keep a signed certificate and return its path."""
        path = self.certificate(usage, name)
        self._write({path: certificate_pem}, force=force)
        return path

    def _write(self, files: dict[Path, bytes], *, force: bool) -> None:
        taken = [str(path) for path in files if path.exists()]
        if taken and not force:
            raise AlreadyExistsError(f"{', '.join(taken)} exists already; use --force to replace it")
        for path, data in files.items():
            with disk_errors(path):
                path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, [data], mode=0o600 if path.suffix == ".key" else 0o644)
