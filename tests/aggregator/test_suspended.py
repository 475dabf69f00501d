"""How long cut uploads are kept and how many, on virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import cast

import anyio
import anyio.abc
import anyio.lowlevel
import pytest

from openfl_aio.aggregator.suspended import MOST_INDEX_BYTES, SuspendedUploads
from openfl_aio.aggregator.uploads import Upload
from openfl_aio.config import Limits
from openfl_aio.errors import ConnectionLostError, MalformedStreamError, NotFoundError

LIMITS = Limits(suspended_seconds=60, max_suspended_uploads=4, max_suspended_bytes=1000)


class Piece:
    """As much of an upload as is looked at here."""

    def __init__(self, nbytes: int = 10, *, index_bytes: int = 1, whole: bool = True) -> None:
        self.nbytes = nbytes
        self.index_bytes = index_bytes
        self.whole = whole
        self.aborted = 0

    async def pause(self) -> bool:
        await anyio.lowlevel.checkpoint()
        return self.whole

    async def abort(self) -> None:
        await anyio.lowlevel.checkpoint()
        self.aborted += 1


class Kept:
    def __init__(self, tasks: anyio.abc.TaskGroup, limits: Limits = LIMITS) -> None:
        self.uploads = SuspendedUploads(limits, per_collaborator=2, start=tasks.start_soon)

    async def put(self, name: str, upload_id: str, nbytes: int = 10) -> Piece:
        piece = Piece(nbytes)
        assert await self.uploads.suspend(name, upload_id, cast("Upload", piece))
        return piece


@pytest.fixture
async def kept() -> AsyncIterator[Kept]:
    async with anyio.create_task_group() as tasks:
        yield Kept(tasks)
        tasks.cancel_scope.cancel()


async def test_an_upload_is_gone_on_with_once(kept: Kept) -> None:
    piece = await kept.put("one", "a")
    assert await kept.uploads.offset("one", "a") == 10
    assert cast("object", await kept.uploads.resume("one", "a", 10)) is piece
    assert await kept.uploads.offset("one", "a") == 0
    with pytest.raises(NotFoundError, match="send it as a whole"):
        await kept.uploads.resume("one", "a", 10)
    await anyio.sleep(1000)
    assert piece.aborted == 0, "it is its caller's"


async def test_nobody_goes_on_with_anothers(kept: Kept) -> None:
    await kept.put("one", "a")
    assert await kept.uploads.offset("two", "a") == 0
    with pytest.raises(NotFoundError):
        await kept.uploads.resume("two", "a", 10)
    assert await kept.uploads.offset("one", "a") == 10


@pytest.mark.parametrize("offset", [1, 9, 11, 2**62])
async def test_it_goes_on_where_it_ended(kept: Kept, offset: int) -> None:
    await kept.put("one", "a")
    with pytest.raises(MalformedStreamError, match=f"go on at 10 bytes, got the offset {offset}"):
        await kept.uploads.resume("one", "a", offset)
    assert await kept.uploads.offset("one", "a") == 10


async def test_it_is_kept_for_a_minute(kept: Kept) -> None:
    first = await kept.put("one", "a")
    await anyio.sleep(59)
    second = await kept.put("one", "b")
    assert len(kept.uploads) == 2
    await anyio.sleep(2)
    assert (first.aborted, second.aborted, len(kept.uploads)) == (1, 0, 1)
    assert repr(kept.uploads) == "<SuspendedUploads 1 of 10 bytes, 0 under way>"
    await anyio.sleep(60)
    assert (second.aborted, kept.uploads.nbytes) == (1, 0)


async def test_a_collaborator_has_as_many_as_tasks(kept: Kept) -> None:
    pieces = [await kept.put("one", str(number)) for number in range(5)]
    await anyio.sleep(1)
    assert [piece.aborted for piece in pieces] == [1, 1, 1, 0, 0]


async def test_one_who_hoards_makes_room_for_others(kept: Kept) -> None:
    hoard = [await kept.put("mallory", str(number), 400) for number in range(2)]
    honest = [await kept.put(name, "a", 90) for name in ("one", "two")]
    assert kept.uploads.nbytes == 980
    honest.append(await kept.put("three", "a", 90))
    await anyio.sleep(1)
    assert [piece.aborted for piece in hoard] == [1, 0]
    assert [piece.aborted for piece in honest] == [0, 0, 0]
    honest.append(await kept.put("four", "a", 90))  # that makes five uploads
    await anyio.sleep(1)
    assert [piece.aborted for piece in hoard] == [1, 1]
    assert [piece.aborted for piece in honest] == [0, 0, 0, 0]
    assert len(kept.uploads) == LIMITS.max_suspended_uploads


async def test_what_is_too_much_by_itself_is_not_kept(kept: Kept) -> None:
    piece = await kept.put("one", "a", 1001)
    await anyio.sleep(1)
    assert (piece.aborted, len(kept.uploads)) == (1, 0)


@pytest.mark.parametrize("piece", [Piece(index_bytes=MOST_INDEX_BYTES + 1), Piece(whole=False)])
async def test_what_nobody_can_go_on_with_is_its_callers(kept: Kept, piece: Piece) -> None:
    assert not await kept.uploads.suspend("one", "a", cast("Upload", piece))
    assert (piece.aborted, len(kept.uploads)) == (0, 0)


async def test_without_time_none_is_kept() -> None:
    async with anyio.create_task_group() as tasks:
        uploads = Kept(tasks, Limits(suspended_seconds=0)).uploads
        assert not await uploads.suspend("one", "a", cast("Upload", Piece()))


async def test_a_new_call_ends_the_one_that_nobody_hears(kept: Kept) -> None:
    """Where a line is dead and only the client knows."""
    piece, ended = Piece(), anyio.Event()

    async def bring() -> None:
        with kept.uploads.sending("one", "a"):
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await anyio.sleep(0.01)  # a write that is under way
                    assert await kept.uploads.suspend("one", "a", cast("Upload", piece))

    async def call() -> None:
        with pytest.raises(ConnectionLostError, match="another call"):
            await bring()
        ended.set()

    async with anyio.create_task_group() as calls:
        calls.start_soon(call)
        await anyio.sleep(1)
        assert await kept.uploads.offset("one", "b") == 0
        assert not ended.is_set()
        assert await kept.uploads.offset("one", "a") == 10
        assert cast("object", await kept.uploads.resume("one", "a", 10)) is piece
    assert ended.is_set()


async def test_an_upload_that_begins_anew_replaces_what_has_its_name(kept: Kept) -> None:
    piece = await kept.put("one", "a")
    with kept.uploads.sending("one", "a"):
        await anyio.sleep(1)
        assert (piece.aborted, len(kept.uploads)) == (1, 0)


async def test_the_last_answers_are_remembered(kept: Kept) -> None:
    for upload_id in ("a", "b", "c"):
        kept.uploads.kept("one", upload_id)
    assert [kept.uploads.was_kept("one", upload_id) for upload_id in ("a", "b", "c")] == [False, True, True]
    assert not kept.uploads.was_kept("two", "c")


async def test_nothing_is_left_when_it_is_closed(kept: Kept) -> None:
    piece, late = await kept.put("one", "a"), Piece()

    async def bring() -> None:
        with kept.uploads.sending("one", "b"):
            kept.uploads.close()
            await anyio.sleep(1)

    with pytest.raises(ConnectionLostError):
        await bring()
    await anyio.sleep(1)
    assert (piece.aborted, len(kept.uploads)) == (1, 0)
    assert not await kept.uploads.suspend("one", "b", cast("Upload", late))
