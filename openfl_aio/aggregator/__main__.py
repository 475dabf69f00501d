"""``python -m openfl_aio.aggregator start -p plan/plan.yaml -c plan/cols.yaml``, in a workspace folder."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import anyio

from openfl_aio.aggregator.run import open_aggregator, wait_until_over
from openfl_aio.aggregator.service import Aggregator
from openfl_aio.errors import ConfigurationError, OpenFLAioError
from openfl_aio.transport.signals import serve_until_signalled

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one federation to its end. Return 0, also after SIGTERM; 2 for a wrong configuration, 1 for other failures."""
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
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        anyio.run(_serve, options.plan, options.authorized_cols, options.allow_plaintext_anywhere)
    except (OpenFLAioError, BaseExceptionGroup) as error:
        return _fail(error)
    return 0


async def _serve(plan: Path, collaborators: Path, allow_plaintext_anywhere: bool) -> None:
    service = open_aggregator(plan, collaborators, allow_plaintext_anywhere=allow_plaintext_anywhere)
    await serve_until_signalled(service, started=_announce, until=wait_until_over)


def _announce(aggregator: Aggregator) -> None:
    sys.stdout.write(f"aggregator of {aggregator.federation_uuid} serves at {aggregator.endpoint}\n")
    sys.stdout.flush()


def _fail(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, OpenFLAioError):
        raise error
    sys.stderr.write(f"error: {error}\n")
    return 2 if isinstance(error, ConfigurationError) else 1


if __name__ == "__main__":
    sys.exit(main())
