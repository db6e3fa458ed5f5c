"""Watchers that record everything they receive: raw ones, which are cheap, and the unmodified Python SDK.

Rules: a raw one reconnects as SDKs do (full jitter, exponential) and recovers; each connection goes to any gateway,
as behind a load balancer; nothing is judged here.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec
from centrifuge import Client as Sdk
from centrifuge import ClientEventHandler, PublicationContext, SubscribedContext, SubscriptionEventHandler

from tests.acceptance.crowd import Client
from tests.history import Recorder

BACKOFF_FIRST_S: Final = 0.5  # centrifuge-js: minReconnectDelay, maxReconnectDelay
BACKOFF_LAST_S: Final = 20.0
CONNECT_S: Final = 5.0  # its time-out
_decode: Final = msgspec.json.decode


class Watcher:
    """The publications that one subscriber of one channel received, across any number of connections.

    Attributes:
        seen: the callback's publications, by (epoch, offset).
        twice: positions that it received again.
        gaps: offsets that followed another than their predecessor, without an explicit `recovered: false`.
        unrecovered: how often it got `recovered: false`.
        resumed_s: how long each interruption took.
    """

    def __init__(self, ports: Sequence[int], token: str, channel: str) -> None:
        self.seen: dict[tuple[str, int], str] = {}
        self.twice: list[tuple[str, int]] = []
        self.gaps: list[str] = []
        self.unrecovered = 0
        self.resumed_s: list[float] = []
        self.live = asyncio.Event()
        self.epoch = ""
        self.offset = 0
        self.down_at: float | None = None
        self._ports = ports
        self._token = token
        self._channel = channel

    async def run(self) -> None:
        """Run until cancelled."""
        raise NotImplementedError

    def cut(self) -> None:
        """Drop the connection, as a bad network does."""
        raise NotImplementedError

    def _down(self) -> None:
        if self.down_at is None and self.live.is_set():
            self.down_at = asyncio.get_running_loop().time()
        self.live.clear()

    def _up(self, epoch: str, offset: int, *, recovered: bool) -> None:
        """Subscribed; the missed publications follow if it was `recovered`."""
        if self.epoch and not recovered:
            self.unrecovered += 1
        if not recovered:
            self.offset = offset
        self.epoch = epoch
        self.live.set()
        if self.down_at is not None:
            self.resumed_s.append(asyncio.get_running_loop().time() - self.down_at)
            self.down_at = None

    def _given(self, offset: int, data: Any) -> None:
        place = (self.epoch, offset)
        if place in self.seen:
            self.twice.append(place)
            return
        if offset != self.offset + 1:
            self.gaps.append(f"{self._channel} {self.epoch}: {self.offset} -> {offset}")
        self.offset = offset
        self.seen[place] = str(data["value"])


class RawWatcher(Watcher):
    """Writes frames by hand; with a `recorder`, each is recorded for the history checker, as `reader` of `user`."""

    def __init__(
        self,
        ports: Sequence[int],
        token: str,
        channel: str,
        *,
        recorder: Recorder | None = None,
        reader: str = "",
        user: str = "",
    ) -> None:
        super().__init__(ports, token, channel)
        self._recorder, self._reader, self._user = recorder, reader, user
        self._attempt = 0
        self._client: Client | None = None

    async def run(self) -> None:
        """See `Watcher`."""
        while True:
            with contextlib.suppress(
                OSError, EOFError, AssertionError, TimeoutError
            ):  # an SDK treats them all alike
                await self._life()
            self._down()
            ceiling = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2**self._attempt)
            self._attempt += 1
            await asyncio.sleep(random.uniform(0, ceiling))

    def cut(self) -> None:
        """See `Watcher`."""
        if self._client is not None:
            self._client.end()

    async def _life(self) -> None:
        client = self._client = Client("127.0.0.1", random.choice(self._ports), self._token)
        if self._recorder is not None:
            client.tap = self._recorder.connection(self._reader, self._user)
        try:
            async with asyncio.timeout(CONNECT_S):
                await client.live()
                body: dict[str, Any] = {"channel": self._channel, "recoverable": True, "positioned": True}
                if self.epoch:
                    body |= {"recover": True, "epoch": self.epoch, "offset": self.offset}
                client.send(msgspec.json.encode({"id": 2, "subscribe": body}).decode())
            async for raw in client.objects():
                self._object(_decode(raw))
        finally:
            client.end()

    def _object(self, found: dict[str, Any]) -> None:
        push = found.get("push")
        if push is not None:
            if push.get("channel") == self._channel and "pub" in push:
                self._given(int(push["pub"]["offset"]), push["pub"]["data"])
        elif found.get("id") == 2:
            assert "subscribe" in found, found
            reply = found["subscribe"]
            self._attempt = 0
            self._up(reply["epoch"], int(reply.get("offset", 0)), recovered=bool(reply.get("recovered")))
            for publication in reply.get("publications", ()):
                self._given(int(publication["offset"]), publication["data"])


class SdkWatcher(Watcher, ClientEventHandler, SubscriptionEventHandler):  # type: ignore[misc]  # the SDK has no types
    """The unmodified centrifuge-python with its own back-off; only its callbacks count."""

    def __init__(self, ports: Sequence[int], token: str, channel: str) -> None:
        super().__init__(ports, token, channel)
        headers = {"Authorization": f"Bearer {token}"}
        self._sdk = _Balanced(ports, events=self, headers=headers, proxy=None)

    async def run(self) -> None:
        """See `Watcher`."""
        subscription = self._sdk.new_subscription(
            self._channel, events=self, positioned=True, recoverable=True
        )
        try:
            await self._sdk.connect()
            await subscription.subscribe()
            await asyncio.Event().wait()
        finally:
            await self._sdk.disconnect()

    def cut(self) -> None:
        """See `Watcher`."""
        if self._sdk._conn is not None:
            self._sdk._conn.transport.abort()

    async def on_connecting(self, _: object) -> None:
        """Called by the SDK."""
        self._down()

    async def on_subscribing(self, _: object) -> None:
        """Called by the SDK."""
        self._down()

    async def on_subscribed(self, ctx: object) -> None:
        """Called by the SDK; for a server-side subscription too."""
        if isinstance(ctx, SubscribedContext):
            position = ctx.stream_position
            self._up(position.epoch, position.offset, recovered=ctx.recovered)

    async def on_publication(self, ctx: object) -> None:
        """Called by the SDK; for a server-side subscription too."""
        if isinstance(ctx, PublicationContext):
            self._given(ctx.pub.offset, ctx.pub.data)


class _Balanced(Sdk):  # type: ignore[misc]  # the SDK has no types
    """The SDK with an address that leads to another gateway each time, as a load balancer's does."""

    def __init__(self, ports: Sequence[int], **options: Any) -> None:
        self._ports = ports
        super().__init__("", **options)

    @property
    def _address(self) -> str:
        return f"ws://127.0.0.1:{random.choice(self._ports)}/ws"

    @_address.setter
    def _address(self, _: str) -> None:
        """Chosen again for each connection."""
