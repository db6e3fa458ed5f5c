"""Staging 2: the path of a message from a user to the thread and to all members."""

from __future__ import annotations

import asyncio

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import fault_of, text_of
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.E2E, incident=True)
async def message_flow(system: SystemUnderTest) -> None:
    """A message is stored, published, answered, and read back from the thread, in that order."""
    async with system.client() as ada:
        thread = await ada.thread()
        events = await ada.ask("echo round trip", thread)
        view = await ada.view(thread)
        said = [(m["role"], m["content"]) for m in view["messages"] if m["role"] in ("user", "assistant")]
        assert said[0] == ("user", "echo round trip")
        assert said[1][0] == "assistant"
        assert said[1][1] == text_of(events)


@scenario(Category.E2E, incident=True)
async def error_handling_flow(system: SystemUnderTest) -> None:
    """Wrong params, an unknown method and an unknown thread get numbered errors; the connection stays open."""
    async with system.client() as ada:
        for method, data, code in (
            ("run.start", {"text": 5}, 400),
            ("run.start", {}, 400),
            ("no.such.method", {}, 104),
            ("thread.get", {"thread_id": "does-not-exist"}, 404),
            ("run.cancel", {"run_id": "does-not-exist"}, 404),
        ):
            fault = await fault_of(ada.rpc(method, **data), f"{method} {data} was not refused")
            assert fault.code == code, f"{method} {data}: {fault}"
            assert fault.message
        assert await ada.rpc("echo", still="here") == {"still": "here"}


@scenario(Category.E2E)
async def the_same_message_twice_is_one_run(system: SystemUnderTest) -> None:
    """`run.start` with one client_message_id gives one run and one message, however often it is sent."""
    async with system.client() as ada:
        thread = await ada.thread()
        same = f"same-{system.test_run}"
        runs = await asyncio.gather(
            *(ada.start("echo once", thread, client_message_id=same) for _ in range(5))
        )
        assert len(set(runs)) == 1, f"five sends made {len(set(runs))} runs"
        await ada.whole(thread, runs[0])
        view = await ada.rpc("thread.get", thread_id=thread)
        assert [m["content"] for m in view["messages"] if m["role"] == "user"] == ["echo once"]


@scenario(Category.E2E)
async def messages_keep_their_order(system: SystemUnderTest) -> None:
    """Three messages sent at once are answered one after the other, in the order in which they were accepted."""
    async with system.client() as ada:
        thread = await ada.thread()
        runs = [await ada.start(f"echo number {n}", thread) for n in range(3)]
        for run in runs:
            await ada.whole(thread, run, 40)
        started = [e["runId"] for _, e in ada.events[f"thread:{thread}"] if e["type"] == "RUN_STARTED"]
        assert started == runs


@scenario(Category.E2E)
async def unicode_survives(system: SystemUnderTest) -> None:
    """Every script, emoji and combining mark comes back as it was sent."""
    text = "Grüße 你好 🧑🏽‍🚀 e\u0301 \u202eעברית"
    async with system.client() as ada:
        events = await ada.ask(f"echo {text}")
        assert text in text_of(events), f"the answer was {text_of(events)!r}"


@scenario(Category.E2E)
async def a_message_that_is_too_large_is_refused_by_name(system: SystemUnderTest) -> None:
    """Over 32 KB: 413 text_too_large, and nothing was stored."""
    async with system.client() as ada:
        thread = await ada.thread()
        fault = await fault_of(ada.start("x" * 40_000, thread), "40 KB were accepted")
        assert fault.code == 413
        assert "text_too_large" in fault.message
        assert (await ada.rpc("thread.get", thread_id=thread))["messages"] == []
