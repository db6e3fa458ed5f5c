"""Cancelling, steering, asking and answering; from this node and from another."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from narthex.app.runs.session import MAX_QUESTIONS, STEER_LIMIT
from narthex.domain import events as ev
from narthex.domain.digest import digest_of
from narthex.domain.identity import Identity
from narthex.errors import ClientError, DependencyError
from narthex.ports.agents import AgentError, Event, Question, RunInput
from narthex.ports.broker import Control, Page, Position
from narthex.ports.runs import Interrupt
from narthex.ports.threads import ThreadMember
from tests.app.runs.rig import ALICE, BOB, QUICK, Rig, agent, kinds, text_of
from tests.timing import within

Items = AsyncIterator[Event | str]
YES_NO = {"type": "object", "properties": {"approved": {"type": "boolean"}}, "required": ["approved"]}


async def chatter(run: RunInput) -> Items:
    """Sends text until it is stopped, in the middle of a step and a tool call."""
    yield ev.step_started("talk")
    yield ev.tool_call_start("c", "talk")
    for n in range(100_000):
        yield f"{n} "
        await asyncio.sleep(0.002)


async def asker(run: RunInput) -> Items:
    """Asks, and continues with the answer in the next run."""
    first = run.run_id
    yield "May I?"
    answer = await run.ask(YES_NO, "Delete everything?")
    yield f"You said {answer['approved']}"
    assert run.run_id != first


@pytest.mark.alone
async def test_cancel_is_acknowledged_at_once_and_stops_the_agent(rig: Rig) -> None:
    """The answer takes well under 100 ms, everything open is closed, nothing follows the end."""
    stopped = asyncio.Event()

    async def careful(run: RunInput) -> Items:
        try:
            async for item in chatter(run):
                yield item
        finally:
            stopped.set()

    engine = await rig.node(agent(careful))
    thread = await rig.thread()
    await rig.store.threads.add_member(
        "acme", thread, ThreadMember(user_id="bob", role="member", joined_at=0), limit=None
    )
    run = await rig.say(engine, thread)
    await rig.until(run, lambda events: len(events) > 5)
    asked_at = time.perf_counter()
    assert (await engine.requests.cancel(BOB, run.run_id))["state"] == "running"
    assert time.perf_counter() - asked_at < within(0.1)
    row, events = await rig.ended(run)
    assert stopped.is_set()
    assert time.perf_counter() - asked_at < within(1)
    assert row.state == "cancelled"
    assert events[-1]["outcome"] == {"type": "cancelled"}
    assert events[-1]["result"] == {"cancelledBy": "bob"}
    assert rig.meter.observed["run_cancel_seconds"][0] < 1
    assert row.text == text_of(events)
    await asyncio.sleep(0.05)
    assert await rig.events(run) == events
    assert (await engine.requests.cancel(ALICE, run.run_id))["state"] == "cancelled"


async def test_an_agent_that_ignores_its_cancellation_is_left_behind(rig: Rig) -> None:
    """The run ends within the grace period; later output of the agent is dropped."""
    go = asyncio.Event()

    async def stubborn(run: RunInput) -> Items:
        yield "x"
        while not go.is_set():
            try:
                await go.wait()
            except asyncio.CancelledError:
                continue
        yield "too late"

    engine = await rig.node(agent(stubborn))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "x")
    try:
        await engine.requests.cancel(ALICE, run.run_id)
        row, _ = await rig.ended(run)
        assert (row.state, row.text) == ("cancelled", "x")
        assert rig.meter.counts["agents_left_behind"] == 1
    finally:
        go.set()
    await asyncio.sleep(0.02)
    assert text_of(await rig.events(run)) == "x"


async def test_a_queued_run_is_cancelled_before_it_begins(rig: Rig) -> None:
    """It still gets its two events, so that every run has an end in the log."""
    engine = await rig.node(agent(chatter))
    thread = await rig.thread()
    first = await rig.say(engine, thread)
    await rig.until(first, bool)
    second = await rig.say(engine, thread)
    assert (await engine.requests.cancel(ALICE, second.run_id))["state"] == "cancelled"
    events = await rig.until(second, lambda events: len(events) == 2)
    assert kinds(events) == ["RUN_STARTED", "RUN_FINISHED"]
    got = await engine.requests.get(ALICE, second.run_id)
    assert (
        (got["count"], got["digest"]) == (events[1]["count"], events[1]["digest"]) == (2, digest_of(events))
    )
    assert (await engine.requests.cancel(ALICE, second.run_id))["state"] == "cancelled"
    assert await rig.events(second) == events
    await engine.requests.cancel(ALICE, first.run_id)
    await rig.ended(first)


async def test_a_queued_runs_cancel_is_told_and_reads_no_more_than_it_must(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every device is notified of its end; its row is complete, so that reading the run does not read the log."""
    engine = await fake_rig.node(agent(chatter))
    thread = await fake_rig.thread()
    first = await fake_rig.say(engine, thread)
    await fake_rig.until(first, lambda events: len(events) > 5)
    second, _ = await engine.start(ALICE, thread, "m-2", "hi", "c-2", after=Position(5, "e"))
    await engine.requests.cancel(ALICE, second.run_id)
    ended = [value for name, value in fake_rig.notices if name == "narthex.run_ended"]
    assert [(value["runId"], value["state"]) for value in ended] == [(second.run_id, "cancelled")]
    read_from: list[int] = []
    history = fake_rig.fake_broker.history

    async def noted(channel: str, *, since: Position | None = None, **rest: Any) -> Page:
        read_from.append(since.offset if since is not None else 0)
        return await history(channel, since=since, **rest)

    monkeypatch.setattr(fake_rig.fake_broker, "history", noted)
    assert (await engine.requests.get(ALICE, second.run_id))["count"] == 2
    assert read_from == []
    await engine.requests.cancel(ALICE, first.run_id)


