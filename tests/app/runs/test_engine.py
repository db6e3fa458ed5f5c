"""A run from start to its one terminal event, and every way it can fail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import msgspec
import pytest

from narthex.domain import events as ev
from narthex.domain.digest import canonical
from narthex.errors import ClientError
from narthex.ports.agents import Agent, AgentError, Event, RunInput
from tests.app.runs.rig import ALICE, BOB, QUICK, Rig, agent, kinds, text_of

Items = AsyncIterator[Event | str]


async def hello(run: RunInput) -> Items:
    """Says hello to the last message."""
    yield "Hello, "
    yield run.messages[-1].content
    yield "!"


async def test_a_run_from_start_to_end(rig: Rig) -> None:
    """Plain text becomes one message; the store, the log and the messages agree."""
    engine = await rig.node(agent(hello))
    run = await rig.say(engine, await rig.thread(), "world")
    row, events = await rig.ended(run)
    assert row.state == "finished"
    assert row.text == text_of(events) == "Hello, world!"
    assert kinds(events)[:2] == ["RUN_STARTED", "TEXT_MESSAGE_START"]
    assert kinds(events)[-2:] == ["TEXT_MESSAGE_END", "RUN_FINISHED"]
    assert events[-1]["outcome"] == {"type": "success"}
    rows = await rig.store.threads.messages("acme", run.thread_id, before=None, limit=10)
    assert [(m.role, m.content, m.run_id) for m in rows[1:]] == [("assistant", "Hello, world!", run.run_id)]
    assert [name for name, _ in rig.notices] == ["narthex.run_began", "narthex.run_ended"]


async def test_the_identity_is_kept_without_its_token(rig: Rig) -> None:
    """Neither jti nor issuer gets into the run's record."""
    engine = await rig.node(agent(hello))
    run = await rig.say(engine, await rig.thread())
    assert "secret-jti" not in run.identity
    assert json.loads(run.identity)["subject"] == "alice"
    await rig.ended(run)


async def test_the_same_client_message_id_gives_the_same_run(rig: Rig) -> None:
    """However often and however parallel."""
    engine = await rig.node(agent(hello))
    thread = await rig.thread()
    runs = await asyncio.gather(*(rig.say(engine, thread, client="c1") for _ in range(5)))
    assert len({run.run_id for run in runs}) == 1
    await rig.ended(runs[0])
    again = await rig.say(engine, thread, client="c1")
    assert again.run_id == runs[0].run_id
    assert again.state == "finished"


async def test_a_busy_thread_queues_in_order(rig: Rig) -> None:
    """Three runs in one thread run one after the other, and queue positions are announced."""
    gate = asyncio.Event()

    async def slow(run: RunInput) -> Items:
        await gate.wait()
        yield run.messages[-1].content

    engine = await rig.node(agent(slow))
    thread = await rig.thread()
    first = await rig.say(engine, thread, "one")
    await rig.until(first, bool)
    second = await rig.say(engine, thread, "two")
    assert rig.queued == [False, True]
    third = await rig.say(engine, thread, "three")
    got = await engine.requests.get(ALICE, third.run_id)
    assert (got["state"], got["queue_position"]) == ("queued", 1)
    gate.set()
    rows = [(await rig.ended(run))[0] for run in (first, second, third)]
    assert [row.text for row in rows] == ["one", "two", "three"]
    assert rows[0].finished_at <= rows[1].started_at
    assert rows[1].finished_at <= rows[2].started_at


async def test_a_queued_run_sees_the_answer_before_it(rig: Rig) -> None:
    """The conversation of the second run has the first one's answer, but not the third's question."""
    seen: list[list[str]] = []
    gate = asyncio.Event()

    async def listener(run: RunInput) -> Items:
        await gate.wait()
        seen.append([message.content for message in run.messages])
        yield f"re {run.messages[-1].content}"

    engine = await rig.node(agent(listener))
    thread = await rig.thread()
    runs = [await rig.say(engine, thread, text) for text in ("a", "b", "c")]
    gate.set()
    for run in runs:
        await rig.ended(run)
    assert seen == [["a"], ["a", "re a", "b"], ["a", "b", "re a", "re b", "c"]]


