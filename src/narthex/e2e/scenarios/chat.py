"""Chat: threads, messages and their notices to other devices."""

from __future__ import annotations

import time

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import fault_of, text_of
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.CHAT)
async def a_thread_from_its_making_to_its_end(system: SystemUnderTest) -> None:
    """A thread is created, listed first, renamed, read, deleted, gone."""
    async with system.client() as ada:
        thread = await ada.thread("one")
        first = (await ada.rpc("thread.list"))["threads"][0]
        assert system.proof.token or first["thread_id"] == thread, "the newest thread is not listed first"
        await ada.rpc("thread.rename", thread_id=thread, title="two")
        assert (await ada.rpc("thread.get", thread_id=thread))["thread"]["title"] == "two"
        await ada.rpc("thread.delete", thread_id=thread)
        fault = await fault_of(ada.rpc("thread.get", thread_id=thread), "a deleted thread was read")
        assert fault.code == 404


@scenario(Category.CHAT)
async def a_conversation_keeps_its_order(system: SystemUnderTest) -> None:
    """Three questions and answers are read back in the order in which they were sent."""
    async with system.client() as ada:
        thread = await ada.thread()
        for number in range(3):
            await ada.ask(f"echo turn {number}", thread)
        messages = (await ada.view(thread))["messages"]
        said = [(m["role"], m["content"]) for m in messages if m["role"] in ("user", "assistant")]
        assert [role for role, _ in said] == ["user", "assistant"] * 3, f"{said}"
        assert [words for role, words in said if role == "user"] == [f"echo turn {n}" for n in range(3)]


@scenario(Category.CHAT)
async def what_the_other_device_says_arrives(system: SystemUnderTest) -> None:
    """A user's own message reaches every device that follows the thread, once, with its author."""
    async with system.client() as one, system.client() as two:
        thread = await one.thread()
        await two.follow(thread, offset=0)
        run = await one.start("echo hello there", thread)
        await two.whole(thread, run)
        mine = [e for _, e in two.events[f"thread:{thread}"] if "runId" not in e and e.get("role") == "user"]
        words = "".join(e.get("delta", "") for _, e in two.events[f"thread:{thread}"] if "runId" not in e)
        assert mine, "the message itself was not published"
        assert words == "echo hello there", f"the message arrived as {words!r}"


@scenario(Category.CHAT)
async def a_long_message_goes_through(system: SystemUnderTest) -> None:
    """30 KB in one word go there and come back unchanged."""
    text = "".join(f"{number:05d}" for number in range(6_000))
    async with system.client() as ada:
        answer = text_of(await ada.ask(f"echo {text}"))
        assert answer == text, f"{len(answer)} of {len(text)} characters came back"


@scenario(Category.CHAT)
async def a_thread_can_be_taken_along(system: SystemUnderTest) -> None:
    """The export holds the conversation as JSON and as Markdown, for its owner only."""
    async with system.client() as ada:
        thread = await ada.thread("export me")
        await ada.ask("echo take me along", thread)
        await ada.view(thread)
        headers = await system.headers()
        for form in ("json", "md"):
            answer = await system.get(f"/api/v1/threads/{thread}/export?format={form}", headers=headers)
            assert answer.status_code == 200
            assert "take me along" in answer.text
        assert (await system.get(f"/api/v1/threads/{thread}/export")).status_code == 401


@scenario(Category.CHAT)
async def what_was_said_is_found(system: SystemUnderTest) -> None:
    """`thread.search` finds a word of a message, with its thread."""
    async with system.client() as ada:
        word = f"needle{time.monotonic_ns()}"
        thread = await ada.thread("search me")
        await ada.ask(f"echo {word}", thread)
        await ada.view(thread)
        hits = (await ada.rpc("thread.search", text=word))["hits"]
        assert {hit["thread_id"] for hit in hits} == {thread}, f"{hits}"


@scenario(Category.CHAT)
async def typing_is_seen_and_not_kept(system: SystemUnderTest) -> None:
    """Another device sees the typing notice, which takes no offset in the thread."""
    async with system.client() as one, system.client() as two:
        thread = await one.thread()
        before = (await two.follow(thread)).get("offset", 0)
        await one.rpc("typing", thread_id=thread)
        await two.until(lambda: any("typing" in str(push) for push in two.pushes), "the typing notice")
        view = await two.rpc("thread.get", thread_id=thread)
        assert view["offset"] == before, "a typing notice has an offset"
