"""A thread as Markdown: users by name, tools with their arguments and results."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from typing import Any

from narthex.app.thread_view import EndedBetween, EndedRun, ThreadView
from narthex.domain.runs import RunState
from narthex.ports.threads import Message, Thread, ThreadMember
from narthex.web.api.export import as_json, as_markdown

DETAIL = {"toolCallName": "get_weather", "args": '{"city":"Paris"}', "answered": True}


def message(role: str, author: str, content: str, detail: object = None) -> Message:
    """One message of a thread."""
    text = json.dumps(detail) if detail is not None else "{}"
    return Message(
        message_id=content[:8],
        thread_id="t",
        role=role,
        author=author,
        content=content,
        created_at=0.0,
        detail=text,
    )


async def markdown(*messages: Message) -> str:
    """The export of a thread with these messages, and no run that failed."""
    return await exported(as_markdown, [list(messages)], [])


async def exported(
    form: Callable[[ThreadView, AsyncIterator[list[Message]], EndedBetween], AsyncIterator[bytes]],
    written: list[list[Message]],
    runs: list[EndedRun],
) -> str:
    """The export of a thread with these pages of messages and these ended runs."""

    async def pages() -> AsyncIterator[list[Message]]:
        for page in written:
            yield page

    async def ended(since: float, before: float | None) -> list[EndedRun]:
        return [
            run for run in runs if since <= run.created_at and (before is None or run.created_at < before)
        ]

    thread = Thread(
        thread_id="t", tenant="default", title="A  title", created_by="u-1", created_at=0, updated_at=0
    )
    view = ThreadView(
        thread=thread,
        role="owner",
        messages=[],
        members=[ThreadMember(user_id="u-1", role="owner", joined_at=0)],
        runs=[],
        outcomes=[],
        interrupts=[],
        invited=[],
        channel="thread:t",
        offset=0,
        epoch="e",
    )
    return b"".join([part async for part in form(view, pages(), ended)]).decode()


async def test_people_have_names_and_tools_theirs() -> None:
    """Not only `u-1` and `weather (tool)`: the author's name, the tool, its arguments and its result."""
    text = await markdown(
        message("user", "u-1", "hi", {"name": "Ada Lovelace"}),
        message("user", "ada", "hi", {"name": "ada"}),
        message("tool", "weather", "17 degrees", DETAIL),
        message("assistant", "weather", "It is **mild**."),
        message("reasoning", "weather", "hm"),
    )
    assert "\n## Ada Lovelace (u-1) · 1970-01-01 00:00:00 UTC\n\nhi\n" in text
    assert "\n## ada · " in text
    assert "\n## weather (tool get_weather) · " in text
    assert 'Given:\n\n```\n{"city":"Paris"}\n```\n\nReturned:\n\n```\n17 degrees\n```\n' in text
    assert "\n## weather · 1970-01-01 00:00:00 UTC\n\nIt is **mild**.\n" in text
    assert "\n## weather (thought) · " in text


async def test_what_a_tool_returns_cannot_leave_its_block() -> None:
    """A fence is longer than any in the text; a tool without an answer, or an unreadable row, is marked as such."""
    text = await markdown(
        message("tool", "a", "```\n## not a heading\n````", DETAIL | {"args": "{}"}),
        message("tool", "a", "", DETAIL | {"answered": False, "args": ""}),
        Message(
            message_id="x",
            thread_id="t",
            role="tool",
            author="a",
            content="x",
            created_at=0,
            detail="[broken",
        ),
    )
    assert "Returned:\n\n`````\n```\n## not a heading\n````\n`````\n" in text
    assert "Given" not in text
    assert "Returned:\n\nno answer\n" in text
    assert "\n## a (tool) · " in text


def said(text: str, at: float, run_id: str = "") -> Message:
    """A message with this time."""
    return Message(
        message_id=text,
        thread_id="t",
        role="assistant" if run_id else "user",
        author="bot" if run_id else "u-1",
        content=text,
        created_at=at,
        run_id=run_id,
    )


def ended_run(run_id: str, state: RunState, began: float, ended: float, **more: Any) -> EndedRun:
    """A run that ended."""
    fields: dict[str, Any] = {
        "started_at": began,
        "cancel_requested_by": "",
        "error": "",
        "error_message": "",
    }
    return EndedRun(
        run_id=run_id,
        state=state,
        agent="bot",
        user_id="u-1",
        message_id="m",
        parent_run_id="",
        created_at=began,
        finished_at=ended,
        attempt=1,
        count=0,
        digest="",
        questions=[],
        usage="",
        result="",
        **(fields | more),
    )


RUNS = [
    ended_run("r1", RunState.FAILED, 1.0, 3.0, error="agent_failed", error_message="The model\nis away."),
    ended_run("r2", RunState.FINISHED, 4.0, 5.0),
    ended_run("r3", RunState.CANCELLED, 6.0, 7.0, started_at=0.0, cancel_requested_by="ada"),
    ended_run("r4", RunState.CANCELLED, 8.0, 9.0),
]
WRITTEN = [
    [said("first", 1.0), said("half", 2.0, "r1"), said("second", 4.0)],
    [said("whole", 4.5, "r2"), said("third", 6.0), said("fourth", 8.0)],
]


async def test_runs_that_failed_or_were_stopped_are_listed_where_they_ended() -> None:
    """A run without output is listed too; a finished one needs no line of its own."""
    text = await exported(as_markdown, WRITTEN, RUNS)
    headings = [line.partition(" · ")[0] for line in text.splitlines() if line.startswith("## ")]
    assert headings == [
        *("## u-1", "## bot", "## bot (run failed)", "## u-1", "## bot"),
        *("## u-1", "## bot (run stopped)", "## u-1", "## bot (run stopped)"),
    ]
    assert "· 1970-01-01 00:00:03 UTC\n\nThe run failed: The model is away. (`agent_failed`)\n" in text
    assert "\n\nThe run was stopped by ada before it began.\n" in text
    assert text.endswith("\n\nThe run was stopped.\n")


async def test_json_has_each_outcome_of_the_thread_once() -> None:
    """Also those of earlier pages; with no messages at all too."""
    whole = json.loads(await exported(as_json, WRITTEN, RUNS))
    assert [one["run_id"] for one in whole["outcomes"]] == ["r1", "r2", "r3", "r4"]
    assert [one["message_id"] for one in whole["messages"]][:2] == ["first", "half"]
    assert whole["epoch"] == "e"
    silent = json.loads(await exported(as_json, [], RUNS))
    assert len(silent["outcomes"]) == 4
