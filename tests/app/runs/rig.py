"""One or more run engines over one broker and store, and the operations that tests need."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from narthex.app.chat import Chat
from narthex.app.notices import Notices
from narthex.app.runs.engine import RunEngine
from narthex.app.runs.services import RunLimits
from narthex.app.runs.worker_presence import WorkerPresence
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.digest import digest_of
from narthex.domain.event_order import EventOrder
from narthex.domain.identity import Identity
from narthex.domain.plans import PLANS
from narthex.ports.agents import Agent, Event, RunInput
from narthex.ports.broker import Broker
from narthex.ports.runs import Run
from narthex.ports.store import Store
from narthex.ports.threads import Message, Thread
from narthex.ports.tracing import NO_TRACING, Tracer
from tests.app.runs.fakes import FakeBroker, FakeMeter, FakeStore
from tests.timing import within

ALICE = Identity(subject="alice", tenant="acme", name="Alice", token_id="secret-jti", issuer="https://issuer")
BOB = Identity(subject="bob", tenant="acme")
QUICK = RunLimits(
    run_deadline_s=5,
    join_window_s=0.01,
    silence_s=30,
    lease_s=0.5,
    renew_s=0.1,
    poll_s=0.05,
    look_s=0.05,
    stop_grace_s=0.3,
    broker_patience_s=2,
    show_errors=True,
)
"""Real time, scaled down: nothing below waits for a clock, only for events."""


def agent(
    function: Callable[[RunInput], AsyncIterator[Event | str]],
    name: str = "bot",
    *,
    restartable: bool = False,
) -> Agent:
    """An agent around a function."""
    return Agent(name=name, function=function, restartable=restartable)


class Rig:
    """See the module."""

    def __init__(self, *, broker: Broker | None = None, store: Store | None = None) -> None:
        self.fake_broker = FakeBroker()
        self.fake_store = FakeStore()
        self.broker: Broker = broker or self.fake_broker
        self.store: Store = self.fake_store if store is None else store
        self.meter = FakeMeter()
        self.notices: list[tuple[str, Mapping[str, object]]] = []
        self.engines: list[RunEngine] = []
        self.queued: list[bool] = []

    async def tell(
        self, tenant: str, thread_id: str, name: str, value: Mapping[str, object], *, key: str = ""
    ) -> None:
        """Replaces `Chat.notify_members`."""
        self.notices.append((name, value))

    async def node(
        self,
        *agents: Agent,
        name: str = "n1",
        limits: RunLimits = QUICK,
        claims: bool = True,
        serves_users: Callable[[], bool] = lambda: True,
        now: Callable[[], float] = time.time,
        tracer: Tracer = NO_TRACING,
        presence: WorkerPresence | None = None,
    ) -> RunEngine:
        """Start another node, whose wall clock is `now`."""
        engine = RunEngine(
            broker=self.broker,
            store=self.store,
            agents={one.name: one for one in agents},
            node=name,
            now=now,
            meter=self.meter,
            notify_members=self.tell,
            say=Chat(self.store, self.broker, Notices(self.broker), lambda _: PLANS["free"], now).say,
            concurrent_runs=lambda _: 3,
            limits=limits,
            claims=claims,
            serves_users=serves_users,
            tracer=tracer,
            presence=presence,
        )
        await engine.open()
        self.engines.append(engine)
        return engine

    async def close(self) -> None:
        """Stop every node."""
        for engine in self.engines:
            await engine.close()

    async def thread(self, *members: Identity) -> str:
        """A new thread."""
        thread_id = uuid.uuid4().hex
        now = time.time()
        who = members or (ALICE,)
        await self.store.threads.create(
            Thread(
                thread_id=thread_id,
                tenant=who[0].tenant,
                title="t",
                created_by=who[0].subject,
                created_at=now,
                updated_at=now,
            )
        )
        return thread_id

    async def say(
        self, engine: RunEngine, thread_id: str, text: str = "hi", *, client: str = "", who: Identity = ALICE
    ) -> Run:
        """As chat does: store the message, then start a run."""
        message_id = uuid.uuid4().hex
        message = Message(
            message_id=message_id,
            thread_id=thread_id,
            role="user",
            author=who.subject,
            content=text,
            created_at=time.time(),
        )
        key = channel_key(who.tenant, thread_channel(thread_id))
        after = (await self.broker.history(key, limit=0)).top
        await self.store.threads.post(who.tenant, message, after)
        run, queued = await engine.start(
            who, thread_id, message_id, text, client or uuid.uuid4().hex, after=after
        )
        self.queued.append(queued)
        return run

    async def events(self, run: Run) -> list[dict[str, Any]]:
        """The run's events in the log."""
        key = channel_key(run.tenant, thread_channel(run.thread_id))
        page = await self.broker.history(key)
        found = [json.loads(entry.data) for entry in page.publications]
        return [event for event in found if event.get("runId") == run.run_id]

    async def until(
        self, run: Run, condition: Callable[[list[dict[str, Any]]], bool]
    ) -> list[dict[str, Any]]:
        """Wait until the run's events fulfil a condition."""
        async with asyncio.timeout(within(20)):
            while True:
                events = await self.events(run)
                if condition(events):
                    return events
                await asyncio.sleep(0.005)

    async def comes(self, condition: Callable[[], bool]) -> None:
        """Wait for a condition inside an engine, which has no event to wait for."""
        async with asyncio.timeout(within(10)):
            while not condition():  # noqa: ASYNC110 - a fact of several objects, polled by a test only
                await asyncio.sleep(0.005)

    async def over(self, run: Run) -> Run:
        """Wait until the store reports that the run is over."""
        async with asyncio.timeout(within(20)):
            while True:
                row = await self.store.runs.get(run.tenant, run.run_id)
                if row is not None and row.state not in {"queued", "running"}:
                    return row
                await asyncio.sleep(0.005)

    async def ended(self, run: Run) -> tuple[Run, list[dict[str, Any]]]:
        """Wait until the run is over; check the invariants of every run."""
        row = await self.over(run)
        events = await self.events(run)
        check(events)
        assert (row.count, row.digest) == (events[-1]["count"], events[-1]["digest"])
        return row, events


def check(events: list[dict[str, Any]]) -> None:
    """The invariants of every finished run's events."""
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    assert events[0]["type"] == "RUN_STARTED"
    assert [e["type"] for e in events if e["type"] in {"RUN_FINISHED", "RUN_ERROR"}] == [events[-1]["type"]]
    assert events[-1]["count"] == events[-1]["seq"]
    assert events[-1]["digest"] == digest_of(events)
    order = EventOrder()
    for event in events:
        assert order.check(event) is None, event
        if event.get("name") == "narthex.restarted":
            order.forget()


def text_of(events: list[dict[str, Any]]) -> str:
    """The answer text that a client assembles."""
    text = ""
    for event in events:
        if event.get("name") == "narthex.restarted":
            text = ""
        if event["type"] == "TEXT_MESSAGE_CONTENT":
            text += event["delta"]
    return text


def kinds(events: list[dict[str, Any]]) -> list[str]:
    """The types of the events."""
    return [event["type"] for event in events]
