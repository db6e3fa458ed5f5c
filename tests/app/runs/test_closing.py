"""Runs that are cancelled in the queue: each gets its terminal event, whatever was down or died at that time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import msgspec
import pytest

from narthex import client
from narthex.adapters.stores.sql.operation import Operation
from narthex.app.runs import closing, loops, requests
from narthex.app.runs.closing import close_cancelled
from narthex.app.runs.run_log_state import read_back
from narthex.app.runs.services import RunServices
from narthex.client.gateway import Gateway
from narthex.domain.channels import channel_key, thread_channel
from narthex.errors import DependencyError
from narthex.ports.agents import Event, RunInput
from narthex.ports.broker import Published
from narthex.ports.runs import Run
from narthex.testing import Running, gateway
from tests.app.runs.rig import ALICE, Rig, agent, kinds
from tests.app.runs.test_takeover import kill
from tests.timing import within

ENDED = ["RUN_STARTED", "RUN_FINISHED"]


async def waits(run: RunInput) -> AsyncIterator[Event | str]:
    """Keeps its thread busy."""
    yield "on it"
    await asyncio.Event().wait()


async def queued(rig: Rig) -> Run:
    """A queued run, on a node that runs no agents itself."""
    gateway = await rig.node(agent(waits), name="gateway", claims=False)
    return await rig.say(gateway, await rig.thread())


async def closed(rig: Rig, run: Run) -> list[dict[str, Any]]:
    """Wait until its end is confirmed; returns its events."""
    async with asyncio.timeout(within(10)):
        while await rig.store.runs.unclosed(9):  # noqa: ASYNC110 - a row of the store, which has no event
            await asyncio.sleep(0.005)
    row, events = await rig.ended(run)
    assert (row.state, kinds(events), events[-1]["result"]) == ("cancelled", ENDED, {"cancelledBy": "alice"})
    return events


async def test_the_broker_is_away(fake_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cancel is acknowledged all the same; once the broker is back, a worker publishes the end."""
    monkeypatch.setattr(requests, "CLOSE_S", 0.05)
    run = await queued(fake_rig)
    fake_rig.fake_broker.fail_publishes = 1_000_000
    assert (await fake_rig.engines[0].requests.cancel(ALICE, run.run_id))["state"] == "cancelled"
    assert await fake_rig.events(run) == []
    await fake_rig.node(agent(waits), name="worker")
    fake_rig.fake_broker.fail_publishes = 0
    await closed(fake_rig, run)
    assert "narthex.run_ended" in [name for name, _ in fake_rig.notices]


