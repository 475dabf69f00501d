"""Code that takes more than it may, hides what it starts, or never ends: nothing of it goes on."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest

from openfl_aio.config import ProcessLimits
from openfl_aio.confinement.guardian import descendants, remove_tree
from openfl_aio.confinement.process import ConfinedProcess, Ending, environment
from openfl_aio.errors import ConfigurationError

pytestmark = pytest.mark.real_time

MIB = 1024 * 1024
SYSTEM_PYTHON = "/usr/bin/python3"

as_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path(SYSTEM_PYTHON).exists(), reason="only root can run code as another user"
)
# whoever is to be found afterwards writes a line with its process id
PRELUDE = """
import os, sys, time
def here():
    with open("pids", "a") as file:
        print(os.getpid(), file=file)
here()
"""
GRANDCHILD = """
if not os.fork():
    os.setsid()
    if os.fork():
        os._exit(0)
    here()
    time.sleep(600)
while len(open("pids").readlines()) < 2:
    time.sleep(0.01)
"""


@asynccontextmanager
async def child(folder: Path, code: str, *, variables: Mapping[str, str] | None = None, **limits: Any) -> Any:
    # another user may not be let to where this Python is
    program = sys.executable if limits.get("run_as") is None else SYSTEM_PYTHON
    process = await ConfinedProcess.start(
        [program, "-c", PRELUDE + code],
        limits=ProcessLimits(**limits),
        variables={"PATH": os.defpath} if variables is None else variables,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        folders=(folder,),
    )
    try:
        yield process
    finally:
        await process.end()


async def run(folder: Path, code: str, **limits: Any) -> Ending:
    with anyio.fail_after(60):
        async with child(folder, code, **limits) as process:
            ending: Ending = await process.wait()
    return ending


def let_others_pass(folder: Path) -> None:
    for above in (folder, *folder.parents[:2]):
        above.chmod(0o711)


def pids(folder: Path) -> list[int]:
    return [int(line) for line in (folder / "pids").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def nobody_is_left(folder: Path, *, expected: int) -> None:
    """Wait for the end of ``expected`` processes or more that wrote their ids."""
    found = await anyio.to_thread.run_sync(pids, folder)
    assert len(found) >= expected
    with anyio.fail_after(20):
        while any(map(alive, found)):
            await anyio.sleep(0.01)


async def started(folder: Path, count: int) -> None:
    with anyio.fail_after(20):
        while not (folder / "pids").exists() or len(await anyio.to_thread.run_sync(pids, folder)) < count:
            await anyio.sleep(0.01)


async def test_an_end_of_its_own(tmp_path: Path) -> None:
    assert str(await run(tmp_path, "sys.exit(3)")) == "ended with exit code 3"
    assert str(await run(tmp_path, "os.kill(os.getpid(), 9)")) == "was killed by signal 9"


@pytest.mark.parametrize(
    ("code", "limits", "reason"),
    [
        (
            "import mmap\nheld = [b'x' * (1 << 20) for _ in range(4000)]\ntime.sleep(600)",
            {"memory_bytes": 256 * MIB},
            "of memory, 256 are allowed (memory_bytes)",
        ),
        (
            "here_too = [os.fork() for _ in range(2)]\nhere()\nheld = [b'x' * (1 << 20) for _ in range(100)]\ntime.sleep(600)",
            {"memory_bytes": 256 * MIB},
            "of memory, 256 are allowed (memory_bytes)",
        ),
        ("while True: pass", {"cpu_seconds": 0.5}, "of processor, 0.5 are allowed (cpu_seconds)"),
        (
            "for _ in range(4):\n    if not os.fork():\n        here()\n        while True: pass\ntime.sleep(600)",
            {"cpu_seconds": 2},
            "of processor, 2 are allowed (cpu_seconds)",
        ),
        (
            # each starts two, up to 300 in all: more than the limit, and fewer than what would hurt this machine
            "while len(open('pids').readlines()) < 300:\n    os.fork()\n    here()\ntime.sleep(600)",
            {"processes": 20},
            "processes and threads, 20 are allowed (processes)",
        ),
        (
            "for number in range(64):\n    open(str(number), 'wb').write(bytes(1 << 20))\ntime.sleep(600)",
            {"disk_bytes": 32 * MIB},
            "MiB, 32 are allowed (disk_bytes)",
        ),
        (
            "for number in range(64):\n"
            "    open(os.environ['TMPDIR'] + '/' + str(number), 'wb').write(bytes(1 << 20))\ntime.sleep(600)",
            {"disk_bytes": 32 * MIB},
            "MiB, 32 are allowed (disk_bytes)",
        ),
    ],
    ids=["memory", "memory of three", "processor", "processors of many", "processes", "disk", "temporary files"],
)
async def test_what_passes_a_limit_is_ended_and_told(
    tmp_path: Path, code: str, limits: dict[str, Any], reason: str
) -> None:
    ending = await run(tmp_path, code, **limits)
    assert reason in str(ending)
    assert str(ending).startswith("was ended: ")
    await nobody_is_left(tmp_path, expected=1)


@pytest.mark.parametrize(
    ("code", "limits"),
    [
        ("with open('large', 'wb') as file:\n    file.write(bytes(5000))", {"file_bytes": 4096}),
        ("held = [open('/dev/null') for _ in range(64)]", {"open_files": 32}),
        # a user that is not root, for whom the kernel counts
        pytest.param(
            "import threading\n"
            "for _ in range(64):\n    threading.Thread(target=time.sleep, args=(5,), daemon=True).start()",
            {"processes": 32, "run_as": "nobody"},
            marks=as_root,
        ),
    ],
    ids=["file", "descriptors", "threads"],
)
async def test_what_the_kernel_refuses_is_an_error_of_the_code(
    tmp_path: Path, code: str, limits: dict[str, Any]
) -> None:
    let_others_pass(tmp_path)
    assert (await run(tmp_path, code, **limits)).code == 1


@pytest.mark.parametrize("how", ["its own end", "kill", "a crash"])
async def test_what_it_hid_ends_too(tmp_path: Path, how: str) -> None:
    last = {"its own end": "", "kill": "time.sleep(600)", "a crash": "os.abort()"}[how]
    async with child(tmp_path, GRANDCHILD + last) as process:
        await started(tmp_path, 2)
        if how == "kill":
            process.kill()
        with anyio.fail_after(30):
            ending = await process.wait()
        assert not await anyio.to_thread.run_sync(descendants, process.process.pid)
    assert ending.code == {"its own end": 0, "kill": -signal.SIGKILL, "a crash": -signal.SIGABRT}[how]
    await nobody_is_left(tmp_path, expected=2)


async def test_everything_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    source = f"""
import anyio, os, sys
from pathlib import Path
from openfl_aio.config import ProcessLimits
from openfl_aio.confinement.process import ConfinedProcess
async def main():
    code = {PRELUDE + GRANDCHILD + "print(os.environ['TMPDIR'], flush=True); time.sleep(600)"!r}
    folder = Path({str(tmp_path)!r})
    child = await ConfinedProcess.start(
        [sys.executable, "-c", code], limits=ProcessLimits(), variables={{}}, cwd=folder
    )
    await anyio.sleep(600)
