"""Keys and certificates as files, in OpenFL's layout.

=========================================  ==================================================================
``cert/cert_chain.crt``                    the authority's certificate: everybody has it
``cert/server/agg_<host>.crt`` / ``.key``  a server's, the host in lower case
``cert/client/col_<name>.crt`` / ``.key``  a participant's
``cert/ca/root_ca.crt`` / ``.key``         the authority's own: never leaves its machine
=========================================  ==================================================================

Files appear whole or not at all; keys are readable by their owner alone from the first byte on, and nothing that
exists is replaced. The functions block: call them from a worker thread when a loop runs.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from openfl_aio.errors import AlreadyExistsError, ConfigurationError
from openfl_aio.storage.files import disk_errors, fsync_folder

__all__ = ["CertificateLayout", "KeyPair", "read_pem", "write_new", "write_pair"]

KEY_MODE: Final = 0o600
CERTIFICATE_MODE: Final = 0o644
MAX_PEM_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Where a certificate and its private key are."""

    certificate: Path
    private_key: Path


@dataclass(frozen=True, slots=True)
class CertificateLayout:
    """OpenFL's certificate folder ``root``, usually ``cert``."""

    root: Path

    @property
    def chain(self) -> Path:
        """The authority's certificate, which every participant has."""
        return self.root / "cert_chain.crt"

    @property
    def authority(self) -> KeyPair:
        """The authority's own certificate and key."""
        return KeyPair(self.root / "ca" / "root_ca.crt", self.root / "ca" / "root_ca.key")

    def server(self, host: str) -> KeyPair:
        """The files of a server reached as ``host``. Raises `ConfigurationError` for what is no file name."""
        return self._pair("server", f"agg_{host.lower()}")

    def client(self, name: str) -> KeyPair:
        """The files of participant ``name``. Raises `ConfigurationError` for what is no file name."""
        return self._pair("client", f"col_{name}")

    def _pair(self, folder: str, stem: str) -> KeyPair:
        if "/" in stem or "\0" in stem or len(stem.encode()) > 200:
            raise ConfigurationError(
                f"{stem[4:]!r} cannot be part of a file name; use letters, digits, '.', '_' and '-'"
            )
        return KeyPair(self.root / folder / f"{stem}.crt", self.root / folder / f"{stem}.key")


def read_pem(path: Path) -> bytes:
    """Return the contents of a PEM file. Raises `ConfigurationError` if it cannot be read or is no such thing."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as exc:
        raise ConfigurationError(f"cannot read '{path}': {exc.strerror}; check the path and its permissions") from None
    if len(data) > MAX_PEM_BYTES or b"-----BEGIN " not in data:
        raise ConfigurationError(f"'{path}' is no PEM file")
    return data


def write_new(path: Path, data: bytes, *, secret: bool = False) -> None:
    """Write a file that must not exist yet, whole and durably; ``secret`` files and their folders are the owner's alone.

    Raises `AlreadyExistsError`, `StorageFullError` or `StorageError`; nothing is left behind then.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700 if secret else 0o755)
        descriptor, name = tempfile.mkstemp(prefix=".new-", dir=path.parent)  # mode 0600
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), KEY_MODE if secret else CERTIFICATE_MODE)
                os.fsync(file.fileno())
            try:
                os.link(name, path)  # unlike a rename, refuses to replace
            except FileExistsError:
                raise AlreadyExistsError(f"'{path}' exists and is not replaced; move it away first") from None
        finally:
            os.unlink(name)
        fsync_folder(path.parent)


def write_pair(pair: KeyPair, *, certificate_pem: bytes, key_pem: bytes) -> None:
    """Write a certificate and its key, both or neither; see `write_new`."""
    if pair.certificate.exists():
        raise AlreadyExistsError(f"'{pair.certificate}' exists and is not replaced; move it away first")
    write_new(pair.private_key, key_pem, secret=True)
    try:
        write_new(pair.certificate, certificate_pem)
    except BaseException:
        pair.private_key.unlink(missing_ok=True)
        raise
