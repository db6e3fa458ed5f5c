"""Ids at the real program: every admitted user can be disconnected and revoked, whatever their subject contains."""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import pkgutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from typing import Any, Self

import msgspec
import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from narthex.adapters.tokens.keys import key_from_secret, sign_compact
from narthex.app import rpc
from narthex.domain.ids import ID_FIELDS, Identified
from narthex.web import api
from tests.acceptance.program import Program
from tests.timing import within

pytestmark = pytest.mark.acceptance

SECRET = "a-shared-secret-0123456789abcdef0123456789"
ADMIN_KEY = "admin-key-5b1f0c7a9d3e4f6a8b2c"
ENV = {"NARTHEX_JWT_SECRET": SECRET, "NARTHEX_ADMIN_KEY": ADMIN_KEY}
RANGE = [
    "plain",
    "José Ångström",  # spaces and letters beyond ASCII
    "x" * 201,
    "ü" * 255,
    "用户 七",
    "auth0|5f7/..%2Fa b",
    "🙂:{}*>$",
]
"""The whole range that admission accepts: values that a printable ASCII pattern, a length of 200 or a channel name once
refused.
"""
NO_IDS = ["", " a", "a ", "a\nb", "a\x00", "y" * 256, "Jose\u0301"]


def token(sub: str, **claims: Any) -> str:
    """A token of the configured secret."""
    now = int(time.time())
    body = {"sub": sub, "iat": now - 5, "exp": now + 600, "jti": f"jti of {sub}"[:255]} | claims
    return sign_compact({"alg": "HS256"}, body, "HS256", key_from_secret(SECRET).key)


def bearer(text: str) -> dict[str, str]:
    """The Authorization header."""
    return {"Authorization": f"Bearer {text}"}


class Line:
    """A live socket that sends RPCs."""

    def __init__(self, socket: ClientConnection, reply: dict[str, Any]) -> None:
        self.socket = socket
        self.reply = reply
        self._next = 1

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.socket.close()

    async def rpc(self, method: str, data: dict[str, Any]) -> dict[str, Any]:
        """Make one call; returns its result, or `{"error": …}`."""
        self._next += 1
        await self.socket.send(json.dumps({"id": self._next, "rpc": {"method": method, "data": data}}))
        async with asyncio.timeout(within(10)):
            while True:
                for line in str(await self.socket.recv()).splitlines():
                    reply = json.loads(line)
                    if reply.get("id") == self._next:
                        found: dict[str, Any] = reply["rpc"]["data"] if "rpc" in reply else reply
                        return found

    async def ended(self) -> int:
        """The code with which the gateway closes it."""
        try:
            async with asyncio.timeout(within(10)):
                while True:
                    await self.socket.recv()
        except ConnectionClosed as closed:
            assert closed.rcvd is not None
            return closed.rcvd.code


async def opened(stack: AsyncExitStack, program: Program, text: str) -> Line:
    """Connect with a token; closed with the stack."""
    socket = await connect(program.ws, additional_headers=bearer(text), proxy=None)
    await socket.send('{"id":1,"connect":{}}')
    line = Line(socket, json.loads(str(await socket.recv()).splitlines()[0]))
    return await stack.enter_async_context(line)


async def administer(program: Program, path: str, **body: Any) -> dict[str, Any]:
    """A call of the server API with the admin key; it must succeed."""
    answer = await program.post(f"/api/v1/{path}", json=body, headers=bearer(ADMIN_KEY))
    assert answer.status_code == 200, (path, body, answer.text)
    found: dict[str, Any] = answer.json()
    return found


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """One gateway for the whole range."""
    found = Program(tmp_path_factory.mktemp("ids"), ENV)
    try:
        asyncio.run(found.start())
        yield found
    finally:
        found.end()


@pytest.fixture
async def stack() -> AsyncIterator[AsyncExitStack]:
    """Closes the resources that a test opened."""
    async with AsyncExitStack() as found:
        yield found


