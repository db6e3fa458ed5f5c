"""Refusals over AG-UI, and what ends a stream: each says why."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ag_ui.core import AgentCapabilities

from narthex.app.agui.run_input import parse
from narthex.domain.ids import valid_id
from narthex.ports.agents import Agent, RunInput
from narthex.testing import Running, gateway
from narthex.web.agui.stream import Ended, RunStream
from tests.timing import within
from tests.web.agui.agents import gates
from tests.web.agui.client import Told, ask, bearer, said, stream, until
from tests.web.agui.conftest import ADMIN


async def test_what_is_refused_says_why(running: Running, http: httpx2.AsyncClient) -> None:
    """No credential, no such agent, no user message, a picture, a tool's result without its call, a bad position."""
    mine = bearer(running)
    anonymous = await http.post("/agui/words", json=said("x"))
    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "auth_required")
    assert anonymous.headers["www-authenticate"].startswith("Bearer")
    assert (await http.get("/agui")).status_code == 401
    tool = {"id": "r", "role": "tool", "content": "42"}
    picture = {"id": "p", "role": "user", "content": [{"type": "image", "source": {}}]}
    for path, body, status, code in (
        ("/agui/nobody", said("x"), 404, "agent_not_found"),
        ("/agui/words", said(""), 422, "no_user_message"),
        ("/agui/words", said("x") | {"messages": [picture]}, 422, "content_not_text"),
        (
            "/agui/words",
            said("x") | {"messages": [*said("x")["messages"], tool]},
            422,
            "bad_body",
        ),
        ("/agui/words", {"threadId": "t"}, 422, "bad_body"),
        ("/agui/words", said("x", forwarded_props={"narthex": {"busy": "never"}}), 422, "bad_body"),
        ("/agui/words", said("x", state={"s": "x" * 300_000}), 413, "input_too_large"),
        ("/agui/words", said("x" * 40_000), 413, "text_too_large"),
        ("/agui/words", said("x" * 1_100_000), 413, "body_too_large"),
    ):
        refused = await http.post(path, json=body, headers=mine)
        assert (refused.status_code, refused.json()["code"]) == (status, code), path
    for position, status, code in (("x", 400, "bad_last_event_id"), ("99999-nowhere", 410, "position_lost")):
        refused = await http.post(
            "/agui/words", json=said("y", message="m-9"), headers=mine | {"Last-Event-ID": position}
        )
        assert (refused.status_code, refused.json()["code"]) == (status, code)
    assert running.gateway.parts is not None
    assert running.gateway.parts.core.limiter.total == 0


