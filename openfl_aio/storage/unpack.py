"""Archives of workspaces: packed so that equal folders give equal bytes, unpacked as if by an enemy.

Only zip, only regular files and folders, only names inside the target, only so much of anything. Whatever an
archive declares about itself is checked against what comes out.
"""

from __future__ import annotations

import errno
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path, PurePosixPath
from typing import Final

import anyio.to_thread

from openfl_aio.config import Limits
from openfl_aio.errors import AlreadyExistsError, ArchiveError
from openfl_aio.storage.files import disk_errors, fsync_folder, partial_path, remove_quietly, writing_atomic

__all__ = ["DEFAULT_EXCLUDES", "check", "checked_members", "opened", "pack", "read_bounded", "unpack"]

MAX_PATH: Final = 240
MAX_DEPTH: Final = 32  # folders in each other
LOCAL_HEADER_BYTES: Final = 30  # before a member's name and data
RATIO_FREE_BYTES: Final = 1024 * 1024  # below this a high compression ratio harms nobody
BLOCK: Final = 256 * 1024

END: Final = b"PK\x05\x06"
END_BYTES: Final = 22
ZIP64_LOCATOR: Final = b"PK\x06\x07"
ZIP64_LOCATOR_BYTES: Final = 20
ENTRY_BYTES: Final = 46 + MAX_PATH + 256  # central directory record with a longest name and room for extra fields

# what a workspace never ships: secrets, models, data, and what is made again
DEFAULT_EXCLUDES: Final = (
    ".*",
    "__pycache__",
    "*.pyc",
    "*.crt",
    "*.key",
    "*.csr",
    "*.pem",
    "*.pbuf",
    "*.zip",
    "cert",
    "data",
    "logs",
)


async def unpack(archive: Path, target: Path, *, limits: Limits) -> None:
    """Unpack the zip file ``archive`` as the new folder ``target``.

    ``target`` appears whole or not at all, and nothing is ever written outside it.

    Raises:
        ArchiveError: the archive is damaged, passes a limit, or holds anything but plain files and folders.
        AlreadyExistsError: ``target`` exists.
        StorageFullError, StorageError: the disk refuses.
    """
    await anyio.to_thread.run_sync(_unpack, archive, target, limits)


async def check(archive: Path, *, limits: Limits) -> None:
    """Raise the `ArchiveError` that `unpack` would raise. Everything is read once, and nothing is written."""
    await anyio.to_thread.run_sync(_check, archive, limits)


