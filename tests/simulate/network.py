"""A network in memory, on virtual time: bytes take a while, connections break, hosts are cut off."""

from __future__ import annotations

import asyncio
import contextvars
import errno
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, cast

from openfl_aio.errors import InvalidStateError
from openfl_aio.testing.clock import AutojumpEventLoop
from tests.simulate.process import Process, current

__all__ = ["Cut", "Links", "Network", "SimulatedAcceptor", "SimulatedLoop", "bind"]

MOST_WRITES: Final = 60  # after so many, at most, a connection breaks that is to break after some


@dataclass(frozen=True, slots=True)
class Cut:
    """A host that nobody can reach for a while, and that reaches nobody: what is sent arrives afterwards."""

    host: str
    begin: float
    end: float


@dataclass(frozen=True, slots=True)
class Links:
    """How good the network is: how long bytes take at most, in seconds, and how probable it is that a connection breaks."""

    delay: float = 0.0
    breaks: float = 0.0
    cuts: tuple[Cut, ...] = ()


class SimulatedLoop(AutojumpEventLoop):
    """A loop on virtual time, all of whose connections are those of ``network``, and that has no threads."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        self.network = network

    async def create_connection(self, protocol_factory: Any, host: Any = None, port: Any = None, **_: Any) -> Any:
        """Connect to who listens on ``port``."""
        return await self.network.connect(protocol_factory, port)

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Run ``func`` here and now."""
        future = self.create_future()
        future.set_result(func(*args))
        return future


class Network:
    """All that is connected. ``events`` is what happened, in order: the same each time for one seed."""

    def __init__(self, seed: int, links: Links) -> None:
        self.seed = seed
        self.links = links
        self.events: list[str] = []
        self.broken = 0
        self._listeners: dict[int, SimulatedAcceptor] = {}
        self._ends: dict[_End, None] = {}

    def trace(self, event: str) -> None:
        """Note that something happened."""
        self.events.append(f"{asyncio.get_running_loop().time():.6f} {event}")

    def listen(self, port: int, acceptor: SimulatedAcceptor) -> None:
        """Let ``acceptor`` take the connections of ``port``."""
        self._listeners[port] = acceptor

    def leave(self, port: int) -> None:
        """Refuse connections of ``port`` from now on."""
        self._listeners.pop(port, None)

    def is_taken(self, port: int) -> bool:
        """Return whether somebody listens there."""
        return port in self._listeners

    def forget(self, process: Process) -> None:
        """Do what the system does when a process is no more."""
        for port, acceptor in list(self._listeners.items()):
            if acceptor.process is process:
                del self._listeners[port]
        for end in list(self._ends):
            if end.process is process:
                end.vanish()

    async def connect(self, factory: Callable[[], asyncio.BaseProtocol], port: int) -> Any:
        """Return a transport and its protocol, connected to who listens. Raises `OSError`."""
        process = current()
        assert process is not None, "only processes connect"
        process.check()
        process.connections += 1
        rng = random.Random(f"connection {self.seed} {process!r} {process.connections}")
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.arrival(process.name, "", rng) - loop.time())
        process.check()
        acceptor = self._listeners.get(port)
        if acceptor is None or acceptor.process is None:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody listens")
        theirs = acceptor.context.run(acceptor.make_protocol)
        if theirs is None:
            raise ConnectionResetError(errno.ECONNRESET, "no room")
        ours = factory()
        wire = _Wire(self, rng)
        name = f"{process!r}:{process.connections}"
        client = _End(wire, process, ours, contextvars.copy_context(), name)
        server = _End(wire, acceptor.process, theirs, acceptor.context.copy(), name)
        client.peer, server.peer = server, client
        self._ends |= {client: None, server: None}
        ours.connection_made(client)
        loop.call_soon(server.begin, context=server.context)
        wire.begin(client)
        return client, ours

    def drop(self, end: _End) -> None:
        """Forget an end that is closed."""
        self._ends.pop(end, None)

    def arrival(self, sender: str, receiver: str, rng: random.Random) -> float:
        """Return when something arrives that is sent now."""
        when = asyncio.get_running_loop().time() + rng.uniform(0, self.links.delay)
        for cut in sorted(self.links.cuts, key=lambda cut: cut.begin):
            if cut.host in (sender, receiver) and cut.begin <= when < cut.end:
                when = cut.end + rng.uniform(0, self.links.delay)
        return when


class _Wire:
    """What the two ends of a connection have in common: when it breaks."""

    def __init__(self, network: Network, rng: random.Random) -> None:
        self.network = network
        self.random = rng
        self._writes = 0
        breaks, by_time = rng.random() < network.links.breaks, rng.random() < 0.5
        self._seconds = rng.uniform(0, 60) if breaks and by_time else None
        self._after = rng.randint(1, MOST_WRITES) if breaks and not by_time else None

    def begin(self, end: _End) -> None:
        if self._seconds is not None:
            asyncio.get_running_loop().call_later(self._seconds, self._break, end, context=contextvars.Context())

    def wrote(self, end: _End) -> bool:
        """Take note of a write, and return whether it still arrives."""
        self._writes += 1
        if self._writes == self._after:
            self._break(end)
            return False
        return True

    def _break(self, end: _End) -> None:
        if end.is_open and end.peer.is_open:
            self.network.broken += 1
            self.network.trace(f"{end.name} breaks")
            for each in (end, end.peer):
                each.lose_soon(ConnectionResetError(errno.ECONNRESET, "the connection broke"))


