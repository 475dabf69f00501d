"""The server that is killed: its files, its command line, its lives one after another."""

from __future__ import annotations

import io
import json
import os
import socket
import sys
import time
import zipfile
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeAlias

import anyio
import anyio.abc
import numpy as np
import yaml
from numpy.typing import NDArray

from openfl_aio.config import AssignerConfig, Endpoint, StragglerConfig, TaskGroup, TLSConfig, default_tasks
from openfl_aio.director.client import DirectorClient
from openfl_aio.errors import OpenFLAioError
from openfl_aio.plan.experiment import experiment_plan
from openfl_aio.plan.plan import Plan
from openfl_aio.plan.templates import PIPELINES
from openfl_aio.storage.models import ModelFiles
from openfl_aio.testing.ca import ThrowawayCA
from openfl_aio.transport.channel import Channel, open_channel, translate
from openfl_aio.wire.messages import aggregator, director
from tests.crash.catalogue import Case
from tests.crash.old_database import old_database
from tests.crash.sites import RETRY, initial_model

__all__ = ["WITNESS", "Kill", "Life", "Server", "ServerEnded", "archive_of", "plan_of"]

ROOT: Final = Path(__file__).parents[2]
WITNESS: Final = "witness"
"""A collaborator without a task, who is the last to be told to quit: until then the aggregator can be looked at."""

ANSWER_SECONDS: Final = 60.0

Kill: TypeAlias = tuple[str, int] | frozenset[str]
"""Where a life ends: at a failpoint that is reached for the so-manieth time, or at the first that is not one of these."""


class ServerEnded(Exception):
    """The server ended by itself, or did what makes no sense; it must not."""


@dataclass(slots=True)
class Life:
    """One life of a server: seconds from its start to its first answer, what it reached, how it ended."""

    first_answer: float | None = None
    reached: Counter[str] = field(default_factory=Counter)
    last: str = ""
    code: int | None = None


def plan_of(case: Case, port: int) -> Plan:
    """Return the plan of the federation of ``case``."""
    tasks = tuple(task.name for task in default_tasks())
    everybody = TaskGroup(name="sites", tasks=tasks, collaborators=case.collaborators)
    nobody = TaskGroup(name="witness", tasks=(), collaborators=(WITNESS,))
    plan = experiment_plan(
        task_runner="tests.crash.sites.Trainer",
        settings={},
        rounds=case.rounds,
        tasks=default_tasks(),
        aggregation=case.aggregation,
        assigner=None if case.director else AssignerConfig(kind="static_grouped", groups=(everybody, nobody)),
        stragglers=None
        if case.cutoff is None
        else StragglerConfig(kind="cutoff", cutoff_seconds=case.cutoff, minimum_reporting=2),
        delta_updates=case.delta_updates,
        agg_addr="localhost",
        agg_port=port,
        tls=case.tls,
    )
    data = yaml.safe_load(plan.dump())
    data["compression_pipeline"] = {"template": PIPELINES.template_of(case.pipeline), "settings": {}}
    return Plan.parse(yaml.safe_dump(data))


