"""The demonstration: a director and some envoys as real processes over mutual TLS, and what federating is worth.

Three ways to train the same small network with the same number of mini-batch steps, measured on digits that nobody
trained on: the federation, each site alone, and all data in one place.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread
import numpy as np
import yaml

import openfl_aio.demo
from openfl_aio.config import TLSConfig
from openfl_aio.demo import network
from openfl_aio.demo.digits import FEATURES, Digits, load_digits
from openfl_aio.demo.processes import Child, running
from openfl_aio.demo.shard import DigitsShard
from openfl_aio.domain import Metric
from openfl_aio.errors import ConfigurationError, ExperimentFailedError
from openfl_aio.experiment import Experiment, Federation
from openfl_aio.pki import Usage, create_ca, issue_client, issue_server
from openfl_aio.storage.files import write_atomic
from openfl_aio.storage.pki_folder import PKIFolder

__all__ = ["Comparison", "DemoOptions", "run_demo"]

HOST = "127.0.0.1"
STEPS = 20  # mini-batches a site takes each round
START_SECONDS = 40.0
Report = Callable[[Metric], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoOptions:
    """How the demonstration is run."""

    collaborators: int = 3
    rounds: int = 30
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("collaborators", "rounds"):
            if getattr(self, name) < 1:
                raise ConfigurationError(f"{name} must be at least 1, got {getattr(self, name)}")

    @property
    def sites(self) -> list[str]:
        """Names of the envoys."""
        return [f"site_{number + 1}" for number in range(self.collaborators)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Accuracy on the held-out digits, 0 to 1, of three ways to train. ``seconds`` is the federation's, from submission."""

    federated: float
    alone: dict[str, float]
    samples: dict[str, int]
    central: float
    held_out: int
    seconds: float

    @property
    def federation_wins(self) -> bool:
        """True if the federated model beats every site alone."""
        return self.federated > max(self.alone.values())


async def run_demo(options: DemoOptions, *, folder: Path, report: Report) -> Comparison:
    """Run the demonstration in ``folder``; ``report`` gets each metric as it comes. Everything it starts ends with it.

    Raises `ExperimentFailedError` with the last lines of the log if one of the processes ends early.
    """
    await anyio.to_thread.run_sync(_write_files, options, folder)
    try:
        model, seconds = await _run_processes(options, folder, report)
    except BaseExceptionGroup as group:
        # the first says why; what follows from it is noise
        raise _first(group) from None
    return await anyio.to_thread.run_sync(_compare, options, model, seconds)


async def _run_processes(options: DemoOptions, folder: Path, report: Report) -> tuple[dict[str, np.ndarray], float]:
    async with AsyncExitStack() as processes, anyio.create_task_group() as watchers:
        arguments = ["start", "-c", "director_config.yaml", *_certificates("server", HOST)]
        director = await processes.enter_async_context(
            running("the director", "openfl_aio.director", arguments, log=folder / "director.log", cwd=folder)
        )
        port = await _port(director)
        watchers.start_soon(director.watch)
        for site in options.sites:
            arguments = [
                "start",
                "-n",
                site,
                "-dh",
                HOST,
                "-dp",
                port,
                "-ec",
                f"{site}.yaml",
                *_certificates("client", site),
            ]
            envoy = await processes.enter_async_context(
                running(f"envoy {site}", "openfl_aio.envoy", arguments, log=folder / f"{site}.log", cwd=folder)
            )
            watchers.start_soon(envoy.watch)
        started = time.monotonic()
        model = await _federate(options, int(port), folder, report)
        seconds = time.monotonic() - started
        watchers.cancel_scope.cancel()
    return model, seconds


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _port(director: Child) -> str:
    with anyio.move_on_after(START_SECONDS):
        return (await director.first_line()).rsplit(":", 1)[1].strip()
    raise ExperimentFailedError(f"the director did not say within {START_SECONDS:.0f} s where it listens; see its log")


