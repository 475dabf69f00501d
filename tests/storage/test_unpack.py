from __future__ import annotations

import io
import os
import resource
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from openfl_aio.config import Limits
from openfl_aio.errors import AlreadyExistsError, ArchiveError, StorageError, StorageFullError
from openfl_aio.storage.unpack import check, opened, pack, unpack

pytestmark = pytest.mark.real_time

LIMITS = Limits(max_archive_files=20, max_unpacked_bytes=3 * 1024 * 1024)


def zip_of(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as zf:
        for member, data in members:
            zf.writestr(member, data)
    return out.getvalue()


def special(name: str, kind: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.create_system = 3
    info.external_attr = (kind | 0o777) << 16
    return info


def squeezed(name: str, method: int) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.compress_type = method
    return info


def lying(data: bytes) -> bytes:
    """Rewrite the declared size in the table of contents to 1 byte."""
    at = data.index(b"PK\x01\x02")
    return data[: at + 24] + struct.pack("<L", 1) + data[at + 28 :]


def encrypted(data: bytes) -> bytes:
    at = data.index(b"PK\x01\x02")
    return data[: at + 8] + struct.pack("<H", 1) + data[at + 10 :]


def shifted(data: bytes) -> bytes:
    """Let the table of contents begin later than it does: members then begin before the file."""
    (start,) = struct.unpack_from("<L", data, len(data) - 6)
    return data[:-6] + struct.pack("<L", start + 256) + data[-2:]


def flipped(data: bytes) -> bytes:
    """Damage the payload, not the tables."""
    return data.replace(b"payload", b"PAYLOAD")


def zip64() -> bytes:
    plain = zip_of(("a", b"a"))
    return plain[:-22] + b"PK\x06\x07" + bytes(16) + plain[-22:]


def overlapping() -> bytes:
    """Let the second member be the first one's bytes too: a hundred such are a hundred times as much."""
    data = zip_of(("a", b"x" * 500), ("b", b"x" * 500))
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 4)
    return data[: second + 42] + struct.pack("<L", 0) + data[second + 46 :]


def tar(kind: bytes = tarfile.REGTYPE) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = kind, "/etc/passwd"
        archive.addfile(member)
    return out.getvalue()


HOSTILE = {
    "tar with a hard link": (tar(tarfile.LNKTYPE), "no table of contents"),
    "tar with a device": (tar(tarfile.CHRTYPE), "no table of contents"),
    "no zip": (b"hello" * 10, "no table of contents"),
    "empty": (b"", "no table of contents"),
    "truncated": (zip_of(("a", b"a" * 100))[:-5], "no table of contents"),
    "damaged": (flipped(zip_of((squeezed("a", zipfile.ZIP_STORED), b"payload"))), "CRC"),
    "shifted": (shifted(zip_of(("a", b"x"))), "lies within another one"),
    "zip64": (zip64(), "zip64"),
    "dot-dot": (zip_of(("../evil", b"x")), "leads out"),
    "dot-dot inside": (zip_of(("a/../../evil", b"x")), "leads out"),
    "absolute": (zip_of(("/tmp/evil", b"x")), "leads out"),
    "drive": (zip_of(("C:/evil", b"x")), "characters"),
    "backslash": (zip_of(("..\\evil", b"x")), "characters"),
    "control character": (zip_of(("a\x1b[2J", b"x")), "characters"),
    "symlink": (zip_of((special("link", stat.S_IFLNK), b"/etc/passwd")), "no regular file"),
    "fifo": (zip_of((special("fifo", stat.S_IFIFO), b"")), "no regular file"),
    "device": (zip_of((special("dev", stat.S_IFCHR), b"")), "no regular file"),
    "long path": (zip_of(("a/" * 120 + "b", b"x")), "characters, 240 at most"),
    "long part": (zip_of(("ü" * 130, b"x")), "240 at most"),
    "deep path": (zip_of(("/".join("abcdefgh" * 4) + "/file", b"x")), "33 folders deep, 32 at most"),
    "overlapping": (overlapping(), "lies within another one"),
    "many files": (zip_of(*((f"f{i}", b"") for i in range(21))), "21 files"),
    "large table": (zip_of(*((f"f{i}", b"") for i in range(250))), "table of contents has"),
    "declared large": (zip_of(("a", os.urandom(4 * 1024 * 1024))), "unpacks to 4194304"),
    "bomb": (zip_of(("a", bytes(2 * 1024 * 1024))), "times its size"),
    "lying bomb": (lying(zip_of(("a", bytes(2 * 1024 * 1024)))), "zip archive|times its size"),
    "file and folder": (zip_of(("a", b"x"), ("a/b", b"y")), "both as a file and as a folder"),
    "encrypted": (encrypted(zip_of(("a", b"x"))), "encrypted"),
    "bzip2": (zip_of((squeezed("a", zipfile.ZIP_BZIP2), b"x" * 100)), "method 12"),
    "no name": (zip_of((".", b"x")), "leads out"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_archive_is_refused_and_nothing_stays(case: str, tmp_path: Path) -> None:
    data, sentence = HOSTILE[case]
    archive = tmp_path / "a.zip"
    archive.write_bytes(data)
    with pytest.raises(ArchiveError, match=sentence):
        await unpack(archive, tmp_path / "target", limits=LIMITS)
    with pytest.raises(ArchiveError, match=sentence):
        await check(archive, limits=LIMITS)
    assert list(tmp_path.iterdir()) == [archive]


async def test_an_archive_in_an_archive_is_a_file_like_any_other(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    inner = zip_of(("bomb", bytes(2 * 1024 * 1024)))
    archive.write_bytes(zip_of(("inner.zip", inner)))
    await check(archive, limits=LIMITS)
    await unpack(archive, tmp_path / "target", limits=LIMITS)
    assert (tmp_path / "target/inner.zip").read_bytes() == inner


async def test_the_same_name_twice_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with pytest.warns(UserWarning, match="Duplicate"):
        archive.write_bytes(zip_of(("a", b"1"), ("./a", b"2"), ("a", b"3")))
    with pytest.raises(ArchiveError, match="twice"):
        await unpack(archive, tmp_path / "target", limits=LIMITS)


async def test_total_is_counted_in_real_bytes(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(("a", os.urandom(5000)), ("b", os.urandom(5000))))
    with pytest.raises(ArchiveError, match="10000 bytes"):
        await unpack(archive, tmp_path / "t", limits=Limits(max_unpacked_bytes=9000))


async def test_unpacks_files_and_folders_of_other_writers(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(("plan/", b""), ("plan/plan.yaml", b"x: 1\n"), ("./src/net.py", b"pass\n")))
    await unpack(archive, tmp_path / "target", limits=LIMITS)
    assert (tmp_path / "target/plan/plan.yaml").read_bytes() == b"x: 1\n"
    assert (tmp_path / "target/src/net.py").read_bytes() == b"pass\n"


async def test_a_comment_at_the_end_is_allowed(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(("a", b"x")))
    with zipfile.ZipFile(archive, "a") as zf:
        zf.comment = b"made by hand"
    await unpack(archive, tmp_path / "target", limits=LIMITS)
    assert (tmp_path / "target/a").read_bytes() == b"x"


async def test_an_existing_target_is_left_alone(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(("a", b"x")))
    (tmp_path / "target").mkdir()
    with pytest.raises(AlreadyExistsError, match="exists already"):
        await unpack(archive, tmp_path / "target", limits=LIMITS)
    assert list((tmp_path / "target").iterdir()) == []


async def test_a_missing_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="absent"):
        await unpack(tmp_path / "absent.zip", tmp_path / "target", limits=LIMITS)


async def test_pack_is_deterministic_and_unpacks(tmp_path: Path) -> None:
    for name, order in (("one", ("b.py", "a.py")), ("two", ("a.py", "b.py"))):
        (tmp_path / name / "plan").mkdir(parents=True)
        for file in order:
            (tmp_path / name / file).write_text(file)
        (tmp_path / name / "plan/plan.yaml").write_text("rounds: 1\n")
        os.utime(tmp_path / name / "a.py", (len(name), 1_000_000_000))
        (tmp_path / name / "private.key").write_text("secret")
        (tmp_path / name / "__pycache__").mkdir()
        (tmp_path / name / "__pycache__/a.pyc").write_text("")
    await pack(tmp_path / "one", tmp_path / "1.zip")
    await pack(tmp_path / "two", tmp_path / "two/2.zip")
    await pack(tmp_path / "two", tmp_path / "two/2.zip", exclude=["*.key", "__pycache__"])  # nor itself
    assert (tmp_path / "1.zip").read_bytes() == (tmp_path / "two/2.zip").read_bytes()
    await unpack(tmp_path / "1.zip", tmp_path / "target", limits=LIMITS)
    found = sorted(str(p.relative_to(tmp_path / "target")) for p in (tmp_path / "target").rglob("*") if p.is_file())
    assert found == ["a.py", "b.py", "plan/plan.yaml"]


async def test_pack_refuses_links(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    (tmp_path / "work/link").symlink_to("/etc/passwd")
    with pytest.raises(ArchiveError, match="no regular file"):
        await pack(tmp_path / "work", tmp_path / "a.zip")
    assert not (tmp_path / "a.zip").exists()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 400), value=st.integers(0, 255))
def test_any_flipped_byte_is_read_or_refused(at: int, value: int, tmp_path: Path) -> None:
    data = bytearray(zip_of(("plan/plan.yaml", b"rounds: 1\n" * 20), ("a.py", b"pass\n")))
    data[at % len(data)] = value
    archive = tmp_path / "fuzz.zip"
    archive.write_bytes(data)
    try:
        with opened(archive, limits=LIMITS) as zf:
            for info in zf.infolist():
                zf.read(info)
    except (ArchiveError, RuntimeError):  # RuntimeError: a password is asked for, which unpack refuses before
        pass


async def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    archive.write_bytes(zip_of(("small", b"x"), ("large", os.urandom(50_000))))
    (tmp_path / "work").mkdir()
    (tmp_path / "work/large").write_bytes(os.urandom(50_000))
    before = sorted(tmp_path.rglob("*"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        with pytest.raises(StorageFullError, match="no space"):
            await unpack(archive, tmp_path / "target", limits=LIMITS)
        with pytest.raises(StorageFullError, match="no space"):
            await pack(tmp_path / "work", tmp_path / "b.zip")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(tmp_path.rglob("*")) == before


async def test_extra_members_are_packed_and_take_the_place_of_files(tmp_path: Path) -> None:
    (tmp_path / "work/plan").mkdir(parents=True)
    (tmp_path / "work/plan/plan.yaml").write_text("old")
    (tmp_path / "work/task.py").write_text("x = 1")
    await pack(tmp_path / "work", tmp_path / "a.zip", extra={"plan/plan.yaml": b"new", "note": b"more"})
    await unpack(tmp_path / "a.zip", tmp_path / "out", limits=LIMITS)
    assert (tmp_path / "out/plan/plan.yaml").read_text() == "new"
    assert (tmp_path / "out/note").read_text() == "more"
    assert (tmp_path / "out/task.py").read_text() == "x = 1"
