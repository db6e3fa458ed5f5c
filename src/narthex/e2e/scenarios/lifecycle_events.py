"""Staging 8: the life of runs, threads and connections as events."""

from __future__ import annotations

import json

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import types_of
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.E2E, incident=True)
async def lifecycle_monitoring(system: SystemUnderTest) -> None:
    """A watcher that started nothing sees a run begin, work and end, with the same ids as its owner."""
    async with system.client() as worker, system.client() as watcher:
        thread = await worker.thread()
        await watcher.follow(thread, offset=0)
        run = await worker.start("watch for 2 seconds", thread)
        seen = await watcher.whole(thread, run, 50)
        assert seen[0]["type"] == "RUN_STARTED"
        assert seen[-1]["type"] == "RUN_FINISHED"
        assert {event["threadId"] for event in seen} == {thread}
        assert any(event["type"].startswith("STEP_") or event["type"] == "TOOL_CALL_START" for event in seen)


@scenario(Category.E2E)
async def a_run_has_one_beginning_and_one_end(system: SystemUnderTest) -> None:
    """RUN_STARTED first, one terminal event last, nothing outside of them."""
    async with system.client() as ada:
        kinds = [event["type"] for event in await ada.ask("echo life")]
        assert kinds.count("RUN_STARTED") == 1
        assert kinds[0] == "RUN_STARTED"
        assert sum(kind in ("RUN_FINISHED", "RUN_ERROR") for kind in kinds) == 1


@scenario(Category.E2E)
async def states_follow_the_table(system: SystemUnderTest) -> None:
    """A run is first queued or running, then finished, and it stays finished."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.start("count to 100", thread)
        assert (await ada.rpc("run.get", run_id=run))["state"] in ("queued", "running")
        await ada.whole(thread, run)
        assert (await ada.rpc("run.get", run_id=run))["state"] == "finished"
        assert (await ada.rpc("run.cancel", run_id=run))["state"] == "finished"


@scenario(Category.E2E)
async def joining_and_leaving_is_seen(system: SystemUnderTest) -> None:
    """Presence lists both devices; the remaining one gets the other's leave notice."""
    async with system.client() as stays:
        thread = await stays.thread()
        async with system.client() as goes:
            await goes.follow(thread)

            async def both() -> bool:
                reply = await stays.command("presence", channel=f"thread:{thread}")
                return {stays.connected["client"], goes.connected["client"]} <= set(reply["presence"])

            await stays.eventually(both, "both devices in the presence")
        await stays.until(
            lambda: any(
                p.leave is not None and p.leave["info"]["client"] == goes.connected["client"]
                for p in stays.pushes
            ),
            "the leave",
        )


@scenario(Category.E2E)
async def a_thread_is_renamed_and_deleted_for_every_device(system: SystemUnderTest) -> None:
    """Both devices get the notices on the user's channel; a deleted thread is gone for good."""
    async with system.client() as one, system.client() as two:
        thread = await one.thread("before")
        await one.rpc("thread.rename", thread_id=thread, title="after")
        await two.until(
            lambda: any(n["name"] == "narthex.thread_renamed" for n in two.notices), "the new name"
        )
        assert "after" in [t["title"] for t in (await two.rpc("thread.list"))["threads"]]
        await one.rpc("thread.delete", thread_id=thread)
        await two.until(
            lambda: any(n["name"] == "narthex.thread_deleted" for n in two.notices), "the deletion"
        )
        assert thread not in [t["thread_id"] for t in (await two.rpc("thread.list"))["threads"]]


@scenario(Category.E2E)
async def tool_calls_have_arguments_and_results(system: SystemUnderTest) -> None:
    """Start, arguments, end and result of a tool call come in that order."""
    async with system.client() as ada:
        events = [e for e in await ada.ask("echo tools") if e["type"].startswith("TOOL_CALL_")]
        assert events, "the run has no tool call"
        first = [event for event in events if event.get("toolCallId") == events[0]["toolCallId"]]
        order = ["TOOL_CALL_START", "TOOL_CALL_ARGS", "TOOL_CALL_END", "TOOL_CALL_RESULT"]
        assert types_of(first) == order, f"start, arguments, end and result came as {types_of(first)}"
        arguments = json.loads("".join(e["delta"] for e in first if e["type"] == "TOOL_CALL_ARGS"))
        assert "tools" in str(arguments), f"the call has the arguments {arguments}"
        assert "tools" in first[-1]["content"], f"the call has the result {first[-1]['content']!r}"
