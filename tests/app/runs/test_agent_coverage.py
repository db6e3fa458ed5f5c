"""Which node begins which run: one that has the agent, and, to end it, any node once no live node has it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest

from narthex.app.runs.agent_coverage import ABSENT_LOOKS
from narthex.app.runs.worker_presence import CHANNEL, WorkerPresence, known_agents, served_agents
from narthex.ports.agents import Agent, Event, RunInput
from narthex.ports.broker import Control, Member
from narthex.ports.runs import Run
from tests.app.runs.rig import ALICE, QUICK, Rig, agent, text_of
from tests.app.runs.test_takeover import kill
from tests.timing import within

Items = AsyncIterator[Event | str]
on_sqlite = pytest.mark.parametrize("rig", ["sqlite"], indirect=True)
"""The fakes have no presence."""
PATIENT = msgspec.structs.replace(QUICK, look_s=3_600)
"""It never concludes that an agent is gone."""


async def hello(run: RunInput) -> Items:
    """Says one word."""
    yield "hello"


async def hangs(run: RunInput) -> Items:
    """Begins, and ends only when it is stopped."""
    yield "begun"
    await asyncio.Event().wait()


def counted(name: str, began: list[str], node: str) -> Agent:
    """An agent that notes on which node it begins."""

    async def begins(run: RunInput) -> Items:
        began.append(node)
        yield "hello"

    return agent(begins, name)


async def looked(rig: Rig, calls: int) -> None:
    """Wait until nodes have asked this often for runs to claim."""
    runs, done = rig.store.runs, asyncio.Event()
    real, seen = runs.claim, 0

    async def claim(*args: object) -> list[Run]:
        nonlocal seen
        seen += 1
        if seen >= calls:
            done.set()
        return await real(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "claim", claim)
        async with asyncio.timeout(within(20)):
            await done.wait()


async def state(rig: Rig, run: Run) -> tuple[str, str]:
    """A run's state and owner."""
    row = await rig.store.runs.get(run.tenant, run.run_id)
    assert row is not None
    return row.state, row.owner


async def test_a_node_without_the_agent_leaves_the_run_to_one_that_has_it(rig: Rig) -> None:
    """It looks for work all the time, and claims its own agents' runs only."""
    gateway = await rig.node(agent(hello), agent(hello, "other"), name="n1", claims=False)
    run = await rig.say(gateway, await rig.thread())
    await rig.node(agent(hello, "other"), name="n2", limits=PATIENT)
    others = await rig.say(gateway, await rig.thread(), "@other")
    await rig.ended(others)
    await looked(rig, 3)
    assert await state(rig, run) == ("queued", "")
    await rig.node(agent(hello), name="n3")
    row, events = await rig.ended(run)
    assert (row.state, text_of(events), row.attempt) == ("finished", "hello", 1)


async def test_a_restartable_run_waits_for_a_node_that_has_its_agent(rig: Rig) -> None:
    """Its owner died: a node without the agent does not take it over, another one starts it again."""
    dead = await rig.node(agent(hangs, restartable=True), name="n1")
    run = await rig.say(dead, await rig.thread())
    await rig.until(run, lambda events: len(events) > 2)
    kill(dead)
    other = await rig.node(agent(hello, "other"), name="n2", limits=PATIENT)
    await rig.comes(lambda: "bot" in other._services.coverage._left)  # the lease has lapsed for it
    assert (await state(rig, run))[0] == "running"
    await rig.node(agent(hello, restartable=True), name="n3")
    row, _ = await rig.ended(run)
    assert (row.state, row.text, row.attempt) == ("finished", "hello", 2)


async def test_a_run_that_had_not_begun_goes_back_to_the_queue(fake_rig: Rig) -> None:
    """Its owner died between claim and beginning, and the next owner does not have the agent."""
    rig = fake_rig
    rig.fake_broker.fail_publishes = 1_000_000
    dead = await rig.node(agent(hello), name="n1")
    run = await rig.say(dead, await rig.thread())
    await rig.comes(lambda: "run_publish_retries" in rig.meter.counts)
    kill(dead)
    rig.fake_broker.fail_publishes = 0
    await rig.node(agent(hello, "other"), name="n2", limits=PATIENT)
    await rig.comes(lambda: rig.fake_store.fake_runs.rows[run.run_id].state == "queued")
    await rig.node(agent(hello), name="n3")
    row, _ = await rig.ended(run)
    assert (row.state, row.text) == ("finished", "hello")


