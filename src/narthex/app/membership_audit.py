"""Compares the subscribers of threads with the store's members, continuously and after an outage.

A removed member loses the thread's channel by a control message. One that was sent while this node had no broker may
not arrive, and one whose sender died between the store's commit and the message is never sent. So every subscription is
compared with the store's members every `EVERY_S`, and at once where messages may have been lost (`schedule`). Not here:
the right to subscribe (`commands/subscribing`), revoked credentials (`revocations`). Rules: one query
for up to `BATCH` subscriptions, with a bound of subscriptions a second; a store that is down is waited for; one check
at a time, and a doubt meanwhile starts another after it.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from typing import Final

import structlog

from narthex.app.commands.subscribing import Subscriptions
from narthex.app.connection import Connection
from narthex.app.hub import Hub
from narthex.app.periodic import BackgroundTask
from narthex.app.tasks import Tasks
from narthex.domain.channels import parse_channel, split_key
from narthex.errors import DependencyError
from narthex.ports.threads import Membership, Threads

BATCH: Final = 128  # subscriptions a query: 1 ms of a server
EVERY_S: Final = 10.0
PER_S: Final = 1_000  # subscriptions without a doubt: one turn of 10,000 takes the 10 s
DOUBTED_PER_S: Final = 5_000
SPREAD_S: Final = 1.0  # nodes that lost one broker together do not ask together
RETRY_FIRST_S: Final = 0.5
RETRY_MOST_S: Final = 10.0

_log = structlog.get_logger("narthex.rights", log_name="narthex.rights")


class MembershipAudit(BackgroundTask):
    """See the module. `start` begins the continuous checks; the store must have started.

    Args:
        hub: has the subscribers.
        subscriptions: ends them.
        tasks: owns the check after a doubt.
        threads: has the members.
        per_s: subscriptions a second after a doubt.
        spread_s: a check begins within this time.
    """

    def __init__(
        self,
        hub: Hub,
        subscriptions: Subscriptions,
        tasks: Tasks,
        threads: Threads,
        *,
        per_s: float = DOUBTED_PER_S,
        spread_s: float = SPREAD_S,
    ) -> None:
        super().__init__(self._forever, "rights")
        self._hub = hub
        self._subscriptions = subscriptions
        self._tasks = tasks
        self._threads = threads
        self._per_s = per_s
        self._spread_s = spread_s
        self._checking = False
        self._again = False

    def schedule(self) -> None:
        """Control messages may have been lost: check all subscriptions, soon."""
        self._again = True
        if self._checking:
            return
        try:
            self._tasks.spawn(self._check())
        except DependencyError:  # the node is overloaded: the next check finds it
            _log.warning("rights_not_checked")
            return
        self._checking = True

    async def _check(self) -> None:
        try:
            await asyncio.sleep(random.uniform(0, self._spread_s))  # noqa: S311 - spreads load, hides nothing
            while self._again:
                self._again = False
                checked, removed = await self._check_all(self._per_s)
                _log.info("rights_checked", subscriptions=checked, removed=removed)
        finally:
            self._checking = False

    async def _forever(self) -> None:
        loop = asyncio.get_running_loop()
        wait_s = EVERY_S
        while True:
            await asyncio.sleep(wait_s * random.uniform(0.9, 1.0))  # noqa: S311 - nodes must not ask in one wave
            began = loop.time()
            try:
                _, removed = await self._check_all(PER_S)
                if removed:
                    _log.warning("removals_were_missed", subscriptions=removed)
            except Exception:  # a bug: without this task a removal that no message tells of is never found
                _log.exception("rights_raised")
            wait_s = max(0.0, EVERY_S - (loop.time() - began))

    async def _check_all(self, per_s: float) -> tuple[int, int]:
        """Check every subscription once; returns how many were compared, and how many had ended."""
        loop = asyncio.get_running_loop()
        subscribed = self._subscribed()
        checked = removed = 0
        while batch := list(itertools.islice(subscribed, BATCH)):
            began = loop.time()
            checked += len(batch)
            removed += await self._compared(batch)
            await asyncio.sleep(max(0.0, len(batch) / per_s - (loop.time() - began)))
        return checked, removed

    def _subscribed(self) -> Iterator[tuple[Connection, str, Membership]]:
        """Connections in threads, as of the moment when each is taken: the channel's name, and the membership."""
        keys = self._hub.keys()  # as they are now: they change while the store is asked
        for key in keys:
            tenant, name = split_key(key)
            kind, thread_id = parse_channel(name) or ("", "")
            if kind != "thread":
                continue
            for one in self._hub.subscribers(key):
                if (
                    isinstance(one, Connection)
                    and one.known_identity is not None
                    and name in one.subscriptions
                ):
                    yield one, name, Membership(tenant, thread_id, one.known_identity.subject)

    async def _compared(self, batch: list[tuple[Connection, str, Membership]]) -> int:
        # A connection that came back during the query was admitted by a newer answer.
        before = [connection.subscriptions[name] for connection, name, _ in batch]
        members = await self._members({membership for _, _, membership in batch})
        removed = 0
        for (connection, name, membership), subscription in zip(batch, before, strict=True):
            if membership not in members and connection.subscriptions.get(name) is subscription:
                self._subscriptions.remove(connection, name)
                removed += 1
        return removed

    async def _members(self, asked: set[Membership]) -> set[Membership]:
        wait_s = RETRY_FIRST_S
        while True:
            try:
                return await self._threads.still_members(asked)
            except DependencyError:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MOST_S)
