"""Auth: every way to bring a credential, what it is worth, and how it is renewed."""

from __future__ import annotations

import asyncio
import base64

from narthex.e2e.person import Person, Refused, RpcFault
from narthex.e2e.scenario import Category, scenario
from narthex.e2e.world import World


@scenario(Category.AUTH)
async def carriers_bring_the_same_person(world: World) -> None:
    """Header, subprotocol (raw and base64url), ticket: one subject."""
    token = await world.token()
    encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    ticket = (await world.post("/ws/ticket", headers=await world.headers())).json()["ticket"]
    ways = (
        await Person.knock(world.ws_url, await world.headers()),
        await Person.knock(world.ws_url, subprotocols=["jwt-auth", f"jwt.{token}"]),
        await Person.knock(world.ws_url, subprotocols=["jwt-auth", f"jwt.{encoded}"]),
        await Person.knock(f"{world.ws_url}?ticket={ticket}"),
    )
    found = set()
    for somebody in ways:
        await somebody.connect()
        found.add((await somebody.rpc("whoami"))["user"])
        await somebody.close()
    assert len(found) == 1, f"four carriers of one token brought {len(found)} people"


@scenario(Category.AUTH)
async def a_test_identity_is_confined(world: World) -> None:
    """Tenant e2e, its own test run, a life of at most 15 minutes, no permission that it was not given."""
    async with world.person() as ada:
        me = await ada.rpc("whoami")
        if not world.proof.token:
            assert me["tenant"] == "e2e", f"tenant {me['tenant']}"
            assert me["e2e"] is True
            assert me["test_run"].startswith(world.test_run), f"test run {me['test_run']}"
            assert "admin" not in me["permissions"]
            assert 0 < ada.connected["ttl"] <= 900, f"ttl {ada.connected['ttl']}"
        assert me["class"] in ("e2e", "user", "probe")


@scenario(Category.AUTH)
async def a_token_in_the_first_connect(world: World) -> None:
    """A token in `connect` admits where health says that none is needed before the upgrade; else 401 before it."""
    required = (await world.get("/ws/health")).json()["config"]["pre_connection_auth_required"]
    try:
        somebody = await Person.knock(world.ws_url)
    except Refused as refused:
        assert required, "refused before the upgrade although health says that this is not required"
        assert refused.status == 401
        return
    assert not required, "upgraded without a credential although health says that one is required"
    await somebody.connect(token=await world.token())
    assert (await somebody.rpc("whoami"))["user"]
    await somebody.close()


@scenario(Category.AUTH)
async def a_refresh_keeps_the_line(world: World) -> None:
    """A fresh token of the same subject is taken in-band; the line goes on with a new ttl."""
    async with world.person() as ada:
        token = await world.token()
        first = (await ada.command("refresh", token=token))["ttl"]
        assert first > 0
        await asyncio.sleep(2.5)  # the token grows older, which its ttl must show
        second = (await ada.command("refresh", token=token))["ttl"]
        assert 1 <= first - second <= 10, f"2.5 s apart one token was worth a ttl of {first} and {second}"
        assert await ada.rpc("echo", n=1) == {"n": 1}


@scenario(Category.AUTH)
async def a_bad_refresh_ends_it(world: World) -> None:
    """A refresh with a forged token ends the line with 3500; it does not stay open on the old one."""
    async with world.person() as ada:
        try:
            await ada.command("refresh", token="eyJhbGciOiJIUzI1NiJ9.e30.c2ln")  # noqa: S106 - a forgery, not a secret
        except (RpcFault, AssertionError):
            pass
        else:
            raise AssertionError("a forged refresh was taken")
        assert await ada.ended() == 3500, f"closed with {ada.close_code} {ada.close_reason}"


@scenario(Category.AUTH)
async def two_carriers_of_two_people_conflict(world: World) -> None:
    """A header for one and a subprotocol for another: 400 credential_conflict."""
    other = await world.token("bob")
    try:
        await Person.knock(world.ws_url, await world.headers(), subprotocols=["jwt-auth", f"jwt.{other}"])
    except Refused as refused:
        assert refused.status == 400, f"refused with {refused.status}"
        assert refused.problem["code"] == "credential_conflict"
    else:
        raise AssertionError("two people entered on one line")


@scenario(Category.AUTH)
async def a_spent_ticket_is_no_ticket(world: World) -> None:
    """A ticket admits once; preflight does not use it up."""
    ticket = (await world.post("/ws/ticket", headers=await world.headers())).json()["ticket"]
    assert (await world.get(f"/ws/preflight?ticket={ticket}")).status_code == 200
    first = await Person.knock(f"{world.ws_url}?ticket={ticket}")
    await first.connect()
    await first.close()
    try:
        await Person.knock(f"{world.ws_url}?ticket={ticket}")
    except Refused as refused:
        assert refused.problem["code"] == "ticket_invalid", f"{refused}"
    else:
        raise AssertionError("a ticket admitted twice")


@scenario(Category.AUTH)
async def no_ticket_for_nobody(world: World) -> None:
    """POST /ws/ticket without a credential: 401 and how to authenticate."""
    answer = await world.post("/ws/ticket")
    assert answer.status_code == 401, f"a ticket without a credential is answered with {answer.status_code}"
    assert "www-authenticate" in answer.headers
