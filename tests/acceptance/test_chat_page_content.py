"""The chat page's content in real Chromium: endings, drafts, questions, answers of any form."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from narthex.adapters.stores.sqlite import SqliteStore
from narthex.ports.runs import Run
from tests.acceptance.chat_page import ChatPage, visitor
from tests.acceptance.program import Program, running, shared

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

AGENT = '''
import asyncio

SHOWS = """
A formula $E = mc^2$ and $$\\\\int_0^1 x\\\\,dx = \\\\frac{1}{2}$$

| left | right |
|:-----|------:|
| a    |     1 |

- [x] done
- [ ] open

A fact[^1].

[^1]: With its source.

```python
def f(x):
    return "text"
```

مرحبا بالعالم
"""

ODD = {
    "type": "object",
    "required": ["approved", "input/output", "__proto__"],
    "properties": {
        "approved": {"type": "boolean"},
        "input/output": {"type": "string"},
        "__proto__": {"type": "string"},
    },
}

async def moody(run):
    text = run.messages[-1].content
    if text == "fail":
        yield "Half of"
        raise RuntimeError("the oven is cold")
    elif text == "silent":
        return
    elif text == "quotes":
        yield "> " * 3000
    elif text == "show":
        yield SHOWS
    elif text == "reference":
        yield "See [the plan].\\n\\n[the plan]: https://first.example/"
    elif text == "another":
        yield "See [the plan].\\n\\n[the plan]: https://second.example/"
    elif text == "ask":
        answer = await run.ask(ODD, "Shall I **really**?")
        yield "Answer: " + repr(sorted(answer.items()))
    elif text == "wait":
        yield "I begin."
        await asyncio.Event().wait()
    else:
        yield "You said: " + text
'''


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    directory = tmp_path_factory.mktemp("content")
    (directory / "moody.py").write_text(AGENT)
    with shared(directory, arguments=("--agent", "moody:moody")) as program:
        yield program


async def reloaded(page: ChatPage) -> None:
    """Load the page again and wait until it shows its thread."""
    await page.page.reload()
    await page.connected()


async def test_endings_are_as_visible_after_a_reload_as_live(gateway: Program, browser: Browser) -> None:
    """A failed, a silent and a stopped run show the error, the stopping user and the time; the delivery badge is
    quiet.
    """
    async with visitor(browser, gateway.http, "endings") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("fail")
        await ada.run("failed", 0)
        await ada.send("silent")
        await ada.run("failed", 1)
        await ada.send("wait")
        await expect(ada.runs.nth(2).locator(".prose")).to_have_text("I begin.")
        await ada.page.get_by_role("button", name="Stop the run").click()
        await ada.run("cancelled", 2)
        await ada.proven(2)
        for reload in (False, True):
            if reload:
                await reloaded(ada)
                await ada.run("cancelled", 2)
            failed, silent, stopped = (ada.runs.nth(place) for place in range(3))
            await expect(failed.locator(".ending.bad")).to_contain_text("The run ended early.")
            await expect(failed.locator(".ending.bad")).to_contain_text("RuntimeError")
            await expect(failed.locator(".ending.bad")).to_contain_text("agent_failed")
            await expect(failed.locator(".prose")).to_have_text("Half of")
            await expect(silent.locator(".ending.bad")).to_contain_text("agent_silent")
            await expect(stopped.locator(".ending")).to_contain_text("Stopped by you after")
            await ada.shot("endings")
        await failed.get_by_role("button", name="Verify delivery").click()
        await ada.proven(0)
        await failed.locator(".badge.good").click()
        await expect(failed.locator(".badge-words")).to_contain_text("The run itself ended early")
        assert "missing" not in (await ada.page.locator("main").inner_text()).lower()
        ada.check()


async def test_the_endings_of_many_runs_are_all_shown(gateway: Program, browser: Browser) -> None:
    """230 stopped runs without a message, more than one answer of the gateway lists, are all shown after a reload."""
    async with visitor(browser, gateway.http, "many-endings") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("fail")
        await ada.run("failed")
        thread, user = ada.page.url.rpartition("/")[2], await ada.user_id()
        gateway.terminate()  # the gateway would take the runs over
        store = SqliteStore(gateway.directory / "data" / "narthex.db")
        await store.start()
        began = time.time()
        for number in range(230):
            queued = Run(
                run_id=f"run-{number}",
                thread_id=thread,
                tenant="default",
                user_id=user,
                agent="moody",
                state="queued",
                client_message_id=f"client-{number}",
                message_id=f"message-{number}",
                created_at=began + number / 1000,
            )
            await store.runs.start(queued, queue_limit=1000)
            await store.runs.request_cancel("default", queued.run_id, user, began + number / 1000)
        await store.stop()
        await gateway.start()
        await reloaded(ada)
        await expect(ada.runs).to_have_count(231)
        await expect(ada.runs.first).to_contain_text("RuntimeError")
        await expect(ada.page.locator(".ending", has_text="Stopped by you")).to_have_count(230)
        ada.check()


async def test_what_is_written_is_never_cut_and_never_lost(gateway: Program, browser: Browser) -> None:
    """A text that is too long is refused with a message; drafts survive thread changes and reloads; an unanswered
    message is kept.
    """
    async with visitor(browser, gateway.http, "drafts") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        pasted = "ä" * 20_000
        await ada.composer.fill(pasted)
        await expect(ada.page.get_by_role("alert")).to_contain_text("40,000 bytes")
        await ada.shot("too-long")
        await expect(ada.page.get_by_role("button", name="Send")).to_be_disabled()
        await ada.composer.press("Enter")
        assert await ada.composer.input_value() == pasted
        await expect(ada.runs).to_have_count(0)

        await ada.send("hello")
        await ada.run("finished")
        await ada.composer.fill("a draft in the first thread")
        await ada.page.get_by_role("button", name="New thread").click()
        await expect(ada.composer).to_have_value("")
        await ada.composer.fill("a draft of a new one")
        await ada.page.locator(".threads a").first.click()
        await expect(ada.composer).to_have_value("a draft in the first thread")
        await reloaded(ada)
        await expect(ada.composer).to_have_value("a draft in the first thread")
        await ada.page.get_by_role("button", name="New thread").click()
        await expect(ada.composer).to_have_value("a draft of a new one")

        await ada.page.locator(".threads a").first.click()
        await expect(ada.runs).to_have_count(1)
        await ada.page.evaluate(
            "WebSocket.prototype.send = () => undefined"
        )  # sent messages do not reach the gateway
        await ada.send("on its way")
        await expect(ada.page.locator(".said[data-state=sending]")).to_contain_text("on its way")
        await reloaded(ada)
        await expect(ada.page.locator(".said", has_text="on its way")).to_have_attribute("data-state", "sent")
        await expect(ada.runs.last.locator(".prose")).to_have_text("You said: on its way")
        await reloaded(ada)
        await expect(ada.page.locator(".said", has_text="on its way")).to_have_count(1)
        ada.check()


async def test_answers_of_every_form_and_questions_of_every_name(gateway: Program, browser: Browser) -> None:
    """Formulas, columns, boxes, footnotes, colours, 3,000 quotes; links stay within their answer; odd member names."""
    async with visitor(browser, gateway.http, "forms") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("show")
        run = await ada.run("finished")
        await expect(run.locator("math")).to_have_count(2)
        await expect(run.locator(".hljs-keyword").first).to_have_text("def")
        await expect(run.locator("td[align=right]")).to_have_css("text-align", "right")
        await expect(run.locator("input[type=checkbox]")).to_have_count(2)
        await expect(run.locator("p", has_text="مرحبا")).to_have_css("direction", "rtl")
        await run.get_by_role("button", name="Note 1").click()
        await expect(run.locator(".notes li")).to_be_focused()
        await ada.shot("forms")

        await ada.send("quotes")
        run = await ada.run("finished", 1)
        await expect(run.locator(".prose .plain")).to_contain_text("> > > >")
        await ada.send("reference")
        await ada.run("finished", 2)
        await ada.send("another")
        await ada.run("finished", 3)
        for place, host in ((2, "first"), (3, "second")):
            await expect(ada.runs.nth(place).locator("a")).to_have_attribute(
                "href", f"https://{host}.example/"
            )

        await ada.send("ask")
        await ada.run("interrupted", 4)
        question = ada.page.get_by_role("region", name="The agent asks you")
        await expect(question.locator("strong")).to_have_text("really")
        await question.get_by_label("Input/output").fill("in and out")
        await question.get_by_label("__proto__").fill("a prototype")
        await ada.shot("question")
        await question.get_by_role("button", name="Approve").click()
        run = await ada.run("finished", 5)
        await expect(run.locator(".prose")).to_contain_text("'input/output', 'in and out'")
        await expect(run.locator(".prose")).to_contain_text("a prototype")
        assert await ada.page.evaluate(
            "Object.getPrototypeOf({}) === Object.prototype && ({}).approved === undefined"
        )

        await ada.send("ask")
        await ada.run("interrupted", 6)
        await (
            ada.page.get_by_role("region", name="The agent asks you")
            .get_by_role("button", name="Decline")
            .click()
        )
        run = await ada.run("finished", 7)
        await expect(run.locator(".prose")).to_contain_text("('approved', False)")
        await reloaded(ada)
        await expect(ada.page.get_by_text("Answered by you.")).to_have_count(2)
        ada.check()


async def test_keys_of_an_input_method_are_its_own(gateway: Program, browser: Browser) -> None:
    """Escape that closes a suggestion does not stop a run, and Enter that chooses one sends no message."""
    async with visitor(browser, gateway.http, "ime") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("wait")
        await expect(ada.runs.first.locator(".prose")).to_have_text("I begin.")
        await ada.composer.evaluate(
            """field => field.dispatchEvent(
                new KeyboardEvent('keydown', { key: 'Escape', isComposing: true, bubbles: true }))"""
        )
        await ada.composer.fill("go on")
        await ada.composer.evaluate(
            """field => field.dispatchEvent(
                new KeyboardEvent('keydown', { key: 'Enter', keyCode: 229, bubbles: true }))"""
        )
        await expect(ada.composer).to_have_value("go on")
        await expect(ada.runs.first).to_have_attribute("data-phase", "running")
        await ada.composer.fill("")
        await ada.composer.press("Escape")
        await ada.run("cancelled", 0)
        ada.check()


async def test_agents_are_picked_completed_and_suggest(tmp_path: Path, browser: Browser) -> None:
    """A list, `@` completion by keyboard, an agent's suggestions; a run that ends in the background notifies the
    user.
    """
    (tmp_path / "moody.py").write_text(
        AGENT
        + """
