"""Fixtures that the page tests of a module share: Chromium, started once, and separate users for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.acceptance import chat_page


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """One browser; each visitor has its own profile."""
    async with chat_page.chromium() as found:
        yield found


@pytest.fixture(autouse=True)
def household() -> None:
    """Users who sign in during a test differ from those of the test before, on the same gateway."""
    chat_page.new_household()
