"""A child process under a guardian, from our side: started, told to end, asked how it ended."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import socket
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import IO, Any, Final, Self

import anyio
import anyio.abc
import anyio.to_thread

import openfl_aio
from openfl_aio.config import ProcessLimits
from openfl_aio.confinement import guardian
from openfl_aio.errors import ConfigurationError

__all__ = ["PASSED_ON", "ConfinedProcess", "Ending", "environment"]

GRACE: Final = guardian.PATIENCE + 5.0  # seconds for a guardian to end everything and go

# what programs, Python and the frameworks need to find their files, devices and settings
PASSED_ON: Final = (
    "CONDA_*",
    "CUDA_*",
    "HF_HOME",
    "HOME",
    "JAX_*",
    "KERAS_*",
    "KMP_*",
    "LANG",
    "LANGUAGE",
    "LC_*",
    "LD_LIBRARY_PATH",
    "LOGNAME",
    "MKL_*",
    "NCCL_*",
    "NUMEXPR_*",
    "NVIDIA_*",
    "OMP_*",
    "OPENBLAS_*",
    "PATH",
    "PYTHON*",
    "PYTORCH_*",
    "TF_*",
    "TORCH_*",
    "TZ",
    "USER",
    "VIRTUAL_ENV",
    "XLA_*",
)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a child ended: its exit code (minus the signal; None if nobody knows), and why it was ended, if it was."""

    code: int | None
    reason: str = ""

    def __str__(self) -> str:
        if self.reason:
            return f"was ended: {self.reason}"
        if self.code is None:
            return "was ended, and its guardian too"
        return f"was killed by signal {-self.code}" if self.code < 0 else f"ended with exit code {self.code}"


def environment(inherited: Mapping[str, str], limits: ProcessLimits) -> dict[str, str]:
    """Return what a child gets of the variables ``inherited``: `PASSED_ON`, what ``limits`` names, and our package's place."""
    names = (*PASSED_ON, *limits.environment)
    passed = {key: value for key, value in inherited.items() if any(fnmatchcase(key, name) for name in names)}
    package = str(Path(openfl_aio.__file__).parent.parent)
    path = passed.get("PYTHONPATH")
    return {
        **passed,
        "PYTHONPATH": package if not path else f"{package}{os.pathsep}{path}",
        "PYTHONUNBUFFERED": "1",
    }


class ConfinedProcess:
    """A child, its guardian and all that they started. Made by `start`; `end` must be called.

    ``process`` is the guardian: its standard streams are the child's, its end is everybody's.
    """

    def __init__(self, process: anyio.abc.Process, control: socket.socket) -> None:
        self.process = process
        self._control = control
        self._ending: Ending | None = None

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        *,
        limits: ProcessLimits,
        variables: Mapping[str, str],
        cwd: Path | None = None,
        stdin: int | IO[Any] | None = None,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        pass_fds: Sequence[int] = (),
        folders: Sequence[Path] = (),
        files: Sequence[Path] = (),
    ) -> Self:
        """Start ``command`` (its program by its path), with a temporary folder of its own as ``TMPDIR``.

        The environment is ``variables`` and nothing else, the open files ``pass_fds`` and the standard streams.
        ``folders`` are its own too: their size counts, as that of ``files`` does, and they are given to ``limits.run_as``, if
        that is set.
        Raises `ConfigurationError` for a user that it cannot run as.
        """
        variables = {**variables, **_user_variables(limits.run_as)}
        # not in the run's folder: a socket's path has 107 characters at most, and frameworks put sockets here
        temporary = await anyio.to_thread.run_sync(lambda: tempfile.mkdtemp(prefix="openfl-aio-"))
        ours, theirs = socket.socketpair()
        try:
            order = {
                "control": theirs.fileno(),
                "command": [*command],
                "temporary": temporary,
                "folders": [str(folder) for folder in folders],
                "files": [str(file) for file in files],
                "limits": limits.model_dump(include={*_WATCHED}),
                "run_as": limits.run_as,
            }
            process = await anyio.open_process(
                [sys.executable, "-I", "-S", guardian.__file__, json.dumps(order)],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=cwd,
                env={**variables, "TMPDIR": temporary},
                pass_fds=(theirs.fileno(), *pass_fds),
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(lambda: shutil.rmtree(temporary, ignore_errors=True))
            raise
        finally:
            theirs.close()
        return cls(process, ours)

    def kill(self) -> None:
        """Let the guardian end everything, now. Does not wait."""
        try:
            self._control.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # the guardian has gone already

    async def wait(self) -> Ending:
        """Return how the child ended, once everything that it started is gone too."""
        if self._ending is None:
            await self.process.wait()
            self._ending = self._report()
        return self._ending

    async def end(self) -> Ending:
        """End everything, and return how. May be called again. Cancelled or not, it is done before this returns."""
        with anyio.CancelScope(shield=True):
            self.kill()
            with anyio.move_on_after(GRACE) as scope:
                await self.process.wait()
            if scope.cancelled_caught:
                self.process.kill()  # code that runs as our own user may have stopped it; the child ends with it
            ending = await self.wait()
            self._control.close()
            await self.process.aclose()
        return ending

    def _report(self) -> Ending:
        self._control.setblocking(False)
        try:
            report = json.loads(self._control.recv(4096))
        except (OSError, ValueError):
            return Ending(None)
        reason = report["reason"]
        if report["left"]:
            reason += f"; {report['left']} of its processes hang in the kernel and are left behind"
        return Ending(report["code"], reason)


_WATCHED: Final = ("memory_bytes", "cpu_seconds", "processes", "open_files", "file_bytes", "disk_bytes")


def _user_variables(name: str | None) -> dict[str, str]:
    if name is None:
        return {}
    try:
        user = pwd.getpwnam(name)
    except KeyError:
        raise ConfigurationError(f"process_limits.run_as: this machine has no user {name!r}") from None
    if os.geteuid() != 0:
        raise ConfigurationError(f"process_limits.run_as: only root can run code as {name!r}")
    return {"HOME": user.pw_dir, "USER": name, "LOGNAME": name}