import narthex

@narthex.agent(name="moody2", description="Answers in moods.", suggestions=["Say something nice"])
async def other(run):
    yield "Moody two says: " + run.messages[-1].content
"""
    )
    arguments = ("--agent", "moody:other", "--agent", "concierge")
    async with (
        running(tmp_path, arguments=arguments) as program,
        visitor(browser, program.http, "agents") as ada,
    ):
        await ada.page.add_init_script(
            """window.shown = []; window.away = false;
            Object.defineProperty(document, 'hasFocus', { value: () => !window.away });
            window.Notification = class { static permission = 'granted';
              static requestPermission() { return Promise.resolve('granted'); }
              constructor(title, options) { window.shown.push(title + ' | ' + options.body); } };"""
        )
        await ada.open()
        await ada.sign_in("ada@example.org")
        await expect(ada.page.get_by_text("Answers in moods.")).to_be_visible()
        await ada.shot("welcome")
        picker = ada.page.get_by_label("Agent", exact=True)
        await expect(picker).to_have_value("moody2")
        await ada.page.get_by_role("button", name="Say something nice").click()
        run = await ada.run("finished", 0)
        await expect(run.locator(".name")).to_have_text("moody2")

        await picker.select_option("concierge")
        await ada.send("echo hello")
        run = await ada.run("finished", 1)
        await expect(run.locator(".name")).to_have_text("concierge")
        await ada.page.reload()
        await ada.connected()
        await expect(picker).to_have_value("concierge")

        await ada.composer.press_sequentially("@m")
        await expect(ada.page.get_by_role("option", name="@moody2")).to_have_attribute(
            "aria-selected", "true"
        )
        await ada.shot("completion")
        await ada.composer.press("Enter")
        await expect(ada.composer).to_have_value("@moody2 ")
        await ada.composer.press_sequentially("good morning")
        await ada.page.evaluate("window.away = true")
        await ada.composer.press("Enter")
        run = await ada.run("finished", 2)
        await expect(run.locator(".prose")).to_contain_text("Moody two says")
        await ada.page.wait_for_function("() => document.title.startsWith('(1) ')")
        assert await ada.page.evaluate("window.shown") == ["Say something nice | moody2 has answered."]
        await ada.page.evaluate("window.away = false; window.dispatchEvent(new Event('focus'))")
        await ada.page.wait_for_function("() => !document.title.startsWith('(')")
        ada.check()
