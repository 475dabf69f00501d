"""Making the server keep something: answers that are not fetched, uploads that do not end, calls that wait."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from tests.attacks import frames, payloads
from tests.attacks.catalogue import MTLS, PLAINTEXT, WRONG, Stage, attack
from tests.attacks.wire import Wire

TENSOR = payloads.AGGREGATOR + "GetAggregatedTensor"
UPLOAD = payloads.AGGREGATOR + "SendLocalTaskResults"
TASKS = payloads.AGGREGATOR + "GetTasks"

NO_WINDOW = (frames.INITIAL_WINDOW_SIZE, 0)
LARGE_WINDOW = (frames.INITIAL_WINDOW_SIZE, frames.LARGEST_WINDOW)


def requests(stage: Stage, name: str, count: int, *, round_number: int = 0) -> bytes:
    """Return ``count`` requests for a tensor, on the streams 1, 3 and so on."""
    fields = stage.fields(TENSOR)
    body = payloads.get_tensor(stage.target.name, name, round_number=round_number)
    return b"".join(
        frames.headers(stream, fields) + frames.data(stream, body, end=True) for stream in range(1, 2 * count, 2)
    )


@attack(bounded=(PLAINTEXT, MTLS))
def window_stall(stage: Stage) -> None:
    """Ask 800 times for 1 MiB and grant no byte of window."""
    wires = stage.many(8, NO_WINDOW)
    for wire in wires:
        wire.send(requests(stage, payloads.SMALL, 100))
    stage.watch(wires)


@attack()
def trickle_read(stage: Stage) -> None:
    """Ask 200 times for 1 MiB and grant a byte at a time."""
    wires = stage.many(4, NO_WINDOW)
    for wire in wires:
        wire.send(requests(stage, payloads.SMALL, 50))
    crumbs = b"".join(frames.window_update(stream, 1) for stream in range(1, 100, 2))
    while stage.going():
        for wire in wires:
            wire.send(crumbs)
        stage.watch(wires, 0.1)


@attack(bounded=(PLAINTEXT,))
def unread_answers(stage: Stage) -> None:
    """Ask 800 times for 8 MiB, grant every byte, and read none."""
    wires = stage.many(8, LARGE_WINDOW, reading=False, buffer=4_096)
    for wire in wires:
        wire.send(requests(stage, payloads.LARGE, 100))
    stage.watch(wires)


@attack()
def window_stall_again(stage: Stage) -> None:
    """Ask 100 times for 8 MiB without any window, hang up, and begin again."""
    while stage.going():
        wires = stage.many(8, NO_WINDOW)
        for wire in wires:
            wire.send(requests(stage, payloads.LARGE, 100))
        stage.watch(wires, 0.2)
        for wire in wires:
            wire.drop(abruptly=True)


@attack(outcomes=("rst:8", "rst:11", "status:4", "status:8"), limits={"progress_seconds": 1.5}, lasts=4.0)
def answers_not_fetched(stage: Stage) -> None:
    """Ask for 1 MiB and grant no byte, with a server that gives a call 1.5 s."""
    wires = stage.many(4, NO_WINDOW, answers=True)
    for wire in wires:
        wire.send(requests(stage, payloads.SMALL, 50))
    stage.watch(wires)


@attack(outcomes=("rst:8", "rst:11", "status:4", "status:8"), limits={"progress_seconds": 1.5}, lasts=4.0)
def messages_not_finished(stage: Stage) -> None:
    """Send half a message of each call and fall silent, with a server that gives a call 1.5 s."""
    wires = stage.many(4, answers=True)
    half = payloads.get_tasks(stage.target.name)[:-3]
    for wire in wires:
        for stream in range(1, 100, 2):
            wire.send(frames.headers(stream, stage.fields(TASKS)) + frames.data(stream, half))
    stage.watch(wires)


@attack(outcomes=("rst:8", "rst:11", "status:4", "status:8"), limits={"progress_seconds": 1.5}, lasts=4.0)
def messages_not_begun(stage: Stage) -> None:
    """Make calls that need a message and send none, with a server that gives a call 1.5 s."""
    wires = stage.many(4, answers=True)
    for wire in wires:
        wire.send(b"".join(frames.headers(stream, stage.fields(TASKS)) for stream in range(1, 200, 2)))
    stage.watch(wires)


@attack()
def stalled_uploads(stage: Stage) -> None:
    """Begin 800 uploads of 32 kB and leave them there."""
    fields = stage.fields(UPLOAD)
    content = payloads.task_results(stage.target.name, payloads.field(5, payloads.field(7, bytes(2**20))))
    begun = payloads.message(payloads.chunk(content[: 2**20]))[:32_000]
    wires = stage.many(8)
    for wire in wires:
        for stream in range(1, 200, 2):
            wire.send(frames.headers(stream, fields))
            wire.send_data(stream, begun)
    stage.watch(wires)


@attack(memory=64 * 4.1 + 64)  # as many uploads as are read at once, each with a message of the largest size
def window_filled(stage: Stage) -> None:
    """Begin 800 uploads and send each all that its window takes, of a message that is never whole."""
    fields = stage.fields(UPLOAD)
    lie = payloads.message(payloads.chunk(bytes(4 * 2**20)))[: 3 * 2**20]
    wires = stage.many(8)
    for stream in range(1, 200, 2):
        for wire in wires:
            if wire.ended is None and stage.going():
                wire.send(frames.headers(stream, fields))
                wire.deadline = min(stage.deadline, time.monotonic() + 0.05)  # as far as it is let
                wire.send_data(stream, lie)
                wire.deadline = stage.deadline
    stage.watch(wires)


@attack()
def cut_uploads(stage: Stage) -> None:
    """Send half an upload and cut the connection, as often as possible."""
    fields = stage.fields(UPLOAD)
    content = payloads.task_results(stage.target.name, payloads.field(5, payloads.field(7, bytes(2**20))))
    half = payloads.chunks(content, 100_000)[:60_000]
    while stage.going():
        wire = stage.connect()
        wire.send(frames.headers(1, fields))
        wire.send_data(1, half)
        wire.drop(abruptly=True)


@attack(outcomes=("status:8", "rst:8", "rst:11"), ends=WRONG, bounded=(PLAINTEXT,))
def length_lie(stage: Stage) -> None:
    """Announce a message of 4 GiB and send zeros, as the request of a small call."""
    lie = b"\0\xff\xff\xff\xff" + bytes(2**20)

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, stage.fields(TASKS))
            wire.send_data(stream, lie)

    stage.flood(script, answers=True)


@attack(outcomes=("status:8", "rst:8", "rst:11"), ends=WRONG)
def length_lie_in_upload(stage: Stage) -> None:
    """Announce a chunk of 4 GiB and send zeros."""
    lie = b"\0\xff\xff\xff\xff" + payloads.chunk(bytes(8 * 2**20))

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, stage.fields(UPLOAD))
            wire.send_data(stream, lie)

    stage.flood(script, answers=True)


@attack(outcomes=("status:3", "status:8", "rst:8", "rst:11"))
def endless_upload(stage: Stage) -> None:
    """Upload good chunks of one tensor that does not end."""
    fields = stage.fields(UPLOAD)
    size = payloads.varint(5 << 3 | 2) + payloads.varint(2**31 - 2**10)
    size += payloads.varint(7 << 3 | 2) + payloads.varint(2**31 - 2**11)
    first = payloads.message(payloads.chunk(payloads.task_results(stage.target.name, size)))
    more = payloads.message(payloads.chunk(bytes(2 * 2**20)))

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, fields)
            going = wire.send_data(stream, first)
            while going:
                going = wire.send_data(stream, more)

    stage.flood(script, answers=True)


@attack(
    outcomes=("status:3", "status:8", "rst:8", "rst:11"), service="director", limits={"max_archive_bytes": 8 * 2**20}
)
def endless_submission(stage: Stage) -> None:
    """Submit an experiment whose archive does not end."""
    fields = stage.fields(payloads.DIRECTOR + "SetNewExperiment", [("client_id", stage.target.name)])
    more = payloads.message(payloads.experiment(bytes(2 * 2**20)))

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, fields)
            going = True
            while going:
                going = wire.send_data(stream, more)

    stage.flood(script, answers=True)


@attack(bounded=(PLAINTEXT,))
def empty_messages(stage: Stage) -> None:
    """Upload messages without content, three thousand to a frame."""
    nothing = bytes(5) * 3_276

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, stage.fields(UPLOAD))
            going = True
            while going:
                going = wire.send_data(stream, nothing)

    stage.flood(script)


@attack()
def empty_chunks(stage: Stage) -> None:
    """Upload chunks of one byte each, two thousand to a frame."""
    head = payloads.message(payloads.chunk(payloads.task_results(stage.target.name, b"")))
    crumb = payloads.message(payloads.chunk(b"\x2a")) + payloads.message(payloads.chunk(b"\0"))

    def script(wire: Wire) -> Iterator[bytes]:
        for stream in itertools.count(1, 2):
            yield frames.headers(stream, stage.fields(UPLOAD))
            going = wire.send_data(stream, head)
            while going:
                going = wire.send_data(stream, crumb * 800)

    stage.flood(script)


@attack(service="director")
def large_promises(stage: Stage) -> None:
    """Announce 6,400 submissions of 2 GiB each, and send a byte of each."""
    fields = stage.fields(payloads.DIRECTOR + "SetNewExperiment", [("client_id", stage.target.name)])
    begun = payloads.message(b"")[:1] + (2**31 - 1).to_bytes(4, "big") + b"\x0a"
    calls = b"".join(frames.headers(stream, fields) + frames.data(stream, begun) for stream in range(1, 200, 2))
    wires = stage.many(64)
    for wire in wires:
        wire.send(calls)
    stage.watch(wires)


@attack()
def waiting_calls(stage: Stage) -> None:
    """Make 6,400 calls that wait for the next round."""
    wires = stage.many(64)
    for wire in wires:
        wire.send(requests(stage, payloads.SMALL, 100, round_number=1))
    stage.watch(wires)


@attack(outcomes=("rst:7",))
def too_many_streams(stage: Stage) -> None:
    """Open a thousand calls at once on each of four connections."""
    wires = stage.many(4)
    for wire in wires:
        wire.send(requests(stage, payloads.SMALL, 1_000, round_number=1))
    stage.watch(wires)


@attack()
def deadline_storm(stage: Stage) -> None:
    """Make calls that wait, with a deadline of a millisecond."""
    fields = stage.fields(TENSOR, [("grpc-timeout", "1m")])
    body = payloads.get_tensor(stage.target.name, payloads.SMALL, round_number=1)

    def script(wire: Wire) -> Iterator[bytes]:
        for start in itertools.count(1, 100):
            yield b"".join(
                frames.headers(stream, fields) + frames.data(stream, body, end=True)
                for stream in range(start, start + 100, 2)
            )
            while start + 100 - 2 * len(wire.over) > 100 and stage.going() and wire.ended is None:
                stage.watch([wire], 0.01)

    stage.flood(script)


@attack()
def call_flood(stage: Stage) -> None:
    """Make ordinary small calls, a hundred in flight on each of eight connections."""
    fields = stage.fields(TASKS)
    body = payloads.get_tasks(stage.target.name)
    wires = stage.many(8)
    made = dict.fromkeys(range(len(wires)), 1)
    while stage.going():
        for number, wire in enumerate(wires):
            free = 100 - ((made[number] - 1) // 2 - len(wire.over))
            if wire.ended is None and free > 0:
                streams = range(made[number], made[number] + 2 * free, 2)
                made[number] += 2 * free
                wire.send(
                    b"".join(frames.headers(stream, fields) + frames.data(stream, body, end=True) for stream in streams)
                )
        stage.watch(wires, 0.002)


@attack()
def download_flood(stage: Stage) -> None:
    """Fetch 8 MiB tensors as fast as one thread can read, eight connections."""
    wires = stage.many(8, LARGE_WINDOW)
    for wire in wires:
        wire.send(requests(stage, payloads.LARGE, 90))
    stage.watch(wires)


@attack(ends=WRONG)
def ping_beside_unread(stage: Stage) -> None:
    """Ask for 8 MiB tensors, read nothing, and PING."""
    pings = frames.ping() * 500

    def script(wire: Wire) -> Iterator[bytes]:
        yield requests(stage, payloads.LARGE, 50)
        yield from itertools.repeat(pings)

    stage.flood(script, LARGE_WINDOW, reading=False, buffer=4_096)
