from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from openfl_aio.telemetry.logs import configure_logging


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    handler = configure_logging(stream=stream)
    yield stream
    logger = logging.getLogger("openfl_aio")
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.mark.parametrize("separator", ["\n", "\r", "\r\n", "\x0b", "\x0c", "\x85", "\u2028", "\x1b[2J\n"])
def test_a_hostile_name_never_makes_a_second_line(stream: io.StringIO, separator: str) -> None:
    logging.getLogger("openfl_aio.x").warning("task %s ignored", f"train{separator}CRITICAL forged")
    assert len(stream.getvalue().splitlines()) == 1
    assert "\x1b" not in stream.getvalue()


def test_lines_below_the_level_are_left_out(stream: io.StringIO) -> None:
    logging.getLogger("openfl_aio.x").debug("quiet")
    logging.getLogger("openfl_aio.x").info("loud")
    assert [line.rsplit(" ", 1)[1] for line in stream.getvalue().splitlines()] == ["loud"]


def test_configuring_again_replaces_the_handler(stream: io.StringIO) -> None:
    second = io.StringIO()
    handler = configure_logging("WARNING", stream=second)
    logging.getLogger("openfl_aio.x").warning("once")
    logging.getLogger("openfl_aio").removeHandler(handler)
    assert stream.getvalue() == ""
    assert second.getvalue().endswith("once\n")


def test_a_traceback_of_ours_is_kept(stream: io.StringIO) -> None:
    try:
        raise RuntimeError("why")
    except RuntimeError:
        logging.getLogger("openfl_aio.x").exception("it broke")
    assert "Traceback" in stream.getvalue()
