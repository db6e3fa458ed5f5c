"""A node's loops: a fault costs a turn, and lost control messages are found by the next one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from narthex.domain import events as ev
from narthex.domain.identity import Identity
from narthex.errors import DependencyError
from narthex.ports.agents import Event, RunInput
from tests.app.runs.rig import ALICE, BOB, QUICK, Rig, agent
from tests.timing import within

CAROL = Identity(subject="carol", name="Carol")
PATIENT = msgspec.structs.replace(QUICK, run_deadline_s=within(60))


async def brief(run: RunInput) -> AsyncIterator[Event | str]:
    """Says one word."""
    yield "word"


async def chatter(run: RunInput) -> AsyncIterator[Event | str]:
    """Sends text until it is stopped."""
    yield ev.step_started("talk")
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("call", "fault"),
    [
        *(
            (call, DependencyError("store", "It is away."))
            for call in ("claim", "renew", "leases", "unclosed")
        ),
        ("claim", RuntimeError("a bug")),
    ],
)
async def test_a_loop_outlives_a_fault_of_its_turn(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch, call: str, fault: Exception
) -> None:
    """It is counted, and a later turn does the work."""
    engine = await fake_rig.node(agent(chatter), limits=PATIENT)
    run = await fake_rig.say(engine, await fake_rig.thread())
    await fake_rig.until(run, lambda events: len(events) > 1)
    runs = engine._services.runs
    real, calls = getattr(runs, call), asyncio.Queue[int]()
    failed = 0

    async def fails(*args: Any, **options: Any) -> Any:
        nonlocal failed
        if failed < 2:
            failed += 1
            raise fault
        calls.put_nowait(failed)
        return await real(*args, **options)

    monkeypatch.setattr(runs, call, fails)
    async with asyncio.timeout(within(10)):
        await calls.get()
    assert fake_rig.meter.counts["run_loop_failures"] == 2
    await engine.requests.cancel(ALICE, run.run_id)
    assert (await fake_rig.ended(run))[0].state == "cancelled"


async def test_a_cancel_whose_message_was_lost_is_found_in_the_store(fake_rig: Rig) -> None:
    """By the iteration that renews the lease."""
    engine = await fake_rig.node(agent(chatter), limits=PATIENT)
    run = await fake_rig.say(engine, await fake_rig.thread())
    await fake_rig.until(run, lambda events: len(events) > 1)
    store = fake_rig.fake_store.runs
    await store.request_cancel(run.tenant, run.run_id, "bob", engine._services.now())
    assert (await fake_rig.ended(run))[0].state == "cancelled"


async def test_a_run_whose_message_was_lost_is_claimed_by_the_next_turn(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No message wakes the claiming loop."""
    engine = await fake_rig.node(agent(brief))
    monkeypatch.setattr(engine._loops, "wake", lambda: None)
    run = await fake_rig.say(engine, await fake_rig.thread())
    assert (await fake_rig.ended(run))[0].state == "finished"


async def test_a_node_runs_as_many_at_once_as_it_may(fake_rig: Rig) -> None:
    """The run that takes the last slot runs; the next one waits for a free slot."""
    going, may_end = asyncio.Queue[str](), asyncio.Event()

    async def held(run: RunInput) -> AsyncIterator[Event | str]:
        going.put_nowait(run.run_id)
        await may_end.wait()
        yield "done"

    engine = await fake_rig.node(agent(held), limits=msgspec.structs.replace(PATIENT, max_running=2))
    runs = [await fake_rig.say(engine, await fake_rig.thread(), who=who) for who in (ALICE, BOB, CAROL)]
    async with asyncio.timeout(within(10)):
        first = {await going.get(), await going.get()}
    await engine._loops._claim()
    assert going.empty()
    assert first < {run.run_id for run in runs}
    may_end.set()
    assert [(await fake_rig.ended(run))[0].state for run in runs] == ["finished"] * 3


async def test_a_node_claims_what_it_has_reserved_as_long_as_it_renews_it(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer's run is reserved for the node where its agent waited: also where that one gave up before, and others
    claim the runs of the node's agents.
    """
    engine = await fake_rig.node(agent(chatter), limits=PATIENT)
    long = await fake_rig.say(engine, await fake_rig.thread())
    await fake_rig.until(long, lambda events: len(events) > 1)
    monkeypatch.setattr(engine._services.coverage, "claimable", list)
    thread_id = await fake_rig.thread()
    reserved = msgspec.structs.replace(
        long, run_id="reserved", thread_id=thread_id, client_message_id="resume", owner=engine._services.owner
    )
    assert reserved.state == "queued"
    await fake_rig.store.runs.start(reserved, queue_limit=10)
    await fake_rig.until(reserved, lambda events: len(events) > 1)
