"""A thread as Markdown: people by name, tools with what they were given and what they returned."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

from narthex.app.thread_view import ThreadView
from narthex.ports.threads import Message, Thread, ThreadMember
from narthex.web.api.export import as_markdown

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
    """The export of a thread with these messages."""

    async def pages() -> AsyncIterator[list[Message]]:
        yield list(messages)

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
    return b"".join([part async for part in as_markdown(view, pages())]).decode()


async def test_people_have_names_and_tools_theirs() -> None:
    """Not `u-1` and `weather (tool)` alone: who said it, which tool, its arguments and its answer."""
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
    """A fence is longer than any in the text; a tool without an answer, or a row that nobody reads, is said so."""
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
