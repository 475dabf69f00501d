"""The job on a host that fails: no disk, no descriptors, a clock that jumps, processes that stand still."""

from __future__ import annotations

import errno
import logging
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from openfl_aio.config import Endpoint
from openfl_aio.domain import ExperimentStatus, Metric
from openfl_aio.errors import OpenFLAioError
from openfl_aio.testing.ca import ThrowawayCA
from tests.faults import clock
from tests.faults.director import Frontend, envoy
from tests.faults.job import NAMES, Job, counted_once, take_part
from tests.faults.networks import MTLS, QUICK, QUICK_JOB, QUICK_TIMEOUTS, leaf
from tests.faults.processes import Process, started, tls_to
from tests.faults.table import Seen

__all__ = ["HOSTS", "Host", "play"]

SECONDS = 240.0
TASK_SECONDS = 0.02  # so that the job does not end before something happened
TMPFS_BYTES = 4 * 1024 * 1024
FILES = 48
LOG_LINES = 60  # that a lack of descriptors may cost


class NotHereError(Exception):
    """What a fault needs is not to be had on this machine."""


@dataclass
class Stage:
    """A serving aggregator and what a fault needs to know of it."""

    ca: ThrowawayCA
    link: str
    seed: int
    bounded: bool
    folder: Path
    seen: Seen
    random: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)

    @asynccontextmanager
    async def serving(self, job: Job, *, workspace: Path | None = None, **options: Any) -> AsyncIterator[Process]:
        """Give the aggregator's process; the job's collaborators are to be started with `members`."""
        tls = self.ca.server() if self.link == MTLS else None
        told = {
            "elements": job.elements,
            "workspace": str(workspace or self.folder / "workspace"),
            "limits": job.limits.model_dump(exclude_defaults=True),
            "timeouts": job.timeouts.model_dump(),
            "tls": tls_to(tls),
            **options,
        }
        async with started("served", told) as server:
            self.hello = await server.hear()
            yield server

    async def members(self, job: Job, *, names: tuple[str, ...] = NAMES) -> None:
        """Be the collaborators until the job is over."""
        async with anyio.create_task_group() as group:
            for name in names:
                tls = self.ca.client(name) if self.link == MTLS else None
                config = job.collaborator(name, self.hello["ids"], Endpoint(port=self.hello["port"]), tls)
                group.start_soon(partial(take_part, config, seconds=TASK_SECONDS))

    async def judge(self, server: Process, expected: str) -> None:
        """See what came out."""
        told = await server.ask()
        self.seen.counts["counted"] = len(told["metrics"])
        self.seen.broken += [f"R11: {text}" for text in counted_once([Metric(*one) for one in told["metrics"]])]
        if told["model"] != expected:
            self.seen.broken.append(f"another model, in phase {told['phase']}: {told['model']}, expected {expected}")
        if b"Traceback" in server.log:
            self.seen.broken.append(f"R18: a traceback: {server.log[-1500:].decode()}")


@dataclass(frozen=True)
class Host:
    """One fault of a host: what ``act`` does while the job runs."""

    name: str
    what: str
    act: Callable[[Stage, str], Awaitable[None]]
    links: tuple[str, ...] = (MTLS,)
    bounded: bool = True
    job: Job = field(default_factory=Job)


