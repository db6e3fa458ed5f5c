"""The unmodified centrifuge-python SDK as a test user: connects, follows threads, keeps every event."""

from __future__ import annotations

import asyncio
import contextlib
import json
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Any

from centrifuge import Client, ClientEventHandler, SubscriptionEventHandler
from centrifuge.contexts import (
    ConnectedContext,
    DisconnectedContext,
    PublicationContext,
    ServerPublicationContext,
    SubscribedContext,
)

from narthex.domain.digest import digest_of

WAIT_S = 30.0


class Person(ClientEventHandler, SubscriptionEventHandler):  # type: ignore[misc]  # the SDK has no types
    """One device of one user.

    Attributes:
        events: AG-UI events of each thread, in order of arrival, with their offsets.
        notices: events of the user's own channel.
        subscribed: contexts of successful (re)subscriptions.
    """

    def __init__(
        self, url: str, token: str = "", *, headers: dict[str, str] | None = None, in_band: bool = False
    ) -> None:
        sent = dict(headers or {})
        if token and not in_band:
            sent["Authorization"] = f"Bearer {token}"
        self.client = Client(
            url,
            events=self,
            token=token if in_band else "",
            headers=sent,
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.3,
            proxy=None,
        )
        self.events: dict[str, list[tuple[int, dict[str, Any]]]] = {}
        self.notices: list[dict[str, Any]] = []
        self.subscribed: list[SubscribedContext] = []
        self.connected = 0
        self.disconnected: DisconnectedContext | None = None
        self._changed = asyncio.Event()

    # -- called by the SDK -----------------------------------------------------------------------------------

    async def on_connected(self, ctx: ConnectedContext) -> None:
        self.connected += 1
        self._changed.set()

    async def on_disconnected(self, ctx: DisconnectedContext) -> None:
        self.disconnected = ctx
        self._changed.set()

    async def on_subscribed(self, ctx: Any) -> None:
        if isinstance(ctx, SubscribedContext):
            self.subscribed.append(ctx)
        self._changed.set()

    async def on_publication(self, ctx: Any) -> None:
        if isinstance(ctx, ServerPublicationContext):
            self.notices.append(ctx.pub.data)
        else:
            assert isinstance(ctx, PublicationContext)
            event = ctx.pub.data
            self.events.setdefault(event["threadId"], []).append((ctx.pub.offset, event))
        self._changed.set()

    # -- called by tests -------------------------------------------------------------------------------------

    async def until(self, holds: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until an incoming message makes `holds` true."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"did not see {what} within {timeout_s} s; events: {self._tail()}") from None

    def _tail(self) -> str:
        return json.dumps(
            {thread: [event for _, event in events[-5:]] for thread, events in self.events.items()}
        )[-2000:]

    async def noticed(self, name: str) -> None:
        """Wait for a notice with this name on the user's own channel."""
        await self.until(lambda: any(notice["name"] == name for notice in self.notices), name)

    async def rpc(self, method: str, **params: Any) -> Any:
        """The result of an RPC; the SDK raises ReplyError for an error."""
        return (await self.client.rpc(method, params)).data

    async def follow(self, thread_id: str) -> None:
        """Subscribe to a thread."""
        subscription = self.client.new_subscription(f"thread:{thread_id}", events=self)
        await subscription.subscribe()
        await subscription.ready(WAIT_S)

    async def start(self, text: str, thread_id: str, **more: Any) -> Any:
        """`run.start` with a new client message id."""
        return await self.rpc(
            "run.start",
            text=text,
            thread_id=thread_id,
            client_message_id=more.pop("client_message_id", uuid.uuid4().hex),
            **more,
        )

    def run_events(self, thread_id: str, run_id: str) -> list[dict[str, Any]]:
        """Events of one run, in order of arrival."""
        return [event for _, event in self.events.get(thread_id, []) if event.get("runId") == run_id]

    def terminal(self, thread_id: str, run_id: str) -> dict[str, Any] | None:
        """The run's terminal event, if it has arrived."""
        for event in self.run_events(thread_id, run_id):
            if event["type"] in ("RUN_FINISHED", "RUN_ERROR"):
                return event
        return None

    async def finished(self, thread_id: str, run_id: str, timeout_s: float = WAIT_S) -> dict[str, Any]:
        """Wait for the terminal event; return the run after verifying that it is complete."""
        await self.until(
            lambda: self.terminal(thread_id, run_id) is not None, f"the end of {run_id}", timeout_s
        )
        events = self.run_events(thread_id, run_id)
        prove(events)
        offsets = [offset for offset, _ in self.events[thread_id]]
        assert offsets == sorted(set(offsets)), "an offset came twice or out of order"
        terminal = self.terminal(thread_id, run_id)
        assert terminal is not None
        return terminal


def prove(events: list[dict[str, Any]]) -> None:
    """Check that every `seq` arrived once and in order, and that `count` and `digest` match."""
    expected = 1
    for event in events:
        assert event.get("seq_from", event["seq"]) == expected, f"expected seq {expected}: {event}"
        expected = event["seq"] + 1
    terminal = events[-1]
    assert terminal["count"] == terminal["seq"] == expected - 1
    assert terminal["digest"] == digest_of(events)


def text_of(events: list[dict[str, Any]]) -> str:
    """The answer's text."""
    return "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")


@contextlib.asynccontextmanager
async def person(url: str, token: str = "", **options: Any) -> AsyncIterator[Person]:
    """A connected user, disconnected afterwards."""
    somebody = Person(url, token, **options)
    await somebody.client.connect()
    try:
        await somebody.client.ready(WAIT_S)
        yield somebody
    finally:
        await somebody.client.disconnect()
