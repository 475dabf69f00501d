"""From the files of an OpenFL workspace to a running aggregator."""

from __future__ import annotations

import argparse
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import anyio
import anyio.to_thread

from openfl_aio.aggregator.service import Aggregator
from openfl_aio.config import DURABILITIES, AggregatorConfig, Durability, Endpoint, TLSConfig
from openfl_aio.errors import ConfigurationError
from openfl_aio.exit_codes import report
from openfl_aio.plan.files import load_collaborators
from openfl_aio.plan.plan import Plan
from openfl_aio.plan.releases import RELEASES
from openfl_aio.storage.journal import ALL_ROUNDS
from openfl_aio.storage.keys import CertificateLayout
from openfl_aio.storage.models import ModelFiles
from openfl_aio.storage.storage import Storage
from openfl_aio.telemetry.logs import configure_logging
from openfl_aio.transport.signals import serve_until_signalled

__all__ = ["configure", "main", "open_aggregator", "wait_until_over"]


def configure(
    plan: Plan,
    collaborators: Path,
    *,
    root: Path,
    listen: Endpoint | None = None,
    allow_plaintext_anywhere: bool = False,
    deny_list: Path | None = None,
    crl: Path | None = None,
    durability: Durability | None = None,
) -> AggregatorConfig:
    """Return the configuration of the aggregator of ``plan`` in the workspace folder ``root``. Reads files.

    Certificates are where OpenFL puts them, below the plan's ``cert_folder``. Without ``listen`` the port is the
    plan's; over TLS every interface is served, in plaintext only this machine's own, unless that is allowed too.
    ``deny_list``, ``crl`` and ``durability`` replace what the plan names; the first two are refused in plaintext, where
    they mean nothing.
    """
    endpoint = plan.endpoint
    if listen is None:
        everywhere = plan.tls or allow_plaintext_anywhere
        listen = Endpoint(host="0.0.0.0" if everywhere else "127.0.0.1", port=endpoint.port)
    tls = None
    deny_list = deny_list or (root / plan.deny_list if plan.deny_list else None)
    crl = crl or (root / plan.crl if plan.crl else None)
    if not plan.tls and (deny_list or crl):
        raise ConfigurationError(
            f"nobody can be denied in plaintext: the plan says 'tls: false', but {deny_list or crl} is to deny "
            "certificates; choose one of the two"
        )
    if plan.tls:
        layout = CertificateLayout(root / plan.cert_folder)
        pair = layout.server(endpoint.host)
        tls = TLSConfig(
            ca=layout.chain,
            certificate=pair.certificate,
            private_key=pair.private_key,
            require_client_certificate=plan.require_client_certificate,
            deny_list=deny_list,
            crl=crl,
        )
    names = load_collaborators(collaborators)
    if not names:
        raise ConfigurationError(f"{collaborators}: collaborators: expected at least one name, got none")
    return plan.aggregator_config(
        collaborators=names, models_folder=root, listen=listen, tls=tls, durability=durability
    )


