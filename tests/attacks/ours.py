"""What only our own peers ask for: several tensors at once, tensors in parts, uploads that go on where they were cut."""

from __future__ import annotations

import itertools
import time
from base64 import b64encode
from collections.abc import Iterator

import numpy as np

from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.wire import convert
from openfl_aio.wire.codec import encode
from openfl_aio.wire.scan import MAX_QUERIES
from tests.attacks import frames, payloads
from tests.attacks.catalogue import MTLS, PLAINTEXT, Stage, attack
from tests.attacks.contents import REFUSED, UPLOAD, calls
from tests.attacks.hoards import LARGE_WINDOW, NO_WINDOW
from tests.attacks.hostile import in_turn, results, tensor
from tests.attacks.wire import Wire

SEVERAL = "/openfl_aio.v1.Tensors/GetTensors"
PARTS = "/openfl_aio.v1.Tensors/GetTensor"
OFFSET = "/openfl_aio.v1.Uploads/GetOffset"
VALIDATION = "aggregated_model_validation"
METRICS = payloads.AGGREGATOR + "GetMetricStream"


def several(stage: Stage, name: str, count: int = MAX_QUERIES) -> bytes:
    """Return a TensorsRequest for ``count`` times the same tensor."""
    return payloads.get_tensors(stage.target.name, *[payloads.query(name)] * count)


def at_once(stage: Stage, path: str, body: bytes, *pairs: tuple[int, int], connections: int = 8) -> None:
    """Make a hundred of the same calls on each of some connections, and see what is answered."""
    fields = stage.fields(path)
    wires = stage.many(connections, *pairs)
    for stream in range(1, 200, 2):
        for wire in wires:
            if wire.ended is None and stage.going():
                wire.send(frames.headers(stream, fields))
                wire.send_data(stream, body, end=True)
    stage.watch(wires)


@attack(bounded=(PLAINTEXT,))
def several_not_fetched(stage: Stage) -> None:
    """Ask 800 times for 128 tensors of 4 kB together, and grant no byte of window."""
    at_once(stage, SEVERAL, several(stage, payloads.TINY), NO_WINDOW)


@attack()
def several_large_not_fetched(stage: Stage) -> None:
    """Ask 800 times for 128 tensors of 1 MiB together, of which four fit, and grant no byte of window."""
    at_once(stage, SEVERAL, several(stage, payloads.SMALL), NO_WINDOW)


@attack()
def several_flood(stage: Stage) -> None:
    """Ask for 128 tensors of 4 kB together, again and again, a few calls in flight."""
    in_turn(stage, stage.fields(SEVERAL), [several(stage, payloads.TINY)])


@attack()
def several_waiting(stage: Stage) -> None:
    """Ask 6,400 times for 100 tensors of 4 kB and one of the next round together, so that what was found waits."""
    now, later = payloads.query(payloads.TINY), payloads.query(payloads.TINY, round_number=1)
    body = payloads.get_tensors(stage.target.name, *[now] * 100, later)
    at_once(stage, SEVERAL, body, connections=64)


@attack(outcomes=REFUSED)
def several_too_many(stage: Stage) -> None:
    """Ask for more tensors together than may be: by one, a thousand in a short message, two million without a name."""
    nameless = payloads.message_header(stage.target.name) + payloads.field(2, b"") * (2 * 2**20 - 100)
    bodies = [several(stage, payloads.TINY, count) for count in (MAX_QUERIES + 1, 1_000)]
    in_turn(stage, stage.fields(SEVERAL), [*bodies, payloads.message(nameless)])


@attack()
def several_in_little(stage: Stage) -> None:
    """Ask for a thousand tensors in a message of 17 kB, which is refused, a hundred calls at a time."""
    calls(stage, stage.fields(SEVERAL), several(stage, payloads.TINY, 1_000), at_once=100)


@attack()
def parts_not_fetched(stage: Stage) -> None:
    """Ask 800 times for 8 MiB in parts and grant no byte of window."""
    body = payloads.get_tensor(stage.target.name, payloads.LARGE)
    at_once(stage, PARTS, body, NO_WINDOW)


@attack()
def parts_flood(stage: Stage) -> None:
    """Fetch 8 MiB tensors in parts as fast as one thread can read, eight connections."""
    at_once(stage, PARTS, payloads.get_tensor(stage.target.name, payloads.LARGE), LARGE_WINDOW)


@attack()
def metric_readers(stage: Stage) -> None:
    """Follow the metrics of the federation 6,400 times."""
    at_once(stage, METRICS, payloads.message(payloads.field(1, payloads.FEDERATION_UUID)), connections=64)


def metric(name: str, value: float) -> EncodedTensor:
    key = TensorKey.of(name, "x", 0, report=True, tags=("metric", "validate_agg"))
    return TensorCodec().encode(key, np.array(value, np.float32))


