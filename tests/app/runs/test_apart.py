"""Gateways that claim no runs and workers that do: which node runs what, how soon, and how fairly."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import msgspec
import pytest

from narthex.app.health import Degraded
from narthex.app.runs.worker_presence import WorkerPresence, present_workers, workers_check
from narthex.domain.identity import Identity
from narthex.errors import DependencyError
from narthex.ports.agents import Event, RunInput
from narthex.ports.broker import Control
from tests.app.runs.rig import QUICK, Rig, agent, text_of

on_sqlite = pytest.mark.parametrize("rig", ["sqlite"], indirect=True)
"""The fakes are not fair and have no presence."""
SELDOM = msgspec.structs.replace(QUICK, poll_s=3_600)


async def who(run: RunInput) -> AsyncIterator[Event | str]:
    """Says hello."""
    yield "hello"


async def test_a_gateway_accepts_and_a_worker_runs(rig: Rig) -> None:
    """The run goes to the worker at once, by control message, and not at its next poll."""
    gateway = await rig.node(agent(who), name="n1", claims=False)
    worker = await rig.node(agent(who), name="n2", limits=SELDOM)
    if rig.broker is rig.fake_broker:  # its fake does not deliver control messages itself
        run = await rig.say(gateway, await rig.thread())
        assert rig.fake_broker.controls == [Control("runs_available", {})]
        worker.control(rig.fake_broker.controls[0])
    else:
        run = await rig.say(gateway, await rig.thread())
    row, events = await rig.ended(run)
    assert row.state == "finished"
    assert text_of(events) == "hello"
    assert gateway.active == 0
    await gateway.drain(0.1)


async def test_a_lost_announcement_fails_nobody(fake_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run is stored by then: the worker finds it at its next poll."""
    rig = fake_rig
    gateway = await rig.node(agent(who), claims=False)

    async def away(_: Control) -> None:
        raise DependencyError("broker", "away", "wait")

    monkeypatch.setattr(rig.fake_broker, "control", away)
    run = await rig.say(gateway, await rig.thread())
    await rig.node(agent(who), name="n2")
    assert (await rig.ended(run))[0].state == "finished"


@on_sqlite
async def test_a_worker_is_fair_between_tenants(rig: Rig) -> None:
    """Twenty runs of one tenant wait before two of another: with three slots, both are among the first four."""
    gateway = await rig.node(agent(who), name="n1", claims=False)
    crowd = [Identity(subject=f"u{n}", tenant="acme") for n in range(20)]
    few = [Identity(subject=f"v{n}", tenant="small") for n in range(2)]
    for one in (*crowd, *few):
        await rig.say(gateway, await rig.thread(one), who=one)
    begun: list[str] = []
    gate = asyncio.Event()

    async def waits(run: RunInput) -> AsyncIterator[Event | str]:
        begun.append(run.user.tenant)
        await gate.wait()
        yield "done"

    limits = msgspec.structs.replace(QUICK, max_running=4)
    await rig.node(agent(waits), name="n2", limits=limits)
    await rig.comes(lambda: len(begun) == 4)
    assert sorted(begun) == ["acme", "acme", "small", "small"]
    gate.set()
    await rig.comes(lambda: len(begun) == 22)


@on_sqlite
async def test_workers_are_seen_while_they_are_there(rig: Rig) -> None:
    """Health is degraded while no worker runs a requested agent."""
    check = workers_check(rig.broker, ["bot"])
    with pytest.raises(Degraded, match="no worker runs bot"):
        await check()
    presence = WorkerPresence(rig.broker, "w1", ["bot"], rig.meter)
    await presence.start()
    async with asyncio.timeout(5):
        while not await present_workers(rig.broker):  # noqa: ASYNC110 - presence is asked for, it tells nobody here
            await asyncio.sleep(0.01)
    assert await check() == "1 workers"
    await presence.stop()
    await presence.stop()
    assert await present_workers(rig.broker) == {}