def archive_of(plan: Plan) -> bytes:
    """Return a workspace archive with the plan and a file beside it."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zf:
        zf.writestr("plan/plan.yaml", plan.dump())
        zf.writestr("code/trainer.py", "# the sites know what to do\n" * 100)
    return buffer.getvalue()


class Server:
    """An aggregator or a director as processes over the files in ``folder``; always on the same port."""

    def __init__(self, folder: Path, case: Case) -> None:
        self.folder = folder
        self.case = case
        self.port = _free_port()
        self.endpoint = Endpoint(host="localhost", port=self.port)
        self.plan = plan_of(case, self.port)
        self.log = folder / "log"
        self.lives: list[Life] = []
        self._record = folder / "reached"
        self._initial = folder / "save" / "init.pbuf"
        self._process: anyio.abc.Process | None = None
        self._authority: ThrowawayCA | None = None

    async def prepare(self, model: Mapping[str, NDArray[np.float32]] | None = None) -> None:
        """Write the files that an operator would write, with ``model`` to begin with, or that of the case."""
        (self.folder / "plan").mkdir(parents=True)
        if self.case.tls:
            self._authority = await anyio.to_thread.run_sync(ThrowawayCA, self.folder / "cert")
            self._authority.server()
        if self.case.director:
            settings = {
                "listen_host": "127.0.0.1",
                "listen_port": self.port,
                "sample_shape": ["2"],
                "target_shape": ["1"],
                "workspace": "workspace",
            }
            (self.folder / "director_config.yaml").write_text(yaml.safe_dump({"settings": settings}))
            if self.case.chores:
                old_database(self.folder / "workspace")
            return
        (self.folder / "plan" / "plan.yaml").write_text(self.plan.dump())
        names = [*self.case.collaborators, WITNESS]
        (self.folder / "plan" / "cols.yaml").write_text(yaml.safe_dump({"collaborators": names}))
        await ModelFiles(pipeline=self.case.pipeline).save(
            self._initial, initial_model(self.case) if model is None else model, round_number=0
        )

    def tls_of(self, name: str) -> TLSConfig | None:
        """Return what ``name`` shows who it is with; None in plaintext."""
        return None if self._authority is None else self._authority.client(name)

    def director_client(self, name: str) -> DirectorClient:
        """Return a client of the director that is ``name``."""
        tls = self.tls_of(name)
        return DirectorClient(self.endpoint, tls=tls, client_id=None if tls else name, retry=RETRY)

    async def initial_model(self) -> Mapping[str, NDArray[np.float32]]:
        """Return the model that the federation begins with, which went through the plan's pipeline in the file."""
        if self.case.director:
            return initial_model(self.case)
        return (await ModelFiles(pipeline=self.case.pipeline).load(self._initial)).tensors

    @asynccontextmanager
    async def life(self, kill: Kill | None = None) -> AsyncIterator[Life]:
        """Start the server, give its life, and note how it ended; it is killed if the block ends before it does."""
        self._record.unlink(missing_ok=True)
        end = {"except": sorted(kill)} if isinstance(kill, frozenset) else {"kill": kill}
        options = json.dumps({"record": str(self._record), **end})
        if self.case.director:
            arguments = ["openfl_aio.director", "start", "-c", "director_config.yaml", *self._certificates()]
        else:
            arguments = ["openfl_aio.aggregator", "start"]
        arguments += ["--durability", self.case.durability]
        life = Life()
        self.lives.append(life)
        with self.log.open("ab") as log:
            told = "a new failpoint" if isinstance(kill, frozenset) else kill
            log.write(f"--- life {len(self.lives)}, to be killed at {told}\n".encode())
            log.flush()
            process = await anyio.open_process(
                [sys.executable, "-m", "tests.crash.killed", options, *arguments],
                cwd=self.folder,
                env=_environment(),
                stdin=None,
                stdout=log,
                stderr=log,
            )
        self._process = process
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._until_answer, life, time.perf_counter())
                yield life
                group.cancel_scope.cancel()
        finally:
            with anyio.CancelScope(shield=True):
                self.kill()
                life.code = await process.wait()
            reached = self._record.read_text().splitlines() if self._record.exists() else []
            life.reached.update(reached)
            life.last = reached[-1] if reached else ""

    def channel(self) -> AbstractAsyncContextManager[Channel]:
        """Return a channel of the witness."""
        tls = self.tls_of(WITNESS)
        return open_channel(self.endpoint, tls=tls, metadata={} if tls else {"client_id": WITNESS})

    def _certificates(self) -> list[str]:
        if self._authority is None:
            return ["--disable-tls"]
        own = self._authority.server()
        return ["-rc", str(own.ca), "-pk", str(own.private_key), "-oc", str(own.certificate)]

    def kill(self) -> None:
        """Kill the process, if it lives."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def ended(self) -> None:
        """Return when the process is no more."""
        assert self._process is not None
        await self._process.wait()

    def tail(self) -> str:
        """Return the end of what the server wrote."""
        return self.log.read_text(errors="replace")[-600:]

    async def answers(self) -> bool:
        """Return whether a call is answered right now."""
        try:
            async with self.channel() as channel:
                with translate():
                    if self.case.director:
                        stub = director.DirectorStub(channel)
                        await stub.get_dataset_info(director.GetDatasetInfoRequest(), timeout=5)
                    else:
                        header = aggregator.MessageHeader(
                            sender=WITNESS,
                            receiver=self.plan.aggregator_uuid,
                            federation_uuid=self.plan.federation_uuid,
                        )
                        await aggregator.AggregatorStub(channel).ping(aggregator.PingRequest(header=header), timeout=5)
        except OpenFLAioError:
            return False
        return True

    async def _until_answer(self, life: Life, started: float) -> None:
        with anyio.move_on_after(ANSWER_SECONDS):
            while not await self.answers():
                await anyio.sleep(0.01)
            life.first_answer = time.perf_counter() - started


def _environment() -> dict[str, str]:
    # numerical libraries with threads of their own would make 2 processors slower
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
