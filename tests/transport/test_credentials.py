"""Certificates that are denied, and certificates that follow one another, while the server runs.

With ``-o log_cli=true --log-cli-level=INFO`` the tests tell what they measured; only that it ends is asserted.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from openfl_aio.config import Endpoint, Timeouts, TLSConfig
from openfl_aio.errors import AuthenticationError, ConfigurationError, ConnectError, ConnectionLostError
from openfl_aio.pki import CertificateAuthority, create_ca, describe, issue_client, issue_server, sign_crl
from openfl_aio.testing.ca import LOCAL_HOSTS, ThrowawayCA
from openfl_aio.transport.channel import Channel, open_channel, translate
from openfl_aio.transport.credentials import Credentials
from openfl_aio.transport.identity import current_caller
from openfl_aio.transport.server import Server
from openfl_aio.wire.messages import aggregator

logger = logging.getLogger(__name__)

pytestmark = pytest.mark.real_time

TASKS = aggregator.GetTasksRequest()
PARKED = aggregator.GetAggregatedTensorRequest()
BOUND = 15.0  # of any wait here; what is promised is measured elsewhere


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    # a loop in debug mode reports every failed handshake as an error of the test
    return "asyncio", {"debug": False}


class Small(aggregator.AggregatorBase):
    """Says who calls; parks whoever asks for a tensor, and says so."""

    def __init__(self) -> None:
        self.send, self.parked = anyio.create_memory_object_stream[str](10)
        self.go_on = anyio.Event()

    async def get_tasks(self, message: aggregator.GetTasksRequest) -> aggregator.GetTasksResponse:
        return aggregator.GetTasksResponse(header=aggregator.MessageHeader(sender=current_caller().name))

    async def get_aggregated_tensor(
        self, message: aggregator.GetAggregatedTensorRequest
    ) -> aggregator.GetAggregatedTensorResponse:
        await self.send.send(current_caller().name)
        await self.go_on.wait()
        return aggregator.GetAggregatedTensorResponse(round_number=7)


@asynccontextmanager
async def serving(tls: TLSConfig) -> AsyncIterator[tuple[Server, Small]]:
    small = Small()
    with anyio.fail_after(4 * BOUND), small.send, small.parked:
        async with Server([small], listen=Endpoint(), tls=tls, timeouts=Timeouts(drain=1)) as server:
            yield server, small


@asynccontextmanager
async def client(server: Server, tls: TLSConfig) -> AsyncIterator[tuple[aggregator.AggregatorStub, Channel]]:
    async with open_channel(server.endpoint, tls=tls, timeouts=Timeouts(connect=5)) as channel:
        yield aggregator.AggregatorStub(channel), channel


async def name_of(stub: aggregator.AggregatorStub) -> str:
    with translate():
        reply = await stub.get_tasks(TASKS)
    assert reply.header is not None
    return reply.header.sender


async def until(condition: Callable[[], bool]) -> None:
    with anyio.fail_after(BOUND):
        while not condition():
            await anyio.sleep(0.02)


def serial_number(tls: TLSConfig) -> int:
    assert tls.certificate is not None
    return describe(tls.certificate.read_bytes()).serial_number


def replace(path: Path | None, data: bytes) -> None:
    assert path is not None
    new = path.with_suffix(".new")
    new.write_bytes(data)
    new.rename(path)


@pytest.fixture
def lists(ca: ThrowawayCA, tmp_path: Path) -> TLSConfig:
    """A server with an empty deny list and an empty revocation list."""
    tls = ca.server().model_copy(update={"deny_list": tmp_path / "deny.txt", "crl": tmp_path / "ca.crl"})
    ca.client("mallory")  # made here: the loop is not to wait for files
    (tmp_path / "deny.txt").write_text("# nobody yet\n")
    (tmp_path / "ca.crl").write_bytes(sign_crl(ca.authority, []))
    return tls


@pytest.fixture(params=["deny list", "revocation list"])
def deny(request: pytest.FixtureRequest, lists: TLSConfig, ca: ThrowawayCA) -> Callable[..., None]:
    """Denies the given certificates, and nobody else."""

    def write(*denied: TLSConfig) -> None:
        numbers = [serial_number(tls) for tls in denied]
        if request.param == "deny list":
            replace(lists.deny_list, "".join(f"{number:x}\n" for number in numbers).encode())
        else:
            replace(lists.crl, sign_crl(ca.authority, numbers))

    return write


async def park(stub: aggregator.AggregatorStub, send: anyio.abc.ObjectSendStream[Any]) -> None:
    try:
        with translate():
            await send.send((await stub.get_aggregated_tensor(PARKED)).round_number)
    except Exception as exc:
        await send.send(exc)


async def test_a_call_parked_on_an_open_connection_is_refused_when_its_certificate_is_denied(
    lists: TLSConfig, deny: Callable[..., None], ca: ThrowawayCA
) -> None:
    bad, good = ca.client("mallory"), ca.client("hospital_one")
    outcome, outcomes = anyio.create_memory_object_stream[Any](10)
    async with (
        serving(lists) as (server, small),
        client(server, bad) as (mallory, channel),
        client(server, good) as (honest, _),
        anyio.create_task_group() as group,
        outcome,
        outcomes,
    ):
        group.start_soon(park, mallory, outcome)
        group.start_soon(park, honest, outcome)
        assert {await small.parked.receive(), await small.parked.receive()} == {"mallory", "hospital_one"}
        connection = channel._protocol
        deny(bad)
        began = anyio.current_time()
        with anyio.fail_after(BOUND):
            refusal = await outcomes.receive()
        refused = anyio.current_time() - began
        assert isinstance(refusal, AuthenticationError)
        assert "revoked" in str(refusal)
        await until(connection.is_closing)
        assert connection.engine.peer_draining  # there was a GOAWAY
        closed = anyio.current_time() - began
        logger.info("a parked call was refused after %.2f s, its connection closed after %.2f s", refused, closed)
        with pytest.raises(AuthenticationError, match="revoked"):  # on a new connection
            await name_of(mallory)
        await until(lambda: server.statistics().connections == 1)
        assert server.statistics().denied == 2
        assert await name_of(honest) == "hospital_one"
        small.go_on.set()
        assert await outcomes.receive() == 7


async def test_who_is_not_denied_any_more_is_served_again(
    lists: TLSConfig, deny: Callable[..., None], ca: ThrowawayCA
) -> None:
    bad = ca.client("mallory")
    deny(bad)
    async with serving(lists) as (server, _), client(server, bad) as (mallory, _):
        with pytest.raises(AuthenticationError):
            await name_of(mallory)
        deny()
        with anyio.fail_after(BOUND):
            while True:
                try:
                    assert await name_of(mallory) == "mallory"
                    break
                except (AuthenticationError, ConnectionLostError):
                    await anyio.sleep(0.05)


async def test_a_list_that_breaks_changes_nothing_and_is_named(
    lists: TLSConfig, ca: ThrowawayCA, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bad = ca.client("mallory")
    replace(lists.deny_list, b"CN=mallory\n")
    async with serving(lists) as (server, _), client(server, bad) as (mallory, _):
        replace(lists.deny_list, b"# all is well\nnonsense\n")
        replace(lists.crl, b"nonsense")
        await until(lambda: "cannot be used" in caplog.text)
        assert f"{lists.deny_list}, line 2: expected a serial number" in caplog.text
        with pytest.raises(AuthenticationError):
            await name_of(mallory)
        replace(lists.deny_list, b"# all is well\n")
        await until(lambda: "ca.crl: expected a certificate revocation list" in caplog.text)
        replace(lists.crl, sign_crl(ca.authority, []))
        await until(lambda: "were read again" in caplog.text)
        assert caplog.text.count("cannot be used") == 2  # each once, however often it was looked at


@pytest.mark.parametrize(
    ("field", "content", "sentence"),
    [
        ("deny_list", None, "cannot read the deny list"),
        ("deny_list", b"nonsense", "line 1"),
        ("crl", None, "cannot read the revocation list"),
        ("crl", b"nonsense", "expected a certificate revocation list"),
    ],
)
async def test_a_server_does_not_start_with_a_list_that_it_cannot_read(
    lists: TLSConfig, field: str, content: bytes | None, sentence: str
) -> None:
    path: Path = getattr(lists, field)
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=sentence):
        await Credentials.load_server(lists)


async def test_a_list_that_is_late_counts_and_says_so(
    lists: TLSConfig, ca: ThrowawayCA, caplog: pytest.LogCaptureFixture
) -> None:
    issuer, key = ca.authority.open()
    now = datetime.now(UTC)
    revoked = x509.RevokedCertificateBuilder().serial_number(serial_number(ca.client("mallory"))).revocation_date(now)
    late = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.subject)
        .last_update(now - timedelta(days=2))
        .next_update(now - timedelta(days=1))
        .add_revoked_certificate(revoked.build())
        .sign(key, hashes.SHA256())
    )
    replace(lists.crl, late.public_bytes(Encoding.PEM))
    loaded = await Credentials.load_server(lists)
    assert len(loaded.revocations.crl) == 1
    assert "although a newer one was due" in caplog.text


# ------------------------------------------------------------------------------------------------ rotation


class Rotating:
    """The files of a server and of a client, and what replaces them."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.authority = create_ca("CA", days=1)
        self.server = TLSConfig(ca=folder / "server.ca", certificate=folder / "s.crt", private_key=folder / "s.key")
        self.client = TLSConfig(ca=folder / "client.ca", certificate=folder / "c.crt", private_key=folder / "c.key")
        self.believe(self.server, self.authority)
        self.believe(self.client, self.authority)
        self.renew(self.server)
        self.renew(self.client)

    def believe(self, tls: TLSConfig, *authorities: CertificateAuthority) -> None:
        replace(tls.ca, b"".join(authority.certificate_pem for authority in authorities))

    def renew(self, tls: TLSConfig) -> int:
        """Give a new certificate and key; return its serial number."""
        if tls is self.server:
            issued = issue_server(self.authority, "localhost", hosts=LOCAL_HOSTS, days=1)
        else:
            issued = issue_client(self.authority, "one", days=1)
        replace(tls.private_key, issued.key_pem)
        replace(tls.certificate, issued.certificate_pem)
        return describe(issued.certificate_pem).serial_number

    def renew_client(self, folder: Path) -> None:
        """Give the client other files: who opens a channel meanwhile does not find half a pair."""
        renewed = TLSConfig(ca=self.client.ca, certificate=folder / "c2.crt", private_key=folder / "c2.key")
        self.renew(renewed)
        self.client = renewed


