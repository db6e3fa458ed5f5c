"""Following runs: first events before the reply, cut connections, lost events, late followers, lost history."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from narthex import client
from tests.client.scripted import Scripted, scripted, until
from tests.client.test_assembler import END, START, sealed, text

CHANNEL = "thread:t"
STARTED = {"run_id": "r", "thread_id": "t", "message_id": "m0", "channel": CHANNEL, "queued": False}


def answers(server: Scripted, answer: dict[str, Any]) -> None:
    """Let `run.start` answer this."""

    async def start(_: dict[str, Any]) -> dict[str, Any]:
        return dict(answer)

    server.rpc["run.start"] = start


def getter(state: str) -> Callable[[dict[str, Any]], Awaitable[dict[str, Any]]]:
    """Let `run.get` answer this state."""

    async def get(params: dict[str, Any]) -> dict[str, Any]:
        return {"run_id": params["run_id"], "thread_id": "t", "state": state}

    return get


async def test_a_run_in_a_new_thread_is_read_from_its_first_event() -> None:
    """Events published before the subscription come from the history; the proof holds."""
    events = sealed(START, text("hel"), text("lo"), END)
    async with scripted() as server:
        answers(server, STARTED)
        for event in events[:3]:
            await server.publish(CHANNEL, event)
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.start_run("hi")
            await until(lambda: CHANNEL in server.listeners)
            for event in events[3:]:
                await server.publish(CHANNEL, event)
            seen = [event["type"] async for event in run]
        assert seen == [event["type"] for event in events]
        assert (run.text, run.outcome, run.proof.complete) == ("hello", "success", True)
        assert (run.thread_id, run.message_id) == ("t", "m0")


async def test_events_that_beat_the_reply_are_kept() -> None:
    """In a known thread the whole run may be over before its id is known."""
    events = sealed(START, text("x"), END)
    async with scripted() as server:

        async def start(params: dict[str, Any]) -> dict[str, Any]:
            assert params["thread_id"] == "t"
            assert len(params["client_message_id"]) == 32
            for event in events:
                await server.publish(CHANNEL, event)
            return dict(STARTED)

        server.rpc["run.start"] = start
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.start_run("hi", thread_id="t")
            proof = await run.wait(5)
        assert proof.complete


async def test_a_cut_line_loses_nothing() -> None:
    """The SDK recovers the missed publications; the iterator continues as if nothing had happened."""
    events = sealed(START, *[text(str(i)) for i in range(20)], END)
    async with scripted() as server:
        answers(server, STARTED)
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.start_run("hi")
            for event in events[:10]:
                await server.publish(CHANNEL, event)
            await until(lambda: run.proof.count == 10)
            server.cut()
            await until(lambda: not server.listeners[CHANNEL])
            for event in events[10:]:
                await server.publish(CHANNEL, event)
            proof = await run.wait(10)
        assert (proof.complete, proof.count) == (True, len(events))
        assert len(server.upgrades) == 2


async def test_a_position_that_cannot_be_recovered_is_read_from_the_history() -> None:
    """`recovered: false` after a reconnect: pages of history fill the gap."""
    events = sealed(START, *[text(str(i)) for i in range(30)], END)
    async with scripted() as server:
        answers(server, STARTED)
        server.recovers = False
        server.page = 7
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.start_run("hi")
            for event in events[:3]:
                await server.publish(CHANNEL, event)
            await until(lambda: run.proof.count == 3)
            server.cut()
            await until(lambda: not server.listeners[CHANNEL])
            for event in events[3:]:
                await server.publish(CHANNEL, event)
            proof = await run.wait(10)
        assert proof.complete


async def test_a_lost_event_is_fetched() -> None:
    """A gap in `seq` on a live channel is filled from the history."""
    events = sealed(START, text("a"), text("b"), END)
    async with scripted() as server:
        answers(server, STARTED)
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.start_run("hi")
            for event in events:
                await server.publish(CHANNEL, event, heard=event["seq"] != 3)
            assert (await run.wait(5)).complete
        assert run.text == "ab"


async def test_what_the_history_lost_is_said() -> None:
    """The run's beginning is gone for good: RunIncomplete, not an endless wait."""
    events = sealed(START, text("a"), text("b"), END)
    async with scripted() as server:
        answers(server, STARTED)
        server.history[CHANNEL] = events[2:]
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.start_run("hi")
            with pytest.raises(client.RunIncomplete, match="Event 1 of run r"):
                await run.wait(5)
            assert not run.proof.complete


async def test_an_ended_run_that_the_history_has_forgotten_is_said() -> None:
    """The gateway knows the run, its events are gone: no endless wait either."""
    async with scripted() as server:
        server.rpc["run.get"] = getter("finished")
        async with client.connect(server.url, use_proxy=False) as gateway:
            with pytest.raises(client.RunIncomplete):
                await (await gateway.follow_run("r")).wait(5)


async def test_a_repeated_message_gives_the_run_that_there_is() -> None:
    """A caller's own `client_message_id`, sent again after a crash: the same run, from its first event."""
    events = sealed(START, text("a"), END)
    async with scripted() as server:
        answers(server, STARTED)
        server.rpc["run.get"] = getter("finished")
        server.history[CHANNEL] = list(events)
        async with client.connect(server.url, use_proxy=False) as gateway:
            for thread_id in (None, "t"):
                run = await gateway.start_run("hi", thread_id=thread_id, client_message_id="mine")
                assert (await run.wait(5)).complete


