"""Follows channels on NATS: one task subscribes to the set of wanted channels.

Not here: decoding messages (`codec`, `broker`). Messages are passed on as nats-py reads them, without the queue and the
task that it keeps for each subscription, which cost 4 KB per channel and a task switch per message. The server then
notices a slow process by its backlog: it cuts the connection, and everything is read again.

A node that publishes to a channel together with others follows it beside the handler, so that it gets their messages
without a read. Rules: `want` and `drop` never wait; `settled` waits until a channel's subscription was sent, and so
comes before the caller's next message on the same connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError

from narthex.adapters.brokers.nats.codec import token
from narthex.adapters.brokers.nats.jetstream import JetStreamUnavailable


class NatsSubscriptions:
    """Follows channels under `prefix`; calls `tell` with every message."""

    def __init__(self, client: Callable[[], Client], prefix: str, on_message: Callable[[Msg], None]) -> None:
        self._client = client
        self._prefix = prefix
        self._sink = _MessageSink(on_message)
        self._wanted: dict[str, str] = {}  # token → channel
        self._asked: set[str] = set()  # tokens: for the handler
        self._beside: set[str] = set()  # tokens: for the appender
        self._held: dict[str, Subscription] = {}  # by token
        self._unsettled: dict[str, asyncio.Event] = {}  # by token
        self._changed = asyncio.Event()

    def channel(self, subject: str) -> str | None:
        """The followed channel of a message's subject, None when it was dropped."""
        return self._wanted.get(subject[len(self._prefix) :])

    def wants(self, channel: str) -> bool:
        """Whether a channel is followed for the handler, or about to be."""
        return token(channel) in self._asked

    def want(self, channel: str, *, beside: bool = False) -> None:
        """Follow a channel, for the handler or only `beside` it; idempotent."""
        name = token(channel)
        (self._beside if beside else self._asked).add(name)
        if name not in self._wanted:
            self._wanted[name] = channel
            self._touch(name)

    def drop(self, channel: str, *, beside: bool = False) -> None:
        """Stop following, unless the other side still does; idempotent."""
        name = token(channel)
        (self._beside if beside else self._asked).discard(name)
        if name in self._asked or name in self._beside:
            return
        if self._wanted.pop(name, None) is not None:
            self._touch(name)

    async def settled(self, channel: str) -> None:
        """Wait until the last request for a channel has been sent."""
        pending = self._unsettled.get(token(channel))
        if pending is not None:
            await pending.wait()

    def renew(self) -> None:
        """The client is another one: subscribe to everything again."""
        self._held.clear()
        for name in self._wanted:
            self._touch(name)

    async def run(self) -> None:
        """Subscribe and unsubscribe to match the wanted set, until cancelled."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for name in list(self._unsettled):
                try:
                    while (name in self._wanted) != (name in self._held):  # it may change while it is sent
                        await self._settle(name)
                except (
                    NatsError,
                    OSError,
                    JetStreamUnavailable,
                ):  # closed, or none: the reconnecting code calls `renew`
                    await asyncio.sleep(0.1)
                    self._changed.set()
                    break
                pending = self._unsettled.pop(name, None)
                if pending is not None:
                    pending.set()

    async def _settle(self, name: str) -> None:
        if name in self._wanted:
            self._held[name] = await self._subscribe(self._prefix + name)
        else:
            await self._held.pop(name).unsubscribe()

    async def _subscribe(self, subject: str) -> Subscription:
        subscription: Any = await self._client().subscribe(subject, pending_bytes_limit=0)
        # Internals of the library, whose version is pinned; the contract suite fails if no message arrives.
        early = subscription._pending_queue  # noqa: SLF001 - see above
        subscription._pending_queue = self._sink  # noqa: SLF001
        subscription._message_iterator = None  # noqa: SLF001
        while not early.empty():  # arrived while the request was sent
            self._sink.put_nowait(early.get_nowait())
        made: Subscription = subscription
        return made

    def _touch(self, name: str) -> None:
        if name not in self._unsettled:
            self._unsettled[name] = asyncio.Event()
        self._changed.set()


class _MessageSink:
    """Replaces the queue of every subscription."""

    def __init__(self, on_message: Callable[[Msg], None]) -> None:
        self.put_nowait = on_message

    def empty(self) -> bool:
        """Always empty, because it passes each message on at once."""
        return True
