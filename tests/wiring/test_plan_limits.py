"""Every limit that the gateway shows, at N and at N+1, for every plan and for guests, on a wired gateway.

A limit that `/ws/config` or RPC `limits` shows and that nothing here proves fails `test_every_limit_…`.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import itertools
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from narthex.domain.identity import Identity, IdentityClass
from narthex.domain.limits import Limits
from narthex.domain.plans import DAY_S, PLANS, Plan
from narthex.errors import ClientError
from narthex.ports.agents import Agent, RunInput
from narthex.ports.memberships import Invitation
from narthex.ports.threads import Thread, ThreadMember
from narthex.testing import Running, gateway
from narthex.wiring.parts import Parts
from tests.timing import within

ROOT = Path(__file__).parents[2]


async def patient(run: RunInput) -> AsyncIterator[str]:
    """An agent that works until it is cancelled."""
    yield "working"
    await asyncio.Event().wait()


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    options: dict[str, Any] = {"allow_anonymous": True, "run_queue_limit": 100, "direct_membership": ("*",)}
    # A socket that says nothing is closed after 10 s: on a busy machine it takes longer to open 500 of them.
    options["inband_timeout_s"] = 60.0
    async with gateway(tmp_path, agents=[Agent(name="a", function=patient)], **options) as found:
        yield found


def parts_of(running: Running) -> Parts:
    """The parts of the gateway."""
    assert running.gateway.parts is not None
    return running.gateway.parts


def somebody(plan: str, subject: str = "ada") -> Identity:
    """A user on a plan; a guest for the guest plan."""
    if plan == "guest":
        return Identity(subject=subject, plan="guest", identity_class=IdentityClass.GUEST)
    return Identity(subject=subject, plan=plan, issued_at=time.time())


def dial(running: Running, plan: str) -> connect:
    """A handshake of `somebody`; a guest sends only a page's origin."""
    if plan == "guest":
        return connect(running.ws, origin=Origin(running.http), proxy=None)
    token = running.token("ada", plan=plan)
    return connect(running.ws, additional_headers={"Authorization": f"Bearer {token}"}, proxy=None)


async def advertised(running: Running, plan: str) -> dict[str, Any]:
    """The plan's limits as `/ws/config` shows them, which every proof below takes its N from."""
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
        shown: dict[str, Any] = (await http.get("/ws/config")).json()["plans"][plan]
    return shown


async def rpc_limits(socket: ClientConnection) -> dict[str, Any]:
    """The result of RPC `limits` on a new socket."""
    await socket.send('{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"limits"}}')
    async for frame in socket:
        for line in str(frame).splitlines():
            reply = json.loads(line)
            if reply.get("id") == 2:
                found: dict[str, Any] = reply["rpc"]["data"]
                return found
    raise AssertionError("the socket closed")


# -- one proof per limit ----------------------------------------------------------------------------------------


async def connections(running: Running, plan: str, limit: int) -> None:
    """N sockets of one user are open; the next is refused; closing one admits another."""
    if plan == "guest":  # every guest is another user: only one who sends `connect` again is the same
        limiter, guest = parts_of(running).core.limiter, somebody(plan)
        taken = [limiter.acquire("1.2.3.4", guest) for _ in range(limit)]
        full = limiter.acquire("1.2.3.4", guest)
        assert getattr(full, "code", "") == "connection_limit"
        for slot in taken:
            slot.release()  # type: ignore[union-attr] # N were admitted, or this fails
        return
    async with contextlib.AsyncExitStack() as stack:
        opened: list[ClientConnection] = []
        for _ in range(0, limit, 50):
            batch = [dial(running, plan) for _ in range(min(50, limit - len(opened)))]
            opened += [await stack.enter_async_context(one) for one in batch]
        assert len(opened) == limit
        with pytest.raises(InvalidStatus) as caught:
            await dial(running, plan)
        response = caught.value.response
        assert response.status_code == 429
        assert json.loads(response.body or b"{}")["code"] == "connection_limit"
        assert int(response.headers["retry-after"]) >= 1
        await opened[0].close()
        async with dial(running, plan):
            pass


async def concurrent_runs(running: Running, plan: str, limit: int) -> None:
    """N run at once in separate threads, the next waits; it begins when one ends."""
    parts, who = parts_of(running), somebody(plan)
    started = [
        (
            await parts.core.starter.start(
                who,
                text="go",
                client_message_id=f"m{number}",
            )
        ).run
        for number in range(limit + 1)
    ]

    async def states() -> list[str]:
        found = [await parts.store.runs.get(who.tenant, run.run_id) for run in started]
        return [run.state for run in found if run is not None]

    async def until(wanted: Callable[[list[str]], bool]) -> None:
        async with asyncio.timeout(within(60)):
            while not wanted(await states()):  # noqa: ASYNC110 - asks the store
                await asyncio.sleep(0.02)

    await until(lambda found: found.count("running") == limit)
    assert (await states()).count("queued") == 1
    going = next(run for run, state in zip(started, await states(), strict=True) if state == "running")
    await parts.core.engine.requests.cancel(who, going.run_id)
    await until(lambda found: found.count("running") == limit and "queued" not in found)