class _End(asyncio.Transport):
    """One end of a connection. What it is given is on its way at once: it never holds anything back."""

    peer: _End

    def __init__(
        self,
        wire: _Wire,
        process: Process,
        protocol: asyncio.BaseProtocol,
        context: contextvars.Context,
        name: str,
    ) -> None:
        super().__init__({"peername": ("127.0.0.1", 1024 + process.connections)})
        self.process = process
        self.context = context
        self.name = name
        self.is_open = True
        self._wire = wire
        self._protocol: Any = protocol
        self._loop = asyncio.get_running_loop()
        self._closing = False
        self._reading = True
        self._coming: deque[bytes | None] = deque()  # None: the other side has ended its part
        self._arrived: deque[bytes | None] = deque()
        self._last = 0.0  # when the newest of what was sent to us arrives

    # --- what arrives ---------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Tell the protocol that there is a connection."""
        if self.is_open and not self.process.dead:
            self._protocol.connection_made(self)
            self._take()

    def send_to(self, data: bytes | None, sender: str) -> None:
        """Let ``data`` arrive here, behind all that was sent before."""
        network = self._wire.network
        self._last = max(self._last, network.arrival(sender, self.process.name, self._wire.random))
        self._coming.append(data)  # timers of one moment have no order among them
        self._loop.call_at(self._last, self._arrive, context=self.context)

    def _arrive(self) -> None:
        self._arrived.append(self._coming.popleft())
        self._take()

    def _take(self) -> None:
        while self._arrived and self._reading and self.is_open and not self.process.dead:
            data = self._arrived.popleft()
            if data is None:
                if not self._protocol.eof_received():
                    self.close()
                continue
            room = self._protocol.get_buffer(len(data))
            count = min(len(room), len(data))
            room[:count] = data[:count]
            if count < len(data):
                self._arrived.appendleft(data[count:])
            self._protocol.buffer_updated(count)

    def lose_soon(self, exc: Exception | None) -> None:
        """End this side, with what it will be told."""
        if self.is_open:
            self.is_open = False
            self._closing = True
            self._wire.network.drop(self)
            if not self.process.dead:
                self._loop.call_soon(self._protocol.connection_lost, exc, context=self.context)

    def vanish(self) -> None:
        """The process is dead: the other side hears of it a little later."""
        self.is_open = False
        self._closing = True
        self._wire.network.drop(self)
        self._reset_peer()

    def _reset_peer(self) -> None:
        peer = self.peer
        peer._last = max(
            peer._last, self._wire.network.arrival(self.process.name, peer.process.name, self._wire.random)
        )
        reset = ConnectionResetError(errno.ECONNRESET, "the other side is gone")
        self._loop.call_at(peer._last, peer.lose_soon, reset, context=peer.context)

    # --- what a transport does ------------------------------------------------------------------------------------

    def write(self, data: Any) -> None:
        """Send ``data``."""
        if self._closing or self.process.dead or not self._wire.wrote(self):
            return
        self.peer.send_to(bytes(data), self.process.name)

    def writelines(self, list_of_data: Any) -> None:
        """Send all of them."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Yes."""
        return True

    def write_eof(self) -> None:
        """Say that no more comes."""
        if not self._closing and not self.process.dead:
            self.peer.send_to(None, self.process.name)

    def close(self) -> None:
        """Close when all has been sent, which it has."""
        if not self._closing:
            self.write_eof()
            self.lose_soon(None)

    def abort(self) -> None:
        """Close at once."""
        if not self._closing:
            if not self.process.dead:
                self._reset_peer()
            self.lose_soon(None)

    def is_closing(self) -> bool:
        """Whether it was closed or lost."""
        return self._closing

    def pause_reading(self) -> None:
        """Hold what arrives."""
        self._reading = False

    def resume_reading(self) -> None:
        """Hand over what was held."""
        self._reading = True
        self._loop.call_soon(self._take, context=self.context)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing is ever held back."""

    def get_write_buffer_size(self) -> int:
        """Nothing is ever held back."""
        return 0


class SimulatedAcceptor:
    """Stands in for `openfl_aio.transport.acceptor.Acceptor` in a `SimulatedLoop`."""

    def __init__(self, sockets: Any, make_protocol: Callable[[], asyncio.BaseProtocol | None], **_: Any) -> None:
        self.make_protocol = make_protocol
        self.process = current()
        self.context = contextvars.copy_context()
        self._port: int = sockets[0].port

    def start(self) -> None:
        """Take connections."""
        if self.process is None:
            raise InvalidStateError("only processes listen")
        self.process.check()
        _network().listen(self._port, self)

    def stop(self) -> None:
        """Take no more."""
        if self.process is not None and not self.process.dead:
            _network().leave(self._port)


@dataclass(frozen=True)
class _Bound:
    port: int

    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", self.port


def bind(host: str, port: int) -> list[_Bound]:
    """Stand in for the function of that name in `openfl_aio.transport.server`."""
    if _network().is_taken(port):
        raise OSError(errno.EADDRINUSE, "somebody listens there")
    return [_Bound(port)]


def _network() -> Network:
    return cast("SimulatedLoop", asyncio.get_running_loop()).network
