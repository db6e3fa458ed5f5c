"""Rules of the run engine that only show when something goes wrong: bounds at N and N+1, what is let go or counted."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
from ag_ui.core import TextMessageStartEvent

from narthex.app.runs import local_runs
from narthex.app.runs.endings import AgentFault
from narthex.app.runs.execution import Execution
from narthex.app.runs.intake import Intake
from narthex.app.runs.journal import Journal
from narthex.app.runs.lease import Lease, OwnershipLost
from narthex.app.runs.run_log_state import RunLogState
from narthex.domain import events as ev
from narthex.domain.event_order import EventOrder
from narthex.ports.agents import Event, RunInput
from tests.app.runs.rig import ALICE, QUICK, Rig, agent
from tests.app.runs.test_takeover import kill
from tests.timing import within

Items = AsyncIterator[Event | str]


class Sink:
    """A journal that accepts everything; `log.seq` is the durable position."""

    def __init__(self, seq: int) -> None:
        self.log = SimpleNamespace(seq=seq)
        self.put_events: list[Event] = []

    async def put(self, event: Event) -> None:
        """As `Journal.put`."""
        self.put_events.append(event)


def intake(sink: Sink, **limits: Any) -> Intake:
    """A run's intake, into a sink."""
    order = EventOrder()
    assert order.check(ev.run_started("t", "r")) is None
    return Intake("r", cast("Journal", sink), order, msgspec.structs.replace(QUICK, **limits))


async def test_the_number_of_events_is_bounded() -> None:
    """The log may have this many events, and one more is refused, also a delta."""
    full, over = Sink(20), Sink(21)
    await intake(full, max_run_events=20).take(ev.custom("x", 1))
    assert len(full.put_events) == 1
    for item in (ev.custom("x", 1), "text"):
        with pytest.raises(AgentFault, match="more than 20 events") as refused:
            await intake(over, max_run_events=20).take(item)
        assert refused.value.code == "agent_flood"


async def test_an_event_of_the_ag_ui_package_is_taken_by_its_wire_names() -> None:
    """Agents that use the package yield its objects; for any other object the error lists what an agent may yield."""
    sink = Sink(1)
    way_in = intake(sink)
    await way_in.take(TextMessageStartEvent(message_id="m-0123456789", role="assistant"))
    (event,) = sink.put_events
    assert (event["type"], event["messageId"]) == ("TEXT_MESSAGE_START", "r.m-0123456789")
    with pytest.raises(AgentFault, match="yielded int"):
        await way_in.take(7)


async def test_members_without_a_value_are_left_out_where_null_says_nothing() -> None:
    """Objects of packages name every member; in a snapshot or a value null is a value."""
    sink = Sink(1)
    way_in = intake(sink)
    await way_in.take({"type": "CUSTOM", "name": "x", "value": None, "rawEvent": None})
    await way_in.take({"type": "STATE_SNAPSHOT", "snapshot": None, "rawEvent": None})
    custom, snapshot = sink.put_events
    assert (custom["value"], "rawEvent" in custom) == (None, False)
    assert (snapshot["snapshot"], "rawEvent" in snapshot) == (None, False)


async def test_a_chunk_of_another_message_closes_the_plain_text_before_it() -> None:
    """An agent that yields text and then chunks: two messages, the first one whole."""
    sink = Sink(1)
    way_in = intake(sink)
    await way_in.take("plain")
    await way_in.take({"type": "TEXT_MESSAGE_CHUNK", "messageId": "m-0123456789-abcdef", "delta": "chunk"})
    kinds = [event["type"].removeprefix("TEXT_MESSAGE_") for event in sink.put_events]
    assert kinds == ["START", "CONTENT", "END", "START", "CONTENT"]


