"""Owners that die, pause or return: every run ends once, with a digest that a client can check."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Collection

import msgspec
import pytest

from narthex.app.runs.engine import RunEngine
from narthex.domain import events as ev
from narthex.errors import DependencyError
from narthex.ports.agents import Event, RunInput
from narthex.ports.runs import Run
from tests.app.runs.rig import ALICE, QUICK, Rig, agent, kinds, text_of
from tests.timing import within

Items = AsyncIterator[Event | str]


async def chatter(run: RunInput) -> Items:
    """Sends text for a long time in a step, a tool call and a text."""
    yield ev.step_started("talk")
    yield ev.tool_call_start("c", "talk")
    for n in range(3_000):
        yield f"{n} "
        await asyncio.sleep(0.002)


async def short(run: RunInput) -> Items:
    """Sends its attempt number; hangs in the first one."""
    yield ev.step_started("try")
    yield f"attempt {run.attempt}"
    if run.attempt == 1:
        await asyncio.Event().wait()
    yield ev.step_finished("try")


def kill(engine: RunEngine) -> None:
    """The effect of kill -9: every task of the node is gone, without any message."""
    for task in engine._loops._tasks.values():
        task.cancel()
    for execution in list(engine._local_runs.executions.values()):
        if execution.journal._writer is not None:
            execution.journal._writer.cancel()
        if execution.session is not None:
            execution.session.cancel()
    engine._services.coverage.draining = True  # nothing is kept for later
    for task in list(engine._local_runs.tasks._running):
        task.cancel()


async def running(rig: Rig, engine: RunEngine, at_least: int = 8) -> Run:
    """A run with this many events."""
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: len(events) >= at_least)
    return run


async def test_a_dead_owners_run_is_ended(rig: Rig) -> None:
    """RUN_ERROR owner_lost, after everything open was closed; digest over all events; messages kept."""
    dead = await rig.node(agent(chatter), name="n1")
    run = await running(rig, dead)
    kill(dead)
    said = text_of(await rig.events(run))
    await rig.node(agent(chatter), name="n2")
    row, events = await rig.ended(run)
    assert (row.state, row.error, row.attempt) == ("failed", "owner_lost", 2)
    assert kinds(events)[-4:] == ["TEXT_MESSAGE_END", "TOOL_CALL_END", "STEP_FINISHED", "RUN_ERROR"]
    assert row.text == text_of(events)
    assert row.text.startswith(said)
    rows = await rig.store.threads.messages("acme", run.thread_id, before=None, limit=10)
    assert [m.content for m in rows if m.role == "assistant"] == [row.text]


async def test_the_same_node_comes_back(rig: Rig) -> None:
    """After its restart under the same id, its old runs are ended, not renewed."""
    dead = await rig.node(agent(chatter), name="n1")
    run = await running(rig, dead)
    kill(dead)
    await rig.node(agent(chatter), name="n1")
    row, _ = await rig.ended(run)
    assert row.error == "owner_lost"


async def test_a_restartable_run_goes_on(rig: Rig) -> None:
    """Open parts are closed, the restart is announced, seq continues, the earlier text is void."""
    dead = await rig.node(agent(short, restartable=True), name="n1")
    run = await running(rig, dead, 4)
    kill(dead)
    await rig.node(agent(short, restartable=True), name="n2")
    row, events = await rig.ended(run)
    assert (row.state, row.text, row.attempt) == ("finished", "attempt 2", 2)
    restarted = next(e for e in events if e.get("name") == "narthex.restarted")
    assert restarted["value"] == {"attempt": 2}
    assert "attempt 1" in str(events[: restarted["seq"]])
    rows = await rig.store.threads.messages("acme", run.thread_id, before=None, limit=10)
    assert [m.content for m in rows if m.role == "assistant"] == ["attempt 2"]


async def test_restarts_are_bounded(rig: Rig) -> None:
    """An agent that kills its owner every time is ended after `max_attempts`."""

    async def deadly(run: RunInput) -> Items:
        yield "boom"
        await asyncio.Event().wait()

    limits = msgspec.structs.replace(QUICK, max_attempts=2)
    node = await rig.node(agent(deadly, restartable=True), name="n0", limits=limits)
    run = await running(rig, node, 3)
    for n in range(1, 3):
        kill(node)
        node = await rig.node(agent(deadly, restartable=True), name=f"n{n}", limits=limits)
        if n == 1:
            await rig.until(run, lambda events: str(events).count("boom") == 2)
    row, _ = await rig.ended(run)
    assert (row.error, row.attempt) == ("owner_lost", 3)


async def test_a_cancel_before_the_death_is_honoured(rig: Rig) -> None:
    """A user asked for the end: the new owner gives that end."""
    dead = await rig.node(agent(chatter, restartable=True), name="n1")
    run = await running(rig, dead)
    kill(dead)
    await rig.store.runs.request_cancel("acme", run.run_id, "alice", 0.0)
    await rig.node(agent(chatter, restartable=True), name="n2")
    row, events = await rig.ended(run)
    assert row.state == "cancelled"
    assert events[-1]["result"] == {"cancelledBy": "alice"}


async def test_death_between_the_terminal_event_and_the_store(fake_rig: Rig) -> None:
    """The log has its end: the new owner publishes nothing more and completes the rest."""

    async def hello(run: RunInput) -> Items:
        yield "hello"

    fake_rig.fake_store.fake_runs.fail_finishes = 1
    dead = await fake_rig.node(agent(hello), name="n1", limits=msgspec.structs.replace(QUICK, poll_s=60))
    run = await fake_rig.say(dead, await fake_rig.thread())
    events = await fake_rig.until(run, lambda events: "RUN_FINISHED" in kinds(events))
    kill(dead)
    await fake_rig.node(agent(hello), name="n2")
    row, after = await fake_rig.ended(run)
    assert (row.state, row.text, row.attempt) == ("finished", "hello", 2)
    assert after == events


async def test_death_before_the_first_event(fake_rig: Rig) -> None:
    """Nothing was shown, so the run simply begins, restartable or not."""

    async def hello(run: RunInput) -> Items:
        yield "hello"

    fake_rig.fake_broker.fail_publishes = 1_000_000
    dead = await fake_rig.node(agent(hello), name="n1")
    run = await fake_rig.say(dead, await fake_rig.thread())
    await fake_rig.comes(lambda: "run_publish_retries" in fake_rig.meter.counts)
    kill(dead)
    fake_rig.fake_broker.fail_publishes = 0
    await fake_rig.node(agent(hello), name="n2")
    row, events = await fake_rig.ended(run)
    assert (row.state, row.text) == ("finished", "hello")
    assert "CUSTOM" not in kinds(events)


async def test_an_unknown_agent_is_named(rig: Rig) -> None:
    """No node has the agent any more that should start again; a run that cannot start again has lost its owner."""
    dead = await rig.node(agent(chatter, restartable=True), name="n1")
    run = await running(rig, dead)
    kill(dead)
    await rig.node(agent(chatter, "other"), name="n2")
    row, _ = await rig.ended(run)
    assert row.error == "agent_unknown"


async def test_a_node_without_the_agent_ends_a_dead_owners_run(rig: Rig) -> None:
    """Ending it needs no agent."""
    dead = await rig.node(agent(chatter), name="n1")
    run = await running(rig, dead)
    kill(dead)
    await rig.node(agent(chatter, "other"), name="n2")
    row, _ = await rig.ended(run)
    assert row.error == "owner_lost"


async def test_a_zombie_cannot_publish(fake_rig: Rig) -> None:
    """An owner whose lease was taken while it paused stops at the first seq that it loses."""
    slow = msgspec.structs.replace(QUICK, renew_s=60, poll_s=60)  # it neither renews nor polls
    zombie = await fake_rig.node(agent(chatter), name="n1", limits=slow)
    run = await running(fake_rig, zombie)
    execution = zombie._local_runs.executions[run.run_id]
    execution.lease.until = float("inf")  # it trusts its lease for ever: only the key is left
    row = fake_rig.fake_store.fake_runs.rows[run.run_id]
    fake_rig.fake_store.fake_runs.rows[run.run_id] = msgspec.structs.replace(row, lease_until=0.0)
    await fake_rig.node(agent(chatter), name="n2")
    ended, events = await fake_rig.ended(run)
    assert ended.error == "owner_lost"
    await fake_rig.comes(lambda: not zombie.active)
    assert await fake_rig.events(run) == events


class NoKeys(dict[tuple[str, str], int]):
    """The keys of a broker whose window is always over."""

    def __setitem__(self, _: tuple[str, str], __: int) -> None:
        pass


async def test_a_zombie_whose_keys_are_forgotten_stops_too(fake_rig: Rig) -> None:
    """It was frozen for longer than the broker keeps keys: it finds the other owner's events, and appends none."""
    fake_rig.fake_broker.keys = NoKeys()
    slow = msgspec.structs.replace(QUICK, renew_s=60, poll_s=60)
    zombie = await fake_rig.node(agent(chatter), name="n1", limits=slow)
    run = await running(fake_rig, zombie)
    zombie._local_runs.executions[run.run_id].lease.until = float("inf")
    rows = fake_rig.fake_store.fake_runs.rows
    rows[run.run_id] = msgspec.structs.replace(rows[run.run_id], lease_until=0.0)
    await fake_rig.node(agent(chatter), name="n2")
    ended = await fake_rig.over(run)
    assert ended.error in ("owner_lost", "log_lost")
    await fake_rig.comes(lambda: not zombie.active)
    assert kinds(await fake_rig.events(run))[-1] == "RUN_ERROR"
    await fake_rig.say(zombie, run.thread_id)  # the thread continues