class _Waits(logging.Handler):
    """Counts the results that had to wait for room."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "until there is room" in record.getMessage()


# ---------------------------------------------------------------------------------------------------------- disks


async def _while_full(stage: Stage, server: Process, full: Callable[[bool], None]) -> None:
    """Fill the disk and free it again at random moments, while the job runs; nothing may move while it is full."""
    times = 2 if stage.bounded else 8
    for _ in range(times):
        await anyio.sleep(stage.random.uniform(0.05, 0.3))
        if (await server.ask())["phase"] == "COMPLETE":
            return
        full(True)
        stage.seen.counts["full"] = stage.seen.counts.get("full", 0) + 1
        await anyio.sleep(0.5)  # what was under way is refused or kept by now
        before = await server.ask()
        await anyio.sleep(stage.random.uniform(0.2, 1.0))
        after = await server.ask()
        full(False)
        if (before["round"], len(before["metrics"])) != (after["round"], len(after["metrics"])):
            stage.seen.broken.append(f"R13: went on without a disk, from round {before['round']} to {after['round']}")


async def _without_disk(
    stage: Stage, expected: str, full: Callable[[Process, bool], None], *, workspace: Path | None = None
) -> None:
    waits = _Waits()
    logger = logging.getLogger("openfl_aio.transport.channel")
    logger.addHandler(waits)
    job = Job()
    try:
        async with stage.serving(job, workspace=workspace) as server:
            async with anyio.create_task_group() as group:
                group.start_soon(stage.members, job)
                await _while_full(stage, server, lambda on: full(server, on))
            await stage.judge(server, expected)
    finally:
        logger.removeHandler(waits)
    stage.seen.counts["waits"] = waits.count
    # between two rounds nobody has a result to send: then it is the server that waits, with a checkpoint
    if not waits.count and b"waiting for room on the disk" not in server.log:
        stage.seen.broken.append("nothing had to wait for room: nothing was proved")


async def disk_limit(stage: Stage, expected: str) -> None:
    """No file may grow (EFBIG), again and again."""
    await _without_disk(stage, expected, _no_growth)


async def disk_full(stage: Stage, expected: str) -> None:
    """The disk is full (ENOSPC, a small tmpfs), again and again."""
    workspace = stage.folder / "disk"
    workspace.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={TMPFS_BYTES}", "tmpfs", str(workspace)]
    done = await anyio.to_thread.run_sync(lambda: subprocess.run(command, capture_output=True, text=True, check=False))
    if done.returncode != 0:
        raise NotHereError(f"no file system can be mounted: {done.stderr.strip()}")
    filler = workspace / "filler"

    def full(server: Process, on: bool) -> None:
        if on:
            _fill(filler)
        else:
            filler.unlink()

    try:
        await _without_disk(stage, expected, full, workspace=workspace)
    finally:
        await anyio.to_thread.run_sync(lambda: subprocess.run(["umount", "-l", str(workspace)], check=False))


async def disk_director(stage: Stage, expected: str) -> None:
    """No file of a director may grow (EFBIG): when an experiment is submitted, and again and again while it runs."""
    job = Job()
    async with stage.serving(job, director=True) as server:
        endpoint = Endpoint(port=stage.hello["port"])
        frontend = Frontend(endpoint, stage.ca, job)
        _no_growth(server, True)
        wrong = await frontend.refused()
        _no_growth(server, False)
        if wrong is not None:
            stage.seen.broken.append(f"R13: {wrong}")
            return
        async with anyio.create_task_group() as group:
            for name in NAMES:
                group.start_soon(partial(envoy, name, endpoint, stage.ca.client(name), seconds=TASK_SECONDS))
            await frontend.submit()
            for _ in range(2 if stage.bounded else 8):
                await anyio.sleep(stage.random.uniform(0.05, 0.3))
                if await frontend.status() is ExperimentStatus.FINISHED:
                    break
                _no_growth(server, True)
                await anyio.sleep(stage.random.uniform(0.3, 1.0))
                _no_growth(server, False)
                stage.seen.counts["full"] = stage.seen.counts.get("full", 0) + 1
        model, metrics = await frontend.outcome()
        stage.seen.broken += [f"R11: {text}" for text in counted_once(metrics)]
        if model != expected:
            stage.seen.broken.append(f"another model: {model}, expected {expected}")
        if b"Traceback" in server.log:
            stage.seen.broken.append(f"R18: a traceback: {server.log[-1500:].decode()}")


def _no_growth(server: Process, on: bool) -> None:
    _, hard = resource.prlimit(server.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(server.pid, resource.RLIMIT_FSIZE, (0 if on else hard, hard))


def _fill(path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (65_536, 1):  # to the last byte
            while True:
                try:
                    os.write(descriptor, bytes(size))
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                    break
    finally:
        os.close(descriptor)


# ---------------------------------------------------------------------------------------------------------- descriptors


async def few_files(stage: Stage, expected: str) -> None:
    """The server may open 48 files, and 100 strangers connect all the time."""
    job = Job()
    async with stage.serving(job, files=FILES) as server:
        strangers, stack = 0, ExitStack()
        async with anyio.create_task_group() as group:
            group.start_soon(stage.members, job)
            while (await server.ask())["phase"] not in ("COMPLETE", "ABORTED"):
                for _ in range(100):
                    sock = stack.enter_context(socket.socket())
                    sock.setblocking(False)
                    sock.connect_ex(("127.0.0.1", stage.hello["port"]))
                    strangers += 1
                await anyio.sleep(0.3)
                if strangers % 600 == 0:
                    stack.close()
        stack.close()
        stage.seen.counts["strangers"] = strangers
        await stage.judge(server, expected)
        lines = server.log.count(b"\n")
        stage.seen.counts["log lines"] = lines
        if lines > LOG_LINES:
            stage.seen.broken.append(f"R18: {lines} lines of log")


# ---------------------------------------------------------------------------------------------------------- time


async def paused_server(stage: Stage, expected: str) -> None:
    """The server stands still for longer than anybody's keepalive and long poll."""
    async with stage.serving(QUICK_JOB) as server:
        async with anyio.create_task_group() as group:
            group.start_soon(stage.members, QUICK_JOB)
            for _ in range(1 if stage.bounded else 3):
                await anyio.sleep(stage.random.uniform(0.1, 0.4))
                if (await server.ask())["phase"] == "COMPLETE":
                    break
                await _pause(stage, server.pid)
        await stage.judge(server, expected)