def nested(levels: int) -> Any:
    """A value of so many levels."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


@pytest.mark.parametrize("member", ["state", "forwardedProps", "tools", "context"])
async def test_json_that_nests_too_deep_is_refused(
    running: Running, http: httpx2.AsyncClient, member: str
) -> None:
    """A level more than a parser takes at the end of its stack was a bug of the gateway, 500."""
    for levels, status in ((100, 200), (150, 422), (967, 422), (5_000, 422)):
        text = json.dumps(said("x") | {member: "@"})
        deep = '{"a":' * levels + "1" + "}" * levels
        sent = text.replace('"@"', f"[{deep}]" if member in ("tools", "context") else deep)
        answer = await http.post("/agui/words", content=sent, headers=bearer(running, f"u{levels}"))
        assert answer.status_code == status, (levels, answer.text)
        if status == 422:
            assert answer.json()["code"] == "bad_body"


async def test_an_event_that_nests_too_deep_ends_its_run_and_no_stream(
    tmp_path: Path,
) -> None:
    """Every later stream of the thread was cut at the event that its reader could not parse."""

    async def deep(run: RunInput) -> AsyncIterator[Any]:
        yield {"type": "STATE_SNAPSHOT", "snapshot": nested(int(run.messages[-1].content))}
        yield "done"

    async with (
        gateway(tmp_path, agents=[Agent(name="deep", function=deep)]) as running,
        httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=within(20)) as http,
    ):
        for levels in (120, 200, 940, 975, 978, 981, 984, 1_200):
            told = await ask(http, "/agui/deep", said(str(levels)), bearer(running))
            expected = "RUN_FINISHED" if levels == 120 else "RUN_ERROR"
            assert told.kinds[-1] == expected, levels


async def test_ids_that_no_database_takes_are_refused_or_replaced(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """A question's and a result's."""
    resume = [{"interruptId": "x\u0000y", "status": "resolved", "payload": {}}]
    refused = await http.post(
        "/agui/words", json=said("x") | {"messages": [], "resume": resume}, headers=bearer(running)
    )
    assert (refused.status_code, refused.json()["code"]) == (404, "interrupt_not_found")
    result = {"id": "r\n\u0000" * 2_000, "role": "tool", "toolCallId": "c", "content": "x"}
    asked = parse(json.dumps(said("x") | {"messages": [result]}).encode())
    assert valid_id(asked.given.results[0].message_id)


@pytest.mark.parametrize(
    ("reason", "status", "code"),
    [
        ("token_revoked: It was revoked.", 401, "token_revoked"),
        ("draining: The gateway is going away.", 503, "draining"),
        ("something else", 503, "overloaded"),
    ],
)
async def test_a_connection_that_ends_at_once_says_why(
    running: Running,
    http: httpx2.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
    reason: str,
    status: int,
    code: str,
) -> None:
    """A final error must not tell the client to retry, and a temporary one must."""

    async def ended(_: RunStream) -> None:
        raise Ended(3500, reason)

    monkeypatch.setattr(RunStream, "connect", ended)
    answer = await http.post("/agui/words", json=said("x"), headers=bearer(running))
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 503)
    parts = running.gateway.parts
    assert parts is not None
    assert parts.core.limiter.total == 0


async def test_capabilities_are_agui_s_and_true(running: Running, http: httpx2.AsyncClient) -> None:
    """The list parses with AG-UI's own model; the tests here prove each declared capability."""
    agents = (await http.get("/agui", headers=bearer(running))).json()["agents"]
    assert [agent["name"] for agent in agents] == [
        "words",
        "patient",
        "careful",
        "weather",
        "flood",
        "curious",
        "pair",
        "active",
    ]
    found = AgentCapabilities.model_validate(agents[0]["capabilities"])
    assert found.transport is not None
    assert (found.transport.streaming, found.transport.websocket, found.transport.resumable) == (True,) * 3
    assert found.transport.http_binary is False
    assert found.multimodal is not None
    assert found.multimodal.input is not None
    assert not any(found.multimodal.input.model_dump().values())  # `content_not_text`
    assert found.human_in_the_loop is not None
    assert found.human_in_the_loop.interrupts is True
    assert found.execution is not None
    assert found.execution.max_execution_time == 600_000
    one = await http.get("/agui/words", headers=bearer(running))
    assert one.json() == agents[0]


@pytest.mark.parametrize("before", ["soon", "nan", "inf", "-inf", "1e999", "1790000000000"])
async def test_a_page_of_history_begins_at_a_moment(
    running: Running, http: httpx2.AsyncClient, before: str
) -> None:
    """Another number would be answered by an empty page, or by the newest one again."""
    await ask(http, "/agui/words", said("x"), bearer(running))
    refused = await http.get(f"/agui/words/threads/t-1?before={before}", headers=bearer(running))
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_params")


