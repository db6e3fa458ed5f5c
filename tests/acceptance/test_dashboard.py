"""The dashboard on real programs in real Chromium: what goes wrong appears within seconds, for operators only."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import pytest_asyncio
from playwright.async_api import Browser, expect
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from narthex.e2e.children import free_port
from tests.acceptance.chat_page import visitor
from tests.acceptance.dashboard_page import NARROW_JS, SECTIONS, Dashboard, operator, serious_findings
from tests.acceptance.fleet import ADMIN_KEY, Fleet, fleet
from tests.acceptance.program import Program, shared
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.browser, pytest.mark.asyncio(loop_scope="module")]
APPEARS_S = within(5)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One gateway."""
    with shared(tmp_path_factory.mktemp("dashboard"), {"NARTHEX_ADMIN_KEY": ADMIN_KEY}) as program:
        yield program


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def two(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Three gateways on shared engines, whose opaque tokens go to an issuer that is not there."""
    issuer = f"http://127.0.0.1:{free_port()}/introspect"
    async with fleet(
        tmp_path_factory.mktemp("dashboards"),
        NARTHEX_INTROSPECTION_URL=issuer,
        NARTHEX_INTROSPECTION_CLIENT_ID="narthex",
        NARTHEX_INTROSPECTION_CLIENT_SECRET="a-secret-of-decent-length-0123456789",
        NARTHEX_EMBEDDED_PROVIDER="on",
    ) as found:
        await found.gateways(3)
        yield found


async def refused(program: Program, token: str, times: int) -> None:
    """Handshakes that are refused."""
    for _ in range(times):
        with contextlib.suppress(WebSocketException):
            async with connect(
                program.ws, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None
            ):
                pass


async def from_a_refusal_to_its_user(page: Dashboard, gateway: Program) -> None:
    """A refusal of a genuine credential leads to its user's connections, and each to those of its instance."""
    token = gateway.token("bob")
    body = {"kind": "subject", "value": "bob", "tenant": "default"}
    done = await gateway.post("/api/v1/revoke", json=body, headers={"Authorization": f"Bearer {ADMIN_KEY}"})
    assert done.status_code == 200, done.text
    await refused(gateway, token, 1)
    row = page.page.locator("table.refusals tbody tr", has_text="token_revoked")
    await expect(row.get_by_role("link", name=re.compile("^node-.*: show the connections"))).to_be_visible()
    await row.get_by_role("link", name="bob: show the connections").click()
    await expect(page.page.locator(".section-title")).to_have_text("Connections")
    await expect(page.page.get_by_role("textbox", name="User")).to_have_value("bob")
    await expect(page.page.get_by_role("textbox", name="Tenant")).to_have_value("default")
    await expect(page.page.get_by_text("No connection fits.")).to_be_visible()


async def connection_list_and_trace(page: Dashboard, elsewhere: Program) -> None:
    """A user who is connected to another instance is found, traced and disconnected from here."""
    headers = {"Authorization": f"Bearer {elsewhere.token('ada')}"}
    async with connect(elsewhere.ws, additional_headers=headers, proxy=None) as socket:
        await socket.send('{"id":1,"connect":{"name":"js","version":"5.8.0"}}')
        await socket.recv()
        await page.go("Connections")
        await page.page.get_by_role("textbox", name="User").fill("ada")
        await page.page.get_by_role("button", name="Show", exact=True).click()
        row = page.page.locator("table.connections tbody tr")
        await expect(row).to_have_count(1)
        await expect(row).to_contain_text("js 5.8.0")
        await page.page.get_by_role("button", name="Trace ada (default)").click()
        await page.page.get_by_role("button", name="Start", exact=True).click()
        log = page.page.get_by_role("log")
        await expect(log).to_contain_text("The connection is traced from here.")
        await socket.send('{"id":2,"rpc":{"method":"echo","data":{"text":"a private word"}}}')
        await expect(log).to_contain_text("rpc")
        await expect(log).to_contain_text("(14 characters)")
        assert "private" not in await log.inner_text()
        assert await page.serious_findings() == []
        await page.shot("connection-list")
        await page.page.get_by_role("button", name="End", exact=True).click()
        await expect(log).to_contain_text("The trace ended.")
        page.page.once("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        await page.page.get_by_role("button", name="Disconnect ada (default)").click()
        async with asyncio.timeout(within(10)):
            await socket.wait_closed()
        assert socket.close_code == 3503
    await page.go("Overview")


async def test_operators_only(gateway: Program, browser: Browser) -> None:
    """A user sees no figure, only that the page is for operators and which permission is needed."""
    async with operator(browser, gateway, "forbidden") as visit:
        page = Dashboard(visit, gateway.http)
        await page.open(gateway.token("ada"))
        await expect(page.page.get_by_role("heading", level=1)).to_have_text("This page is for operators.")
        await expect(page.page.locator(".refusal")).to_contain_text("The permission `operator` is needed.")
        assert await page.page.locator(".tile, .panel").count() == 0
        await page.page.get_by_role("button", name="Sign in as another user").click()
        await page.page.get_by_role("heading", name="Sign in").wait_for()
        visit.check()


async def test_a_burst_of_refusals_appears_within_seconds(gateway: Program, browser: Browser) -> None:
    """In the list with reason, remedy and trace id, in the numbers, and as what is wrong."""
    async with operator(browser, gateway, "refusals") as visit:
        page = Dashboard(visit, gateway.http)
        await page.open(gateway.token("op", permission="operator"))
        await page.ready()
        began = time.monotonic()
        await refused(gateway, "not.a.token", 30)
        rows = page.page.locator("table.refusals tbody tr", has_text="token_malformed")
        await rows.first.wait_for()
        took_s = time.monotonic() - began
        await expect(page.page.locator(".troubles")).to_contain_text("of handshakes are refused")
        await expect(rows.first).to_contain_text("loopback")
        await page.shot("refusals")
        await from_a_refusal_to_its_user(page, gateway)
        print(f"a burst of refusals after {took_s:.1f} s")
        assert took_s < APPEARS_S
        visit.check()


async def test_dead_open_and_draining_appear_within_seconds(two: Fleet, browser: Browser) -> None:
    """A killed instance, an open breaker and a drain, each seen from another instance."""
    first, second, third = two.programs
    async with operator(browser, first, "fleet") as visit:
        page = Dashboard(visit, first.http)
        await page.open(first.token("op", permission="operator"))
        await page.ready()
        troubles = page.page.locator(".troubles")
        await expect(page.page.locator("tr[data-status=ready]")).to_have_count(3)

        await connection_list_and_trace(page, second)

        began = time.monotonic()
        second.kill()
        await expect(page.page.locator("tr[data-status=dead]")).to_have_count(1)
        dead_s = time.monotonic() - began
        await expect(troubles).to_contain_text("sends no snapshots any more")

        began = time.monotonic()
        await refused(first, "an-opaque-token", 6)
        await expect(troubles).to_contain_text("The breaker for")
        open_s = time.monotonic() - began
        await page.shot("troubles")

        node = (await third.get("/ws/stats", headers={"Authorization": f"Bearer {ADMIN_KEY}"})).json()["node"]
        await page.go("Instances")
        page.page.once("dialog", lambda dialog: asyncio.ensure_future(dialog.accept()))
        began = time.monotonic()
        await page.page.get_by_role("button", name=f"Drain {node}").click()
        await page.page.locator("tr[data-status=draining], tr[data-status=left]").wait_for()
        await page.go("Overview")
        await expect(troubles).to_contain_text("drain")
        drain_s = time.monotonic() - began
        await expect(page.page.locator("tr[data-status=left]")).to_have_count(1)
        print(f"dead after {dead_s:.1f} s, breaker after {open_s:.1f} s, drain after {drain_s:.1f} s")
        assert max(dead_s, open_s, drain_s) < APPEARS_S
        visit.check()


@pytest.mark.parametrize(
    ("name", "size", "dark"),
    [("light", (1280, 900), False), ("dark", (1280, 900), True), ("phone", (390, 844), False)],
)
async def test_every_section_is_accessible_and_fits(
    gateway: Program, browser: Browser, name: str, size: tuple[int, int], *, dark: bool
) -> None:
    """axe-core has no serious finding, and nothing is wider than the screen."""
    await refused(gateway, "not.a.token", 3)
    async with operator(browser, gateway, name, size=size, dark=dark) as visit:
        page = Dashboard(visit, gateway.http)
        await page.open(gateway.token("op", permission="operator"))
        await page.ready()
        for section in SECTIONS:
            await page.go(section)
            await page.page.locator("main .panel").first.wait_for()
            assert await page.serious_findings() == [], section
            assert await page.fits(), section
            await page.shot(f"{section.lower()}-{name}")
        visit.check()


async def test_pages_of_alerts_and_problems_are_accessible(gateway: Program, browser: Browser) -> None:
    """Light and dark, on a phone: axe-core has no serious finding. Magnified too, nothing is wider than the screen, and
    the first link has a visible focus.
    """
    for dark in (False, True):
        async with visitor(browser, gateway.http, "pages", size=(390, 844), dark=dark) as visit:
            for path in ("/runbooks", "/runbooks/key-expiring", "/problems", "/problems/token_expired"):
                await visit.page.set_viewport_size({"width": 390, "height": 844})
                await visit.page.goto(gateway.http + path)
                assert await serious_findings(visit.page) == [], path
                for width in (390, 640, 320):
                    await visit.page.set_viewport_size({"width": width, "height": 450})
                    assert await visit.page.evaluate(NARROW_JS) <= 0, (path, width)
                await visit.page.keyboard.press("Tab")
                focus = visit.page.locator("a:focus, summary:focus")
                assert await focus.evaluate("one => getComputedStyle(one).outlineStyle") != "none", path


async def test_page_fits_at_twice_its_size(gateway: Program, browser: Browser) -> None:
    """At 200 % zoom a screen of 1280 has 640 of its pixels (WCAG 1.4.4)."""
    async with operator(browser, gateway, "zoom", size=(640, 450)) as visit:
        page = Dashboard(visit, gateway.http)
        await page.open(gateway.token("op", permission="operator"))
        await page.ready()
        for section in SECTIONS:
            await page.go(section)
            assert await page.fits(), section
        await page.shot("zoom")
        visit.check()


async def test_page_works_by_keyboard_alone(gateway: Program, browser: Browser) -> None:
    """From the link past the navigation to a section and a range; the focus is always visible."""
    async with operator(browser, gateway, "keyboard") as visit:
        page = Dashboard(visit, gateway.http)
        await page.open(gateway.token("op", permission="operator"))
        await page.ready()
        keyboard = page.page.keyboard
        await page.page.evaluate("document.activeElement.blur()")
        await keyboard.press("Tab")
        await expect(page.page.locator(":focus")).to_have_text("Skip to the figures")
        seen = []
        for _ in range(12):
            await keyboard.press("Tab")
            seen.append(await page.page.evaluate("document.activeElement.textContent"))
            outline = await page.page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", seen
            if seen[-1] == "Runs":
                break
        await keyboard.press("Enter")
        await expect(page.page.locator(".section-title")).to_have_text("Runs")
        range_of = page.page.get_by_label("Range")
        await range_of.focus()
        await keyboard.press("ArrowDown")
        await expect(range_of).to_have_value("1h")
        visit.check()


async def test_an_incident_is_opened_and_resolved_from_the_page(gateway: Program, browser: Browser) -> None:
    """It is on the public status page at once."""
    async with operator(browser, gateway, "incident") as visit:
        page = Dashboard(visit, gateway.http)
        await page.open(gateway.token("op", permission="operator"), "#/incidents")
        await page.ready()
        await page.page.get_by_label("Title").fill("Sign-in is slow")
        await page.page.get_by_label("What customers should know").fill("We are looking into it.")
        await page.page.get_by_role("button", name="Open incident").click()
        await expect(page.page.get_by_role("heading", name="Sign-in is slow")).to_be_visible()
        assert "Sign-in is slow" in (await gateway.get("/status")).text
        await page.page.get_by_label("Update").fill("It is over.")
        await page.page.get_by_label("State").last.select_option("resolved")
        await page.page.get_by_role("button", name="Publish").click()
        await expect(page.page.locator(".updates")).to_contain_text("It is over.")
        assert await page.serious_findings() == []
        visit.check()


async def test_session_that_ends_closes_the_page(gateway: Program, browser: Browser) -> None:
    """After a revocation no figure stays on the screen."""
    async with operator(browser, gateway, "revoked") as visit:
        page = Dashboard(visit, gateway.http)
        await page.open(gateway.token("leaver", permission="operator"))
        await page.ready()
        answer = await gateway.post(
            "/api/v1/revoke",
            json={"kind": "subject", "value": "leaver"},
            headers={"Authorization": f"Bearer {ADMIN_KEY}"},
        )
        assert answer.status_code == 200
        await page.page.get_by_role("heading", name="Sign in").wait_for()
        assert await page.page.locator(".tile, .panel").count() == 0
