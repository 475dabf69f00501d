"""The process: configuration and certificates in, one line and an exit code out."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from openfl_aio.config import TLSConfig, UploadRules
from openfl_aio.director.run import director_config, main
from openfl_aio.errors import ConfigurationError
from openfl_aio.testing.ca import ThrowawayCA

CA, KEY, CERTIFICATE = Path("ca"), Path("key"), Path("crt")


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    """Write a director_config.yaml."""
    path = tmp_path / "director_config.yaml"
    path.write_text("settings:\n  listen_host: localhost\n  listen_port: 0\n  sample_shape: ['2']\n")
    return path


def test_certificates_go_into_the_configuration(config_file: Path) -> None:
    config = director_config(config_file, root_ca=CA, private_key=KEY, certificate=CERTIFICATE)
    assert config.tls == TLSConfig(ca=Path("ca"), private_key=Path("key"), certificate=Path("crt"))
    assert config.sample_shape == ("2",)
    assert director_config(config_file, tls=False).tls is None


def test_lists_of_denied_certificates_come_from_the_file_or_the_command_line(config_file: Path) -> None:
    text = config_file.read_text().replace("settings:", "settings:\n  deny_list: deny.txt\n  crl: lists/ca.crl")
    config_file.write_text(text)
    folder = config_file.parent
    tls = director_config(config_file, root_ca=CA, private_key=KEY, certificate=CERTIFICATE).tls
    assert tls is not None
    assert (tls.deny_list, tls.crl) == (folder / "deny.txt", folder / "lists/ca.crl")
    config_file.write_text(f"{text}\nroot_certificate: ca\nprivate_key: key\ncertificate: crt\n")
    tls = director_config(config_file, deny_list=Path("other.txt")).tls
    assert tls is not None
    assert (tls.deny_list, tls.crl) == (Path("other.txt"), folder / "lists/ca.crl")
    assert director_config(config_file, tls=False).tls is None  # as with the certificates that the file names
    with pytest.raises(ConfigurationError, match="--disable-tls was given together with --crl"):
        director_config(config_file, tls=False, crl=Path("ca.crl"))


def test_code_of_an_archive_runs_if_the_file_or_the_command_line_says_so(config_file: Path) -> None:
    assert not director_config(config_file, tls=False).allow_pickled_code
    assert director_config(config_file, tls=False, allow_pickled_code=True).allow_pickled_code
    text = config_file.read_text().replace("settings:", "settings:\n  allow_pickled_code: true")
    config_file.write_text(text)
    assert director_config(config_file, tls=False).allow_pickled_code


def test_the_option_says_all_that_it_lets_run(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "assigners and aggregation functions" in " ".join(capsys.readouterr().out.split())


def test_a_file_may_name_its_certificates(config_file: Path) -> None:
    with config_file.open("a") as file:
        file.write("root_certificate: ca\nprivate_key: key\ncertificate: crt\n")
    config = director_config(config_file)
    assert config.tls is not None
    assert director_config(config_file, tls=False).tls is None


def test_half_of_the_certificates_is_none(config_file: Path) -> None:
    with pytest.raises(ConfigurationError, match="missing -pk, -oc"):
        director_config(config_file, root_ca=Path("ca"))
    with pytest.raises(ConfigurationError, match="--disable-tls was given together with -rc, -pk, -oc"):
        director_config(config_file, tls=False, root_ca=CA, private_key=KEY, certificate=CERTIFICATE)


def test_what_cannot_work_ends_with_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["start", "-c", str(tmp_path / "absent.yaml"), "--disable-tls"]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1


@pytest.mark.real_time
def test_a_port_in_use_is_told_in_one_sentence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "director_config.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        path.write_text(f"settings:\n  listen_host: 127.0.0.1\n  listen_port: {taken.getsockname()[1]}\n")
        assert main(["-c", str(path), "--disable-tls"]) == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "the port is in use" in line


@pytest.mark.real_time
def test_certificates_that_are_not_there_are_told(config_file: Path, capfd: pytest.CaptureFixture[str]) -> None:
    files = ["-rc", "absent_ca", "-pk", "absent_key", "-oc", "absent_crt"]
    assert main(["start", "-c", str(config_file), *files]) == 2
    assert "absent_" in capfd.readouterr().err


@pytest.mark.real_time
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_process_tells_its_address_and_ends_cleanly(config_file: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "openfl_aio.director", "-c", str(config_file), "--disable-tls"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert re.fullmatch(r"director listens on localhost:[1-9]\d*\n", line)
        process.send_signal(number)
        out, err = process.communicate(timeout=10)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.real_time
def test_a_process_reads_certificates_and_lists_again_at_a_hangup(config_file: Path, tmp_path: Path) -> None:
    ca, denied = ThrowawayCA(tmp_path / "cert"), tmp_path / "deny.txt"
    tls = ca.server()
    denied.write_text("CN=mallory\n")
    files = ["-rc", str(tls.ca), "-pk", str(tls.private_key), "-oc", str(tls.certificate), "--deny-list", str(denied)]
    process = subprocess.Popen(
        [sys.executable, "-m", "openfl_aio.director", "-c", str(config_file), *files],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("director listens on ")
        denied.write_text("CN=mallory\nCN=eve\n")
        process.send_signal(signal.SIGHUP)
        while "the lists of denied certificates changed and were read again" not in (line := process.stderr.readline()):
            assert line, "it ended"
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, err


def test_durability_and_the_rules_of_uploads(config_file: Path) -> None:
    assert director_config(config_file, tls=False).durability == "process"
    text = config_file.read_text().replace("settings:", "settings:\n  durability: power\n  max_share: 0.5")
    config_file.write_text(text)
    config = director_config(config_file, tls=False)
    assert config.durability == "power"
    assert config.uploads == UploadRules(max_share=0.5)
    assert director_config(config_file, tls=False, durability="memory").durability == "memory"
