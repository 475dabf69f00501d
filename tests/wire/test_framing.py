from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.errors import EmptyStreamError, MalformedStreamError, MessageTooLargeError
from openfl_aio.wire.framing import ChunkChecker, data_stream, experiment_data, split
from openfl_aio.wire.messages import DataStream, director


@given(st.lists(st.binary(max_size=20), max_size=12), st.integers(1, 9))
def test_split_keeps_the_bytes_and_fills_every_chunk_but_the_last(parts: list[bytes], size: int) -> None:
    chunks = [b"".join(chunk) for chunk in split(parts, size)]
    assert b"".join(chunks) == b"".join(parts)
    assert all(len(chunk) == size for chunk in chunks[:-1])
    assert all(0 < len(chunk) <= size for chunk in chunks)


def test_split_does_not_copy() -> None:
    source = bytearray(b"abcdefg")
    (first, second), (third,), (fourth,) = split([b"x", source], 3)
    source[0:3] = b"ABC"
    assert [bytes(first), bytes(second), bytes(third), bytes(fourth)] == [b"x", b"AB", b"Cde", b"fg"]


def test_split_takes_one_part_at_a_time() -> None:
    taken = []

    def parts() -> object:
        for name in (b"aaaa", b"bbbb"):
            taken.append(name)
            yield name

    chunks = split(parts(), 2)  # type: ignore[arg-type]
    next(chunks)
    assert taken == [b"aaaa"]


def test_data_stream_declares_the_size_of_each_chunk() -> None:
    assert [(chunk.size, bytes(chunk.npbytes)) for chunk in data_stream([b"ab", b"c", b"de"], chunk_bytes=4)] == [
        (4, b"abcd"),
        (1, b"e"),
    ]


def test_experiment_data_declares_the_size_of_each_chunk() -> None:
    chunks = list(experiment_data([b"abcde"], chunk_bytes=2))
    assert [(chunk.size, bytes(chunk.npbytes)) for chunk in chunks] == [(2, b"ab"), (2, b"cd"), (1, b"e")]
    assert isinstance(chunks[0].npbytes, memoryview)


def test_a_checked_chunk_gives_its_payload() -> None:
    checker = ChunkChecker(10)
    assert bytes(checker.check(DataStream(size=3, npbytes=b"abc"))) == b"abc"
    assert bytes(checker.check(DataStream(npbytes=b"de"))) == b"de"
    assert bytes(checker.check(director.ExperimentData(size=1, npbytes=b"f"))) == b"f"
    checker.finish()
    assert checker.total == 6
    assert repr(checker) == "ChunkChecker(limit=10, strict=True, total=6)"


@pytest.mark.parametrize("size", [2, 4])
def test_a_wrong_declared_size_is_refused(size: int) -> None:
    with pytest.raises(MalformedStreamError, match=f"chunk of {size} bytes as declared, got 3"):
        ChunkChecker(10).check(DataStream(size=size, npbytes=b"abc"))


def test_without_strictness_the_declared_size_is_not_looked_at() -> None:
    assert bytes(ChunkChecker(10, strict=False).check(DataStream(size=7, npbytes=b"abc"))) == b"abc"


def test_the_running_total_is_limited() -> None:
    checker = ChunkChecker(4)
    checker.check(DataStream(npbytes=b"abc"))
    with pytest.raises(MessageTooLargeError, match="at most 4 bytes"):
        checker.check(DataStream(npbytes=b"de"))


def test_a_stream_without_a_byte_is_an_error() -> None:
    checker = ChunkChecker(4)
    checker.check(DataStream())
    with pytest.raises(EmptyStreamError, match="got none"):
        checker.finish()
