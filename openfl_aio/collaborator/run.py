"""Running a collaborator as a process of its own: an OpenFL workspace folder in, exit code out."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from openfl_aio.aggregator.client import AggregatorClient
from openfl_aio.collaborator.collaborator import Collaborator
from openfl_aio.collaborator.openfl_runner import OpenFLTaskRunner, is_openfl_runner
from openfl_aio.collaborator.task_runner import TaskRunner, ThreadTaskRunner, load_runner
from openfl_aio.collaborator.templates import import_class
from openfl_aio.config import CollaboratorConfig, TLSConfig
from openfl_aio.errors import ConfigurationError
from openfl_aio.exit_codes import report
from openfl_aio.plan.files import load_data
from openfl_aio.plan.plan import Plan
from openfl_aio.plan.releases import RELEASES
from openfl_aio.storage.keys import CertificateLayout
from openfl_aio.telemetry.logs import configure_logging
from openfl_aio.transport.signals import run_until_signalled

__all__ = ["configure", "load_workspace_runner", "main", "run_collaborator", "run_main"]


def configure(plan: Plan, name: str, *, root: Path) -> CollaboratorConfig:
    """Return the configuration of collaborator ``name``. It may block: `auto` addresses are resolved.

    Certificates are where OpenFL puts them, below the plan's ``cert_folder`` in ``root``.
    """
    tls = None
    if plan.tls:
        layout = CertificateLayout(root / plan.cert_folder)
        pair = layout.client(name)
        tls = TLSConfig(ca=layout.chain, certificate=pair.certificate, private_key=pair.private_key)
    return plan.collaborator_config(name, tls=tls)


def load_workspace_runner(plan: Plan, *, data_path: str, root: Path) -> TaskRunner:
    """Import the plan's data loader and task runner from the workspace ``root`` and build them. Runs foreign code.

    The loader gets ``data_path`` and the plan's settings, the runner the loader and its settings. In a plan whose
    loader is one of OpenFL's own base classes, the runner gets ``data_path`` itself. A runner written for OpenFL's
    collaborator is driven as that does it. Raises `ConfigurationError`.
    """
    loader = plan.data_loader
    shard: Any = data_path
    if not loader.template.startswith("openfl."):
        cls = import_class(loader.template, path=root, what="data loader")
        try:
            shard = cls(**{**loader.settings, "data_path": data_path})
        except Exception as exc:
            raise ConfigurationError(
                f"data loader {loader.template!r} could not be built for {data_path!r}: {type(exc).__name__}: {exc}"
            ) from exc
    template, settings = plan.task_runner.template, plan.task_runner.settings
    cls = import_class(template, path=root, what="task runner")
    if not is_openfl_runner(cls):
        return load_runner(template, path=root, shard=shard, settings=settings, opt_treatment=plan.opt_treatment)
    try:
        runner = cls(**{**settings, "data_loader": shard})
        return OpenFLTaskRunner(runner, settings=plan.task_settings, opt_treatment=plan.opt_treatment or "RESET")
    except Exception as exc:
        raise ConfigurationError(
            f"task runner {template!r} could not be built with settings {sorted(settings)}: {type(exc).__name__}: {exc}"
        ) from exc


async def run_collaborator(
    name: str,
    *,
    plan_path: Path,
    data_path: Path,
    root: Path,
    started: Callable[[CollaboratorConfig], None] | None = None,
    release: str | None = None,
) -> None:
    """Work for the aggregator of the plan until it says that the federation is over.

    ``data_path`` is OpenFL's data.yaml. ``started`` is called when everything is loaded. ``release`` is the release of
    OpenFL whose default sections the plan means; without it the plan's keys tell. Raises `ConfigurationError`,
    `TaskError`, and `TransportError` when the aggregator cannot be reached.
    """
    plan = await anyio.to_thread.run_sync(lambda: Plan.load(plan_path, release=release))
    data = await anyio.to_thread.run_sync(load_data, data_path)
    if name not in data:
        raise ConfigurationError(f"{data_path}: names no data for collaborator {name!r}, only for {', '.join(data)}")
    config = await anyio.to_thread.run_sync(lambda: configure(plan, name, root=root))
    runner = await anyio.to_thread.run_sync(lambda: load_workspace_runner(plan, data_path=data[name], root=root))
    if started is not None:
        started(config)
    async with AggregatorClient(config) as aggregator:
        await Collaborator(
            name=name,
            aggregator=aggregator,
            aggregator_uuid=config.aggregator_uuid,
            runner=ThreadTaskRunner(runner),
            tasks=plan.tasks,
            delta_updates=config.delta_updates,
            pipeline=config.pipeline,
            store_rounds=config.store_rounds,
        ).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m openfl_aio.collaborator`` in a workspace folder and return the exit code: 0 also after a signal."""
    parser = argparse.ArgumentParser(prog="python -m openfl_aio.collaborator", description="Run a collaborator.")
    parser.add_argument("start", nargs="?", choices=["start"], help="optional, as in OpenFL")
    parser.add_argument("-n", "--collaborator_name", required=True, metavar="NAME")
    parser.add_argument("-p", "--plan", type=Path, default=Path("plan/plan.yaml"))
    parser.add_argument("-d", "--data_config", type=Path, default=Path("plan/data.yaml"))
    parser.add_argument("--openfl-release", choices=RELEASES, help="the aggregator's, if the plan's keys do not tell")
    parser.add_argument("--debug", action="store_true", help="log more, and show where an error came from")
    options = parser.parse_args(arguments)
    root = Path.cwd()

    async def run() -> None:
        await run_collaborator(
            options.collaborator_name,
            plan_path=options.plan,
            data_path=options.data_config,
            root=root,
            started=announce,
            release=options.openfl_release,
        )

    return run_main(run, debug=options.debug)


def run_main(run: Callable[[], Any], *, debug: bool) -> int:
    """Run ``run`` until it returns or a signal comes; print an error as one line. Return the exit code."""
    configure_logging("DEBUG" if debug else "INFO")
    try:
        anyio.run(run_until_signalled, run)
    except Exception as exc:
        return report(exc, debug=debug)
    return 0


def announce(config: CollaboratorConfig) -> None:
    """Print the one line that says for whom the collaborator works."""
    sys.stdout.write(f"collaborator {config.name} works for the aggregator at {config.endpoint}\n")
    sys.stdout.flush()