async def test_a_mention_chooses_the_agent(rig: Rig) -> None:
    """`@name` in the text, the explicit name, the default; an unknown one is refused by name."""

    async def other(run: RunInput) -> Items:
        yield "other"

    engine = await rig.node(agent(hello, "first"), agent(other, "second"))
    assert engine.choose(None, "hi").name == "first"
    assert engine.choose(None, "hey @second, hi").name == "second"
    assert engine.choose("second", "hi").name == "second"
    with pytest.raises(ClientError, match=r"no agent 'third'.*@first, @second"):
        engine.choose("third", "hi")


async def raises(run: RunInput) -> Items:
    """Fails after some text."""
    yield "I will "
    raise ValueError("with the secret in it")


async def speaks_and_fails(run: RunInput) -> Items:
    """Fails with a message for users."""
    yield "x"
    raise AgentError("The weather service is closed.", "weather_closed")


async def silent(run: RunInput) -> Items:
    """Yields nothing."""
    for item in list[str]():
        yield item


async def only_empty(run: RunInput) -> Items:
    """Yields only empty text."""
    yield ""


async def disorderly(run: RunInput) -> Items:
    """Content of a message that it never started."""
    yield ev.text_content("0123456789abcdef", "x")


async def left_open(run: RunInput) -> Items:
    """Returns with a step and a message open."""
    yield ev.step_started("plan")
    yield ev.text_start("m")
    yield ev.text_content("m", "half")


async def presumptuous(run: RunInput) -> Items:
    """Sends the gateway's own event."""
    yield ev.run_finished("t", "r", ev.success())


async def shapeless(run: RunInput) -> Items:
    """Yields a value that is not an event."""
    yield {"type": "TEXT_MESSAGE_CONTENT", "messageId": "m"}


async def inexact(run: RunInput) -> Items:
    """Yields a value that JSON cannot represent."""
    yield ev.custom("x", float("nan"))


async def number(run: RunInput) -> Items:
    """Yields a number."""
    yield 7  # type: ignore[misc]  # the point of the test


async def huge(run: RunInput) -> Items:
    """One event that is too large."""
    yield ev.custom("x", "y" * 300_000)


async def wordy(run: RunInput) -> Items:
    """Fails with a megabyte of text, half a surrogate pair and an invalid code."""
    yield "x"
    raise AgentError("\ud800" + "y" * 1_000_000, "Not A Code\n")


async def endless(run: RunInput) -> Items:
    """Never waits and never ends."""
    while True:
        yield "x" * 4_000


async def hangs(run: RunInput) -> Items:
    """Sends text and waits for ever."""
    yield "wait"
    await asyncio.Event().wait()


async def gives_up(run: RunInput) -> Items:
    """Cancels itself."""
    yield "x"
    raise asyncio.CancelledError


def no_generator(run: RunInput) -> Items:
    """Is not an async generator."""

    async def plain() -> None: ...

    return plain()  # type: ignore[return-value]  # the point of the test


