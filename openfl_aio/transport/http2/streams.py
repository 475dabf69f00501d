"""The life of a stream (RFC 9113, section 5.1), as two tables."""

from __future__ import annotations

from enum import Enum, auto
from typing import Any, Final

from openfl_aio.transport.http2.messages import Inbound
from openfl_aio.transport.http2.windows import ReceiveWindow

__all__ = ["CLOSED", "Act", "State", "StreamRecord", "Verdict", "after", "verdict_on_payload"]


class State(Enum):
    """What is still open. Closed streams differ in what may still arrive for them."""

    OPEN = auto()
    LOCAL_ENDED = auto()  # half-closed (local): we sent END_STREAM
    REMOTE_ENDED = auto()  # half-closed (remote): the peer did
    ENDED = auto()  # closed: both did
    RESET_BY_PEER = auto()  # closed
    RESET_BY_US = auto()  # closed, but what the peer sent before it knew is still on its way


class Act(Enum):
    """What moves a stream from one state to the next."""

    SENT_END = auto()
    GOT_END = auto()
    SENT_RESET = auto()
    GOT_RESET = auto()


class Verdict(Enum):
    """What to do with a frame for a stream in some state."""

    TAKE = auto()
    IGNORE = auto()
    STREAM_CLOSED = auto()


CLOSED: Final = frozenset({State.ENDED, State.RESET_BY_PEER, State.RESET_BY_US})

_AFTER: Final = {
    (State.OPEN, Act.SENT_END): State.LOCAL_ENDED,
    (State.OPEN, Act.GOT_END): State.REMOTE_ENDED,
    (State.LOCAL_ENDED, Act.GOT_END): State.ENDED,
    (State.REMOTE_ENDED, Act.SENT_END): State.ENDED,
    **{(state, Act.SENT_RESET): State.RESET_BY_US for state in (State.OPEN, State.LOCAL_ENDED, State.REMOTE_ENDED)},
    **{(state, Act.GOT_RESET): State.RESET_BY_PEER for state in (State.OPEN, State.LOCAL_ENDED, State.REMOTE_ENDED)},
}

_ON_PAYLOAD: Final = {
    State.OPEN: Verdict.TAKE,
    State.LOCAL_ENDED: Verdict.TAKE,
    State.REMOTE_ENDED: Verdict.STREAM_CLOSED,
    State.ENDED: Verdict.STREAM_CLOSED,
    State.RESET_BY_PEER: Verdict.STREAM_CLOSED,
    State.RESET_BY_US: Verdict.IGNORE,
}


def after(state: State, act: Act) -> State:
    """Return the state that follows; a closed stream stays as it is."""
    return _AFTER.get((state, act), state)


def verdict_on_payload(state: State) -> Verdict:
    """Return what to do with DATA or HEADERS for a stream in ``state``."""
    return _ON_PAYLOAD[state]


class StreamRecord:
    """What the engine knows of one open stream; ``user`` belongs to the engine's owner."""

    __slots__ = (
        "expected",
        "got_headers",
        "id",
        "inbound",
        "out_window",
        "state",
        "user",
        "window",
    )

    def __init__(self, stream_id: int, *, window: ReceiveWindow, out_window: int, inbound: Inbound) -> None:
        self.id = stream_id
        self.state = State.OPEN
        self.window = window  # what the peer may send
        self.out_window = out_window  # how many bytes we may still send; below zero after the peer made it smaller
        self.inbound = inbound
        self.got_headers = False
        self.expected: int | None = None  # bytes still to come by content-length
        self.user: Any = None

    def __repr__(self) -> str:
        return f"<StreamRecord {self.id} {self.state.name}>"

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent and nothing received any more."""
        return self.state in CLOSED

    @property
    def local_open(self) -> bool:
        """Whether we may still send."""
        return self.state is State.OPEN or self.state is State.REMOTE_ENDED

    @property
    def remote_open(self) -> bool:
        """Whether the peer may still send."""
        return self.state is State.OPEN or self.state is State.LOCAL_ENDED
