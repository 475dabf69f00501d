"""A folder of certificates and keys in OpenFL's layout.

::

    cert_chain.crt                 the authority's certificate, for every participant
    ca/root.key                    the authority's key: stays where it was made
    server/agg_<host>.{crt,key}    the director or aggregator
    client/col_<name>.{crt,key}    a collaborator, envoy or user

Keys are readable by their owner only, from the first byte on. Nothing is overwritten unless told.
"""

from __future__ import annotations

from pathlib import Path

from openfl_aio.errors import AlreadyExistsError, ConfigurationError
from openfl_aio.pki import CertificateAuthority, Credentials, Usage
from openfl_aio.storage.files import disk_errors, write_atomic

__all__ = ["PKIFolder", "read_pem"]

PREFIXES = {"server": "agg_", "client": "col_"}


def read_pem(path: Path, *, what: str) -> bytes:
    """Return the bytes of ``path``. Raises `ConfigurationError` that says how to get the file."""
    try:
        return path.read_bytes()
    except OSError as exc:
        raise ConfigurationError(f"cannot read {what} {str(path)!r}: {exc.strerror or exc}") from None


class PKIFolder:
    """Reads and writes one such folder. All methods block."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.ca_certificate = root / "cert_chain.crt"
        self.ca_key = root / "ca" / "root.key"

    def __repr__(self) -> str:
        return f"PKIFolder({str(self.root)!r})"

    def certificate(self, usage: Usage, name: str) -> Path:
        """Return where the certificate of ``name`` belongs."""
        # OpenFL looks for the server's files under the lower-case host name
        return self.root / usage / f"{PREFIXES[usage]}{name.lower() if usage == 'server' else name}.crt"

    def key(self, usage: Usage, name: str) -> Path:
        """Return where the private key of ``name`` belongs."""
        return self._beside(usage, name, ".key")

    def request(self, usage: Usage, name: str) -> Path:
        """Return where the certificate request of ``name`` belongs."""
        return self._beside(usage, name, ".csr")

    def _beside(self, usage: Usage, name: str, ending: str) -> Path:
        certificate = self.certificate(usage, name)
        return certificate.parent / f"{certificate.name.removesuffix('.crt')}{ending}"

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
            read_pem(self.ca_certificate, what="the authority's certificate"),
            read_pem(self.ca_key, what="the authority's key"),
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
