"""Numbers in prose are those of the code: changing one in the code names the page that states it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import structs

from narthex.adapters.edge import frames
from narthex.adapters.edge.limits import CONFORMANCE, EdgeLimits
from narthex.adapters.tokens import breaker, claims, introspection, jwks, signing
from narthex.app import attempts, chat, connection, loop_watch, membership_audit, provider, staleness
from narthex.app.commands import reading, subscribing
from narthex.app.rpc import threads
from narthex.app.runs import execution, requests, session
from narthex.app.runs.services import RunLimits
from narthex.domain import agent_ids
from narthex.domain.merging import MAX_JOINED_CHARS
from narthex.domain.plans import DAY_S, INVITATION_DAYS, PLANS
from narthex.domain.trust import MAX_PERMISSIONS
from narthex.e2e import scenarios
from narthex.e2e.scenario import Category, every
from narthex.ports.broker import PRESENCE_TTL_S
from narthex.ports.tokens import MAX_TOKEN_BYTES
from narthex.web import tickets
from tests.generated import stale

DOCS = Path(__file__).parents[2] / "docs"
KIB = 1024
EDGE, RUNS = EdgeLimits(), RunLimits()
WORDS = {2: "two", 3: "three", 4: "four", 10: "ten"}


def said(page: str) -> str:
    """A page on one line."""
    return " ".join((DOCS / page).read_text(encoding="utf-8").split())


def test_the_three_limits_of_failed_sign_ins() -> None:
    """docs/authentication.md names each, with its window."""
    text = said("authentication.md")
    assert f"limited in any stretch of {provider.FAILED_WINDOW_S} s" in text
    assert f"{provider.OF_ADDRESS_AT_ACCOUNT} of one address at one account" in text
    assert f"{provider.OF_ADDRESS_AT_ALL} of one address at all accounts" in text
    assert f"{provider.OF_ALL_AT_ACCOUNT} of all addresses at one account" in text
    assert attempts.WRONG_KEYS == 10
    assert "ten wrong ones a minute and address" in text


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("authentication.md", f"A JWT (RFC 7519) of at most {MAX_TOKEN_BYTES // KIB} KB."),
        ("authentication.md", f"Clocks may differ by {claims.LEEWAY_S:g} s"),
        ("authentication.md", f"Of the permissions claim at most {MAX_PERMISSIONS} count"),
        ("authentication.md", f"a new access token ({provider.ACCESS_TTL_S / 3600:g} h)"),
        ("authentication.md", f"refresh token ({provider.REFRESH_TTL_S / DAY_S:g} days)"),
        ("authentication.md", f"may race for {provider.REUSE_GRACE_S:g} s"),
        ("authentication.md", f"tokens of cached keys, for {jwks.STALE_S / 3600:g} h"),
        ("authentication.md", f"at most once in {jwks.UNKNOWN_KEY_COOL_DOWN_S:g} s per issuer"),
        ("authentication.md", f"tokens confirmed within the last {introspection.POSITIVE_S:g} s"),
        ("authentication.md", f"An introspected yes is believed for {introspection.POSITIVE_S:g} s"),
        ("guarantees.md", f"and every {staleness.COMPARE_EVERY_S:g} s, a node appends a mark"),
        ("guarantees.md", f"Presence expires by itself after {PRESENCE_TTL_S:g} s"),
        ("guarantees.md", f"or {membership_audit.PER_S:,} subscriptions a second"),
        ("guarantees.md", f"a rotation leads by {signing.ROTATION_LEAD_S:g} s"),
        ("guarantees.md", f"whether an invitation ({INVITATION_DAYS} days)"),
        ("guarantees.md", f"A command of a client is answered within {connection.COMMAND_TIMEOUT_S:g} s"),
        ("protocol.md", f"More than {subscribing.RECOVERY_LIMIT:,} publications or"),
        ("protocol.md", f"or {reading.RECOVERY_BYTES // KIB**2} MB are not recovered"),
        ("protocol.md", f"`run_id`, `text` ({requests.STEER_BYTES // KIB} KB)"),
        ("protocol.md", f"or `thread_ids` (1-{threads.MANY})"),
        ("protocol.md", f"has more than {chat.MAX_OUTCOMES} ended runs"),
        ("protocol.md", f"An invitation is open for {INVITATION_DAYS} days"),
        ("protocol.md", f"`history` page ends at {reading.HISTORY_BYTES // KIB} KB"),
        ("authentication.md", f"asking a failing service for {breaker.OPEN_S:g} s at a time"),
        ("security.md", f"| tickets | {tickets.TICKETS_A_MINUTE} a minute and user"),
        ("runs.md", f"40 ms · {MAX_JOINED_CHARS:,} characters"),
        ("runs.md", f"{execution.MAX_WORDS:,} characters · {agent_ids.LONG_ID}, a longer one"),
        ("edge.md", f"a head over {EDGE.head_bytes // KIB} KB, or more than {EDGE.headers} headers"),
        ("edge.md", f"no whole head within {EDGE.handshake_s:g} s of accept"),
        ("edge.md", f"a request body that does not arrive within {EDGE.body_s:g} s"),
        ("edge.md", f"more than {EDGE.pipelined} requests pipelined"),
        ("edge.md", f"more than {EDGE.connections:,} TCP connections"),
        ("edge.md", f"answer to our close frame | {EDGE.close_s:g} s | {EDGE.close_s:g} s |"),
        ("edge.md", f"(`SO_SNDBUF`) | {EDGE.send_buffer_bytes // KIB} KB, which Linux doubles"),
        ("edge.md", f"Idle HTTP connections are kept for {EDGE.keep_alive_s} s"),
        (
            "edge.md",
            f"the wire | {EDGE.app.message_bytes // KIB} KB | {CONFORMANCE.message_bytes // KIB**2} MB",
        ),
        ("edge.md", f"empty ones too | {EDGE.app.fragments:,} | {CONFORMANCE.fragments:,} |"),
        ("edge.md", f"inflated | {EDGE.app.inflated_ratio} × its wire size and at most "),
        ("edge.md", f"at most {EDGE.app.inflated_bytes // KIB**2} MB, but always up to 64 KB"),
        ("edge.md", f"up to 64 KB | {CONFORMANCE.inflated_bytes // KIB**2} MB | 1009"),
        ("edge.md", f"control frames a second | {EDGE.app.control_per_s} | no limit"),
        ("edge.md", f"One read delivers at most {frames.EVENTS_A_READ} messages"),
        ("operations.md", f"takes nothing for {EDGE.write_s:g} s is dropped"),
        ("runs.md", f"a run · an approval | {RUNS.run_deadline_s:g} s · {RUNS.answer_s:g} s"),
        ("runs.md", f"{RUNS.max_event_bytes // KIB} KB · {RUNS.max_run_bytes // KIB**2} MB · "),
        ("runs.md", f" MB · {RUNS.max_run_events:,} |"),
        ("runs.md", f"{RUNS.thread_queue} · {RUNS.max_running:,} · {RUNS.max_waiting:,} |"),
        ("runs.md", f"restarts of a restartable agent | {RUNS.max_attempts - 1} |"),
        ("runs.md", f"joining of deltas · longest joined delta | {RUNS.join_window_s * 1000:g} ms"),
        ("runs.md", f"After {RUNS.silence_s:g} s without an event, `CUSTOM narthex.working"),
        ("runs.md", f"the thread is cut to its newest {RUNS.keep_events:,}"),
        ("runs.md", f"after {loop_watch.HELD_S:g} s the log says `event loop held`"),
        ("runs.md", f"{requests.STEER_BYTES // KIB} KB · {session.STEER_LIMIT} |"),
        ("runs.md", f"KB · {requests.PAYLOAD_BYTES // KIB} KB, "),
        ("security.md", f"once, within {tickets.TICKET_TTL_S} s"),
        (
            "security.md",
            f"{attempts.WRONG_KEYS} in any {attempts.WRONG_KEYS_WINDOW_S:g} s and address, over all surfaces",
        ),
    ],
)
def test_a_number_in_a_page_is_the_codes(page: str, text: str) -> None:
    """The statement of a page, in the words of the page."""
    assert text in said(page)


def test_the_generated_pages_are_current() -> None:
    """The output of `./check --write-docs`: codes, settings and metrics of the pages are those of the code."""
    assert stale() == []


def test_the_plans() -> None:
    """docs/plans.md has every limit of every plan, and no other."""
    rows = [line.strip("| ").split(" | ") for line in (DOCS / "plans.md").read_text().splitlines()]
    names = rows[rows.index(next(row for row in rows if row[-1:] == ["enterprise"]))]
    found = {row[0].split("`")[1]: row[1:] for row in rows if len(row) == len(names) + 1 and "`" in row[0]}
    assert list(PLANS) == names
    for at, plan in enumerate(PLANS.values()):
        limits = {name: value for name, value in structs.asdict(plan).items() if name != "name"}
        documented = {
            name: None if (text := row[at]) == "no end" else int(text.replace(",", ""))
            for name, row in found.items()
        }
        assert documented == limits


def wrong_keys(category: Category | None) -> int:
    """The number of wrong keys that the scenarios of a category (None: those of every run) try, by their source."""
    files = {"smoke.py": None, "critical_path.py": Category.E2E}
    folder = Path(scenarios.__file__).parent
    text = "".join((folder / name).read_text() for name, of in files.items() if of == category)
    return len(re.findall(r"refused\(\"[^\"]+\", (?:wrong\)|\{KEY_HEADER: )|headers=wrong\b", text))


def test_wrong_keys_of_a_run() -> None:
    """docs/testing.md states how many runs a minute one runner may make against a gateway that allows ten wrong
    keys.
    """
    always, more = wrong_keys(None), wrong_keys(Category.E2E)
    text = said("testing.md")
    assert f"Each run tries {WORDS[always]} wrong keys" in text
    assert f"{WORDS[always + more]} if the category `e2e` is in it" in text
    runs = attempts.WRONG_KEYS // (always + more)
    assert (
        f"{WORDS[runs]} whole runs a minute from one runner are fine, with {WORDS[runs + 1]} some have to wait"
        in text
    )


def test_the_number_of_scenarios() -> None:
    """docs/testing.md states the number of the staging suite's scenarios."""
    groups = [scenario for scenario in every() if scenario.category is Category.E2E]
    assert f"ten groups, {len(groups)} scenarios" in said("testing.md")


@pytest.mark.parametrize("page", ["README.md", *(path.name for path in sorted(DOCS.glob("*.md")))])
def test_no_page_installs_narthex_from_a_registry(page: str) -> None:
    """It is in no registry: pages use `pip install .`, or an extra beside an installed narthex."""
    path = DOCS / page if page != "README.md" else DOCS.parent / page
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"pip install (?:-U |--upgrade )?narthex\b", text)


def test_a_decision_has_the_number_of_its_file() -> None:
    """A page that was renumbered after a collision keeps no old number: others refer to decisions by it."""
    pages = sorted((DOCS / "decisions").glob("*.md"))
    assert len({page.name[:4] for page in pages}) == len(pages) > 20
    for page in pages:
        number = int(page.name[:4])
        assert re.match(rf"# 0*{number}[.:] ", page.read_text(encoding="utf-8")), page.name