async def test_the_bytes_of_a_run_are_bounded() -> None:
    """In total, at the limit and one beyond."""
    await intake(Sink(1), max_run_bytes=400).take(ev.custom("x", "y" * 100))
    way_in = intake(Sink(1), max_run_bytes=10_000)
    await way_in.take("a" * 5_000)
    with pytest.raises(AgentFault, match="more than 10000 bytes"):
        await way_in.take("a" * 5_001)


async def test_a_restart_lets_ids_be_used_again(fake_rig: Rig) -> None:
    """The second attempt calls its tool as the first did, whose call was closed for it."""

    async def calls(run: RunInput) -> Items:
        yield ev.tool_call_start("call-0123456789-abcdef", "work")
        yield ev.tool_call_args("call-0123456789-abcdef", "{}")
        if run.attempt == 1:
            yield ev.tool_call_end("call-0123456789-abcdef")
            yield ev.tool_call_result("result-0123456789-abcdef", "call-0123456789-abcdef", "half")
            await asyncio.Event().wait()
        yield ev.tool_call_end("call-0123456789-abcdef")
        yield ev.tool_call_result("result-0123456789-abcdef", "call-0123456789-abcdef", "whole")
        yield "done"

    dead = await fake_rig.node(agent(calls, restartable=True), name="n1")
    run = await fake_rig.say(dead, await fake_rig.thread())
    await fake_rig.until(run, lambda events: "half" in str(events))
    kill(dead)
    await fake_rig.node(agent(calls, restartable=True), name="n2")
    row = await fake_rig.over(run)
    assert (row.state, row.error, row.text) == ("finished", "", "done")


async def test_a_message_without_text_is_no_row_and_hides_none(fake_rig: Rig) -> None:
    """An agent opened one and closed it again; later messages are present after a reload."""

    async def opens(run: RunInput) -> Items:
        yield "before"
        yield ev.text_start("empty-0123456789-abcdef", "assistant")
        yield ev.text_end("empty-0123456789-abcdef")
        yield "behind"

    node = await fake_rig.node(agent(opens))
    run = await fake_rig.say(node, await fake_rig.thread())
    await fake_rig.over(run)
    rows = await fake_rig.store.threads.messages(run.tenant, run.thread_id, before=None, limit=9)
    assert [row.content for row in rows if row.run_id == run.run_id] == ["before", "behind"]


async def test_nothing_is_published_under_a_lost_lease() -> None:
    """Waiting and later callers of the renewal get the error."""
    lease = Lease(asyncio.get_running_loop().time() - 1)
    waiting = asyncio.ensure_future(lease.hold())
    await asyncio.sleep(0)
    lease.lose()
    with pytest.raises(OwnershipLost):
        await waiting
    held = Lease(float("inf"))
    held.lose()
    with pytest.raises(OwnershipLost):
        await held.hold()


async def test_the_beginning_and_the_end_bear_their_moment(fake_rig: Rig) -> None:
    """In milliseconds, as AG-UI has it; so does the beginning of each message."""
    node = await fake_rig.node(agent(_hello), now=lambda: 1_700_000_000.5)
    run = await fake_rig.say(node, await fake_rig.thread())
    await fake_rig.over(run)
    events = await fake_rig.events(run)
    stamps = {event["type"]: event["timestamp"] for event in events if "timestamp" in event}
    assert set(stamps) == {"RUN_STARTED", "TEXT_MESSAGE_START", "RUN_FINISHED"}
    assert set(stamps.values()) == {1_700_000_000_500}


async def journal_of(rig: Rig, lease: Lease) -> Journal:
    """The journal of a run that no node executes."""
    node = await rig.node(agent(_hello), claims=False)
    run = await rig.say(node, await rig.thread())
    return Journal(node._services, run, lease, RunLogState())


async def test_an_event_waits_for_the_lease_and_goes_with_it(fake_rig: Rig) -> None:
    """The lease has lapsed and is not renewed: another owner may publish by now, so this one must not."""
    lease = Lease(asyncio.get_running_loop().time() - 1)
    journal = await journal_of(fake_rig, lease)
    await journal.put(ev.custom("x", 1))
    flushing = asyncio.create_task(journal.flush())
    await asyncio.sleep(0.05)
    lease.lose()
    with pytest.raises(OwnershipLost):
        await flushing
    assert "'x'" not in str(fake_rig.fake_broker.logs)
    await journal.close()