@on_sqlite
async def test_the_runs_of_an_agent_that_no_node_has_are_ended(rig: Rig) -> None:
    """They wait while a gateway accepts messages for it; then a node claims them, to say what happened."""
    gateway = await rig.node(agent(hello), agent(hello, "other"), name="n1", claims=False)
    accepts = WorkerPresence(rig.broker, "n1", ["bot", "other"], rig.meter, runs=False)
    await accepts.start()
    async with asyncio.timeout(within(10)):
        while not await known_agents(rig.broker):  # noqa: ASYNC110 - presence is asked for
            await asyncio.sleep(0.01)
    run = await rig.say(gateway, await rig.thread())
    node = await rig.node(agent(hello, "other"), name="n2")
    looks = 0
    real = node._services.coverage.look

    async def look() -> bool:
        nonlocal looks
        looks += 1
        return await real()

    node._services.coverage.look = look  # type: ignore[method-assign]
    await rig.comes(lambda: looks > ABSENT_LOOKS + 2)
    assert await state(rig, run) == ("queued", "")
    assert node._services.coverage.missing == []
    await accepts.stop()
    row, events = await rig.ended(run)
    assert (row.state, row.error) == ("failed", "agent_unknown")
    assert events[-1]["message"] == "No node has this agent any more."


async def test_an_agent_that_is_back_in_time_runs(rig: Rig) -> None:
    """A restart is shorter than the looks that end its runs."""
    gateway = await rig.node(agent(hello), agent(hello, "other"), name="n1", claims=False)
    run = await rig.say(gateway, await rig.thread())
    node = await rig.node(agent(hello, "other"), name="n2", limits=PATIENT)
    for _ in range(ABSENT_LOOKS - 1):
        await node._services.coverage.look()
    assert node.missing_agents() == ["bot"]
    await rig.node(agent(hello), name="n3")
    assert (await rig.ended(run))[0].state == "finished"
    await node._services.coverage.look()
    assert node._services.coverage.missing == []


async def test_the_next_run_of_a_thread_is_announced_where_its_agent_is_elsewhere(fake_rig: Rig) -> None:
    """Other nodes need not wait for their next look."""
    rig = fake_rig
    here = await rig.node(agent(hangs), name="n1", limits=PATIENT)
    thread_id = await rig.thread()
    first = await rig.say(here, thread_id)
    await rig.until(first, lambda events: len(events) > 2)
    gateway = await rig.node(agent(hangs), agent(hello, "other"), name="n2", claims=False)
    second = await rig.say(gateway, thread_id, "@other")
    rig.fake_broker.controls.clear()
    here.control(Control("run", {"op": "cancel", "run_id": first.run_id, "by": "alice"}))
    await rig.ended(first)
    await rig.comes(lambda: Control("runs_available", {}) in rig.fake_broker.controls)
    assert (await state(rig, second))[0] == "queued"


@pytest.mark.parametrize("why", ["drains", "no_agents", "no_users"])
async def test_the_next_run_of_a_thread_is_announced_where_this_node_may_not_claim_it(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch, why: str
) -> None:
    """It has the agent, and leaves the run to other nodes."""
    rig = fake_rig

    async def members(_: str) -> dict[str, Member]:
        return {"n1": Member(client="n1", user="worker", conn_info={"agents": ["bot"], "serves_users": True})}

    monkeypatch.setattr(rig.fake_broker, "members", members)
    owner = await rig.node(agent(hangs), name="n1", limits=PATIENT)
    thread_id = await rig.thread()
    first = await rig.say(owner, thread_id)
    await rig.until(first, lambda events: len(events) > 2)
    here = await rig.node(
        agent(hangs),
        name="n2",
        limits=PATIENT,
        claims=why != "no_agents",
        serves_users=lambda: why != "no_users",
    )
    second = await rig.say(owner, thread_id)
    third = await rig.say(owner, thread_id)
    if why == "drains":
        here._services.coverage.draining = True
    kill(owner)
    ended = msgspec.structs.replace(first, owner="", attempt=9)
    rig.fake_store.fake_runs.rows[first.run_id] = msgspec.structs.replace(ended, state="failed")
    rig.fake_broker.controls.clear()
    await here.requests.cancel(ALICE, second.run_id)
    await rig.comes(lambda: Control("runs_available", {}) in rig.fake_broker.controls)
    assert (await state(rig, third))[0] == "queued"


@pytest.fixture
async def presences(rig: Rig) -> AsyncIterator[Callable[[str], WorkerPresence]]:
    """Makes a node's presence, which is withdrawn in the end."""
    made: list[WorkerPresence] = []

    def presence(node: str) -> WorkerPresence:
        made.append(WorkerPresence(rig.broker, node, ["bot"], rig.meter))
        return made[-1]

    yield presence
    for one in made:
        await one.stop()


async def announced(rig: Rig, agents: set[str]) -> None:
    """Wait until these agents are announced as running for users."""
    async with asyncio.timeout(within(10)):
        while await served_agents(rig.broker, "") != agents:  # noqa: ASYNC110 - presence is asked for
            await asyncio.sleep(0.005)


@on_sqlite
async def test_a_fleet_in_its_first_minute_leaves_no_run_to_others(
    rig: Rig, presences: Callable[[str], WorkerPresence]
) -> None:
    """No node has served users for long enough since the restart, so each claims what waits, at its first look."""
    gateway = await rig.node(agent(hello), name="n1", claims=False)
    waits = await rig.say(gateway, await rig.thread())
    for name in ("n2", "n3"):
        presence = presences(name)
        await rig.node(agent(hello), name=name, limits=PATIENT, serves_users=lambda: False, presence=presence)
        await presence.start()
    row, _ = await rig.ended(waits)
    assert row.state == "finished"
    row, _ = await rig.ended(await rig.say(gateway, await rig.thread()))
    assert row.state == "finished"


