"""A server lets in as many as it can serve, refuses the others at the door, and goes on when the system runs out."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import logging
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, cast

import anyio
import anyio.to_thread
import pytest
from blockbuster import BlockBuster
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.config import Limits
from openfl_aio.transport.acceptor import ACCEPTS_PER_WAKE_UP, GRACE_SECONDS, Acceptor, Admission, Gate

LOG = logging.getLogger("openfl_aio.test")
DOOR = "refused a connection: too many are open, or not authenticated yet"


# -------------------------------------------------------------------------------------------------- the gate


def admitted(gate: Gate) -> Admission:
    admission = gate.admit()
    assert admission is not None
    return admission


def test_connections_are_counted_and_refused_above_the_limit() -> None:
    gate = Gate(Limits(max_connections=2))
    first, second = admitted(gate), admitted(gate)
    assert gate.admit() is None
    assert repr(gate) == "<Gate 2 open, 2 of them unauthenticated, 1 refused>"
    first.leave()
    third = admitted(gate)
    assert gate.admit() is None
    second.leave()
    third.leave()
    assert repr(gate) == "<Gate 0 open, 0 of them unauthenticated, 2 refused>"


def test_unauthenticated_connections_have_a_limit_of_their_own() -> None:
    gate = Gate(Limits(max_connections=10, max_unauthenticated=2))
    first, second = admitted(gate), admitted(gate)
    assert gate.admit() is None
    assert first.authenticated("aa")
    third = admitted(gate)
    assert gate.admit() is None
    second.leave()
    third.leave()
    assert (gate.open, gate.unauthenticated) == (1, 0)
    first.leave()
    assert (gate.open, gate.unauthenticated) == (0, 0)


def test_a_certificate_has_so_many_connections_and_another_its_own() -> None:
    gate = Gate(Limits(max_connections_per_certificate=2))
    ones = [admitted(gate) for _ in range(3)]
    assert [one.authenticated("aa") for one in ones] == [True, True, False]
    assert (gate.open, gate.unauthenticated, gate.refused) == (3, 1, 1)
    other = admitted(gate)
    assert other.authenticated("bb")
    ones[0].leave()
    assert ones[2].authenticated("aa")
    for each in (*ones, other):
        each.leave()
    assert (gate.open, gate.unauthenticated) == (0, 0)


def test_plaintext_has_no_count_of_a_certificate() -> None:
    gate = Gate(Limits(max_connections_per_certificate=1))
    connections = [admitted(gate) for _ in range(20)]
    assert all(each.authenticated(None) for each in connections)
    assert (gate.open, gate.unauthenticated) == (20, 0)


def test_leaving_and_authenticating_twice_count_once() -> None:
    gate = Gate(Limits(max_connections_per_certificate=1))
    one, other = admitted(gate), admitted(gate)
    assert one.authenticated("aa")
    assert one.authenticated("aa")
    one.leave()
    one.leave()
    assert not one.authenticated("aa")
    assert (gate.open, gate.unauthenticated, gate.refused) == (1, 1, 0)
    assert other.authenticated("aa")


def test_an_admission_that_nobody_holds_has_left() -> None:
    gate = Gate(Limits())
    admission = admitted(gate)
    assert admission.authenticated("aa")
    del admission
    gc.collect()
    assert gate.open == 0


@given(
    st.lists(st.tuples(st.sampled_from(["admit", "authenticate", "leave"]), st.integers(0, 9), st.sampled_from("abc")))
)
def test_no_order_of_events_breaks_a_limit_or_loses_a_place(events: list[tuple[str, int, str]]) -> None:
    gate = Gate(Limits(max_connections=6, max_unauthenticated=3, max_connections_per_certificate=2))
    places: dict[int, tuple[Admission, str | None]] = {}
    for event, number, name in events:
        if event == "admit" and number not in places:
            admission = gate.admit()
            if admission is not None:
                places[number] = admission, None
        elif event == "authenticate" and number in places:
            admission, certificate = places[number]
            if certificate is None and admission.authenticated(name):
                places[number] = admission, name
        elif event == "leave" and number in places:
            places.pop(number)[0].leave()
        certificates = Counter(certificate for _, certificate in places.values())
        assert gate.open == len(places) <= 6
        assert gate.unauthenticated == certificates.pop(None, 0) <= 3
        assert max(certificates.values(), default=0) <= 2
    for admission, _ in places.values():
        admission.leave()
    assert (gate.open, gate.unauthenticated) == (0, 0)
    assert [admitted(gate).authenticated(name) for name in "abc"] == [True, True, True]


def test_the_oldest_gives_way_once_it_had_its_time() -> None:
    now = 100.0
    gate = Gate(Limits(max_unauthenticated=3), clock=lambda: now)
    ended: list[str] = []
    admissions = {}
    for name in "abc":
        assert gate.make_room() == 0
        admissions[name] = admitted(gate)
        admissions[name].evictable(lambda name=name: ended.append(name))  # type: ignore[misc] # a default binds it now
        now += 0.01
    assert gate.make_room() == pytest.approx(GRACE_SECONDS - 0.03)
    assert admissions["a"].authenticated("aa")  # so it cannot be ended any more
    assert gate.make_room() == 0
    admitted(gate).evictable(lambda: ended.append("d"))
    assert gate.make_room() == pytest.approx(GRACE_SECONDS - 0.02)
    now += GRACE_SECONDS
    assert gate.make_room() == 0
    assert ended == ["b"]
    assert not admissions["b"].authenticated("bb")
    assert (gate.open, gate.unauthenticated, gate.evicted, gate.refused) == (3, 2, 1, 0)
    admitted(gate)
    admissions["c"].leave()
    assert gate.make_room() == 0
    assert ended == ["b"]


def test_connections_that_cannot_be_ended_are_not_waited_for() -> None:
    gate = Gate(Limits(max_unauthenticated=1))
    admission = admitted(gate)
    assert gate.make_room() == 0
    assert gate.admit() is None
    admission.leave()
    admission.evictable(pytest.fail)
    assert gate.admit() is not None


# -------------------------------------------------------------------------------------------------- the acceptor


class Echo(asyncio.Protocol):
    """Sends back what comes, and leaves the gate when the connection is lost."""

    def __init__(self, admission: Admission | None = None) -> None:
        self.admission = admission
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # that of uvloop is no subclass

    def data_received(self, data: bytes) -> None:
        assert self.transport is not None
        self.transport.write(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self.admission is not None:
            self.admission.leave()


@contextlib.contextmanager
def accepting(
    make_protocol: Callable[[], asyncio.BaseProtocol | None],
    sockets: list[socket.socket] | None = None,
    gate: Gate | None = None,
) -> Iterator[tuple[str, int]]:
    """Yield the address of an acceptor that runs on the present loop."""
    sockets = sockets or [socket.create_server(("127.0.0.1", 0), backlog=1024)]
    address = sockets[0].getsockname()
    acceptor = Acceptor(sockets, make_protocol, limits=Limits(), log=LOG, gate=gate)
    try:
        acceptor.start()
        yield address
    finally:
        acceptor.stop()


def told(caplog: pytest.LogCaptureFixture) -> list[str]:
    """Return what the acceptor logged: on a busy machine asyncio has something to say too."""
    return [record.getMessage() for record in caplog.records if record.name == LOG.name]


async def echoed(address: tuple[str, int]) -> bytes:
    """Return what a new connection gets back for a greeting; empty after an end of file."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(b"hello")
        return await reader.read(5)
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