async def test_one_that_cannot_be_closed_is_in_no_others_way(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One run's log has something unreadable: the runs behind it get their ends."""
    monkeypatch.setattr(requests, "CLOSE_S", 0.05)
    run = await queued(fake_rig)
    fake_rig.fake_broker.fail_publishes = 1_000_000
    await fake_rig.engines[0].requests.cancel(ALICE, run.run_id)
    runs = fake_rig.fake_store.fake_runs
    runs.rows["0"] = msgspec.structs.replace(runs.rows[run.run_id], run_id="0")
    runs.unclosed_ids.add("0")  # the first by id
    fake_rig.fake_broker.fail_publishes = 0

    async def close(services: RunServices, drop: Callable[[str], Awaitable[None]], found: Run) -> None:
        if found.run_id == "0":
            raise ValueError("no JSON")
        await close_cancelled(services, drop, found)

    monkeypatch.setattr(loops, "close_cancelled", close)
    await fake_rig.node(agent(waits), name="worker")
    async with asyncio.timeout(within(10)):
        while runs.unclosed_ids != {"0"}:  # noqa: ASYNC110 - a row of the store, which has no event
            await asyncio.sleep(0.005)


async def test_the_broker_cannot_even_be_asked(fake_rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the log fails at once: acknowledged, and closed later."""
    run = await queued(fake_rig)

    async def away(*_: Any, **__: Any) -> None:
        raise DependencyError("broker", "It is away.")

    monkeypatch.setattr(fake_rig.fake_broker, "history", away)
    assert (await fake_rig.engines[0].requests.cancel(ALICE, run.run_id))["state"] == "cancelled"
    monkeypatch.undo()
    await fake_rig.node(agent(waits), name="worker")
    await closed(fake_rig, run)


@pytest.mark.parametrize("published", [0, 1, 2])
async def test_the_node_dies_between_the_steps(rig: Rig, published: int) -> None:
    """After the store, after the first event, or after the second and before that is recorded."""
    run = await queued(rig)
    if published == 2:
        await rig.engines[0].requests.cancel(ALICE, run.run_id)
        await _unclose(rig, run)
    else:
        await rig.store.runs.request_cancel("acme", run.run_id, "alice", 0.0)
    if published == 1:
        started = b'{"type":"RUN_STARTED","threadId":"%b","runId":"%b","seq":1}'
        data = started % (run.thread_id.encode(), run.run_id.encode())
        await rig.broker.publish(f"acme/thread:{run.thread_id}", data, key=f"{run.run_id}:1")
    await rig.node(agent(waits), name="worker")
    events = await closed(rig, run)
    assert [event["seq"] for event in events] == [1, 2]


async def test_many_nodes_close_at_once(rig: Rig) -> None:
    """Each of six runs has one end, though four workers and the cancelling node close it."""
    gateway = await rig.node(agent(waits), name="gateway", claims=False)
    thread = await rig.thread()
    runs = [await rig.say(gateway, thread) for _ in range(6)]
    await asyncio.gather(
        *(rig.node(agent(waits), name=f"w{n}") for n in range(4)),
        *(gateway.requests.cancel(ALICE, run.run_id) for run in runs[1:]),
    )
    for run in runs[1:]:
        await closed(rig, run)


async def test_a_closer_whose_log_was_replaced_meanwhile_reads_the_next_one(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another node closed the run in the next log: the one that had read the lost log publishes nothing behind it."""
    run = await queued(fake_rig)
    node = fake_rig.engines[0]
    await fake_rig.store.runs.request_cancel("acme", run.run_id, "alice", 1.0)
    cancelled = await fake_rig.store.runs.get("acme", run.run_id)
    assert cancelled is not None
    channel = channel_key("acme", thread_channel(run.thread_id))
    await fake_rig.broker.publish(channel, b"{}")
    services, local_runs = node._services, node._local_runs
    lost = await read_back(services, cancelled)
    fake_rig.fake_broker.lose()
    await close_cancelled(services, local_runs.drop_waiting, cancelled)
    fake_rig.fake_broker.keys.clear()

    async def as_it_was(*_: object) -> object:
        return lost

    monkeypatch.setattr(closing, "read_back", as_it_was)
    await close_cancelled(services, local_runs.drop_waiting, cancelled)
    assert kinds(await fake_rig.events(run)) == ENDED


async def test_a_deleted_threads_log_does_not_come_back(rig: Rig) -> None:
    """The thread was deleted between the cancel and its end: no part of it stays published."""
    run = await queued(rig)
    await rig.store.runs.request_cancel("acme", run.run_id, "alice", 0.0)
    listed = await rig.store.runs.unclosed(9)
    if rig.store is rig.fake_store:
        del rig.fake_store.fake_runs.rows[run.run_id]
        rig.fake_store.fake_runs.unclosed_ids.clear()
        rig.fake_store.fake_threads.threads.clear()
    else:
        assert await rig.store.threads.delete("acme", run.thread_id) == "deleted"
    engine = rig.engines[0]
    await close_cancelled(engine._services, engine._local_runs.drop_waiting, listed[0])
    assert await rig.events(run) == []


async def test_a_run_that_the_store_forgot_takes_no_log_with_it(fake_rig: Rig) -> None:
    """The store went back to before the cancelled run; its thread is present, and so is the whole log."""
    run = await queued(fake_rig)
    await fake_rig.store.runs.request_cancel("acme", run.run_id, "alice", 0.0)
    listed = await fake_rig.store.runs.unclosed(9)
    del fake_rig.fake_store.fake_runs.rows[run.run_id]
    fake_rig.fake_store.fake_runs.unclosed_ids.clear()
    engine = fake_rig.engines[0]
    await close_cancelled(engine._services, engine._local_runs.drop_waiting, listed[0])
    assert kinds(await fake_rig.events(run)) == ENDED


async def _unclose(rig: Rig, run: Run) -> None:
    """The process died before it recorded that the end is in the log."""
    if rig.store is rig.fake_store:
        rig.fake_store.fake_runs.unclosed_ids.add(run.run_id)
        return
    engine = rig.store._engine  # type: ignore[attr-defined]  # a crash between two steps has no port

    def undo() -> Operation[None]:
        yield "UPDATE runs SET unclosed = 1 WHERE run_id = ?", (run.run_id,)

    await engine.write(undo())


async def test_a_run_that_had_ended_before_the_store_went_back(fake_rig: Rig) -> None:
    """It is queued again, and cancelled: its row gets the end that its log has, and nothing is published."""

    async def brief(run: RunInput) -> AsyncIterator[Event | str]:
        yield "done"

    node = await fake_rig.node(agent(brief), name="n1")
    run = await fake_rig.say(node, await fake_rig.thread())
    first, events = await fake_rig.ended(run)
    kill(node)
    rows = fake_rig.fake_store.fake_runs.rows
    rows[run.run_id] = msgspec.structs.replace(run, state="queued", attempt=0, owner="", started_at=0.0)
    gateway = await fake_rig.node(agent(brief), name="n2", claims=False)
    await gateway.requests.cancel(ALICE, run.run_id)
    row, again = await fake_rig.ended(run)
    assert (row.state, row.text, row.digest, row.count) == ("finished", "done", first.digest, first.count)
    assert again == events


async def test_who_reads_the_run_meanwhile_gets_its_end(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No node has closed it: `run.get` does so first. If the log rejects it, it reports that and shows no part."""
    monkeypatch.setattr(requests, "CLOSE_S", 0.05)
    run = await queued(fake_rig)  # its node runs no agents and no loop
    node = fake_rig.engines[0]
    fake_rig.fake_broker.fail_publishes = 1_000_000
    assert (await node.requests.cancel(ALICE, run.run_id))["state"] == "cancelled"
    with pytest.raises(DependencyError, match="did not take"):
        await node.requests.get(ALICE, run.run_id)
    fake_rig.fake_broker.fail_publishes = 0
    monkeypatch.setattr(requests, "CLOSE_S", within(5))
    seen = await asyncio.gather(*(node.requests.get(ALICE, run.run_id) for _ in range(5)))
    events = await closed(fake_rig, run)
    assert [(one["state"], one["count"], one["digest"]) for one in seen] == [
        ("cancelled", 2, events[-1]["digest"])
    ] * 5


class Withheld:
    """A gateway, and a run that was cancelled in its queue and whose end its log does not accept yet."""

    def __init__(self, running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
        assert running.gateway.parts is not None
        self.running = running
        self.token = running.token("ada")
        self._refused: set[str] = set()
        monkeypatch.setattr(requests, "CLOSE_S", 0.1)
        services = running.gateway.parts.core.engine._services
        publish = services.broker.publish

        async def refusing(channel: str, data: bytes, *, key: str | None = None, **more: Any) -> Published:
            if key is not None and key.partition(":")[0] in self._refused:
                raise DependencyError("broker", "The test refuses it.")
            return await publish(channel, data, key=key, **more)

        monkeypatch.setattr(services.broker, "publish", refusing)

    async def cancelled(self, gateway: Gateway) -> str:
        """Cancel a queued run; returns its id."""
        busy = await gateway.start_run("busy")
        run = await gateway.start_run("next", thread_id=busy.thread_id)
        assert run.queued
        self._refused.add(run.run_id)
        assert (await run.cancel())["state"] == "cancelled"
        return run.run_id

    def release(self) -> None:
        """From now on the log accepts it."""
        self._refused.clear()


@pytest.fixture
async def withheld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Withheld]:
    """See the class."""
    async with gateway(tmp_path, agents=[agent(waits)]) as running:
        yield Withheld(running, monkeypatch)


async def test_a_program_that_follows_the_run_gets_its_end(
    withheld: Withheld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`follow_run` before any loop ran: the run's two events and their proof, not RunIncomplete."""

    async def later(*_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(loops, "close_cancelled", later)
    async with client.connect(withheld.running.ws, get_token=lambda: withheld.token) as one:
        run_id = await withheld.cancelled(one)
        withheld.release()
    async with client.connect(withheld.running.ws, get_token=lambda: withheld.token) as other:
        run = await other.follow_run(run_id)
        assert (await run.wait(within(10))).complete
        assert run.outcome == "cancelled"


async def test_an_agui_stream_of_the_run_ends_with_its_end(withheld: Withheld) -> None:
    """It waits for the terminal event, although the run counts as cancelled already."""
    async with (
        client.connect(withheld.running.ws, get_token=lambda: withheld.token) as one,
        httpx2.AsyncClient(base_url=withheld.running.http, trust_env=False, timeout=within(20)) as http,
    ):
        run_id = await withheld.cancelled(one)
        mine = {"Authorization": f"Bearer {withheld.token}"}
        async with http.stream("GET", f"/agui/bot/runs/{run_id}", headers=mine) as response:
            assert response.status_code == 200
            withheld.release()
            lines = [line async for line in response.aiter_lines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert kinds(events) == ENDED
    assert events[-1]["outcome"] == {"type": "cancelled"}
