"""What does each level of durability cost the journal: in memory, in files, on the disk, one upload alone and many at once?

No network: the bytes are written in chunks of 2 MiB, as they would come, and committed with their record. ``memory``
keeps them in memory, ``process`` in files, ``power`` waits until the disk has them. A round is one upload of every sender,
and is dropped before the next, as in a federation; the levels take turns round by round, each with a disk that has
nothing left to write. The time is that of one upload, the median over the rounds of a pair; below the table is how
often the disk was told to flush for it. The files are in the temporary directory: set TMPDIR to a folder on the disk
that is meant.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from _harness import Comparison, arguments, expect, report

from openfl_aio.storage.file_journal import FileJournal
from openfl_aio.storage.journal import Journal, MemoryJournal, UploadRecord

KIB, MIB = 1024, 1024 * 1024
CHUNK = 2 * MIB
LEVELS = ("process", "memory", "power")
CASES = (  # bytes, senders, rounds of a pair
    ("1 KiB, 1", KIB, 1, 60),
    ("1 KiB, 8", KIB, 8, 40),
    ("1 KiB, 64", KIB, 64, 10),
    ("1 MiB, 1", MIB, 1, 30),
    ("1 MiB, 8", MIB, 8, 15),
    ("1 MiB, 32", MIB, 32, 6),
    ("16 MiB, 8", 16 * MIB, 8, 3),
)


def main() -> None:
    options = arguments(__doc__)
    flushes: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        comparisons = anyio.run(partial(measure, Path(folder), flushes, pairs=options.pairs, small=options.small))
    report("durability: one upload into the journal, so many at once", comparisons, options, extra=flushes)


def counted() -> list[None]:
    """Return what grows by one with each flush of the disk from now on."""
    count: list[None] = []
    fsync = os.fsync

    def counting(descriptor: Any) -> None:
        count.append(None)
        fsync(descriptor)

    os.fsync = counting
    return count


async def measure(folder: Path, flushes: dict[str, float], *, pairs: int, small: bool) -> list[Comparison]:
    told = counted()
    files = {level: FileJournal(folder / level) for level in ("process", "power")}
    for journal in files.values():
        await journal.open()
    journals: dict[str, Journal] = {"memory": MemoryJournal(anyio.to_thread.run_sync), **files}
    comparisons = []
    for name, nbytes, senders, rounds in CASES[:4] if small else CASES:
        seconds: dict[str, list[float]] = {level: [] for level in LEVELS}
        before, uploads = len(told), 0
        for _ in range(pairs):
            taken: dict[str, list[float]] = {level: [] for level in LEVELS}
            # the first round of a pair is the warm-up: its files are new, those of the others are written over
            for number in range(1 + (1 if small else rounds)):
                for turn in range(len(LEVELS)):
                    level = LEVELS[(number + turn) % len(LEVELS)]
                    one = await play(journals[level], level, nbytes, senders, number)
                    taken[level] += [one] if number else []
                uploads += senders
            for level in LEVELS:
                seconds[level].append(statistics.median(taken[level]))
        flushes[f"{name}, power: flushes an upload"] = (len(told) - before) / uploads
        comparisons += [
            Comparison(name, "process", level, nbytes, tuple(seconds["process"]), tuple(seconds[level]))
            for level in LEVELS[1:]
        ]
    for journal in files.values():
        await journal.close()
    return comparisons


async def play(journal: Journal, level: str, nbytes: int, senders: int, number: int) -> float:
    """Return the seconds of one upload of ``nbytes``, when all senders bring one for the round ``number``."""
    await anyio.to_thread.run_sync(os.sync)
    begun = time.perf_counter()
    async with anyio.create_task_group() as group:
        for sender in range(senders):
            group.start_soon(send, journal, level, sender, nbytes, number)
    taken = (time.perf_counter() - begun) / senders
    kept = await journal.entries("f", number)
    expect(len(kept) == senders, f"{len(kept)} of {senders} uploads are in the journal")
    for entry in kept:
        entry.close()
    await journal.drop("f", number + 1)
    return taken


async def send(journal: Journal, level: str, sender: int, nbytes: int, number: int) -> None:
    chunk = memoryview(bytes(range(256)) * (CHUNK // 256))
    spool = journal.spool(durable=level == "power")
    for start in range(0, nbytes, CHUNK):
        await spool.write(chunk[: min(CHUNK, nbytes - start)])
    entry = await spool.commit(UploadRecord("f", number, "train", f"sender {sender}", 1, (), nbytes))
    entry.close()


if __name__ == "__main__":
    main()
