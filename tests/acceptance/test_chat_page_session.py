"""The chat page's session in real Chromium: expired, renewed, offline, refused, signed out."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Route, expect

from tests.acceptance.chat_page import ChatPage, visitor
from tests.acceptance.program import Program, clock_ahead, running
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]

DRAFT = "a draft that must not get lost"
UNAVAILABLE = {
    "type": "about:blank",
    "title": "Authentication is unavailable right now",
    "status": 503,
    "code": "auth_unavailable",
    "detail": "The issuer does not answer.",
    "remedy": "Try again in a moment.",
}


@pytest.fixture
async def gateway(tmp_path: Path) -> AsyncIterator[Program]:
    async with running(tmp_path) as program:
        yield program


class Failing:
    """Answers a route with 503 until `mended`; counts these answers."""

    def __init__(self) -> None:
        self.mended = False
        self.failed = 0

    async def __call__(self, route: Route) -> None:
        """For `page.route`."""
        if self.mended:
            await route.continue_()
            return
        self.failed += 1
        await route.fulfill(status=503, content_type="application/problem+json", body=json.dumps(UNAVAILABLE))


async def away(page: ChatPage, gateway: Program, minutes: int) -> None:
    """The gateway restarts while the page sleeps, in both clocks. A token is valid for an hour."""
    gateway.kill()
    await expect(page.page.locator(".banner")).to_be_visible()
    await page.page.clock.fast_forward(minutes * 60_000)
    gateway.env |= clock_ahead(f"{minutes}m")
    await gateway.start()


async def test_an_expired_session_is_renewed_and_nobody_is_signed_out(
    gateway: Program, browser: Browser
) -> None:
    """The gateway refuses the socket because its token has expired: the page renews it once and keeps the draft."""
    async with visitor(browser, gateway.http, "renewed") as ada:
        await ada.page.clock.install()
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.composer.fill(DRAFT)
        seen: list[str] = []
        await ada.page.expose_function("seen", lambda: seen.append("signed out"))
        await ada.page.evaluate(
            """() => new MutationObserver(() => { if (document.querySelector('.door')) seen(); })
            .observe(document.body, { childList: true, subtree: true })"""
        )
        refreshes: list[str] = []
        ada.page.on("request", lambda one: refreshes.append(one.url) if "/auth/refresh" in one.url else None)
        await away(ada, gateway, 120)
        await ada.connected()
        await expect(ada.composer).to_have_value(DRAFT)
        assert seen == []
        assert len(refreshes) == 1
        await ada.page.get_by_role("button", name="Send").click()
        await ada.run("finished")
        ada.check()


async def test_a_renewal_that_the_gateway_cannot_answer_keeps_the_page(
    gateway: Program, browser: Browser
) -> None:
    """The refresh gets 503: the page reports it, keeps thread and draft, and continues automatically afterwards."""
    async with visitor(browser, gateway.http, "offline") as ada:
        await ada.page.clock.install()
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.send("echo before")
        await ada.run("finished")
        await ada.composer.fill(DRAFT)
        failing = Failing()
        await ada.page.route("**/auth/refresh", failing)
        await away(ada, gateway, 120)
        await expect(ada.page.locator(".banner")).to_contain_text("Authentication is unavailable right now")
        await ada.shot("offline")
        await expect(ada.runs).to_have_count(1)
        await expect(ada.composer).to_have_value(DRAFT)
        failing.mended = True
        await ada.page.get_by_role("button", name="Try now").click()
        await ada.connected()
        await expect(ada.page.locator(".banner")).to_have_count(0)
        await expect(ada.composer).to_have_value(DRAFT)
        assert failing.failed >= 1
        ada.check()


async def test_a_token_that_cannot_be_renewed_just_now_does_not_disturb_a_live_connection(
    gateway: Program, browser: Browser
) -> None:
    """An SDK error while the connection is up: the page still shows "Connected", and messages can be sent."""
    async with visitor(browser, gateway.http, "live") as ada:
        await ada.page.clock.install()
        await ada.open()
        await ada.sign_in("ada@example.org")
        failing = Failing()
        await ada.page.route("**/auth/refresh", failing)
        async with ada.page.expect_response("**/auth/refresh", timeout=within(20) * 1000):
            await away(ada, gateway, 60)  # within the leeway: admitted, and renewed a second later
        await ada.connected()
        await ada.send("echo still connected")
        await ada.run("finished")
        await expect(ada.page.locator(".link")).to_have_attribute("data-phase", "connected")
        assert failing.failed >= 1
        ada.check()


async def test_a_sign_out_counts_once_the_gateway_confirmed_it(gateway: Program, browser: Browser) -> None:
    """Until it is confirmed, the page reports that the user is still signed in, and stays usable."""
    async with visitor(browser, gateway.http, "leaving") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        failing = Failing()
        await ada.page.route("**/auth/logout", failing)
        await ada.page.get_by_role("button", name="Sign out").click()
        await expect(ada.page.locator(".toast")).to_contain_text("You are still signed in on this browser")
        await ada.connected()
        await ada.shot("still-in")
        failing.mended = True
        await ada.page.get_by_role("button", name="Sign out").click()
        await expect(ada.page.get_by_label("E-mail")).to_be_visible()
        assert not [one for one in await ada.page.context.cookies() if "narthex" in str(one.get("name"))]
        await ada.page.reload()
        await expect(ada.page.get_by_label("E-mail")).to_be_visible()
        ada.check()


async def test_a_gateway_that_is_away_at_the_start_is_waited_for(gateway: Program, browser: Browser) -> None:
    """The first request gets 503: the page gives the reason and starts automatically, without a sign-in prompt."""
    async with visitor(browser, gateway.http, "start") as ada:
        await ada.open()
        await ada.sign_in("ada@example.org")
        failing = Failing()
        await ada.page.route("**/ws/preflight", failing)
        await ada.page.reload()
        await expect(ada.page.locator(".refusal")).to_contain_text("Authentication is unavailable")
        await expect(ada.page.get_by_role("status")).to_contain_text("Retrying automatically")
        await ada.shot("away")
        failing.mended = True
        await ada.connected()
        ada.check()


async def test_a_session_that_was_revoked_is_over(gateway: Program, browser: Browser) -> None:
    """The refresh cookie is refused too: the sign-in page gives the reason, and the draft is restored afterwards."""
    async with visitor(browser, gateway.http, "over") as ada:
        await ada.page.clock.install()
        await ada.open()
        await ada.sign_in("ada@example.org")
        await ada.composer.fill(DRAFT)
        await ada.page.context.clear_cookies(name="narthex_refresh")
        await away(ada, gateway, 120)
        await expect(ada.page.get_by_label("E-mail")).to_be_visible()
        await ada.sign_in("ada@example.org")
        await expect(ada.composer).to_have_value(DRAFT)
        ada.check()
