"""Follows one thread's channel: passes each run its events, and reads missing ones from the channel's history.

Not here: order and verification (`assembler`), the connection (`gateway`). Rules: after a late subscription, or a
reconnect that could not recover, the feed reads the history, newest page first, until it has the run's first missing
event; it reads once at a time, in a task that it owns and ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

from centrifuge import (
    CentrifugeError,
    Client,
    PublicationContext,
    StreamPosition,
    SubscribedContext,
    SubscriptionErrorContext,
    SubscriptionEventHandler,
    SubscriptionState,
    UnsubscribedContext,
)

from narthex.client.run import Run, RunIncomplete
from narthex.errors import ClientError

PAGE: Final = 500  # publications per history request; a page of deltas is some 100 KB
MAX_PAGES: Final = 400  # 200,000 events, more than a run may have, so that every reading ends
MAX_UNCLAIMED: Final = 10_000  # events kept until a run's id is known; beyond that the history is read
TRIES: Final = 5  # to read the history while reconnects interrupt it


class ThreadFeed(SubscriptionEventHandler):  # type: ignore[misc]  # the SDK ships no types
    """The subscription to `thread:<id>` and the runs that are followed in it."""

    def __init__(
        self, client: Client, thread_id: str, timeout_s: float, has_ended: Callable[[str], Awaitable[bool]]
    ) -> None:
        self.channel = f"thread:{thread_id}"
        self._client = client
        self._timeout_s = timeout_s
        self._has_ended = has_ended
        self._subscription = client.new_subscription(
            self.channel, events=self, positioned=True, recoverable=True
        )
        self._runs: dict[str, Run] = {}
        self._over: set[str] = set()
        self._claims = 0
        self._unclaimed: list[dict[str, Any]] = []
        self._overflowed = False
        self._reading: asyncio.Task[None] | None = None
        self._again = False

    @property
    def idle(self) -> bool:
        """Whether the feed follows no run and is not about to follow one."""
        return not self._claims and all(run.ended for run in self._runs.values())

    async def ready(self) -> None:
        """Subscribe, or wait for the subscription under way.

        Raises:
            ClientError: the gateway does not let this user read the thread.
            TimeoutError: the gateway did not answer.
        """
        if self._subscription.state == SubscriptionState.UNSUBSCRIBED:
            await self._subscription.subscribe()
        try:
            await self._subscription.ready(timeout=self._timeout_s)
        except CentrifugeError as fault:
            if type(fault).__name__ == "OperationTimeoutError":
                raise TimeoutError(f"The subscription to {self.channel} got no answer.") from fault
            raise _refusal_of(self.channel, str(fault)) from fault

    @asynccontextmanager
    async def claiming(self) -> AsyncIterator[None]:
        """Keep events of unknown runs within this context: a run's first ones may come before the reply with its id."""
        self._claims += 1
        try:
            yield
        finally:
            self._claims -= 1
            if not self._claims:
                self._unclaimed.clear()
                self._overflowed = False

    def follow(self, run: Run, *, from_history: bool, over: bool = False) -> Run:
        """Pass `run` its events from now on.

        Args:
            run: a new run.
            from_history: also pass the earlier events.
            over: the gateway says that it has ended: events that the history does not hold will not come any more.

        Returns:
            `run`, or the run that the feed follows already under this id.
        """
        there = self._runs.get(run.run_id)
        if there is not None and not (there.ended and there.terminal is None):
            return there
        for run_id in [run_id for run_id, other in self._runs.items() if other.ended]:
            del self._runs[run_id]  # they keep their events; only the routing ends
            self._over.discard(run_id)
        self._runs[run.run_id] = run
        if over:
            self._over.add(run.run_id)
        for event in self._unclaimed:
            if event.get("runId") == run.run_id:
                run.take(event)
        if from_history or self._overflowed or run.has_gap:
            self._read_history()
        return run

    async def close(self, error: Exception) -> None:
        """Unsubscribe; iterations that are still running raise `error`."""
        self.fail(error)
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
        await self._subscription.unsubscribe()
        self._client.remove_subscription(self._subscription)

    def fail(self, error: Exception) -> None:
        """End every run's iteration with `error`."""
        for run in self._runs.values():
            run.fail(error)

    # -- what the SDK calls -----------------------------------------------------------------------------------

    async def on_publication(self, ctx: PublicationContext) -> None:
        """Handle an event, in the channel's order."""
        event = ctx.pub.data
        if not isinstance(event, dict) or not isinstance(event.get("runId"), str):
            return
        run = self._runs.get(event["runId"])
        if run is not None:
            self._give(run, event)
        elif self._claims and len(self._unclaimed) < MAX_UNCLAIMED:
            self._unclaimed.append(event)
        elif self._claims:
            self._overflowed = True

    async def on_subscribed(self, ctx: SubscribedContext) -> None:
        """After a reconnect that could not recover, read the missed events."""
        if ctx.was_recovering and not ctx.recovered:
            self._read_history()

    async def on_unsubscribed(self, ctx: UnsubscribedContext) -> None:
        """The gateway ended the subscription."""
        if ctx.code >= 100:
            self.fail(_refusal_of(self.channel, ctx.reason))

    async def on_error(self, ctx: SubscriptionErrorContext) -> None:
        """Ignore it: the SDK retries by itself, and final errors come to `on_unsubscribed`."""

    # -- the history ------------------------------------------------------------------------------------------

    def _give(self, run: Run, event: Mapping[str, Any]) -> None:
        pushed = run.take(event)
        if pushed.kind == "early" or (pushed.kind == "conflict" and "seq" in event):
            self._read_history()  # the log holds unmerged events, which fit where merged ones overlap

    def _read_history(self) -> None:
        self._again = True
        if self._reading is None or self._reading.done():
            self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        """Read until no run lacks an event. A run whose events are lost gets an error, never silence."""
        try:
            while self._again:
                self._again = False
                await self._read_once()
        except (CentrifugeError, TimeoutError) as fault:
            self.fail(ClientError("history_failed", f"The channel's history cannot be read: {fault}."))

    async def _read_once(self) -> None:
        wanted = {run_id: run for run_id, run in self._runs.items() if not run.ended}
        # Asked before the history is read: it then holds all events of a run that is over by now, or they are lost.
        for asked in wanted.keys() - self._over:
            if await self._has_ended(asked):
                self._over.add(asked)
        start = {run_id: run.last for run_id, run in wanted.items()}
        lacking = set(wanted)
        found: dict[str, list[dict[str, Any]]] = {run_id: [] for run_id in wanted}
        since: StreamPosition | None = None
        for _ in range(MAX_PAGES):
            page = await self._page(since)
            for publication in page.publications:
                event = publication.data
                run_id = event.get("runId") if isinstance(event, dict) else None
                if run_id in lacking and isinstance(event.get("seq"), int):
                    found[run_id].append(event)
                    if event.get("seq_from", event["seq"]) <= start[run_id] + 1:
                        lacking.discard(run_id)
            if not lacking or not page.publications:  # a gateway may return shorter pages than requested
                break
            since = StreamPosition(page.publications[-1].offset, page.epoch)
        for run_id, events in found.items():
            for event in reversed(events):
                wanted[run_id].take(event)
        for run_id, run in wanted.items():
            # A queued run has no events yet and lacks none. A run that is over lacks at least its end.
            incomplete = run_id in lacking and (found[run_id] or run.has_gap)
            if (incomplete or run_id in self._over) and not run.ended:
                run.fail(RunIncomplete(run_id, run.last + 1))

    async def _page(self, since: StreamPosition | None) -> Any:
        for attempt in range(TRIES):
            try:
                return await self._subscription.history(
                    limit=PAGE, since=since, reverse=True, timeout=self._timeout_s
                )
            except CentrifugeError:
                if attempt == TRIES - 1:
                    raise
        raise AssertionError("unreachable")


def _refusal_of(channel: str, reason: str) -> ClientError:
    return ClientError(
        "permission_denied",
        f"The subscription to {channel} was refused: {reason}.",
        "Ask a member of the thread to add you.",
        number=403,
    )