async def pack(
    folder: Path,
    archive: Path,
    *,
    exclude: Sequence[str] = DEFAULT_EXCLUDES,
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write every regular file under ``folder`` into the zip file ``archive``; equal folders give equal bytes.

    ``exclude`` are shell patterns; one that matches a file's or folder's name leaves it out. ``extra`` are further
    members by name; they take the place of files of that name. Raises `ArchiveError` for a link or special file that
    is not excluded, and `StorageError`.
    """
    await anyio.to_thread.run_sync(_pack, folder, archive, tuple(exclude), dict(extra or {}))


@contextmanager
def opened(archive: Path, *, limits: Limits) -> Iterator[zipfile.ZipFile]:
    """Open ``archive`` for reading; every way in which a zip file can be broken becomes `ArchiveError`. Blocks."""
    with disk_errors(archive):
        _check_directory_size(archive, limits)
    try:
        with disk_errors(archive), _seek_errors(), zipfile.ZipFile(archive) as zf:
            yield zf
    # what zipfile raises for a damaged or unsupported file, each met in its source
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, struct.error, ValueError) as exc:
        what = str(exc) or type(exc).__name__
        raise ArchiveError(f"not a usable zip archive: {what}; build it again and send it anew") from exc


@contextmanager
def _seek_errors() -> Iterator[None]:
    """Tell an offset before the file's start, which a table of contents can name, from a disk's failure."""
    try:
        yield
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            raise zipfile.BadZipFile("an offset lies outside the file") from exc
        raise


def _check_directory_size(archive: Path, limits: Limits) -> None:
    """Bound the archive's table of contents before `zipfile` builds an object for each line of it."""
    size = archive.stat().st_size
    with archive.open("rb") as file:
        file.seek(max(0, size - END_BYTES - ZIP64_LOCATOR_BYTES - 65535))
        tail = file.read()
    # the order in which zipfile looks: without a comment first
    at = len(tail) - END_BYTES
    if at < 0 or tail[at : at + 4] != END or tail[-2:] != b"\0\0":
        at = tail.rfind(END)
    if at < 0 or len(tail) - at < END_BYTES:
        raise ArchiveError("not a zip archive: it has no table of contents; build it again and send it anew")
    if tail[max(0, at - ZIP64_LOCATOR_BYTES) : at].startswith(ZIP64_LOCATOR):
        raise ArchiveError(
            "the archive is in zip64 format, which only files above 4 GiB need; pack a smaller workspace"
        )
    (directory_bytes,) = struct.unpack_from("<L", tail, at + 12)
    allowed = limits.max_archive_files * ENTRY_BYTES
    if directory_bytes > allowed:
        raise ArchiveError(
            f"the archive's table of contents has {directory_bytes} bytes, at most {allowed} are allowed; pack fewer files"
        )


def checked_members(zf: zipfile.ZipFile, *, limits: Limits) -> dict[str, zipfile.ZipInfo]:
    """Return the regular files of ``zf`` by their path from the root, once all names and declared sizes are allowed.

    Raises `ArchiveError`. Declared sizes may lie: `read_bounded` counts.
    """
    infos = zf.infolist()
    _check_overlaps(infos)
    if len(infos) > limits.max_archive_files:
        raise ArchiveError(f"the archive holds {len(infos)} files, at most {limits.max_archive_files} are allowed")
    files: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    total = 0
    for info in infos:
        path = _member_path(info)
        if len(path.parts) > MAX_DEPTH:
            raise ArchiveError(
                f"the archive's member {info.filename[:40]!r}... lies {len(path.parts)} folders deep, {MAX_DEPTH} at most"
            )
        folders.update(str(parent) for parent in path.parents)
        if info.is_dir():
            folders.add(str(path))
            continue
        if str(path) in files:
            raise ArchiveError(f"the archive holds {str(path)!r} twice")
        files[str(path)] = info
        total += info.file_size
    if clash := folders & files.keys():
        raise ArchiveError(f"the archive holds {min(clash)!r} both as a file and as a folder")
    if total > limits.max_unpacked_bytes:
        raise ArchiveError(f"the archive unpacks to {total} bytes, at most {limits.max_unpacked_bytes} are allowed")
    return files


def _check_overlaps(infos: Sequence[zipfile.ZipInfo]) -> None:
    """Refuse members that share their bytes: that is how a small archive unpacks to a million times its size."""
    end = 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < end:
            raise ArchiveError(f"the archive's member {info.filename[:40]!r} lies within another one")
        end = info.header_offset + LOCAL_HEADER_BYTES + info.compress_size


def _member_path(info: zipfile.ZipInfo) -> PurePosixPath:
    # orig_filename: zipfile cuts names at a NUL and turns the platform's separators
    name = info.orig_filename
    if not name.isprintable() or "\\" in name or ":" in name.split("/")[0]:
        raise ArchiveError(f"the archive's member {name!r} has characters that are not allowed in a path")
    if len(name) > MAX_PATH or any(len(part.encode()) > 255 for part in name.split("/")):
        raise ArchiveError(
            f"the archive's member {name[:40]!r}... has a path of {len(name)} characters, {MAX_PATH} at most"
        )
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or (not path.parts and not info.is_dir()):
        raise ArchiveError(f"the archive's member {name!r} leads out of the workspace")
    kind = stat.S_IFMT(info.external_attr >> 16)
    # DOS writers leave the type out
    if kind not in (0, stat.S_IFDIR if info.is_dir() else stat.S_IFREG):
        raise ArchiveError(f"the archive's member {name!r} is no regular file; links and devices are not unpacked")
    if info.flag_bits & 0x1:
        raise ArchiveError(f"the archive's member {name!r} is encrypted; send it in the clear")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f"the archive's member {name!r} is compressed by method {info.compress_type}; use deflate")
    return path


