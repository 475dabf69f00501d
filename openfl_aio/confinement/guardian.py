"""A small process between ours and one that runs code of others: it sets limits, watches, and ends everything below it.

Started as ``python -I -S guardian.py JSON``, see `openfl_aio.confinement.process`. It adopts whatever its descendants
abandon (Linux: a "child subreaper"), so that a process that forked twice and made a session of its own is found and ended
too. It ends them when its child ends, when a limit is passed, and when the control socket closes, which the kernel does
however our process ends. Then it removes the temporary folder and says through the socket how its child ended.

What a process uses is measured several times a second, so a limit may be passed for a moment. Without ``/proc`` (not Linux)
only the child's own process group is ended, and memory, processors and processes are not watched.

Imports nothing but the standard library: there is one guardian for each child.
"""

from __future__ import annotations

import ctypes
import json
import math
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

__all__ = ["Guardian", "descendants", "main", "remove_tree"]

PR_SET_PDEATHSIG: Final = 1
PR_SET_CHILD_SUBREAPER: Final = 36
PR_SET_NO_NEW_PRIVS: Final = 38

FAST: Final = 0.1  # seconds between two looks where memory is limited: it can be taken at a GiB a second
SLOW: Final = 0.5
FOLDERS: Final = 2.0  # seconds between two looks at the folders, which cost more
PATIENCE: Final = 10.0  # seconds until a process that cannot be killed, which hangs in the kernel, is left behind
OOM_SCORE: Final = 500  # the kernel's choice when memory runs out: this, not the process that started it
MIB: Final = 1024 * 1024


class Usage(NamedTuple):
    """What one process uses: pages of memory, seconds of processor (children that it waited for included), threads."""

    pid: int
    parent: int
    threads: int
    seconds: float
    pages: int


def processes() -> Iterator[Usage]:
    """Yield every process of this machine; none without ``/proc``. Zombies are among them."""
    ticks = os.sysconf("SC_CLK_TCK")
    try:
        pids = [name for name in os.listdir("/proc") if name.isdigit()]
    except OSError:
        return
    for pid in pids:
        try:
            with open(f"/proc/{pid}/stat", "rb") as file:
                # the command's name, in parentheses, may hold anything
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            continue  # it has just ended
        yield Usage(
            int(pid), int(fields[1]), int(fields[17]), sum(map(int, fields[11:15])) / ticks, max(0, int(fields[21]))
        )


def descendants(root: int) -> list[Usage]:
    """Return the processes below ``root``, in no order."""
    children: dict[int, list[Usage]] = {}
    for usage in processes():
        children.setdefault(usage.parent, []).append(usage)
    found: list[Usage] = []
    todo = [root]
    while todo:
        below = children.pop(todo.pop(), [])
        found += below
        todo += [usage.pid for usage in below]
    return found


def remove_tree(folder: str | os.PathLike[str]) -> None:
    """Remove ``folder`` with everything in it, also folders that were made unreadable. Never raises, follows no link."""
    import shutil

    try:
        os.chmod(folder, 0o700)
        for path, names, _ in os.walk(folder):
            for name in names:
                inner = os.path.join(path, name)
                if not os.path.islink(inner):
                    os.chmod(inner, 0o700)  # before the walk goes into it
    except OSError:
        pass  # what can be removed is removed
    shutil.rmtree(folder, ignore_errors=True)


def prctl(option: int, value: int) -> None:
    """Call Linux's ``prctl``; elsewhere do nothing."""
    call = getattr(ctypes.CDLL(None), "prctl", None)
    if call is not None:
        call(option, value, 0, 0, 0)


