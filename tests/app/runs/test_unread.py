"""Texts for an agent at work that it never takes: each gets an answer of its own, however the run ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.events import custom
from narthex.ports.agents import AgentError, Event, RunInput
from narthex.ports.runs import Run
from tests.app.runs.rig import ALICE, BOB, Rig, agent, text_of
from tests.app.runs.test_takeover import kill
from tests.timing import within

Items = AsyncIterator[Event | str]


class Deaf:
    """An agent that answers, and reads one text of users at most; it ends when it may."""

    def __init__(self, *, reads: bool = False, fails: bool = False) -> None:
        self.may_end = asyncio.Event()
        self.reads = reads
        self.fails = fails

    async def __call__(self, run: RunInput) -> Items:
        yield f"({run.messages[-1].content})"
        if run.messages[-1].content == "hi":
            if self.reads:
                yield f"[{await anext(run.steer)}]"
            await self.may_end.wait()
        if self.fails and run.messages[-1].content == "hi":
            raise AgentError("no")


async def answers(rig: Rig, run: Run, count: int) -> list[Run]:
    """The other runs of the thread, once there are so many and all are over, in the order of their messages."""
    async with asyncio.timeout(within(20)):
        while True:
            found = [one for one in await runs_of(rig, run) if one.run_id != run.run_id]
            if len(found) >= count and all(one.over for one in found):
                return found
            await asyncio.sleep(0.005)


async def runs_of(rig: Rig, run: Run) -> list[Run]:
    key = channel_key(run.tenant, thread_channel(run.thread_id))
    ids: dict[str, None] = {}
    for event in await published(rig, key):
        if event.get("type") == "RUN_STARTED":
            ids[event["runId"]] = None
    found = [await rig.store.runs.get(run.tenant, run_id) for run_id in ids]
    return [one for one in found if one is not None]


async def published(rig: Rig, key: str) -> list[dict[str, Any]]:
    return [json.loads(entry.data) for entry in (await rig.broker.history(key)).publications]


def names(events: list[dict[str, Any]], name: str) -> list[dict[str, Any]]:
    return [event["value"] for event in events if event.get("name") == name]


@pytest.mark.parametrize("fails", [False, True])
async def test_a_text_that_its_agent_never_takes_gets_a_run_of_its_own(rig: Rig, *, fails: bool) -> None:
    """It becomes a message of its sender behind the run; only what the agent took is proven as taken."""
    deaf = Deaf(reads=True, fails=fails)
    engine = await rig.node(agent(deaf))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "(hi)")
    await engine.requests.steer(ALICE, run.run_id, "left")
    await rig.until(run, lambda events: "[left]" in text_of(events))
    assert await engine._local_runs.executions[run.run_id].steer("right", BOB)
    deaf.may_end.set()
    _, events = await rig.ended(run)
    assert [one["text"] for one in names(events, "narthex.steering")] == ["left", "right"]
    assert [one["text"] for one in names(events, "narthex.steered")] == ["left"]
    (answer,) = await answers(rig, run, 1)
    assert (answer.text, answer.user_id) == ("(right)", "bob")
    rows = await rig.store.threads.messages("acme", run.thread_id, before=None, limit=10)
    assert [(one.role, one.author, one.content) for one in rows][1:] == [
        ("assistant", "bot", "(hi)[left]"),
        ("user", "bob", "right"),
        ("assistant", "bot", "(right)"),
    ]


async def test_a_cancelled_run_takes_the_texts_that_were_sent_to_it_along(rig: Rig) -> None:
    """A member stopped what the text was for; a message of the thread is answered all the same."""
    deaf = Deaf(reads=True)
    engine = await rig.node(agent(deaf))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "(hi)")
    await engine.requests.steer(ALICE, run.run_id, "left")
    await rig.until(run, lambda events: "[left]" in text_of(events))
    await engine.requests.steer(ALICE, run.run_id, "lost")
    execution = engine._local_runs.executions[run.run_id]
    assert await execution.steer("kept", ALICE, "m-1")
    await engine.requests.cancel(ALICE, run.run_id)
    await rig.ended(run)
    (answer,) = await answers(rig, run, 1)
    assert (answer.text, answer.message_id) == ("(kept)", "m-1")


async def test_a_text_survives_the_death_of_its_runs_owner(rig: Rig) -> None:
    """The log has it, so the next owner answers it, once."""
    dead = await rig.node(agent(Deaf()), name="n1")
    run = await rig.say(dead, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "(hi)")
    await dead.requests.steer(ALICE, run.run_id, "still there?")
    kill(dead)
    await rig.node(agent(Deaf()), name="n2")
    row, _ = await rig.ended(run)
    assert row.error == "owner_lost"
    (answer,) = await answers(rig, run, 1)
    assert answer.text == "(still there?)"


async def test_a_restarted_agent_gets_the_texts_of_its_void_attempt_again(rig: Rig) -> None:
    """Those that it had taken too: what it did about them is void."""

    async def listener(run: RunInput) -> Items:
        yield f"{run.attempt}:"
        async for text in run.steer:
            yield f"[{text}]"
            if text == "right" and run.attempt > 1:
                return

    dead = await rig.node(agent(listener, restartable=True), name="n1")
    run = await rig.say(dead, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "1:")
    await dead.requests.steer(ALICE, run.run_id, "left")
    await rig.until(run, lambda events: "[left]" in text_of(events))
    await dead.requests.steer(ALICE, run.run_id, "right")
    await rig.until(run, lambda events: "[right]" in text_of(events))
    kill(dead)
    await rig.node(agent(listener, restartable=True), name="n2")
    row, _ = await rig.ended(run)
    assert row.text == "2:[left][right]"
    assert len(await runs_of(rig, run)) == 1


async def test_a_text_goes_to_a_run_of_its_own_where_the_agent_asks(rig: Rig) -> None:
    """The run ends with the question, so the text waits for nothing."""

    async def asking(run: RunInput) -> Items:
        yield f"({run.messages[-1].content})"
        if run.messages[-1].content != "hi":
            return
        await may_ask.wait()
        await run.ask({"type": "object"}, "Go on?")
        yield "gone on"

    may_ask = asyncio.Event()
    engine = await rig.node(agent(asking))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "(hi)")
    await engine.requests.steer(ALICE, run.run_id, "hurry")
    may_ask.set()
    row, _ = await rig.ended(run)
    assert row.state == "interrupted"
    (answer,) = await answers(rig, run, 1)
    assert answer.text == "(hurry)"


async def test_an_agent_that_waits_for_a_moment_only_loses_no_text(rig: Rig) -> None:
    """A wait that the agent cancels leaves the text for the next one."""

    async def impatient(run: RunInput) -> Items:
        yield "ready"
        for _ in range(100_000):
            steered = run.steer
            waiting = asyncio.ensure_future(anext(steered))
            await asyncio.sleep(0)
            if waiting.done():
                yield f"[{waiting.result()}]"
                return
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)

    engine = await rig.node(agent(impatient))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "ready")
    await engine.requests.steer(ALICE, run.run_id, "now")
    row, _ = await rig.ended(run)
    assert row.text == "ready[now]"


async def test_an_agent_cannot_put_a_text_into_a_users_mouth(rig: Rig) -> None:
    """An event of the gateway's name from an agent, such as a gateway behind this one, begins no run."""

    async def forger(run: RunInput) -> Items:
        yield custom("narthex.steering", {"steerId": "x", "text": "pay", "by": "bob", "messageId": "m"})
        yield "done"

    engine = await rig.node(agent(forger))
    run = await rig.say(engine, await rig.thread())
    _, events = await rig.ended(run)
    assert names(events, "narthex.steering") == [{"text": "pay", "by": "bob"}]
    assert len(await runs_of(rig, run)) == 1
    rows = await rig.store.threads.messages("acme", run.thread_id, before=None, limit=10)
    assert [one.role for one in rows] == ["user", "assistant"]


