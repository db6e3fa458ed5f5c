"""Receives messages from Redis: one pub/sub connection for all followed channels, renewed when it breaks.

Not here: decoding messages (`broker`). Rules: messages during a break are missed, so the listener calls `renewed` once
it has subscribed to everything again; `settled` waits for the server's confirmation, because reads go over another
connection.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable
from typing import Any, Final

import structlog
from redis.asyncio import Redis
from redis.asyncio.client import PubSub

from narthex.adapters.brokers.cancellation import cancel_and_wait
from narthex.adapters.brokers.redis.connection import FAULTS

SILENT_S: Final = 5.0  # the node's own beats come every second: without them the connection is half open
SUBSCRIBE_AT_ONCE: Final = 500
MAX_WAIT_S: Final = 2.0

_log = structlog.get_logger("narthex.broker", log_name="narthex.broker")


class Listener:
    """Follows names. Calls `tell` with (name, body) of every message."""

    def __init__(
        self,
        client: Callable[[], Redis],
        on_message: Callable[[str, bytes], None],
        *,
        lost: Callable[[], None],
        renewed: Callable[[], Awaitable[None]],
    ) -> None:
        self._client = client
        self._tell = on_message
        self._lost = lost
        self._renewed = renewed
        self._wanted: set[str] = set()
        self._confirmed: set[str] = set()
        self._changed: set[str] = set()
        self._waiting: dict[str, asyncio.Event] = {}
        self._wake = asyncio.Event()
        self._elsewhere = asyncio.Event()

    def wants(self, name: str) -> bool:
        """Whether a name is followed, or about to be."""
        return name in self._wanted

    def want(self, name: str) -> None:
        """Follow; idempotent."""
        if name not in self._wanted:
            self._wanted.add(name)
            self._changed.add(name)
            self._wake.set()

    def drop(self, name: str) -> None:
        """Stop following; idempotent."""
        if name in self._wanted:
            self._wanted.discard(name)
            self._confirmed.discard(name)
            self._changed.add(name)
            self._wake.set()

    def reconnect(self) -> None:
        """Follow everything on another server, then call `renewed`."""
        self._elsewhere.set()

    async def settled(self, name: str) -> None:
        """Wait until the server has confirmed a followed name; at once for others."""
        while name in self._wanted and name not in self._confirmed:
            await self._waiting.setdefault(name, asyncio.Event()).wait()

    async def run(self) -> None:
        """Keep listening until cancelled."""
        wait, first = 0.05, True
        self._confirmed.clear()  # of an earlier start
        while True:
            pubsub = self._client().pubsub()
            self._elsewhere.clear()
            try:
                await self._subscribe(pubsub, sorted(self._wanted))
                if not first:
                    await self._renewed()
                first, wait = False, 0.05
                await self._listen(pubsub)
            except Exception as fault:
                if not isinstance(
                    fault, FAULTS
                ):  # a bug, or an error of the library's transport: keep listening
                    _log.exception("broker_listener_raised")
                self._confirmed.clear()
                self._lost()
                await asyncio.sleep(random.uniform(wait / 2, wait))  # noqa: S311 - nodes must not come in one wave
                wait = min(wait * 2, MAX_WAIT_S)
            finally:
                with contextlib.suppress(Exception):  # the connection is dropped in any case
                    await pubsub.aclose()  # type: ignore[no-untyped-call]  # the library leaves it untyped

    async def _listen(self, pubsub: PubSub) -> None:
        """Read until the connection breaks; a second task sends changed subscriptions meanwhile."""
        tasks = [
            asyncio.create_task(self._read(pubsub), name="redis reading"),
            asyncio.create_task(self._follow(pubsub), name="redis subscriptions"),
            asyncio.create_task(self._elsewhere.wait(), name="redis elsewhere"),
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
            raise ConnectionError("a different server responds")
        finally:
            await cancel_and_wait(*tasks)

    async def _read(self, pubsub: PubSub) -> None:
        while True:
            message: dict[str, Any] | None = await pubsub.get_message(timeout=SILENT_S)
            if message is None:
                raise TimeoutError
            self._take(message)

    async def _follow(self, pubsub: PubSub) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            changed, self._changed = self._changed, set()
            await self._subscribe(pubsub, sorted(changed & self._wanted))
            gone = sorted(changed - self._wanted)
            for start in range(0, len(gone), SUBSCRIBE_AT_ONCE):
                await pubsub.unsubscribe(*gone[start : start + SUBSCRIBE_AT_ONCE])

    async def _subscribe(self, pubsub: PubSub, names: list[str]) -> None:
        for start in range(0, len(names), SUBSCRIBE_AT_ONCE):
            await pubsub.subscribe(*names[start : start + SUBSCRIBE_AT_ONCE])

    def _take(self, message: dict[str, Any]) -> None:
        kind = message["type"]
        name = (message["channel"] or b"").decode()
        if kind == "message":
            if name in self._wanted:
                self._tell(name, message["data"])
        elif kind == "subscribe":
            if name in self._wanted:
                self._confirmed.add(name)
            waiting = self._waiting.pop(name, None)
            if waiting is not None:
                waiting.set()