@pytest.fixture
def rotating(tmp_path: Path) -> Rotating:
    return Rotating(tmp_path)


async def shown(server: Server, tls: TLSConfig) -> int:
    """Make a call on a new connection; return the serial number of the certificate that the server showed."""
    async with client(server, tls) as (stub, channel):
        assert await name_of(stub) == "one"
        return int(channel._protocol.get_extra_info("peercert")["serialNumber"], 16)


async def until_shown(server: Server, tls: TLSConfig, number: int) -> None:
    with anyio.fail_after(BOUND):
        while await shown(server, tls) != number:
            await anyio.sleep(0.05)


async def test_no_call_fails_while_certificates_and_authority_are_replaced(rotating: Rotating, tmp_path: Path) -> None:
    calls = fresh = 0
    old = rotating.authority
    async with serving(rotating.server) as (server, _), client(server, rotating.client) as (kept, _):
        ended = anyio.Event()

        async def keep_calling() -> None:
            nonlocal calls
            while not ended.is_set():
                assert await name_of(kept) == "one"
                calls += 1

        async def keep_connecting() -> None:
            nonlocal fresh
            while not ended.is_set():
                await shown(server, rotating.client)
                fresh += 1

        async with anyio.create_task_group() as group:
            group.start_soon(keep_calling)
            group.start_soon(keep_connecting)
            await until_shown(server, rotating.client, rotating.renew(rotating.server))
            # the authority in the order of the manual: believe both, then new certificates, then the new one alone
            new = rotating.authority = create_ca("CA", days=1)
            rotating.believe(rotating.client, new, old)
            rotating.believe(rotating.server, new, old)
            await until_shown(server, rotating.client, rotating.renew(rotating.server))
            rotating.renew_client(tmp_path)
            rotating.believe(rotating.client, new)
            rotating.believe(rotating.server, new)
            await until_shown(server, rotating.client, rotating.renew(rotating.server))
            before = calls
            await until(lambda: calls > before)
            ended.set()
    logger.info("%d calls on a kept connection and %d new connections, none failed", calls, fresh)
    assert calls > 10
    assert fresh >= 4


