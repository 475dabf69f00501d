"""Each failpoint in a process of its own: killed there, the disk is as it must be."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.real_time

ROOT = Path(__file__).parents[2]
# what a function of the package does is named by it, so the function pretends to be one
WRITER = """\
import os, pathlib, sys
from tests.crash.failpoints import Failpoints
folder, names, count = pathlib.Path(sys.argv[1]), sys.argv[2].split(), int(sys.argv[3])
Failpoints(folder / "record", (names[0], count) if count else frozenset(names)).install()
import sqlite3
from openfl_aio.storage.files import write_atomic
code = '''
def save(path, data):
    write_atomic(path, [data], durable=True)
def append(path, data):
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.write(descriptor, data)
    os.fsync(descriptor)
    os.close(descriptor)
def forget(path):
    path.unlink()
'''
scope = {"__name__": "openfl_aio.storage.imagined", "write_atomic": write_atomic, "os": os}
exec(code, scope)
scope["save"](folder / "file", b"old old ")
scope["save"](folder / "file", b"new new ")
scope["append"](folder / "log", b"12345678")
scope["forget"](folder / "log")
database = sqlite3.connect(folder / "db", isolation_level=None)
database.execute("CREATE TABLE IF NOT EXISTS rows (a)")
database.execute("BEGIN IMMEDIATE")
database.execute("INSERT INTO rows VALUES (1)")
database.commit()
"""


def killed(folder: Path, name: str, count: int = 1) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_every_change_of_the_disk_has_its_names(tmp_path: Path) -> None:
    done = killed(tmp_path, "none")
    assert done.returncode == 0, done.stderr
    reached = (tmp_path / "record").read_text().splitlines()
    saved = [
        f"imagined.save.write_atomic.{call}"
        for call in (
            *("create.before", "create.after", "open.before", "open.after"),
            *("write.before", "write.half", "write.after", "flush.before", "flush.after"),
            *("fsync.before", "fsync.after", "close.before", "close.after"),
            *("replace.before", "replace.after", "fsync.before", "fsync.after"),
        )
    ]
    appended = [
        f"imagined.append.{call}"
        for call in (
            *("create.before", "create.after", "write.before", "write.half", "write.after"),
            *("fsync.before", "fsync.after"),
        )
    ]
    forgotten = ["imagined.forget.unlink.before", "imagined.forget.unlink.after"]
    committed = ["sqlite.insert_rows.commit.before", "sqlite.insert_rows.commit.after"]
    assert reached == saved + saved + appended + forgotten + committed


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("imagined.save.write_atomic.write.half", b"old old "),
        ("imagined.save.write_atomic.replace.before", b"old old "),
        ("imagined.save.write_atomic.replace.after", b"new new "),
    ],
)
def test_a_process_dies_at_the_second_time(tmp_path: Path, name: str, content: bytes) -> None:
    assert killed(tmp_path, name, 2).returncode == -signal.SIGKILL
    assert (tmp_path / "file").read_bytes() == content
    assert (tmp_path / "record").read_text().splitlines()[-1] == name


def test_a_process_dies_at_the_first_failpoint_that_is_not_among_some(tmp_path: Path) -> None:
    done = {f"imagined.save.write_atomic.{call}.{when}" for call in ("create", "open") for when in ("before", "after")}
    done.add("imagined.save.write_atomic.write.before")
    assert killed(tmp_path, " ".join(done), 0).returncode == -signal.SIGKILL
    assert (tmp_path / "record").read_text().splitlines()[-1] == "imagined.save.write_atomic.write.half"
    (partial,) = tmp_path.glob(".*.partial")
    assert partial.read_bytes() == b"old "


@pytest.mark.parametrize(("when", "content"), [("before", b""), ("half", b"1234"), ("after", b"12345678")])
def test_a_write_is_cut_where_it_is_said(tmp_path: Path, when: str, content: bytes) -> None:
    assert killed(tmp_path, f"imagined.append.write.{when}").returncode == -signal.SIGKILL
    assert (tmp_path / "log").read_bytes() == content


@pytest.mark.parametrize(("when", "rows"), [("before", 0), ("after", 1)])
def test_a_commit_is_cut_on_either_side(tmp_path: Path, when: str, rows: int) -> None:
    assert killed(tmp_path, f"sqlite.insert_rows.commit.{when}").returncode == -signal.SIGKILL
    count = (
        "import sqlite3, sys; print(sqlite3.connect(sys.argv[1]).execute('SELECT count(*) FROM rows').fetchone()[0])"
    )
    found = subprocess.run([sys.executable, "-c", count, tmp_path / "db"], capture_output=True, text=True, check=True)
    assert int(found.stdout) == rows


def test_the_runner_runs_a_module_as_python_does(tmp_path: Path) -> None:
    options = json.dumps({"record": str(tmp_path / "record")})
    command = [sys.executable, "-m", "tests.crash.killed", options, "openfl_aio", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "Usage" in done.stdout
