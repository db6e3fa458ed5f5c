"""Staging 4: operations of users on a run: cancel, steer, approve, queue."""

from __future__ import annotations

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import fault_of, text_of
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.E2E)
async def cancel_stops_a_run(system: SystemUnderTest) -> None:
    """Cancel is acknowledged, the run ends `cancelled`, and nothing is published after its end."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.begin("count to 2000", thread, 5)
        await ada.rpc("run.cancel", run_id=run)
        last = (await ada.whole(thread, run))[-1]
        assert last["type"] == "RUN_FINISHED"
        assert last["outcome"]["type"] == "cancelled", (
            f"the run was cancelled and ended with {last['outcome']}"
        )
        await ada.ask("echo after", thread)
        assert ada.run_events(thread, run)[-1] == last


@scenario(Category.E2E)
async def cancel_from_another_device(system: SystemUnderTest) -> None:
    """The second device stops what the first one started."""
    async with system.client() as one, system.client() as two:
        thread = await one.thread()
        run = await one.begin("count to 2000", thread, 5)
        await two.rpc("run.cancel", run_id=run)
        assert (await one.whole(thread, run))[-1]["outcome"]["type"] == "cancelled"


@scenario(Category.E2E)
async def approval_continues_in_a_new_run(system: SystemUnderTest) -> None:
    """A question ends the run with an interrupt; the answer starts a run in which the agent continues."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.start("check with approval", thread)
        last = (await ada.whole(thread, run))[-1]
        assert last["outcome"]["type"] == "interrupt"
        (question,) = (await ada.rpc("thread.get", thread_id=thread))["interrupts"]
        answer = {"run_id": run, "interrupt_id": question["interrupt_id"], "payload": {"approved": True}}
        resumed = (await ada.rpc("run.resume", **answer))["run_id"]
        events = await ada.whole(thread, resumed)
        assert events[0]["parentRunId"] == run
        assert events[-1]["outcome"]["type"] == "success"
        assert text_of(events)


@scenario(Category.E2E)
async def an_approval_is_answered_once(system: SystemUnderTest) -> None:
    """Two devices answer: both get the same new run, and it runs once."""
    async with system.client() as one, system.client() as two:
        thread = await one.thread()
        run = await one.start("check with approval", thread)
        await one.whole(thread, run)
        (question,) = (await one.rpc("thread.get", thread_id=thread))["interrupts"]
        answer = {"run_id": run, "interrupt_id": question["interrupt_id"]}
        first = (await one.rpc("run.resume", **answer, payload={"approved": False}))["run_id"]
        second = (await two.rpc("run.resume", **answer, payload={"approved": True}))["run_id"]
        assert first == second
        await one.whole(thread, first)
        started = [e["runId"] for _, e in one.events[f"thread:{thread}"] if e["type"] == "RUN_STARTED"]
        assert started == [run, first]


@scenario(Category.E2E)
async def steering_reaches_a_running_agent(system: SystemUnderTest) -> None:
    """A message during a slow task is shown to all members and reaches the agent, which ends early."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.begin("watch for 60 seconds", thread, 3)
        assert (await ada.rpc("run.steer", run_id=run, text="enough"))["state"] == "running"
        await ada.until(
            lambda: ada.terminal(thread, run) is not None, "the early end: the agent did not receive `enough`"
        )
        events = await ada.whole(thread, run)
        assert "Enough" in text_of(events)
        assert any(event.get("name") == "narthex.steered" for event in events)


@scenario(Category.E2E)
async def a_busy_thread_queues(system: SystemUnderTest) -> None:
    """The second run of a thread is queued behind the first, and its state says so."""
    async with system.client() as ada:
        thread = await ada.thread()
        first = await ada.begin("count to 200", thread, 2)
        second = await ada.start("echo second", thread)
        assert (await ada.rpc("run.get", run_id=second))["state"] == "queued"
        await ada.rpc("run.cancel", run_id=first)
        await ada.whole(thread, first)
        await ada.whole(thread, second)
        order = [
            e["runId"]
            for _, e in ada.events[f"thread:{thread}"]
            if e["type"] in ("RUN_STARTED", "RUN_FINISHED")
        ]
        assert order == [first, first, second, second]


@scenario(Category.E2E)
async def an_ended_run_cannot_be_steered(system: SystemUnderTest) -> None:
    """Steering an ended run is refused with 409 and a named code."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.start("echo short", thread)
        await ada.whole(thread, run)
        fault = await fault_of(ada.rpc("run.steer", run_id=run, text="too late"), "an ended run was steered")
        assert fault.code == 409
