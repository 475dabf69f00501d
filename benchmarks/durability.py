"""What does each level of durability cost? Uploads a second that the journal takes in, eight senders at once.

No network: the bytes of an upload are written in chunks of 2 MiB, as they would come, and committed with the record of
one tensor. ``memory`` keeps them in memory, ``process`` in files, ``power`` waits for the disk. The folder is in the
temporary directory: set TMPDIR to a folder on the disk that is meant. The levels take turns.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import anyio
import anyio.to_thread

from openfl_aio.storage.file_journal import FileJournal
from openfl_aio.storage.journal import ALL_ROUNDS, Journal, MemoryJournal, UploadRecord

KIB, MIB = 1024, 1024 * 1024
CHUNK = 2 * MIB
SENDERS = 8
LEVELS = ("memory", "process", "power")
# name, bytes, uploads of each sender in a round
CASES = (("1 KiB", KIB, 50), ("1 MiB", MIB, 20), ("64 MiB", 64 * MIB, 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--small", action="store_true", help="few uploads: does it run?")
    parser.add_argument("--pairs", type=int, default=3, help="rounds to time, of which the median is told")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        anyio.run(partial(measure, Path(folder), rounds=options.pairs, small=options.small))


async def measure(folder: Path, *, rounds: int, small: bool) -> None:
    files = FileJournal(folder / "journal")
    await files.open()
    journals: dict[str, Journal] = {"memory": MemoryJournal(anyio.to_thread.run_sync), "process": files, "power": files}
    sys.stdout.write(
        f"uploads a second, {SENDERS} at once, median of {rounds}\n\nsize     "
        + "".join(f"{level:>10}" for level in LEVELS)
        + "\n"
    )
    for name, nbytes, count in CASES[: 2 if small else None]:
        speeds: dict[str, list[float]] = {level: [] for level in LEVELS}
        for _ in range(rounds):
            for level in LEVELS:
                each = 2 if small else count
                begun = time.perf_counter()
                async with anyio.create_task_group() as group:
                    for sender in range(SENDERS):
                        group.start_soon(send, journals[level], level, sender, nbytes, each)
                speeds[level].append(SENDERS * each / (time.perf_counter() - begun))
                await journals[level].drop("f", ALL_ROUNDS)
        sys.stdout.write(
            f"{name:<9}" + "".join(f"{statistics.median(speeds[level]):>10.1f}" for level in LEVELS) + "\n"
        )
        sys.stdout.flush()
    await files.close()


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
