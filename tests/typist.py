"""A pseudo-terminal, and whoever sits at it."""

from __future__ import annotations

import os

import anyio
import anyio.to_thread

__all__ = ["Typist"]


class Typist:
    """Whoever sits at the terminal, whose other end is ``near``."""

    def __init__(self) -> None:
        self.far, self.near = os.openpty()
        self.seen = ""

    async def read(self, text: str) -> str:
        """Read until ``text`` is on the screen; return what was before it."""
        with anyio.fail_after(90):
            while text not in self.seen:
                await anyio.wait_readable(self.far)
                self.seen += (await anyio.to_thread.run_sync(os.read, self.far, 4096)).decode()
        before, _, self.seen = self.seen.partition(text)
        return before

    async def type(self, typed: bytes) -> None:
        await anyio.to_thread.run_sync(os.write, self.far, typed)