@pytest.mark.real_time
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_each_connection_gets_a_protocol_and_sends_at_once(loop: str) -> None:
    made: list[Echo] = []

    def make() -> Echo:
        made.append(Echo())
        return made[-1]

    async def main() -> None:
        with accepting(make) as address:
            assert await asyncio.gather(*(echoed(address) for _ in range(100))) == [b"hello"] * 100
            _reader, writer = await asyncio.open_connection(*address)
            while len(made) < 101 or made[-1].transport is None:
                await asyncio.sleep(0.01)
            sock = made[-1].transport.get_extra_info("socket")
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            writer.close()
            await writer.wait_closed()
        assert len({id(protocol.transport) for protocol in made}) == 101

    factory = None if loop == "asyncio" else pytest.importorskip("uvloop").new_event_loop
    with asyncio.Runner(debug=True, loop_factory=factory) as runner:
        runner.run(main())


@pytest.mark.real_time
async def test_whoever_is_refused_sees_a_reset_and_one_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(Limits(max_connections=2))

    def make() -> Echo | None:
        admission = gate.admit()
        return Echo(admission) if admission else None

    with accepting(make) as address:
        kept = [await asyncio.open_connection(*address) for _ in range(2)]
        for _ in range(20):
            with pytest.raises(ConnectionResetError):
                await echoed(address)
        for reader, writer in kept:
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            writer.close()
        while gate.open:
            await asyncio.sleep(0.01)
        assert await echoed(address) == b"hello"
    assert gate.refused == 20
    assert told(caplog) == [DOOR]


