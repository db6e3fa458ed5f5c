"""Whether everybody who listens to a thread still may: asked again after the broker was away.

Who is removed from a thread loses its channel by a control message; one that was sent while this node had no broker
never comes. Not here: who may subscribe in the first place (`commands/subscribing`), revoked credentials, which are
read from the store anyhow. Rules: one query a channel, so many a second; a store that is away is waited for; one
check at a time, and what is lost meanwhile starts another after it.
"""

from __future__ import annotations

import asyncio
import random
from typing import Final

import structlog

from narthex.app.commands.subscribing import remove_server_side
from narthex.app.connection import Connection
from narthex.app.controls import UNSUBSCRIBED_BY_SERVER
from narthex.app.hub import Hub
from narthex.app.tasks import Tasks
from narthex.domain.channels import parse_channel, split_key
from narthex.errors import DependencyError
from narthex.ports.threads import Threads

PER_S: Final = 200  # channels: a tenth of what PostgreSQL read here; 20,000 of them take 100 s
SPREAD_S: Final = 1.0  # nodes that lost one broker together do not ask together
RETRY_FIRST_S: Final = 0.5
RETRY_MOST_S: Final = 10.0

_log = structlog.get_logger("narthex.rights", log_name="narthex.rights")


class Rights:
    """See the module.

    Args:
        hub: whose subscribers are looked at.
        tasks: owns the check.
        threads: who knows the members.
        per_s: channels a second.
        spread_s: a check begins within so long; None: `SPREAD_S`.
    """

    def __init__(
        self,
        hub: Hub,
        tasks: Tasks,
        threads: Threads,
        *,
        per_s: float = PER_S,
        spread_s: float | None = None,
    ) -> None:
        self._hub = hub
        self._tasks = tasks
        self._threads = threads
        self._pause_s = 1 / per_s
        self._spread_s = SPREAD_S if spread_s is None else spread_s
        self._checking = False
        self._again = False

    def doubt(self) -> None:
        """Control messages may have been lost: check everybody, soon."""
        self._again = True
        if self._checking:
            return
        try:
            self._tasks.spawn(self._check())
        except DependencyError:  # so busy that nothing more may begin: the next doubt checks
            _log.warning("rights_not_checked")
            return
        self._checking = True

    async def _check(self) -> None:
        try:
            await asyncio.sleep(random.uniform(0, self._spread_s))  # noqa: S311 - spreads load, hides nothing
            while self._again:
                self._again = False
                keys, removed = self._hub.keys(), 0
                for key in keys:
                    removed += await self._checked(key)
                    await asyncio.sleep(self._pause_s)
                _log.info("rights_checked", channels=len(keys), removed=removed)
        finally:
            self._checking = False

    async def _checked(self, key: str) -> int:
        """One channel: how many connections lost it."""
        tenant, name = split_key(key)
        kind, thread_id = parse_channel(name) or ("", "")
        listening = self._listening(key)  # who comes while the store is asked was let in by a newer answer
        if kind != "thread" or not listening:
            return 0
        members = await self._members(tenant, thread_id)
        before = set(listening)
        still = [one for one in self._listening(key) if one in before]
        gone = [one for one in still if one.person and one.person.subject not in members]
        for connection in gone:
            remove_server_side(connection, name, UNSUBSCRIBED_BY_SERVER, "the server ended the subscription")
        return len(gone)

    def _listening(self, key: str) -> list[Connection]:
        return [one for one in self._hub.subscribers(key) if isinstance(one, Connection)]

    async def _members(self, tenant: str, thread_id: str) -> set[str]:
        wait_s = RETRY_FIRST_S
        while True:
            try:
                return {member.user_id for member in await self._threads.members(tenant, thread_id)}
            except DependencyError:
                await asyncio.sleep(wait_s)
                wait_s = min(wait_s * 2, RETRY_MOST_S)
