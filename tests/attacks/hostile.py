"""What no honest peer would hand in: uploads, archives and names, each refused and forgotten, while others are served."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import cache

import numpy as np

from openfl_aio.director.servicer import encode_model
from openfl_aio.domain import Header
from openfl_aio.tensors.codec import EncodedTensor, TensorCodec
from openfl_aio.tensors.key import TensorKey
from openfl_aio.wire import convert
from openfl_aio.wire.codec import encode
from openfl_aio.wire.incremental import encode_task_results
from openfl_aio.wire.messages import director
from tests.attacks import frames, payloads
from tests.attacks.catalogue import MTLS, PLAINTEXT, Stage, attack
from tests.attacks.contents import SUBMIT, UPLOAD
from tests.attacks.payloads import LARGE, SIZES, SMALL
from tests.attacks.wire import Wire
from tests.director.test_hostile_names import NAMES
from tests.storage.test_unpack import HOSTILE, LIMITS

ARCHIVE_LIMITS = {"max_archive_files": LIMITS.max_archive_files, "max_unpacked_bytes": LIMITS.max_unpacked_bytes}
CALLS_AT_ONCE = 4


def tensor(name: str, values: np.ndarray, *tags: str) -> EncodedTensor:
    return TensorCodec().encode(TensorKey.of(name, "x", 0, tags=tags or ("trained",)), values)


def results(sender: str, tensors: list[EncodedTensor], *, task: str = "train", size: int = 1) -> bytes:
    """Return an upload as messages with their prefixes."""
    header = Header(sender, payloads.AGGREGATOR_UUID, payloads.FEDERATION_UUID)
    parts = encode_task_results(header=header, round_number=0, task_name=task, data_size=size, tensors=tensors)
    return payloads.chunks(b"".join(bytes(part) for part in parts))


def uploads(sender: str) -> list[bytes]:
    """Return uploads of which each is wrong in one thing."""
    ones = {name: np.ones(count, np.float32) for name, count in SIZES.items()}
    good = [tensor(name, values) for name, values in ones.items()]

    def spoiled(name: str, value: float) -> list[EncodedTensor]:
        values = ones[name].copy()
        values[-1] = value
        return [tensor(other, values if other == name else ones[other]) for other in ones]

    return [
        results(sender, spoiled(SMALL, np.nan)),
        results(sender, spoiled(LARGE, np.inf)),
        results(sender, [good[0], tensor(LARGE, np.ones(7, np.float32))]),
        results(sender, good[:1]),
        results(sender, [good[0], good[0], good[1]]),
        results(sender, [*good, tensor("unheard of", np.ones(3, np.float32), "model")]),
        results(sender, [tensor(SMALL, ones[SMALL], "aggregated"), good[1]]),
        results(sender, good, task="no such task"),
        results(sender, good, size=2**31 - 1),
    ]


def in_turn(stage: Stage, fields: bytes, bodies: list[bytes]) -> None:
    """Make calls with one body after the other, over and over, a few in flight."""
    turns = itertools.cycle(bodies)

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, fields)
            if not wire.send_data(stream, next(turns), end=True):
                return
            while stream + 1 - 2 * len(wire.over) >= 2 * CALLS_AT_ONCE and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)

    stage.flood(script, answers=True)


@attack(outcomes=("status:3", "rst:8", "rst:11"), bounded=(MTLS,))
def hostile_uploads(stage: Stage) -> None:
    """Uploads that are wrong in one thing each: NaN, infinity, a shape, a tensor, a tag, a task, a weight."""
    in_turn(stage, stage.fields(UPLOAD), uploads(stage.target.name))


@cache
def model() -> bytes:
    return encode(convert.model_to_proto(encode_model({"w": np.ones(4, np.float32)})))


@attack(outcomes=("status:3", "rst:11"), service="director", limits=ARCHIVE_LIMITS, bounded=(PLAINTEXT,))
def hostile_archives(stage: Stage) -> None:
    """Submissions of archives that lead out, lie about their size, or unpack to more than is allowed."""
    archives = [data for data, _ in HOSTILE.values() if data]
    fields = stage.fields(SUBMIT, [("client_id", stage.target.name)])
    in_turn(stage, fields, [payloads.message(payloads.experiment(data, model=model())) for data in archives])


@attack(outcomes=("status:3", "status:7", "status:16"), service="director", bounded=(PLAINTEXT,))
def hostile_names(stage: Stage) -> None:
    """Submissions of experiments whose names are paths, options, commands or forged lines."""
    fields = stage.fields(SUBMIT, [("client_id", stage.target.name)])
    in_turn(
        stage,
        fields,
        [payloads.message(payloads.experiment(b"PK", model=model(), name=name)) for name in NAMES.values()],
    )


@attack(outcomes=("status:3", "status:7", "status:16"), service="director")
def hostile_envoys(stage: Stage) -> None:
    """Envoys that register under such names."""
    shards = [
        director.UpdateShardInfoRequest(
            shard_info=director.ShardInfo(
                node_info=director.NodeInfo(name=name), sample_shape=["1"], target_shape=["1"]
            )
        )
        for name in NAMES.values()
    ]
    in_turn(
        stage, stage.fields(payloads.DIRECTOR + "UpdateShardInfo"), [payloads.message(encode(one)) for one in shards]
    )