class _Budget:
    """What may still come out of one archive, counted in real bytes."""

    def __init__(self, packed_bytes: int, limits: Limits) -> None:
        self._limit = limits.max_unpacked_bytes
        self._ratio = limits.max_compression_ratio
        self._by_ratio = max(RATIO_FREE_BYTES, packed_bytes * limits.max_compression_ratio)
        self._total = 0

    def spend(self, count: int) -> None:
        self._total += count
        if self._total > self._limit:
            raise ArchiveError(f"the archive unpacks to more than {self._limit} bytes")
        if self._total > self._by_ratio:
            raise ArchiveError(f"the archive unpacks to more than {self._ratio} times its size")


def read_bounded(zf: zipfile.ZipFile, info: zipfile.ZipInfo, *, limit: int) -> bytes:
    """Return one member's bytes. Raises `ArchiveError` if there are more than ``limit``. Blocks."""
    with zf.open(info) as source:
        data = source.read(limit + 1)
    if len(data) > limit:
        raise ArchiveError(f"the archive's member {info.filename!r} has more than {limit} bytes")
    return data


def _check(archive: Path, limits: Limits) -> None:
    with opened(archive, limits=limits) as zf:
        budget = _Budget(archive.stat().st_size, limits)
        for info in checked_members(zf, limits=limits).values():
            for _ in _blocks(zf, info, budget):
                pass


def _blocks(zf: zipfile.ZipFile, info: zipfile.ZipInfo, budget: _Budget) -> Iterator[bytes]:
    """Yield what comes out of one member, paid for."""
    with _seek_errors(), zf.open(info) as source:
        while block := source.read(BLOCK):
            budget.spend(len(block))
            yield block


def _unpack(archive: Path, target: Path, limits: Limits) -> None:
    if target.exists() or target.is_symlink():
        raise AlreadyExistsError(f"{str(target)!r} exists already; unpack into a new folder")
    partial = partial_path(target)
    try:
        with opened(archive, limits=limits) as zf:
            members = checked_members(zf, limits=limits)
            budget = _Budget(archive.stat().st_size, limits)
            partial.mkdir(mode=0o700)
            for name, info in members.items():
                _extract(zf, info, partial / name, budget)
        with disk_errors(target):
            os.rename(partial, target)
            fsync_folder(target.parent)
    except BaseException:
        remove_quietly(partial)
        raise


def _extract(zf: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, budget: _Budget) -> None:
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with open(descriptor, "wb") as file:
            for block in _blocks(zf, info, budget):
                file.write(block)


def _pack(folder: Path, archive: Path, exclude: tuple[str, ...], extra: dict[str, bytes]) -> None:
    with disk_errors(folder):
        files = {path.relative_to(folder).as_posix(): path for path in _files(folder, exclude, skip=archive)}
    with writing_atomic(archive) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, allowZip64=False) as zf:
        for name in sorted({*files, *extra}):
            if name in extra:
                zf.writestr(member_info(name), extra[name])
                continue
            with files[name].open("rb") as source, zf.open(member_info(name), "w") as sink:
                while block := source.read(BLOCK):
                    sink.write(block)


def member_info(name: str) -> zipfile.ZipInfo:
    """Return the header of a member that depends on its name alone."""
    info = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
    info.compress_type = zipfile.ZIP_DEFLATED
    info.create_system = 3  # unix, wherever we run
    info.external_attr = (stat.S_IFREG | 0o644) << 16
    return info


def _files(folder: Path, exclude: tuple[str, ...], *, skip: Path) -> Iterator[Path]:
    for path in folder.iterdir():
        if path == skip or any(fnmatchcase(path.name, pattern) for pattern in exclude):
            continue
        if path.is_symlink() or not (path.is_dir() or path.is_file()):
            raise ArchiveError(f"{str(path)!r} is no regular file; replace the link by what it names, or exclude it")
        if path.is_dir():
            yield from _files(path, exclude, skip=skip)
        else:
            yield path