async def messages_per_minute(running: Running, plan: str, limit: int) -> None:
    """N messages at once pass, the next is told how long to wait; after that time one more passes."""
    quotas, who = parts_of(running).core.quotas, somebody(plan)
    moment = time.time()
    quotas._now = lambda: moment
    for _ in range(limit):
        quotas.take_message(who)
    with pytest.raises(ClientError) as caught:
        quotas.take_message(who)
    assert (caught.value.code, caught.value.number) == ("rate_limited", 429)
    assert f"plan {plan} allows {limit} messages" in caught.value.message
    moment += 60.0 / limit + 0.001
    quotas.take_message(who)
    with pytest.raises(ClientError):
        quotas.take_message(who)


async def history_days(running: Running, plan: str, limit: int | None) -> None:
    """A thread of N days is shown and kept; one past them is neither. No limit: it is always kept."""
    parts, who, now = parts_of(running), somebody(plan), time.time()
    ages = {"within": (limit or 9_999) * DAY_S - 60, "past": (limit or 9_999) * DAY_S + 1}
    for name, age_s in ages.items():
        thread = Thread(
            thread_id=name,
            tenant=who.tenant,
            title=name,
            created_by=who.subject,
            created_at=now - age_s,
            updated_at=now - age_s,
        )
        await parts.store.threads.create(thread, plan=plan)
    expected = {"within"} if limit is not None else {"within", "past"}
    assert {found.thread_id for found in await parts.core.chat.threads_of(who, None, 10)} == expected
    await parts.core.retention.purge_once()
    kept = [name for name in ages if await parts.store.threads.get(who.tenant, name) is not None]
    assert set(kept) == expected


async def thread_members(running: Running, plan: str, limit: int) -> None:
    """The owner and N-1 more; the next is refused; a member who leaves frees a place."""
    parts, who = parts_of(running), somebody(plan)
    thread = (await parts.core.chat.create(who, "Full")).thread_id
    for number in range(limit - 2):  # past the notices, of which each new member's goes to every other
        member = ThreadMember(user_id=f"u{number}", role="member", joined_at=1.0)
        assert await parts.store.threads.add_member(who.tenant, thread, member, limit=None) == "added"
    if limit > 1:
        await parts.core.memberships.add(who, thread, "the-last")
    with pytest.raises(ClientError) as caught:
        await parts.core.memberships.add(who, thread, "one-too-many")
    assert (caught.value.code, caught.value.number) == ("members_limit", 429)
    if limit > 1:
        await parts.core.memberships.remove(who, thread, "the-last")
        await parts.core.memberships.add(who, thread, "one-too-many")
    assert len(await parts.store.threads.members(who.tenant, thread)) == limit


async def threads(running: Running, plan: str, limit: int | None) -> None:
    """N owned threads, one more is refused, and a deletion allows another; others' threads count for others."""
    parts, who, now = parts_of(running), somebody(plan), time.time()
    for number in range((limit or 50) - 1):
        thread = Thread(
            thread_id=f"t{number}",
            tenant=who.tenant,
            title="",
            created_by=who.subject,
            created_at=now,
            updated_at=now,
        )
        await parts.store.threads.create(thread)
    last = await parts.core.chat.create(who, "The last")
    if limit is None:
        await parts.core.chat.create(who, "One more")
        return
    with pytest.raises(ClientError) as caught:
        await parts.core.chat.create(who, "One too many")
    assert (caught.value.code, caught.value.number) == ("threads_limit", 429)
    assert (await parts.core.chat.create(who, "", last.thread_id)).thread_id == last.thread_id
    await parts.core.chat.create(somebody(plan, "eve"), "Another's")
    await parts.core.chat.delete(who, last.thread_id)
    await parts.core.chat.create(who, "Again")


