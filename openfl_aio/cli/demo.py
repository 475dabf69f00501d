"""``openfl-aio demo``: a whole federation on this machine, and what it is worth."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import anyio
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from openfl_aio.demo.federation import Comparison, DemoOptions, run_demo
from openfl_aio.domain import Metric

__all__ = ["demo"]


def demo(
    collaborators: Annotated[int, typer.Option(min=1, max=16, help="Number of sites.")] = 3,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Number of rounds.")] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the split and of the training.")] = 0,
    keep: Annotated[Path | None, typer.Option(help="Keep files and logs in this folder.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Train a small network over mTLS: one director and some envoys as processes, handwritten digits split unevenly."""
    options = DemoOptions(collaborators=collaborators, rounds=rounds, seed=seed)
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        comparison = _run(options, keep.absolute(), quiet=as_json)
    else:
        with TemporaryDirectory(prefix="openfl-aio-demo-") as folder:
            comparison = _run(options, Path(folder), quiet=as_json)
    if as_json:
        typer.echo(json.dumps(asdict(comparison) | {"federation_wins": comparison.federation_wins}))
        return
    Console().print(_table(comparison))


def _run(options: DemoOptions, folder: Path, *, quiet: bool) -> Comparison:
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    with Progress(*columns, console=Console(stderr=True), disable=quiet) as progress:
        bar = progress.add_task("starting a director and envoys", total=options.rounds)

        async def report(metric: Metric) -> None:
            if metric.origin == "aggregator" and metric.name == "accuracy":
                progress.update(
                    bar,
                    completed=metric.round_number + 1,
                    description=f"round {metric.round_number + 1}: accuracy at the sites {metric.value:.3f}",
                )

        return anyio.run(lambda: run_demo(options, folder=folder, report=report))


def _table(comparison: Comparison) -> Table:
    title = f"accuracy on {comparison.held_out} digits nobody trained on ({comparison.seconds:.1f} s of federation)"
    table = Table("model", "trained on", "accuracy", title=title)
    for site, accuracy in comparison.alone.items():
        table.add_row(f"{site} alone", f"{comparison.samples[site]} digits", f"{accuracy:.3f}")
    total = sum(comparison.samples.values())
    table.add_row("federated", f"{total} digits that never moved", f"{comparison.federated:.3f}", style="bold")
    table.add_row("centralised", f"{total} digits in one place", f"{comparison.central:.3f}")
    return table
