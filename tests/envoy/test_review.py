"""An envoy's process whose operator reviews experiments at its terminal."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anyio
import pytest

from openfl_aio.config import DirectorConfig
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.service import Director
from openfl_aio.domain import ExperimentStatus
from openfl_aio.transport.identity import Caller
from tests.director.test_service import submit, until
from tests.envoy.test_run import FILE, SHARD
from tests.typist import Typist


@pytest.mark.real_time
@pytest.mark.timeout(180)
async def test_its_operator_turns_an_experiment_down(tmp_path: Path) -> None:
    (tmp_path / "shard_source.py").write_text(SHARD)
    (tmp_path / "envoy_config.yaml").write_text(FILE.replace("params:\n", "params:\n  review_experiment: true\n", 1))
    typist = Typist()
    async with (
        Director(DirectorConfig(sample_shape=("8",), target_shape=("1",))) as director,
        DirectorClient(director.endpoint, client_id="ada") as client,
    ):
        command = [sys.executable, "-m", "openfl_aio.envoy", "start", "-n", "site", "--disable-tls"]
        command += ["-dh", "localhost", "-dp", str(director.endpoint.port)]
        near = typist.near
        process = await anyio.to_thread.run_sync(
            lambda: subprocess.Popen(command, cwd=tmp_path, stdin=near, stdout=near, stderr=near)
        )
        try:
            await typist.read("envoy site is registered")
            await submit(client, collaborators=("site",))
            assert "rounds_to_train: 1" in await typist.read("Accept the plan of exp? [y/N]: ")
            assert await client.get_experiment_status("exp") is ExperimentStatus.IN_PROGRESS
            await typist.type(b"n\n")
            await until(client, "exp", ExperimentStatus.FAILED)
        finally:
            process.kill()
            await anyio.to_thread.run_sync(process.wait)
        assert "the review of envoy 'site' turned the experiment down" in director.error_of(Caller("ada", False), "exp")
