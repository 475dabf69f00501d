"""A director's process whose operator reviews experiments at its terminal."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest

from openfl_aio.config import Endpoint
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.run import find_director_file
from openfl_aio.domain import ExperimentStatus
from tests.director.test_service import submit, until
from tests.typist import Typist


@pytest.fixture
def typist() -> Typist:
    """Sit at the terminal."""
    return Typist()


@pytest.fixture
def program(typist: Typist, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Start a director there, in whose folder is OpenFL's director.yaml."""
    (tmp_path / "director.yaml").write_text("settings: {listen_port: 0, review_experiment: true}\n")
    command = [sys.executable, "-m", "openfl_aio.director", "start", "--disable-tls"]
    process = subprocess.Popen(command, cwd=tmp_path, stdin=typist.near, stdout=typist.near, stderr=typist.near)
    yield process
    process.kill()
    process.wait()


async def port_of(typist: Typist) -> int:
    await typist.read("director listens on localhost:")
    return int(await typist.read("\r\n"))


@pytest.mark.real_time
@pytest.mark.timeout(180)
async def test_its_operator_decides_and_it_serves_meanwhile(program: subprocess.Popen[bytes], typist: Typist) -> None:
    async with DirectorClient(Endpoint(host="localhost", port=await port_of(typist)), client_id="ada") as client:
        for name, typed, status in (
            ("no", b"n\n", ExperimentStatus.REJECTED),
            ("yes", b"y\n", ExperimentStatus.IN_PROGRESS),
        ):
            await submit(client, name)
            assert "rounds_to_train" in await typist.read(f"Accept the plan of {name}? [y/N]: ")
            assert await client.get_experiment_status(name) is ExperimentStatus.PENDING
            await typist.type(typed)
            await until(client, name, status)
        await submit(client, "unanswered")
        await typist.read("Accept the plan of unanswered?")
        program.send_signal(signal.SIGTERM)
    with anyio.fail_after(90):
        assert await anyio.to_thread.run_sync(program.wait) == 0


def test_the_file_where_none_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = tmp_path / "director_config.yaml", tmp_path / "director.yaml"
    assert find_director_file(tmp_path) == ours
    theirs.touch()
    assert find_director_file(tmp_path) == theirs
    assert not caplog.records
    ours.touch()
    assert find_director_file(tmp_path) == ours
    assert "director.yaml, which OpenFL reads, is left alone: name one of them with -c" in caplog.text
