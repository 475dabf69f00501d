"""Asking whoever sits at the terminal whether an experiment may run, while the event loop goes on.

What OpenFL 1.6 does for ``review_experiment: true``: the plan is shown, and nothing but a yes accepts it.
"""

from __future__ import annotations

import math
import os
import sys
import termios
from contextlib import suppress
from typing import Final, TextIO

import anyio
import anyio.to_thread

from openfl_aio.errors import ConfigurationError
from openfl_aio.plan.plan import Plan

__all__ = ["REVIEW_SECONDS", "TerminalReview", "terminal_review"]

REVIEW_SECONDS: Final = "reject an experiment that nobody has accepted for this long (default: wait)"
"""The help of the option."""

_YES: Final = ("y", "yes")
_NO: Final = ("n", "no", "")
_LINE: Final = 4096  # a terminal hands over no longer one
_BACKGROUND_PERIOD: Final = 1.0
"""Seconds after which a process in the background looks whether it is in the foreground again."""


class TerminalReview:
    """Asks at a terminal, one question at a time; the others wait.

    ``source`` is its descriptor, ``sink`` where questions are written. After ``seconds`` without an answer the question
    is answered with no; None waits for ever.
    """

    def __init__(self, source: int, sink: TextIO, *, seconds: float | None = None) -> None:
        self._source = source
        self._sink = sink
        self._seconds = seconds
        self._asking = anyio.Lock()

    def __repr__(self) -> str:
        return f"<TerminalReview of {self._source}>"

    async def __call__(self, plan: Plan) -> bool:
        """Show ``plan`` and return whether it was accepted. The end of the input is a no."""
        name = plan.experiment
        async with self._asking:
            text = await anyio.to_thread.run_sync(plan.dump)
            with anyio.move_on_after(self._seconds):
                await self._foreground()
                with suppress(termios.error):  # the terminal is gone, and the end of the input will be the answer
                    termios.tcflush(self._source, termios.TCIFLUSH)  # what was typed before answers nothing
                await self._write(f"Please review the plan of {name}:\n\n{text}\n")
                accepted = await self._answer(f"Accept the plan of {name}? [y/N]: ")
                await self._write(f"{name} is {'accepted' if accepted else 'rejected'}\n")
                return accepted
            await self._write(f"\nnobody answered for {self._seconds:g} seconds: {name} is rejected\n")
            return False

    async def _answer(self, question: str) -> bool:
        while True:
            await self._write(question)
            line = await self._line()
            if line is None:
                return False
            answer = line.strip().lower()
            if answer in _YES or answer in _NO:
                return answer in _YES
            await self._write(f"expected y or n, got {line.strip()[:60]!r}\n")

    async def _line(self) -> str | None:
        """Return what was typed; None at the end of the input, or when the terminal is gone."""
        typed = b""
        while not typed.endswith(b"\n"):
            await anyio.wait_readable(self._source)
            await self._foreground()
            try:
                more = await anyio.to_thread.run_sync(os.read, self._source, _LINE, abandon_on_cancel=True)
            except OSError:
                return None
            if not more:
                return None
            typed += more
        return typed.decode(errors="replace")

    async def _foreground(self) -> None:
        """Wait until this process may use the terminal: the kernel stops one in the background that reads from it."""
        while not self._in_foreground():  # noqa: ASYNC110 -- nothing tells when it changes
            await anyio.sleep(_BACKGROUND_PERIOD)

    def _in_foreground(self) -> bool:
        try:
            return os.tcgetpgrp(self._source) == os.getpgrp()
        except OSError:  # not the terminal that controls this process, so that nothing stops it
            return True

    async def _write(self, text: str) -> None:
        # a terminal may stand still: whoever stopped it must not stop the event loop too
        await anyio.to_thread.run_sync(self._write_now, text, abandon_on_cancel=True)

    def _write_now(self, text: str) -> None:
        with suppress(OSError):  # the terminal is gone
            self._sink.write(text)
            self._sink.flush()


def terminal_review(setting: str, *, seconds: float | None = None) -> TerminalReview:
    """Return who is asked because ``setting``, which errors name, is true.

    Raises `ConfigurationError` where standard input, or both outputs, are no terminal, and for ``seconds`` that are none.
    """
    if seconds is not None and not 0 < seconds < math.inf:
        raise ConfigurationError(f"--review-seconds: expected a number above 0, got {seconds:g}")
    outputs = [stream for stream in (sys.stdout, sys.stderr) if stream is not None and stream.isatty()]
    if sys.stdin is None or not sys.stdin.isatty() or not outputs:
        raise ConfigurationError(
            f"{setting}: expected false, got true, but there is no terminal here, so nobody can be asked; start this from "
            "a terminal, or from Python with a review function"
        )
    return TerminalReview(sys.stdin.fileno(), outputs[0], seconds=seconds)
