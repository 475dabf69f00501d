from __future__ import annotations

import io
import socket
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from openfl_aio.config import Endpoint, EnvoyConfig, RetryPolicy, TLSConfig
from openfl_aio.domain import ShardInfo
from openfl_aio.envoy.envoy import Envoy
from openfl_aio.envoy.run import announce, envoy_config, main, run_envoy
from openfl_aio.errors import ConfigurationError, ConnectError

FILE = """
params:
  cuda_devices: [0]
shard_descriptor:
  template: shard_source.Shard
  params: {value: 3}
"""

SHARD = """
class Shard:
    def __init__(self, value):
        pass
    sample_shape = ["8"]
    target_shape = ["1"]
    dataset_description = ""
    def get_dataset(self, dataset_type):
        return None
"""

DIRECTOR = Endpoint(host="127.0.0.1", port=50051)
CERTIFICATES = {"root_ca": Path("ca"), "private_key": Path("key"), "certificate": Path("crt")}
TLS = TLSConfig(ca=Path("ca"), private_key=Path("key"), certificate=Path("crt"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "envoy_config.yaml"
    path.write_text(FILE)
    (tmp_path / "shard_source.py").write_text(SHARD)
    return path


def read(path: Path, **options: Any) -> EnvoyConfig:
    return envoy_config(path, name="site", director=DIRECTOR, **options)


def test_openfl_s_file_is_read_unchanged(file: Path) -> None:
    config = read(file, **CERTIFICATES, workspace=file.parent / "runs")
    assert config == EnvoyConfig(
        name="site",
        director=DIRECTOR,
        shard_template="shard_source.Shard",
        shard_params={"value": 3},
        shard_path=file.parent,
        cuda_devices=(0,),
        workspace=file.parent / "runs",
        tls=TLS,
    )
    assert read(file, tls=False).tls is None


def test_certificates_named_in_the_file_are_used_unless_others_are_given(file: Path) -> None:
    file.write_text(FILE + "root_certificate: ca\nprivate_key: key\ncertificate: crt\n")
    folder = file.parent
    named = TLSConfig(ca=folder / "ca", private_key=folder / "key", certificate=folder / "crt")
    assert read(file).tls == named
    assert read(file, **CERTIFICATES).tls == TLS
    assert read(file, tls=False).tls is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "missing -rc, -pk, -oc; give them, or choose --disable-tls"),
        ({**CERTIFICATES, "certificate": None}, "missing -oc"),
        ({**CERTIFICATES, "tls": False}, "--disable-tls was given together with -rc, -pk, -oc"),
    ],
)
def test_certificates_are_all_or_nothing(file: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        read(file, **options)


def test_it_says_that_nothing_is_installed(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(file, tls=False)
    assert not caplog.records
    file.write_text(FILE.replace("params:\n  cuda", "params:\n  install_requirements: true\n  cuda", 1))
    read(file, tls=False)
    assert "params.install_requirements has no effect: nothing is installed" in caplog.text


def test_a_review_needs_somebody_to_ask(
    file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file.write_text(FILE.replace("params:\n  cuda", "params:\n  review_experiment: true\n  cuda", 1))
    assert read(file, tls=False).review_experiment
    with pytest.raises(ConfigurationError, match="review_experiment: expected a review function, got none"):
        Envoy(read(file, tls=False))
    monkeypatch.setattr("sys.stdin", io.StringIO())
    assert main(["-ec", str(file), "--disable-tls", "-n", "site", "-dh", "127.0.0.1", "-dp", "1"]) == 2
    error = capsys.readouterr().err
    assert f"{file}: params.review_experiment: expected false, got true, but there is no terminal here" in error


@pytest.mark.real_time
async def test_a_director_that_is_not_there(file: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: refuses connections
        away = Endpoint(host="127.0.0.1", port=taken.getsockname()[1])
        config = (await anyio.to_thread.run_sync(lambda: read(file, tls=False))).model_copy(
            update={"director": away, "retry": RetryPolicy(first_delay=0.01, max_elapsed=0.05)}
        )
        with pytest.raises(ConnectError, match=r"registering the shard at the director .* gave up after"):
            await run_envoy(config)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-ec", "absent.yaml", "--disable-tls"], "absent.yaml"),
        (["start", "-ec", "FILE"], "mutual TLS needs certificates"),
        (["-ec", "FILE", "--disable-tls", "--debug"], "no module 'shard_source'"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_a_code(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    (file.parent / "shard_source.py").unlink()
    given = [str(file) if argument == "FILE" else argument for argument in arguments]
    if "start" in given:
        given = ["start", *[argument for argument in given if argument != "start"]]
    assert main([*given, "-n", "site", "-dh", "127.0.0.1", "-dp", "1"]) == 2
    error = capsys.readouterr().err
    assert "error: " in error
    assert message in error


def test_it_says_that_it_is_registered(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    announce(ShardInfo("site"), read(file, tls=False))
    assert capsys.readouterr().out == "envoy site is registered at the director 127.0.0.1:50051\n"


@pytest.mark.real_time
async def test_python_m_starts_it() -> None:
    command = [sys.executable, "-m", "openfl_aio.envoy", "--help"]
    done = await anyio.run_process(command, cwd=Path(__file__).parents[2])
    assert b"--director-host" in done.stdout
