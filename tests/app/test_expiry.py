"""Expired rows are deleted repeatedly, also after the store was down."""

from __future__ import annotations

import asyncio
import time

from narthex.app.expiry import CredentialExpiry
from tests.adapters.tokens.memory import MemoryCredentials, as_port
from tests.timing import within


class Watched(MemoryCredentials):
    """Reports deletions."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted = asyncio.Event()
        self.asked = asyncio.Event()

    async def expire(self, now: float) -> int:
        self.asked.set()
        count = await super().expire(now)
        if count:
            self.deleted.set()
        return count


async def test_it_goes_on_after_an_outage() -> None:
    """A store that is down is retried next time."""
    store = Watched()
    now = time.time()
    await store.put_ticket("over", "{}", now - 1)
    await store.put_ticket("alive", "{}", now + 600)
    store.away = True
    expiry = CredentialExpiry(as_port(store), every_s=0.01)
    await expiry.start()
    await expiry.start()  # twice is once
    async with asyncio.timeout(within(5)):
        await store.asked.wait()
        store.away = False
        await store.deleted.wait()
    assert set(store.tickets) == {"alive"}
    await expiry.stop()
    await expiry.stop()