@pytest.mark.parametrize(
    ("function", "code", "words"),
    [
        (raises, "agent_failed", "The agent raised ValueError"),
        (speaks_and_fails, "weather_closed", "The weather service is closed."),
        (silent, "agent_silent", "without producing anything"),
        (only_empty, "agent_silent", "without producing anything"),
        (disorderly, "agent_event_order", "text message '0123456789abcdef', which is absent"),
        (left_open, "agent_event_order", "returned while step 'plan', text message"),
        (presumptuous, "agent_event_order", "RUN_FINISHED is sent by the gateway"),
        (shapeless, "agent_event_invalid", "needs `delta`"),
        (inexact, "agent_event_invalid", "CUSTOM is not exact JSON"),
        (number, "agent_event_invalid", "yielded int"),
        (huge, "agent_flood", "one CUSTOM of 300"),
        (wordy, "agent_failed", "?yyy"),
        (endless, "agent_flood", "more than 4194304 bytes"),
        (hangs, "agent_timeout", "did not finish within 0.3 s"),
        (gives_up, "agent_failed", "cancelled itself"),
        (no_generator, "agent_failed", "not an async generator"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
async def test_a_bad_agent_ends_in_an_error_that_says_what_it_did(
    rig: Rig, function: object, code: str, words: str
) -> None:
    """One RUN_ERROR with code and sentence, everything closed before it, the right digest."""
    limits = msgspec.structs.replace(QUICK, run_deadline_s=0.3 if function is hangs else 5)
    engine = await rig.node(agent(function), limits=limits)  # type: ignore[arg-type]  # one is no generator
    row, events = await rig.ended(await rig.say(engine, await rig.thread()))
    assert (row.state, row.error) == ("failed", code)
    assert (events[-1]["type"], events[-1]["code"]) == ("RUN_ERROR", code)
    assert words in events[-1]["message"]
    assert len(events[-1]["message"]) <= 2_000


@pytest.mark.parametrize("limit", ["max_event_bytes", "max_run_bytes"])
@pytest.mark.parametrize(("less", "state"), [(0, "finished"), (1, "failed")])
async def test_an_agent_may_yield_as_much_as_the_limit(rig: Rig, limit: str, less: int, state: str) -> None:
    """The size of an event, and of all of them, is that of its canonical JSON; one byte more is a flood."""
    event = {"type": "CUSTOM", "name": "note", "value": "ü" * 100}

    async def notes(run: RunInput) -> Items:
        yield event

    limits = msgspec.structs.replace(QUICK, **{limit: len(canonical(event)) - less})
    engine = await rig.node(agent(notes), limits=limits)
    row, _ = await rig.ended(await rig.say(engine, await rig.thread()))
    assert (row.state, row.error) == (state, "" if state == "finished" else "agent_flood")


async def test_an_exceptions_words_stay_inside_by_default(rig: Rig) -> None:
    """Outside development only the type is shown."""
    limits = msgspec.structs.replace(QUICK, show_errors=False)
    engine = await rig.node(agent(raises), limits=limits)
    _, events = await rig.ended(await rig.say(engine, await rig.thread()))
    assert events[-1]["message"] == "The agent raised ValueError."


async def test_a_flood_does_not_stall_the_others(rig: Rig) -> None:
    """While one agent yields without ever waiting, another run finishes in time."""
    engine = await rig.node(agent(endless, "flood"), agent(hello, "nice"))
    flood = await rig.say(engine, await rig.thread(), "@flood go")
    await rig.until(flood, lambda events: len(events) > 2)
    nice = await rig.say(engine, await rig.thread(), "@nice hi")
    async with asyncio.timeout(2):
        row, _ = await rig.ended(nice)
    assert row.text == "Hello, @nice hi!"
    await rig.ended(flood)


async def test_chunks_short_ids_and_whole_agui_streams(rig: Rig) -> None:
    """Chunks are expanded; ids that repeat from run to run are made unique in the thread."""

    async def chunky(run: RunInput) -> Items:
        yield {"type": "REASONING_MESSAGE_CHUNK", "messageId": "q", "delta": "hm"}
        yield {"type": "TOOL_CALL_CHUNK", "toolCallId": "c", "toolCallName": "look", "delta": "{"}
        yield {"type": "TOOL_CALL_CHUNK", "delta": "}"}
        yield {"type": "TOOL_CALL_RESULT", "messageId": "r", "toolCallId": "c", "content": "seen"}
        yield {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m", "role": "assistant", "delta": "Done"}
        yield {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m", "delta": "."}

    engine = await rig.node(agent(chunky))
    thread = await rig.thread()
    for _ in range(2):
        run = await rig.say(engine, thread)
        row, events = await rig.ended(run)
        assert row.text == "Done."
        assert {e["messageId"] for e in events if e["type"].startswith("TEXT")} == {f"{run.run_id}.m"}
    rows = await rig.store.threads.messages("acme", thread, before=None, limit=50)
    assert [m.role for m in rows] == ["user", "reasoning", "tool", "assistant"] * 2
    assert json.loads(rows[2].detail)["args"] == "{}"
    assert (rows[2].content, json.loads(rows[2].detail)["toolCallName"]) == ("seen", "look")


async def test_ids_fit_an_index(rig: Rig) -> None:
    """An id of a kilobyte becomes its hash, the same everywhere; so every store can keep the messages."""

    async def caller(run: RunInput) -> Items:
        yield ev.tool_call_start("c" * 5_000, "look")
        yield ev.tool_call_args("c" * 5_000, "{}")
        yield ev.tool_call_end("c" * 5_000)
        yield ev.tool_call_result("r" * 5_000, "c" * 5_000, "seen")
        yield ev.tool_call_start("d" * 5_000, "look again")
        yield ev.tool_call_end("d" * 5_000)

    engine = await rig.node(agent(caller))
    run = await rig.say(engine, await rig.thread())
    _, events = await rig.ended(run)
    calls = [event["toolCallId"] for event in events if "toolCallId" in event]
    assert (len(set(calls[:4])), len(set(calls))) == (1, 2)
    assert max(map(len, calls)) <= 200
    rows = await rig.store.threads.messages("acme", run.thread_id, before=None, limit=50)
    assert max(len(row.message_id) for row in rows) <= 200


async def test_long_and_broken_text_is_published_whole(rig: Rig) -> None:
    """A delta beyond the limit is split, a surrogate pair split by the source is joined."""

    async def talker(run: RunInput) -> Items:
        yield "é" * 40_000
        yield "\ud83d"
        yield "\ude00 "
        yield ev.reasoning_message_start("q")
        yield ev.reasoning_content("q", "\ud83d")
        yield ev.reasoning_message_end("q")

    engine = await rig.node(agent(talker))
    row, events = await rig.ended(await rig.say(engine, await rig.thread()))
    assert row.text == text_of(events) == "é" * 40_000 + "😀 "
    reasoning = [e["delta"] for e in events if e["type"] == "REASONING_MESSAGE_CONTENT"]
    assert reasoning == ["\ufffd"]


async def test_deltas_are_joined_and_one_publish_is_in_flight(fake_rig: Rig) -> None:
    """A slow log gets fewer, longer deltas, never two publishes of a run at once, and the same text."""
    fake_rig.fake_broker.delay_s = 0.02

    async def fast(run: RunInput) -> Items:
        for n in range(500):
            yield f"{n} "
            await asyncio.sleep(0)

    engine = await fake_rig.node(agent(fast))
    row, events = await fake_rig.ended(await fake_rig.say(engine, await fake_rig.thread()))
    assert row.text == "".join(f"{n} " for n in range(500))
    assert len(events) < 60
    assert fake_rig.fake_broker.most_in_flight == 1
    assert fake_rig.meter.counts["run_deltas_joined"] > 400


async def test_a_silent_agent_is_said_to_work(rig: Rig) -> None:
    """A long tool call produces a true sign of life: the coroutine still runs."""
    go = asyncio.Event()

    async def slow(run: RunInput) -> Items:
        yield ev.tool_call_start("c", "dig")
        yield ev.tool_call_end("c")
        await go.wait()
        yield ev.tool_call_result("r", "c", "gold")

    limits = msgspec.structs.replace(QUICK, silence_s=0.05)
    engine = await rig.node(agent(slow), limits=limits)
    run = await rig.say(engine, await rig.thread())
    await rig.until(run, lambda events: kinds(events).count("CUSTOM") >= 2)
    go.set()
    row, events = await rig.ended(run)
    assert row.state == "finished"
    assert {e["name"] for e in events if e["type"] == "CUSTOM"} == {"narthex.working"}


async def test_runs_in_foreign_threads_are_absent(rig: Rig) -> None:
    """Another user of the tenant, and another tenant, get the same answer as for an unknown id."""
    engine = await rig.node(agent(hello))
    run = await rig.say(engine, await rig.thread())
    await rig.ended(run)
    strangers = (BOB, msgspec.structs.replace(ALICE, tenant="other"))
    for who in strangers:
        for run_id in (run.run_id, "nothing"):
            for call in (
                engine.requests.get(who, run_id),
                engine.requests.cancel(who, run_id),
                engine.requests.steer(who, run_id, "x"),
                engine.requests.resume(who, run_id, "i", {}),
            ):
                with pytest.raises(ClientError, match="No such run") as caught:
                    await call
                assert caught.value.number == 404


async def test_get_tells_what_is_durable_now(rig: Rig) -> None:
    """While the agent works, and after it."""
    go = asyncio.Event()

    async def two(run: RunInput) -> Items:
        yield "one "
        await go.wait()
        yield "two"

    engine = await rig.node(agent(two))
    run = await rig.say(engine, await rig.thread())
    events = await rig.until(run, lambda events: text_of(events) == "one ")
    got = await engine.requests.get(ALICE, run.run_id)
    assert (got["state"], got["text"], got["count"], got["digest"]) == ("running", "one ", len(events), "")
    go.set()
    row, events = await rig.ended(run)
    got = await engine.requests.get(ALICE, run.run_id)
    assert (got["state"], got["text"], got["count"]) == ("finished", "one two", len(events))
    assert got["digest"] == row.digest


async def test_the_queue_of_a_thread_is_bounded(rig: Rig) -> None:
    """More than `thread_queue` waiting runs are refused."""
    limits = msgspec.structs.replace(QUICK, thread_queue=1)
    engine = await rig.node(agent(hangs), limits=limits)
    thread = await rig.thread()
    run = await rig.say(engine, thread)
    await rig.until(run, bool)
    await rig.say(engine, thread)
    with pytest.raises(ClientError, match=r"queue|waiting"):
        await rig.say(engine, thread)


async def test_a_node_that_is_busy_beside_its_runs_forgets_none(fake_rig: Rig) -> None:
    """No further task is allowed: the claimed run begins once one is."""
    engine = await fake_rig.node(agent(hello), limits=msgspec.structs.replace(QUICK, max_running=2))
    local_runs, gate = engine._local_runs, asyncio.Event()

    async def busy() -> None:
        await gate.wait()

    for _ in range(6):
        local_runs.run_beside(busy())
    run = await fake_rig.say(engine, await fake_rig.thread())
    await fake_rig.comes(lambda: run.run_id in local_runs.unfinished)
    gate.set()
    row, _ = await fake_rig.ended(run)
    assert row.state == "finished"


async def test_an_agent_that_cannot_be_closed_keeps_no_other_open(fake_rig: Rig) -> None:
    """Each releases its resources when the node stops."""
    closed: list[str] = []

    async def fails() -> None:
        closed.append("first")
        raise RuntimeError

    async def works() -> None:
        closed.append("second")

    engine = await fake_rig.node(
        Agent(name="first", function=hello, close=fails), Agent(name="second", function=hello, close=works)
    )
    await engine.close()
    assert closed == ["first", "second"]


async def test_a_broker_that_stutters_costs_nothing(fake_rig: Rig) -> None:
    """Publishes that fail, and acknowledgements that get lost, are repeated with their key: none is duplicated."""

    async def words(run: RunInput) -> Items:
        for n in range(30):
            yield f"{n} "
            if n % 10 == 3:
                fake_rig.fake_broker.fail_publishes = 1
            if n % 10 == 7:
                fake_rig.fake_broker.lose_acks = 1
            await asyncio.sleep(0.012)

    engine = await fake_rig.node(agent(words))
    row, events = await fake_rig.ended(await fake_rig.say(engine, await fake_rig.thread()))
    assert row.state == "finished"
    assert row.text == text_of(events) == "".join(f"{n} " for n in range(30))
    assert fake_rig.meter.counts["run_publish_retries"] >= 4
