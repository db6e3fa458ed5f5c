"""Runs whose owner, log or broker is lost: shown events are kept, no agent runs twice, every run gets its end.

The real program on its embedded engines (killed, restored as documented) and on NATS (down while a run is cancelled).
The history checker judges what clients received.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import pytest

from tests.acceptance.fleet import Fleet, engines, shared
from tests.acceptance.program import Program, running
from tests.campaigns.caller import Caller, calling
from tests.campaigns.follower import SERVED, token
from tests.campaigns.test_clocks_move import ended
from tests.history import Bounds, Recorder, check, report, summary
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

EVENTS: Final = 18_000  # with RUN_STARTED and two starts, as many as were once lost
AGENTS: Final = ("--agent", "tests.campaigns.agents:lengthy", "--agent", "tests.campaigns.agents:waiting")


@contextlib.asynccontextmanager
async def served(directory: Path) -> AsyncIterator[tuple[Program, Path]]:
    """One program on its embedded engines, and the notes of its agents."""
    notes = directory / "notes"
    async with running(directory, SERVED | {"CAMPAIGN_NOTES": str(notes)}, AGENTS) as program:
        yield program, notes


def caller(program: Program, recorder: Recorder) -> contextlib.AbstractAsyncContextManager[Caller]:
    """A connection of the one user."""
    return calling(program.port, token("ada"), recorder, "ada", "ada")


async def over(ada: Caller, run_id: str) -> dict[str, Any]:
    """Wait until a run has ended; returns the result of `run.get`."""
    return await asked(ada, run_id, lambda found: found["state"] not in ("queued", "running"))


async def asked(ada: Caller, run_id: str, enough: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
    """Request a run until the answer satisfies the condition."""
    async with asyncio.timeout(within(60)):
        while not enough(found := await ada.rpc("run.get", run_id=run_id)):  # noqa: ASYNC110 - clients poll so
            await asyncio.sleep(0.1)
    return found


def judge(recorder: Recorder, **bounds: float) -> dict[str, int]:
    """No finding; returns how much was judged."""
    history = recorder.history()
    findings = check(history, Bounds(run_end_s=0.0, **bounds))
    counts = summary(history)
    print(f"\n{counts}")
    assert not findings, report(findings)
    return counts


async def test_a_long_run_keeps_its_text_through_kill_nine(tmp_path: Path) -> None:
    """All events readable before the kill are readable after it, and the run ends with a digest."""
    recorder = Recorder()
    async with served(tmp_path) as (program, notes):
        async with caller(program, recorder) as ada:
            started = await ada.rpc("run.start", text=f"events={EVENTS}", client_message_id="long")
            before = await asked(ada, started["run_id"], lambda found: found["count"] == EVENTS + 3)
            program.kill()
        await program.start()
        async with caller(program, recorder) as ada:
            after = await over(ada, started["run_id"])
            assert (after["state"], after["error"], after["text"]) == ("failed", "owner_lost", before["text"])
            assert len(after["text"]) == len(before["text"]) > 2 * EVENTS
            assert after["digest"]
            await ada.command("subscribe", channel=started["channel"], recover=True, offset=0, epoch="")
            shown = await ada.rpc("thread.get", thread_id=started["thread_id"], limit=9)
            assert sum(len(message["content"]) for message in shown["messages"]) > len(after["text"])
        assert notes.read_text().count("began") == 1
    assert judge(recorder)["runread"] >= 2


async def test_a_restore_by_the_book_runs_no_agent_twice(tmp_path: Path) -> None:
    """docs/guarantees.md: an older copy of the data directory, whose log.db is deleted. The run ends `log_lost`."""
    recorder = Recorder()
    async with served(tmp_path) as (program, notes):
        async with caller(program, recorder) as ada:
            started = await ada.rpc("run.start", text="events=50", client_message_id="once")
            await asked(ada, started["run_id"], lambda found: found["count"] == 53)
            program.kill()
        for file in (tmp_path / "data").glob("log.db*"):
            file.unlink()
        await program.start()
        async with caller(program, recorder) as ada:
            after = await over(ada, started["run_id"])
            assert (after["state"], after["error"], after["digest"]) == ("failed", "log_lost", "")
            again = await ada.rpc("run.start", text="events=50", client_message_id="once")
            assert again["run_id"] == started["run_id"]
        assert notes.read_text().count("began") == 1


async def test_a_queued_run_is_cancelled_while_the_broker_is_away(tmp_path: Path) -> None:
    """The cancel is acknowledged; once NATS is back, all followers of the thread receive the end."""
    recorder = Recorder()
    async with engines() as (nats, _, store_url):
        notes = {"CAMPAIGN_NOTES": str(tmp_path / "notes")}
        built = Fleet(tmp_path, shared(nats.url, store_url, **SERVED, **notes))
        try:
            gateway = await built.gateway(*AGENTS)
            async with caller(gateway, recorder) as ada:
                busy = await ada.rpc("run.start", text="@waiting", client_message_id="1")
                await ada.command("subscribe", channel=busy["channel"], recover=True, offset=0, epoch="")
                queued = await ada.rpc(
                    "run.start", text="@waiting", client_message_id="2", thread_id=busy["thread_id"]
                )
                assert queued["queued"]
                await asyncio.to_thread(nats.kill)
                cancelled = await ada.rpc("run.cancel", run_id=queued["run_id"])
                assert cancelled["state"] == "cancelled"
                await asyncio.to_thread(nats.start)
                async with asyncio.timeout(within(20)):
                    await ended(ada, queued["run_id"])
                await ada.rpc("run.cancel", run_id=busy["run_id"])
                async with asyncio.timeout(within(20)):
                    await ended(ada, busy["run_id"])
        finally:
            await asyncio.to_thread(built.end)
    judge(recorder, cancel_s=within(20), silence_s=within(20))
