"""Running a director as a process of its own: command line and file in, exit code out."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import anyio

from openfl_aio.config import DURABILITIES, DirectorConfig, Durability, TLSConfig
from openfl_aio.director.execution import Review
from openfl_aio.director.service import Director
from openfl_aio.errors import ConfigurationError
from openfl_aio.exit_codes import report
from openfl_aio.plan.files import load_director_file
from openfl_aio.telemetry.logs import configure_logging
from openfl_aio.terminal import REVIEW_SECONDS, terminal_review
from openfl_aio.transport.signals import serve_until_signalled

__all__ = ["director_config", "find_director_file", "main", "run_director"]

logger = logging.getLogger(__name__)

CONFIG_FILES: Final = ("director_config.yaml", "director.yaml")
"""Ours, which is that of OpenFL's tutorials too, and what its ``fx director start`` reads where none is named."""

STATE_FOLDER: Final = "director_state"
"""Beside the configuration file, where that names no other folder and durability is not ``memory``."""


def director_config(
    path: Path,
    *,
    tls: bool = True,
    root_ca: Path | None = None,
    private_key: Path | None = None,
    certificate: Path | None = None,
    deny_list: Path | None = None,
    crl: Path | None = None,
    allow_pickled_code: bool = False,
    durability: Durability | None = None,
) -> DirectorConfig:
    """Return the configuration in OpenFL's ``director_config.yaml`` at ``path``, with the certificate files added.

    Files and ``durability`` given here replace what the file names, and ``allow_pickled_code`` is on if either says so.
    What is to survive a restart lies in `STATE_FOLDER` beside the file, unless that names a folder. Raises
    `ConfigurationError` for a wrong file, and unless exactly the certificates that ``tls`` asks for are given.
    """
    file = load_director_file(path)
    config = file.config
    if allow_pickled_code:
        config = config.model_copy(update={"allow_pickled_code": True})
    if durability is not None:
        config = config.model_copy(update={"durability": durability})
    if config.workspace is None and config.durability != "memory":
        # OpenFL's files name none, and a restart must not lose what was answered
        config = config.model_copy(update={"workspace": path.absolute().parent / STATE_FOLDER})
    files = {"-rc": root_ca, "-pk": private_key, "-oc": certificate}
    lists = {"deny_list": deny_list or file.deny_list, "crl": crl or file.crl}
    if not tls:
        every = files | {"--deny-list": deny_list, "--crl": crl}
        given = [option for option, named in every.items() if named is not None]
        if given:
            raise ConfigurationError(f"--disable-tls was given together with {', '.join(given)}; choose one of the two")
        return config.model_copy(update={"tls": None})
    if config.tls is not None and not any(files.values()):
        return config.model_copy(update={"tls": config.tls.model_copy(update=lists)})
    if root_ca is None or private_key is None or certificate is None:
        missing = ", ".join(option for option, named in files.items() if named is None)
        raise ConfigurationError(
            f"mutual TLS needs certificates, missing {missing}; give them, or choose --disable-tls"
        )
    own = TLSConfig(ca=root_ca, certificate=certificate, private_key=private_key, **lists)
    return config.model_copy(update={"tls": own})


async def run_director(
    config: DirectorConfig, *, announce: Callable[[Director], None] | None = None, review: Review | None = None
) -> None:
    """Serve until SIGTERM or SIGINT; ``announce`` is called once the director listens, ``review`` asked for each plan.

    At SIGHUP certificates and lists are read again.
    """
    director = Director(config, review=review)
    await serve_until_signalled(director, started=announce, reload=Director.reload_certificates)


def find_director_file(folder: Path) -> Path:
    """Return the file in ``folder`` that a director reads where none is named: ours, else the one of OpenFL's ``fx``."""
    ours, theirs = (folder / name for name in CONFIG_FILES)
    if ours.exists() and theirs.exists():
        logger.warning("reading %s; %s, which OpenFL reads, is left alone: name one of them with -c", ours, theirs)
    return theirs if theirs.exists() and not ours.exists() else ours


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``python -m openfl_aio.director`` and return the exit code: 0 after a signal, else of `openfl_aio.exit_codes`."""
    parser = argparse.ArgumentParser(prog="python -m openfl_aio.director", description="Run a director.")
    parser.add_argument("start", nargs="?", choices=["start"], help="optional, as in OpenFL")
    parser.add_argument(
        "-c",
        "--director-config-path",
        type=Path,
        help=f"without it {CONFIG_FILES[0]}, or {CONFIG_FILES[1]} if only that is there",
    )
    parser.add_argument("--tls", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--disable-tls", dest="tls", action="store_false", help="plaintext, on loopback only")
    parser.add_argument("-rc", "--root-cert-path", type=Path, metavar="CA")
    parser.add_argument("-pk", "--private-key-path", type=Path, metavar="KEY")
    parser.add_argument("-oc", "--public-cert-path", type=Path, metavar="CERT")
    parser.add_argument(
        "--deny-list",
        type=Path,
        help="certificates that are denied: a line each of serial number, "
        "SHA-256 fingerprint or CN=NAME; read again when it changes",
    )
    parser.add_argument("--crl", type=Path, help="the authority's revocation list; read again when it changes")
    parser.add_argument(
        "--allow-pickled-code",
        action="store_true",
        help="run assigners and aggregation functions that users of OpenFL's frontend wrote, in a child process that may "
        "do what this one may",
    )
    parser.add_argument(
        "--durability",
        choices=DURABILITIES,
        help="what survives of results: a killed process, the loss of power too, or nothing; instead of the file's",
    )
    parser.add_argument("--review-seconds", type=float, metavar="N", help=REVIEW_SECONDS)
    parser.add_argument("--debug", action="store_true", help="log more, and show where an error came from")
    options = parser.parse_args(arguments)
    configure_logging("DEBUG" if options.debug else "INFO")
    path = options.director_config_path or find_director_file(Path())
    try:
        config = director_config(
            path,
            tls=options.tls,
            root_ca=options.root_cert_path,
            private_key=options.private_key_path,
            certificate=options.public_cert_path,
            deny_list=options.deny_list,
            crl=options.crl,
            allow_pickled_code=options.allow_pickled_code,
            durability=options.durability,
        )
        review = None
        if config.review_experiment:
            review = terminal_review(f"{path}: settings.review_experiment", seconds=options.review_seconds)
        anyio.run(lambda: run_director(config, announce=announce, review=review))
    except Exception as exc:
        return report(exc, debug=options.debug)
    return 0


def announce(director: Director) -> None:
    """Print the one line that says where the director listens."""
    sys.stdout.write(f"director listens on {director.endpoint}\n")
    sys.stdout.flush()
