"""Room for large messages: all of it or none, in the order in which they asked, and never more than there is."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from openfl_aio.transport.http2.messages import OWN_MEMORY, PREFIX, BufferPool, Inbound
from openfl_aio.transport.http2.room import Room

LARGE = OWN_MEMORY + 1000


def begun(room: Room, size: int = LARGE, *, told: list[str] | None = None, name: str = "") -> Inbound:
    """Return a stream whose message of ``size`` bytes has just begun."""
    inbound = Inbound(1 << 30)
    inbound.room = room
    if told is not None:
        inbound.on_room = lambda: told.append(name)
    inbound.feed(memoryview(PREFIX.pack(0, size) + bytes(1000)))
    return inbound


def test_who_finds_no_room_waits_for_whoever_came_before() -> None:
    room, told = Room(2 * LARGE), list[str]()
    first, second, third = (begun(room, told=told, name=name) for name in ("one", "two", "three"))
    assert (first.waiting, second.waiting, third.waiting) == (False, False, True)
    assert first.settle() == 1005
    assert third.settle() == 5, "what came of a message that has no room stays unsettled"

    first.feed(memoryview(bytes(LARGE - 1000)))
    assert first.take() is not None
    assert third.waiting, "a message that is being read still has its room"
    first.release()

    assert told == ["three"]
    assert not third.waiting
    assert third.settle() == 1000


def test_small_messages_need_none() -> None:
    room = Room(1)
    inbound = begun(room, OWN_MEMORY)

    assert not inbound.waiting
    assert inbound.settle() == 1005
    assert room.left == 1


def test_a_message_larger_than_everything_gets_everything() -> None:
    room = Room(1000)
    alone, next_one = begun(room), begun(room)

    assert not alone.waiting
    assert next_one.waiting
    assert room.left == 0
    alone.close()
    assert not next_one.waiting


def test_whoever_is_closed_leaves_the_line_and_what_it_had() -> None:
    room = Room(LARGE)
    first, second, third = begun(room), begun(room), begun(room)
    second.close()
    first.close()
    assert not third.waiting
    third.close()

    assert room.left == LARGE


def test_the_memory_of_the_pool_and_the_room_go_together() -> None:
    room, pool = Room(10 * LARGE), BufferPool(1 << 20)
    inbound = Inbound(1 << 20)
    inbound.room, inbound.pool = room, pool
    inbound.feed(memoryview((PREFIX.pack(0, LARGE) + b"a" * LARGE) * 3))
    assert room.left == 7 * LARGE
    taken = inbound.take()
    assert taken is not None
    assert bytes(taken) == b"a" * LARGE
    inbound.release()
    assert room.left == 8 * LARGE
    inbound.close()

    assert room.left == 10 * LARGE


@given(
    size=st.integers(1, 100),
    steps=st.lists(st.tuples(st.sampled_from(["ask", "leave"]), st.integers(0, 9), st.integers(1, 150)), max_size=60),
)
def test_no_more_is_held_than_there_is_and_nobody_is_forgotten(size: int, steps: list[tuple[str, int, int]]) -> None:
    room = Room(size)
    held: dict[int, int] = {}
    waiting: dict[int, int] = {}

    def granted(who: int) -> None:
        held[who] = waiting.pop(who)

    for step, who, wanted in steps:
        if step == "leave":
            held.pop(who, None)
            waiting.pop(who, None)
            room.leave(who)
        elif who not in held and who not in waiting:
            waiting[who] = min(wanted, size)
            if room.ask(who, wanted, lambda who=who: granted(who)):  # type: ignore[misc]
                granted(who)
        assert sum(held.values()) == size - room.left <= size
        if waiting:
            assert next(iter(waiting.values())) > room.left, "the first in the line waits only while it does not fit"
    while held:
        who, _ = held.popitem()
        room.leave(who)

    assert not waiting
    assert room.left == size
