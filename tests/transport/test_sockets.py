"""Vanished peers are noticed by the kernel."""

from __future__ import annotations

import asyncio
import socket

import pytest

from openfl_aio.transport.sockets import watch


@pytest.mark.real_time
async def test_tcp_connections_are_probed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, *listener.getsockname())
        watch(transport)
        sock = transport.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        transport.close()
        await asyncio.sleep(0)


@pytest.mark.real_time
async def test_other_transports_are_left_alone() -> None:
    left, right = socket.socketpair()
    with right:
        transport, _ = await asyncio.get_running_loop().create_connection(asyncio.Protocol, sock=left)
        watch(transport)
        transport.close()
        await asyncio.sleep(0)
    watch(asyncio.Transport())