@pytest.mark.parametrize("tenant", ["default", "Köln / Süd 100%"])
@pytest.mark.parametrize("sub", RANGE)
async def test_whoever_is_admitted_can_be_reached_and_ended(
    stack: AsyncExitStack, program: Program, sub: str, tenant: str
) -> None:
    """Every route and RPC that takes a user, a tenant or a jti accepts the whole range that admission accepts."""
    about = {"user": sub, "tenant": tenant}
    line = await opened(stack, program, token(sub, tenant=tenant))
    assert f"user:{sub}" in line.reply["connect"]["subs"], line.reply
    thread = (await line.rpc("thread.create", {"title": "t"}))["thread_id"]
    host = await opened(stack, program, token("host", tenant=tenant))
    hosted = (await host.rpc("thread.create", {"title": "hosted"}))["thread_id"]
    member = {"thread_id": hosted, "user_id": sub}
    assert "error" not in await host.rpc("thread.members.add", member)
    assert "error" not in await line.rpc("thread.invitation.accept", {"thread_id": hosted})
    assert "error" not in await host.rpc("thread.members.remove", member)
    assert "error" not in await host.rpc("user.block", {"user_id": sub})
    assert "error" not in await host.rpc("user.unblock", {"user_id": sub})
    await administer(program, "publish", channel=f"user:{sub}", data={"n": 1}, tenant=tenant)
    await administer(program, "subscribe", channel=f"thread:{thread}", **about)
    await administer(program, "unsubscribe", channel=f"thread:{thread}", **about)
    await administer(program, "disconnect", **about)
    assert await line.ended() == 3503
    for kind, value in (("jti", f"jti of {sub}"[:255]), ("issued_before", sub), ("subject", sub)):
        claims: dict[str, Any] = {} if kind == "jti" else {"jti": f"for {kind}"}
        if kind == "subject":  # issued after the revocation of the line before
            claims["iat"] = int(time.time()) + 5
        text = token(sub, tenant=tenant, **claims)
        line = await opened(stack, program, text)
        await administer(program, "revoke", kind=kind, value=value, tenant=tenant)
        assert await line.ended() == 3500, kind
        refused = await program.get("/ws/preflight", headers=bearer(text))
        assert refused.json()["code"] == "token_revoked", kind
    await administer(program, "users/block", **about)
    await administer(program, "users/block", blocked=False, **about)


async def test_values_that_only_one_layer_could_hold_are_refused_at_the_edge(
    stack: AsyncExitStack, program: Program
) -> None:
    """Numbers beyond 2^53, JSON numbers beyond every double, half a surrogate: refused, and no bug is logged."""
    for count in (2**63, 2**63 - 1, 2**53, 10**7, -1):
        body = {"test_run": "r", "passed": count, "failed": 0}
        answer = await program.post("/api/v1/e2e/results", json=body, headers=bearer(ADMIN_KEY))
        assert answer.status_code == 422, count
    half = token("ann", iss="\ud800", jti="j")
    assert (await program.get("/ws/preflight", headers=bearer(half))).json()["code"] == "wrong_issuer"
    infinite = b'{"channel":"user:ann","data":1e999}'
    answer = await program.post("/api/v1/publish", content=infinite, headers=bearer(ADMIN_KEY))
    assert answer.status_code == 422
    since = '{"channel":"thread:t","user":"ann","recover_since":{"offset":9223372036854775808,"epoch":"e"}}'
    answer = await program.post("/api/v1/subscribe", content=since, headers=bearer(ADMIN_KEY))
    assert answer.status_code == 422
    for query in ("before=nan", "before=inf", "before=1e999", "limit=99999999999999999999"):
        answer = await program.get(f"/api/v1/threads?{query}", headers=bearer(token("ann", jti=query)))
        assert answer.status_code in (200, 422), query
    line = await opened(stack, program, token("ann", jti="line", permissions=["admin"]))
    for command in (
        '"rpc":{"method":"run.resume","data":{"run_id":"r","interrupt_id":"i","payload":1e999}}',
        '"rpc":{"method":"thread.read","data":{"thread_id":"t","offset":9007199254740992}}',
        '"publish":{"channel":"user:ann","data":1e999}',
    ):
        await line.socket.send(f'{{"id":77,{command}}}')
        while '"id":77' not in (reply := str(await line.socket.recv())):
            pass
        assert json.loads(reply)["error"]["code"] in (107, 400), (command, reply)
    run = {"threadId": "t", "runId": "r", "messages": [{"role": "user", "id": "1", "content": "INFINITE"}]}
    answer = await program.post(
        "/agui/concierge",
        content=json.dumps(run).replace('"INFINITE"', "1e999"),
        headers=bearer(token("ann", jti="agui")),
    )
    assert answer.status_code == 422, answer.text
    assert "bug" not in program.log.lower(), program.log