@on_sqlite
async def test_a_node_of_the_version_before_counts_as_one_that_serves_users(rig: Rig) -> None:
    """It announces its agents, and does not know of users; a candidate leaves its runs alone."""
    about: dict[str, object] = {"agents": ["bot"]}
    await rig.broker.join(CHANNEL, Member(client="w1", user="worker", conn_info=about))
    assert await served_agents(rig.broker, "n2") == {"bot"}
    assert await served_agents(rig.broker, "w1") == set()
    await rig.broker.leave(CHANNEL, "w1")


@on_sqlite
async def test_a_drain_leaves_runs_to_a_node_without_users(
    rig: Rig, presences: Callable[[str], WorkerPresence]
) -> None:
    """The last node that served users drains, as in a deploy: its successor claims at once, while the drain goes on."""
    old_presence = presences("n1")
    old = await rig.node(agent(hangs), name="n1", limits=PATIENT, presence=old_presence)
    await old_presence.start()
    await announced(rig, {"bot"})
    gateway = await rig.node(agent(hello), name="n3", claims=False)
    held = await rig.say(gateway, await rig.thread())
    await rig.until(held, lambda events: len(events) > 2)
    new_presence = presences("n2")
    new = await rig.node(
        agent(hello), name="n2", limits=PATIENT, serves_users=lambda: False, presence=new_presence
    )
    await new_presence.start()
    await rig.comes(lambda: new._services.coverage._heads == {})
    assert new._services.coverage.claimable() == []
    drain = asyncio.get_running_loop().create_task(old.drain(within(20)))
    await announced(rig, set())
    await rig.comes(lambda: new._services.coverage.claimable() == ["bot"])
    row, _ = await rig.ended(await rig.say(gateway, await rig.thread()))
    assert (row.state, row.text) == ("finished", "hello")
    assert not drain.done()
    await gateway.requests.cancel(ALICE, held.run_id)
    await drain


@on_sqlite
async def test_a_node_announces_that_users_have_come(
    rig: Rig, presences: Callable[[str], WorkerPresence]
) -> None:
    """Within one look, not when its entry is next renewed."""
    users, presence = False, presences("n1")
    engine = await rig.node(agent(hello), name="n1", serves_users=lambda: users, presence=presence)
    await presence.start()
    assert engine.missing_agents() == []
    users = True
    await announced(rig, {"bot"})
    users = False
    await announced(rig, set())


@on_sqlite
async def test_a_node_without_users_keeps_to_its_own_runs(
    rig: Rig, presences: Callable[[str], WorkerPresence]
) -> None:
    """A revision before its traffic: what it accepted runs there and nowhere else; it leaves alone what others
    accepted, as long as those claim it.
    """
    other = presences("n9")
    await other.start()
    await other.announce(serves_users=True)
    await announced(rig, {"bot"})
    began: list[str] = []
    apart = await rig.node(
        counted("bot", began, "new"), name="n2", limits=PATIENT, serves_users=lambda: False
    )
    gateway = await rig.node(agent(hello), name="n1", claims=False)
    theirs = await rig.say(gateway, await rig.thread())
    assert began == []
    await rig.ended(await rig.say(apart, await rig.thread()))
    await looked(rig, 3)
    assert began == ["new"]
    assert await state(rig, theirs) == ("queued", "")
    old = await rig.node(counted("bot", began, "old"), name="n3", limits=PATIENT)
    await rig.ended(theirs)
    assert began == ["new", "old"]
    await old.drain(within(5))
    again = await rig.say(gateway, await rig.thread())
    await looked(rig, 3)
    assert await state(rig, again) == ("queued", "")
    await apart._services.coverage.look()
    await apart._services.coverage.look()  # no node has claimed it in between
    await rig.ended(again)
    assert began == ["new", "old", "new"]


async def test_a_reservation_is_kept_and_ends_with_its_node(rig: Rig) -> None:
    """A queued run of a node without users stays its own while that node lives, and any node's after its end."""
    apart = await rig.node(agent(hangs), name="n2", limits=PATIENT, serves_users=lambda: False)
    thread_id = await rig.thread()
    first = await rig.say(apart, thread_id)
    await rig.until(first, lambda events: len(events) > 2)
    second = await rig.say(apart, thread_id)
    await rig.node(agent(hello), name="n1")
    renewed = rig.meter.counts.get("runs_lost", 0)
    await looked(rig, 3)
    owner = apart._services.owner
    assert await state(rig, second) == ("queued", owner)
    await apart.drain(0.1)
    row, _ = await rig.ended(second)
    assert (row.state, row.text) == ("finished", "hello")
    assert rig.meter.counts.get("runs_lost", 0) == renewed
