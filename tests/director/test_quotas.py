"""What one user may have: told before a byte of an archive is received."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from openfl_aio.config import DirectorConfig, Endpoint, Limits, Quotas, Timeouts
from openfl_aio.director.client import DirectorClient
from openfl_aio.director.experiments import Experiment
from openfl_aio.director.quotas import QuotaKeeper
from openfl_aio.director.service import Director
from openfl_aio.director.servicer import encode_model
from openfl_aio.domain import ExperimentStatus
from openfl_aio.errors import MessageTooLargeError
from openfl_aio.storage.director_storage import DirectorStorage
from openfl_aio.transport.identity import Caller
from tests.director.test_service import MODEL, shard, submit

pytestmark = pytest.mark.real_time


def experiment(name: str, *, owner: str = "ada", status: ExperimentStatus = ExperimentStatus.FINISHED) -> Experiment:
    return Experiment(name, owner, ("one",), "0" * 32, status=status)


def test_experiments_are_counted_for_each_owner() -> None:
    keeper = QuotaKeeper(Quotas(experiments=3, active=1))
    kept = [experiment("a"), experiment("b"), experiment("x", owner="eve", status=ExperimentStatus.IN_PROGRESS)]
    keeper.check_experiments("ada", "c", kept)
    kept.append(experiment("c"))
    with pytest.raises(
        MessageTooLargeError, match=r"'ada' has as many experiments .* \(3\): remove one that has ended"
    ):
        keeper.check_experiments("ada", "d", kept)
    keeper.check_experiments("ada", "a", kept)  # in place of the old one
    with pytest.raises(MessageTooLargeError, match=r"active experiments .* \(1\): wait for the end of one"):
        keeper.check_experiments("eve", "y", kept)
    QuotaKeeper(Quotas(experiments=None, active=None)).check_experiments("ada", "d", kept * 1000)


def test_submissions_are_counted_while_they_last() -> None:
    keeper = QuotaKeeper(Quotas(submissions=1))
    message = r"submissions under way .* \(1\): wait for their end"
    with keeper.submission("ada"), keeper.submission("eve"), pytest.raises(MessageTooLargeError, match=message):
        keeper.submission("ada").__enter__()
    with keeper.submission("ada"):
        pass


def test_bytes_are_bounded() -> None:
    keeper = QuotaKeeper(Quotas(disk_bytes=100))
    keeper.check_bytes("ada", 99)
    with pytest.raises(MessageTooLargeError, match=r"disk_bytes .* \(100\): remove experiments"):
        keeper.check_bytes("ada", 100)
    QuotaKeeper(Quotas(disk_bytes=None)).check_bytes("ada", 1 << 60)


def config(folder: Path, **quotas: int) -> DirectorConfig:
    return DirectorConfig(
        listen=Endpoint(port=0), timeouts=Timeouts(drain=0.5), workspace=folder, quotas=Quotas(**quotas)
    )


async def refused(client: DirectorClient, name: str) -> None:
    """Submit with an archive that has no end: only a refusal before it ends the call."""

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(100)
            await anyio.sleep(0.001)

    with pytest.raises(MessageTooLargeError, match="as a user may have"), anyio.fail_after(10):
        await client.set_new_experiment(name, collaborators=["one"], model=encode_model(MODEL), archive=endless())


@pytest.mark.parametrize("quotas", [{"experiments": 1}, {"active": 1}, {"disk_bytes": 1}])
async def test_who_has_all_is_told_at_once_and_goes_on_after_a_removal(tmp_path: Path, quotas: dict[str, int]) -> None:
    async with (
        Director(config(tmp_path, **quotas)) as director,
        DirectorClient(director.endpoint, client_id="ada") as ada,
        DirectorClient(director.endpoint, client_id="eve") as eve,
    ):
        assert await submit(ada, "first")
        await refused(ada, "second")
        assert await submit(eve, "third")
        assert len(await director.archive_ids()) == 2
        await ada.remove_experiment_data("first")
        assert await submit(ada, "second")


async def test_a_submission_that_lasts_is_one(tmp_path: Path) -> None:
    async with Director(config(tmp_path, submissions=1)) as director:
        async with director.submission(Caller("ada", False)) as sink:
            await sink.write(b"half of it")
            async with DirectorClient(director.endpoint, client_id="ada") as ada:
                await refused(ada, "exp")
        assert not list((tmp_path / "archives").iterdir())
        async with DirectorClient(director.endpoint, client_id="ada") as ada:
            assert await submit(ada)


async def test_half_a_submission_is_gone_after_a_restart(tmp_path: Path) -> None:
    (tmp_path / "archives").mkdir()
    (tmp_path / "archives" / ".0123456789abcdef.partial").write_bytes(b"half")  # as a killed director leaves it
    (tmp_path / "archives" / f"{'0' * 32}.zip").write_bytes(b"whole, and never answered")
    async with Director(config(tmp_path)) as director:
        assert await director.archive_ids() == []
        assert not list((tmp_path / "archives").iterdir())


async def test_envoys_are_as_many_as_the_operator_says(tmp_path: Path) -> None:
    config = DirectorConfig(
        listen=Endpoint(),
        sample_shape=("8", "8"),
        target_shape=("10",),
        workspace=tmp_path,
        limits=Limits(max_envoys=2),
        timeouts=Timeouts(drain=0.1),
    )

    async def kept() -> list[str]:
        async with DirectorStorage(tmp_path) as storage:
            return [one.name for one in await storage.registry.shards()]

    async with Director(config) as director, DirectorClient(director.endpoint) as client:
        for name in ("one", "two", "one"):
            assert await client.update_shard_info(shard(name))
        for refused in (client.update_shard_info(shard("three")), client.wait_experiment("three")):
            with pytest.raises(MessageTooLargeError, match=r"at most 2 envoys .* raise limits\.max_envoys"):
                await refused
        assert [envoy.shard.name for envoy in await client.get_envoys()] == ["one", "two"]
    assert await kept() == ["one", "two"]
    async with Director(config) as director, DirectorClient(director.endpoint) as client:
        # nobody gave a sign of life yet
        assert await client.update_shard_info(shard("two"))
        assert await client.update_shard_info(shard("three"))
        assert [envoy.shard.name for envoy in await client.get_envoys()] == ["two", "three"]
    assert await kept() == ["three", "two"]


async def test_many_that_register_at_once_are_not_more_than_may_be(tmp_path: Path) -> None:
    config = DirectorConfig(
        listen=Endpoint(),
        sample_shape=("8", "8"),
        target_shape=("10",),
        workspace=tmp_path,
        limits=Limits(max_envoys=5),
    )
    refused: list[str] = []
    async with Director(config) as director, DirectorClient(director.endpoint) as client:

        async def register(name: str) -> None:
            try:
                await client.update_shard_info(shard(name))
            except MessageTooLargeError:
                refused.append(name)

        async with anyio.create_task_group() as group:
            for number in range(20):
                group.start_soon(register, f"envoy-{number}")
        assert len(await client.get_envoys()) == 5
    assert len(refused) == 15