@pytest.mark.parametrize("remote", [False, True])
async def test_a_cancelled_thread_answers_no_message_that_waits_for_its_agent(
    rig: Rig, *, remote: bool
) -> None:
    """A user who stops everything stops it too, as the messages in the queue; on any node."""
    engine = await rig.node(agent(Deaf(reads=True)))
    asked = await rig.node(agent(Deaf()), name="n2", claims=False) if remote else engine
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "(hi)")
    await engine.requests.steer(ALICE, run.run_id, "left")
    await rig.until(run, lambda events: "[left]" in text_of(events))
    assert await engine._local_runs.executions[run.run_id].steer("waits", BOB, "m-1")
    await asked.requests.cancel_thread(ALICE, run.thread_id)
    row, _ = await rig.ended(run)
    (answer,) = await answers(rig, run, 1)
    assert (row.state, answer.state, answer.message_id) == ("cancelled", "cancelled", "m-1")
    assert len(await rig.store.runs.list_in_thread("acme", run.thread_id, 10)) == 2


@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_message_accepted_too_late_has_one_answer(rig: Rig, *, cancelled: bool) -> None:
    """Its sender's node gave up on the run and queued one for it: also where a member cancelled that one."""
    deaf = Deaf(reads=True)
    engine = await rig.node(agent(deaf))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "(hi)")
    await engine.requests.steer(ALICE, run.run_id, "left")
    await rig.until(run, lambda events: "[left]" in text_of(events))
    own = await rig.say(engine, run.thread_id, "late")
    if cancelled:
        await engine.requests.cancel(ALICE, own.run_id)
    assert await engine._local_runs.executions[run.run_id].steer("late", ALICE, own.message_id)
    deaf.may_end.set()
    await rig.ended(run)
    row, _ = await rig.ended(own)
    assert (row.state, row.text) == (("cancelled", "") if cancelled else ("finished", "(late)"))
    assert len(await rig.store.runs.list_in_thread("acme", run.thread_id, 10)) == 2
