"""The judges of the faults can find against us, and the proxy does what it says."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from openfl_aio.config import Endpoint
from openfl_aio.domain import Metric
from openfl_aio.testing.ca import ThrowawayCA
from tests.faults import networks
from tests.faults.job import NAMES, ROUNDS, Job, counted_once, digest
from tests.faults.networks import MTLS, NETWORKS, PLAINTEXT
from tests.faults.proxy import Network, Proxy
from tests.faults.table import Seen, row

pytestmark = pytest.mark.real_time

TASKS = ("aggregated_model_validation", "train", "locally_tuned_model_validation")
METRICS = [Metric(name, task, "m", 0.0, number) for number in range(ROUNDS) for task in TASKS for name in NAMES]


def test_a_result_that_counts_twice_or_never_is_found() -> None:
    assert counted_once(METRICS) == []
    assert counted_once([*METRICS, METRICS[5]]) == ["('three', 'train', 0) counted 2 times"], (
        "the sixth is the third collaborator's second task"
    )
    assert counted_once(METRICS[1:]) == ["53 of 54 results counted"]


def test_every_bit_is_in_the_fingerprint() -> None:
    model = Job().initial_model()
    other = {name: array.copy() for name, array in model.items()}
    assert digest(model) == digest(other)
    other["vector"].view("u4")[3] ^= 1
    assert digest(model) != digest(other)


async def test_another_model_or_a_fault_that_never_happened_is_no_success(tmp_path: Path) -> None:
    ca = await anyio.to_thread.run_sync(ThrowawayCA, tmp_path / "certificates")
    never = replace(NETWORKS["nothing"], network=Network(cuts=10, cut_between=(10**9, 10**9)))
    seen = await networks.play(never, PLAINTEXT, ca, seed=0, bounded=False, expected="another")
    assert [text.partition(":")[0] for text in seen.broken] == ["R16", "only 0 of 10 cuts were played"]
    assert "BROKEN" in row(seen)
    assert "ok" in row(Seen("a", MTLS, counts={"cuts": 3}))


@asynccontextmanager
async def echo() -> AsyncIterator[Endpoint]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(1000):
                writer.write(data)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Endpoint(port=server.sockets[0].getsockname()[1])


async def talk(endpoint: Endpoint, sent: bytes, *, seconds: float = 5.0) -> bytes:
    """Return what came back until the connection ended, all was there or time was up."""
    got = b""
    loop = asyncio.get_running_loop()
    with socket.socket() as sock:
        sock.setblocking(False)
        await loop.sock_connect(sock, (endpoint.host, endpoint.port))
        await loop.sock_sendall(sock, sent)
        with anyio.move_on_after(seconds):
            while len(got) < len(sent):
                try:
                    data = await loop.sock_recv(sock, 1000)
                except ConnectionResetError:
                    break
                if not data:
                    break
                got += data
    return got


@pytest.mark.parametrize(
    "network", [Network(), Network(segment=1), Network(latency=(0.01, 0.01), segment=7), Network(rate=100_000)]
)
async def test_what_passes_is_what_was_sent(network: Network) -> None:
    sent = bytes(range(256))
    async with echo() as target, Proxy(target, network) as proxy:
        assert await talk(proxy.endpoint, sent) == sent
        assert proxy.record.passed == 2 * len(sent)


async def test_a_cut_is_where_it_was_to_be() -> None:
    async with echo() as target, Proxy(target, Network(cuts=2, cut_between=(100, 100)), seed=3) as proxy:
        for _ in range(2):
            assert len(await talk(proxy.endpoint, bytes(5000))) <= 100
        assert len(await talk(proxy.endpoint, bytes(5000))) == 5000
        assert proxy.record.cuts == 2


async def test_a_request_arrives_whose_answer_is_lost() -> None:
    async with echo() as target, Proxy(target, Network(lost_replies=1, cut_between=(1, 2))) as proxy:
        assert await talk(proxy.endpoint, bytes(500)) == b""
        assert (proxy.record.lost_replies, proxy.record.swallowed, proxy.record.passed) == (1, 500, 500)
        assert len(await talk(proxy.endpoint, bytes(500))) == 500


@pytest.mark.parametrize("resume", [False, True])
async def test_a_hole_swallows_what_goes_into_it(resume: bool) -> None:
    network = Network(holes=(0.0,), hole_seconds=0.3, resume=resume)
    async with echo() as target, Proxy(target, network) as proxy:
        answer = await talk(proxy.endpoint, bytes(500), seconds=1.0)
        assert len(answer) == (500 if resume else 0)
        assert len(await talk(proxy.endpoint, bytes(500))) == 500