@attack(outcomes=("status:3", "rst:8", "rst:11"))
def hostile_metrics(stage: Stage) -> None:
    """Uploads of metrics whose names are a page, or two lines, that are two of one name, or a thousand numbers."""
    bad = [[metric("a" * 5_000, 1.0)], [metric("acc\nforged", 1.0)], [metric("acc", 1.0), metric("acc", 2.0)]]
    bad += [[tensor("acc", np.ones(1_000, np.float32), "metric", "validate_agg")]]
    in_turn(stage, stage.fields(UPLOAD), [results(stage.target.name, one, task=VALIDATION) for one in bad])


@attack(outcomes=("status:0", "rst:8"))  # OpenFL's peers may have some: they would send them again for ever
def metrics_without_a_value(stage: Stage) -> None:
    """Uploads of a thousand metrics that are no numbers."""
    many = [metric(f"acc-{count}", np.nan) for count in range(1_000)]
    in_turn(stage, stage.fields(UPLOAD), [results(stage.target.name, many, task=VALIDATION)])


def begun(stage: Stage) -> bytes:
    """Return the first part of a good upload, of some 200 kB."""
    ones = tensor(payloads.LARGE, np.ones(payloads.SIZES[payloads.LARGE], np.float32))
    whole = payloads.task_results(stage.target.name, payloads.field(5, encode(convert.tensor_to_proto(ones))))
    return payloads.chunks(whole[:200_000], 50_000)


def named(stage: Stage, upload_id: str, offset: int = 0) -> bytes:
    """Return the headers of a call that brings an upload under a name, or goes on with it."""
    more = [("openfl-aio-upload", upload_id)]
    if offset:
        header = payloads.message_header(stage.target.name)[2:]
        more += [("openfl-aio-offset", str(offset)), ("openfl-aio-header-bin", b64encode(header).decode().rstrip("="))]
    return stage.fields(UPLOAD, more)


@attack(bounded=(MTLS,))
def uploads_cut_under_names(stage: Stage) -> None:
    """Begin uploads under ever new names, to be gone on with, and cut each: eight in a connection, as often as possible."""
    part = begun(stage)
    numbers = itertools.count()
    while stage.going():
        wire = stage.connect()
        for stream in range(1, 16, 2):
            wire.send(frames.headers(stream, named(stage, f"attack-{next(numbers):020}")))
            wire.send_data(stream, part)
        wire.drop(abruptly=True)


@attack()
def uploads_reset_under_names(stage: Stage) -> None:
    """Begin uploads under ever new names with a few bytes and reset each, as often as one connection is let."""
    part = begun(stage)[:60_000]
    numbers = itertools.count()

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, named(stage, f"attack-{next(numbers):020}"))
            wire.send_data(stream, part)
            yield frames.reset(stream)

    stage.flood(script)


@attack()
def uploads_of_one_name(stage: Stage) -> None:
    """Bring one upload eight times at once on each of eight connections, so that each ends the one before."""
    part, fields = begun(stage), named(stage, "attack-of-one-name-only")
    wires = stage.many(8)
    for stream in itertools.count(1, 2):
        if not stage.going():
            return
        for number, wire in enumerate(wires):
            if wire.ended is not None:
                wires[number] = wire = stage.connect()
            if stream + 1 - 2 * len(wire.over) < 16:
                wire.send(frames.headers(stream, fields))
                wire.deadline = min(stage.deadline, time.monotonic() + 0.02)
                wire.send_data(stream, part)
                wire.deadline = stage.deadline
        stage.watch(wires, 0.002)


@attack(outcomes=("status:3", "status:5", "rst:8", "rst:11"))
def false_offsets(stage: Stage) -> None:
    """Go on with uploads that nobody began, at offsets near and far, with names and headers that are none."""
    part = begun(stage)[:60_000]
    kinds = [named(stage, f"attack-{count:020}", 2**count) for count in range(63)]
    kinds += [named(stage, "../" * 8), named(stage, "short"), named(stage, "a" * 4_000, 1)]
    turns = itertools.cycle(kinds)

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, next(turns))
            wire.send_data(stream, part, end=True)
            while stream + 1 - 2 * len(wire.over) >= 8 and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)

    stage.flood(script, answers=True)


@attack(outcomes=("status:0", "status:3"))
def offset_flood(stage: Stage) -> None:
    """Ask without end where uploads may be gone on with that nobody began, under ever new names of a page."""
    head = payloads.message_header(stage.target.name)
    calls(
        stage,
        stage.fields(OFFSET),
        lambda stream: payloads.message(head + payloads.field(2, f"{stream:020}" + "x" * 4_000)),
        at_once=50,
    )
