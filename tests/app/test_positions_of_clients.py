"""Positions and limits that no client of ours sends: each is answered, and none is a bug of the gateway."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from narthex.ports.agents import Agent
from narthex.testing import Running, gateway
from tests.app.test_commands import client, spoken, words
from tests.app.test_connection import bugs


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(tmp_path, agents=[Agent(name="words", function=words)]) as found:
        yield found


@pytest.mark.parametrize("offset", [-(2**63), -1, 2**53, 2**63 - 1, 2**63, 2**64 - 1])
async def test_an_offset_that_no_log_has_is_not_recovered(running: Running, offset: int) -> None:
    """In a subscription and in `history`, with the log's own epoch: it counts as one beyond the end."""
    ada = await client(running, "ada")
    channel = (await spoken(ada, "one"))["channel"]
    subscribed = await ada.call("subscribe", channel=channel)
    epoch = subscribed["subscribe"]["epoch"]
    page = await ada.call("history", channel=channel, since={"offset": offset, "epoch": epoch}, limit=10)
    assert "history" in page, page
    assert not page["history"].get("publications"), page
    await ada.call("unsubscribe", channel=channel)
    again = await ada.call("subscribe", channel=channel, recover=True, offset=offset, epoch=epoch)
    assert not again["subscribe"].get("recovered"), again
    assert bugs(running) == []


@pytest.mark.parametrize("limit", [-(2**63), -2, 2**31, 2**63 - 1])
async def test_a_limit_of_any_size_is_bounded(running: Running, limit: int) -> None:
    """`history` answers with a page or an error."""
    ada = await client(running, "ada")
    channel = (await spoken(ada, "one"))["channel"]
    await ada.call("subscribe", channel=channel)
    page = await ada.call("history", channel=channel, limit=limit)
    assert "history" in page or page["error"]["code"] == 107, page
    assert bugs(running) == []
