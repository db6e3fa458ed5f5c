"""A user who is removed from a thread while the broker is down no longer receives its events once the broker is
back.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from centrifuge import CentrifugeError

from tests.acceptance.fleet import Fleet, engines, shared
from tests.acceptance.sdk import person
from tests.timing import within

pytestmark = pytest.mark.acceptance


async def test_a_removal_while_the_broker_was_away(tmp_path: Path) -> None:
    """The control message could not be sent; the other gateway ends the subscription all the same."""
    async with engines() as (nats, _, store_url):
        built = Fleet(tmp_path, shared(nats.url, store_url))
        try:
            one, two = await built.gateways(2)
            tokens = [await one.login(f"{name}@example.com") for name in ("ada", "bob")]
            async with person(one.ws, tokens[0]) as ada, person(two.ws, tokens[1]) as bob:
                who = (await bob.rpc("whoami"))["user"]
                thread = (await ada.rpc("thread.create"))["thread_id"]
                await ada.rpc("thread.members.add", thread_id=thread, user_id=who)
                await bob.follow(thread)
                await asyncio.to_thread(nats.kill)
                with pytest.raises(CentrifugeError):  # 503, or the SDK gave up before
                    await ada.rpc("thread.members.remove", thread_id=thread, user_id=who)
                await asyncio.to_thread(nats.start)
                subscription = bob.client.subscriptions()[f"thread:{thread}"]
                async with asyncio.timeout(within(20)):
                    while subscription.state.value != "unsubscribed":  # noqa: ASYNC110 - the SDK's own state
                        await asyncio.sleep(0.05)
        finally:
            await asyncio.to_thread(built.end)