async def test_cancel_reaches_the_owner_on_another_node(fake_rig: Rig) -> None:
    """By control message, and if that is lost, by the owner's own poll of the store."""
    owner = await fake_rig.node(agent(chatter), name="n1")
    other = await fake_rig.node(name="n2", limits=msgspec.structs.replace(QUICK, poll_s=60, renew_s=60))
    for lost in (False, True):
        run = await fake_rig.say(owner, await fake_rig.thread())
        await fake_rig.until(run, lambda events: len(events) > 3)
        await other.requests.cancel(ALICE, run.run_id)
        message = fake_rig.fake_broker.controls[-1]
        assert (message.kind, message.node) == ("run", "n1")
        if not lost:
            owner.control(message)
        row, _ = await fake_rig.ended(run)
        assert (row.state, row.cancel_requested_by) == ("cancelled", "alice")


async def test_what_is_asked_of_a_run_whose_end_was_seen_is_answered_by_that_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the last event and the store's row: steering is 409, cancel returns how it ended."""
    finish, may_write = rig.store.runs.finish, asyncio.Event()

    async def slowly(*words: Any, **more: Any) -> Any:
        await may_write.wait()
        return await finish(*words, **more)

    monkeypatch.setattr(rig.store.runs, "finish", slowly)

    async def short(run: RunInput) -> Items:
        yield "done"

    engine = await rig.node(agent(short))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: "RUN_FINISHED" in kinds(events))
    assert (await engine.requests.cancel(ALICE, run.run_id))["state"] == "finished"
    with pytest.raises(ClientError) as caught:
        await engine.requests.steer(ALICE, run.run_id, "too late")
    assert caught.value.number == 409
    may_write.set()
    await rig.ended(run)