async def test_an_owner_that_lost_its_lease_stops(fake_rig: Rig) -> None:
    """The renewal fails before anything is published against the new owner."""
    first = await fake_rig.node(agent(chatter), name="n1")
    run = await running(fake_rig, first)
    runs = fake_rig.fake_store.fake_runs
    runs.rows[run.run_id] = msgspec.structs.replace(runs.rows[run.run_id], owner="n9/x", attempt=2)
    await fake_rig.comes(lambda: not first.active)
    assert fake_rig.meter.counts["runs_lost"] == 1
    assert kinds(await fake_rig.events(run))[-1] == "TEXT_MESSAGE_CONTENT"


async def test_a_node_that_paused_keeps_what_nobody_took(rig: Rig) -> None:
    """A process that was stopped for longer than its lease continues its runs, and takes none over itself."""

    async def blocks(run: RunInput) -> Items:
        yield "before "
        time.sleep(2.5 * QUICK.lease_s)  # noqa: ASYNC251 - what a suspended machine does to every task
        yield "after"

    engine = await rig.node(agent(blocks), agent(chatter, "other"))
    other = await rig.say(engine, await rig.thread(), "@other")
    await rig.until(other, lambda events: len(events) > 5)
    row, _ = await rig.ended(await rig.say(engine, await rig.thread()))
    assert (row.state, row.text, row.attempt) == ("finished", "before after", 1)
    await engine.requests.cancel(ALICE, other.run_id)
    row, _ = await rig.ended(other)
    assert (row.state, row.attempt) == ("cancelled", 1)


