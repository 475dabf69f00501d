"""How many connections a process may have, so that it can still open files: what connections take, an upload lacks."""

from __future__ import annotations

import logging
import resource
from typing import Final

from openfl_aio.config import Limits

__all__ = ["within_descriptors"]

logger = logging.getLogger(__name__)

RESERVED: Final = 128
"""Descriptors for files, database and all else; half of what there is, if that is fewer."""


def within_descriptors(limits: Limits) -> Limits:
    """Return ``limits`` with no more connections than the process may open; says so if those are fewer.

    A quarter of them may be unauthenticated then, for those give way to newer ones.
    """
    allowed = _allowed()
    if allowed is None:
        return limits
    room = max(1, allowed - min(RESERVED, allowed // 2))
    if limits.max_connections <= room:
        return limits
    logger.info(
        "at most %d connections instead of %d, for the process may open %d files (ulimit -n)",
        room,
        limits.max_connections,
        allowed,
    )
    unauthenticated = min(limits.max_unauthenticated, max(1, room // 4))
    return limits.model_copy(update={"max_connections": room, "max_unauthenticated": unauthenticated})


def _allowed() -> int | None:
    """Return how many descriptors this process may have open, None for any number."""
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if allowed == resource.RLIM_INFINITY else allowed
