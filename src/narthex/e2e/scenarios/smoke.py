"""Smoke: the gateway answers, admits the right users and no others, and answers one question completely.

The only group that runs in production, so: one user, one thread of their own, deleted at the end. The four negatives
are part of every run, whatever the selection.
"""

from __future__ import annotations

import base64
import binascii
import json

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import HandshakeRefused, fault_of, text_of
from narthex.e2e.system_under_test import KEY_HEADER, SystemUnderTest

FORGED = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJldmUiLCJleHAiOjk5OTk5OTk5OTl9.c2lnbmF0dXJl"
UNSIGNED = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJldmUiLCJleHAiOjk5OTk5OTk5OTl9."


@scenario(Category.SMOKE)
async def it_is_well(system: SystemUnderTest) -> None:
    """Health is 200, and its handshake, broker and store are healthy."""
    answer = await system.get("/ws/health")
    body = answer.json()
    assert answer.status_code == 200, f"health answers {answer.status_code}: {body.get('errors')}"
    for check in ("handshake", "broker", "store"):
        found = body["checks"][check]
        assert found["status"] == "healthy", f"{check}: {found}"


@scenario(Category.SMOKE)
async def the_bypass_is_as_it_should_be(system: SystemUnderTest) -> None:
    """Production reports that test identities are off; elsewhere they are on exactly when a key is set."""
    e2e = (await system.get("/ws/health")).json()["e2e_testing"]
    if system.environment == "production":
        assert e2e["auth_bypass_active"] is False, "the bypass is open in production"
        assert e2e["variables"] == {}
    else:
        has_key = e2e["variables"].get("E2E_OAUTH_SIMULATION_KEY") == "SET"
        assert e2e["auth_bypass_active"] is has_key, f"bypass {e2e['auth_bypass_active']}, key {has_key}"


@scenario(Category.SMOKE, always=True)
async def no_token_is_nobody(system: SystemUnderTest) -> None:
    """Without a token: refused with 401, or upgraded inert and closed 3500 at the first connect, as health says."""
    before = (await system.get("/ws/health")).json()["config"]["pre_connection_auth_required"]
    try:
        bare = await system.upgrade()
    except HandshakeRefused as refused:
        assert refused.status == 401, f"refused with {refused.status} {refused.problem.get('code')}"
        assert refused.problem["code"] == "auth_required"
        return
    assert not before, "health reports that a credential is required before the upgrade, but none was"
    await bare.raw('{"id":1,"connect":{}}\n{"id":2,"rpc":{"method":"whoami"}}')
    assert await bare.ended() == 3500, f"closed with {bare.close_code} {bare.close_reason}"
    assert not bare.seen, f"a connection without a credential was answered: {bare.seen[0]}"


@scenario(Category.SMOKE, always=True)
async def bad_tokens_are_refused(system: SystemUnderTest) -> None:
    """A forged signature, no signature, and no token at all in the header: 401 each, with a reason."""
    for token in (FORGED, UNSIGNED, "not-a-token"):
        refused = await system.refused(
            f"a bad token was admitted: {token[:24]}…", {"Authorization": f"Bearer {token}"}
        )
        assert refused.status == 401, f"{refused.status} instead of 401 for {token[:24]}"
        assert refused.problem["code"], "a refusal without a code"


@scenario(Category.SMOKE, always=True)
async def a_wrong_key_is_nobodys(system: SystemUnderTest) -> None:
    """A wrong key gets 401 e2e_key_wrong, or 403 where test identities are off, at handshake and exchange."""
    wrong = {KEY_HEADER: "a-key-that-is-long-enough-and-not-the-one"}
    active = (await system.get("/ws/health")).json()["e2e_testing"]["auth_bypass_active"]
    # 429: others at this address have tried too many wrong keys. 503: no key is set to compare with.
    codes = {401: "e2e_key_wrong", 429: "rate_limited"} if active else {403: "e2e_not_allowed_here", 503: ""}
    refused = await system.refused("a wrong key was admitted at the handshake", wrong)
    found = str(refused.problem.get("code"))
    assert refused.status in codes, f"a wrong key was refused with {refused.status} {found}"
    assert codes[refused.status] in ("", found), f"a wrong key was refused as {found}"
    answer = await system.post("/auth/e2e/test-auth", headers=wrong, json={})
    assert answer.status_code in codes, f"the exchange answers {answer.status_code} to a wrong key"


@scenario(Category.SMOKE, always=True)
async def another_tenant_is_out_of_reach(system: SystemUnderTest) -> None:
    """Our own token with another tenant written into it is refused; channels of others look nonexistent."""
    changed = _moved(await system.token(), "default")
    if changed:
        refused = await system.refused(
            "a token whose tenant was changed by its holder was admitted",
            {"Authorization": f"Bearer {changed}"},
        )
        assert refused.status == 401, f"refused with {refused.status}"
    async with system.client() as ada:
        own = await ada.thread(f"probe {system.test_run}")
        assert (await ada.rpc("thread.get", thread_id=own))["thread"]["thread_id"] == own
        for channel in ("thread:of-another-user", "user:admin"):
            fault = await fault_of(
                ada.command("subscribe", channel=channel), f"subscribed to another user's {channel}"
            )
            assert fault.code in (102, 103), f"{channel}: {fault}"
        fault = await fault_of(
            ada.rpc("thread.get", thread_id="of-another-user"), "read another user's thread"
        )
        assert fault.code == 404, f"{fault}"


def _moved(token: str, tenant: str) -> str:
    """The token with another tenant in its claims and the old signature; empty for an opaque one."""
    try:
        head, claims, signature = token.split(".")
        body = json.loads(base64.urlsafe_b64decode(claims + "=" * (-len(claims) % 4)))
    except (ValueError, binascii.Error):
        return ""
    written = json.dumps(body | {"tenant": tenant, "e2e": False}).encode()
    return f"{head}.{base64.urlsafe_b64encode(written).decode().rstrip('=')}.{signature}"


@scenario(Category.SMOKE)
async def one_question_one_whole_answer(system: SystemUnderTest) -> None:
    """A thread of our own, a question, a streamed answer that `count` and `digest` prove whole."""
    async with system.client() as ada:
        events = await ada.ask("echo smoke", await ada.thread(f"probe {system.test_run}"))
        assert events[-1]["type"] == "RUN_FINISHED", f"the run ended with {events[-1]}"
        assert text_of(events)


@scenario(Category.SMOKE)
async def a_dropped_line_comes_back(system: SystemUnderTest) -> None:
    """A cut connection reconnects and continues from the last offset with nothing missing."""
    async with system.client() as ada:
        thread = await ada.thread(f"probe {system.test_run}")
        offset, epoch = ada.positions[f"thread:{thread}"]
        ada.drop()
        await ada.ended()
        async with system.client() as back:
            run = await back.start("echo while away", thread)
            result = await back.follow(thread, offset=offset, epoch=epoch)
            assert result["recovered"], "the position was not recovered"
            await back.whole(thread, run)


@scenario(Category.SMOKE)
async def preflight_says_the_same(system: SystemUnderTest) -> None:
    """`/ws/preflight` admits the same credentials as the upgrade."""
    answer = await system.get("/ws/preflight", headers=await system.headers())
    assert answer.status_code == 200, answer.text[:300]
    assert answer.json()["verdict"] == "admit"
