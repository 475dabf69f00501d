"""Keys and certificates as files: whole, private, never replaced."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from openfl_aio.errors import AlreadyExistsError, ConfigurationError, StorageError
from openfl_aio.storage.keys import CertificateLayout, KeyPair, read_pem, write_new, write_pair

PEM = b"-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_layout_is_openfls() -> None:
    layout = CertificateLayout(Path("cert"))
    assert layout.chain == Path("cert/cert_chain.crt")
    assert layout.server("Host.Example") == KeyPair(
        Path("cert/server/agg_host.example.crt"), Path("cert/server/agg_host.example.key")
    )
    assert layout.client("One") == KeyPair(Path("cert/client/col_One.crt"), Path("cert/client/col_One.key"))
    assert layout.authority.private_key == Path("cert/ca/root_ca.key")


@pytest.mark.parametrize("name", ["../one", "a/b", "a\0b", "x" * 300])
def test_names_never_lead_elsewhere(name: str) -> None:
    with pytest.raises(ConfigurationError, match="file name"):
        CertificateLayout(Path("cert")).client(name)


def test_keys_are_private_and_certificates_are_not(tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        pair = CertificateLayout(tmp_path).client("one")
        write_pair(pair, certificate_pem=PEM, key_pem=b"secret")
    finally:
        os.umask(old)
    assert mode(pair.private_key) == 0o600
    assert mode(pair.certificate) == 0o644
    assert mode(pair.private_key.parent) == 0o700
    assert sorted(path.name for path in pair.certificate.parent.iterdir()) == ["col_one.crt", "col_one.key"]


def test_nothing_is_replaced(tmp_path: Path) -> None:
    pair = KeyPair(tmp_path / "one.crt", tmp_path / "one.key")
    write_pair(pair, certificate_pem=PEM, key_pem=b"secret")
    with pytest.raises(AlreadyExistsError, match="not replaced"):
        write_pair(pair, certificate_pem=PEM, key_pem=b"other")
    with pytest.raises(AlreadyExistsError, match="not replaced"):
        write_new(pair.private_key, b"other", secret=True)
    assert pair.private_key.read_bytes() == b"secret"
    assert len(list(tmp_path.iterdir())) == 2


def test_pair_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    pair = KeyPair(tmp_path / "file" / "one.crt", tmp_path / "one.key")
    with pytest.raises(StorageError):
        write_pair(pair, certificate_pem=PEM, key_pem=b"secret")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "one.crt"
    with pytest.raises(ConfigurationError, match="No such file"):
        read_pem(path)
    path.write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match="no PEM file"):
        read_pem(path)
    path.write_bytes(PEM + b"x" * 1024 * 1024)
    with pytest.raises(ConfigurationError, match="no PEM file"):
        read_pem(path)
    path.write_bytes(PEM)
    assert read_pem(path) == PEM