async def test_a_page_of_an_allowed_origin_may_use_it(running: Running, http: httpx2.AsyncClient) -> None:
    """CORS lets the headers through that a client needs; another origin is refused."""
    asked = {"Access-Control-Request-Method": "POST", "Origin": running.http}
    allowed = (await http.options("/agui/words", headers=asked)).headers
    assert allowed["access-control-allow-origin"] == running.http
    assert "last-event-id" in allowed["access-control-allow-headers"]
    assert "POST" in allowed["access-control-allow-methods"]
    foreign = bearer(running) | {"Origin": "https://evil.example"}
    refused = await http.post("/agui/words", json=said("x"), headers=foreign)
    assert (refused.status_code, refused.json()["code"]) == (403, "origin_not_allowed")


async def test_a_revoked_token_ends_the_stream(running: Running, http: httpx2.AsyncClient) -> None:
    """As it closes a socket: at once, without the run's end."""
    told = Told()
    async with http.stream("POST", "/agui/patient", json=said("gate-2"), headers=bearer(running)) as response:
        reading = asyncio.ensure_future(stream(response, told))
        await until(lambda: len(told.events) >= 2)
        done = await http.post(
            "/api/v1/revoke",
            json={"kind": "subject", "value": "ada"},
            headers={"Authorization": f"Bearer {ADMIN}"},
        )
        assert done.status_code == 200
        async with asyncio.timeout(within(5)):
            await reading
    assert "RUN_FINISHED" not in told.kinds
    gates["gate-2"].set()


async def test_a_reader_that_stops_reading_is_cut_off(running: Running, http: httpx2.AsyncClient) -> None:
    """Its backlog is bounded as a socket's; then the connection is dropped, its slot is free, and the run goes on."""
    sent = said("go", message="m-1")
    body = json.dumps(sent)
    port = int(running.http.rpartition(":")[2])
    raw = socket.socket()
    raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    with raw:
        raw.setblocking(False)
        await asyncio.get_running_loop().sock_connect(raw, ("127.0.0.1", port))
        head = (
            f"POST /agui/flood HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: {bearer(running)['Authorization']}\r\n\r\n"
        )
        await asyncio.get_running_loop().sock_sendall(raw, (head + body).encode())
        parts = running.gateway.parts
        assert parts is not None
        await until(lambda: parts.core.limiter.total == 1)
        await until(lambda: parts.core.limiter.total == 0, 20)
    whole = await ask(http, "/agui/flood", sent, bearer(running))
    assert whole.is_whole()
    assert len(whole.text) == 150 * 16_000


@pytest.mark.parametrize(
    "query", ["before=nan", "before=inf", "before=-1e300", "before=x", "before=1764530000000", "beforeId=%00"]
)
async def test_a_place_in_a_thread_that_is_none_is_refused(
    running: Running, http: httpx2.AsyncClient, query: str
) -> None:
    """A page from nowhere was empty: a client took that for the beginning of the thread."""
    mine = bearer(running)
    await ask(http, "/agui/words", said("hello"), mine)
    refused = await http.get(f"/agui/words/threads/t-1?{query}", headers=mine)
    assert (refused.status_code, refused.json()["code"]) == (400, "bad_params"), refused.text
    refused = await http.get(f"/api/v1/threads?{query.replace('Id', '_id')}", headers=mine)
    assert (refused.status_code, refused.json()["code"]) == (422, "bad_params"), refused.text
    assert len((await http.get("/agui/words/threads/t-1?before=", headers=mine)).json()["messages"]) == 2


async def test_a_name_that_no_store_takes_is_not_found(running: Running, http: httpx2.AsyncClient) -> None:
    """PostgreSQL takes no NUL: it was 503, as if the store were away."""
    mine = bearer(running)
    envelope = {"method": "agent/stop", "params": {"agentId": "words", "threadId": "a\x00b"}, "body": {}}
    refused = await http.post("/agui", json=envelope, headers=mine)
    assert (refused.status_code, refused.json()["code"]) == (404, "thread_not_found")
    await ask(http, "/agui/words", said("hello"), mine)
    stopped = await http.post("/agui/agent/words/stop/t-1", json={"runId": "a\x00b"}, headers=mine)
    assert stopped.json() == {"stopped": True}
