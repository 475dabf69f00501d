"""Programs that a test starts and that end with it: ours, the real OpenFL's ``fx``, and scripts that use the real OpenFL.

Ours run with the Python of the tests. The real ones run with the Python of an environment of their own, which a
variable names (`RELEASES`); `nox -s interop_openfl` makes the environments and sets the variables.
"""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import pytest

__all__ = [
    "RELEASES",
    "Program",
    "Programs",
    "expected_tensors",
    "free_port",
    "installed_python",
    "peer_python",
    "tensors",
    "until",
]

ROOT: Final = Path(__file__).parents[2]
PEERS: Final = Path(__file__).parent / "peers"
RELEASES: Final[Mapping[str, str]] = {
    "1.5.1": "OPENFL151_PYTHON",
    "1.6": "OPENFL16_PYTHON",
    "1.7.1": "OPENFL171_PYTHON",
    "1.8": "OPENFL18_PYTHON",
    "1.9": "OPENFL19_PYTHON",
}
"""The variable that names the Python of each release's environment. With ``_MISSING`` for ``_PYTHON``: why there is none."""
POLL_SECONDS: Final = 0.02
SHOWN_LINES: Final = 80


def installed_python(release: str = "1.6") -> str | None:
    """Return the Python that has ``release`` of OpenFL, or None. For 1.6 the tests' own will do if it has it."""
    given = os.environ.get(RELEASES[release], "")
    if given:
        return given
    return sys.executable if release == "1.6" and importlib.util.find_spec("openfl") else None


def peer_python(release: str = "1.6") -> str:
    """Return the Python that has ``release`` of OpenFL; without one the test is skipped, for 1.6 it fails."""
    found = installed_python(release)
    if found is not None:
        return found
    message = os.environ.get(RELEASES[release].replace("_PYTHON", "_MISSING")) or (
        f"no environment has OpenFL {release}: {RELEASES[release]} is not set; run this with nox -s interop_openfl"
    )
    if release != "1.6":
        pytest.skip(message)
    raise RuntimeError(message)


def free_port() -> int:
    """Return a TCP port of the loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


Passing = tuple[str, str, int, str]
"""One kind of tensor as `tensors` returns it."""


def tensors(server: Program) -> set[Passing]:
    """Return what a traced aggregator was asked for and was sent: which, by whom, of which round, with which tags.

    Metrics are left out, and what optimizers remember, to which no model is a base.
    """
    lines = re.findall(r"^(asked|sent) (\S+) (\d+) (\S+) (\S+)$", server.said(), re.MULTILINE)
    return {
        (what, who, int(number), tags)
        for what, who, number, name, tags in lines
        if "metric" not in tags.split(",") and not name.startswith("velocity_")
    }


def expected_tensors(
    members: Mapping[str, str], rounds: int, *, deltas: bool = True, lossy: bool = False, interactive: bool = False
) -> set[Passing]:
    """Return what `tensors` returns of a federation of ``members``, name and kind: "real" or one of ours.

    Whatever the plan says, a real collaborator sends deltas in the first round only, and a real envoy (``interactive``),
    which remembers of its optimizer what the next round needs, is never sent one: they forget what deltas are added to.
    """
    coded = "lossy_compressed" if lossy else "compressed"
    out: set[Passing] = set()
    for name, kind in members.items():
        for number in range(rounds):
            down = deltas and number > 0 and not (kind == "real" and interactive)
            up = deltas and (kind != "real" or interactive or not number)
            asked = ["aggregated", "delta", coded] if down else ["model"]
            sent = ["delta", "trained", coded] if up else ["compressed", "trained"]
            out |= {(what, name, number, ",".join(sorted(tags))) for what, tags in (("asked", asked), ("sent", sent))}
    return out


class Program:
    """One process in a session of its own; what it prints goes to the file ``log``. Methods block."""

    def __init__(self, name: str, command: list[str], *, cwd: Path, log: Path, env: Mapping[str, str]) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                cwd=cwd,
                env=dict(env),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def __repr__(self) -> str:
        return f"<Program {self.name} pid={self.pid} code={self.code}>"

    @property
    def pid(self) -> int:
        """The process's id, and its group's."""
        return self._process.pid

    @property
    def code(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def said(self) -> str:
        """Return everything that it has printed."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def ending(self, lines: int = SHOWN_LINES) -> str:
        """Return the last lines that it has printed, under its name."""
        return "\n".join([f"--- {self!r}", *self.said().splitlines()[-lines:]])

    def wait(self, seconds: float = 120.0) -> int:
        """Return the exit code. Raises AssertionError with what it said if it still runs after ``seconds``."""
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {seconds:g} s\n{self.ending()}") from None

    def succeed(self, seconds: float = 120.0) -> str:
        """Return what it printed, once it has ended with code 0. Raises AssertionError for anything else."""
        code = self.wait(seconds)
        assert code == 0, f"{self.name} ended with code {code}\n{self.ending()}"
        return self.said()

    def hear(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """Return the first match of ``pattern`` in what it prints. Raises AssertionError if none comes."""
        deadline = time.monotonic() + seconds
        while True:
            ended = self.code is not None  # looked at first: then everything is in the file that is read next
            found = re.search(pattern, self.said(), re.MULTILINE)
            if found is not None:
                return found
            assert not ended, f"{self.name} ended and never said {pattern!r}\n{self.ending()}"
            assert time.monotonic() < deadline, f"{self.name} said no {pattern!r} in {seconds:g} s\n{self.ending()}"
            time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        """End it and its children at once, as a crash would. It may have ended already."""
        self._signal(signal.SIGKILL)
        self._process.wait()

    def pause(self) -> None:
        """Let it stand still until `resume` or `kill`; it does when this returns."""
        self._signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)

    def resume(self) -> None:
        """Let it go on."""
        self._signal(signal.SIGCONT)

    def stop(self, seconds: float = 10.0) -> int:
        """Ask it to end, and kill it if it does not; return the exit code."""
        if self.code is None:
            self._process.terminate()
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            pass
        self.kill()
        return self._process.wait()

    def _signal(self, number: int) -> None:
        try:
            os.killpg(self.pid, number)  # the group is this process's own: it leads a session
        except ProcessLookupError:
            pass


