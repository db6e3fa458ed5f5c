"""A node that drains begins no agent: what it has claimed goes back to the queue, and other nodes begin it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from typing import Any

import msgspec
import pytest

from narthex.app.runs import local_runs
from narthex.app.runs.engine import RunEngine
from narthex.errors import DependencyError
from narthex.ports.agents import Agent, Event, RunInput
from narthex.ports.broker import Control
from narthex.ports.runs import Run
from tests.app.runs.rig import ALICE, QUICK, Rig, agent, kinds
from tests.timing import within

GRACE_S = within(20)
SELDOM = msgspec.structs.replace(QUICK, poll_s=3_600, look_s=3_600)
"""Only a control message makes it look for runs."""


class Gate:
    """A call of a port that waits until the test lets it go on."""

    def __init__(self, owner: object, name: str, patch: pytest.MonkeyPatch, *, before: bool = True) -> None:
        self.entered, self.opened = asyncio.Event(), asyncio.Event()
        real = getattr(owner, name)

        async def call(*args: Any, **options: Any) -> Any:
            found = None if before else await real(*args, **options)
            if before or found:  # a claim that found nothing is not the one
                self.entered.set()
                await self.opened.wait()
            return await real(*args, **options) if before else found

        patch.setattr(owner, name, call)

    async def reached(self) -> None:
        """Wait for the call."""
        async with asyncio.timeout(within(10)):
            await self.entered.wait()


async def says_where(run: RunInput) -> AsyncIterator[Event | str]:
    """Says one word."""
    yield "hello"


async def draining(engine: RunEngine) -> asyncio.Task[None]:
    """Begin a drain."""
    task = asyncio.get_running_loop().create_task(engine.drain(GRACE_S))
    await asyncio.sleep(0)
    return task


async def drained_before_it_began(
    rig: Rig,
    engine: RunEngine,
    where: tuple[object, str],
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[Run], Awaitable[None]] | None = None,
) -> Run:
    """A run that the node has claimed, and that is held by a call of a port until the drain has begun."""
    thread_id = await rig.thread()
    claimed = Gate(rig.store.runs, "claim", monkeypatch, before=False)
    run = await rig.say(engine, thread_id)  # reads the log too, so the gate comes after it
    await claimed.reached()
    with pytest.MonkeyPatch.context() as patch:
        gate = Gate(*where, patch)
        claimed.opened.set()
        await gate.reached()
        drain = await draining(engine)
        if meanwhile is not None:
            await meanwhile(run)
        gate.opened.set()
        async with asyncio.timeout(within(10)):
            await drain
    return run


async def begun_elsewhere(rig: Rig, run: Run) -> None:
    """Another node runs it as if it had not been claimed before."""
    await rig.node(agent(says_where), name="n2")
    row, _ = await rig.ended(run)
    assert (row.state, row.attempt, row.text) == ("finished", 1, "hello")


@pytest.mark.parametrize(
    ("port", "name"), [("broker", "history"), ("runs", "given"), ("runs", "started"), ("threads", "messages")]
)
async def test_a_claimed_run_that_has_not_begun_is_given_back(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, port: str, name: str
) -> None:
    """Wherever it waits for an engine; the drain does not wait for its grace."""
    owner = {"broker": rig.broker, "runs": rig.store.runs, "threads": rig.store.threads}[port]
    engine = await rig.node(agent(says_where), limits=SELDOM)
    run = await drained_before_it_began(rig, engine, (owner, name), monkeypatch)
    row = await rig.store.runs.get(run.tenant, run.run_id)
    assert row is not None
    assert (row.state, row.owner, row.attempt, row.started_at) == ("queued", "", 0, 0.0)
    if rig.broker is rig.fake_broker:
        assert rig.fake_broker.controls[-1] == Control("runs_available", {})
    assert rig.notices == []  # no device shows that it began
    await begun_elsewhere(rig, run)
    assert [name for name, _ in rig.notices if name == "narthex.run_began"] == ["narthex.run_began"]


@pytest.mark.parametrize("name", ["given", "started"])
async def test_a_run_that_was_cancelled_before_it_began_ends_with_the_drain(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It waits for no claim of another node: there is none."""
    engine = await rig.node(agent(says_where), limits=SELDOM)

    async def cancel(run: Run) -> None:
        assert (await engine.requests.cancel(ALICE, run.run_id))["state"] == "running"

    run = await drained_before_it_began(rig, engine, (rig.store.runs, name), monkeypatch, cancel)
    row, events = await rig.ended(run)
    assert (row.state, row.cancel_requested_by, row.unclosed) == ("cancelled", ALICE.subject, False)
    assert kinds(events) == ["RUN_STARTED", "RUN_FINISHED"]
    assert events[-1]["outcome"]["type"] == "cancelled"


