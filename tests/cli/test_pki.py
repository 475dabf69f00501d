from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from openfl_aio.cli import main
from openfl_aio.config import TLSConfig
from openfl_aio.exit_codes import ExitCode
from openfl_aio.pki import PeerCertificate
from openfl_aio.transport.tls import load_revocations


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        main(["pki", *arguments])
    return int(ended.value.code or 0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    assert run("init", "--folder", str(tmp_path)) == ExitCode.OK
    return tmp_path


def test_a_server_and_a_client_get_certificates_in_openfl_layout(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("issue", "server", "Director.Example", "--host", "127.0.0.1", "--folder", str(folder)) == ExitCode.OK
    assert run("issue", "client", "Hospital_1", "--folder", str(folder)) == ExitCode.OK
    for key in ("ca/root_ca.key", "server/agg_director.example.key", "client/col_Hospital_1.key"):
        assert stat.S_IMODE((folder / key).stat().st_mode) == 0o600
    capsys.readouterr()
    assert run("show", str(folder / "server/agg_director.example.crt"), "--json") == ExitCode.OK
    info = json.loads(capsys.readouterr().out)
    assert (info["common_name"], info["hosts"], info["usages"]) == ("Director.Example", ["127.0.0.1"], ["server"])
    assert run("show", str(folder / "client/col_Hospital_1.crt")) == ExitCode.OK
    assert "Hospital_1" in capsys.readouterr().out


def test_a_request_is_signed_elsewhere_and_the_key_stays(folder: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    assert run("request", "client", "hospital_2", "--folder", str(site)) == ExitCode.OK
    assert run("sign", "client", str(site / "client/col_hospital_2.csr"), "--folder", str(folder)) == ExitCode.OK
    assert (folder / "client/col_hospital_2.crt").exists()
    assert not (folder / "client/col_hospital_2.key").exists()


def test_nothing_is_overwritten_unless_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (folder / "ca/root_ca.key").read_bytes()
    assert run("init", "--folder", str(folder)) == ExitCode.NAME
    assert "--force" in capsys.readouterr().err
    assert (folder / "ca/root_ca.key").read_bytes() == before
    assert run("init", "--folder", str(folder), "--force") == ExitCode.OK
    assert (folder / "ca/root_ca.key").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["issue", "client", "x"], "make one with 'openfl-aio pki init'"),
        (["show", "missing.crt"], "missing.crt"),
        (["issue", "client", "x", "--host", "a"], "--host is for servers"),
        (["request", "client", "x", "--host", "a"], "--host is for servers"),
        (["issue", "boss", "x"], "boss"),
        (["issue", "client", "x", "--days", "9999"], "less than or equal to 366"),
    ],
)
def test_bad_input_gets_a_sentence_and_a_documented_code(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    if "--host" in arguments and arguments[0] == "issue":
        assert run("init") == ExitCode.OK
    assert run(*arguments) == ExitCode.CONFIGURATION
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error


def test_debug_shows_where_an_error_came_from(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(SystemExit):
        main(["--debug", "pki", "issue", "client", "x", "--folder", str(tmp_path)])
    assert "load_authority" in caplog.text


# ------------------------------------------------------------------------------------------------ revoking


def peer(path: Path) -> PeerCertificate:
    return PeerCertificate.from_der(x509.load_pem_x509_certificate(path.read_bytes()).public_bytes(Encoding.DER))


def denied(folder: Path, name: str) -> str | None:
    """Return by what a server with ``folder``'s lists denies ``name``."""
    lists = {key: folder / file for key, file in (("deny_list", "deny_list.txt"), ("crl", "ca.crl"))}
    tls = TLSConfig(ca=folder / "cert_chain.crt", **{key: path for key, path in lists.items() if path.exists()})
    return load_revocations(tls).denies(peer(folder / f"client/col_{name}.crt"))


@pytest.fixture
def sites(folder: Path) -> Path:
    for name in ("one", "two", "three"):
        assert run("issue", "client", name, "--folder", str(folder)) == ExitCode.OK
    return folder


def test_a_certificate_is_revoked_by_its_file_its_name_or_its_number(
    sites: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    number = f"{peer(sites / 'client/col_three.crt').serial_number:x}"
    for what in (str(sites / "client/col_one.crt"), "CN=two", number):
        before = denied(sites, "one"), denied(sites, "two"), denied(sites, "three")
        assert run("revoke", what, "--folder", str(sites)) == ExitCode.OK
        assert (denied(sites, "one"), denied(sites, "two"), denied(sites, "three")).count(None) == before.count(
            None
        ) - 1
    assert f"1 added to {sites / 'deny_list.txt'}" in capsys.readouterr().out
    text = (sites / "deny_list.txt").read_text()
    assert "'one', revoked 20" in text
    assert run("revoke", str(sites / "client/col_one.crt"), "--folder", str(sites)) == ExitCode.OK
    assert "0 added" in capsys.readouterr().out
    assert (sites / "deny_list.txt").read_text() == text


def test_what_stands_in_a_deny_list_already_stays(sites: Path, tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("# by hand\nCN=eve")
    assert run("revoke", "CN=one", "CN=two", "--deny-list", str(path), "--folder", str(sites)) == ExitCode.OK
    first, second, third, fourth = path.read_text().splitlines()
    assert (first, second) == ("# by hand", "CN=eve")
    assert third.startswith("CN=one  # revoked")
    assert fourth.startswith("CN=two  # revoked")
    path.write_text("nonsense\n")
    assert run("revoke", "CN=one", "--deny-list", str(path), "--folder", str(sites)) == ExitCode.CONFIGURATION
    assert path.read_text() == "nonsense\n"


def test_a_revocation_list_is_signed_and_signed_anew(sites: Path) -> None:
    crl = ["--crl", str(sites / "ca.crl"), "--folder", str(sites)]
    assert run("revoke", str(sites / "client/col_one.crt"), *crl) == ExitCode.OK
    first = (sites / "ca.crl").read_bytes()
    assert denied(sites, "one") == "its issuer has revoked it"
    assert not (sites / "deny_list.txt").exists()
    assert run("revoke", *crl) == ExitCode.OK
    assert (sites / "ca.crl").read_bytes() != first
    assert (denied(sites, "one"), denied(sites, "two")) == ("its issuer has revoked it", None)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "nothing to revoke"),
        (["missing.crt"], "expected a serial number"),
        ([""], "expected a serial number"),
        (["CN=one", "--crl", "ca.crl"], "serial numbers only"),
        (["a" * 64, "--crl", "ca.crl", "--deny-list", "deny_list.txt"], "serial numbers only"),
    ],
)
def test_what_cannot_be_revoked_is_told_and_changes_nothing(
    sites: Path,
    arguments: list[str],
    sentence: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(sites)
    assert run("revoke", *arguments, "--folder", ".") == ExitCode.CONFIGURATION
    assert sentence in capsys.readouterr().err
    assert not (sites / "deny_list.txt").exists()
    assert not (sites / "ca.crl").exists()


def test_an_authority_follows_another(sites: Path, capsys: pytest.CaptureFixture[str]) -> None:
    chain, crl = sites / "cert_chain.crt", ["--crl", str(sites / "ca.crl"), "--folder", str(sites)]
    old = chain.read_bytes()
    assert run("revoke", str(sites / "client/col_one.crt"), *crl) == ExitCode.OK
    assert run("rotate", "--folder", str(sites)) == ExitCode.OK
    assert chain.read_bytes().endswith(old)
    assert len(x509.load_pem_x509_certificates(chain.read_bytes())) == 2
    assert stat.S_IMODE((sites / "ca/root_ca.key").stat().st_mode) == 0o600
    # its list cannot be signed any more, but what it has stays; the others go on a deny list
    capsys.readouterr()
    assert run("revoke", str(sites / "client/col_two.crt"), *crl) == ExitCode.CONFIGURATION
    assert "use a deny list" in capsys.readouterr().err
    assert run("revoke", str(sites / "client/col_two.crt"), "--folder", str(sites)) == ExitCode.OK
    assert run("issue", "client", "four", "--folder", str(sites)) == ExitCode.OK
    assert run("revoke", str(sites / "client/col_four.crt"), *crl) == ExitCode.OK
    assert [denied(sites, name) is None for name in ("one", "two", "three", "four")] == [False, False, True, False]
    assert run("retire", "--folder", str(sites)) == ExitCode.OK
    (new,) = x509.load_pem_x509_certificates(chain.read_bytes())
    x509.load_pem_x509_certificate((sites / "client/col_four.crt").read_bytes()).verify_directly_issued_by(new)


def test_only_an_authority_that_is_there_is_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("rotate", "retire"):
        assert run(command, "--folder", str(tmp_path)) == ExitCode.CONFIGURATION
        assert "make one with 'openfl-aio pki init'" in capsys.readouterr().err
