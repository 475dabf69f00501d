"""The throw-away authority of tests and demonstrations."""

from __future__ import annotations

from pathlib import Path

from openfl_aio.pki import describe
from openfl_aio.testing.ca import ThrowawayCA


def test_configurations_are_made_once_and_signed_by_one_authority(tmp_path: Path) -> None:
    ca = ThrowawayCA(tmp_path / "cert")
    server, client = ca.server(), ca.client("one")
    assert ca.server() == server
    assert ca.client("one") == client
    assert server.ca == client.ca
    assert server.certificate is not None
    assert client.certificate is not None
    assert describe(server.certificate.read_bytes()).hosts == ("localhost", "127.0.0.1", "::1")
    assert describe(client.certificate.read_bytes()).common_name == "one"
    assert describe(client.certificate.read_bytes()).issuer == describe(client.ca.read_bytes()).common_name