async def test_a_claim_under_way_is_not_lost(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store has given the run to this node, whose answer comes after the drain began."""
    engine = await rig.node(agent(says_where), limits=SELDOM)
    gate = Gate(rig.store.runs, "claim", monkeypatch, before=False)
    run = await rig.say(engine, await rig.thread())
    await gate.reached()
    drain = await draining(engine)
    gate.opened.set()
    async with asyncio.timeout(within(10)):
        await drain
    await begun_elsewhere(rig, run)


async def test_a_run_that_has_begun_has_the_whole_grace(rig: Rig) -> None:
    """It ends as it would have without the drain."""
    go_on = asyncio.Event()

    async def waits(run: RunInput) -> AsyncIterator[Event | str]:
        yield "begun"
        await go_on.wait()
        yield " and done"

    engine = await rig.node(agent(waits))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: len(events) > 2)
    drain = await draining(engine)
    behind = await rig.say(engine, run.thread_id)
    go_on.set()
    await drain
    row, _ = await rig.ended(run)
    assert (row.state, row.text) == ("finished", "begun and done")
    kept = await rig.store.runs.get(behind.tenant, behind.run_id)
    assert kept is not None
    assert kept.state == "queued"


async def test_a_run_that_resumes_a_waiting_agent_begins_all_the_same(fake_rig: Rig) -> None:
    """Its coroutine is in the memory of the draining node: no other node could go on with it."""
    rig = fake_rig

    async def asks(run: RunInput) -> AsyncIterator[Event | str]:
        answer = await run.ask({"type": "boolean"}, "go on?")
        yield f"answered {answer}"

    engine = await rig.node(agent(asks))
    run = await rig.say(engine, await rig.thread())
    row, events = await rig.ended(run)
    assert row.state == "interrupted"
    asked = events[-1]["outcome"]["interrupts"][0]["id"]
    with pytest.MonkeyPatch.context() as patch:
        gate = Gate(rig.store.runs, "given", patch)
        resumed = (await engine.requests.resume(ALICE, run.run_id, asked, True))["run_id"]
        await gate.reached()
        drain = await draining(engine)
        gate.opened.set()
        await drain
    ended = rig.fake_store.fake_runs.rows[resumed]
    assert (ended.state, ended.text) == ("finished", "answered True")


class Holding:
    """An agent that works in some threads until it is let go, and says one word in the others."""

    def __init__(self) -> None:
        self.held: dict[str, asyncio.Event] = {}

    async def work(self, run: RunInput) -> AsyncIterator[Event | str]:
        """See the class."""
        yield "hello"
        if (gate := self.held.get(run.thread_id)) is not None:
            await gate.wait()

    async def begin(self, rig: Rig, engine: RunEngine) -> Run:
        """A run that is held."""
        thread_id = await rig.thread()
        self.held[thread_id] = asyncio.Event()
        run = await rig.say(engine, thread_id)
        await rig.until(run, lambda events: len(events) > 2)
        return run

    def let_go(self, run: Run) -> None:
        """Let a run end, and all later ones of its thread."""
        self.held.pop(run.thread_id).set()


async def test_other_nodes_claim_what_a_draining_node_has_reserved(rig: Rig) -> None:
    """At once, not when its last run has ended."""
    holding = Holding()
    apart = await rig.node(agent(holding.work), limits=SELDOM, serves_users=lambda: False)
    last = await holding.begin(rig, apart)
    first = await holding.begin(rig, apart)
    behind = await rig.say(apart, first.thread_id)
    assert behind.owner == apart._services.owner
    await rig.node(agent(says_where), name="n2")
    drain = await draining(apart)
    holding.let_go(first)
    row, _ = await rig.ended(behind)
    assert (row.state, row.attempt) == ("finished", 1)
    assert not drain.done()
    holding.let_go(last)
    await drain


@pytest.mark.parametrize("fails", [False, True], ids=["well", "store_away_once"])
async def test_a_message_that_arrives_as_the_drain_begins_is_not_reserved(rig: Rig, fails: bool) -> None:
    """Its run was to be this node's when the drain began; other nodes may claim it as soon as it is stored."""
    holding = Holding()
    limits = msgspec.structs.replace(SELDOM, renew_s=QUICK.renew_s)
    apart = await rig.node(agent(holding.work), limits=limits, serves_users=lambda: False)
    last = await holding.begin(rig, apart)
    with pytest.MonkeyPatch.context() as patch:
        gate = Gate(rig.store.runs, "start", patch)
        late = asyncio.get_running_loop().create_task(rig.say(apart, await rig.thread()))
        await gate.reached()
        drain = await draining(apart)
        await rig.comes(lambda: not apart._loops._taking.locked())
        if fails:
            unreserve_fails_once(rig, patch)
        gate.opened.set()
        run = await late
        await begun_elsewhere(rig, run)
    assert not drain.done()
    holding.let_go(last)
    await drain


def unreserve_fails_once(rig: Rig, patch: pytest.MonkeyPatch) -> None:
    """The store is away for one call."""
    real = rig.store.runs.unreserve

    async def unreserve(owner: str, waiting: Collection[str]) -> int:
        patch.setattr(rig.store.runs, "unreserve", real)
        raise DependencyError("store", "It is away.")

    patch.setattr(rig.store.runs, "unreserve", unreserve)


async def asks(run: RunInput) -> AsyncIterator[Event | str]:
    """Asks one question."""
    answer = await run.ask({"type": "boolean"}, "go on?")
    yield f"answered {answer}"


async def asked(rig: Rig, engine: RunEngine) -> tuple[Run, str]:
    """A run that ended with a question, and the question."""
    run = await rig.say(engine, await rig.thread(), "@asks")
    row, events = await rig.ended(run)
    assert row.state == "interrupted"
    return row, events[-1]["outcome"]["interrupts"][0]["id"]


@pytest.mark.parametrize("before", [True, False])
async def test_an_agent_that_waits_goes_on_while_its_node_drains(rig: Rig, before: bool) -> None:
    """Whether the answer comes before the drain, and the node does not know it, or during it."""
    holding = Holding()
    engine = await rig.node(agent(holding.work), agent(asks, "asks"), limits=SELDOM)
    gateway = await rig.node(agent(holding.work), agent(asks, "asks"), name="n2", claims=False)
    last = await holding.begin(rig, engine)
    run, question = await asked(rig, engine)
    if not before:
        drain = await draining(engine)
    with pytest.MonkeyPatch.context() as patch:
        if before:
            patch.setattr(engine, "control", lambda _: None)
        resumed = (await gateway.requests.resume(ALICE, run.run_id, question, True))["run_id"]
        if rig.broker is rig.fake_broker and not before:  # it delivers no control messages
            engine.control(rig.fake_broker.controls[-1])
    if before:
        drain = await draining(engine)
    row = await rig.over(msgspec.structs.replace(run, run_id=resumed))
    assert (row.state, row.text) == ("finished", "answered True")
    assert not drain.done()
    holding.let_go(last)
    await drain


async def test_an_answer_after_the_drain_waits_for_no_lease(rig: Rig) -> None:
    """Its agent can go on anywhere, and the node that it waited on has left."""
    resumable = msgspec.structs.replace(agent(asks, "asks"), resumable=True)
    engine = await rig.node(agent(says_where), resumable)
    run, question = await asked(rig, engine)
    await engine.drain(GRACE_S)
    other = await rig.node(
        agent(says_where), resumable, name="n2", limits=msgspec.structs.replace(QUICK, lease_s=3_600)
    )
    resumed = (await other.requests.resume(ALICE, run.run_id, question, True))["run_id"]
    row = await rig.over(msgspec.structs.replace(run, run_id=resumed))
    assert row.state != "failed", row


async def drained_before_it_asks(rig: Rig, *, resumable: bool) -> tuple[Run, Agent]:
    """A run that asks while its node drains, and is over; and its agent."""
    go_on = asyncio.Event()

    async def waits(run: RunInput) -> AsyncIterator[Event | str]:
        yield "let me think"
        if not run.resume:
            await go_on.wait()
            yield f"answered {await run.ask({'type': 'boolean'}, 'go on?')}"

    asking = msgspec.structs.replace(agent(waits), resumable=resumable)
    engine = await rig.node(asking)
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: len(events) > 2)
    drain = await draining(engine)
    go_on.set()
    async with asyncio.timeout(within(10)):
        await drain
    return (await rig.ended(run))[0], asking