class Guardian:
    """Runs one command. ``order`` is what `openfl_aio.confinement.process` writes."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._control: int = order["control"]
        self._command: list[str] = order["command"]
        self._temporary: str = order["temporary"]
        self._folders: list[str] = [self._temporary, *order["folders"]]
        self._measured: list[str] = [*self._folders, *order["files"]]
        self._limits: dict[str, Any] = order["limits"]
        self._user: str | None = order["run_as"]
        self._child = 0
        self._status: int | None = None
        self._asked_to_end = False
        self._next_look_at_folders = 0.0

    def run(self) -> None:
        """Run the command to its end, end whatever it left, and report."""
        prctl(PR_SET_CHILD_SUBREAPER, 1)
        wake, woken = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(woken, False)
        signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGTERM, self._end)
        self._start()
        reason = self._watch(wake)
        left = self._end_all()
        remove_tree(self._temporary)
        self._report(reason, left)

    def _end(self, *_: object) -> None:
        self._asked_to_end = True

    def _start(self) -> None:
        guardian = os.getpid()
        self._child = os.fork()
        if not self._child:
            try:
                self._become_child(guardian)
            except BaseException as exc:
                os.write(2, f"the child process could not be started: {exc}\n".encode())
            os._exit(126)
        # whoever reads from the child sees its end, not ours
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        for descriptor in map(int, os.listdir("/dev/fd")):
            try:
                if descriptor > 2 and descriptor != self._control and os.get_inheritable(descriptor):
                    os.close(descriptor)
            except OSError:
                pass  # the listing's own

    def _become_child(self, guardian: int) -> None:
        os.setsid()
        os.set_inheritable(self._control, False)
        self._set_limits()
        for signal_ in (signal.SIGPIPE, signal.SIGXFSZ, signal.SIGCHLD, signal.SIGTERM):
            signal.signal(signal_, signal.SIG_DFL)
        if self._user is not None:
            self._change_user(self._user)
        prctl(PR_SET_NO_NEW_PRIVS, 1)
        prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() == guardian:  # else it ended before the line above
            os.execv(self._command[0], self._command)

    def _set_limits(self) -> None:
        def limit(what: int, value: float | None) -> None:
            if value is not None:
                most = math.ceil(value)
                hard = resource.getrlimit(what)[1]
                most = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.setrlimit(what, (most, most))

        limits = self._limits
        limit(resource.RLIMIT_CORE, 0)  # a core has data in it
        limit(resource.RLIMIT_NOFILE, limits["open_files"])
        limit(resource.RLIMIT_FSIZE, limits["file_bytes"])
        if limits["cpu_seconds"] is not None:
            limit(resource.RLIMIT_CPU, limits["cpu_seconds"] + 1)  # of one process; all together are watched
        if limits["processes"] is not None:
            # the kernel counts all that its user runs
            limit(resource.RLIMIT_NPROC, limits["processes"] + _threads_of(self._user))
        try:
            with open("/proc/self/oom_score_adj", "w") as file:
                file.write(str(OOM_SCORE))
        except OSError:
            pass  # not Linux, or a higher value is there already

    def _change_user(self, name: str) -> None:
        import pwd

        user = pwd.getpwnam(name)
        for folder in self._folders:
            for path, folders, files in os.walk(folder):
                for entry in (path, *(os.path.join(path, entry) for entry in (*folders, *files))):
                    os.chown(entry, user.pw_uid, user.pw_gid, follow_symlinks=False)
        os.initgroups(name, user.pw_gid)
        os.setgid(user.pw_gid)
        os.setuid(user.pw_uid)

    # --- watching ---------------------------------------------------------------------------------------------------

    def _watch(self, wake: int) -> str:
        """Return when everything has to end: why, or nothing if the child ended by itself."""
        poll = select.poll()
        poll.register(self._control, select.POLLIN)
        poll.register(wake, select.POLLIN)
        interval = SLOW if self._limits["memory_bytes"] is None else FAST
        while True:
            ready = {descriptor for descriptor, _ in poll.poll(interval * 1000)}
            if wake in ready:
                os.read(wake, 4096)
                self._reap()
            if self._status is not None:
                return ""
            if self._control in ready or self._asked_to_end:
                return "it was told to end"  # nothing is ever sent: this is the end of the file
            if complaint := self._complaint():
                return complaint

    def _complaint(self) -> str:
        """Return which limit is passed, if one is."""
        limits = self._limits
        below = descendants(os.getpid())
        most = limits["processes"]
        if most is not None and (count := sum(usage.threads for usage in below)) > most:
            return f"it had {count} processes and threads, {most} are allowed (processes)"
        most = limits["cpu_seconds"]
        if most is not None and (seconds := sum(usage.seconds for usage in below) + _waited_for()) > most:
            return f"it used {seconds:.0f} s of processor, {most:g} are allowed (cpu_seconds)"
        most = limits["memory_bytes"]
        if most is not None and (used := _memory(below, most)) > most:
            return f"it used {used // MIB} MiB of memory, {most // MIB} are allowed (memory_bytes)"
        most = limits["disk_bytes"]
        if most is not None and time.monotonic() >= self._next_look_at_folders:
            begin = time.monotonic()
            used = sum(map(_size, self._measured))
            self._next_look_at_folders = time.monotonic() + max(FOLDERS, 20 * (time.monotonic() - begin))
            if used > most:
                return f"its files had {used // MIB} MiB, {most // MIB} are allowed (disk_bytes)"
        return ""

    # --- ending -----------------------------------------------------------------------------------------------------

    def _reap(self) -> bool:
        """Take note of every process that ended; return whether there are others."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if not pid:
                return True
            if pid == self._child:
                self._status = os.waitstatus_to_exitcode(status)

    def _end_all(self) -> int:
        """End everything below, and return how many processes could not be ended."""
        give_up = time.monotonic() + PATIENCE
        # all are stopped before one is killed: nothing starts more of itself meanwhile
        stopped: set[int] = set()
        while time.monotonic() < give_up:
            running = {usage.pid for usage in descendants(os.getpid())} - stopped
            if not running:
                break
            for pid in running:
                _send(pid, signal.SIGSTOP)
            stopped |= running
        while self._reap():
            below = [usage.pid for usage in descendants(os.getpid())]
            for pid in below:
                _send(pid, signal.SIGKILL)
            if not below:  # no /proc
                try:
                    os.killpg(self._child, signal.SIGKILL)
                except OSError:
                    pass
            if time.monotonic() > give_up:
                return max(1, len(below))
            time.sleep(0.005)
        return 0

    def _report(self, reason: str, left: int) -> None:
        report = json.dumps({"code": self._status, "reason": reason, "left": left})
        try:
            os.write(self._control, report.encode())
        except OSError:
            pass  # nobody is there to hear it


