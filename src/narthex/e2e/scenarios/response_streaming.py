"""Staging 5: the answer while it streams."""

from __future__ import annotations

import asyncio
import time

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import text_of
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.E2E)
async def the_first_token_comes_soon(system: SystemUnderTest) -> None:
    """The first delta arrives within 2 s of `run.start`, through all parts of the system."""
    async with system.client() as ada:
        thread = await ada.thread()
        began = time.monotonic()
        run = await ada.start("echo quick", thread)

        def spoke() -> bool:
            return any(e["type"] == "TEXT_MESSAGE_CONTENT" for e in ada.run_events(thread, run))

        await ada.until(spoke, "the first delta", 10)
        took = time.monotonic() - began
        assert took < 2, f"the first delta came after {took:.2f} s"
        await ada.whole(thread, run)


@scenario(Category.E2E)
async def text_comes_in_pieces(system: SystemUnderTest) -> None:
    """A long answer is streamed, not delivered at its end."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.start("count to 120", thread)
        await ada.until(lambda: len(ada.run_events(thread, run)) > 4, "some deltas")
        assert ada.terminal(thread, run) is None, "all deltas arrived at once"
        events = await ada.whole(thread, run)
        assert len([e for e in events if e["type"] == "TEXT_MESSAGE_CONTENT"]) > 10


@scenario(Category.E2E)
async def deltas_make_the_stored_text(system: SystemUnderTest) -> None:
    """Joined deltas, `run.get` and the thread's message are one text."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.start("count to 60", thread)
        text = text_of(await ada.whole(thread, run))
        assert text == (await ada.rpc("run.get", run_id=run))["text"]
        view = await ada.view(thread)
        assert text in [m["content"] for m in view["messages"]]
        assert all(str(number) in text for number in range(1, 61))


@scenario(Category.E2E)
async def a_late_device_reads_the_running_answer_from_its_start(system: SystemUnderTest) -> None:
    """A device that joins in the middle gets the whole run from `thread.get` and a subscription at its position."""
    async with system.client() as one, system.client() as late:
        thread = await one.thread()
        run = await one.begin("count to 150", thread, 8)
        view = await late.rpc("thread.get", thread_id=thread)
        await late.follow(thread, offset=view["offset"], epoch=view["epoch"])
        assert await late.whole(thread, run) == await one.whole(thread, run)


@scenario(Category.E2E)
async def many_answers_stream_at_once(system: SystemUnderTest) -> None:
    """Ten threads of one user stream at the same time; each run is complete and no text of another run is in it."""
    async with system.client() as ada:
        threads = [await ada.thread() for _ in range(10)]
        runs = [
            await ada.start(f"echo stream-{n}-{system.test_run}", thread) for n, thread in enumerate(threads)
        ]
        whole = await asyncio.gather(*(ada.whole(t, r, 50) for t, r in zip(threads, runs, strict=True)))
        for number, events in enumerate(whole):
            assert f"stream-{number}-" in text_of(events)
            assert all(f"stream-{other}-" not in text_of(events) for other in range(10) if other != number)


@scenario(Category.E2E)
async def a_reader_that_pauses_still_gets_the_same_text(system: SystemUnderTest) -> None:
    """A client that stops reading for two seconds in the middle gets the byte-identical text in the end."""
    async with system.client() as quick, system.client() as slow:
        thread = await quick.thread()
        await slow.follow(thread, offset=0)
        run = await quick.start("count to 300", thread)
        await slow.until(lambda: len(slow.run_events(thread, run)) > 3, "the run to begin")
        slow.socket.transport.pause_reading()
        await asyncio.sleep(2)
        behind = len(quick.run_events(thread, run)) - len(slow.run_events(thread, run))
        assert behind > 0, "the paused reader was not behind"
        slow.socket.transport.resume_reading()
        text = " ".join(str(number) for number in range(1, 301))
        assert text_of(await quick.whole(thread, run)) == text, "the text of the fast reader differs"
        assert text_of(await slow.whole(thread, run)) == text, "the text of the paused reader differs"
