"""Queries about a run on another node: the answer grows, the amount read each time does not."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from narthex.app.runs.run_log_cache import MAX_CACHED, RunLogCache
from narthex.errors import DependencyError
from narthex.ports.broker import Page, Position
from tests.app.runs.rig import ALICE, Rig, agent
from tests.app.runs.test_control import chatter


async def test_a_question_about_a_run_elsewhere_reads_only_what_is_new(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second query continues where the first ended, and returns the whole text all the same."""
    owner = await fake_rig.node(agent(chatter), name="n1")
    looker = await fake_rig.node(name="n2")
    thread = await fake_rig.thread()
    run = await fake_rig.say(owner, thread)
    await fake_rig.until(run, lambda events: len(events) > 5)
    asked: list[Any] = []
    history = fake_rig.fake_broker.history

    async def noted(channel: str, *, since: Position | None = None, **rest: Any) -> Page:
        asked.append(since)
        return await history(channel, since=since, **rest)

    monkeypatch.setattr(fake_rig.fake_broker, "history", noted)
    first = await looker.requests.get(ALICE, run.run_id)
    read_first, asked[:] = list(asked), []
    assert read_first[0].offset == run.start_offset
    await fake_rig.until(run, lambda events: len(events) > first["count"] + 3)
    asked.clear()
    second = await looker.requests.get(ALICE, run.run_id)
    assert asked[0].offset >= first["count"]
    assert second["count"] > first["count"]
    assert second["text"].startswith(first["text"])
    await owner.requests.cancel(ALICE, run.run_id)
    await fake_rig.ended(run)
    assert (await looker.requests.get(ALICE, run.run_id))["state"] == "cancelled"


async def test_a_log_that_was_cut_is_read_again(fake_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the log no longer has the position, or the broker was down, nothing is returned twice."""
    engine = await fake_rig.node(agent(chatter))
    thread = await fake_rig.thread()
    run = await fake_rig.say(engine, thread)
    await fake_rig.until(run, lambda events: len(events) > 3)
    await engine.requests.cancel(ALICE, run.run_id)
    await fake_rig.ended(run)
    log_cache = RunLogCache(engine._services)
    broker = fake_rig.fake_broker
    whole = await log_cache.of(run)
    assert not log_cache._kept, "of a run that has ended the store's row tells as much"
    history = broker.history

    async def cut(channel: str, *, since: Position | None = None, **rest: Any) -> Page:
        page = await history(channel, since=since, **rest)
        return page if since is None else Page([], page.top, False)

    async def away(channel: str, **rest: Any) -> Page:
        raise DependencyError("broker", "The fake broker is away.")

    monkeypatch.setattr(broker, "history", away)
    with pytest.raises(DependencyError):
        await log_cache.of(run)
    monkeypatch.setattr(broker, "history", cut)
    again = await log_cache.of(run)
    assert (again.seq, again.transcript.text, again.broken) == (whole.seq, whole.transcript.text, False)


async def test_readings_are_bounded(fake_rig: Rig) -> None:
    """Queries about more runs than the limit drop the one that was unused the longest."""
    engine = await fake_rig.node(agent(chatter))
    thread = await fake_rig.thread()
    run = await fake_rig.say(engine, thread)
    log_cache = RunLogCache(engine._services)
    for number in range(MAX_CACHED + 10):
        other = msgspec.structs.replace(run, run_id=f"r-{number}")
        await log_cache.of(other)
    assert len(log_cache._kept) == MAX_CACHED
    oldest, next_oldest = list(log_cache._kept)[:2]
    await log_cache.of(msgspec.structs.replace(run, run_id=oldest[1]))
    await log_cache.of(msgspec.structs.replace(run, run_id="r-another"))
    assert oldest in log_cache._kept, "it was asked for a moment ago"
    assert next_oldest not in log_cache._kept
    await engine.requests.cancel(ALICE, run.run_id)
    await fake_rig.ended(run)
