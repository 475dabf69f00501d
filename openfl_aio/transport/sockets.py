"""Connections whose other end has vanished are noticed: by the kernel, so that no HTTP/2 ping annoys a stock peer."""

from __future__ import annotations

import asyncio
import socket
import struct
import sys
from typing import Any, Final

if sys.platform == "linux":
    import fcntl
    import termios

__all__ = ["unsent_bytes", "watch"]

IDLE_SECONDS: Final = 60
PROBE_SECONDS: Final = 10
PROBES: Final = 3
UNACKNOWLEDGED_MILLISECONDS: Final = 90_000


def watch(transport: asyncio.BaseTransport) -> None:
    """Let the connection of ``transport`` break about 90 seconds after its peer is gone, whether data is sent or not.

    Does nothing for a transport without a TCP socket; options that the system lacks are left out.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", IDLE_SECONDS),
        ("TCP_KEEPINTVL", PROBE_SECONDS),
        ("TCP_KEEPCNT", PROBES),
        ("TCP_USER_TIMEOUT", UNACKNOWLEDGED_MILLISECONDS),
    ):
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


def unsent_bytes(sock: Any) -> int:
    """Return how many bytes of a TCP socket its peer's system has not acknowledged yet; 0 where that cannot be asked."""
    if sys.platform == "linux" and sock is not None:
        try:
            (count,) = struct.unpack("i", fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))
        except (OSError, ValueError):
            return 0  # closed meanwhile, or no socket of the system
        return int(count)
    return 0
