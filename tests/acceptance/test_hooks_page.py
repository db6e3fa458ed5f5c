"""The bindings for React (in StrictMode) and Vue, and the SDK's protobuf format, in real Chromium, on two gateways."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import pytest
import pytest_asyncio
from playwright.async_api import Browser

from tests.acceptance.kit_page import PAGES, KitPage, Kits, kits, tab
from tests.security.test_browser import chromium
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240)]

MOUNTS: Final = 200
COUNT_TYPING: Final = """() => {
    const rpc = client.rpc.bind(client), now = Date.now();
    window.clock = Date.now;
    window.typed = 0;
    Date.now = () => now; // no three seconds pass, however slow the machine is
    client.rpc = (method, data) => {
        window.typed += method === "typing" ? 1 : 0;
        return rpc(method, data);
    };
}"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """Playwright answers for the page, so that Chromium does not know it as one of this machine."""
    async with chromium("--disable-features=LocalNetworkAccessChecks") as started:
        yield started


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def found(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Kits]:
    async with kits(tmp_path_factory.mktemp("hooks"), PAGES) as started:
        yield started


async def phase(page: KitPage, wanted: str, *, complete: str = "true") -> None:
    """Wait until the last run is in a phase."""
    await page.until(
        f"[...document.querySelectorAll('article')].at(-1)?.dataset.phase === '{wanted}' && "
        f"[...document.querySelectorAll('article')].at(-1).dataset.complete === '{complete}'"
    )


@pytest.mark.parametrize("framework", ["react", "vue"])
async def test_a_thread_a_run_and_who_is_there(browser: Browser, found: Kits, framework: str) -> None:
    """A first message makes the thread; another page shows its run live, proved, stops one and answers a question."""
    async with tab(browser, found, framework) as first, tab(browser, found, framework) as second:
        await first.open()
        await first.send(f"wait {framework}")
        await first.shows(f"Waiting for {framework}")
        await phase(first, "running", complete="null")
        thread = await first.page.locator("main").get_attribute("data-thread")
        assert thread

        second.thread = thread
        await second.open(1)
        await second.shows(f"Waiting for {framework}")
        found.open_gate(framework)
        for page in (first, second):
            await page.shows("and done.")
            await phase(page, "finished")
        assert await first.page.locator("#users").inner_text() == "ada"

        await second.page.evaluate(COUNT_TYPING)
        await second.page.get_by_label("Message").press("w")
        for page in (first, second):  # the notice comes back to its sender, and the hooks render anew
            await page.page.locator("#typing", has_text="ada").wait_for()
        await second.page.get_by_label("Message").press("a")
        assert await second.value("typed") == 1
        await second.page.evaluate("Date.now = clock")
        await second.send(f"wait stop-{framework}")
        await first.shows(f"Waiting for stop-{framework}")
        await first.stop()
        await found.cancelled(f"stop-{framework}")
        for page in (first, second):
            await phase(page, "cancelled")

        await first.send("ask leave")
        await second.page.get_by_role("button", name="Yes").click()
        for page in (first, second):
            await page.shows("I did leave.")
            await phase(page, "finished")
        shown = "[...document.querySelectorAll('blockquote, p')].map((one) => one.textContent)"
        texts = await first.value(f"{shown}.filter(Boolean)")
        assert texts[0] == f"wait {framework}"
        first.thread = thread
        await first.open(1)
        await first.shows("I did leave.")
        for page in (first, second):
            page.check()
    assert found.calls(f"user wait {framework}") == 1


async def test_components_that_mount_twice(browser: Browser, found: Kits) -> None:
    """In StrictMode 200 of 200 mounts end subscribed, or get a run of their thread whole; no subscription is left."""
    async with tab(browser, found, "react") as page:
        page.token = found.gateways[0].token("bob", plan="enterprise")  # others may have 200 threads
        await page.open()
        page.page.set_default_timeout(within(200) * 1000)
        told = await page.page.evaluate(f"mounts({MOUNTS})")
        assert told == {"shown": MOUNTS, "subscriptions": 0}
        page.check()


async def test_protobuf_and_deltas_through_a_restart(browser: Browser, found: Kits) -> None:
    """The SDK's protobuf build in a page: a run arrives as deltas and is proved, also one that began while the gateway
    was down; publications of a service arrive as they are.
    """
    first, second = found.gateways
    async with tab(browser, found, "protobuf") as page:
        page.token = first.token("carl", permission="admin")
        await page.open()
        await page.until("page.states.includes('connected websocket')")
        begun = "page.rpc('run.start', {text: 'hello in protobuf', client_message_id: 'p-1'})"
        run = await page.page.evaluate(begun)
        await page.page.evaluate(f"page.follow('{run['channel']}')")
        await page.until(f"page.runs['{run['run_id']}']?.complete === true")
        runs = await page.value("page.runs")
        assert runs == {run["run_id"]: {"text": "You said: hello in protobuf", "complete": True}}
        stats = await page.value("page.deltas()")
        assert stats["numDeltaPayloads"] > 0

        await page.page.evaluate(f"page.publish('{run['channel']}', {{said: ['ä', 1]}})")
        await page.until("page.published.length === 1")
        assert await page.value("page.published") == [{"said": ["ä", 1]}]

        page.faults.clear()
        first.kill()
        headers = {"Authorization": f"Bearer {page.token}"}
        messages = [{"id": "p-2", "role": "user", "content": "hello again"}]
        body = {"threadId": run["thread_id"], "runId": "p-2", "messages": messages}
        answer = await second.post("/agui/model", json=body, headers=headers, timeout=within(20))
        again = answer.headers["Narthex-Run"]
        await first.start()
        await page.until(f"page.runs['{again}']?.complete === true")
        assert (await page.value("page.runs"))[again]["text"] == "You said: hello again"
        assert set(await page.value("page.recovered")) == {True}  # a gateway that starts may close once more
        assert (await page.value("page.states"))[-1] == "connected websocket"