class Known(Echo):
    """Is authenticated by its first bytes, and gives way to others until then."""

    def __init__(self, admission: Admission) -> None:
        super().__init__(admission)
        admission.evictable(self.abort)

    def abort(self) -> None:
        assert self.transport is not None
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        assert self.admission is not None
        assert self.admission.authenticated(None)
        super().data_received(data)


@pytest.mark.real_time
async def test_silent_connections_keep_nobody_out(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(Limits(max_unauthenticated=4))
    opened = 0

    def make() -> Known | None:
        admission = gate.admit()
        return Known(admission) if admission else None

    async def silent(address: tuple[str, int]) -> None:
        nonlocal opened
        while True:
            opened += 1
            reader, writer = await asyncio.open_connection(*address)  # no reset: nobody is refused
            with contextlib.closing(writer), contextlib.suppress(OSError):
                await reader.read()

    with accepting(make, gate=gate) as address:
        async with anyio.create_task_group() as group:
            for _ in range(12):
                group.start_soon(silent, address)
            await asyncio.sleep(0.2)
            kept = await asyncio.open_connection(*address)
            for _ in range(5):
                kept[1].write(b"one of many")
                assert await kept[0].readexactly(11) == b"one of many"
                assert await echoed(address) == b"hello"
            assert gate.open <= 4 + 2
            kept[1].close()
            group.cancel_scope.cancel()
        await asyncio.sleep(0.05)
    assert gate.evicted > 0
    assert opened < 12 + gate.evicted + 12  # a silent peer is slowed down, not refused over and over
    assert gate.refused == 0
    assert told(caplog) == []


@pytest.mark.real_time
async def test_a_storm_is_answered_to_the_last_and_leaves_nothing_behind(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(Limits(max_connections=150))
    ends: Counter[bytes] = Counter()

    def make() -> Echo | None:
        admission = gate.admit()
        return Echo(admission) if admission else None

    def storm(address: tuple[str, int]) -> None:
        for _ in range(10):
            clients = [socket.create_connection(address) for _ in range(50)]
            for client in clients:
                with client:
                    client.settimeout(10)
                    try:
                        client.sendall(b"hello")
                        ends[client.recv(5)] += 1
                    except (ConnectionResetError, BrokenPipeError):
                        ends[b"reset"] += 1

    with accepting(make) as address:
        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(anyio.to_thread.run_sync, storm, address)
        while gate.open:
            await asyncio.sleep(0.01)
        assert await echoed(address) == b"hello"
    assert set(ends) <= {b"hello", b"reset"}
    assert sum(ends.values()) == 2_000
    assert ends[b"reset"] == gate.refused
    assert len(told(caplog)) <= 2


@pytest.mark.real_time
async def test_a_storm_leaves_turns_to_others_on_the_loop() -> None:
    accepted = 0
    batches: list[int] = []

    def make() -> Echo:
        nonlocal accepted
        accepted += 1
        return Echo()

    with accepting(make) as address:
        clients = [socket.create_connection(address) for _ in range(ACCEPTS_PER_WAKE_UP * 2 + 10)]
        while accepted < len(clients):
            before = accepted
            await asyncio.sleep(0)
            batches.append(accepted - before)
        for client in clients:
            client.close()
        await asyncio.sleep(0.05)
    assert max(batches) == ACCEPTS_PER_WAKE_UP


@pytest.mark.real_time
async def test_stopping_leaves_established_connections_alone() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    address = listener.getsockname()
    acceptor = Acceptor([listener], Echo, limits=Limits(), log=LOG)
    assert repr(acceptor) == "<Acceptor stopped on 1 sockets, 0 connecting>"
    acceptor.start()
    assert repr(acceptor) == "<Acceptor accepting on 1 sockets, 0 connecting>"
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"one")
    assert await reader.readexactly(3) == b"one"
    acceptor.stop()
    acceptor.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(*address)
    writer.write(b"two")
    assert await reader.readexactly(3) == b"two"
    writer.close()
    await writer.wait_closed()


@pytest.mark.real_time
async def test_one_may_stop_from_within() -> None:
    made = 0

    def make() -> None:
        nonlocal made
        made += 1
        acceptor.stop()

    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor([listener], make, limits=Limits(), log=LOG)
    clients = [socket.create_connection(listener.getsockname()) for _ in range(3)]
    acceptor.start()
    for client in clients:
        reader, writer = await asyncio.open_connection(sock=client)
        with pytest.raises(ConnectionResetError):
            await reader.read()
        writer.close()
    assert made == 1


class Troubled(socket.socket):
    """A listening socket whose accept fails with each of ``errors`` first."""

    errors: list[int]
    accepts = 0

    def accept(self) -> tuple[socket.socket, Any]:
        self.accepts += 1
        if self.errors:
            raise OSError(self.errors.pop(0), "trouble")
        return super().accept()


def troubled(*errors: int) -> Troubled:
    sock = Troubled(fileno=socket.create_server(("127.0.0.1", 0)).detach())
    sock.errors = list(errors)
    return sock


@pytest.mark.real_time
async def test_connections_that_broke_in_the_queue_are_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    listener = troubled(errno.ECONNABORTED, errno.EPROTO, errno.ENETUNREACH)
    with accepting(Echo, [listener]) as address:
        assert await echoed(address) == b"hello"
    assert told(caplog) == []


@pytest.mark.real_time
@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM, errno.ENFILE])
async def test_exhaustion_costs_one_connection_and_the_others_wait(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    listener = troubled(number)
    with accepting(Echo, [listener]) as address:
        with pytest.raises(ConnectionResetError):
            await echoed(address)
        started = time.monotonic()
        assert await echoed(address) == b"hello"
        assert time.monotonic() - started >= 0.05
        assert listener.accepts <= 6  # it did not spin
    assert len(told(caplog)) == 1
    assert told(caplog)[0].startswith("cannot accept connections: trouble")
    assert ("ulimit -n" in told(caplog)[0]) == (number == errno.ENFILE)


@pytest.mark.real_time
async def test_other_trouble_costs_a_pause_and_no_connection(caplog: pytest.LogCaptureFixture) -> None:
    with accepting(Echo, [troubled(errno.EINVAL)]) as address:
        assert await echoed(address) == b"hello"
    assert told(caplog) == ["cannot accept connections: trouble"]


@pytest.mark.real_time
async def test_one_can_stop_during_a_pause() -> None:
    listener = troubled(errno.EINVAL)
    acceptor = Acceptor([listener], Echo, limits=Limits(), log=LOG)
    acceptor.start()
    with socket.create_connection(listener.getsockname()):
        while "paused" not in repr(acceptor):
            await asyncio.sleep(0)
        acceptor.stop()
        await asyncio.sleep(0.2)
    assert listener.accepts == 1


@pytest.mark.real_time
async def test_a_connection_that_gets_no_transport_is_closed_and_told_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(Limits())

    async def fail(*_args: object) -> tuple[asyncio.Transport, asyncio.BaseProtocol]:
        raise OSError(errno.EINVAL, "gone again")

    monkeypatch.setattr(asyncio.get_running_loop(), "connect_accepted_socket", fail)
    with accepting(lambda: Echo(gate.admit())) as address:
        for _ in range(3):
            with contextlib.suppress(ConnectionResetError):
                assert await echoed(address) == b""
    gc.collect()
    assert gate.open == 0
    assert told(caplog) == ["lost a connection that was just accepted: [Errno 22] gone again"]


@pytest.mark.real_time
async def test_a_connection_whose_task_is_cancelled_is_closed(caplog: pytest.LogCaptureFixture) -> None:
    gate = Gate(Limits())
    before = asyncio.all_tasks()
    with accepting(lambda: Echo(gate.admit())) as address, socket.create_connection(address) as client:
        while not (tasks := asyncio.all_tasks() - before):
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        del task, tasks  # a cancelled task keeps the frames it was cancelled in
        reader, writer = await asyncio.open_connection(sock=client)
        assert await reader.read() == b""
        writer.close()
    gc.collect()
    assert gate.open == 0
    assert told(caplog) == []


@pytest.mark.real_time
async def test_an_error_of_ours_costs_one_connection() -> None:
    reported: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: reported.append(context))
    errors = [ZeroDivisionError()]

    def make() -> Echo:
        if errors:
            raise errors.pop()
        return Echo()

    with accepting(make) as address:
        with pytest.raises(ConnectionResetError):
            await echoed(address)
        assert await echoed(address) == b"hello"
    assert [type(context["exception"]) for context in reported] == [ZeroDivisionError]


