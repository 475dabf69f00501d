from __future__ import annotations

import json
import stat
from pathlib import Path

import pytest

from openfl_aio.cli import main
from openfl_aio.exit_codes import ExitCode


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