async def test_two_authorities_are_believed_at_once(rotating: Rotating, tmp_path: Path) -> None:
    other = Rotating(tmp_path / "other")
    rotating.believe(rotating.server, other.authority, rotating.authority)
    trusting = other.client.model_copy(update={"ca": rotating.client.ca})
    async with serving(rotating.server) as (server, _):
        await shown(server, rotating.client)
        await shown(server, trusting)
        rotating.believe(rotating.server, rotating.authority)
        with anyio.fail_after(BOUND), pytest.raises((ConnectError, ConnectionLostError)):
            await until_shown(server, trusting, -1)
        await shown(server, rotating.client)


async def test_half_a_pair_is_named_and_the_old_one_stays_until_the_other_half_comes(
    rotating: Rotating, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(rotating.server) as (server, _):
        first = await shown(server, rotating.client)
        issued = issue_server(rotating.authority, "localhost", hosts=LOCAL_HOSTS, days=1)
        replace(rotating.server.certificate, issued.certificate_pem)
        await until(lambda: "does not belong to the certificate" in caplog.text)
        assert await shown(server, rotating.client) == first
        replace(rotating.server.private_key, issued.key_pem[: len(issued.key_pem) // 2])
        await until(lambda: "cannot be used (" in caplog.text)
        assert await shown(server, rotating.client) == first
        replace(rotating.server.private_key, issued.key_pem)
        await until_shown(server, rotating.client, describe(issued.certificate_pem).serial_number)


async def test_a_change_counts_at_the_second_look_or_at_once_when_asked(rotating: Rotating) -> None:
    loaded = await Credentials.load_server(rotating.server)
    contexts: list[ssl.SSLContext] = [loaded.context]
    await loaded.refresh()
    assert loaded.context is contexts[0]
    rotating.renew(rotating.server)
    await loaded.refresh()
    assert loaded.context is contexts[0]
    await loaded.refresh()
    assert loaded.context is not contexts[0]
    contexts.append(loaded.context)
    rotating.renew(rotating.server)
    await loaded.refresh(at_once=True)
    assert loaded.context is not contexts[1]


async def test_files_that_vanish_change_nothing_until_they_are_back(
    rotating: Rotating, caplog: pytest.LogCaptureFixture
) -> None:
    loaded = await Credentials.load_server(rotating.server)
    context, aside = loaded.context, rotating.server.ca.with_suffix(".aside")
    rotating.server.ca.rename(aside)
    for _ in range(3):
        await loaded.refresh()
    assert loaded.context is context
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
    assert "cannot read the CA certificate" in caplog.text
    aside.rename(rotating.server.ca)
    for _ in range(2):
        await loaded.refresh()
    assert len(caplog.records) == 1


async def test_the_server_reads_at_once_when_told(rotating: Rotating, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with serving(rotating.server) as (server, _):
        number = rotating.renew(rotating.server)
        server.reload_certificates()
        await until(lambda: "were read again" in caplog.text)
        assert await shown(server, rotating.client) == number


# ------------------------------------------------------------------------------------------------ clients


async def test_a_client_goes_on_with_new_files_and_its_calls_in_flight_end_on_the_old_connection(
    rotating: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openfl_aio.transport.channel.LOOK_SECONDS", 0.0)
    outcome, outcomes = anyio.create_memory_object_stream[Any](10)
    async with (
        serving(rotating.server) as (server, small),
        client(server, rotating.client) as (stub, channel),
        anyio.create_task_group() as group,
        outcome,
        outcomes,
    ):
        group.start_soon(park, stub, outcome)
        await small.parked.receive()
        old = channel._protocol
        rotating.renew(rotating.client)
        assert await name_of(stub) == "one"
        assert channel._protocol is not old
        assert not old.is_closing()
        assert await name_of(stub) == "one"  # nothing has changed since
        assert server.statistics().connections == 2
        small.go_on.set()
        assert await outcomes.receive() == 7
        assert old.is_closing()
        await until(lambda: server.statistics().connections == 1)


async def test_a_client_whose_files_are_broken_goes_on_with_the_old_ones(
    rotating: Rotating, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("openfl_aio.transport.channel.LOOK_SECONDS", 0.0)
    async with serving(rotating.server) as (server, _), client(server, rotating.client) as (stub, channel):
        assert await name_of(stub) == "one"
        kept = channel._protocol
        replace(rotating.client.private_key, b"nonsense")
        assert await name_of(stub) == "one"
        assert channel._protocol is kept
        kept.abort()  # and connects with them too
        await until(kept.is_closing)
        assert await name_of(stub) == "one"
        assert caplog.text.count("cannot be used, those from before stay") == 1


async def test_a_client_reads_its_files_again_when_it_connects_again(rotating: Rotating) -> None:
    async with serving(rotating.server) as (server, _), client(server, rotating.client) as (stub, channel):
        assert await name_of(stub) == "one"
        context, kept = channel._ssl, channel._protocol
        rotating.renew(rotating.client)
        kept.abort()
        await until(kept.is_closing)
        assert await name_of(stub) == "one"
        assert channel._ssl is not context


async def test_no_call_of_many_fails_while_a_client_changes_its_certificate(
    rotating: Rotating, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openfl_aio.transport.channel.LOOK_SECONDS", 0.0)
    calls = 0
    async with serving(rotating.server) as (server, _), client(server, rotating.client) as (stub, channel):
        seen: set[Any] = set()

        async def keep_calling() -> None:
            nonlocal calls
            while len(seen) < 4:
                assert await name_of(stub) == "one"
                seen.add(channel._protocol)
                calls += 1

        async def keep_renewing() -> None:
            while len(seen) < 4:
                rotating.renew(rotating.client)
                await anyio.sleep(0.02)

        async with anyio.create_task_group() as group:
            group.start_soon(keep_renewing)
            for _ in range(30):
                group.start_soon(keep_calling)
    assert calls >= 30


async def test_a_client_may_deny_a_server(rotating: Rotating, tmp_path: Path) -> None:
    (tmp_path / "deny.txt").write_text("CN=localhost\n")
    wary = rotating.client.model_copy(update={"deny_list": tmp_path / "deny.txt"})
    async with serving(rotating.server) as (server, _), client(server, wary) as (stub, _):
        with pytest.raises(ConnectError, match="its name is on the deny list"):
            await name_of(stub)
        await until(lambda: server.statistics().connections == 0)
