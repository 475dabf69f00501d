"""``openfl-aio experiment``: submit to a director and follow what runs there."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeVar

import anyio
import numpy as np
import typer
from rich.console import Console
from rich.table import Table

from openfl_aio.config import RetryPolicy, TLSConfig
from openfl_aio.errors import ConfigurationError
from openfl_aio.experiment import Experiment, Federation

__all__ = ["app"]

T = TypeVar("T")
app = typer.Typer(help="Submit experiments to a director and follow them.", no_args_is_help=True)


class Which(StrEnum):
    """Which model to fetch."""

    BEST = "best"
    LAST = "last"


@dataclass(frozen=True, slots=True)
class Connection:
    """Where the director is and who we are."""

    host: str
    port: int
    tls: TLSConfig | None
    client_id: str | None
    retry_for: float

    def call(self, ask: Callable[[Federation], Awaitable[T]]) -> T:
        """Connect, ask, disconnect."""

        async def connected() -> T:
            retry = RetryPolicy(max_elapsed=self.retry_for)
            async with Federation(
                self.host, self.port, tls=self.tls, client_id=self.client_id, retry=retry
            ) as federation:
                return await ask(federation)

        return anyio.run(connected)


Json = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]


@app.callback()
def connection(
    context: typer.Context,
    host: Annotated[str, typer.Option("--director-host", "-dh", help="Host of the director.")] = "localhost",
    port: Annotated[
        int, typer.Option("--director-port", "-dp", min=1, max=65535, help="Port of the director.")
    ] = 50051,
    root: Annotated[Path | None, typer.Option("--root-cert-path", "-rc", help="Certificate of the authority.")] = None,
    key: Annotated[Path | None, typer.Option("--private-key-path", "-pk", help="Your private key.")] = None,
    certificate: Annotated[Path | None, typer.Option("--public-cert-path", "-oc", help="Your certificate.")] = None,
    disable_tls: Annotated[bool, typer.Option("--disable-tls", help="Plaintext: anybody can claim any name.")] = False,
    client_id: Annotated[str | None, typer.Option(help="Who you are, in plaintext only.")] = None,
    retry_for: Annotated[float, typer.Option(min=0.1, help="Seconds to try while the director is away.")] = 15.0,
) -> None:
    """Submit experiments to a director and follow them."""
    tls = None
    if not disable_tls:
        if root is None or key is None or certificate is None:
            raise ConfigurationError("mutual TLS needs -rc, -pk and -oc; give them, or choose --disable-tls")
        tls = TLSConfig(ca=root, certificate=certificate, private_key=key)
    context.obj = Connection(host, port, tls, client_id, retry_for)


@app.command()
def submit(
    context: typer.Context,
    name: str,
    workspace: Annotated[Path, typer.Option(help="Folder with the task runner's source.")],
    task_runner: Annotated[str, typer.Option(help="Class in it, module.Class.")],
    rounds: Annotated[int, typer.Option(min=1)],
    collaborator: Annotated[
        list[str] | None, typer.Option(help="Envoy that takes part; repeatable. Default: all online.")
    ] = None,
    setting: Annotated[list[str] | None, typer.Option(help="KEY=JSON, given to the task runner; repeatable.")] = None,
    wait: Annotated[bool, typer.Option(help="Stay until it has finished.")] = False,
    as_json: Json = False,
) -> None:
    """Submit the workspace as experiment NAME."""
    experiment = Experiment(
        name=name,
        workspace=workspace,
        task_runner=task_runner,
        rounds=rounds,
        collaborators=tuple(collaborator) if collaborator else None,
        settings=dict(map(_setting, setting or ())),
    )

    async def ask(federation: Federation) -> str:
        run = await federation.submit(experiment)
        return (await run.wait() if wait else await run.status()).value

    status_now = context.obj.call(ask)
    if as_json:
        _print_json([{"name": name, "status": status_now}])
        return
    typer.echo(f"experiment {name}: {status_now}")


@app.command("list")
def list_experiments(context: typer.Context, as_json: Json = False) -> None:
    """List your experiments, oldest first."""
    summaries = context.obj.call(lambda federation: federation.experiments())
    rows = [asdict(summary) | {"status": summary.status.value} for summary in summaries]
    if as_json:
        _print_json(rows)
        return
    table = Table("name", "status", "collaborators", "tasks", "progress")
    for row in rows:
        table.add_row(
            row["name"], row["status"], str(row["collaborators"]), str(row["tasks"]), f"{row['progress']:.0%}"
        )
    Console().print(table)


@app.command()
def status(context: typer.Context, name: str, as_json: Json = False) -> None:
    """Say where experiment NAME stands."""
    description = context.obj.call(lambda federation: federation.run(name).describe())
    facts: dict[str, Any] = asdict(description) | {"status": description.status.value}
    if as_json:
        _print_json([facts])
        return
    typer.echo(f"{name}: {facts['status']}, round {facts['current_round']} of {facts['total_rounds']}")
    for collaborator in facts["collaborators"]:
        typer.echo(f"  {collaborator['name']}: {collaborator['status']} {collaborator['current_task']}".rstrip())


@app.command()
def watch(context: typer.Context, name: str, as_json: Json = False) -> None:
    """Print the metrics of experiment NAME from the first on, until it ends. Exit code 5 unless it finished."""

    async def ask(federation: Federation) -> None:
        run = federation.run(name)
        async for metric in run.metrics():
            if as_json:
                _print_json([asdict(metric)])
            else:
                typer.echo(
                    f"round {metric.round_number} {metric.origin} {metric.task_name} {metric.name} {metric.value:.6g}"
                )
        await run.wait()

    context.obj.call(ask)


@app.command()
def model(
    context: typer.Context,
    name: str,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write, NumPy's .npz.")],
    which: Annotated[Which, typer.Option(help="Best by validation, or of the last round.")] = Which.BEST,
    as_json: Json = False,
) -> None:
    """Write a model of experiment NAME to a file."""

    async def ask(federation: Federation) -> dict[str, np.ndarray]:
        run = federation.run(name)
        return await (run.best_model() if which is Which.BEST else run.last_model())

    tensors = context.obj.call(ask)
    write_npz(output, tensors)
    parameters = sum(values.size for values in tensors.values())
    if as_json:
        facts = {"name": name, "model": which.value, "file": str(output), "parameters": parameters}
        _print_json([facts | {"tensors": {key: list(values.shape) for key, values in tensors.items()}}])
        return
    typer.echo(f"{which.value} model of {name}: {len(tensors)} tensors, {parameters} parameters, in {output}")


def write_npz(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write arrays as ``.npz``, all or nothing."""
    from openfl_aio.storage.files import writing_atomic

    with writing_atomic(path) as file:
        np.savez(file, **tensors)  # type: ignore[arg-type]


def _setting(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator or not key.isidentifier():
        raise ConfigurationError(f"--setting takes KEY=JSON such as learning_rate=0.1, got {text!r}")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        raise ConfigurationError(
            f"--setting {key}: {value!r} is no JSON; quote text twice: {key}='\"{value}\"'"
        ) from None


def _print_json(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        # a loss may be NaN, which is no JSON
        told = {
            key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()
        }
        typer.echo(json.dumps(told, default=str, allow_nan=False))
