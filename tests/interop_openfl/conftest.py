"""What tests with the real OpenFL share: started programs that end with the test, and a certificate authority."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from openfl_aio.testing.ca import ThrowawayCA
from tests.interop_openfl.federations import Federation, MakeFederation, Outline
from tests.interop_openfl.matrix import (
    pytest_collection_finish,
    pytest_collectreport,
    pytest_runtest_makereport,
    pytest_sessionfinish,
)
from tests.interop_openfl.processes import RELEASES, Programs

__all__ = [  # of the matrix: what pytest calls
    "pytest_collection_finish",
    "pytest_collectreport",
    "pytest_runtest_makereport",
    "pytest_sessionfinish",
]


@pytest.fixture
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Programs]:
    """Start programs; they are killed when the test ends."""
    started = Programs(tmp_path_factory.mktemp("programs"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def ca_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder ``cert`` in OpenFL's layout with our authority, its server ``localhost`` and participants."""
    folder = tmp_path_factory.mktemp("ca") / "cert"
    authority = ThrowawayCA(folder)
    authority.server()
    releases = [f"at_{release.replace('.', '_')}" for release in RELEASES]
    for name in ("one", "two", "three", "ours", *releases):
        authority.client(name)
    return folder


@pytest.fixture
def federation(programs: Programs, tmp_path: Path, ca_folder: Path) -> MakeFederation:
    """Make federations, each in a folder of its own."""

    def make(outline: Outline) -> Federation:
        number = len(list(tmp_path.iterdir()))
        return Federation(programs, tmp_path / f"federation{number}", outline, cert=ca_folder)

    return make
