from __future__ import annotations

from typing import Any

import anyio.to_thread
import pytest

from tests.identity.__main__ import served
from tests.identity.cases import CASES, Case, Workshop, attempt, workshop

pytestmark = pytest.mark.real_time


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    # a loop in debug mode reports every failed handshake as an error of the test
    return "asyncio", {"debug": False}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    return workshop(tmp_path_factory.mktemp("identity"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
async def test_who_is_let_in(case: Case, shop: Workshop) -> None:
    async with served(shop) as port:
        assert await anyio.to_thread.run_sync(attempt, port, case, shop) == case.expected