async def test_an_event_that_waits_for_room_ends_with_its_journal(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An agent that is faster than its engine waits in `put`; giving up the run ends the wait."""
    monkeypatch.setattr("narthex.app.runs.journal.MAX_PENDING", 2)
    journal = await journal_of(fake_rig, Lease(asyncio.get_running_loop().time() - 1))

    await journal.put(ev.custom("x", 0))
    await asyncio.sleep(0.05)  # the writer has taken it, and waits for the lease
    async with asyncio.timeout(within(5)):
        for number in (1, 2):
            await journal.put(ev.custom("x", number))
    putting = asyncio.create_task(journal.put(ev.custom("x", 3)))
    await asyncio.sleep(0.05)
    assert not putting.done()
    await journal.close()
    with pytest.raises(OwnershipLost):  # its event was dropped
        await asyncio.wait_for(putting, within(5))


async def test_a_run_that_is_given_up_is_not_tried_again(fake_rig: Rig) -> None:
    """A run that could not be ended and then went to another owner is forgotten here."""
    node = await fake_rig.node(claims=False)
    run = await fake_rig.say(await fake_rig.node(agent(_hello), claims=False), await fake_rig.thread())
    mine = node._local_runs
    mine.unfinished[run.run_id] = (run, None)
    mine.leases[run.run_id] = lease = Lease(float("inf"))
    mine.give_up(run.run_id)
    assert lease.lost
    assert (mine.unfinished, mine.leases) == ({}, {})


async def _hello(run: RunInput) -> Items:
    yield "hello"


@pytest.mark.parametrize("state", ["free", "claims nothing", "draining", "full"])
async def test_a_run_that_this_node_cannot_claim_is_announced_to_the_others(
    fake_rig: Rig, state: str
) -> None:
    """Otherwise it would wait for their next poll; a node with a free slot claims it without a message."""
    limits = msgspec.structs.replace(QUICK, max_running=0 if state == "full" else 5)
    node = await fake_rig.node(agent(_hello), claims=state != "claims nothing", limits=limits)
    node._services.coverage.draining = state == "draining"
    await fake_rig.say(node, await fake_rig.thread())
    announced = [one.kind for one in fake_rig.fake_broker.controls if one.kind == "runs_available"]
    assert len(announced) == (state != "free")


async def test_a_bug_is_counted_and_ends_the_run(fake_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is neither silent nor endless: `internal`, and a metric that an alert can use."""

    async def broken(*_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(local_runs, "load", broken)
    node = await fake_rig.node(agent(_hello))
    row = await fake_rig.over(await fake_rig.say(node, await fake_rig.thread()))
    assert (row.state, row.error) == ("failed", "internal")
    assert fake_rig.meter.counts["run_bugs"] == 1


async def test_an_ended_run_is_let_go_before_its_deadline(fake_rig: Rig) -> None:
    """Its deadline's timer would keep the run, with all its text, for ten minutes."""
    go_on = asyncio.Event()

    async def waits(run: RunInput) -> Items:
        yield "hello"
        await go_on.wait()

    limits = msgspec.structs.replace(QUICK, run_deadline_s=600)
    node = await fake_rig.node(agent(waits), limits=limits)
    run = await fake_rig.say(node, await fake_rig.thread())
    await fake_rig.until(run, lambda events: len(events) >= 3)
    seen: weakref.ref[Execution] = weakref.ref(node._local_runs.executions[run.run_id])
    assert seen() is not None
    go_on.set()
    await fake_rig.ended(run)
    await fake_rig.comes(lambda: gc.collect() >= 0 and seen() is None)
    assert (await node.requests.get(ALICE, run.run_id))["state"] == "finished"
