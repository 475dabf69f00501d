"""What an aggregator writes down of its decisions, and what it knows again after a restart.

The log has a line each, in the order in which things were decided::

    accept   a result counts, with the metrics in it
    close    a round was closed with these results; later ones of that round never count
    round    what a round gave besides its model: the aggregated metrics
    quit     a collaborator was told that the federation is over

Once there is a checkpoint behind a round, all that is needed of its lines is the metrics in their order, and `settle`
makes one line of them::

    settled  a round, and of each line with metrics the number of its kind and the values
    kinds    what the next numbers mean: whose task and which metrics; nobody's are those that a round gave

A checkpoint holds what a round begins with. Everything else follows from the configuration and from the uploads.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from openfl_aio.aggregator.closing import AggregatedMetric, States
from openfl_aio.aggregator.models import Best, GlobalModels
from openfl_aio.errors import ConfigurationError
from openfl_aio.storage.checkpoint_file import Checkpoint, Key
from openfl_aio.storage.upload_file import metadata_of, metadata_values
from openfl_aio.tensors.codec import EncodedTensor

__all__ = [
    "Accepted",
    "LocalMetric",
    "Past",
    "accept_line",
    "checkpoint_of",
    "close_line",
    "quit_line",
    "read_lines",
    "restore",
    "round_line",
    "settle",
]

Result = tuple[str, str]
"""A collaborator and a task."""


@dataclass(frozen=True, slots=True)
class LocalMetric:
    """A metric as one collaborator sent it. ``tags`` are those by which it is asked for."""

    name: str
    tags: tuple[str, ...]
    value: float


@dataclass(frozen=True, slots=True)
class Accepted:
    """A result that counts, and what it told."""

    round_number: int
    collaborator: str
    task_name: str
    metrics: tuple[LocalMetric, ...] = ()


@dataclass(slots=True)
class Past:
    """What the log tells. ``events`` are accepted results and the metrics of rounds, in their order."""

    events: list[Accepted | tuple[int, tuple[AggregatedMetric, ...]]] = field(default_factory=list)
    accepted: dict[int, list[Result]] = field(default_factory=dict)
    closed: dict[int, list[Result]] = field(default_factory=dict)
    rounds: set[int] = field(default_factory=set)
    quits: set[str] = field(default_factory=set)


def accept_line(accepted: Accepted) -> dict[str, Any]:
    """Return the line for a result that counts."""
    metrics = [[metric.name, list(metric.tags), metric.value] for metric in accepted.metrics]
    return {
        "accept": accepted.round_number,
        "by": accepted.collaborator,
        "task": accepted.task_name,
        "metrics": metrics,
    }


def close_line(round_number: int, results: Iterable[Result]) -> dict[str, Any]:
    """Return the line for a round that was closed with ``results``."""
    return {"close": round_number, "results": [list(result) for result in results]}


def round_line(round_number: int, metrics: Iterable[AggregatedMetric]) -> dict[str, Any]:
    """Return the line for what a round gave."""
    return {"round": round_number, "metrics": [[m.task_name, m.name, list(m.tags), m.value] for m in metrics]}


def quit_line(collaborator: str) -> dict[str, Any]:
    """Return the line for a collaborator that was told to quit."""
    return {"quit": collaborator}


def read_lines(lines: Iterable[Mapping[str, Any]]) -> Past:
    """Return what ``lines`` tell; unknown ones, of a later program, are passed over."""
    past = Past()
    kinds: list[Any] = []
    for line in lines:
        if "settled" in line:
            _read_settled(past, line, kinds)
        elif "kinds" in line:
            kinds += line["kinds"]
        elif "accept" in line:
            metrics = tuple(LocalMetric(name, tuple(tags), value) for name, tags, value in line["metrics"])
            accepted = Accepted(line["accept"], line["by"], line["task"], metrics)
            past.events.append(accepted)
            past.accepted.setdefault(accepted.round_number, []).append((accepted.collaborator, accepted.task_name))
        elif "close" in line:
            past.closed[line["close"]] = [(by, task) for by, task in line["results"]]
        elif "round" in line:
            found = tuple(
                AggregatedMetric(task, name, tuple(tags), value) for task, name, tags, value in line["metrics"]
            )
            past.events.append((line["round"], found))
            past.rounds.add(line["round"])
        elif "quit" in line:
            past.quits.add(line["quit"])
    return past


def _read_settled(past: Past, line: Mapping[str, Any], kinds: Sequence[Any]) -> None:
    number = line["settled"]
    for kind, *values in line["events"]:
        by, task_name, metrics = kinds[kind]
        pairs = zip(metrics, values, strict=True)
        if by is not None:
            local = tuple(LocalMetric(name, tuple(tags), value) for (name, tags), value in pairs)
            past.events.append(Accepted(number, by, task_name, local))
        else:
            found = tuple(AggregatedMetric(task, name, tuple(tags), value) for (task, name, tags), value in pairs)
            past.events.append((number, found))
            past.rounds.add(number)


def settle(lines: Iterable[Mapping[str, Any]], *, before_round: int) -> list[Mapping[str, Any]]:
    """Return lines that tell of rounds before ``before_round`` only what is needed once there is its checkpoint.

    That is their metrics, and that they are over; not which results counted. Lines from the first later one on stay.
    """
    lines = list(lines)
    found: list[Mapping[str, Any]] = []
    numbers: dict[str, int] = {}
    events: list[Any] = []  # of the line that was put last
    number = None
    for place, line in enumerate(lines):
        if "kinds" in line:
            for kind in line["kinds"]:
                numbers[json.dumps(kind)] = len(numbers)
        told = next((line[what] for what in ("accept", "close", "round") if what in line), None)
        if told is None:
            found.append(line)  # it is short, or was settled before
            continue
        if told >= before_round:
            return found + lines[place:]
        if "close" in line or not (line["metrics"] or "round" in line):
            continue
        kind, values = _kind_of(line)
        text = json.dumps(kind)
        if text not in numbers:
            numbers[text] = len(numbers)
            found.append({"kinds": [kind]})
            number = None
        if told != number:
            number, events = told, []
            found.append({"settled": number, "events": events})
        events.append([numbers[text], *values])
    return found


def _kind_of(line: Mapping[str, Any]) -> tuple[list[Any], list[float]]:
    """Return what is always the same in such a line, and the values."""
    metrics = [metric[:-1] for metric in line["metrics"]]
    return [line.get("by"), line.get("task"), metrics], [metric[-1] for metric in line["metrics"]]


def checkpoint_of(models: GlobalModels, states: States, settings: Mapping[str, Any]) -> Checkpoint:
    """Return what the current round begins with. The arrays are those of ``models``, which never change."""
    number = models.round_number
    arrays: dict[Key, Any] = {("model", name): array for name, array in models.current.items()}
    for (task_name, tensor_name), state in states.items():
        for key, array in state.items():
            arrays["state", task_name, tensor_name, key] = array
    deltas = []
    for encoded in models.deltas(number):
        arrays["delta", encoded.name] = np.frombuffer(encoded.data, np.uint8)
        deltas.append([encoded.name, encoded.lossless, list(encoded.tags), metadata_values(encoded.metadata)])
    best = models.best
    values = {
        "settings": dict(settings),
        "best": None if best is None else [best.score, best.round_number, best.task_name, best.metric],
        "deltas": deltas,
    }
    return Checkpoint(number, values, arrays)


def restore(
    models: GlobalModels, checkpoints: tuple[Checkpoint, ...], best: Checkpoint | None, settings: Mapping[str, Any]
) -> States:
    """Bring ``models`` to where the newest of ``checkpoints`` was, and return the states of the functions then.

    Raises `ConfigurationError` if the federation was begun with other ``settings``.
    """
    newest = checkpoints[0]
    for name, value in settings.items():
        found = newest.values["settings"].get(name)
        if found != value:
            raise ConfigurationError(
                f"{name}: expected {found!r}, with which the federation got to round {newest.round_number}, got {value!r}; "
                "go on with the former configuration, or begin anew"
            )
    for name, array in models.current.items():
        known = newest.arrays.get(("model", name))
        if known is None or known.shape != array.shape:
            raise ConfigurationError(
                f"initial_model: tensor {name!r} has the shape {array.shape}, but the federation got to round "
                f"{newest.round_number} with {'no such tensor' if known is None else known.shape}; "
                "go on with the former model, or begin anew"
            )
    for checkpoint in sorted(checkpoints, key=lambda each: each.round_number):
        models.put_back(checkpoint.round_number, _section(checkpoint, "model"), _deltas(checkpoint))
    told = newest.values["best"]
    if told is not None:
        score, round_number, task_name, metric = told
        # the one that is told may have been replaced by a better one of the round that was not finished
        kept = {each.round_number: each for each in (*checkpoints, *([] if best is None else [best]))}.get(round_number)
        model = None if kept is None else _section(kept, "model")
        models.put_back_best(Best(score, round_number, task_name, metric), model)
    states: dict[tuple[str, str], dict[str, Any]] = {}
    for key, array in newest.arrays.items():
        if key[0] == "state":
            states.setdefault((key[1], key[2]), {})[key[3]] = array
    return states


def _section(checkpoint: Checkpoint, section: str) -> dict[str, Any]:
    return {key[1]: array for key, array in checkpoint.arrays.items() if key[0] == section}


def _deltas(checkpoint: Checkpoint) -> Iterator[EncodedTensor]:
    for name, lossless, tags, metadata in checkpoint.values["deltas"]:
        data = checkpoint.arrays["delta", name].data
        yield EncodedTensor(name, checkpoint.round_number, lossless, False, tuple(tags), metadata_of(metadata), data)