class Programs:
    """Starts programs; all end with the context. ``folder`` gets their logs and a home that is nobody's.

    ``release`` is the release of OpenFL that real ones have unless another is named. Those that are started while
    ``traced`` is set print what `tensors` reads.
    """

    def __init__(self, folder: Path) -> None:
        self.release = "1.6"
        self.traced = False
        self._folder = folder
        self._home = folder / "home"
        self._home.mkdir(parents=True)
        self._all: list[Program] = []

    def ours(
        self,
        role: str,
        *arguments: str | Path,
        cwd: Path,
        env: Mapping[str, str] | None = None,
        python: str | None = None,
    ) -> Program:
        """Start ``python -m openfl_aio.<role>`` of this source tree with the tests' own Python, or another."""
        module = ["tests.interop_openfl.traced", role] if self.traced else [f"openfl_aio.{role}"]
        command = [python or sys.executable, "-m", *module, *map(str, arguments)]
        return self._start(f"our {role}", command, cwd=cwd, env={"PYTHONPATH": str(ROOT), **(env or {})})

    def fx(
        self, *arguments: str | Path, cwd: Path, release: str | None = None, env: Mapping[str, str] | None = None
    ) -> Program:
        """Start ``fx`` of a release of OpenFL."""
        python = peer_python(release or self.release)
        script = PEERS / "traced_fx.py" if self.traced else Path(python).parent / "fx"
        command = [python, str(script), *map(str, arguments)]
        return self._start(" ".join(["fx", *map(str, arguments[:4])]), command, cwd=cwd, env=env or {})

    def peer(
        self,
        program: str,
        *arguments: str | Path,
        cwd: Path,
        release: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Program:
        """Start the script ``peers/<program>.py`` with a release of OpenFL beside it."""
        command = [peer_python(release or self.release), str(PEERS / f"{program}.py"), *map(str, arguments)]
        return self._start(program, command, cwd=cwd, env=env or {})

    def end(self) -> None:
        """Kill what still runs."""
        for program in self._all:
            program.kill()

    def close(self) -> None:
        """Kill what still runs, and print what each program said last: pytest shows it when the test failed."""
        self.end()
        for program in self._all:
            print(program.ending())  # noqa: T201 - captured by pytest

    def _start(self, name: str, command: list[str], *, cwd: Path, env: Mapping[str, str]) -> Program:
        # the home keeps settings of a developer's own OpenFL away; `fx` looks there
        inherited = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "FQDN")}
        fixed = {"HOME": str(self._home), "PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "ERROR", "NO_COLOR": "1"}
        log = self._folder / f"{len(self._all):02}-{re.sub(r'[^A-Za-z0-9]+', '-', name)}.log"
        program = Program(name, command, cwd=cwd, log=log, env={**inherited, **fixed, **env})
        self._all.append(program)
        return program


def until(condition: Callable[[], object], *programs: Program, seconds: float = 90.0) -> None:
    """Return once ``condition`` holds; fails when one of ``programs`` ends before, or after a while."""
    deadline = time.monotonic() + seconds
    while not condition():
        for program in programs:
            assert program.code is None, f"it ended too early\n{program.ending()}"
        assert time.monotonic() < deadline, "\n".join(program.ending() for program in programs)
        time.sleep(0.001)
