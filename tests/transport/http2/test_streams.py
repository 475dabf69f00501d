"""The life of a stream, row by row against RFC 9113, section 5.1."""

from __future__ import annotations

import itertools

import pytest

from openfl_aio.transport.http2.messages import Inbound
from openfl_aio.transport.http2.streams import CLOSED, Act, State, StreamRecord, Verdict, after, verdict_on_payload
from openfl_aio.transport.http2.windows import ReceiveWindow, WindowPool


def record(state: State) -> StreamRecord:
    made = StreamRecord(5, window=ReceiveWindow(10, 10, WindowPool(0)), out_window=10, inbound=Inbound(10))
    made.state = state
    return made


@pytest.mark.parametrize(
    ("state", "act", "expected"),
    [
        (State.OPEN, Act.SENT_END, State.LOCAL_ENDED),
        (State.OPEN, Act.GOT_END, State.REMOTE_ENDED),
        (State.OPEN, Act.SENT_RESET, State.RESET_BY_US),
        (State.OPEN, Act.GOT_RESET, State.RESET_BY_PEER),
        (State.LOCAL_ENDED, Act.GOT_END, State.ENDED),
        (State.LOCAL_ENDED, Act.SENT_RESET, State.RESET_BY_US),
        (State.LOCAL_ENDED, Act.GOT_RESET, State.RESET_BY_PEER),
        (State.REMOTE_ENDED, Act.SENT_END, State.ENDED),
        (State.REMOTE_ENDED, Act.SENT_RESET, State.RESET_BY_US),
        (State.REMOTE_ENDED, Act.GOT_RESET, State.RESET_BY_PEER),
    ],
)
def test_every_step_leads_where_the_rfc_says(state: State, act: Act, expected: State) -> None:
    assert after(state, act) is expected


@pytest.mark.parametrize(("state", "act"), list(itertools.product(CLOSED, Act)))
def test_what_is_closed_stays_as_it_is(state: State, act: Act) -> None:
    assert after(state, act) is state


@pytest.mark.parametrize(
    ("state", "local", "remote", "verdict"),
    [
        (State.OPEN, True, True, Verdict.TAKE),
        (State.LOCAL_ENDED, False, True, Verdict.TAKE),
        (State.REMOTE_ENDED, True, False, Verdict.STREAM_CLOSED),
        (State.ENDED, False, False, Verdict.STREAM_CLOSED),
        (State.RESET_BY_PEER, False, False, Verdict.STREAM_CLOSED),
        (State.RESET_BY_US, False, False, Verdict.IGNORE),
    ],
)
def test_what_may_be_sent_and_received_follows_from_the_state(
    state: State, local: bool, remote: bool, verdict: Verdict
) -> None:
    stream = record(state)

    assert (stream.local_open, stream.remote_open, stream.closed) == (local, remote, state in CLOSED)
    assert verdict_on_payload(state) is verdict
    assert repr(stream) == f"<StreamRecord 5 {state.name}>"
