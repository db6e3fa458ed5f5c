"""The unmodified centrifuge-python SDK, driven by JSON lines: see driving.py for the lines in both directions.

usage: python driver.py json|protobuf
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

from centrifuge import (
    CentrifugeError,
    Client,
    ClientEventHandler,
    DeltaType,
    ReplyError,
    StreamPosition,
    SubscriptionEventHandler,
)

FORMAT = sys.argv[1]
TOKENS: asyncio.Queue[str] = asyncio.Queue()


def say(**line: Any) -> None:
    """Print one line."""
    print(json.dumps(line), flush=True)


def decoded(data: Any) -> Any:
    """A payload as a value, in either format."""
    return json.loads(data) if isinstance(data, bytes) and data else data


def encoded(data: Any) -> Any:
    """A payload as the SDK takes it."""
    return json.dumps(data).encode() if FORMAT == "protobuf" else data


class Events(ClientEventHandler):  # type: ignore[misc]  # the SDK has no types
    """Prints the client's events."""

    async def on_connecting(self, ctx: Any) -> None:
        say(event="connecting", code=ctx.code, reason=ctx.reason)

    async def on_connected(self, ctx: Any) -> None:
        say(event="connected", client=ctx.client)

    async def on_disconnected(self, ctx: Any) -> None:
        say(event="disconnected", code=ctx.code, reason=ctx.reason)

    async def on_subscribed(self, ctx: Any) -> None:
        say(event="server_subscribed", channel=ctx.channel, recovered=ctx.recovered)

    async def on_unsubscribed(self, ctx: Any) -> None:
        say(event="server_unsubscribed", channel=ctx.channel)

    async def on_publication(self, ctx: Any) -> None:
        say(
            event="server_publication", channel=ctx.channel, offset=ctx.pub.offset, data=decoded(ctx.pub.data)
        )


class SubscriptionEvents(SubscriptionEventHandler):  # type: ignore[misc]  # the SDK has no types
    """Prints the events of one subscription."""

    def __init__(self, channel: str) -> None:
        self.channel = channel

    async def on_subscribed(self, ctx: Any) -> None:
        position = ctx.stream_position
        say(
            event="subscribed",
            channel=self.channel,
            recovered=ctx.recovered,
            was_recovering=ctx.was_recovering,
            position={"offset": position.offset, "epoch": position.epoch} if position else {},
        )

    async def on_unsubscribed(self, ctx: Any) -> None:
        say(event="unsubscribed", channel=self.channel, code=ctx.code, reason=ctx.reason)

    async def on_error(self, ctx: Any) -> None:
        say(event="subscription_error", channel=self.channel, code=ctx.code)

    async def on_publication(self, ctx: Any) -> None:
        user = ctx.pub.info.user if ctx.pub.info else None
        say(
            event="publication",
            channel=self.channel,
            offset=ctx.pub.offset,
            data=decoded(ctx.pub.data),
            user=user,
        )

    async def on_join(self, ctx: Any) -> None:
        say(event="join", channel=self.channel, user=ctx.info.user)

    async def on_leave(self, ctx: Any) -> None:
        say(event="leave", channel=self.channel, user=ctx.info.user)


async def next_token(*_: Any) -> str:
    """Ask for a token."""
    say(event="token_wanted")
    return await TOKENS.get()


class Driver:
    """Executes lines on one client."""

    client: Client

    async def connect(self, line: dict[str, Any]) -> Any:
        more: dict[str, Any] = {"get_token": next_token} if line.get("get_token") else {}
        self.client = Client(
            line["url"],
            events=Events(),
            token=line.get("token", ""),
            headers=line.get("headers"),
            use_protobuf=FORMAT == "protobuf",
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.3,
            proxy=None,
            **more,
        )
        await self.client.connect()
        return {}

    async def subscribe(self, line: dict[str, Any]) -> Any:
        found = self.client.get_subscription(line["channel"])
        if found is None:
            more: dict[str, Any] = {"delta": DeltaType(line["delta"])} if line.get("delta") else {}
            if line.get("since"):
                more["since"] = StreamPosition(**line["since"])
            found = self.client.new_subscription(
                line["channel"],
                events=SubscriptionEvents(line["channel"]),
                min_resubscribe_delay=0.05,
                max_resubscribe_delay=0.3,
                **more,
            )
        await found.subscribe()
        return {}

    async def unsubscribe(self, line: dict[str, Any]) -> Any:
        await self.client.get_subscription(line["channel"]).unsubscribe()
        return {}

    async def rpc(self, line: dict[str, Any]) -> Any:
        return decoded((await self.client.rpc(line["method"], encoded(line["data"]))).data)

    async def publish(self, line: dict[str, Any]) -> Any:
        await self.client.publish(line["channel"], encoded(line["data"]))
        return {}

    async def presence(self, line: dict[str, Any]) -> Any:
        found = await self.client.presence(line["channel"])
        return {client: info.user for client, info in found.clients.items()}

    async def presence_stats(self, line: dict[str, Any]) -> Any:
        found = await self.client.presence_stats(line["channel"])
        return {"clients": found.num_clients, "users": found.num_users}

    async def history(self, line: dict[str, Any]) -> Any:
        found = await self.client.history(line["channel"], limit=line["limit"])
        offsets = [publication.offset for publication in found.publications]
        return {"offsets": offsets, "offset": found.offset, "epoch": found.epoch}

    async def disconnect(self, line: dict[str, Any]) -> Any:
        await self.client.disconnect()
        return {}

    async def run(self, line: dict[str, Any]) -> None:
        """Execute one line and print its outcome."""
        try:
            say(n=line["n"], ok=await getattr(self, line["op"])(line))
        except ReplyError as fault:
            say(
                n=line["n"],
                error={"code": fault.code, "message": fault.message, "temporary": fault.temporary},
            )
        except CentrifugeError as fault:
            say(n=line["n"], error={"code": 0, "message": repr(fault), "temporary": False})


async def main() -> None:
    """Read lines until the input ends."""
    driver = Driver()
    say(event="ready")
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=2**22)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    running: set[asyncio.Task[None]] = set()
    async for raw in reader:
        line = json.loads(raw)
        if line["op"] == "token":
            TOKENS.put_nowait(line["token"])
            continue
        task = asyncio.ensure_future(driver.run(line))
        running.add(task)
        task.add_done_callback(running.discard)


asyncio.run(main())