async def test_a_long_outage_of_the_broker(fake_rig: Rig) -> None:
    """After its time limit the run is given up, and ended as soon as the log is back."""
    limits = msgspec.structs.replace(QUICK, broker_patience_s=0.1)
    engine = await fake_rig.node(agent(chatter), limits=limits)
    run = await running(fake_rig, engine)
    fake_rig.fake_broker.fail_publishes = 1_000_000
    await fake_rig.comes(lambda: bool(engine._local_runs.unfinished))
    fake_rig.fake_broker.fail_publishes = 0
    row, _ = await fake_rig.ended(run)
    assert (row.state, row.error, row.attempt) == ("failed", "log_unavailable", 1)


async def test_a_log_that_lost_events_gives_no_digest(fake_rig: Rig) -> None:
    """No digest is made up that a client could not compute."""
    dead = await fake_rig.node(agent(chatter), name="n1")
    run = await running(fake_rig, dead, 12)
    kill(dead)
    (channel,) = fake_rig.fake_broker.logs
    del fake_rig.fake_broker.logs[channel][4:7]
    await fake_rig.node(agent(chatter), name="n2")
    rows = fake_rig.fake_store.fake_runs.rows
    await fake_rig.comes(lambda: rows[run.run_id].state != "running")
    last = (await fake_rig.events(run))[-1]
    assert last["type"] == "RUN_ERROR"
    assert "digest" not in last
    assert last["count"] == last["seq"]


async def test_a_drain_ends_with_the_last_run(rig: Rig) -> None:
    """However long its grace period is."""
    finish = asyncio.Event()

    async def held(run: RunInput) -> Items:
        yield "begun"
        await finish.wait()

    draining = await rig.node(agent(held))
    run = await rig.say(draining, await rig.thread(), "hello")
    await rig.until(run, lambda events: len(events) >= 3)
    drain = asyncio.create_task(draining.drain(within(600)))
    await rig.comes(lambda: draining._local_runs.draining)
    finish.set()
    async with asyncio.timeout(within(10)):
        await drain
    assert (await rig.ended(run))[0].state == "finished"


