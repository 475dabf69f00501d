"""Frames as bytes: what is written is what a reader of the RFC expects."""

from __future__ import annotations

from typing import Any

import hyperframe.frame as oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openfl_aio.transport.http2 import frames
from openfl_aio.transport.http2.frames import ConnectionFault, ErrorCode, Setting, StreamFault

LAW = settings(deadline=None)
STREAMS = st.integers(0, 2**31 - 1)


def parsed(data: bytes) -> Any:
    """Return the one frame in ``data``, as another implementation reads it."""
    frame, length = oracle.Frame.parse_frame_header(memoryview(data[:9]))
    assert len(data) == 9 + length
    frame.parse_body(memoryview(data[9:]))
    return frame


@LAW
@given(settings=st.dictionaries(st.sampled_from(list(Setting)), st.integers(0, 2**32 - 1)))
def test_settings_are_read_as_they_were_written(settings: dict[Setting, int]) -> None:
    data = frames.settings_frame(settings)

    assert parsed(data).settings == settings
    assert frames.read_settings(data[9:]) == list(settings.items())


@LAW
@given(stream=STREAMS, increment=st.integers(1, 2**31 - 1))
def test_window_updates_say_whose_window_and_how_much(stream: int, increment: int) -> None:
    frame = parsed(frames.window_frame(stream, increment))

    assert (frame.stream_id, frame.window_increment) == (stream, increment)


@LAW
@given(stream=st.integers(1, 2**31 - 1), code=st.sampled_from(list(ErrorCode)))
def test_resets_say_why(stream: int, code: ErrorCode) -> None:
    frame = parsed(frames.reset_frame(stream, code))

    assert (frame.stream_id, frame.error_code) == (stream, code)


@LAW
@given(last=STREAMS, code=st.sampled_from(list(ErrorCode)), reason=st.text(max_size=300))
def test_goodbyes_carry_a_short_ascii_reason(last: int, code: ErrorCode, reason: str) -> None:
    frame = parsed(frames.goaway_frame(last, code, reason))

    assert (frame.last_stream_id, frame.error_code) == (last, code)
    assert frame.additional_data.isascii()
    assert len(frame.additional_data) == min(len(reason), 200)


@LAW
@given(kind=st.integers(0, 255), flags=st.integers(0, 255), stream=STREAMS, payload=st.binary(max_size=300))
def test_a_head_is_read_as_it_was_written(kind: int, flags: int, stream: int, payload: bytes) -> None:
    data = b"xyz" + frames.frame(kind, flags, stream, payload)

    assert frames.read_head(data, 3) == (len(payload) << 8 | kind, flags, stream)
    assert data[12:] == payload


def test_faults_say_what_ends_and_why() -> None:
    fault = ConnectionFault(ErrorCode.PROTOCOL_ERROR, "a reason")
    assert (fault.code, fault.reason, str(fault)) == (ErrorCode.PROTOCOL_ERROR, "a reason", "a reason")

    stream = StreamFault(7, ErrorCode.CANCEL, "another")
    assert (stream.stream_id, stream.code, stream.reason, str(stream)) == (7, ErrorCode.CANCEL, "another", "another")


@pytest.mark.parametrize(
    ("code", "number"), [("NO_ERROR", 0), ("ENHANCE_YOUR_CALM", 0xB), ("HTTP_1_1_REQUIRED", 0xD), ("CANCEL", 8)]
)
def test_codes_have_the_numbers_of_the_rfc(code: str, number: int) -> None:
    assert ErrorCode[code] == number
