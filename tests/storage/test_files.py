from __future__ import annotations

import errno
import resource
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from openfl_aio.errors import StorageError, StorageFullError
from openfl_aio.storage.files import disk_error, partial_path, remove_quietly, sweep_partials, write_atomic


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """A disk that is full after ``limit`` bytes of one file, as far as this process can tell."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_writes_parts_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "model"
    assert write_atomic(path, [b"ab", memoryview(b"cd"), bytearray(b"e")]) == 5
    assert path.read_bytes() == b"abcde"
    assert list(tmp_path.iterdir()) == [path]


def test_mode_of_a_key_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "key", [b"secret"], mode=0o600)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_a_full_disk_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model"
    write_atomic(path, [b"old"])
    with file_size_limit(10_000), pytest.raises(StorageFullError, match=r"no space to write .*model"):
        write_atomic(path, [b"x" * 50_000])
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_source_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    def parts() -> Iterator[bytes]:
        yield b"new"
        raise RuntimeError("the source failed")

    path = tmp_path / "model"
    write_atomic(path, [b"old"])
    with pytest.raises(RuntimeError, match="source"):
        write_atomic(path, parts())
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot use .*nowhere"):
        write_atomic(tmp_path / "nowhere" / "model", [b"x"])


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (errno.ENOSPC, StorageFullError),
        (errno.EFBIG, StorageFullError),
        (errno.EDQUOT, StorageFullError),
        (errno.EMFILE, StorageFullError),
        (errno.ENFILE, StorageFullError),
        (errno.EACCES, StorageError),
    ],
)
def test_error_of_each_code(code: int, kind: type[StorageError]) -> None:
    assert type(disk_error(OSError(code, "x"), Path("p"))) is kind


def test_sweep_removes_only_leftovers(tmp_path: Path) -> None:
    keep = tmp_path / "kept"
    keep.write_bytes(b"")
    partial_path(keep).write_bytes(b"half")
    (partial_path(keep) / "inner").mkdir(parents=True)
    sweep_partials(tmp_path)
    assert list(tmp_path.iterdir()) == [keep]


def test_remove_quietly_never_raises(tmp_path: Path) -> None:
    remove_quietly(tmp_path / "absent")
    (tmp_path / "file").write_bytes(b"")
    remove_quietly(tmp_path / "file" / "below")
    assert (tmp_path / "file").exists()