# -------------------------------------------------------------------------------------------------- descriptors

FEW_FILES = 64
SERVER = """
import asyncio, logging, resource, socket
from openfl_aio.config import Limits
from openfl_aio.transport.acceptor import Acceptor

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    logging.basicConfig()
    listener = socket.create_server(("127.0.0.1", 0))
    acceptor = Acceptor([listener], Echo, limits=Limits(), log=logging.getLogger("server"))
    acceptor.start()
    print(listener.getsockname()[1], flush=True)
    await asyncio.sleep(60)

resource.setrlimit(resource.RLIMIT_NOFILE, (%d, %d))
asyncio.run(main())
"""


def rounds(client: socket.socket, count: int) -> None:
    """See that ``count`` greetings come back."""
    for _ in range(count):
        client.sendall(b"hello")
        assert client.recv(5, socket.MSG_WAITALL) == b"hello"
        time.sleep(0.005)


def test_running_out_of_descriptors_harms_no_open_connection(no_blocking_calls: BlockBuster) -> None:
    command = [sys.executable, "-c", SERVER % (FEW_FILES, FEW_FILES)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stderr is not None
            address = "127.0.0.1", int(server.stdout.readline())
            with contextlib.ExitStack() as stack:
                kept = stack.enter_context(socket.create_connection(address, timeout=10))
                rounds(kept, 5)
                with contextlib.ExitStack() as crowd:
                    for _ in range(2 * FEW_FILES):
                        crowd.enter_context(socket.create_connection(address, timeout=10))
                    rounds(kept, 200)
                # the crowd has gone, so there is room again, once the queue of dead connections is worked off
                fresh = stack.enter_context(socket.create_connection(address, timeout=20))
                rounds(fresh, 5)
                rounds(kept, 5)
        finally:
            server.terminate()
            told = server.stderr.read() if server.stderr is not None else ""
    lines = told.splitlines()
    assert "Traceback" not in told
    assert lines
    assert all("cannot accept connections: Too many open files; allow more open files" in line for line in lines)
    assert len(lines) <= 2
