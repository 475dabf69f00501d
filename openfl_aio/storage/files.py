"""What every write to disk has in common: all or nothing, durable, and one kind of error.

The functions here block; async callers run them through `anyio.to_thread.run_sync`.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Final

from openfl_aio.errors import StorageError, StorageFullError

__all__ = [
    "FULL",
    "PARTIAL_SUFFIX",
    "Buffer",
    "disk_error",
    "disk_errors",
    "fsync_folder",
    "hashed",
    "make_folder",
    "partial_path",
    "remove_quietly",
    "sweep_partials",
    "unload_pages",
    "write_atomic",
    "writing_atomic",
]

Buffer = bytes | bytearray | memoryview

PARTIAL_SUFFIX: Final = ".partial"

# no space, file size limit of the process or file system, quota
FULL: Final = frozenset({errno.ENOSPC, errno.EFBIG, errno.EDQUOT})
# no descriptor for another file: connections may have all of them, and like space they come back
NO_DESCRIPTOR: Final = frozenset({errno.EMFILE, errno.ENFILE})


def disk_error(exc: OSError, path: Path) -> StorageError:
    """Return ``exc`` as our error: `StorageFullError` when there is no room or no descriptor, else `StorageError`."""
    if exc.errno in FULL:
        return StorageFullError(
            f"no space to write {str(path)!r} ({os.strerror(exc.errno or 0)}); nothing was changed; free space and try again"
        )
    if exc.errno in NO_DESCRIPTOR:
        return StorageFullError(
            f"no file descriptor to open {str(path)!r} ({os.strerror(exc.errno or 0)}); nothing was changed; "
            "allow more open files (ulimit -n)"
        )
    return StorageError(
        f"cannot use {str(path)!r}: {exc.strerror or exc}; check that it exists and may be read and written"
    )


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raise any `OSError` of the block as a `StorageError` that names ``path``."""
    try:
        yield
    except OSError as exc:
        raise disk_error(exc, path) from exc


def fsync_folder(folder: Path) -> None:
    """Make names in ``folder`` durable: without it a rename may be lost with the power."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def hashed(text: str) -> str:
    """Return a file name for what a peer has a say in, which is no file name."""
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def make_folder(path: Path, *, mode: int = 0o700, durable: bool = True) -> bool:
    """Make a folder and those above it, if need be; return whether it was made. Raises `OSError`."""
    if path.is_dir():
        return False
    above = [folder for folder in path.parents if not folder.is_dir()]
    path.mkdir(parents=True, exist_ok=True, mode=mode)
    if durable:
        for folder in (path, *above):
            fsync_folder(folder.parent)
    return True


def partial_path(path: Path) -> Path:
    """Return a fresh temporary name beside ``path``: same file system, so that a rename is atomic."""
    # the name is not built from path.name: a name of 255 bytes would leave no room for the suffix
    return path.parent / f".{secrets.token_hex(8)}{PARTIAL_SUFFIX}"


def remove_quietly(path: Path) -> None:
    """Remove a file or folder if it is there; a failure is left to the sweep at the next start."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        pass


def sweep_partials(folder: Path) -> None:
    """Remove what a killed process left half-written in ``folder``."""
    for leftover in folder.glob(f".*{PARTIAL_SUFFIX}"):
        remove_quietly(leftover)


@contextmanager
def writing_atomic(path: Path, *, mode: int = 0o644, durable: bool = True) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes ``path``'s name when the block ends without an error.

    Until then, and after any error, ``path`` is as it was and nothing else is left. ``mode`` holds from the
    first moment. Unless it is to be ``durable``, the loss of power may undo it. Raises `StorageFullError` or
    `StorageError`.
    """
    partial = partial_path(path)
    try:
        with disk_errors(path):
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with open(descriptor, "wb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            os.replace(partial, path)
            if durable:
                fsync_folder(path.parent)
    except BaseException:
        remove_quietly(partial)
        raise


def write_atomic(path: Path, parts: Iterable[Buffer], *, mode: int = 0o644, durable: bool = True) -> int:
    """Write ``parts`` to ``path``, all or nothing; see `writing_atomic`. Returns the number of bytes."""
    written = 0
    with writing_atomic(path, mode=mode, durable=durable) as file:
        for part in parts:
            written += file.write(part)
    return written


def unload_pages(mapped: mmap.mmap, offset: int, nbytes: int) -> None:
    """Drop the whole pages of a range from the mapping; they stay in the system's cache as long as there is room."""
    first, end = -(-offset // mmap.PAGESIZE) * mmap.PAGESIZE, (offset + nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > first:
        try:
            mapped.madvise(mmap.MADV_DONTNEED, first, end - first)
        except ValueError:
            pass  # it was closed meanwhile