async def test_every_member_of_an_end_is_shown_at_once(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the last event and the store's row `run.get` answers as it does afterwards, on every node."""
    finish, may_write = rig.store.runs.finish, asyncio.Event()

    async def slowly(*words: Any, **more: Any) -> Any:
        await may_write.wait()
        return await finish(*words, **more)

    monkeypatch.setattr(rig.store.runs, "finish", slowly)

    async def failing(run: RunInput) -> Items:
        yield "so far "
        raise AgentError("The model's quota is used up.", "quota_used_up")

    owner = await rig.node(agent(failing), name="n1")
    other = await rig.node(name="n2", claims=False)
    run = await rig.say(owner, await rig.thread())
    await rig.until(run, lambda events: "RUN_ERROR" in kinds(events))
    before = [await node.requests.get(ALICE, run.run_id) for node in (owner, other)]
    may_write.set()
    row, _ = await rig.ended(run)
    after = await owner.requests.get(ALICE, run.run_id)
    assert before == [after, after]
    assert (after["state"], after["error"], after["text"]) == ("failed", "quota_used_up", "so far ")
    assert after["finished_at"] == row.finished_at >= row.started_at > 0
    assert row.error_message == "The model's quota is used up."


async def test_steering_is_seen_by_all_and_heard_by_the_agent(rig: Rig) -> None:
    """The run's log has the message before the agent gets it."""

    async def listener(run: RunInput) -> Items:
        yield "ready. "
        async for text in run.steer:
            yield f"[{text}]"
            if text == "stop":
                return

    engine = await rig.node(agent(listener))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: text_of(events) == "ready. ")
    await engine.requests.steer(ALICE, run.run_id, "left")
    await rig.until(run, lambda events: "[left]" in text_of(events))
    engine.control(Control("run", {"op": "steer", "run_id": run.run_id, "by": "bob", "text": "stop"}))
    row, events = await rig.ended(run)
    assert row.text == "ready. [left][stop]"
    steered = [e["value"] for e in events if e.get("name") == "narthex.steered"]
    assert [(one["text"], one["by"]) for one in steered] == [("left", "alice"), ("stop", "bob")]
    with pytest.raises(ClientError, match="finished"):
        await engine.requests.steer(ALICE, run.run_id, "more")
    for text, words in ((" ", "empty"), ("x" * 9_000, "more than 8192")):
        with pytest.raises(ClientError, match=words):
            await engine.requests.steer(ALICE, run.run_id, text)


async def test_a_control_message_cancels_before_the_store_is_looked_at(rig: Rig) -> None:
    """Another node's cancel takes effect at once; the poll of the store is for lost messages."""
    engine = await rig.node(agent(chatter))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: len(events) > 3)
    engine.control(Control("run", {"op": "cancel", "run_id": run.run_id, "by": "bob"}))
    row, events = await rig.ended(run)
    assert row.state == "cancelled"
    assert "bob" in json.dumps(events[-1])


async def test_an_agent_whose_question_expired_has_no_run_to_ask_in(rig: Rig) -> None:
    """It gets an error at its next question, while it cleans up."""
    told: asyncio.Queue[str] = asyncio.Queue()

    async def insistent(run: RunInput) -> Items:
        yield "May I?"
        for text in ("Delete everything?", "Are you there?"):
            try:
                await run.ask(YES_NO, text)
            except Exception as fault:  # whatever it is sent
                told.put_nowait(str(fault))

    engine = await rig.node(agent(insistent), limits=msgspec.structs.replace(QUICK, answer_s=0.05))
    await rig.say(engine, await rig.thread())
    async with asyncio.timeout(within(10)):
        assert await told.get() == "No user answered 'Delete everything?' in time."
        assert await told.get() == "The approval expired, so no run is open."


async def test_an_agent_that_does_not_listen_fills_its_queue(rig: Rig) -> None:
    """The number of unread steering messages is limited."""
    engine = await rig.node(agent(chatter))
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: len(events) > 3)
    with pytest.raises(ClientError, match="cannot be steered") as caught:
        for _ in range(40):
            await engine.requests.steer(ALICE, run.run_id, "hey")
    assert (caught.value.code, caught.value.number) == ("steer_full", 429)
    await engine.requests.cancel(ALICE, run.run_id)
    _, events = await rig.ended(run)
    seen = [event for event in events if event.get("name") == "narthex.steering"]
    assert len(seen) == STEER_LIMIT, "what was refused was not said"


async def asked(rig: Rig, engine: Any, thread: str) -> tuple[Any, dict[str, Any]]:
    """A run with a question, and its interrupt."""
    run = await rig.say(engine, thread)
    row, events = await rig.ended(run)
    assert row.state == "interrupted"
    assert events[-1]["outcome"]["type"] == "interrupt"
    (interrupt,) = events[-1]["outcome"]["interrupts"]
    return run, interrupt


