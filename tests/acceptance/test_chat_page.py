"""The chat page on the real program in real Chromium: the main tasks of a user."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, expect

from tests.acceptance.chat_page import FIRST_TEXT_JS, visitor
from tests.acceptance.program import Program, running, shared

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]
TWO_FRAMES_JS = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"


GATED = """
async def gated(run):
    told = run.steer
    yield {"type": "REASONING_START", "messageId": "s"}
    yield {"type": "REASONING_MESSAGE_START", "messageId": "q", "role": "reasoning"}
    yield {"type": "REASONING_MESSAGE_CONTENT", "messageId": "q", "delta": "Let me see."}
    await anext(told)
    yield {"type": "REASONING_MESSAGE_END", "messageId": "q"}
    yield {"type": "REASONING_END", "messageId": "s"}
    yield {"type": "STEP_STARTED", "stepName": "Look around"}
    yield {"type": "TOOL_CALL_START", "toolCallId": "c", "toolCallName": "look"}
    yield {"type": "TOOL_CALL_ARGS", "toolCallId": "c", "delta": '{"where": "here"}'}
    yield {"type": "TOOL_CALL_END", "toolCallId": "c"}
    await anext(told)
    yield {"type": "TOOL_CALL_RESULT", "messageId": "r", "toolCallId": "c", "content": '{"found": 7}'}
    yield {"type": "STEP_FINISHED", "stepName": "Look around"}
    yield "Half an"
    await anext(told)
    yield " answer, and the other half."
