"""`useChat` of Vercel's AI SDK, unmodified, in real Chromium with `NarthexChatTransport`, on two gateways."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.acceptance.kit_page import PAGES, KitPage, Kits, kits, tab
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

PAGE: Final = "ai-sdk"
READY: Final = "chat.status === 'ready'"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kits]:
    async with kits(tmp_path_factory.mktemp("kits"), PAGES) as started:
        yield started


async def finished(page: KitPage, answers: int = 1) -> None:
    """Wait until so many answers have ended."""
    await page.until(
        "chat.status !== 'streaming' && chat.status !== 'submitted' && chat.messages.filter((one) => "
        f"one.role === 'assistant' && one.metadata?.narthex?.state !== 'running').length === {answers}"
    )


async def messages(page: KitPage) -> list[dict[str, Any]]:
    """The page's messages, without what only a stream has: figures of the run, and a text that was stopped on this
    page and not on another.
    """
    shown: list[dict[str, Any]] = await page.value("chat.messages")
    for one in shown:
        one.pop("metadata", None)
        for part in one["parts"]:
            if part["type"] == "text":
                part.pop("state", None)
    return shown


async def test_an_answer_with_a_thought_a_tool_and_tokens(browser: Browser, found: Kits) -> None:
    """Every part of the answer is there, and a reload shows the same messages without another call of the model."""
    async with tab(browser, found, PAGE) as page:
        await page.open()
        await page.send("weather Lima")
        await page.shows("It is 21 degrees in Lima.")
        await finished(page)
        user, answer = await page.value("chat.messages")
        assert [part["type"] for part in answer["parts"]] == [
            "step-start",
            "reasoning",
            "tool-weather",
            "text",
        ]
        tool = answer["parts"][2]
        assert (tool["state"], tool["input"], tool["output"], tool["providerExecuted"]) == (
            "output-available",
            {"city": "Lima"},
            {"degrees": 21},
            True,
        )
        told = answer["metadata"]["narthex"]
        assert (told["state"], told["complete"]) == ("finished", True)
        assert told["usage"] == [{"model": "scripted", "inputTokens": 7, "outputTokens": 11}]
        assert told["runId"] == answer["id"]
        assert await page.value("[painted, states]") == [[], [{"asked": ["Lima"]}]]
        assert await page.value("finished") == [{"isAbort": False, "isError": False, "finishReason": "stop"}]
        seen = await messages(page)
        await page.open(1)
        assert await messages(page) == seen
        assert (user["role"], await page.value(READY)) == ("user", True)
        page.check()
    assert found.calls("user weather Lima") == 1


async def test_a_reload_in_mid_run_on_another_gateway(browser: Browser, found: Kits) -> None:
    """The run goes on, the page shows the same messages as one that stayed, and the model is called once."""
    async with tab(browser, found, PAGE) as stays, tab(browser, found, PAGE, stays.chat) as reloads:
        await reloads.open()
        await reloads.send("weather Oslo")
        await finished(reloads)
        await stays.open()
        await reloads.send("wait reload")
        await reloads.shows("Waiting for reload")
        await reloads.open(1)
        await reloads.shows("Waiting for reload")
        await reloads.until("chat.status === 'streaming'")
        await stays.shows("Waiting for reload")
        found.open_gate("reload")
        for page in (reloads, stays):
            await page.shows("Waiting for reload and done.")
            await finished(page, 2)
        assert await messages(reloads) == await messages(stays)
        assert len(await messages(reloads)) == 4
        for page in (reloads, stays):
            page.check()
    assert found.calls("user wait reload") == 1


async def test_stop_cancels_the_run(browser: Browser, found: Kits) -> None:
    """Stop ends the run at the gateway, before the page shows any of it and after a reload too; it can go on then."""
    async with tab(browser, found, PAGE) as page:
        await page.open()
        await page.send("wait stop-1")
        await page.shows("Waiting for stop-1")
        pressed = time.time()
        await page.stop()
        took = await found.cancelled("stop-1") - pressed
        print(f"time to stop: {took * 1000:.0f} ms")
        assert took < within(10)
        await page.until(READY)

        await page.send("wait stop-2")
        await page.shows("Waiting for stop-2")
        await page.open(1)
        await page.shows("Waiting for stop-2")
        await page.stop()
        await found.cancelled("stop-2")

        await page.send("hello again")
        await page.shows("You said: hello again")
        await page.until(READY)
        states = [one["state"] for one in (await found.thread(page.chat))["endedRuns"]]
        assert states == ["cancelled", "cancelled", "finished"]
        page.check()


async def test_a_second_tab_shows_and_stops_the_run_of_the_first(browser: Browser, found: Kits) -> None:
    """An open tab gets the other's message and answer; its Stop ends the run, and the first tab says so."""
    async with tab(browser, found, PAGE) as first, tab(browser, found, PAGE, first.chat) as second:
        await first.open()
        await second.open(1)
        await first.send("wait tabs")
        for page in (first, second):
            await page.shows("Waiting for tabs")
        await second.until("chat.status === 'streaming'")
        await second.stop()
        await found.cancelled("tabs")
        await finished(first)
        last = (await first.value("chat.messages"))[-1]
        assert last["metadata"]["narthex"]["state"] == "cancelled"
        assert (await first.value("finished"))[-1]["finishReason"] == "other"

        await found.idle(first.chat)
        await second.send("from the second")
        for page in (first, second):
            await page.shows("You said: from the second")
            await page.until(READY)
        assert await messages(first) == await messages(second)
        for page in (first, second):
            page.check()


