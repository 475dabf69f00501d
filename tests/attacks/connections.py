"""Connections: in masses, half made, silent, or speaking something else."""

from __future__ import annotations

import itertools
import ssl
import time
from collections.abc import Iterator

from tests.attacks import frames, payloads
from tests.attacks.catalogue import MTLS, PLAINTEXT, WRONG, Stage, attack
from tests.attacks.wire import Wire

TASKS = payloads.AGGREGATOR + "GetTasks"
CUT = (*WRONG, "goaway:0", "closed", "reset")
FLOW = ("goaway:3",)


@attack()
def nothing(stage: Stage) -> None:
    """Nothing at all: the noise of this machine."""
    stage.watch([])


@attack(ends=CUT, within=7.0, lasts=8.0)
def silent_connections(stage: Stage) -> None:
    """400 connections that say nothing, and new ones for those that end."""
    wires = stage.many(400, greet=False, encrypt=False)
    while stage.going():
        stage.watch(wires, 0.1)
        wires = [wire for wire in wires if wire.ended is None]
        wires += stage.many(min(20, 400 - len(wires)), greet=False, encrypt=False)


@attack(ends=CUT, within=7.0, lasts=8.0)
def slow_preface(stage: Stage) -> None:
    """Connections that send the preface a byte at a time."""
    wires = stage.many(50, greet=False)
    for byte in frames.PREFACE:
        if not stage.going():
            break
        for wire in wires:
            wire.send(bytes([byte]))
        stage.watch(wires, 0.5)


@attack(ends=CUT, within=7.0, lasts=8.0)
def no_settings(stage: Stage) -> None:
    """Connections that send the preface and no SETTINGS."""
    wires = stage.many(50, greet=False)
    for wire in wires:
        wire.send(frames.PREFACE)
    stage.watch(wires)


@attack(links=(MTLS,), ends=CUT, within=7.0, lasts=8.0)
def slow_handshake(stage: Stage) -> None:
    """Connections that begin TLS and leave it there."""
    hello = client_hello(stage)
    wires = stage.many(50, greet=False, encrypt=False)
    for wire in wires:
        wire.send(hello)
    stage.watch(wires)


def client_hello(stage: Stage) -> bytes:
    """Return how a TLS client begins."""
    outgoing = ssl.MemoryBIO()
    tls = stage.target.context().wrap_bio(ssl.MemoryBIO(), outgoing)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        pass
    return outgoing.read()


@attack(links=(MTLS,))
def hello_storm(stage: Stage) -> None:
    """Begin TLS over and over, so that the server signs and the attacker does not."""
    hello = client_hello(stage)
    while stage.going():
        wire = stage.dial(encrypt=False)
        wire.send(hello)
        stage.watch([wire], 0.002)
        wire.drop(abruptly=True)


@attack()
def connection_storm(stage: Stage) -> None:
    """Connect and hang up, as often as possible."""
    while stage.going():
        stage.dial(encrypt=False).drop(abruptly=True)


@attack(bounded=(MTLS,))
def greeting_storm(stage: Stage) -> None:
    """Connect, greet and hang up, as often as possible (a whole handshake each, over TLS)."""
    while stage.going():
        stage.connect().drop(abruptly=True)


@attack()
def call_storm(stage: Stage) -> None:
    """A new connection for each call, as often as possible."""
    call = frames.headers(1, stage.fields(TASKS)) + frames.data(1, payloads.get_tasks(stage.target.name), end=True)
    while stage.going():
        wire = stage.connect()
        wire.send(call)
        stage.watch([wire], 0.02)
        wire.drop()


@attack()
def idle_connections(stage: Stage) -> None:
    """400 connections that greet and do nothing more."""
    wires = stage.many(400)
    stage.watch(wires)


@attack(ends=CUT, within=4.0, lasts=5.0, limits={"idle_seconds": 2.0})
def idle_too_long(stage: Stage) -> None:
    """Connections without a call, with a server that allows that for two seconds."""
    stage.watch(stage.many(20))


@attack(ends=CUT, within=4.0, lasts=5.0, limits={"keepalive_seconds": 1.0, "keepalive_timeout": 1.0})
def no_answer_to_ping(stage: Stage) -> None:
    """Peers that are gone without a word, with a server that asks after a second and waits one more."""
    wires = stage.many(20)
    fields = stage.fields(payloads.AGGREGATOR + "GetAggregatedTensor")
    body = payloads.get_tensor(stage.target.name, payloads.SMALL, round_number=1)
    for wire in wires:
        wire.send(frames.headers(1, fields) + frames.data(1, body, end=True))
    stage.watch(wires)


@attack(files=128, honest=("kept",), bounded=(PLAINTEXT,))
def few_files(stage: Stage) -> None:
    """218 connections to a server that may open 128 files."""
    wires = stage.many(218)
    while stage.going():
        stage.watch(wires, 0.2)
        wires = [wire for wire in wires if wire.ended is None]
        wires += stage.many(min(10, 218 - len(wires)))


@attack(ends=CUT)
def wrong_preface(stage: Stage) -> None:
    """Connections that do not begin as HTTP/2 does."""
    wrong = frames.PREFACE[:-4] + b"XX\r\n" + bytes(100)
    while stage.going():
        wire = stage.dial()
        wire.send(wrong)
        stage.watch([wire], 2.0)


@attack(ends=CUT)
def old_http(stage: Stage) -> None:
    """Requests of HTTP/1.1."""
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n"
    while stage.going():
        wire = stage.dial()
        wire.send(request)
        stage.watch([wire], 2.0)


