"""`narthex.app.notices`: a notice to several users, and the effect when one cannot be notified."""

from __future__ import annotations

import asyncio

import pytest

from narthex.app.notices import Notices
from narthex.errors import DependencyError
from narthex.ports.broker import Position, Published
from tests.app.runs.fakes import FakeBroker


class OneIsAway(FakeBroker):
    """Rejects `ada`, and accepts the others only later."""

    async def publish(
        self,
        channel: str,
        data: bytes,
        *,
        key: str | None = None,
        tags: dict[str, str] | None = None,
        expected: Position | None = None,
    ) -> Published:
        if channel.endswith("user:ada"):
            raise DependencyError("broker", "The fake broker is away.")
        await asyncio.sleep(0.01)
        return await super().publish(channel, data, key=key, tags=tags, expected=expected)


async def test_one_who_cannot_be_told_costs_nobody_else_the_notice() -> None:
    """The error is raised after all were tried: nothing runs on in the background."""
    broker = OneIsAway()
    with pytest.raises(DependencyError):
        await Notices(broker).send("default", ["ada", "bob"], "narthex.test", {})
    assert [event["name"] for event in broker.events("default/user:bob")] == ["narthex.test"]