async def test_a_question_that_comes_during_the_drain_can_be_answered_where_its_agent_goes_on_anywhere(
    rig: Rig,
) -> None:
    """It waits on no node, and any node takes the answer at once."""
    run, asking = await drained_before_it_asks(rig, resumable=True)
    assert run.state == "interrupted"
    [question] = await rig.store.runs.open_interrupts(run.tenant, run.thread_id)
    assert question.node == ""
    limits = msgspec.structs.replace(QUICK, lease_s=3_600)
    other = await rig.node(asking, name="n2", limits=limits)
    resumed = (await other.requests.resume(ALICE, run.run_id, question.interrupt_id, True))["run_id"]
    assert (await rig.over(msgspec.structs.replace(run, run_id=resumed))).state == "finished"


async def test_a_question_that_comes_during_the_drain_ends_the_run_where_its_agent_cannot_wait(
    rig: Rig,
) -> None:
    """Its coroutine goes with the node: the members are told that, and not that the agent failed."""
    run, _ = await drained_before_it_asks(rig, resumable=False)
    assert (run.state, run.error) == ("failed", "draining")
    assert await rig.store.runs.open_interrupts(run.tenant, run.thread_id) == []


async def test_two_nodes_that_drain_at_once_leave_every_run_whole(rig: Rig) -> None:
    """What both had reserved and queued begins on the node that comes next, with the first attempt."""
    holding = Holding()
    nodes = [
        await rig.node(agent(holding.work), name=name, limits=SELDOM, serves_users=lambda: False)
        for name in ("n1", "n2")
    ]
    held = [await holding.begin(rig, node) for node in nodes]
    behind = [
        await rig.say(node, run.thread_id) for node, run in zip(nodes, held, strict=True) for _ in range(2)
    ]
    drains = [await draining(node) for node in nodes]
    for run in held:
        holding.let_go(run)
    await asyncio.gather(*drains)
    for run in behind:
        row = await rig.store.runs.get(run.tenant, run.run_id)
        assert row is not None
        assert (row.state, row.owner, row.attempt) == ("queued", "", 0)
    await rig.node(agent(says_where), name="n3")
    for run in behind:
        row, _ = await rig.ended(run)
        assert (row.state, row.attempt) == ("finished", 1)


