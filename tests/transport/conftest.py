"""Certificates for the transport's tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from openfl_aio.testing.ca import ThrowawayCA


@pytest.fixture(scope="session")
def ca(tmp_path_factory: pytest.TempPathFactory) -> ThrowawayCA:
    authority = ThrowawayCA(tmp_path_factory.mktemp("ca") / "cert")
    authority.server()
    authority.client("hospital_one")
    return authority


@pytest.fixture
def foreign_ca(tmp_path: Path) -> ThrowawayCA:
    authority = ThrowawayCA(tmp_path / "foreign")
    authority.client("hospital_one")
    return authority
