"""Staging 10: the path that every user needs: sign in, ask, read, come back, get a reasoned refusal."""

from __future__ import annotations

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import text_of
from narthex.e2e.system_under_test import KEY_HEADER, SystemUnderTest


@scenario(Category.E2E)
async def sign_in_ask_read(system: SystemUnderTest) -> None:
    """Proof, connect, thread, question, streamed answer, verified as complete."""
    async with system.client() as ada:
        events = await ada.ask("echo critical path")
        assert "critical path" in text_of(events)


@scenario(Category.E2E)
async def come_back_and_find_it(system: SystemUnderTest) -> None:
    """A later connection finds the thread in its list and the answer in the thread."""
    async with system.client() as ada:
        thread = await ada.thread("find me")
        events = await ada.ask("echo keep this", thread)
        await ada.view(thread)
    async with system.client() as later:
        assert thread in [t["thread_id"] for t in (await later.rpc("thread.list"))["threads"]]
        view = await later.rpc("thread.get", thread_id=thread)
        assert text_of(events) in [m["content"] for m in view["messages"]]


@scenario(Category.E2E)
async def a_bad_token_is_refused_with_a_reason(system: SystemUnderTest) -> None:
    """401 with problem+json: code, detail, remedy and trace id; and a WWW-Authenticate."""
    refused = await system.refused(
        "a forged token was admitted", {"Authorization": "Bearer eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl"}
    )
    assert refused.status == 401
    assert {"code", "detail", "remedy", "trace_id", "carriers_checked"} <= set(refused.problem)
    assert "bearer" in refused.headers["www-authenticate"].lower()


@scenario(Category.E2E)
async def a_wrong_key_is_refused(system: SystemUnderTest) -> None:
    """401 e2e_key_wrong (or, where the key is not taken, 403), never an upgrade."""
    refused = await system.refused("a wrong key was admitted", {KEY_HEADER: "certainly-not-the-key"})
    assert refused.problem["code"] in ("e2e_key_wrong", "e2e_not_allowed_here", "rate_limited")


@scenario(Category.E2E)
async def browsers_are_told_why(system: SystemUnderTest) -> None:
    """With `narthex.explain` a refusal is an upgrade that the gateway closes at once, with code and reason."""
    offered = ["jwt-auth", "jwt.not-a-token", "narthex.explain"]
    refused = await system.upgrade(subprotocols=offered)
    assert await refused.ended() in (3500, 3501)
    assert ":" in refused.close_reason, (
        f"closed with {refused.close_code} and the close_reason {refused.close_reason!r}"
    )


@scenario(Category.E2E)
async def preflight_gives_the_same_verdict(system: SystemUnderTest) -> None:
    """Preflight gives the verdict without an upgrade: admit for our token, the reason for a bad one."""
    good = await system.get("/ws/preflight", headers=await system.headers())
    assert good.status_code == 200
    assert good.json()["verdict"] == "admit"
    bad = await system.get("/ws/preflight", headers={"Authorization": "Bearer a.b.c"})
    assert bad.status_code == 401
    assert bad.headers["content-type"].startswith("application/problem+json")


@scenario(Category.E2E)
async def a_token_in_the_url_is_refused(system: SystemUnderTest) -> None:
    """A token in the URL is refused with `credential_in_url`: URLs end up in logs."""
    refused = await system.refused("a token in the URL was accepted", to=f"?token={await system.token()}")
    assert refused.problem["code"] == "credential_in_url"


@scenario(Category.E2E)
async def a_ticket_works_once(system: SystemUnderTest) -> None:
    """A ticket of POST /ws/ticket opens one connection; the second is refused."""
    answer = await system.post("/ws/ticket", headers=await system.headers())
    assert answer.status_code == 200
    ticket = answer.json()["ticket"]
    first = await system.upgrade(to=f"?ticket={ticket}")
    await first.connect()
    await first.close()
    refused = await system.refused("a ticket was accepted twice", to=f"?ticket={ticket}")
    assert refused.problem["code"] == "ticket_invalid"
