"""Exports of threads: limits the exports of a user, and reads a thread in pieces that bound memory.

Not here: the form of an export (`web/api/export.py`). Rules: a slot is released exactly once, however the export ends;
counts are this process's own; at most `PAGE_BYTES` of a thread's messages are read before the last ones were sent.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Final

from narthex.domain.identity import Identity
from narthex.domain.plans import Plan
from narthex.errors import ClientError
from narthex.ports.threads import Kept, Message, Threads

PAGE: Final = 200  # the store's largest page
PAGE_BYTES: Final = 64 * 1024  # the intended size of a page; messages of 32 KB then come two at a time


class ExportSlots:
    """The exports under way, by user.

    Args:
        plans: gives the plan of a user.
    """

    def __init__(self, plans: Callable[[Identity], Plan]) -> None:
        self._plans = plans
        self._active: dict[str, int] = {}

    def active(self, identity: Identity) -> int:
        """The number of the user's exports under way."""
        return self._active.get(identity.user, 0)

    def take(self, identity: Identity) -> ExportSlot:
        """Begin an export; release the slot when it is over.

        Raises:
            ClientError: `exports_limit` (429): the user's limit of exports is reached.
        """
        plan = self._plans(identity)
        if self.active(identity) >= plan.exports:
            raise ClientError(
                "exports_limit",
                f"The plan {plan.name} allows {plan.exports} concurrent exports.",
                "Wait for one to finish.",
                number=429,
            )
        self._active[identity.user] = self.active(identity) + 1
        return ExportSlot(self, identity.user)

    def release(self, user: str) -> None:
        """For `ExportSlot.release`."""
        left = self._active[user] - 1
        if left:
            self._active[user] = left
        else:
            del self._active[user]


class ExportSlot:
    """One export under way. Made by `ExportSlots.take`."""

    def __init__(self, slots: ExportSlots, user: str) -> None:
        self._slots = slots
        self._user = user
        self._open = True

    def release(self) -> None:
        """The export is over; idempotent."""
        if self._open:
            self._open = False
            self._slots.release(self._user)


async def pages(
    threads: Threads, tenant: str, thread_id: str, *, until_id: str, kept: Callable[[], Kept]
) -> AsyncIterator[list[Message]]:
    """Every message of a thread up to the message `until_id`, oldest first, in pages of about `PAGE_BYTES`."""
    after_id, limit = "", 2  # the first page is small: the length of messages is not known yet
    while True:
        page = await threads.messages_after(
            tenant, thread_id, after_id=after_id, until_id=until_id, limit=limit, kept=kept()
        )
        if not page:
            return
        after_id = page[-1].message_id
        size = sum(len(message.content) + len(message.detail) + 200 for message in page)
        limit = max(1, min(PAGE, 2 * limit, PAGE_BYTES * len(page) // size))
        yield page
        del page
