"""Connections leave descriptors for files."""

from __future__ import annotations

import logging
import resource

import pytest

from openfl_aio.config import Limits
from openfl_aio.transport.descriptors import RESERVED, within_descriptors


@pytest.mark.parametrize(
    ("allowed", "connections", "unauthenticated"),
    [
        (resource.RLIM_INFINITY, 1000, 128),
        (1000 + RESERVED, 1000, 128),
        (1024, 1024 - RESERVED, 128),
        (48, 24, 6),
        (1, 1, 1),
    ],
)
def test_connections_by_open_files(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    allowed: int,
    connections: int,
    unauthenticated: int,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda which: (allowed, allowed))
    with caplog.at_level(logging.INFO):
        limits = within_descriptors(Limits())
    assert (limits.max_connections, limits.max_unauthenticated) == (connections, unauthenticated)
    assert len(caplog.messages) == (connections < 1000)
    assert within_descriptors(Limits(max_connections=1)).max_connections == 1