@pytest.mark.parametrize(
    ("answerable_by", "allowed"),
    [
        ("", {"alice", "olga"}),
        ("asker", {"alice"}),
        ("owner", {"olga"}),
        ("member", {"alice", "olga", "bob", "carl"}),
        ("permission:approve", {"carl"}),
    ],
)
async def test_who_may_answer_is_the_questions_own(rig: Rig, answerable_by: str, allowed: set[str]) -> None:
    """By default the user who began the run and the thread's owner; other members approve nothing."""

    async def asks(run: RunInput) -> Items:
        await run.ask(YES_NO, "Really?", answerable_by=answerable_by)
        yield "done"

    engine = await rig.node(agent(asks))
    owner = Identity(subject="olga", tenant="acme")
    people = [ALICE, owner, BOB, Identity(subject="carl", tenant="acme", permissions=("approve",))]
    for person in people:
        thread = await rig.thread(owner)
        for member in people:
            if member is not owner:
                joined = ThreadMember(user_id=member.subject, role="member", joined_at=1.0)
                await rig.store.threads.add_member("acme", thread, joined, limit=None)
        run, interrupt = await asked(rig, engine, thread)
        if person.subject in allowed:
            await engine.requests.resume(person, run.run_id, interrupt["id"], {"approved": True})
        else:
            with pytest.raises(ClientError, match="may answer this question") as caught:
                await engine.requests.resume(
                    person, run.run_id, interrupt["id"], {"approved": True}, dismissed=True
                )
            assert (caught.value.code, caught.value.number) == ("answer_not_allowed", 403)


async def test_a_question_for_nobody_that_can_be_told_is_refused_when_it_is_asked(rig: Rig) -> None:
    """A slip in `answerable_by` must not become a question that any member or no member may answer."""

    async def asks(run: RunInput) -> Items:
        yield "."
        await run.ask(YES_NO, "Really?", answerable_by="admins")

    engine = await rig.node(agent(asks))
    row, _ = await rig.ended(await rig.say(engine, await rig.thread()))
    assert row.state == "failed"


