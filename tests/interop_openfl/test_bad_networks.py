"""Unmodified collaborators of OpenFL 1.6 through a bad network to our aggregator: the model is as without it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from openfl_aio.aggregator.run import open_aggregator
from openfl_aio.config import Endpoint
from tests.faults.job import digest
from tests.faults.proxy import Network, Proxy, Record
from tests.interop_openfl.federations import Federation, Outline
from tests.interop_openfl.processes import Programs

pytestmark = [
    pytest.mark.real_time,
    pytest.mark.timeout(280),
    pytest.mark.cell(server="our aggregator", client="real collaborators", must="the same model through a bad network"),
]

ROUNDS, NAMES, TASKS = 6, ("one", "two"), 3


async def run(federation: Federation, network: Network, *, seed: int = 0) -> tuple[str, Record]:
    """Return the fingerprint of the model that comes out, and what the network did."""
    root = await anyio.to_thread.run_sync(federation.workspace, "aggregator", "ours")
    plan, members = root / "plan" / "plan.yaml", root / "plan" / "cols.yaml"
    async with (
        open_aggregator(plan, members, root=root, listen=Endpoint()) as aggregator,
        Proxy(aggregator.endpoint, network, seed=seed, port=federation.port) as proxy,
    ):
        started = [await anyio.to_thread.run_sync(federation.collaborator, name, "real") for name in NAMES]
        model = await aggregator.wait_complete()
        metrics = [metric async for metric in aggregator.metrics() if metric.origin in NAMES]
        for program in started:
            await anyio.to_thread.run_sync(program.succeed, 120.0)
    counted = Counter((metric.origin, metric.task_name, metric.name, metric.round_number) for metric in metrics)
    assert set(counted.values()) == {1}, "each result counts once"
    assert len({(origin, task, number) for origin, task, _, number in counted}) == ROUNDS * len(NAMES) * TASKS
    return digest(model), proxy.record


@pytest.mark.parametrize(
    ("network", "done"),
    [
        (Network(cuts=10, cut_between=(300, 60_000)), "cuts"),
        pytest.param(Network(lost_replies=8, cut_between=(500, 60_000)), "lost_replies", marks=pytest.mark.full),
        pytest.param(Network(latency=(0.02, 0.01), segment=1000), "connections", marks=pytest.mark.full),
    ],
    ids=["cuts", "lost replies", "slow and in segments"],
)
@pytest.mark.parametrize("tls", [pytest.param(False, marks=pytest.mark.full), True], ids=["plaintext", "mtls"])
async def test_real_collaborators_come_through(
    programs: Programs, tmp_path: Path, ca_folder: Path, network: Network, done: str, tls: bool
) -> None:
    outline = Outline(rounds=ROUNDS, tls=tls)
    federation = await anyio.to_thread.run_sync(lambda: Federation(programs, tmp_path / "f", outline, cert=ca_folder))
    expected, _ = await run(federation, Network())
    got, record = await run(federation, network, seed=5)
    assert got == expected
    assert getattr(record, done) >= 2