async def paused_collaborator(stage: Stage, expected: str) -> None:
    """A collaborator's process stands still for longer than its server's keepalive."""
    async with stage.serving(QUICK_JOB) as server:
        tls = tls_to(stage.ca.client(NAMES[0]) if stage.link == MTLS else None)
        options = {**stage.hello, "name": NAMES[0], "tls": tls, "seconds": TASK_SECONDS}
        async with started("member", options) as member:
            await member.hear()
            async with anyio.create_task_group() as group:
                group.start_soon(lambda: stage.members(QUICK_JOB, names=NAMES[1:]))
                for _ in range(1 if stage.bounded else 3):
                    await anyio.sleep(stage.random.uniform(0.4, 0.8))
                    if member.code is None:
                        await _pause(stage, member.pid)
                await member.hear()
        await stage.judge(server, expected)


async def _pause(stage: Stage, pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    try:
        longest = max(QUICK.keepalive_seconds + QUICK.keepalive_timeout, QUICK_TIMEOUTS.long_poll)
        await anyio.sleep(longest + 1.0)
    finally:
        os.kill(pid, signal.SIGCONT)
    stage.seen.counts["pauses"] = stage.seen.counts.get("pauses", 0) + 1


async def clock_jumps(stage: Stage, expected: str) -> None:
    """The wall clock of every process jumps by two days, either way, while a job runs and envoys wait."""
    shim = await anyio.to_thread.run_sync(clock.build, stage.folder)
    if shim is None:
        raise NotHereError("no C compiler makes the library that moves the clock")
    options = {"certificates": str(stage.folder / "certificates"), "workspace": str(stage.folder / "workspace")}
    async with started("clock", options, environment=shim) as process:
        told = await process.hear(120.0)
    stage.seen.counts |= told["counts"]
    stage.seen.broken += told["broken"]
    if told["model"] != expected:
        stage.seen.broken.append(f"another model: {told['model']}, expected {expected}")


HOSTS = {
    host.name: host
    for host in (
        Host("disk_limit", "no file may grow (EFBIG), again and again", disk_limit),
        Host("disk_full", "the disk is full (ENOSPC, a small tmpfs), again and again", disk_full),
        Host("disk_director", "a director's disk is full when an experiment comes, and again and again", disk_director),
        Host("few_files", "48 descriptors, and strangers who take them", few_files, links=("plaintext", MTLS)),
        Host("paused_server", "the server stands still for longer than keepalive", paused_server),
        Host("paused_collaborator", "a collaborator does", paused_collaborator),
        Host("clock_jumps", "the wall clock jumps by 2 days, either way", clock_jumps),
    )
}


async def play(
    host: Host, link: str, ca: ThrowawayCA, *, seed: int, bounded: bool, expected: str, folder: Path
) -> Seen:
    """Let a host fail while the job runs, and judge what came out."""
    seen = Seen(host.name, link)
    began = time.monotonic()
    await anyio.to_thread.run_sync(folder.mkdir)
    try:
        with anyio.fail_after(SECONDS):
            await host.act(Stage(ca, link, seed, bounded, folder, seen), expected)
    except NotHereError as exc:
        seen.skipped = str(exc)
    except TimeoutError:
        seen.broken.append(f"not over after {SECONDS:.0f} s")
    except (OpenFLAioError, RuntimeError, ExceptionGroup) as exc:
        seen.broken.append(leaf(exc))
    await anyio.to_thread.run_sync(lambda: shutil.rmtree(folder, ignore_errors=True))
    seen.seconds = time.monotonic() - began
    return seen
