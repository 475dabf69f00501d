"""Messages: cut, compressed, malformed, in another's name, or small on the wire and large in memory."""

from __future__ import annotations

import itertools
import os
import zlib
from collections.abc import Callable

from tests.attacks import frames, payloads
from tests.attacks.catalogue import MTLS, PLAINTEXT, Stage, attack
from tests.attacks.wire import Wire

TASKS = payloads.AGGREGATOR + "GetTasks"
TENSOR = payloads.AGGREGATOR + "GetAggregatedTensor"
UPLOAD = payloads.AGGREGATOR + "SendLocalTaskResults"
SUBMIT = payloads.DIRECTOR + "SetNewExperiment"

REFUSED = ("status:3", "status:8", "rst:11")
MALFORMED = ("status:3", "status:13", "rst:11")


def calls(stage: Stage, fields: bytes, body: Callable[[int], bytes] | bytes, *, at_once: int = 1) -> None:
    """Make the same call again and again, ``at_once`` in flight, and wait for the answers."""

    def more(wire: Wire, stream: int) -> bool:
        content = body if isinstance(body, bytes) else body(stream)
        return wire.send(frames.headers(stream, fields)) and wire.send_data(stream, content, end=True)

    while stage.going():
        wire = stage.connect(answers=True)
        for stream in itertools.count(1, 2):
            if wire.ended is not None or not stage.going() or stream > 100_000:
                break
            more(wire, stream)  # an upload may be answered before its end
            while stream + 1 - 2 * len(wire.over) >= 2 * at_once and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)
        wire.drop()


@attack(outcomes=MALFORMED, bounded=(PLAINTEXT,))
def cut_messages(stage: Stage) -> None:
    """Calls that end within their message."""
    calls(stage, stage.fields(TASKS), payloads.get_tasks(stage.target.name)[:-3], at_once=50)


@attack(outcomes=MALFORMED)
def no_message(stage: Stage) -> None:
    """Calls that end without their message."""

    def script(wire: Wire) -> None:
        for stream in itertools.count(1, 2):
            if not wire.send(frames.headers(stream, stage.fields(TASKS), end=True)):
                return
            while stream + 1 - 2 * len(wire.over) >= 100 and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)

    while stage.going():
        script(stage.connect(answers=True))


@attack(outcomes=MALFORMED)
def random_messages(stage: Stage) -> None:
    """Calls whose messages are random bytes."""
    calls(stage, stage.fields(TENSOR), lambda _: payloads.message(b"\x0a" + os.urandom(300)), at_once=50)