async def test_another_devices_run_is_followed_late() -> None:
    """`follow_run` knows only the id; two iterators see the same events."""
    events = sealed(START, text("a"), END)
    async with scripted() as server:
        server.history[CHANNEL] = [{"type": "TEXT_MESSAGE_CHUNK", "role": "user", "delta": "q"}, *events]
        server.rpc["run.get"] = getter("finished")
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.follow_run("r")
            assert await gateway.follow_run("r") is run

            async def kinds() -> list[str]:
                return [event["type"] async for event in run]

            one, two = await asyncio.gather(kinds(), kinds())
        assert one == two == [event["type"] for event in events]


async def test_a_question_is_answered_in_a_new_run() -> None:
    """An interrupt ends the run; `resume` follows the run that the answer opens."""
    question = sealed(START, END)
    question[-1]["outcome"] = {"type": "interrupt", "interrupts": [{"id": "i1", "message": "May I?"}]}
    following = [{**event, "runId": "r2"} for event in sealed(START, END)]
    async with scripted() as server:
        answers(server, STARTED)
        server.history[CHANNEL] = [*question, *following]

        async def resume(params: dict[str, Any]) -> dict[str, Any]:
            assert params == {"run_id": "r", "interrupt_id": "i1", "payload": {"approved": True}}
            return {"run_id": "r2"}

        server.rpc["run.resume"] = resume
        server.rpc["run.get"] = getter("finished")
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.start_run("hi")
            await run.wait(5)
            assert run.outcome == "interrupt"
            answer = await run.resume(run.interrupts[0]["id"], {"approved": True})
            async for _ in answer:
                pass
            assert (answer.run_id, answer.outcome) == ("r2", "success")


async def test_closing_ends_whoever_still_iterates() -> None:
    """No iterator waits for a closed connection."""
    async with scripted() as server:
        answers(server, STARTED)
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.start_run("hi")
            waiting = asyncio.create_task(run.wait())
            await asyncio.sleep(0)
        with pytest.raises(client.Refused) as caught:
            await waiting
        assert caught.value.code == "disconnected"


async def test_idle_threads_are_left() -> None:
    """A program that opens thread after thread stays within the gateway's channel limit."""
    async with scripted() as server:
        answers(server, STARTED)
        async with client.connect(server.url, use_proxy=False) as gateway:
            for n in range(40):
                answers(server, {**STARTED, "run_id": f"r{n}", "thread_id": f"t{n}"})
                events = [{**event, "runId": f"r{n}"} for event in sealed(START, END)]
                server.history[f"thread:t{n}"] = events
                async for _ in await gateway.start_run("hi"):
                    pass
            assert sum(1 for listeners in server.listeners.values() if listeners) <= 33


async def test_a_run_that_ended_during_an_outage_and_left_the_history_ends_its_iterator() -> None:
    """An unrecovered reconnect after which the history has no event of the run: RunIncomplete, not an endless wait."""
    events = sealed(START, text("a"), text("b"), END)
    for seen in (0, 2):
        async with scripted() as server:
            answers(server, STARTED)
            server.rpc["run.get"] = getter("running")
            server.recovers = False
            async with client.connect(server.url, use_proxy=False) as gateway:
                run = await gateway.start_run("hi")
                await until(lambda server=server: bool(server.listeners.get(CHANNEL)))  # type: ignore[misc]
                for event in events[:seen]:
                    await server.publish(CHANNEL, event)
                await until(lambda run=run, seen=seen: run.proof.count == seen)  # type: ignore[misc]
                server.history[CHANNEL] = []
                server.rpc["run.get"] = getter("finished")
                server.cut()
                with pytest.raises(client.RunIncomplete, match=f"Event {seen + 1} of run r"):
                    await run.wait(10)


async def test_calls_at_once_for_one_thread_share_its_subscription() -> None:
    """Also when all slots for idle threads are taken, and when the thread was just being left."""
    async with scripted() as server, client.connect(server.url, use_proxy=False) as gateway:

        async def start(params: dict[str, Any]) -> dict[str, Any]:
            thread_id = params["thread_id"]
            run_id = f"r{params['client_message_id']}"
            for event in sealed(START, END):
                await server.publish(f"thread:{thread_id}", {**event, "runId": run_id})
            return {**STARTED, "run_id": run_id, "thread_id": thread_id}

        server.rpc["run.start"] = start
        for n in range(32):
            assert (await (await gateway.start_run("x", thread_id=f"t{n}")).wait(5)).count == 4
        again = [gateway.start_run("x", thread_id="new") for _ in range(4)]
        # `new` takes the place of t0, which is requested again while it is being left.
        runs = await asyncio.gather(*again, gateway.start_run("x", thread_id="t0"))
        for run in runs:
            assert (await run.wait(5)).count == 4


async def test_what_goes_to_the_agent_beside_the_message_is_sent_as_it_is() -> None:
    """And nothing that the caller leaves out; a message that steers gives the run under way, from its first event."""
    events = sealed(START, text("x"), END)
    sent: list[dict[str, Any]] = []
    given: dict[str, Any] = {
        "busy": "steer",
        "state": {"n": 1},
        "tools": [{"name": "paint", "description": "", "parameters": {}}],
        "context": [{"description": "page", "value": "home"}],
        "forwarded": {"colour": "red"},
    }
    async with scripted() as server:

        async def start(params: dict[str, Any]) -> dict[str, Any]:
            sent.append(params)
            return STARTED | {"steered": True}

        server.rpc["run.start"] = start
        server.rpc["run.get"] = getter("running")
        for event in events:  # of the run that was under way before the message
            await server.publish(CHANNEL, event)
        async with client.connect(server.url, use_proxy=False) as gateway:
            run = await gateway.start_run("hi", thread_id="t", **given)
            assert (await run.wait(5)).complete
            await gateway.start_run("plain", thread_id="t")
    assert {name: sent[0][name] for name in given} == given
    assert set(sent[1]) == {"text", "client_message_id", "thread_id"}