@attack(ends=CUT, bounded=(MTLS,))
def garbage(stage: Stage) -> None:
    """Bytes that are neither TLS nor HTTP."""
    junk = bytes(range(256)) * 256
    while stage.going():
        wire = stage.dial(encrypt=False)
        wire.send(junk)
        stage.watch([wire], 2.0)


@attack(links=(MTLS,), ends=CUT)
def plaintext_to_tls(stage: Stage) -> None:
    """HTTP/2 without TLS where TLS is spoken."""
    while stage.going():
        wire = stage.connect(encrypt=False)
        stage.watch([wire], 2.0)


@attack(links=(MTLS,), ends=CUT)
def no_protocol_agreed(stage: Stage) -> None:
    """TLS connections that did not agree on HTTP/2."""
    context = stage.target.context(alpn=False)
    while stage.going():
        wire = Wire(deadline=stage.deadline)
        if wire.connect(stage.target, context=context):
            wire.greet()
            stage.watch([wire], 2.0)
        stage.add(wire)


@attack(links=(MTLS,))
def tiny_records(stage: Stage) -> None:
    """An upload in TLS records of one byte."""
    wire = stage.connect()
    upload = frames.headers(1, stage.fields(payloads.AGGREGATOR + "SendLocalTaskResults"))
    wire.send(upload + frames.data(1, payloads.chunks(payloads.task_results(stage.target.name, b""))))
    piece = frames.data(1, bytes(10_000))
    for place in itertools.cycle(range(len(piece))):
        if not stage.going() or wire.ended is not None:
            break
        wire.send(piece[place : place + 1])


@attack(ends=WRONG, bounded=(PLAINTEXT,))
def bad_stream_ids(stage: Stage) -> None:
    """Calls on streams that a client may not open: even, smaller than before, zero."""
    fields = stage.fields(TASKS)
    bad = itertools.cycle(
        [
            frames.headers(2, fields, end=True),
            frames.headers(7, fields, end=True) + frames.headers(5, fields, end=True),
            frames.headers(0, fields, end=True),
            frames.data(9, b"x"),
            frames.reset(11),
            frames.window_update(13, 1),
        ]
    )
    stage.flood(lambda wire: iter([next(bad)]))


@attack(ends=WRONG)
def bad_frames(stage: Stage) -> None:
    """Frames of a wrong length, on the wrong stream, or such as only servers send."""
    bad = itertools.cycle(
        [
            frames.frame(frames.PING, 0, 0, bytes(7)),
            frames.frame(frames.PING, 0, 1, bytes(8)),
            frames.frame(frames.SETTINGS, 0, 0, bytes(5)),
            frames.frame(frames.SETTINGS, 0, 1),
            frames.frame(frames.SETTINGS, frames.ACK, 0, bytes(6)),
            frames.settings((frames.ENABLE_PUSH, 2)),
            frames.settings((frames.INITIAL_WINDOW_SIZE, 2**31)),
            frames.settings((frames.MAX_FRAME_SIZE, 1)),
            frames.frame(frames.PUSH_PROMISE, frames.END_HEADERS, 1, bytes(4)),
            frames.frame(frames.CONTINUATION, frames.END_HEADERS, 1, b"x"),
            frames.frame(frames.WINDOW_UPDATE, 0, 0, bytes(3)),
            frames.window_update(0, 0),
            frames.frame(frames.RST_STREAM, 0, 0, bytes(4)),
            frames.frame(frames.HEADERS, frames.PADDED | frames.END_HEADERS, 1, b"\xff\x82"),
            frames.frame(frames.DATA, 0, 0, b"x"),
            b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",  # a frame of 16 MiB
        ]
    )

    def script(wire: Wire) -> Iterator[bytes]:
        yield next(bad)

    stage.flood(script)


@attack(ends=FLOW, outcomes=("rst:3",))
def beyond_window(stage: Stage) -> None:
    """DATA without regard to the windows."""

    def script(wire: Wire) -> Iterator[bytes]:
        yield frames.headers(1, stage.fields(payloads.AGGREGATOR + "SendLocalTaskResults"))
        waiting = frames.headers(3, stage.fields(payloads.AGGREGATOR + "GetAggregatedTensor"))
        body = payloads.get_tensor(stage.target.name, payloads.SMALL, round_number=1)
        yield waiting + frames.data(3, body)
        yield from itertools.repeat(frames.data(3, bytes(16_384)) * 64, 64)

    stage.flood(script)


@attack(ends=FLOW)
def window_overflow(stage: Stage) -> None:
    """Grant more window than there can be, to the connection."""
    stage.flood(lambda wire: iter([frames.window_update(0, frames.LARGEST_WINDOW) * 2]))


@attack(ends=WRONG)
def settings_overflow(stage: Stage) -> None:
    """Raise the initial window so that an open stream's overflows."""
    waiting = frames.headers(1, stage.fields(TASKS)) + frames.window_update(1, frames.LARGEST_WINDOW - 65_535)
    raised = frames.settings((frames.INITIAL_WINDOW_SIZE, frames.LARGEST_WINDOW))
    stage.flood(lambda wire: iter([waiting + raised]))


@attack()
def half_closed_connections(stage: Stage) -> None:
    """Close the sending side of each connection after a call that waits, and keep the other open."""
    fields = stage.fields(payloads.AGGREGATOR + "GetAggregatedTensor")
    body = payloads.get_tensor(stage.target.name, payloads.SMALL, round_number=1)
    kept: list[Wire] = []
    while stage.going() and len(kept) < 400:
        wire = stage.connect()
        wire.send(frames.headers(1, fields) + frames.data(1, body, end=True))
        if wire.ended is None:
            try:
                wire.socket.shutdown(1)
            except OSError:
                pass
        kept.append(wire)
        time.sleep(0.001)
    stage.watch(kept)