@attack(outcomes=MALFORMED)
def bad_texts(stage: Stage) -> None:
    """Calls whose texts are no UTF-8, or would make a second line in a log."""
    texts = [b"\xff\xfe\xfd", b"\n2026-01-01 00:00:00 CRITICAL openfl_aio: forged", b"\0", b"\x1b[2J"]

    def body(stream: int) -> bytes:
        return payloads.message(payloads.field(1, payloads.field(1, texts[stream // 2 % len(texts)])))

    calls(stage, stage.fields(TASKS), body, at_once=50)


@attack(outcomes=("status:12", "accepts:identity"), bounded=(PLAINTEXT,))
def gzip_bomb(stage: Stage) -> None:
    """Compressed messages that would be a thousand times as large."""
    fields = stage.fields(TASKS, [("grpc-encoding", "gzip")])
    bomb = zlib.compress(bytes(16 * 2**20), 1, wbits=31)  # gzip's format
    calls(stage, fields, payloads.message(bomb, compressed=True), at_once=8)


@attack(outcomes=("status:7", "status:16", "status:3"), bounded=(MTLS,))
def in_another_name(stage: Stage) -> None:
    """Calls in the name of somebody who takes no part, or of another than the certificate's."""
    other = "two" if stage.target.tls else "nobody"
    calls(stage, stage.fields(TASKS), payloads.get_tasks(other), at_once=50)


@attack(outcomes=("status:3",), processor=0.25, bounded=(MTLS,), lasts=4.0)  # the refusals are slow
def peers_that_never_learn(stage: Stage) -> None:
    """Twenty collaborators of OpenFL 1.6 with another plan: refused, they ask again at once, each time anew connected."""
    fields = stage.fields(TASKS, [("user-agent", "grpc-python/1.60.0 grpc-c/37.0.0 (linux; chttp2)")])
    header = payloads.field(1, stage.target.name) + payloads.field(2, payloads.AGGREGATOR_UUID)
    request = payloads.message(payloads.field(1, header + payloads.field(3, "another federation")))
    call = frames.headers(1, fields) + frames.data(1, request, end=True)
    peers: list[Wire] = []
    while stage.going():
        for wire in peers:
            if wire.over:
                wire.drop()
        peers = [wire for wire in peers if wire.ended is None]
        while len(peers) < 20 and stage.going():
            peers.append(stage.connect(answers=True))
            peers[-1].send(call)
        stage.watch(peers, 0.02)


@attack(outcomes=("status:7", "status:16", "status:3", "rst:8", "rst:11"))
def upload_in_another_name(stage: Stage) -> None:
    """Uploads of a megabyte in another's name."""
    other = "two" if stage.target.tls else "nobody"
    content = payloads.task_results(other, payloads.field(5, payloads.field(7, bytes(2**20))))
    calls(stage, stage.fields(UPLOAD), payloads.chunks(content))


@attack(outcomes=REFUSED, bounded=(MTLS,))
def tensors_in_upload(stage: Stage) -> None:
    """Uploads of 8 MiB that are nothing but empty tensors of two bytes."""
    content = payloads.task_results(stage.target.name, payloads.field(5, b"") * (4 * 2**20))
    calls(stage, stage.fields(UPLOAD), payloads.chunks(content, 2 * 2**20))


@attack(outcomes=REFUSED)
def tags_in_upload(stage: Stage) -> None:
    """Uploads of 4 MiB that are the empty tags of one tensor."""
    content = payloads.task_results(stage.target.name, payloads.field(5, payloads.field(5, b"") * (2 * 2**20)))
    calls(stage, stage.fields(UPLOAD), payloads.chunks(content, 2 * 2**20))


@attack(outcomes=REFUSED)
def numbers_in_upload(stage: Stage) -> None:
    """Uploads of 4 MiB that are the shape of one tensor."""
    shape = payloads.field(6, payloads.field(2, b"\x01" * (4 * 2**20)))
    content = payloads.task_results(stage.target.name, payloads.field(5, shape))
    calls(stage, stage.fields(UPLOAD), payloads.chunks(content, 2 * 2**20))


@attack(outcomes=REFUSED)
def tables_in_upload(stage: Stage) -> None:
    """Uploads of 4 MiB that are the tables of values of one tensor."""
    table = payloads.field(6, payloads.field(1, b"") * (2 * 2**20))
    content = payloads.task_results(stage.target.name, payloads.field(5, table))
    calls(stage, stage.fields(UPLOAD), payloads.chunks(content, 2 * 2**20))


@attack(outcomes=(*REFUSED, "status:0", "status:16", "status:7"))
def headers_in_message(stage: Stage) -> None:
    """Requests of 4 MiB that repeat the empty header two million times."""
    calls(stage, stage.fields(TASKS), payloads.message(payloads.field(1, b"") * (2 * 2**20)))


@attack(outcomes=(*REFUSED, "status:0"))
def unknown_fields_in_message(stage: Stage) -> None:
    """Requests of 4 MiB of fields that nobody knows."""
    more = payloads.field(99, b"")
    content = payloads.message_header(stage.target.name) + more * (4 * 2**20 // len(more))
    calls(stage, stage.fields(TASKS), payloads.message(content))


@attack(outcomes=(*REFUSED, "status:13"))
def groups_in_message(stage: Stage) -> None:
    """Requests of 4 MiB of groups within groups."""
    content = payloads.message_header(stage.target.name) + payloads.varint(99 << 3 | 3) * (2 * 2**20)
    calls(stage, stage.fields(TASKS), payloads.message(content))


@attack(outcomes=(*REFUSED, "status:5"), bounded=(PLAINTEXT,))
def tags_in_message(stage: Stage) -> None:
    """Requests of 4 MiB that are the empty tags of a tensor."""
    body = payloads.get_tensor(stage.target.name, payloads.SMALL, tags=payloads.field(5, b"") * (2 * 2**20 - 100))
    calls(stage, stage.fields(TENSOR), body)


@attack(outcomes=REFUSED, service="director", bounded=(PLAINTEXT,))
def tensors_in_submission(stage: Stage) -> None:
    """Submissions of 4 MiB a message that are nothing but empty tensors."""
    fields = stage.fields(SUBMIT, [("client_id", stage.target.name)])
    info = payloads.experiment(b"PK", model=payloads.field(1, b"") * (2 * 2**20 - 100))
    calls(stage, fields, payloads.message(info))


@attack(outcomes=REFUSED, service="director")
def names_in_submission(stage: Stage) -> None:
    """Submissions of 4 MiB that are the names of collaborators."""
    fields = stage.fields(SUBMIT, [("client_id", stage.target.name)])
    calls(stage, fields, payloads.message(payloads.field(1, "hostile") + payloads.field(2, "a") * (2**20)))


@attack(outcomes=(*REFUSED, "status:7", "status:16"), service="director")
def devices_in_message(stage: Stage) -> None:
    """Reports of an envoy with two million devices."""
    fields = stage.fields(payloads.DIRECTOR + "UpdateEnvoyStatus", [("client_id", stage.target.name)])
    content = payloads.field(1, stage.target.name) + payloads.field(3, b"") * (2 * 2**20 - 100)
    calls(stage, fields, payloads.message(content))


@attack(service="director")
def devices_in_little_messages(stage: Stage) -> None:
    """Reports of 60 kB of an envoy with as many devices as so many bytes may have, fifty at a time."""
    fields = stage.fields(payloads.DIRECTOR + "UpdateEnvoyStatus", [("client_id", stage.target.name)])
    devices = payloads.field(3, b"\x1a\x08" + b"x" * 8) * 3_900
    calls(stage, fields, payloads.message(payloads.field(1, stage.target.name) + devices), at_once=50)


@attack(outcomes=("status:0", "status:8"), links=(PLAINTEXT,), service="director", limits={"max_envoys": 200})
def envoys_without_end(stage: Stage) -> None:
    """Shards under ever new names, each with a description as long as may be."""

    def body(stream: int) -> bytes:
        node = payloads.field(1, f"envoy-{stage.connections}-{stream}")
        return payloads.message(payloads.field(1, payloads.field(1, node) + payloads.field(2, "x" * 4_000)))

    calls(stage, stage.fields(payloads.DIRECTOR + "UpdateShardInfo"), body, at_once=50)


@attack(outcomes=("status:13", "status:3", "status:0", "rst:1", "http:415", "http:405", "http:400"))
def odd_requests(stage: Stage) -> None:
    """Calls with a time limit, an encoding, a content type or a method that gRPC does not have."""
    body = payloads.get_tasks(stage.target.name)
    plain = stage.fields(TASKS)
    kinds = [stage.fields(TASKS, [("grpc-timeout", value)]) for value in ("", "x", "123456789S", "-1S", "1Y", "\xff")]
    kinds += [plain.replace(b"application/grpc", b"application/json"), b"\x82" + plain[1:]]
    kinds += [stage.fields(TASKS, [("x-bin", "=!")]), stage.fields(TASKS, [("grpc-encoding", "nonsense")])]

    def script(wire: Wire) -> None:
        for stream in itertools.count(1, 2):
            fields = kinds[stream // 2 % len(kinds)]
            if not wire.send(frames.headers(stream, fields) + frames.data(stream, body, end=True)):
                return
            while stream + 1 - 2 * len(wire.over) >= 40 and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)

    while stage.going():
        script(stage.connect(answers=True))
