"""Cutting a thread's log at the history limit, on every broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from narthex.app.retention import Retention
from narthex.domain.plans import PLANS
from narthex.ports.broker import Broker, Page, Position
from narthex.ports.threads import LogCut
from tests.app.runs.fakes import FakeMeter, FakeThreads

THREAD = "default/thread:t1"
COUNT = 40


class OneCut(FakeThreads):
    """A store with one log to cut."""

    def __init__(self, before: float) -> None:
        super().__init__()
        self.cut: LogCut | None = LogCut(tenant="default", thread_id="t1", before=before)

    async def log_cuts(self, limit: int) -> list[LogCut]:
        return [self.cut] if self.cut else []

    async def log_cut_done(self, cut: LogCut) -> None:
        assert cut == self.cut
        self.cut = None


async def cut(broker: Broker, before: float) -> None:
    """A purge that finds that cut."""
    threads = OneCut(before)
    retention = Retention(
        threads, broker, PLANS, FakeMeter(), on_round=lambda _: None, on_fault=lambda _: None
    )
    assert (await retention.purge_once()).logs == 1
    assert threads.cut is None


async def filled(broker: Broker) -> list[float]:
    """The times of the log's publications, all different."""
    for number in range(COUNT):
        await broker.publish(THREAD, b"%d" % number)
        await asyncio.sleep(0.003)  # engines distinguish milliseconds
    return [entry.at for entry in (await broker.history(THREAD)).publications]


@pytest.mark.parametrize("keep_from", [0, 1, 17, COUNT - 1])
async def test_exactly_what_is_older_goes(broker: Broker, keep_from: int) -> None:
    """Exactly the older publications are deleted; offsets and epoch continue, and the rest can be recovered."""
    moments = await filled(broker)
    assert moments == sorted(moments)
    before = await broker.history(THREAD, limit=0)
    await cut(broker, moments[keep_from])
    page = await broker.history(THREAD)
    assert [entry.offset for entry in page.publications] == list(range(keep_from + 1, COUNT + 1))
    assert page.top == before.top
    assert (await broker.history(THREAD, since=Position(keep_from, page.top.epoch))).complete


async def test_all_of_it_may_be_older(broker: Broker) -> None:
    """An empty log, or one that never existed, can be cut as well."""
    moments = await filled(broker)
    for _ in range(2):
        await cut(broker, moments[-1] + 1.0)
        page = await broker.history(THREAD)
        assert (page.publications, page.top.offset) == ([], COUNT)
    await cut(broker, 0.0)
    assert (await broker.history(THREAD)).top.offset == 0
    await cut(broker, 0.0)


async def test_a_log_that_is_replaced_during_the_search_is_searched_anew(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Offsets that were found in the old log name other publications in the new one: none of those goes."""
    moments = await filled(broker)
    history, reads = broker.history, 0

    async def replaced(channel: str, **asked: Any) -> Page:
        nonlocal reads
        reads += 1
        if reads == 4:
            await broker.remove(THREAD)
            await filled(broker)
        return await history(channel, **asked)

    monkeypatch.setattr(broker, "history", replaced)
    await cut(broker, moments[COUNT - 1])
    monkeypatch.undo()
    page = await broker.history(THREAD)
    assert ([entry.offset for entry in page.publications], page.complete) == ([*range(1, COUNT + 1)], True)