anyio.run(main)
"""
    parent = await anyio.open_process([sys.executable, "-c", source], stdin=subprocess.DEVNULL)
    try:
        await started(tmp_path, 2)
        assert parent.stdout is not None
        with anyio.fail_after(20):
            temporary = Path((await parent.stdout.receive()).decode().strip())
        assert temporary.is_dir()
    finally:
        parent.kill()  # as the kernel would, when memory is short
        await parent.aclose()
    await nobody_is_left(tmp_path, expected=2)
    with anyio.fail_after(20):
        while temporary.exists():
            await anyio.sleep(0.01)


async def test_a_guardian_that_was_stopped_or_killed_holds_nobody_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openfl_aio.confinement.process.GRACE", 0.2)
    async with child(tmp_path, "os.kill(os.getppid(), 19); time.sleep(600)") as process:
        await started(tmp_path, 1)
        with anyio.fail_after(20):
            await process.end()
    await nobody_is_left(tmp_path, expected=1)
    ending = await run(tmp_path, "os.kill(os.getppid(), 9); time.sleep(600)")
    assert str(ending) == "was ended, and its guardian too"
    await nobody_is_left(tmp_path, expected=2)


async def test_its_temporary_folder_goes_with_it(tmp_path: Path) -> None:
    code = """
import tempfile
folder = tempfile.mkdtemp()
open(folder + "/file", "w").close()
os.chmod(folder, 0)
os.symlink("/", os.environ["TMPDIR"] + "/link")
open("where", "w").write(folder)
"""
    ending = await run(tmp_path, code)
    assert ending.code == 0
    folder = Path((tmp_path / "where").read_text())
    assert not folder.parent.exists()


async def test_it_has_no_file_and_no_secret_of_ours(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    code = "seen = repr((sorted(os.environ), os.listdir('/proc/self/fd')))\nopen('seen', 'w').write(seen)"
    inherited = {
        "PATH": os.defpath,
        "HOME": "/",
        "AWS_SECRET_ACCESS_KEY": "x",
        "OMP_NUM_THREADS": "1",
        "SITE_DATA": "y",
    }
    variables = environment(inherited, ProcessLimits(environment=("SITE_*",)))
    descriptor = os.open(tmp_path / "key", os.O_RDONLY)
    try:
        os.set_inheritable(descriptor, True)
        async with child(tmp_path, code, variables=variables) as process:
            assert (await process.wait()).code == 0
    finally:
        os.close(descriptor)
    names, descriptors = eval((tmp_path / "seen").read_text())
    expected = ["HOME", "OMP_NUM_THREADS", "PATH", "PYTHONPATH", "PYTHONUNBUFFERED", "SITE_DATA", "TMPDIR"]
    assert [name for name in names if name != "LC_CTYPE"] == expected  # which Python sets itself
    assert len(descriptors) == 4, "the standard ones, and that of the listing"


@as_root
async def test_another_user_reads_its_own_files_and_not_the_key(tmp_path: Path) -> None:
    let_others_pass(tmp_path)
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key").chmod(0o600)
    workspace = tmp_path / "workspace"
    workspace.mkdir(mode=0o700)
    code = f"""
