"""Stopping the server while it works: SIGTERM once, and twice (R14)."""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from tests.attacks import frames, payloads
from tests.attacks.catalogue import MTLS, PLAINTEXT, Attack
from tests.attacks.processes import Helper
from tests.attacks.wire import Target, Wire

if TYPE_CHECKING:
    from tests.attacks.__main__ import Arena

GOODBYE_SECONDS = 0.1
SECOND_SIGNAL_SECONDS = 1.0
LEISURE = 0.5  # between the signal and the rest of the upload
ORDINARY = Attack("drain", "", lambda stage: None)

UPLOAD, WAITING, SEVERAL, BEHIND, EARLY, LATE = 1, 3, 5, 7, 9, 11
WAITS = 3  # calls that wait: for a tensor, for several, and for those to be answered


def good_upload(sender: str) -> bytes:
    """Return TaskResults that the aggregator takes: the whole model, trained."""
    tags = payloads.field(5, "trained") + payloads.field(5, "compressed")
    tensors = b""
    for name, size in payloads.SIZES.items():
        shape = payloads.field(6, payloads.field(2, payloads.varint(size)))
        tensor = payloads.field(1, name) + payloads.number(3, 1) + tags + shape + payloads.field(7, bytes(4 * size))
        tensors += payloads.field(5, tensor)
    return payloads.task_results(sender, tensors)


class Caller:
    """A raw client with half an upload and waiting calls on one connection."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.wire = Wire(deadline=time.monotonic() + 30, answers=True)
        if not self.wire.connect(target, context=target.context() if target.tls else None):
            raise RuntimeError("the server does not take connections")
        self.wire.greet()
        whole = payloads.chunks(good_upload(target.name), 100_000)
        self._rest = whole[len(whole) // 2 :]
        self._call(UPLOAD, payloads.AGGREGATOR + "SendLocalTaskResults", whole[: len(whole) // 2], end=False)
        body = payloads.get_tensor(target.name, payloads.SMALL, round_number=1)
        self._call(WAITING, payloads.AGGREGATOR + "GetAggregatedTensor", body)
        query = payloads.query(payloads.SMALL, round_number=1)
        for stream in (SEVERAL, BEHIND):
            self._call(stream, "/openfl_aio.v1.Tensors/GetTensors", payloads.get_tensors(target.name, query))
        # answered: then what came before has been seen as well
        self._call(EARLY, payloads.AGGREGATOR + "GetTasks", payloads.get_tasks(target.name))
        self.until(lambda: self.wire.outcomes["status:0"] == 1, 5.0)

    def _call(self, stream: int, path: str, body: bytes, *, end: bool = True) -> None:
        fields = frames.block(path, tls=self.target.tls)
        self.wire.send(frames.headers(stream, fields))
        self.wire.send_data(stream, body, end=end)

    def until(self, happened: Callable[[], bool], seconds: float) -> float | None:
        """Read until something happened; return how long that took, None if it did not."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            self.wire.read()
            if happened():
                return time.monotonic() - start
            if self.wire.ended is not None:
                return None
            time.sleep(0.002)
        return None

    def finish_upload(self) -> None:
        self.wire.send_data(UPLOAD, self._rest, end=True)

    def call_late(self) -> None:
        self._call(LATE, payloads.AGGREGATOR + "GetTasks", payloads.get_tasks(self.target.name))


def ended(server: Helper, seconds: float) -> float | None:
    """Return how long the server took to end, None if it did not."""
    start = time.monotonic()
    try:
        server.process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    return time.monotonic() - start


def drain_once(server: Helper, target: Target, slack: float) -> list[str]:
    """SIGTERM while an upload is half done and calls wait."""
    caller = Caller(target)
    wire, broken = caller.wire, []
    server.process.send_signal(signal.SIGTERM)
    goodbye = caller.until(lambda: wire.seen[frames.GOAWAY] > 0, 3.0)
    if goodbye is None or goodbye > GOODBYE_SECONDS * slack:
        broken.append(f"GOAWAY after {goodbye} s")
    if caller.until(lambda: wire.outcomes["status:14"] == WAITS, 1.0) is None:
        broken.append(f"the waiting calls were not told UNAVAILABLE: {dict(wire.outcomes)}")
    caller.call_late()
    stranger = Wire(deadline=time.monotonic() + 1)
    if stranger.connect(target) and stranger.ended is None:
        time.sleep(0.1)
        stranger.read()
        if stranger.ended is None:
            broken.append("a new connection was taken")
        stranger.drop()
    time.sleep(LEISURE)
    caller.finish_upload()
    if caller.until(lambda: wire.outcomes["status:0"] == 2, 5.0) is None:
        broken.append(f"the upload was not answered: {dict(wire.outcomes)}, {wire.ended}")
    late = wire.outcomes["rst:7"] + wire.outcomes["status:14"]
    if goodbye is not None and late <= WAITS:
        broken.append(f"a late call was neither refused nor told UNAVAILABLE: {dict(wire.outcomes)}")
    if ended(server, 5.0) is None:
        broken.append("the process did not end")
    elif server.process.returncode != 0:
        broken.append(f"exit code {server.process.returncode}")
    return broken


def drain_twice(server: Helper, target: Target, slack: float) -> list[str]:
    """A second SIGTERM while an upload is half done."""
    caller = Caller(target)
    server.process.send_signal(signal.SIGTERM)
    caller.until(lambda: caller.wire.outcomes["status:14"] == WAITS, 3.0)
    if ended(server, LEISURE) is not None:
        return ["the process did not wait for the upload"]
    server.process.send_signal(signal.SIGTERM)
    took = ended(server, 10.0)
    return [] if took is not None and took <= SECOND_SIGNAL_SECONDS * slack else [f"ended after {took} s"]


def drain_cut(server: Helper, target: Target, slack: float) -> list[str]:
    """SIGTERM while an upload is half done whose caller then hangs up."""
    caller = Caller(target)
    server.process.send_signal(signal.SIGTERM)
    caller.until(lambda: caller.wire.outcomes["status:14"] == WAITS, 3.0)
    caller.wire.drop(abruptly=True)
    took = ended(server, 5.0)
    return [] if took is not None and server.process.returncode == 0 else [f"ended after {took} s"]


CHECKS: dict[str, Callable[[Helper, Target, float], list[str]]] = {
    "drain_once": drain_once,
    "drain_twice": drain_twice,
    "drain_cut": drain_cut,
}


def run(arena: Arena, options: argparse.Namespace) -> int:
    """Run the chosen checks, print a line for each, and return how many failed."""
    failed = 0
    for link in (PLAINTEXT, MTLS):
        for name, check in CHECKS.items():
            if options.link not in (None, link) or (options.only and name not in options.only):
                continue
            if options.bounded and not options.only and (link == MTLS and name != "drain_once"):
                continue
            broken = _check(arena, check, link)
            failed += bool(broken)
            sys.stdout.write(f"{name:27}  {link:9}  {'ok' if not broken else 'R14: ' + '; '.join(broken)}\n")
            sys.stdout.flush()
    return failed


def _check(arena: Arena, check: Callable[[Helper, Target, float], list[str]], link: str) -> list[str]:
    with arena.server(ORDINARY, link, alone=True) as (server, ports):
        certificates: Any = arena.clients if link == MTLS else None
        target = Target("127.0.0.1", ports["aggregator"], certificates)
        broken = check(server, target, arena.promises.slack)
        if b"Traceback" in server.log.read_bytes():
            broken.append("a traceback in the log")
        return broken