def _send(pid: int, signal_: signal.Signals) -> None:
    try:
        os.kill(pid, signal_)
    except OSError:
        pass  # it has just ended, or became another user's


def _threads_of(user: str | None) -> int:
    """Return how many threads a user runs (None: ours)."""
    uid = os.getuid()
    if user is not None:
        import pwd

        uid = pwd.getpwnam(user).pw_uid
    count = 0
    for usage in processes():
        try:
            if os.stat(f"/proc/{usage.pid}").st_uid == uid:
                count += usage.threads
        except OSError:
            pass
    return count


def _waited_for() -> float:
    """Return how many seconds of processor the children had that are gone."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _memory(below: list[Usage], most: int) -> int:
    """Return how much memory all have together. Pages that several share are counted once, if it comes to that."""
    used = sum(usage.pages for usage in below) * resource.getpagesize()
    return used if used <= most else sum(_proportional(usage) for usage in below)


def _proportional(usage: Usage) -> int:
    try:
        with open(f"/proc/{usage.pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    return usage.pages * resource.getpagesize()


def _size(path: str) -> int:
    """Return how many bytes a file, or the files under a folder, take on the disk."""
    total = 0
    todo = [path]
    while todo:
        try:
            if not os.path.isdir(path := todo.pop()):
                return os.lstat(path).st_blocks * 512
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
                    else:
                        total += entry.stat(follow_symlinks=False).st_blocks * 512
        except OSError:
            pass  # it has just gone, or is not to be read
    return total


def main() -> None:
    """Carry out the order on the command line."""
    Guardian(json.loads(sys.argv[1])).run()


if __name__ == "__main__":
    main()
