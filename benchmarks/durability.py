"""What does each level of durability cost the journal, with eight uploads at once: in memory, in files, on the disk?

No network: the bytes are written in chunks of 2 MiB, as they would come, and committed with their record. ``memory``
keeps them in memory, ``process`` in files, ``power`` waits until the disk has them. The files are in the temporary
directory: set TMPDIR to a folder on the disk that is meant. The time is that of one upload.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread
from _harness import Comparison, arguments, expect, report

from openfl_aio.storage.file_journal import FileJournal
from openfl_aio.storage.journal import ALL_ROUNDS, Journal, MemoryJournal, UploadRecord

KIB, MIB = 1024, 1024 * 1024
CHUNK = 2 * MIB
SENDERS = 8
CASES = (("1 KiB", KIB, 50), ("1 MiB", MIB, 20), ("64 MiB", 64 * MIB, 1))  # name, bytes, uploads of each sender
LEVELS = ("process", "memory", "power")


def main() -> None:
    options = arguments(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        comparisons = anyio.run(partial(measure, Path(folder), pairs=options.pairs, small=options.small))
    report("durability: one upload into the journal, eight at once", comparisons, options)


async def measure(folder: Path, *, pairs: int, small: bool) -> list[Comparison]:
    files = FileJournal(folder / "journal")
    await files.open()
    journals: dict[str, Journal] = {
        "memory": MemoryJournal(anyio.to_thread.run_sync),
        "process": files,
        "power": files,
    }
    comparisons = []
    for name, nbytes, count in CASES[: 2 if small else None]:
        seconds: dict[str, list[float]] = {level: [] for level in LEVELS}
        for number in range(pairs + 1):
            for level in LEVELS if number % 2 else reversed(LEVELS):
                taken = await play(journals[level], level, nbytes, 2 if small else count)
                if number:  # the first is the warm-up
                    seconds[level].append(taken)
        comparisons += [
            Comparison(name, "process", level, nbytes, tuple(seconds["process"]), tuple(seconds[level]))
            for level in LEVELS[1:]
        ]
    await files.close()
    return comparisons


async def play(journal: Journal, level: str, nbytes: int, count: int) -> float:
    """Return the seconds of one upload of ``nbytes``, when all senders bring ``count`` each."""
    begun = time.perf_counter()
    async with anyio.create_task_group() as group:
        for sender in range(SENDERS):
            group.start_soon(send, journal, level, sender, nbytes, count)
    taken = (time.perf_counter() - begun) / (SENDERS * count)
    kept = await journal.entries("f", count - 1)
    expect(len(kept) == SENDERS, f"{len(kept)} of {SENDERS} uploads are in the journal")
    for entry in kept:
        entry.close()
    await journal.drop("f", ALL_ROUNDS)
    return taken


async def send(journal: Journal, level: str, sender: int, nbytes: int, count: int) -> None:
    chunk = memoryview(bytes(range(256)) * (CHUNK // 256))
    for number in range(count):
        spool = journal.spool(durable=level == "power")
        for start in range(0, nbytes, CHUNK):
            await spool.write(chunk[: min(CHUNK, nbytes - start)])
        entry = await spool.commit(UploadRecord("f", number, "train", f"sender {sender}", 1, (), nbytes))
        entry.close()


if __name__ == "__main__":
    main()
