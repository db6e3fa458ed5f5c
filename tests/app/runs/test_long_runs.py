"""The largest runs: their shown events survive a kill -9 of their owner, with digest."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from narthex.adapters.brokers.sqlite.broker import SqliteBroker
from narthex.adapters.stores.sqlite import SqliteStore
from narthex.app.runs.services import RunLimits
from narthex.domain import events as ev
from narthex.ports.agents import Event, RunInput
from narthex.ports.broker import KEPT_PUBLICATIONS, MAX_HISTORY_PAGE, Page, Position
from tests.app.runs.rig import ALICE, QUICK, Rig, agent
from tests.app.runs.test_takeover import kill
from tests.app.runs.victim_agents import Deaf
from tests.timing import within

WORDS = 17_999  # with RUN_STARTED and two TEXT_MESSAGE_START: the 18,002 events that were once lost
LONG = msgspec.structs.replace(QUICK, run_deadline_s=120, join_window_s=0.0)


async def wordy(run: RunInput) -> AsyncIterator[Event | str]:
    """As many events as words (alternating between two messages, so that none are joined), then waits to be killed."""
    yield ev.text_start(f"{run.run_id}-even")
    yield ev.text_start(f"{run.run_id}-odd")
    for number in range(WORDS):
        yield ev.text_content(f"{run.run_id}-{'odd' if number % 2 else 'even'}", f"{number % 100} ")
    await asyncio.Event().wait()


async def whole(broker: SqliteBroker, key: str) -> list[bytes]:
    """Every publication in a channel's log."""
    found: list[bytes] = []
    page: Page = await broker.history(key)
    while page.publications:
        found += [publication.data for publication in page.publications]
        page = await broker.history(key, since=Position(page.publications[-1].offset, page.top.epoch))
    return found


async def test_a_run_of_18_002_events_survives_its_owner(tmp_path: Path) -> None:
    """On the embedded default: all its text is readable after the kill, and it ends with a digest over all of it."""
    broker, store = SqliteBroker(tmp_path / "log.db"), SqliteStore(tmp_path / "store.db")
    await broker.start(Deaf(), "n")
    await store.start()
    rig = Rig(broker=broker, store=store)
    owner = await rig.node(agent(wordy), name="n1", limits=LONG)
    run = await rig.say(owner, await rig.thread())
    shown = "".join(f"{number % 100} " for number in range(WORDS))
    async with asyncio.timeout(within(60)):
        while (await owner.requests.get(ALICE, run.run_id))["count"] < WORDS + 3:  # noqa: ASYNC110 - asked as a client asks
            await asyncio.sleep(0.05)
    kill(owner)
    heir = await rig.node(agent(wordy), name="n2", limits=LONG)
    row = await rig.over(run)
    assert (row.state, row.error, row.count, row.text) == ("failed", "owner_lost", WORDS + 6, shown)
    assert row.digest != ""
    kept = await store.threads.messages("acme", run.thread_id, before=None, limit=9)
    assert sum(len(message.content) for message in kept) == len("hi") + len(shown)
    # Then the thread's log is cut to the part that reconnecting devices recover from.
    assert len(await whole(broker, f"acme/thread:{run.thread_id}")) <= LONG.keep_events + 1_000
    assert heir.active == 0
    await rig.close()
    await store.stop()
    await broker.stop()


def test_a_log_holds_the_largest_run() -> None:
    """A channel's capacity compared with a run's limit; afterwards a page of the thread is kept."""
    limits = RunLimits()
    assert limits.max_run_events + limits.keep_events <= KEPT_PUBLICATIONS
    assert limits.keep_events == MAX_HISTORY_PAGE
