"""The ``openfl-aio`` command and how its errors are told: one sentence, a documented exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Annotated

import typer
from typer.exceptions import TyperException

from openfl_aio.cli import experiment, pki, roles
from openfl_aio.cli.demo import demo
from openfl_aio.exit_codes import ExitCode, report

__all__ = ["app", "main"]

app = typer.Typer(
    name="openfl-aio",
    help="Federated learning on one event loop, compatible with OpenFL 1.6.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(pki.app, name="pki")
app.add_typer(experiment.app, name="experiment")
app.command()(demo)
roles.add_to(app)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Federated learning on one event loop, compatible with OpenFL 1.6."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with a documented code (`openfl_aio.exit_codes`)."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(arguments, prog_name="openfl-aio", standalone_mode=False)
    except TyperException as exc:  # the command line itself is wrong
        exc.show()  # type: ignore[attr-defined]  # of its private subclass, the only one raised
        sys.exit(ExitCode.CONFIGURATION)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(ExitCode.INTERRUPTED)
    except Exception as exc:
        sys.exit(report(exc, debug="--debug" in arguments))
    sys.exit(code if isinstance(code, int) else ExitCode.OK)