async def test_a_node_that_dies_before_it_has_closed_a_cancelled_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The store knows the end of a run that was given back; any node writes it to the log."""
    engine = await rig.node(agent(says_where), limits=SELDOM)

    async def cancel(run: Run) -> None:
        await engine.requests.cancel(ALICE, run.run_id)

    async def dies(*_: object) -> None:
        raise asyncio.CancelledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(local_runs, "close_cancelled", dies)
        run = await drained_before_it_began(rig, engine, (rig.store.runs, "given"), monkeypatch, cancel)
    assert await rig.events(run) == []
    await rig.node(agent(says_where), name="n2")
    async with asyncio.timeout(within(20)):
        while not (await rig.over(run)).count:  # noqa: ASYNC110 - nothing tells when the end is in the log
            await asyncio.sleep(0.005)
    row, events = await rig.ended(run)
    assert kinds(events) == ["RUN_STARTED", "RUN_FINISHED"]
    assert (row.state, row.cancel_requested_by) == ("cancelled", ALICE.subject)


@pytest.mark.parametrize("call", ["unclosed", "queue", "leases"])
async def test_a_drain_waits_for_nothing_that_claims_no_run(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """An idle node ends at once, although the store does not answer the loop that looks."""
    gate = Gate(rig.store.runs, call, monkeypatch)
    engine = await rig.node(agent(says_where))
    await gate.reached()
    drain = await draining(engine)
    async with asyncio.timeout(within(10)):
        await drain
    assert not gate.opened.is_set()


async def test_a_store_that_is_away_leaves_the_run_to_the_lease(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It cannot be given back now; the release at the end frees it, and another node begins it."""
    rig = fake_rig
    engine = await rig.node(agent(says_where), limits=SELDOM)

    async def away(_: Run, now: float) -> Run | None:
        raise DependencyError("store", "It is away.")

    monkeypatch.setattr(rig.fake_store.fake_runs, "give_back", away)
    with pytest.MonkeyPatch.context() as patch:
        gate = Gate(rig.store.runs, "given", patch)
        run = await rig.say(engine, await rig.thread())
        await gate.reached()
        drain = await draining(engine)
        gate.opened.set()
        await drain
    row = rig.fake_store.fake_runs.rows[run.run_id]
    assert (row.state, row.owner) == ("running", "")
    await rig.node(agent(says_where), name="n2")
    done, _ = await rig.ended(run)
    assert (done.state, done.text) == ("finished", "hello")
