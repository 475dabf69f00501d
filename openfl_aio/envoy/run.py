"""Running an envoy as a process of its own: command line and file in, exit code out."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import anyio.to_thread

from openfl_aio.collaborator.run import run_main
from openfl_aio.config import Endpoint, EnvoyConfig, TLSConfig
from openfl_aio.domain import ShardInfo
from openfl_aio.envoy.envoy import Envoy, Review
from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.files import load_envoy_config
from openfl_aio.terminal import REVIEW_SECONDS, terminal_review

__all__ = ["envoy_config", "main", "run_envoy"]

logger = logging.getLogger(__name__)


def envoy_config(
    path: Path,
    *,
    name: str,
    director: Endpoint,
    tls: bool = True,
    root_ca: Path | None = None,
    private_key: Path | None = None,
    certificate: Path | None = None,
    workspace: Path | None = None,
) -> EnvoyConfig:
    """Return the configuration of envoy ``name`` with the shard in OpenFL's ``envoy_config.yaml`` at ``path``. Reads files.

    Certificates given here replace those that the file names. Raises `ConfigurationError` for a wrong file, and unless
    exactly the certificates that ``tls`` asks for are given.
    """
    file = load_envoy_config(path)
    if file.install_requirements:
        logger.warning(
            "%s: params.install_requirements has no effect: nothing is installed for an experiment; install what its "
            "requirements.txt names where you find that right, and remove the line",
            path,
        )
    files = {"-rc": root_ca, "-pk": private_key, "-oc": certificate}
    given = [option for option, value in files.items() if value is not None]
    if not tls:
        if given:
            raise ConfigurationError(f"--disable-tls was given together with {', '.join(given)}; choose one of the two")
        config = file.config(name=name, director=director, workspace=workspace)
        return config.model_copy(update={"tls": None})
    if not given and file.tls is not None:
        return file.config(name=name, director=director, workspace=workspace)
    if root_ca is None or private_key is None or certificate is None:
        missing = ", ".join(option for option in files if option not in given)
        raise ConfigurationError(
            f"mutual TLS needs certificates, missing {missing}; give them, or choose --disable-tls"
        )
    chosen = TLSConfig(ca=root_ca, certificate=certificate, private_key=private_key)
    return file.config(name=name, director=director, tls=chosen, workspace=workspace)


async def run_envoy(
    config: EnvoyConfig, *, announce: Callable[[ShardInfo], None] | None = None, review: Review | None = None
) -> None:
    """Work for the director until cancelled.

    ``announce`` is called once the shard is registered, ``review`` asked for the plan of each experiment.
    """
    await Envoy(config, registered=announce, review=review).run()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m openfl_aio.envoy`` and return the exit code: 0 after SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(prog="python -m openfl_aio.envoy", description="Run an envoy.")
    parser.add_argument("start", nargs="?", choices=["start"], help="optional, as in OpenFL")
    parser.add_argument("-n", "--shard-name", required=True, metavar="NAME")
    parser.add_argument("-dh", "--director-host", required=True, metavar="HOST")
    parser.add_argument("-dp", "--director-port", required=True, type=int, metavar="PORT")
    parser.add_argument("-ec", "--envoy-config-path", type=Path, default=Path("envoy_config.yaml"), metavar="FILE")
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--disable-tls", dest="tls", action="store_false", help="plaintext")
    parser.add_argument("-rc", "--root-cert-path", type=Path, metavar="CA")
    parser.add_argument("-pk", "--private-key-path", type=Path, metavar="KEY")
    parser.add_argument("-oc", "--public-cert-path", type=Path, metavar="CERT")
    parser.add_argument(
        "--workspace", type=Path, help="folder for runs, of this envoy alone (default: a temporary one)"
    )
    parser.add_argument(
        "--real-openfl",
        action="store_true",
        help="archives of OpenFL's frontend import OpenFL itself, which must be installed here (default: our stand-ins)",
    )
    parser.add_argument("--review-seconds", type=float, metavar="N", help=REVIEW_SECONDS)
    parser.add_argument("--debug", action="store_true", help="log more, and show where an error came from")
    options = parser.parse_args(arguments)

    def read() -> EnvoyConfig:
        config = envoy_config(
            options.envoy_config_path,
            name=options.shard_name,
            director=Endpoint(host=options.director_host, port=options.director_port),
            tls=options.tls,
            root_ca=options.root_cert_path,
            private_key=options.private_key_path,
            certificate=options.public_cert_path,
            workspace=options.workspace,
        )
        return config.model_copy(update={"real_openfl": options.real_openfl})

    async def run() -> None:
        config = await anyio.to_thread.run_sync(read)
        review = None
        if config.review_experiment:
            setting = f"{options.envoy_config_path}: params.review_experiment"
            review = terminal_review(setting, seconds=options.review_seconds)
        await run_envoy(config, announce=lambda shard: announce(shard, config), review=review)

    return run_main(run, debug=options.debug)


def announce(shard: ShardInfo, config: EnvoyConfig) -> None:
    """Print the one line that says that the director knows this envoy."""
    sys.stdout.write(f"envoy {shard.name} is registered at the director {config.director}\n")
    sys.stdout.flush()