"""
"""An agent that continues only on a signal, so that intermediate states do not depend on speed."""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    with shared(tmp_path_factory.mktemp("page")) as program:
        yield program


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """A gateway whose default agent continues on a signal."""
    directory = tmp_path_factory.mktemp("gated")
    (directory / "gated.py").write_text(GATED)
    with shared(directory, arguments=("--agent", "gated:gated", "--agent", "concierge")) as program:
        yield program


def read(path: Path) -> str:
    """A small existing file."""
    return path.read_text()


async def test_sign_in_ask_watch_the_agent_work_and_reload(gateway: Program, browser: Browser) -> None:
    """The whole flow; the first text of the answer is visible within a second of Send."""
    async with visitor(browser, gateway.http, "main") as ada:
        await ada.open()
        await ada.shot("door")
        await ada.sign_in("ada@example.org")
        await ada.shot("welcome")
        await ada.composer.fill("How healthy is this gateway right now?")
        took_ms = await ada.page.evaluate(FIRST_TEXT_JS)
        run = await ada.run("finished")
        await expect(run.locator(".row.tool")).to_contain_text("get_health")
        await expect(run.locator(".row.thought")).to_contain_text("Thought about it")
        await expect(run.locator("table")).to_contain_text("handshake")
        await ada.proven()
        await ada.shot("answer")
        print(f"first text {took_ms:.0f} ms after Send")
        assert took_ms < 1_000

        await ada.page.reload()
        await ada.connected()
        await expect(ada.page.locator(".said")).to_contain_text("How healthy is this gateway right now?")
        await expect(ada.runs.locator("table")).to_contain_text("handshake")
        await ada.runs.get_by_role("button", name="Verify delivery").click()
        await ada.proven()
        await ada.shot("reloaded")

        await ada.page.context.clear_cookies(name="narthex_session")  # as after an hour
        await ada.page.reload()
        await ada.connected()
        await expect(ada.page.locator(".said")).to_contain_text("How healthy is this gateway right now?")
        ada.check()


async def test_progress_is_shown_while_it_happens(gated: Program, browser: Browser) -> None:
    """Thinking, a step, a running tool, its result and text: each is visible before the agent continues."""
    async with visitor(browser, gated.http, "progress") as ada:

        async def go_on() -> None:
            await ada.composer.fill("go on")
            await ada.page.get_by_role("button", name="Add to this run").click()

        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("work")
        run = ada.runs.first
        await expect(run.locator(".row.thought")).to_contain_text("Thinking")
        await expect(run.locator(".row.thought")).to_contain_text("Let me see")
        await go_on()
        await expect(run.locator(".row.thought")).to_contain_text("Thought about it")
        await expect(run.locator(".row", has_text="Look around")).to_have_attribute("data-state", "running")
        await expect(run.locator(".row.tool")).to_contain_text("look")
        await expect(run.locator(".row.tool")).to_contain_text("where: here")
        await expect(run.locator(".row.tool")).to_have_attribute("data-state", "running")
        await ada.shot("tool")
        await go_on()
        await expect(run.locator(".row.tool")).to_have_attribute("data-state", "done")
        await expect(run.locator(".row", has_text="Look around")).to_have_attribute("data-state", "done")
        await expect(run.locator(".prose")).to_have_text("Half an")
        assert await run.get_attribute("data-phase") == "running"
        await go_on()
        await ada.run("finished")
        await expect(run.locator(".prose")).to_have_text("Half an answer, and the other half.")
        await run.locator(".row.tool summary").click()
        await expect(run.locator(".row.tool")).to_contain_text('"found": 7')
        await ada.proven()
        ada.check()


async def test_the_list_shows_where_an_agent_works(gated: Program, browser: Browser) -> None:
    """A page opened after the run began shows the run until it ends; the other threads show their time."""
    async with (
        visitor(browser, gated.http, "at-work") as ada,
        visitor(browser, gated.http, "at-work-later") as phone,
    ):
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("@concierge echo done")
        await ada.run("finished")
        await ada.page.get_by_role("button", name="New thread").click()
        await ada.send("long work")
        await expect(ada.runs.first.locator(".row.thought")).to_contain_text("Thinking")
        await phone.open()
        await phone.sign_in("ada@example.org")
        at_work = phone.page.get_by_role("img", name="an agent is working")
        await expect(phone.page.get_by_role("link", name="long work").locator(at_work)).to_be_visible()
        await expect(at_work).to_have_count(1)
        await phone.shot("list")
        await ada.page.get_by_role("button", name="Stop the run").click()
        await ada.run("cancelled")
        await expect(at_work).to_have_count(0)
        await phone.page.reload()
        await phone.connected()
        await expect(phone.page.get_by_role("link", name="long work")).to_be_visible()
        await expect(at_work).to_have_count(0)
        ada.check()
        phone.check()


async def test_a_run_is_added_to_stopped_and_followed_by_the_next(gateway: Program, browser: Browser) -> None:
    """Steering shows in the run; a second message is queued; Stop is acknowledged, and the second run starts."""
    async with visitor(browser, gateway.http, "stop") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("watch for 60 seconds")
        await expect(ada.runs.locator(".row", has_text="look 1")).to_be_visible()

        await ada.send("count to 5")  # is queued
        await expect(ada.runs.last).to_contain_text("Queued")
        await ada.composer.fill("faster")
        await ada.page.get_by_role("button", name="Add to this run").click()
        await expect(ada.runs.first.locator(".row.steer")).to_contain_text("You added: faster")
        await expect(ada.runs.first.locator(".prose")).to_contain_text("Faster")
        await ada.shot("steered")

        await ada.page.get_by_role("button", name="Stop the run").click()
        await ada.run("cancelled", 0)
        await expect(ada.runs.first.locator(".ending")).to_contain_text("Stopped by you")
        await expect(ada.runs.first.locator(".ending")).to_contain_text("acknowledged it in")
        await ada.run("finished", 1)
        await expect(ada.runs.last.locator(".prose")).to_have_text("1 2 3 4 5")
        await ada.proven(0)
        await ada.proven(1)
        await ada.shot("stopped")

        await ada.page.get_by_role("button", name="More about this thread").click()
        async with ada.page.expect_download() as download:
            await ada.page.get_by_role("button", name="Export as Markdown").click()
        text = read(await (await download.value).path())
        stopped = text.index(f"The run was stopped by {await ada.user_id()}.")
        assert stopped < text.index("1 2 3 4 5")
        ada.check()


async def test_a_question_is_answered_from_another_device(gateway: Program, browser: Browser) -> None:
    """An approval survives a reload; answered in one tab, both tabs show the rest of the run."""
    async with visitor(browser, gateway.http, "approval") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("check with approval")
        await ada.run("interrupted")
        await ada.page.reload()
        await ada.connected()
        question = ada.page.get_by_role("region", name="The agent asks you")
        await expect(question).to_contain_text("Check every part of the gateway now?")
        await ada.shot("question")
        async with visitor(browser, gateway.http, "approval2", context=ada.page.context) as tab:
            await tab.open(ada.page.url.removeprefix(gateway.http))
            await tab.connected()
            await tab.page.get_by_label("Note").fill("go on")
            await tab.page.get_by_role("button", name="Approve").click()
            for page in (tab, ada):
                await expect(page.page.get_by_text("Answered by you.")).to_be_visible()
                await page.run("finished")
                await expect(page.runs.last.locator("table")).to_contain_text("broker")
                page.check()
        await ada.shot("answered")


async def test_two_people_in_one_thread(gateway: Program, browser: Browser) -> None:
    """Bob is invited, accepts, and his presence and typing are shown; both see each other's messages and the same
    answer.
    """
    async with (
        visitor(browser, gateway.http, "ada") as ada,
        visitor(browser, gateway.http, "bob", size=(900, 700)) as bob,
    ):
        for page, email in ((ada, "ada@example.org"), (bob, "bob@example.org")):
            await page.open()
            await page.sign_in(email)
        await ada.send("echo hello everybody")
        await ada.run("finished")
        await ada.page.get_by_role("button", name="People in this thread").click()
        await ada.page.get_by_label("Invite a user").fill(await bob.user_id())
        await ada.page.get_by_role("button", name="Invite", exact=True).click()
        await expect(ada.page.locator(".people li", has_text="invited")).to_have_count(1)
        await ada.page.keyboard.press("Escape")

        invitation = bob.page.get_by_role("region", name="Invitations")
        await expect(invitation).to_contain_text("from ada")
        await bob.shot("invited")
        await invitation.get_by_role("button", name="Accept").click()
        await expect(invitation).to_have_count(0)
        await expect(bob.page.get_by_role("link", name="echo hello everybody")).to_be_visible()
        await expect(bob.page.locator(".said .name")).to_have_text("ada")
        await expect(ada.page.locator(".bar .present")).to_have_attribute("aria-label", "Here now: bob")
        # only Bob is gone: he had opened it
        await expect(ada.page.locator(".said").first).to_contain_text("Seen by bob")
        await bob.composer.press_sequentially("echo and hello ada", delay=5)
        await expect(ada.page.locator(".typing")).to_contain_text("bob is typing")
        await ada.shot("typing")
        await bob.composer.press("Enter")
        for page in (ada, bob):
            await page.run("finished", 1)
            await expect(page.runs.last.locator(".prose")).to_have_text("and hello ada")
            await page.proven()
        await expect(ada.page.locator(".said").last.locator(".name")).to_have_text("bob")
        await expect(ada.page.locator("main > .sr[role=status]")).to_contain_text(
            "bob wrote: echo and hello ada"
        )
        await expect(bob.page.locator(".said").last).to_contain_text("Seen by ada")
        await bob.shot("seen")

        # Users who share a thread are found by name; other users can invite through the user's own link.
        await ada.page.get_by_role("button", name="New thread").click()
        await ada.send("echo something else entirely")
        await ada.run("finished")
        await ada.page.get_by_role("button", name="People in this thread").click()
        await ada.page.get_by_label("Invite a user").fill("Bob")
        await ada.page.get_by_role("button", name="Invite", exact=True).click()
        await expect(ada.page.locator(".people li", has_text="invited")).to_contain_text("bob")
        await ada.page.keyboard.press("Escape")
        ada_id = await ada.user_id()
        await bob.page.evaluate(f"location.hash = '#/invite/{ada_id}?n=Ada%20L.'")
        dialog = bob.page.get_by_role("dialog")
        await expect(dialog).to_contain_text("Invite Ada L.")
        await dialog.get_by_label("Thread").select_option(label="echo hello everybody")
        await dialog.get_by_role("button", name="Invite").click()
        await expect(bob.page.locator(".toast")).to_contain_text("Ada L. is a member now.")

        # A member who leaves during an outage does not notify the others.
        await bob.page.get_by_role("link", name="echo hello everybody").click()
        await ada.page.get_by_role("link", name="echo hello everybody").click()
        await expect(ada.page.locator(".bar .present")).to_have_attribute("aria-label", "Here now: bob")
        bob.check()
        gateway.kill()
        await bob.page.close()
        await gateway.start()
        await ada.connected()
        await expect(ada.page.locator(".bar .present")).to_have_count(0)
        ada.check()


async def test_invitations_are_declined_and_blocked_and_many_threads_left(
    gateway: Program, browser: Browser
) -> None:
    """A user becomes a member only by accepting; a user can leave all threads, or delete owned ones, at once."""
    async with (
        visitor(browser, gateway.http, "inviter") as ada,
        visitor(browser, gateway.http, "invited", size=(390, 800)) as bob,
    ):
        for page, email in ((ada, "ada@example.org"), (bob, "bob@example.org")):
            await page.open()
            await page.sign_in(email)
        bob_id = await bob.user_id()
        await bob.page.get_by_role("button", name="Threads", exact=True).click()
        invitations = bob.page.get_by_role("region", name="Invitations")
        for number, title in enumerate(("one", "two", "three", "four")):
            if number:
                await ada.page.get_by_role("button", name="New thread").click()
            await ada.send(f"echo {title}")
            await ada.run("finished")
            await ada.page.get_by_role("button", name="People in this thread").click()
            await ada.page.get_by_label("Invite a user").fill(bob_id)
            await ada.page.get_by_role("button", name="Invite", exact=True).click()
            await expect(ada.page.locator(".people")).to_contain_text("invited")
            await ada.page.keyboard.press("Escape")
        await expect(invitations.locator("li.invitation")).to_have_count(4)
        await bob.shot("invitations")
        await bob.page.get_by_role("button", name="Decline the invitation to echo one").click()
        await expect(invitations.locator("li.invitation")).to_have_count(3)
        for title, left in (("two", 2), ("three", 1)):
            await bob.page.get_by_role("button", name=f"Accept the invitation to echo {title}").click()
            await expect(invitations.locator("li.invitation")).to_have_count(left)
            await expect(bob.page.get_by_role("heading", name=f"echo {title}")).to_be_visible()
            await bob.page.get_by_role("button", name="Threads", exact=True).click()
        await bob.page.get_by_role("button", name="More about the invitation to echo four").click()
        await bob.page.get_by_role("button", name="Block ada").click()
        await bob.page.get_by_role("button", name="Really block").click()
        await expect(invitations).to_have_count(0)

        await bob.page.get_by_role("button", name="More about your threads").click()
        await bob.page.get_by_role("button", name="Select threads").click()
        for title in ("two", "three"):
            await bob.page.get_by_label(f"echo {title}").check()
        await bob.shot("selected")
        await bob.page.get_by_role("button", name="Leave").click()
        await bob.page.get_by_role("button", name="Really leave 2 threads").click()
        await expect(bob.page.locator(".threads a")).to_have_count(0)

        await bob.page.get_by_role("button", name="More about your threads").click()
        await bob.page.get_by_role("button", name="Blocked people").click()
        await bob.page.get_by_role("button", name="Unblock").click()
        await expect(bob.page.get_by_text("You have not blocked any users.")).to_be_visible()
        ada.check()
        bob.check()


async def test_a_crash_is_shown_and_survived(gateway: Program, browser: Browser) -> None:
    """`kill -9` in mid-run: the page shows that it retries, then how the run ended, and works again."""
    async with visitor(browser, gateway.http, "crash") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("count to 1000 slowly")
        await expect(ada.runs.locator(".prose")).to_contain_text("5 6 7")
        gateway.kill()
        await expect(ada.page.locator(".banner")).to_contain_text("Retrying automatically")
        await ada.shot("reconnecting")
        await gateway.start()
        await ada.connected()
        await expect(ada.page.locator(".banner")).to_have_count(0)
        run = await ada.run("failed")
        await expect(run.locator(".ending")).to_contain_text("The run ended early.")
        await expect(run.locator(".ending")).to_contain_text("owner_lost")
        text = await run.locator(".prose").inner_text()
        assert text.startswith("1 2 3 4 5 6 7")
        await ada.proven()
        await ada.shot("survived")
        await ada.send("echo still here")
        await ada.run("finished")
        ada.check()


async def test_a_refusal_is_shown_in_words(tmp_path: Path, browser: Browser) -> None:
    """A bad token at sign-in and a full gateway later: the page shows code, reason and remedy, then recovers."""
    async with running(tmp_path, {"NARTHEX_MAX_CONNECTIONS_PER_USER": "1"}) as gateway:
        async with visitor(browser, gateway.http, "refused") as ada:
            await ada.open()
            await ada.page.get_by_text("Use a token instead").click()
            await ada.page.get_by_label("Token").fill("not.a.token")
            await ada.page.get_by_role("button", name="Connect with this token").click()
            card = ada.page.locator(".refusal")
            await expect(card).to_be_visible()
            assert (await card.get_attribute("data-code") or "").startswith("token_")
            await expect(card.locator(".facts")).to_contain_text("HTTP 401")
            await expect(card.locator(".remedy").first).not_to_be_empty()
            await ada.shot("bad-token")

            token = gateway.token("ada")
            await ada.page.get_by_label("Token").fill(token)
            await ada.page.get_by_role("button", name="Connect with this token").click()
            await ada.connected()
            async with visitor(browser, gateway.http, "refused2", context=ada.page.context) as tab:
                await tab.open()
                await tab.page.get_by_text("Use a token instead").click()
                await tab.page.get_by_label("Token").fill(token)
                await tab.page.get_by_role("button", name="Connect with this token").click()
                await expect(tab.page.get_by_text("Too many connections")).to_be_visible()
                await tab.shot("full")
                await tab.page.get_by_role("button", name="Try now").click()
                await expect(tab.page.get_by_text("Too many connections")).to_be_visible()
                await ada.page.close()
                await tab.connected()  # automatically, at most 5 s after the last attempt
                tab.check()
        assert token not in gateway.log


async def test_a_phone(gateway: Program, browser: Browser) -> None:
    """360 pixels wide: nothing is cut off sideways, threads are in a drawer, and fields are large enough not to
    zoom.
    """
    async with visitor(browser, gateway.http, "phone", size=(360, 740)) as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.page.set_viewport_size(
            {"width": 360, "height": 420}
        )  # as when zoomed, or with the keyboard open
        await ada.page.evaluate(TWO_FRAMES_JS)
        await expect(ada.page.get_by_role("heading", name="ada")).to_be_in_viewport()
        await ada.page.set_viewport_size({"width": 360, "height": 740})
        await ada.send("markdown")
        await ada.run("finished")
        await ada.shot("answer")
        width = (
            "Math.max(document.documentElement.scrollWidth, document.querySelector('.scroller').scrollWidth)"
        )
        assert await ada.page.evaluate(width) <= 360
        assert (
            await ada.page.evaluate(
                "parseFloat(getComputedStyle(document.querySelector('#composer')).fontSize)"
            )
            >= 16
        )
        await ada.page.get_by_role("button", name="Threads", exact=True).click()
        await expect(ada.page.get_by_role("link", name="markdown")).to_be_in_viewport()
        await ada.page.wait_for_timeout(
            250
        )  # the drawer slides for 180 ms; only the screenshot needs it to stand still
        await ada.shot("drawer")
        await ada.page.get_by_role("link", name="markdown").click()
        await expect(ada.page.get_by_role("link", name="markdown")).not_to_be_in_viewport()
        ada.check()


async def test_keyboard_only(gateway: Program, browser: Browser) -> None:
    """Sign in, ask, stop, search, read the delivery proof, rename and sign out without a pointer."""
    async with visitor(browser, gateway.http, "keyboard") as ada:
        keys = ada.page.keyboard
        await ada.open()
        await expect(ada.page.get_by_label("E-mail")).to_be_focused()
        await keys.type("ada@example.org")
        await keys.press("Enter")
        await expect(ada.composer).to_be_focused()
        await keys.type("watch for 60 seconds")
        await keys.press("Shift+Enter")
        await keys.type("please")
        assert await ada.composer.input_value() == "watch for 60 seconds\nplease"
        await keys.press("Enter")
        await ada.run("running")
        await expect(ada.composer).to_be_focused()
        await keys.press("Escape")
        await ada.run("cancelled")
        await expect(ada.composer).to_be_focused()

        await keys.press("Control+k")
        await keys.type("words that are still there")
        await keys.press("Escape")
        await expect(ada.page.get_by_role("dialog")).to_have_count(0)
        await expect(ada.composer).to_be_focused()
        await keys.press("Control+k")
        await expect(ada.page.get_by_label("Search your threads")).to_be_focused()
        await keys.type("please")
        await expect(ada.page.locator(".hits a").first).to_be_visible()
        await keys.press("Tab")
        while await ada.page.evaluate("!document.activeElement.closest('.hits')"):
            await keys.press("Tab")
        await keys.press("Enter")
        await expect(ada.page.get_by_role("dialog")).to_have_count(0)

        await ada.page.locator(".badge.good").focus()
        await keys.press("Enter")
        await expect(ada.page.locator(".badge-words")).to_be_visible()
        await ada.shot("proof")
        await keys.press("Escape")
        await expect(ada.page.locator(".badge-words")).to_be_hidden()

        await ada.page.get_by_role("button", name="More about this thread").focus()
        await keys.press("Enter")
        await expect(ada.page.get_by_role("button", name="Rename")).to_be_focused()
        await keys.press("Enter")
        await expect(ada.page.get_by_label("Title")).to_be_focused()
        await keys.press("Control+a")
        await keys.type("By hand")
        await keys.press("Enter")
        await expect(ada.page.get_by_role("heading", name="By hand")).to_be_visible()
        await expect(ada.page.get_by_role("link", name="By hand")).to_be_visible()

        await ada.page.get_by_role("button", name="New thread").focus()
        await keys.press("Shift+Tab")
        await expect(ada.page.get_by_role("link", name="Skip to the message field")).to_be_focused()
        await keys.press("Enter")
        await expect(ada.composer).to_be_focused()
        await ada.page.get_by_role("button", name="Sign out").focus()
        await keys.press("Enter")
        await expect(ada.page.get_by_label("E-mail")).to_be_focused()
        ada.check()


async def test_words_of_others_can_do_no_harm(gateway: Program, browser: Browser) -> None:
    """Markup, scripts, images and odd links in an agent's text are displayed, not executed and not fetched."""
    attack = (
        'echo <img src=x onerror="window.hit=1"><script>window.hit=2</script> [a](javascript:window.hit=3) '
        "![b](https://example.org/pixel.png) <svg onload=window.hit=4> [c](data:text/html,x) **bold**"
    )
    async with visitor(browser, gateway.http, "attack") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send(attack)
        run = await ada.run("finished")
        prose = run.locator(".prose")
        await expect(prose.locator("strong")).to_have_text("bold")
        await expect(prose).to_contain_text("<img src=x")
        assert await prose.locator("img, script, svg, iframe, style").count() == 0
        hrefs = await prose.locator("a").evaluate_all("links => links.map(link => link.getAttribute('href'))")
        assert [href for href in hrefs if href is not None] == ["https://example.org/pixel.png"]
        assert await ada.page.evaluate("window.hit") is None
        await expect(prose.locator("a[href]")).to_have_attribute("rel", "noopener noreferrer nofollow")
        ada.check()