import pwd
assert pwd.getpwuid(os.getuid()).pw_name == os.environ["USER"] == "nobody" and os.getgroups() != [0]
open("own", "w").write("x"); open(os.environ["TMPDIR"] + "/own", "w").write("x")
try:
    open({str(tmp_path / "key")!r})
except PermissionError:
    sys.exit(7)
"""
    assert (await run(workspace, code, run_as="nobody")).code == 7
    assert (workspace / "own").stat().st_uid == pwd.getpwnam("nobody").pw_uid


async def test_a_user_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="has no user 'absent-user'"):
        await run(tmp_path, "", run_as="absent-user")


async def test_only_root_runs_code_as_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(ConfigurationError, match="only root can run code as 'nobody'"):
        await run(tmp_path, "", run_as="nobody")


async def test_a_program_that_is_not_there(tmp_path: Path) -> None:
    process = await ConfinedProcess.start(["/absent"], limits=ProcessLimits(), variables={}, stderr=subprocess.PIPE)
    try:
        assert (await process.wait()).code == 126
        assert process.process.stderr is not None
        assert b"could not be started: [Errno 2]" in await process.process.stderr.receive()
    finally:
        await process.end()


def test_removing_follows_no_link(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").write_text("x")
    (tmp_path / "gone/inner").mkdir(parents=True)
    (tmp_path / "gone/link").symlink_to(tmp_path / "kept")
    (tmp_path / "gone/inner").chmod(0)
    (tmp_path / "kept").chmod(0o500)
    remove_tree(tmp_path / "gone")
    remove_tree(tmp_path / "absent")
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert (tmp_path / "kept").stat().st_mode & 0o777 == 0o500