async def additions_per_day(running: Running, plan: str, limit: int) -> None:
    """N additions in a UTC day, in any threads; one more is refused until the next day."""
    parts, who, now = parts_of(running), somebody(plan), parts_of(running).now()
    thread = (await parts.core.chat.create(who, "Big")).thread_id

    async def add(user: str, at: float = now) -> str:
        made = Invitation(
            thread_id=thread,
            tenant=who.tenant,
            user_id=user,
            invited_by=who.subject,
            created_at=at,
            member_limit=10_000,
        )
        return await parts.store.memberships.add(made, direct=False, additions=limit, since=0.0)

    outcomes = [await add(f"u{number}") for number in range(limit)]
    assert set(outcomes) == {"invited"}
    assert await add("one-too-many") == "spent"
    assert await parts.store.memberships.additions(who.tenant, who.subject, now) == limit
    assert await add("one-too-many", now + DAY_S) == "invited"
    if PLANS.get(plan, PLANS["free"]).thread_members > 1:
        other = (await parts.core.chat.create(who, "Another")).thread_id
        with pytest.raises(ClientError) as caught:
            await parts.core.memberships.add(who, other, "eve")
        assert (caught.value.code, caught.value.number) == ("additions_limit", 429)


async def exports(running: Running, plan: str, limit: int) -> None:
    """N exports at once, one more is refused, and one that ended allows another."""
    parts = parts_of(running)
    if plan == "guest":
        who = somebody(plan)
        slots = [parts.core.exports.take(who) for _ in range(limit)]
        with pytest.raises(ClientError) as caught:
            parts.core.exports.take(who)
        assert (caught.value.code, caught.value.number) == ("exports_limit", 429)
        slots[0].release()
        slots[0] = parts.core.exports.take(who)
        assert parts.core.exports.active(who) == limit
        return
    who = Identity(subject="ada", plan=plan)
    thread = (await parts.core.chat.create(who, "Mine")).thread_id
    slots = [parts.core.exports.take(who) for _ in range(limit)]
    headers = {"Authorization": f"Bearer {running.token('ada', plan=plan)}"}
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False, headers=headers) as http:
        path = f"/api/v1/threads/{thread}/export"
        refused = await http.get(path)
        assert (refused.status_code, refused.json()["code"]) == (429, "exports_limit")
        slots[0].release()
        for _ in range(3):  # each that ends allows the next
            assert (await http.get(path)).json()["thread"]["thread_id"] == thread
    assert parts.core.exports.active(who) == limit - 1


Proof = Callable[[Running, str, Any], Awaitable[None]]
PROOFS: dict[str, Proof] = {
    proof.__name__: proof
    for proof in (
        connections,
        concurrent_runs,
        messages_per_minute,
        history_days,
        thread_members,
        threads,
        additions_per_day,
        exports,
    )
}
LIMITS_OF_PLANS = [name for name in Plan.__struct_fields__ if name != "name"]


@pytest.mark.parametrize(("plan", "limit"), list(itertools.product(PLANS, LIMITS_OF_PLANS)))
async def test_a_plans_limit_at_n_and_one_more(running: Running, plan: str, limit: str) -> None:
    """The values of this gateway's `/ws/config` are the ones that it enforces."""
    shown = (await advertised(running, plan))[limit]
    assert shown == getattr(PLANS[plan], limit)
    await PROOFS[limit](running, plan, shown)


@pytest.mark.parametrize("limit", LIMITS_OF_PLANS)
async def test_a_test_identity_is_limited_as_mid(running: Running, limit: str) -> None:
    """Whatever its token claims (docs/design.md#runs)."""
    parts = parts_of(running)
    who = Identity(
        subject="e2e:run", tenant="e2e", plan="enterprise", e2e=True, identity_class=IdentityClass.E2E
    )
    assert getattr(parts.core.plan(who), limit) == getattr(PLANS["mid"], limit)


async def test_settings_change_what_is_shown_and_what_holds(tmp_path: Path) -> None:
    """An operator's own numbers, for every limit at once, and a custom plan."""
    toml = tmp_path / "narthex.toml"
    toml.write_text(
        "[plans.gold]\nconnections = 2\nconcurrent_runs = 1\nmessages_per_minute = 3\nhistory_days = 2\n"
        "thread_members = 2\nthreads = 3\nadditions_per_day = 2\nexports = 2\n"
    )
    from narthex.settings import load
    from narthex.wiring.embedding import create_gateway

    for limit, number in (
        ("connections", 2),
        ("concurrent_runs", 1),
        ("messages_per_minute", 3),
        ("history_days", 2),
        ("thread_members", 2),
        ("threads", 3),
        ("additions_per_day", 2),
        ("exports", 2),
    ):
        flags = {
            "port": 0,
            "data_dir": tmp_path / limit,
            "embedded_provider": "on",
            "drain_grace_s": 1.0,
            "direct_membership": ("*",),
        }
        made = create_gateway(load(flags, {}, toml), agents=[Agent(name="a", function=patient)])
        async with made.running() as http:
            running = Running(made, http)
            assert (await advertised(running, "gold"))[limit] == number
            await PROOFS[limit](running, "gold", number)