@pytest.mark.parametrize("address", ["/#/t/%", "/#/t/%E0%A4%A", "/#/t/nobodys?m=%"])
async def test_an_address_that_leads_nowhere_is_said(
    gateway: Program, browser: Browser, address: str
) -> None:
    """Mistyped, truncated, or of a deleted thread: the page explains it and offers a message field and a way back."""
    async with visitor(browser, gateway.http, "nowhere") as ada:
        await ada.open(address)
        await ada.sign_in("ada@example.org")
        await expect(ada.page.get_by_role("alert")).to_contain_text("This thread is not visible to you")
        await ada.page.get_by_role("button", name="New thread").click()
        await ada.send("echo all is well")
        await ada.run("finished")
        ada.check()


async def test_colours_follow_the_system_until_somebody_chooses(gateway: Program, browser: Browser) -> None:
    """The page follows the system's colour scheme, also when it changes, until the user chooses one."""
    background = "getComputedStyle(document.body).backgroundColor"
    async with visitor(browser, gateway.http, "colours") as ada:
        html = ada.page.locator("html")
        await ada.open()
        await expect(html).to_have_attribute("data-theme", "light")
        light = await ada.page.evaluate(background)
        await ada.page.emulate_media(color_scheme="dark")
        await expect(html).to_have_attribute("data-theme", "dark")
        assert await ada.page.evaluate(background) != light
        await ada.sign_in("ada@example.org")
        await ada.page.get_by_role("button", name="Switch to light colours").click()
        assert await ada.page.evaluate(background) == light
        await ada.page.emulate_media(color_scheme="light")
        await ada.page.emulate_media(color_scheme="dark")
        await ada.page.evaluate(TWO_FRAMES_JS)  # the page would have reacted by then
        assert await ada.page.evaluate(background) == light
        ada.check()