async def test_ask_ends_the_run_and_the_answer_opens_another(rig: Rig) -> None:
    """The same coroutine continues, in a run with parentRunId; it is answered once."""
    engine = await rig.node(agent(asker))
    thread = await rig.thread()
    run, interrupt = await asked(rig, engine, thread)
    assert interrupt["responseSchema"] == YES_NO
    assert interrupt["expiresAt"].endswith("Z")
    for payload, words in (
        ({}, "lacks `approved`"),
        ({"approved": "yes"}, "type boolean"),
        (7, "type object"),
    ):
        with pytest.raises(ClientError, match=words):
            await engine.requests.resume(ALICE, run.run_id, interrupt["id"], payload)
    got = await asyncio.gather(
        *(engine.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": n == 0}) for n in range(4))
    )
    assert len({one["run_id"] for one in got}) == 1
    resumed = await rig.store.runs.get("acme", got[0]["run_id"])
    assert resumed is not None
    row, events = await rig.ended(resumed)
    assert events[0]["parentRunId"] == run.run_id
    assert events[1]["value"]["by"] == "alice"
    assert row.state == "finished"
    assert row.text == f"You said {events[1]['value']['payload']['approved']}"
    again = await engine.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": False})
    assert again["run_id"] == resumed.run_id
    with pytest.raises(ClientError, match="No such question"):
        await engine.requests.resume(ALICE, run.run_id, "other", {})


async def test_an_answer_given_at_another_node_goes_to_the_one_with_the_coroutine(fake_rig: Rig) -> None:
    """The run is reserved, and the owner is woken by name."""
    owner = await fake_rig.node(agent(asker), name="n1")
    other = await fake_rig.node(agent(asker), name="n2")
    while True:
        run, interrupt = await asked(fake_rig, owner, await fake_rig.thread())
        if (await fake_rig.store.runs.interrupt("acme", interrupt["id"])).node.startswith("n1/"):  # type: ignore[union-attr]  # it is there
            break
    got = await other.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    assert fake_rig.fake_broker.controls[-1] == Control("runs_available", {}, "n1")
    resumed = await fake_rig.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    row, _ = await fake_rig.ended(resumed)
    assert (row.state, row.text) == ("finished", "You said True")


async def test_an_answer_whose_coroutine_is_gone_ends_in_owner_lost(rig: Rig) -> None:
    """The node died between question and answer: the new run reports it, once the reservation ended."""
    owner = await rig.node(agent(asker), name="n1")
    run, interrupt = await asked(rig, owner, await rig.thread())
    await owner.close()
    other = await rig.node(agent(asker), name="n2")
    got = await other.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    resumed = await rig.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    row, events = await rig.ended(resumed)
    assert (row.state, row.error) == ("failed", "owner_lost")
    assert kinds(events) == ["RUN_STARTED", "RUN_ERROR"]


async def test_a_restartable_agent_asks_again_when_its_coroutine_is_gone(rig: Rig) -> None:
    """The new run begins from the start, and reports that."""
    owner = await rig.node(agent(asker, restartable=True), name="n1")
    run, interrupt = await asked(rig, owner, await rig.thread())
    await owner.close()
    other = await rig.node(agent(asker, restartable=True), name="n2")
    got = await other.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    resumed = await rig.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    row, events = await rig.ended(resumed)
    assert row.state == "interrupted"
    assert events[1]["name"] == "narthex.restarted"


async def questioner(run: RunInput) -> Items:
    """Asks two questions at once; continues with both answers, also where its coroutine is gone."""
    answers = run.resume
    if not answers:
        yield "May I?"
        answers = await run.ask_all(
            [
                Question(
                    schema=YES_NO,
                    text="Delete?",
                    question_id="delete-1",
                    reason="tool_call",
                    tool_call_id="call-of-the-tool-1",
                    metadata={"danger": 3},
                    dismissable=True,
                ),
                Question(schema={}, text="Which?", question_id="delete-1"),
            ]
        )
    for one in answers:
        yield f"{one.question_id} {one.status} {one.payload}; "


async def test_several_questions_at_once_wait_for_all_answers(rig: Rig) -> None:
    """Each keeps its own members; the run begins with the last answer, and the agent gets them in its own order."""
    engine = await rig.node(agent(questioner))
    run = await rig.say(engine, await rig.thread())
    _, events = await rig.ended(run)
    first, second = events[-1]["outcome"]["interrupts"]
    assert (first["id"], first["reason"], first["toolCallId"], first["metadata"]) == (
        "delete-1",
        "tool_call",
        "call-of-the-tool-1",
        {"danger": 3},
    )
    assert second["id"] not in {"", "delete-1"}  # the agent used one id twice
    assert (second["reason"], "toolCallId" in second) == ("input_required", False)
    got = await engine.requests.resume(ALICE, run.run_id, second["id"], ["b"])
    assert got["open_questions"] == 1
    assert await rig.store.runs.get("acme", got["run_id"]) is None
    last = await engine.requests.resume(ALICE, run.run_id, first["id"], None, dismissed=True)
    assert last == {"run_id": got["run_id"], "answered_by": "alice", "open_questions": 0}
    resumed = await rig.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    row, events = await rig.ended(resumed)
    assert row.text == "delete-1 cancelled None; delete-1 resolved ['b']; "
    assert [
        (event["value"]["interruptId"], event["value"].get("status"), event["value"]["payload"])
        for event in events
        if event.get("name") == "narthex.answered"
    ] == [(first["id"], "cancelled", None), (second["id"], None, ["b"])]


async def test_an_agent_that_remembers_continues_after_its_owner_died(rig: Rig) -> None:
    """`resumable`: a new call of the agent on another node gets the answers, and its state is not restarted."""
    resumable = msgspec.structs.replace(agent(questioner), resumable=True)
    owner = await rig.node(resumable, name="n1")
    run = await rig.say(owner, await rig.thread())
    _, events = await rig.ended(run)
    first, second = events[-1]["outcome"]["interrupts"]
    await owner.close()
    other = await rig.node(resumable, name="n2")
    await other.requests.resume(ALICE, run.run_id, first["id"], {"approved": True})
    got = await other.requests.resume(ALICE, run.run_id, second["id"], "b")
    resumed = await rig.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    row, events = await rig.ended(resumed)
    assert (row.state, row.text) == (
        "finished",
        "delete-1 resolved {'approved': True}; delete-1 resolved b; ",
    )
    names = [event["name"] for event in events if event["type"] == "CUSTOM"]
    assert names == ["narthex.answered", "narthex.answered"]


async def test_a_resumed_run_whose_owner_dies_too_is_not_run_twice(rig: Rig) -> None:
    """The new call began already: the next owner ends the run instead of giving the answers again."""
    calls = 0
    begun = asyncio.Event()

    async def slow(run: RunInput) -> Items:
        nonlocal calls
        if not run.resume:
            yield "?"
            await run.ask(YES_NO, "Well?")
        calls += 1
        yield "on"
        begun.set()
        await asyncio.Event().wait()

    resumable = msgspec.structs.replace(agent(slow), resumable=True)
    owner = await rig.node(resumable, name="n1")
    run, interrupt = await asked(rig, owner, await rig.thread())
    await owner.close()
    second = await rig.node(resumable, name="n2")
    got = await second.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    async with asyncio.timeout(within(10)):
        await begun.wait()
    await second.close()
    await rig.node(resumable, name="n3")
    resumed = await rig.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    row, _ = await rig.ended(resumed)
    assert (row.state, row.error, calls) == ("failed", "owner_lost", 1)


async def test_nobody_answers(rig: Rig) -> None:
    """`ask` raises TimeoutError in the agent; a late answer is refused."""
    over = asyncio.Event()

    async def patient(run: RunInput) -> Items:
        yield "?"
        try:
            await run.ask(YES_NO, "Well?")
        except TimeoutError:
            over.set()
            yield "nobody hears this"
            raise

    limits = msgspec.structs.replace(QUICK, answer_s=0.1)
    engine = await rig.node(agent(patient), limits=limits)
    run, interrupt = await asked(rig, engine, await rig.thread())
    async with asyncio.timeout(5):
        await over.wait()
        for _ in range(500):  # by the store's clock it expires a bit later
            if not await rig.store.runs.open_interrupts(run.tenant, run.thread_id):
                break
            await asyncio.sleep(0.01)
    with pytest.raises(ClientError, match="expired"):
        await engine.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    assert text_of(await rig.events(run)) == "?"


async def test_nobody_answers_while_the_store_is_away(fake_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether an answer came is checked again, and the waiting agent is not kept for ever."""
    engine = await fake_rig.node(agent(asker), limits=msgspec.structs.replace(QUICK, answer_s=0.1))
    looks = 0
    look = fake_rig.fake_store.fake_runs.interrupt

    async def away(tenant: str, interrupt_id: str) -> Interrupt | None:
        nonlocal looks
        looks += 1
        if looks == 1:
            raise DependencyError("store", "The fake store is away.")
        return await look(tenant, interrupt_id)

    monkeypatch.setattr(fake_rig.fake_store.fake_runs, "interrupt", away)
    await asked(fake_rig, engine, await fake_rig.thread())
    await fake_rig.comes(lambda: looks >= 2 and not engine._local_runs.waiting)


async def test_an_agent_that_waits_no_longer_is_not_kept(rig: Rig) -> None:
    """Its own time-out is over before the question's: no run is left for it to continue in."""

    async def hasty(run: RunInput) -> Items:
        yield "?"
        try:
            async with asyncio.timeout(0.05):
                await run.ask(YES_NO, "Well?")
        except TimeoutError:
            yield "never mind"

    engine = await rig.node(agent(hasty))
    run, _ = await asked(rig, engine, await rig.thread())
    await rig.comes(lambda: not engine._local_runs.waiting)
    assert text_of(await rig.events(run)) == "?"


async def test_an_answer_waits_in_the_queue_longer_than_the_question_lives(rig: Rig) -> None:
    """It came in time, so it counts, although the thread was busy until after the expiry."""
    gate = asyncio.Event()

    async def busy(run: RunInput) -> Items:
        await gate.wait()
        yield "done"

    limits = msgspec.structs.replace(QUICK, answer_s=0.2)
    engine = await rig.node(agent(asker), agent(busy, "busy"), limits=limits)
    thread = await rig.thread()
    run, interrupt = await asked(rig, engine, thread)
    blocker = await rig.say(engine, thread, "@busy")
    await rig.until(blocker, bool)
    got = await engine.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    await asyncio.sleep(0.3)
    gate.set()
    resumed = await rig.store.runs.get("acme", got["run_id"])
    assert resumed is not None
    row, _ = await rig.ended(resumed)
    assert (row.state, row.text) == ("finished", "You said True")


async def test_cancelling_the_queued_answer_ends_the_session(rig: Rig) -> None:
    """The coroutine that waited for it is stopped."""
    stopped = asyncio.Event()

    async def holder(run: RunInput) -> Items:
        yield "?"
        try:
            await run.ask(YES_NO, "Well?")
        finally:
            stopped.set()

    engine = await rig.node(agent(holder), agent(chatter, "busy"))
    thread = await rig.thread()
    run, interrupt = await asked(rig, engine, thread)
    blocker = await rig.say(engine, thread, "@busy")
    await rig.until(blocker, bool)
    got = await engine.requests.resume(ALICE, run.run_id, interrupt["id"], {"approved": True})
    await engine.requests.cancel(ALICE, got["run_id"])
    async with asyncio.timeout(2):
        await stopped.wait()
    await engine.requests.cancel(ALICE, blocker.run_id)
    await rig.ended(blocker)


async def open_then_ask(run: RunInput) -> Items:
    """Asks while a step is open."""
    yield ev.step_started("s")
    await run.ask(YES_NO, "?")


async def ask_a_book(run: RunInput) -> Items:
    """Asks with a text longer than an event may be."""
    yield "x"
    await run.ask(YES_NO, "?" * 300_000)


async def ask_nonsense(run: RunInput) -> Items:
    """Asks with a schema that is not supported here."""
    yield "x"
    await run.ask({"type": "string", "pattern": "a*"}, "?")


async def ask_nothing(run: RunInput) -> Items:
    """Asks no question."""
    yield "x"
    await run.ask_all([])


async def ask_too_much(run: RunInput) -> Items:
    """Asks one question more than may be asked at once."""
    yield "x"
    await run.ask_all([Question(schema=YES_NO, text="?")] * (MAX_QUESTIONS + 1))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (open_then_ask, "ask was called while step 's' was open"),
        (ask_nonsense, "`pattern` is not supported"),
        (ask_a_book, "at most 262144"),
        (ask_nothing, f"0 questions; ask 1 to {MAX_QUESTIONS} at once"),
        (ask_too_much, f"{MAX_QUESTIONS + 1} questions; ask 1 to {MAX_QUESTIONS} at once"),
    ],
    ids=["open", "schema", "size", "none", "many"],
)
async def test_a_bad_question_fails_the_run(rig: Rig, function: Any, words: str) -> None:
    """With a sentence that names the fault."""
    engine = await rig.node(agent(function))
    row, events = await rig.ended(await rig.say(engine, await rig.thread()))
    assert row.state == "failed"
    assert words in events[-1]["message"]


