"""A house of run engines, closed after the test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.app.runs.house import House


@pytest.fixture
async def house() -> AsyncIterator[House]:
    """Engines over fakes."""
    built = House()
    yield built
    await built.close()
