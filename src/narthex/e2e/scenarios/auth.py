"""Auth: every carrier of a credential, the identity that it gives, and its renewal."""

from __future__ import annotations

import asyncio
import base64

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import HandshakeRefused, RpcFault
from narthex.e2e.system_under_test import SystemUnderTest


@scenario(Category.AUTH)
async def carriers_bring_the_same_person(system: SystemUnderTest) -> None:
    """Header, subprotocol (raw and base64url) and ticket give the same subject."""
    token = await system.token()
    encoded = base64.urlsafe_b64encode(token.encode()).decode().rstrip("=")
    ticket = (await system.post("/ws/ticket", headers=await system.headers())).json()["ticket"]
    ways = (
        await system.upgrade(await system.headers()),
        await system.upgrade(subprotocols=["jwt-auth", f"jwt.{token}"]),
        await system.upgrade(subprotocols=["jwt-auth", f"jwt.{encoded}"]),
        await system.upgrade(to=f"?ticket={ticket}"),
    )
    found = set()
    for client in ways:
        await client.connect()
        found.add((await client.rpc("whoami"))["user"])
        await client.close()
    assert len(found) == 1, f"four carriers of one token gave {len(found)} identities"


@scenario(Category.AUTH)
async def a_test_identity_is_confined(system: SystemUnderTest) -> None:
    """A test identity has tenant e2e, its own test run, a life of at most 15 minutes, and only granted permissions."""
    async with system.client() as ada:
        me = await ada.rpc("whoami")
        if not system.proof.token:
            assert me["tenant"] == "e2e", f"tenant {me['tenant']}"
            assert me["e2e"] is True
            assert me["test_run"].startswith(system.test_run), f"test run {me['test_run']}"
            assert "admin" not in me["permissions"]
            assert 0 < ada.connected["ttl"] <= 900, f"ttl {ada.connected['ttl']}"
        assert me["class"] in ("e2e", "user", "probe")


@scenario(Category.AUTH)
async def a_token_in_the_first_connect(system: SystemUnderTest) -> None:
    """`connect.token` admits where health says that no credential is needed before the upgrade; else 401 before it."""
    required = (await system.get("/ws/health")).json()["config"]["pre_connection_auth_required"]
    try:
        client = await system.upgrade()
    except HandshakeRefused as refused:
        assert required, "refused before the upgrade although health does not require a credential"
        assert refused.status == 401
        return
    assert not required, "upgraded without a credential although health requires one"
    await client.connect(token=await system.token())
    assert (await client.rpc("whoami"))["user"]
    await client.close()


@scenario(Category.AUTH)
async def a_refresh_keeps_the_line(system: SystemUnderTest) -> None:
    """The gateway accepts a fresh token of the same subject in-band; the connection continues with a new ttl."""
    async with system.client() as ada:
        token = await system.token()
        first = (await ada.command("refresh", token=token))["ttl"]
        assert first > 0
        await asyncio.sleep(2.5)  # the token grows older, which its ttl must show
        second = (await ada.command("refresh", token=token))["ttl"]
        assert 1 <= first - second <= 10, f"2.5 s apart one token gave a ttl of {first} and {second}"
        assert await ada.rpc("echo", n=1) == {"n": 1}


@scenario(Category.AUTH)
async def a_bad_refresh_ends_it(system: SystemUnderTest) -> None:
    """A refresh with a forged token closes the connection with 3500; the old token does not keep it open."""
    async with system.client() as ada:
        try:
            await ada.command("refresh", token="eyJhbGciOiJIUzI1NiJ9.e30.c2ln")  # noqa: S106 - a forgery, not a secret
        except (RpcFault, AssertionError):
            pass
        else:
            raise AssertionError("a forged refresh token was accepted")
        assert await ada.ended() == 3500, f"closed with {ada.close_code} {ada.close_reason}"


@scenario(Category.AUTH)
async def two_carriers_of_two_people_conflict(system: SystemUnderTest) -> None:
    """A header for one user and a subprotocol for another: 400 credential_conflict."""
    other = await system.token("bob")
    refused = await system.refused(
        "one connection admitted two users", await system.headers(), subprotocols=["jwt-auth", f"jwt.{other}"]
    )
    assert refused.status == 400, f"refused with {refused.status}"
    assert refused.problem["code"] == "credential_conflict"


@scenario(Category.AUTH)
async def a_spent_ticket_is_no_ticket(system: SystemUnderTest) -> None:
    """A ticket admits once; preflight does not use it up."""
    ticket = (await system.post("/ws/ticket", headers=await system.headers())).json()["ticket"]
    assert (await system.get(f"/ws/preflight?ticket={ticket}")).status_code == 200
    first = await system.upgrade(to=f"?ticket={ticket}")
    await first.connect()
    await first.close()
    refused = await system.refused("a ticket was accepted twice", to=f"?ticket={ticket}")
    assert refused.problem["code"] == "ticket_invalid", f"{refused}"


@scenario(Category.AUTH)
async def no_ticket_for_nobody(system: SystemUnderTest) -> None:
    """POST /ws/ticket without a credential: 401 and how to authenticate."""
    answer = await system.post("/ws/ticket")
    assert answer.status_code == 401, f"a ticket without a credential is answered with {answer.status_code}"
    assert "www-authenticate" in answer.headers
