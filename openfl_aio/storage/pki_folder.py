"""A folder of certificates and keys, as the commands that make them see it.

The layout is that of `openfl_aio.storage.keys`. Nothing is overwritten unless told.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from openfl_aio.errors import AlreadyExistsError, ConfigurationError
from openfl_aio.pki import CertificateAuthority, Credentials, DenyList, Usage, first_certificate, sign_crl
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

    def rotate_authority(self, authority: CertificateAuthority) -> None:
        """Keep a new authority that signs from now on; those before it are believed until `retire_authorities`."""
        before = self.load_authority()
        self._write(
            {self.ca_key: authority.key_pem, self.ca_certificate: authority.certificate_pem + before.certificate_pem},
            force=True,
        )

    def retire_authorities(self) -> None:
        """Believe the newest authority alone. Raises `ConfigurationError` if there is none."""
        self._write({self.ca_certificate: first_certificate(self.load_authority().certificate_pem)}, force=True)

    def deny(self, path: Path, lines: Sequence[str]) -> int:
        """Add to the deny list at ``path``, made if need be, the ``lines`` that deny something new; return their number.

        Raises `ConfigurationError` for a list that cannot be read; it stays as it is.
        """
        path = path.resolve()
        text = _read(path) or b""
        added = 0
        for line in lines:
            more = (text if not text or text.endswith(b"\n") else text + b"\n") + line.encode()
            if len(DenyList.parse(more, source=str(path))) > len(DenyList.parse(text, source=str(path))):
                text, added = more, added + 1
        if added:
            write_atomic(path, [text])
        return added

    def revoke(self, path: Path, serial_numbers: Collection[int], *, days: int) -> None:
        """Sign the revocation list at ``path`` anew, with ``serial_numbers`` in addition to what it has."""
        path = path.resolve()
        signed = sign_crl(self.load_authority(), serial_numbers, before=_read(path), days=days)
        write_atomic(path, [signed])

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


def _read(path: Path) -> bytes | None:
    with disk_errors(path):
        return path.read_bytes() if path.exists() else None