async def _federate(options: DemoOptions, port: int, folder: Path, report: Report) -> dict[str, np.ndarray]:
    experiment = Experiment(
        # a kept folder may hold earlier runs
        name=f"digits_{time.strftime('%Y%m%d_%H%M%S')}",
        workspace=Path(openfl_aio.demo.__file__).parent / "workspace",
        task_runner="digits_task.DigitsTask",
        rounds=options.rounds,
        collaborators=tuple(options.sites),
        settings={"steps": STEPS, "seed": options.seed},
    )
    async with Federation(HOST, port, tls=_tls(folder, "frontend")) as federation:
        await _envoys_online(federation, options.sites)
        run = await federation.submit(experiment)
        async for metric in run.metrics():
            await report(metric)
        await run.wait()
        return await run.last_model()


async def _envoys_online(federation: Federation, sites: list[str]) -> None:
    # asked, because OpenFL's wire has no event for it; only the start of the demonstration waits this way
    with anyio.move_on_after(START_SECONDS):
        while not set(sites) <= {  # noqa: ASYNC110
            envoy.shard.name for envoy in await federation.envoys() if envoy.is_online
        }:
            await anyio.sleep(0.1)
        return
    raise ExperimentFailedError(f"not all of {', '.join(sites)} came online in {START_SECONDS:.0f} s; see their logs")


def _compare(options: DemoOptions, model: dict[str, np.ndarray], seconds: float) -> Comparison:
    _, held_out = load_digits(options.seed)
    shards = {
        site: DigitsShard(site=number, sites=options.collaborators, seed=options.seed)
        for number, site in enumerate(options.sites)
    }
    parts = {site: shard.get_dataset("train") for site, shard in shards.items()}
    everything = Digits(
        np.concatenate([part.images for part in parts.values()]),
        np.concatenate([part.labels for part in parts.values()]),
    )

    def trained_on(digits: Digits) -> float:
        start = network.initial_model()
        return network.accuracy(
            network.train(start, digits, steps=STEPS * options.rounds, seed=options.seed)[0], held_out
        )

    return Comparison(
        federated=network.accuracy(model, held_out),
        alone={site: trained_on(part) for site, part in parts.items()},
        samples={site: len(part) for site, part in parts.items()},
        central=trained_on(everything),
        held_out=len(held_out),
        seconds=seconds,
    )


def _write_files(options: DemoOptions, folder: Path) -> None:
    kept = PKIFolder(folder / "cert")
    authority = create_ca("openfl_aio demonstration")
    kept.save_authority(authority, force=True)
    kept.save_credentials("server", HOST, issue_server(authority, HOST), force=True)
    for name in [*options.sites, "frontend"]:
        kept.save_credentials("client", name, issue_client(authority, name), force=True)
    settings = {"listen_host": HOST, "listen_port": 0, "sample_shape": [str(FEATURES)], "target_shape": ["1"]}
    _write_yaml(folder / "director_config.yaml", {"settings": {**settings, "workspace": "director"}})
    for number, site in enumerate(options.sites):
        params = {"site": number, "sites": options.collaborators, "seed": options.seed}
        shard = {"template": "openfl_aio.demo.shard.DigitsShard", "params": params}
        _write_yaml(folder / f"{site}.yaml", {"params": {"install_requirements": False}, "shard_descriptor": shard})


def _write_yaml(path: Path, content: object) -> None:
    write_atomic(path, [yaml.safe_dump(content, sort_keys=False).encode()])


def _certificates(usage: Usage, name: str) -> list[str]:
    kept = PKIFolder(Path("cert"))
    certificate, key = kept.certificate(usage, name), kept.key(usage, name)
    return ["-rc", str(kept.ca_certificate), "-pk", str(key), "-oc", str(certificate)]


def _tls(folder: Path, name: str) -> TLSConfig:
    kept = PKIFolder(folder / "cert")
    return TLSConfig(
        ca=kept.ca_certificate, certificate=kept.certificate("client", name), private_key=kept.key("client", name)
    )