async def test_export_dark_mode_and_delete(gateway: Program, browser: Browser) -> None:
    """A thread can be exported as a file, read in dark mode, and deleted for good."""
    async with visitor(browser, gateway.http, "dark", dark=True) as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("echo take me along")
        await ada.run("finished")
        background = "getComputedStyle(document.body).backgroundColor"
        dark = await ada.page.evaluate(background)
        await ada.shot("dark")
        await ada.page.get_by_role("button", name="Switch to light colours").click()
        assert await ada.page.evaluate(background) != dark
        await ada.page.reload()
        await ada.connected()
        assert await ada.page.evaluate(background) != dark

        for entry, suffix in (("Export as Markdown", ".md"), ("Export as JSON", ".json")):
            await ada.page.get_by_role("button", name="More about this thread").click()
            async with ada.page.expect_download() as download:
                await ada.page.get_by_role("button", name=entry).click()
            file = await download.value
            assert file.suggested_filename == f"echo-take-me-along{suffix}"
            assert "take me along" in read(await file.path())

        await ada.page.get_by_role("button", name="More about this thread").click()
        await ada.page.get_by_role("button", name="Delete for all members").click()
        await ada.page.get_by_role("button", name="Really delete for all members").click()
        await expect(ada.page.get_by_role("heading", name="New thread")).to_be_visible()
        await expect(ada.page.get_by_role("link", name="echo take me along")).to_have_count(0)
        ada.check()


