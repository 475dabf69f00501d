"""A certificate authority for tests and demonstrations: TLS configurations for the asking."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from openfl_aio.config import TLSConfig
from openfl_aio.pki import Credentials, create_ca, issue_client, issue_server
from openfl_aio.storage.keys import CertificateLayout, KeyPair, write_new, write_pair

__all__ = ["ThrowawayCA"]

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")


class ThrowawayCA:
    """An authority in ``folder`` (OpenFL's layout) whose certificates live for a day.

    Blocks: make it before the loop runs, or in a worker thread. Asking twice for a name gives the same files.
    """

    def __init__(self, folder: Path) -> None:
        self.layout = CertificateLayout(folder)
        self._issued: dict[KeyPair, TLSConfig] = {}
        self.authority = create_ca("throw-away CA", days=1)
        write_new(self.layout.chain, self.authority.certificate_pem)

    def server(self, name: str = "localhost", *, hosts: Sequence[str] = LOCAL_HOSTS) -> TLSConfig:
        """Return the TLS configuration of a server that is reached as one of ``hosts``."""
        pair = self.layout.server(name)
        if pair not in self._issued:
            issued = issue_server(self.authority, name, hosts=hosts, days=1)
            self._write(pair, issued)
        return self._issued[pair]

    def client(self, name: str) -> TLSConfig:
        """Return the TLS configuration of the participant ``name``."""
        pair = self.layout.client(name)
        if pair not in self._issued:
            issued = issue_client(self.authority, name, days=1)
            self._write(pair, issued)
        return self._issued[pair]

    def _write(self, pair: KeyPair, issued: Credentials) -> None:
        write_pair(pair, certificate_pem=issued.certificate_pem, key_pem=issued.key_pem)
        self._issued[pair] = TLSConfig(ca=self.layout.chain, certificate=pair.certificate, private_key=pair.private_key)