async def test_too_many_questions_fail(rig: Rig) -> None:
    """The number of waiting coroutines per node is limited."""
    engine = await rig.node(agent(asker), limits=msgspec.structs.replace(QUICK, max_waiting=1))
    await asked(rig, engine, await rig.thread())
    row, events = await rig.ended(await rig.say(engine, await rig.thread()))
    assert row.state == "failed"
    assert "waiting for answers" in events[-1]["message"]


async def test_an_answer_that_no_digest_can_hold_is_refused(rig: Rig) -> None:
    """A number outside the range of a double: with it in the log the run could never be ended."""

    async def counts(run: RunInput) -> Items:
        yield "How many?"
        yield str(await run.ask({"type": "integer"}, "How many?"))

    engine = await rig.node(agent(counts))
    thread = await rig.thread()
    run, interrupt = await asked(rig, engine, thread)
    for payload in (10**400, {"deep": json.loads("[" * 40 + "]" * 40)}, "x" * 40_000):
        with pytest.raises(ClientError) as refused:
            await engine.requests.resume(ALICE, run.run_id, interrupt["id"], payload)
        assert refused.value.number in {413, 422}
    found = await engine.requests.resume(ALICE, run.run_id, interrupt["id"], 10**20)
    resumed = await rig.store.runs.get("acme", found["run_id"])
    assert resumed is not None
    row, _ = await rig.ended(resumed)
    assert row.text == str(10**20)