async def test_a_thread_is_shared_by_a_link_that_asks_before_it_joins(
    gateway: Program, browser: Browser
) -> None:
    """The owner copies the link, a user opens it and signs in first; a revoked link is refused."""
    async with (
        visitor(browser, gateway.http, "link-owner") as ada,
        visitor(browser, gateway.http, "link-guest", size=(390, 800)) as bob,
    ):
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("echo our plan for the summer")
        await ada.run("finished")
        await ada.page.get_by_role("button", name="People in this thread").click()
        await ada.page.get_by_role("button", name="Create a link").click()
        field = ada.page.get_by_label("Link to this thread", exact=True)
        url = await field.input_value()
        assert url.startswith(f"{gateway.http}/#/join/")
        await ada.shot("made")
        await ada.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await ada.page.get_by_role("button", name="Copy the link to this thread").click()
        await expect(ada.page.get_by_role("button", name="Copy the link to this thread")).to_contain_text(
            "Copied"
        )
        assert await ada.page.evaluate("navigator.clipboard.readText()") == url

        await bob.open(url.removeprefix(gateway.http))
        await bob.sign_in("bob@example.org")
        dialog = bob.page.get_by_role("dialog")
        await expect(dialog).to_contain_text("echo our plan for the summer")
        await expect(dialog).to_contain_text("owned by ada")
        await expect(dialog).to_contain_text("1 member")
        assert "/join/" not in bob.page.url
        await bob.shot("asks")
        await dialog.get_by_role("button", name="Not now").click()
        await expect(ada.page.locator(".people li")).to_have_count(1)
        await bob.page.evaluate("(url) => { location.hash = new URL(url).hash; }", url)
        await dialog.get_by_role("button", name="Join the thread").click()
        await expect(dialog).to_have_count(0)
        await expect(bob.page.locator(".said .name")).to_have_text("ada")
        await expect(ada.page.locator(".people li")).to_have_count(2)

        await ada.page.keyboard.press("Escape")
        await ada.page.get_by_role("button", name="People in this thread").click()
        await expect(ada.page.locator(".share")).to_contain_text("It was shown only when it was created")
        await ada.shot("open")
        await ada.page.get_by_role("button", name="Revoke the link").click()
        await expect(ada.page.get_by_role("button", name="Create a link")).to_be_visible()
        await ada.page.get_by_role("button", name="Remove bob").click()
        await expect(bob.page.get_by_role("heading", name="New thread")).to_be_visible()
        await bob.page.evaluate("(url) => { location.hash = new URL(url).hash; }", url)
        await expect(dialog).to_contain_text("The link is not valid")
        await expect(dialog.get_by_role("button", name="Join the thread")).to_have_count(0)
        await bob.shot("revoked")
        assert url.rpartition("/")[2] not in gateway.log
        ada.check()
        bob.check()
