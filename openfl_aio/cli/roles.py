"""``openfl-aio director | envoy | aggregator | collaborator``: the same as ``python -m openfl_aio.<role>``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module

import typer

__all__ = ["ROLES", "add_to"]

ROLES = {
    "director": "Run a director.",
    "envoy": "Run an envoy: the data of one site.",
    "aggregator": "Run an aggregator without a director.",
    "collaborator": "Run a collaborator of such an aggregator.",
}


def add_to(app: typer.Typer) -> None:
    """Add one command a role. Its arguments are read by the role itself, so that both ways of starting agree."""
    for role, text in ROLES.items():
        settings = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
        app.command(role, help=text, context_settings=settings)(_command(role))


def _command(role: str) -> Callable[[typer.Context], None]:
    def command(context: typer.Context) -> None:
        # imported when used: a hospital's envoy need not load what a director needs
        main: Callable[[Sequence[str]], int] = import_module(f"openfl_aio.{role}.run").main
        raise typer.Exit(main(context.args))

    return command