@asynccontextmanager
async def open_aggregator(
    plan_path: Path,
    collaborators: Path,
    *,
    root: Path = Path(),
    listen: Endpoint | None = None,
    allow_plaintext_anywhere: bool = False,
    deny_list: Path | None = None,
    crl: Path | None = None,
    durability: Durability | None = None,
    release: str | None = None,
    new: bool = False,
) -> AsyncIterator[Aggregator]:
    """Give a serving aggregator of the federation that ``plan_path`` and ``collaborators`` (cols.yaml) describe.

    Paths in the plan are relative to ``root``. Uploads are kept in ``root/state``. The initial model is the plan's
    ``init_state_path``; a model of a later round resumes there. A federation that was interrupted goes on where it was,
    unless it is to begin ``new``. ``release`` is the release of OpenFL whose default
    sections the plan means; without it the plan's keys tell. Raises `ConfigurationError` and `StorageError`.
    """
    plan = await anyio.to_thread.run_sync(lambda: Plan.load(plan_path, release=release))

    def configured() -> AggregatorConfig:
        return configure(
            plan,
            collaborators,
            root=root,
            listen=listen,
            allow_plaintext_anywhere=allow_plaintext_anywhere,
            deny_list=deny_list,
            crl=crl,
            durability=durability,
        )

    config = await anyio.to_thread.run_sync(configured)
    if plan.init_model_path is None:
        raise ConfigurationError(f"{plan_path}: aggregator.settings.init_state_path is missing: expected a model file")
    async with Storage(root / "state") as storage:
        if new:
            await storage.journal.drop(config.federation_uuid, ALL_ROUNDS)
            await storage.federation(config.federation_uuid).forget()
        # OpenFL's `fx plan initialize` codes the initial model as the plan says
        saved = await ModelFiles(pipeline=plan.pipeline).load(root / plan.init_model_path)
        aggregator = Aggregator(config, initial_model=saved.tensors, initial_round=saved.round_number, storage=storage)
        del saved  # the aggregator lets go of it after the first round
        async with aggregator:
            yield aggregator


async def wait_until_over(aggregator: Aggregator) -> None:
    """Return when the last round is done and every collaborator knows. Raises `ExperimentFailedError`."""
    await aggregator.wait_complete()
    await aggregator.wait_quits_sent()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one federation to its end. Return 0, also after SIGTERM, else a code of `openfl_aio.exit_codes`."""
    parser = argparse.ArgumentParser(prog="python -m openfl_aio.aggregator", description="Aggregate one federation.")
    commands = parser.add_subparsers(dest="command", required=True)
    start = commands.add_parser("start", help="serve until the last round is done")
    start.add_argument("-p", "--plan", type=Path, default=Path("plan/plan.yaml"), help="the federation's plan")
    start.add_argument(
        "-c", "--authorized_cols", type=Path, default=Path("plan/cols.yaml"), help="the list of collaborators"
    )
    start.add_argument(
        "--allow-plaintext-anywhere",
        action="store_true",
        help="with 'tls: false' in the plan: serve other machines too, unencrypted and unauthenticated",
    )
    start.add_argument(
        "--deny-list",
        type=Path,
        help="certificates that are denied: a line each of serial number, "
        "SHA-256 fingerprint or CN=NAME; read again when it changes",
    )
    start.add_argument("--crl", type=Path, help="the authority's revocation list; read again when it changes")
    start.add_argument(
        "--durability",
        choices=DURABILITIES,
        help="what survives of results: a killed process, the loss of power too, or nothing; instead of the plan's",
    )
    start.add_argument(
        "--openfl-release",
        choices=RELEASES,
        help="whose default sections the plan means, if its keys do not tell; the port may follow from it",
    )
    start.add_argument(
        "--new",
        action="store_true",
        help="begin with the initial model, and forget the rounds of a run that was interrupted; "
        "without it the federation goes on where it was",
    )
    start.add_argument("--debug", action="store_true", help="log more, and show where an error came from")
    options = parser.parse_args(arguments)
    configure_logging("DEBUG" if options.debug else "INFO")
    try:
        anyio.run(
            lambda: _serve(
                open_aggregator(
                    options.plan,
                    options.authorized_cols,
                    allow_plaintext_anywhere=options.allow_plaintext_anywhere,
                    deny_list=options.deny_list,
                    crl=options.crl,
                    durability=options.durability,
                    release=options.openfl_release,
                    new=options.new,
                )
            )
        )
    except Exception as exc:
        return report(exc, debug=options.debug)
    return 0


async def _serve(service: AbstractAsyncContextManager[Aggregator]) -> None:
    await serve_until_signalled(
        service, started=_announce, until=wait_until_over, reload=Aggregator.reload_certificates
    )


def _announce(aggregator: Aggregator) -> None:
    sys.stdout.write(f"aggregator of {aggregator.federation_uuid} serves at {aggregator.endpoint}\n")
    sys.stdout.flush()
