"""CopilotKit and assistant-ui, unmodified, in real Chromium, on two gateways.

Each kit's packages are its own (`web/test/kits/<kit>`) and are installed when the first test needs them. CopilotKit has
500 MB of them: its tests are `soak`; the requests that it makes are sent in `tests/web/agui`.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Locator

from tests.acceptance.kit_page import PAGES, KitPage, Kits, kits, tab
from tests.security.test_browser import chromium
from tests.services import missing
from tests.timing import within

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(within(300)),
]

IDLE: Final = "!window.running"
INSTALL_S: Final = 600


class CopilotPage(KitPage):
    """CopilotKit's chat, whose button sends or stops."""

    @property
    def message(self) -> Locator:
        """See KitPage."""
        return self.page.get_by_test_id("copilot-chat-textarea")

    @property
    def send_button(self) -> Locator:
        """See KitPage."""
        return self.page.get_by_test_id("copilot-send-button")

    @property
    def stop_button(self) -> Locator:
        """See KitPage."""
        return self.send_button


KINDS: Final[dict[str, type[KitPage]]] = {"copilotkit": CopilotPage, "assistant-ui": KitPage}


def install(folder: Path) -> None:
    """Install a kit's packages as its lock file says, unless they are there."""
    stamp, lock = folder / "node_modules" / ".lock", (folder / "package-lock.json").read_text()
    if stamp.exists() and stamp.read_text() == lock:
        return
    npm = shutil.which("npm")
    if npm is None:
        missing("npm", "apt-get install nodejs npm")
    done = subprocess.run(
        [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=INSTALL_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    stamp.write_text(lock)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Playwright answers for the page, so that Chromium does not know it as one of this machine."""
    async with chromium("--disable-features=LocalNetworkAccessChecks") as started:
        yield started


class Kit:
    """One kit's pages.

    Attributes:
        name: of the kit and its page.
        found: the gateways behind it.
    """

    def __init__(self, name: str, found: Kits) -> None:
        self.name = name
        self.found = found

    def tab(self, browser: Browser, chat: str = "") -> Any:
        """A page in a profile of its own."""
        return tab(browser, self.found, self.name, chat, kind=KINDS[self.name])


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=[pytest.param("copilotkit", marks=pytest.mark.soak), "assistant-ui"],
)
async def kit(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kit]:
    await asyncio.to_thread(install, PAGES / request.param)
    async with kits(tmp_path_factory.mktemp("kits"), PAGES / request.param) as found:
        yield Kit(request.param, found)


async def shown(page: KitPage) -> list[tuple[str, Any, Any]]:
    """The conversation in AG-UI's form: role, text and calls of each message that has any of it."""
    found: list[dict[str, Any]] = await page.value("window.messages")
    return [
        (one["role"], one.get("content"), [call["function"] for call in one.get("toolCalls", [])])
        for one in found
        if one.get("content") or one.get("toolCalls")
    ]


async def texts(page: KitPage) -> list[str]:
    """All texts of the conversation. assistant-ui puts a call and the text behind it into one message or into two."""
    found = await page.value("window.messages.map((one) => one.content).filter(Boolean)")
    return sorted(str(text).replace(" ", "") for text in found)


async def test_a_conversation_with_a_thought_and_a_tool(browser: Browser, kit: Kit) -> None:
    """Streamed, with the tool drawn by the page; a reload shows the same without a call of the model."""
    async with kit.tab(browser) as page:
        await page.open()
        await page.send("weather Lima")
        await page.shows("It is 21 degrees in Lima.")
        await page.until(IDLE)
        tool = page.page.locator("section[data-tool=weather]")
        assert (await tool.inner_text()).replace(" ", "") == 'Lima:{"degrees":21}'
        said = await texts(page)
        await page.open(1)
        await page.shows("It is 21 degrees in Lima.")
        await page.until(IDLE)
        assert await texts(page) == said
        assert (await tool.inner_text()).replace(" ", "") == 'Lima:{"degrees":21}'
        page.check()
    assert kit.found.calls("user weather Lima") == 1


async def test_a_reload_in_mid_run_on_another_gateway(browser: Browser, kit: Kit) -> None:
    """The page shows what one that stayed shows, and what a later reload shows; the model is called once."""
    async with kit.tab(browser) as stays, kit.tab(browser, stays.chat) as page:
        await page.open()
        await page.send("hello")
        await page.shows("You said: hello")
        await page.until(IDLE)
        await stays.open()
        await stays.shows("You said: hello")
        await page.send("wait reload")
        await page.shows("Waiting for reload")
        await page.open(1)
        await page.shows("Waiting for reload")
        await stays.shows("Waiting for reload")
        kit.found.open_gate("reload")
        for one in (page, stays):
            await one.shows("Waiting for reload and done.")
            await one.until(IDLE)
        wanted: list[tuple[str, Any, Any]] = [
            ("user", "hello", []),
            ("assistant", "You said: hello", []),
            ("user", "wait reload", []),
            ("assistant", "Waiting for reload and done.", []),
        ]
        assert await shown(page) == wanted
        assert await shown(stays) == wanted
        await page.open()
        await page.shows("Waiting for reload and done.")
        await page.until(IDLE)
        assert await shown(page) == wanted
        for one in (page, stays):
            one.check()
    assert kit.found.calls("user wait reload") == 1


async def test_stop_cancels_the_run(browser: Browser, kit: Kit) -> None:
    """At the gateway, and after a reload too; the conversation goes on then."""
    async with kit.tab(browser) as page:
        await page.open()
        await page.send("wait stop-1")
        await page.shows("Waiting for stop-1")
        pressed = time.time()
        await page.stop()
        print(f"time to stop: {(await kit.found.cancelled('stop-1') - pressed) * 1000:.0f} ms")
        await page.until(IDLE)
        await kit.found.idle(page.chat)
        await page.send("wait stop-2")
        await page.shows("Waiting for stop-2")
        await page.open(1)
        await page.shows("Waiting for stop-2")
        await page.stop()
        await kit.found.cancelled("stop-2")
        await page.until(IDLE)
        await kit.found.idle(page.chat)
        await page.send("hello again")
        await page.shows("You said: hello again")
        await page.until(IDLE)
        states = [one["state"] for one in (await kit.found.thread(page.chat))["endedRuns"]]
        assert states == ["cancelled", "cancelled", "finished"]
        page.check()


async def test_a_second_tab_shows_and_stops_the_run_of_the_first(browser: Browser, kit: Kit) -> None:
    """An open tab gets the other's message and answer, on another gateway; its Stop ends the run."""
    async with kit.tab(browser) as first, kit.tab(browser, first.chat) as second:
        await first.open()
        await second.open(1)
        await first.send("wait tabs")
        for page in (first, second):
            await page.shows("Waiting for tabs")
        await second.stop()
        await kit.found.cancelled("tabs")
        for page in (first, second):
            await page.until(IDLE)
        await kit.found.idle(first.chat)
        await second.send("from the second")
        for page in (first, second):
            await page.shows("You said: from the second")
            await page.until(IDLE)
        assert await shown(first) == await shown(second)
        for page in (first, second):
            page.check()


async def test_a_tool_of_the_page(browser: Browser, kit: Kit) -> None:
    """The page runs it once, its result goes on; after a reload it is drawn and not run again."""
    async with kit.tab(browser) as page:
        await page.open()
        await page.send("paint red")
        await page.shows("The page answered done.")
        await page.until(IDLE)
        assert await page.value("painted") == [{"colour": "red"}]
        await page.open(1)
        await page.shows("The page answered done.")
        assert await page.page.locator("section[data-tool=paint]").inner_text() == "red"
        assert await page.value("painted") == []
        page.check()
    assert kit.found.calls("user paint red") == 1


async def test_a_tool_that_asks_the_user_is_answered_after_a_reload(browser: Browser, kit: Kit) -> None:
    """Human in the loop: the agent's call waits for the user, on any gateway."""
    async with kit.tab(browser) as page:
        await page.open()
        await page.send("confirm a.txt")
        await page.shows("Publish a.txt?")
        await page.open(1)
        await page.page.get_by_role("button", name="Publish").click()
        await page.shows("The page answered published.")
        await page.until(IDLE)
        page.check()


async def test_an_interrupt_is_answered_at_once_and_after_a_reload(browser: Browser, kit: Kit) -> None:
    """The agent goes on with what the user said."""
    async with kit.tab(browser) as page:
        await page.open()
        await page.send("ask leave")
        await page.shows("May I leave?")
        await page.page.get_by_role("button", name="Yes").click()
        await page.shows("I did leave.")
        await page.until(IDLE)
        await page.send("ask stay")
        await page.shows("May I stay?")
        await page.open(1)
        await page.page.get_by_role("button", name="No").click()
        await page.shows("I left it: no reason.")
        await page.until(IDLE)
        assert await page.page.get_by_text("May I").count() == 0
        page.check()


async def test_a_question_that_another_tab_answers(browser: Browser, kit: Kit) -> None:
    """The tab that still shows it gets the run that goes on, and its user can send."""
    async with kit.tab(browser) as first, kit.tab(browser, first.chat) as second:
        await first.open()
        await second.open(1)
        await first.send("ask leave")
        for page in (first, second):
            await page.shows("May I leave?")
            await page.until(IDLE)
        await second.page.get_by_role("button", name="Yes").click()
        for page in (first, second):
            await page.shows("I did leave.")
            await page.until(IDLE)
        await first.send("hello after")
        for page in (first, second):
            await page.shows("You said: hello after")
            assert await page.page.get_by_text("May I").count() == 0
            await page.until(IDLE)
            page.check()


async def test_a_message_beside_an_open_question(browser: Browser, kit: Kit) -> None:
    """An open tab shows it and its answer; the question stays open and can be answered."""
    if kit.name != "assistant-ui":  # `@ag-ui/client` takes the end of any run for the end of the questions
        return
    async with kit.tab(browser) as page:
        await page.open()
        await page.send("ask go")
        await page.shows("May I go?")
        await page.until(IDLE)
        messages = [{"id": "beside", "role": "user", "content": "and this"}]
        await kit.found.gateways[1].post(
            "/agui/model",
            json={"threadId": page.chat, "runId": "beside", "messages": messages},
            headers={"Authorization": f"Bearer {page.token}"},
            timeout=within(20),
        )
        await page.shows("You said: and this")
        await page.until(IDLE)
        await page.page.get_by_role("button", name="Yes").click()
        await page.shows("I did go.")
        await page.until(IDLE)
        page.check()


async def test_the_state_of_the_agent(browser: Browser, kit: Kit) -> None:
    """An open tab has what another tab's run made of it, and a page that was loaded in mid-run what that run did."""
    async with kit.tab(browser) as first, kit.tab(browser, first.chat) as second:
        await first.open()
        await second.open(1)
        for text, sender in (("one", first), ("two", second), ("three", first)):
            await sender.send(f"keep {text}")
            for page in (first, second):
                await page.shows(f"{text}.")
                await page.until(IDLE)
        await first.shows("I keep one, two, three.")
        await first.send("later gate-state")
        await second.shows("Waiting for gate-state")
        await second.open(1)
        await second.shows("Waiting for gate-state")
        kit.found.open_gate("gate-state")
        for page in (first, second):
            await page.shows("I keep one, two, three, gate-state.")
            await page.until(IDLE)
        await second.send("keep four")
        for page in (first, second):
            await page.shows("I keep one, two, three, gate-state, four.")
            page.check()


async def test_an_agent_that_fails(browser: Browser, kit: Kit) -> None:
    """Its reason is shown; the next message works."""
    async with kit.tab(browser) as page:
        await page.open()
        await page.send("fail me")
        alert = page.page.get_by_role("alert")
        await alert.wait_for()
        assert await alert.inner_text() == "The model said no to me."
        await page.until(IDLE)
        await page.send("hello")
        await page.shows("You said: hello")
        await page.until(IDLE)
        page.check()


async def test_a_refusal_is_shown_with_its_reason(browser: Browser, kit: Kit) -> None:
    """A page whose token is refused says why, in the gateway's words."""
    async with kit.tab(browser) as page:
        page.token = "no-token"
        await page.open()
        await page.shows("It is not three base64url parts joined by dots.")


async def test_its_types_fit(kit: Kit) -> None:
    """The page of assistant-ui, with the helper's types, against the kit's own."""
    if kit.name != "assistant-ui":  # CopilotKit needs no types of the helper but those of `watchThread`
        return
    tsc = PAGES.parents[1] / "node_modules" / "typescript" / "bin" / "tsc"
    done = await asyncio.to_thread(
        subprocess.run,
        ["node", str(tsc), "-p", str(PAGES / kit.name / "tsconfig.json")],
        capture_output=True,
        text=True,
        timeout=within(60),
        check=False,
    )
    assert done.returncode == 0, done.stdout
