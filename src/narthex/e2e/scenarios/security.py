"""Security: operations that must fail, from outside and from inside a test identity."""

from __future__ import annotations

import json

from narthex.e2e.scenario import Category, scenario
from narthex.e2e.scenario_client import fault_of
from narthex.e2e.system_under_test import KEY_HEADER, SystemUnderTest


@scenario(Category.SECURITY)
async def a_foreign_page_is_refused(system: SystemUnderTest) -> None:
    """An Origin that is not allowed is 403 origin_not_allowed, whatever token comes with it."""
    refused = await system.refused(
        "a page of another origin was admitted", await system.headers(), origin="https://evil.example"
    )
    assert refused.status == 403, f"refused with {refused.status}"
    assert refused.problem["code"] == "origin_not_allowed"


@scenario(Category.SECURITY)
async def a_client_cannot_write_into_a_channel(system: SystemUnderTest) -> None:
    """`publish` to a thread or a user's channel is 103 permission denied, and no client receives it."""
    async with system.client() as ada, system.client() as other:
        thread = await ada.thread()
        await other.follow(thread)
        me = (await ada.rpc("whoami"))["user"]
        for channel in (f"thread:{thread}", f"user:{me}"):
            fault = await fault_of(
                ada.command("publish", channel=channel, data={"type": "RUN_STARTED", "forged": True}),
                f"a client published into {channel}",
            )
            assert fault.code == 103, f"{fault}"
        assert await other.rpc("echo", n=1) == {"n": 1}
        assert "forged" not in str(other.seen)


@scenario(Category.SECURITY)
async def a_test_identity_operates_nothing(system: SystemUnderTest) -> None:
    """The server API refuses a test identity: publish, disconnect, revoke, drain; and results of another test run."""
    headers = await system.headers()
    bodies = {
        "/api/v1/publish": {"channel": "user:admin", "data": {}},
        "/api/v1/disconnect": {"user": "admin"},
        "/api/v1/revoke": {"kind": "subject", "value": "admin"},
        "/api/v1/e2e/results": {"test_run": "of-another-user", "passed": 1, "failed": 0},
    }
    for path, body in bodies.items():
        answer = await system.post(path, headers=headers, json=body)
        assert answer.status_code == 403, f"{path} answers {answer.status_code}"
        assert answer.json()["code"]


@scenario(Category.SECURITY)
async def the_caller_cannot_choose_permissions(system: SystemUnderTest) -> None:
    """The exchange takes a name and a test run; permissions, tenant or plan in the body are 422."""
    headers = {KEY_HEADER: system.need_key()}
    for body in ({"permissions": ["admin"]}, {"tenant": "default"}, {"plan": "enterprise"}):
        answer = await system.post("/auth/e2e/test-auth", headers=headers, json=body)
        assert answer.status_code == 422, f"{body} was answered with {answer.status_code}"


@scenario(Category.SECURITY)
async def the_key_beside_a_token_is_a_conflict(system: SystemUnderTest) -> None:
    """A request with a user's token and the key is refused as a conflict and gets neither identity."""
    refused = await system.refused(
        "a key and a token together were admitted", await system.headers() | {KEY_HEADER: system.need_key()}
    )
    assert refused.problem["code"] == "credential_conflict", f"{refused}"


@scenario(Category.SECURITY)
async def refusals_help_nobody_but_their_owner(system: SystemUnderTest) -> None:
    """A refusal names code and remedy, and neither the token, nor a key id, nor a line of code."""
    secret = "eyJhbGciOiJIUzI1NiIsImtpZCI6ImNhbmFyeS1raWQifQ.eyJzdWIiOiJjYW5hcnkifQ.Y2FuYXJ5LXNpZw"  # noqa: S105 - a canary
    answer = await system.get("/ws/preflight", headers={"Authorization": f"Bearer {secret}"})
    assert answer.status_code == 401
    told = answer.text + json.dumps(dict(answer.headers))
    for leak in (secret, secret[:30], "canary", "Traceback", 'File "'):
        assert leak not in told, f"the refusal repeats {leak[:20]!r}"


@scenario(Category.SECURITY)
async def a_huge_head_is_answered(system: SystemUnderTest) -> None:
    """20 KB of headers are refused with a status, not with silence."""
    answer = await system.get("/ws/preflight", headers=await system.headers() | {"X-Padding": "x" * 20_000})
    assert answer.status_code in (400, 413, 431), f"answered with {answer.status_code}"


@scenario(Category.SECURITY)
async def deep_json_ends_only_its_own_line(system: SystemUnderTest) -> None:
    """A thousand nested arrays close the connection with 3501; the next user is served."""
    async with system.client() as ada, system.client() as other:
        await ada.raw('{"id":9,"rpc":{"method":"echo","data":' + "[" * 1000 + "]" * 1000 + "}}")
        assert await ada.ended() in (3501, 1007), f"closed with {ada.close_code} {ada.close_reason}"
        assert await other.rpc("echo", n=1) == {"n": 1}


@scenario(Category.SECURITY)
async def health_gives_no_secret_away(system: SystemUnderTest) -> None:
    """The key's variable is shown as SET, never with its value; nothing in health looks like a token."""
    text = (await system.get("/ws/health")).text
    assert system.hide(text) == text, "health shows a credential of this run"
    assert "eyJ" not in text