async def test_a_tool_of_the_page(browser: Browser, found: Kits) -> None:
    """The page runs it once, its result goes on in the same message, and a reload shows one message too."""
    async with tab(browser, found, PAGE) as page:
        await page.open()
        await page.send("paint red")
        await page.shows("The page answered done.")
        await finished(page)
        assert await page.value("painted") == [{"colour": "red"}]
        seen = await messages(page)
        assert [one["role"] for one in seen] == ["user", "assistant"]
        kinds = [part["type"] for part in seen[1]["parts"]]
        assert kinds == ["step-start", "text", "tool-paint", "step-start", "text"]
        assert await page.value("finished.map((one) => one.finishReason)") == ["tool-calls", "stop"]
        await page.open(1)
        await page.shows("The page answered done.")
        assert await messages(page) == seen
        assert await page.value("painted") == []
        page.check()
    assert found.calls("user paint red") == 1


async def test_questions(browser: Browser, found: Kits) -> None:
    """A question is answered after a reload, an approval of a tool at once; both go on in their message."""
    async with tab(browser, found, PAGE) as page:
        await page.open()
        await page.send("ask leave")
        await page.shows("May I leave?")
        await page.open(1)
        await page.page.get_by_role("button", name="Yes").click()
        await page.shows("I did leave.")
        await finished(page)
        [question] = await page.value(
            "chat.messages[1].parts.filter((part) => part.type === 'data-interrupt')"
        )
        assert (question["data"]["message"], question["data"]["answeredBy"]) == ("May I leave?", "ada")
        assert await page.page.locator("fieldset").get_attribute("disabled") is not None

        await page.send("delete notes.txt")
        await page.page.get_by_role("button", name="Approve").click()
        await page.shows("notes.txt: deleted.")
        await finished(page, 2)
        tool = page.page.locator("section[data-tool=tool-delete]")
        assert await tool.get_attribute("data-state") == "output-available"
        seen = await messages(page)
        assert [one["role"] for one in seen] == ["user", "assistant"] * 2
        await page.open(1)
        again = await messages(page)
        for one in (seen, again):
            for part in one[3]["parts"]:
                part.pop("approval", None)  # an answered one is not stored
                part.get("data", {}).pop("expiresAt", None)  # by the store's clock, milliseconds later
        assert again == seen
        page.check()


async def test_an_agent_that_fails(browser: Browser, found: Kits) -> None:
    """Its reason is the chat's error, and stands in the message's metadata after a reload; the next message works."""
    async with tab(browser, found, PAGE) as page:
        await page.open()
        await page.send("fail me")
        alert = page.page.get_by_role("alert")
        await alert.wait_for()
        assert await alert.inner_text() == "The model said no to me."
        error = {"code": "agent_failed", "message": "The model said no to me."}
        assert (await page.value("chat.messages"))[-1]["metadata"]["narthex"]["error"] == error
        await page.send("hello")
        await page.shows("You said: hello")
        await finished(page, 2)
        await page.open(1)
        failed = (await page.value("chat.messages"))[1]
        assert failed["metadata"]["narthex"] == {"runId": failed["id"], "state": "failed", "error": error}
        page.check()