def structs() -> list[type[msgspec.Struct]]:
    """Every body and every params with an id, of all modules of the RPC methods and of the server API."""
    return [
        found
        for package in (rpc, api)
        for name in sorted(module.name for module in pkgutil.iter_modules(package.__path__))
        for _, found in inspect.getmembers(
            importlib.import_module(f"{package.__name__}.{name}"), inspect.isclass
        )
        if issubclass(found, msgspec.Struct)
        and found.__module__ == f"{package.__name__}.{name}"
        and ID_FIELDS.intersection(found.__struct_fields__)
    ]


@pytest.mark.parametrize("kind", structs(), ids=lambda kind: f"{kind.__module__}.{kind.__name__}")
def test_every_body_and_every_params_with_an_id_takes_all_and_only_ids(kind: type[msgspec.Struct]) -> None:
    """A new route or method cannot use another type: its Struct is checked here as soon as it exists."""
    assert issubclass(kind, Identified)
    for name in ID_FIELDS.intersection(kind.__struct_fields__):
        many = name == "thread_ids"
        for text in RANGE:
            _with(kind, name, [text] if many else text)
        for text in NO_IDS:
            with pytest.raises(msgspec.ValidationError):
                _with(kind, name, [text] if many else text)


def _with(kind: type[msgspec.Struct], name: str, value: object) -> object:
    """An instance of `kind` with `value` in the field `name`, and valid values in the required fields."""
    samples: dict[str, object] = dict.fromkeys(ID_FIELDS, "a")
    samples["results"] = [{"tool_call_id": "a", "content": "c"}]
    samples |= {"channel": "user:a", "kind": "jti", "text": "t", "title": "t"}
    samples |= dict.fromkeys(("data", "payload", "offset", "passed", "failed", "since", "input"), 1)
    required = [
        field.encode_name for field in msgspec.structs.fields(kind) if field.required and field.name != name
    ]
    body = {field: samples[field] for field in required} | {name: value}
    return msgspec.json.decode(json.dumps(body), type=kind)


async def test_nobody_is_called_everybody(stack: AsyncExitStack, program: Program) -> None:
    """`*` stands for all users in revocations: as a subject without a `jti` it would end all sessions of the tenant."""
    line = await opened(stack, program, token("bystander"))
    now = int(time.time())
    forged = sign_compact(
        {"alg": "HS256"}, {"sub": "*", "iat": now, "exp": now + 600}, "HS256", key_from_secret(SECRET).key
    )
    assert (await program.get("/ws/preflight", headers=bearer(forged))).json()["code"] == "token_invalid"
    assert (await program.post("/auth/revoke", json={"token": forged})).status_code == 200
    found = await program.get("/ws/preflight", headers=bearer(token("bystander")))
    assert found.json()["verdict"] == "admit"
    assert "error" not in await line.rpc("limits", {})