async def test_every_limit_that_is_shown_is_proven(running: Running) -> None:
    """`/ws/config` and RPC `limits` show the plan's fields, no fewer and no more, and each has its proof above."""
    assert set(PROOFS) == set(LIMITS_OF_PLANS)
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False) as http:
        config = (await http.get("/ws/config")).json()
    assert set(config["plans"]) == set(PLANS)
    for fields in config["plans"].values():
        assert set(fields) == set(PROOFS)
    assert set(config["limits"]) == set(PROVEN_BY) == set(Limits.__struct_fields__)
    for plan in ("guest", "free"):
        async with dial(running, plan) as socket:
            limits = await rpc_limits(socket)
            assert limits.pop("plan") == plan
            assert {name: shown["limit"] for name, shown in limits.items()} == await advertised(running, plan)


# -- the limits of section 8, which are no plan's ---------------------------------------------------------------

PROVEN_BY = {
    "handshake_timeout_s": "tests/adapters/edge/test_refusals.py::test_deadlines_of_the_handshake",
    "inband_timeout_s": "tests/protocol/test_session.py::test_silence_ends_a_connection_that_never_connects",
    "max_head_bytes": "tests/adapters/edge/test_head.py::test_the_limits_are_exact",
    "max_headers": "tests/adapters/edge/test_head.py::test_the_limits_are_exact",
    "max_message_bytes": "tests/acceptance/test_limits.py::test_what_is_enforced_is_what_is_advertised",
    "max_fragments": "tests/adapters/edge/test_frames.py::test_fragments_are_counted_even_when_empty",
    "max_inflation_ratio": "tests/adapters/edge/test_frames.py::test_inflated_sizes_are_bounded",
    "max_inflated_bytes": "tests/adapters/edge/test_frames.py::test_inflated_sizes_are_bounded",
    "max_pending_bytes": "tests/app/test_slow_clients.py::test_pending_bytes",
    "max_lag_s": "tests/app/test_slow_clients.py::test_lag",
    "commands_per_s": "tests/protocol/test_session.py::test_a_burst_is_throttled_then_a_flood_is_closed",
    "commands_burst": "tests/protocol/test_session.py::test_a_burst_is_throttled_then_a_flood_is_closed",
    "control_frames_per_s": "tests/adapters/edge/test_attacks.py::test_pings_that_are_never_read",
    "http_requests_per_s": "tests/security/test_http_rates.py::test_a_users_requests_are_limited",
    "http_requests_burst": "tests/security/test_http_rates.py::test_a_users_requests_are_limited",
    "max_connections_per_user": "tests/app/test_connection_limits.py::test_one_limit_for_every_plan",
    "max_connections_per_address": "tests/app/test_connection_limits.py::test_an_address_has_its_limit",
    "max_connections_unauthenticated": "tests/app/test_connection_limits.py::test_the_unproven_have_theirs",
    "max_connections": "tests/app/test_connection_limits.py::test_the_process_has_its_own",
    "max_json_depth": "tests/protocol/test_commands.py::test_depth_is_of_nesting_outside_strings",
    "ping_interval_s": "tests/protocol/test_session.py::test_pings_and_the_pong_that_never_comes",
    "pong_timeout_s": "tests/protocol/test_session.py::test_pings_and_the_pong_that_never_comes",
}
"""The test that checks each limit at its number and one past it."""


@pytest.mark.parametrize("limit", PROVEN_BY)
def test_the_proof_of_a_limit_exists(limit: str) -> None:
    """Renaming or deleting a test removes its limit's proof, which this test notices."""
    path, _, name = PROVEN_BY[limit].partition("::")
    tree = ast.parse((ROOT / path).read_text())
    assert name in {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_the_page_says_what_the_plans_are() -> None:
    """docs/plans.md names every limit of every plan, with its default."""
    rows = {
        cells[0].split("`")[1]: cells[1:]
        for line in (ROOT / "docs" / "plans.md").read_text().splitlines()
        if len(cells := [cell.strip() for cell in line.strip("| ").split("|")]) == 1 + len(PLANS)
        and cells[0].startswith("`")
    }
    shown = {
        limit: [
            "no end" if (number := getattr(plan, limit)) is None else f"{number:,}" for plan in PLANS.values()
        ]
        for limit in LIMITS_OF_PLANS
    }
    assert rows == shown


async def test_the_testing_gateway_gives_no_token_of_an_unknown_plan(running: Running) -> None:
    """Its test would run on the limits of `free` and not of the plan that it names."""
    with pytest.raises(ClientError, match="No plan is named 'gold'"):
        running.token("ada", plan="gold")