async def test_drain_lets_runs_finish_hands_over_and_ends(rig: Rig) -> None:
    """Within the grace period a run finishes; then a restartable one moves to another node, others end `draining`."""

    async def brief(run: RunInput) -> Items:
        yield "brief"
        await asyncio.sleep(0.1)
        yield "."

    async def endless(run: RunInput) -> Items:
        yield "on and on"
        await asyncio.Event().wait()

    agents = (agent(brief, "brief"), agent(endless, "long"), agent(short, "again", restartable=True))
    # Neither a deadline nor a lease that runs out may end what the drain has to end.
    limits = msgspec.structs.replace(QUICK, run_deadline_s=within(60), lease_s=within(30))
    draining = await rig.node(*agents, name="n1", limits=limits)
    runs = [await rig.say(draining, await rig.thread(), f"@{name}") for name in ("brief", "long", "again")]
    for run in runs:
        await rig.until(run, lambda events: len(events) >= 3)
    other = await rig.node(*agents, name="n2", limits=limits)
    await draining.drain(within(2))
    assert draining.active == 0
    rows = [(await rig.ended(run))[0] for run in runs]
    assert [(row.state, row.error) for row in rows] == [
        ("finished", ""),
        ("failed", "draining"),
        ("finished", ""),
    ]
    assert rows[2].text == "attempt 2"
    # The row comes first: the node releases its lease after it has notified the members' devices.
    await rig.comes(lambda: other.active == 0)


async def test_close_leaves_runs_to_others_at_once(rig: Rig) -> None:
    """The leases are released, so no node waits for them to expire."""
    limits = msgspec.structs.replace(QUICK, lease_s=60)
    first = await rig.node(agent(chatter), name="n1", limits=limits)
    run = await running(rig, first)
    await first.close()
    await rig.node(agent(chatter), name="n2", limits=limits)
    async with asyncio.timeout(3):
        row, _ = await rig.ended(run)
    assert row.error == "owner_lost"


@pytest.mark.parametrize("seed", range(6))
async def test_killed_at_any_point_every_run_ends_once(rig: Rig, seed: int) -> None:
    """Owners die at many points of several runs; logged events stay, each run has exactly one end."""
    agents = (agent(chatter, "plain"), agent(short, "again", restartable=True))
    limits = msgspec.structs.replace(QUICK, run_deadline_s=1)
    node = await rig.node(*agents, name="k0", limits=limits)
    runs = [await rig.say(node, await rig.thread(), f"@{one.name}") for one in (*agents, agents[1])]
    for n in range(1, 4):
        await asyncio.sleep(0.013 * (seed + 1) * n % 0.2)
        before = [await rig.events(run) for run in runs]
        kill(node)
        node = await rig.node(*agents, name=f"k{n}", limits=limits)
        for run, known in zip(runs, before, strict=True):
            assert (await rig.events(run))[: len(known)] == known
    for run in runs:
        row, events = await rig.ended(run)
        assert row.text == text_of(events)
    assert (await node.requests.get(ALICE, runs[0].run_id))["state"] == "failed"


async def test_a_run_whose_claims_answer_got_lost_is_run(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store assigned it to this node without our knowledge: it must not be renewed in our name for ever."""

    async def waits(run: RunInput) -> Items:
        yield "on it"
        await asyncio.Event().wait()

    limits = msgspec.structs.replace(QUICK, run_deadline_s=60)
    node = await rig.node(agent(waits, "long"), agent(short, "bot"), limits=limits)
    busy = await rig.say(node, await rig.thread(), "@long go on")
    await rig.until(busy, lambda events: len(events) > 2)
    claim = rig.store.runs.claim

    async def unheard(
        owner: str, now: float, lease_s: float, limit: int, agents: Collection[str]
    ) -> list[Run]:
        if await claim(owner, now, lease_s, limit, agents):
            monkeypatch.undo()
            raise DependencyError("store", "The connection was lost.")
        return []

    monkeypatch.setattr(rig.store.runs, "claim", unheard)
    lost = await rig.say(node, await rig.thread(), "@bot hello")
    events = await rig.until(lost, lambda events: text_of(events) == "attempt 2")
    assert kinds(events)[0] == "RUN_STARTED"
    await node.requests.cancel(ALICE, busy.run_id)
