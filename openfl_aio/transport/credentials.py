"""Certificates, keys and lists that are read again when their files change.

What is in use stays in use until something better could be read whole: a file that is missing, half-written or broken
is named in the log, once, and changes nothing. Connections that exist keep the certificates that they were made with.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Final, Generic, TypeVar

import anyio
import anyio.to_thread

from openfl_aio.config import TLSConfig
from openfl_aio.errors import ConfigurationError
from openfl_aio.pki import Revocations
from openfl_aio.transport.tls import load_context, load_revocations

__all__ = ["Credentials"]

logger = logging.getLogger(__name__)

T = TypeVar("T")
Stamp = tuple[int, ...] | None

POLL_SECONDS: Final = 0.5  # a change counts at the second look that finds it


class _Loaded(Generic[T]):
    """A value made of ``files``, which are looked at together. Everything blocks."""

    def __init__(self, what: str, files: Sequence[Path], load: Callable[[], T]) -> None:
        self._what = what
        self._files = files
        self._load = load
        self._stamps = self._seen = self._failed = self._look()
        self.value = load()

    def _look(self) -> list[Stamp]:
        return [_stamp(path) for path in self._files]

    def refresh(self, *, at_once: bool) -> bool:
        """Load anew if the files have changed and, unless ``at_once``, have stayed so since the last look.

        A certificate and its key are two files, and a list may be written line by line: between two looks there is
        time for the rest. Returns whether there is a new value.
        """
        stamps, before = self._look(), self._seen
        self._seen = stamps
        if stamps == self._stamps or stamps == self._failed or (stamps != before and not at_once):
            return False
        try:
            self.value = self._load()
        except Exception as exc:
            self._failed = stamps
            sentence = str(exc) if isinstance(exc, ConfigurationError) else "they cannot be read"
            logger.error(
                "the %s changed and cannot be used, those from before stay: %s",
                self._what,
                sentence,
                exc_info=None if isinstance(exc, ConfigurationError) else exc,
            )
            return False
        self._stamps = self._failed = stamps
        logger.info("the %s changed and were read again", self._what)
        return True


class Credentials:
    """What a server or a client shows, believes and denies; make it with `load_server` or `load_client`."""

    def __init__(self, tls: TLSConfig, purpose: ssl.Purpose) -> None:
        own = [path for path in (tls.ca, tls.certificate, tls.private_key) if path is not None]
        self._context = _Loaded("certificates", own, partial(load_context, tls, purpose))
        lists = [path for path in (tls.deny_list, tls.crl) if path is not None]
        self.may_deny = bool(lists)
        """Whether there are lists at all."""
        # the CA too: it has signed the revocation list
        self._lists = _Loaded(
            "lists of denied certificates", [*lists, tls.ca] if lists else [], partial(load_revocations, tls)
        )
        self._limiter = anyio.CapacityLimiter(1)  # our own: a thread that waits for others would let the denied go on

    @classmethod
    async def load_server(cls, tls: TLSConfig) -> Credentials:
        """Return those of a server. Raises `ConfigurationError` for files that cannot be used."""
        return await anyio.to_thread.run_sync(cls, tls, ssl.Purpose.CLIENT_AUTH)

    @classmethod
    async def load_client(cls, tls: TLSConfig) -> Credentials:
        """Return those of a client. Raises `ConfigurationError` for files that cannot be used."""
        return await anyio.to_thread.run_sync(cls, tls, ssl.Purpose.SERVER_AUTH)

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        return self._context.value

    @property
    def revocations(self) -> Revocations:
        """Who is denied."""
        return self._lists.value

    async def refresh(self, *, at_once: bool = False) -> bool:
        """Look at the files, and return whether the lists are new. Never raises for a file."""
        return await anyio.to_thread.run_sync(partial(self._refresh, at_once=at_once), limiter=self._limiter)

    def _refresh(self, *, at_once: bool) -> bool:
        self._context.refresh(at_once=at_once)
        return self._lists.refresh(at_once=at_once)

    async def renew(self, denied: Callable[[], None], asked: asyncio.Event) -> None:
        """Refresh for ever, at once when ``asked``; call ``denied`` whenever the lists are new."""
        while True:
            with anyio.move_on_after(POLL_SECONDS):
                await asked.wait()
            at_once = asked.is_set()
            asked.clear()
            try:
                if await self.refresh(at_once=at_once):
                    denied()
            except Exception:  # a bug must not let everybody in whom a later list denies
                logger.exception("cannot look after certificates and lists")


def _stamp(path: Path) -> Stamp:
    """Return what changes whenever ``path`` does, be it written, replaced or made readable; None if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino, found.st_dev
