"""Staging 3: one run through the whole pipeline: accepted, claimed, executed, journalled, compacted."""

from __future__ import annotations

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import fault_of, text_of
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.E2E, incident=True)
async def pipeline_execution(system: SystemUnderTest) -> None:
    """A run goes from accepted to finished, and `run.get` agrees with the wire: text, count and digest."""
    async with system.client() as ada:
        thread = await ada.thread()
        run = await ada.start("echo pipeline", thread)
        events = await ada.whole(thread, run)
        record = await ada.rpc("run.get", run_id=run)
        assert record["state"] == "finished"
        assert record["count"] == events[-1]["count"]
        assert record["digest"] == events[-1]["digest"]
        assert record["text"] == text_of(events)


@scenario(Category.E2E, incident=True)
async def pipeline_error_handling(system: SystemUnderTest) -> None:
    """A run of an agent that does not exist is refused by name, and the next run in the thread works."""
    async with system.client() as ada:
        thread = await ada.thread()
        fault = await fault_of(
            ada.start("hello", thread, agent="no-such-agent"), "a run of an unknown agent was accepted"
        )
        assert fault.code == 404
        assert "agent_not_found" in fault.message
        assert (await ada.ask("echo after the error", thread))[-1]["type"] == "RUN_FINISHED"


@scenario(Category.E2E)
async def thinking_and_tools_are_visible(system: SystemUnderTest) -> None:
    """Reasoning and tool calls stream as events of their own before the answer."""
    async with system.client() as ada:
        kinds = {event["type"] for event in await ada.ask("how healthy is the gateway?")}
        wanted = {
            "TOOL_CALL_START",
            "TOOL_CALL_END",
            "TOOL_CALL_RESULT",
            "TEXT_MESSAGE_START",
            "TEXT_MESSAGE_END",
        }
        assert wanted <= kinds, f"the run lacks {sorted(wanted - kinds)}"
        assert any(kind.startswith("REASONING_") for kind in kinds)


@scenario(Category.E2E)
async def every_opened_thing_is_closed(system: SystemUnderTest) -> None:
    """Each message and tool call that starts in a run ends in it."""
    async with system.client() as ada:
        events = await ada.ask("who am I?")
        for start, end, key in (
            ("TEXT_MESSAGE_START", "TEXT_MESSAGE_END", "messageId"),
            ("TOOL_CALL_START", "TOOL_CALL_END", "toolCallId"),
        ):
            opened = [event[key] for event in events if event["type"] == start]
            closed = [event[key] for event in events if event["type"] == end]
            assert opened
            assert sorted(opened) == sorted(closed)


@scenario(Category.E2E)
async def the_agent_knows_who_asks(system: SystemUnderTest) -> None:
    """The concierge's answer names the identity that the connection has."""
    async with system.client() as ada:
        me = await ada.rpc("whoami")
        assert me["user"] in text_of(await ada.ask("who am I?"))


@scenario(Category.E2E)
async def a_finished_run_is_one_read(system: SystemUnderTest) -> None:
    """Reopening a thread gives finished messages, with nothing left to replay."""
    async with system.client() as ada:
        thread = await ada.thread()
        events = await ada.ask("echo compact me", thread)
        await ada.view(thread)
        async with system.client() as later:
            view = await later.rpc("thread.get", thread_id=thread)
            assert [m["content"] for m in view["messages"] if m["role"] == "assistant"] == [text_of(events)]
            assert view["runs"] == []
            result = await later.follow(thread, offset=view["offset"], epoch=view["epoch"])
            assert result["recovered"]
            assert result.get("publications", []) == []
