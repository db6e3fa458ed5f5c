"""AG-UI over HTTP with real sockets: the requests and events of a stock client, and permissions."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from ag_ui.core import AgentCapabilities, Event, RunAgentInput, UserMessage
from pydantic import TypeAdapter

from narthex.adapters.agents.pydantic_ai import pydantic_agent
from narthex.domain.digest import Digest
from narthex.ports.agents import Agent, RunInput
from narthex.testing import Running, gateway
from narthex.web.agui.stream import Ended, RunStream
from tests.adapters.agents.pydantic_agents import weather
from tests.timing import within

ADMIN = "an-admin-key-of-decent-length-0123456789"
EVENT: TypeAdapter[Any] = TypeAdapter(Event)
gates: dict[str, asyncio.Event] = {}


async def words(run: RunInput) -> AsyncIterator[str]:
    """Repeats the message, word by word."""
    for word in run.messages[-1].content.split():
        yield word + " "
        await asyncio.sleep(0.05)


async def patient(run: RunInput) -> AsyncIterator[str]:
    """Begins, waits for the test, ends."""
    yield "begun "
    await gates.setdefault(run.messages[-1].content, asyncio.Event()).wait()
    yield "ended"


async def careful(run: RunInput) -> AsyncIterator[str]:
    """Asks before it acts."""
    answer = await run.ask(
        {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}, "Really?"
    )
    yield f"ok={answer['ok']}"


async def flood(run: RunInput) -> AsyncIterator[str]:
    """More than all buffers on the path hold."""
    for number in range(150):
        yield f"{number:<16000}"
        await asyncio.sleep(0.01)


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    gates.clear()
    agents = [
        Agent(name="words", function=words, description="Says it back."),
        Agent(name="patient", function=patient),
        Agent(name="careful", function=careful),
        pydantic_agent("weather", weather),
        Agent(name="flood", function=flood),
    ]
    async with gateway(tmp_path, agents=agents, admin_key=ADMIN, max_lag_s=1) as found:
        yield found


@pytest.fixture
async def http(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=within(20)) as client:
        yield client


def bearer(running: Running, subject: str = "ada", **identity: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.token(subject, **identity)}"}


def said(text: str, thread: str = "t-1", message: str = "", **more: Any) -> dict[str, Any]:
    """RunAgentInput as a stock client sends it."""
    asked = RunAgentInput(
        thread_id=thread,
        run_id=str(uuid.uuid4()),
        messages=[UserMessage(id=message or str(uuid.uuid4()), content=text)] if text else [],
        state={},
        tools=[],
        context=[],
        forwarded_props={},
        **more,
    )
    dumped: dict[str, Any] = asked.model_dump(mode="json", by_alias=True, exclude_none=True)
    return dumped


class Told:
    """A stream's ids and events, each checked by AG-UI's own models."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.events: list[dict[str, Any]] = []

    @property
    def text(self) -> str:
        return "".join(event["delta"] for event in self.events if event["type"] == "TEXT_MESSAGE_CONTENT")

    @property
    def kinds(self) -> list[str]:
        return [event["type"] for event in self.events]

    def block(self, block: str) -> None:
        """One server-sent event; comments are skipped."""
        fields = dict(line.split(": ", 1) for line in block.split("\n") if not line.startswith(":") and line)
        if fields:
            self.ids.append(fields["id"])
            self.events.append(json.loads(fields["data"]))
            EVENT.validate_python(self.events[-1])

    def is_whole(self) -> bool:
        """Nothing twice, in order, and the digest of the terminal event is right."""
        offsets = [int(name.partition("-")[0]) for name in self.ids]
        if offsets != sorted(set(offsets)):
            return False
        return proven(self.events)


def proven(events: list[dict[str, Any]]) -> bool:
    """Whether the digest holds, computed as docs/protocol.md says for AG-UI over HTTP."""
    digest = Digest()
    names = {name: events[0][name] for name in ("threadId", "runId")}
    for event in events:
        digest.feed({name: value for name, value in event.items() if name != "metadata"} | names)
    proof = events[-1]["metadata"]["narthex"]
    return bool(proof["digest"] == digest.value())


async def stream(response: httpx2.Response, told: Told, *, until: int = 1_000_000) -> Told:
    """Read a stream to its end, or to its `until`th event."""
    assert response.status_code == 200, await response.aread()
    assert response.headers["content-type"].startswith("text/event-stream")
    rest = ""
    async for text in response.aiter_text():
        *blocks, rest = (rest + text).split("\n\n")
        for block in blocks:
            told.block(block)
            if len(told.events) >= until:
                return told
    return told


async def until(holds: Callable[[], bool], units: float = 5) -> None:
    """Wait for a condition that has no event."""
    async with asyncio.timeout(within(units)):
        while not holds():  # noqa: ASYNC110 - the gateway's counts tell nobody when they change
            await asyncio.sleep(0.01)


async def ask(http: httpx2.AsyncClient, path: str, body: object, headers: dict[str, str]) -> Told:
    async with http.stream("POST", path, json=body, headers=headers) as response:
        return await stream(response, Told())


async def test_a_run_is_streamed_whole_and_belongs_to_the_thread(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """RUN_STARTED to RUN_FINISHED, verifiable; the second message uses the first one's thread."""
    mine = bearer(running)
    told = await ask(http, "/agui/words", said("one two three"), mine)
    assert told.kinds[0] == "RUN_STARTED"
    assert told.kinds[-1] == "RUN_FINISHED"
    assert told.text == "one two three "
    assert told.is_whole()
    again = await ask(http, "/agui/words", said("four"), mine)
    assert again.events[0]["threadId"] == told.events[0]["threadId"]
    threads = (await http.get("/api/v1/threads", headers=mine)).json()["threads"]
    assert [thread["title"] for thread in threads] == ["one two three"]


async def test_the_same_message_gives_the_same_run_and_last_event_id_goes_on(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """Aborted after some events and requested again: both parts form the whole, and nothing ran twice."""
    mine, body = bearer(running), said("a b c d e f g h", message="m-1")
    told = Told()
    async with http.stream("POST", "/agui/words", json=body, headers=mine) as response:
        await stream(response, told, until=4)
    async with http.stream(
        "POST", "/agui/words", json=body, headers=mine | {"Last-Event-ID": told.ids[-1]}
    ) as response:
        await stream(response, told)
    assert told.is_whole()
    assert told.text == "a b c d e f g h "
    whole = await ask(http, "/agui/words", body, mine)
    assert whole.is_whole()
    assert whole.events[-1] == told.events[-1]
    run_id = whole.events[0]["runId"]
    followed = Told()
    path = f"/agui/words/runs/{run_id}"
    async with http.stream("GET", path, headers=mine | {"Last-Event-ID": whole.ids[2]}) as response:
        await stream(response, followed)
    assert followed.events == whole.events[3:]
    async with http.stream("GET", path, headers=mine | {"Last-Event-ID": whole.ids[-1]}) as response:
        assert (await stream(response, Told())).events == []  # it has everything: nothing hangs


async def test_leaving_does_not_cancel(running: Running, http: httpx2.AsyncClient) -> None:
    """The run continues; a client that returns gets its end, and the slot of one that left is free again."""
    mine, body = bearer(running), said("gate-1", message="m-1")
    told = Told()
    async with http.stream("POST", "/agui/patient", json=body, headers=mine) as response:
        await stream(response, told, until=3)
    assert running.gateway.parts is not None
    limiter = running.gateway.parts.core.limiter
    await until(lambda: limiter.total == 0)
    gates["gate-1"].set()
    async with http.stream(
        "POST", "/agui/patient", json=body, headers=mine | {"Last-Event-ID": told.ids[-1]}
    ) as response:
        await stream(response, told)
    assert told.text == "begun ended"
    assert told.is_whole()


async def test_an_interrupt_is_answered_with_resume(running: Running, http: httpx2.AsyncClient) -> None:
    """RUN_FINISHED with outcome interrupt; `resume` opens the run in which the agent continues."""
    mine = bearer(running)
    told = await ask(http, "/agui/careful", said("do it"), mine)
    outcome = told.events[-1]["outcome"]
    assert outcome["type"] == "interrupt"
    [interrupt] = outcome["interrupts"]
    wrong = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"ok": "maybe"}}]
    refused = await http.post("/agui/careful", json=said("", resume=wrong), headers=mine)
    assert (refused.status_code, refused.json()["code"]) == (422, "payload_invalid")
    answer = [{"interruptId": interrupt["id"], "status": "resolved", "payload": {"ok": True}}]
    stranger = await http.post("/agui/careful", json=said("", resume=answer), headers=bearer(running, "eve"))
    assert stranger.status_code == 404
    elsewhere = await http.post("/agui/careful", json=said("", "t-2", resume=answer), headers=mine)
    assert elsewhere.status_code == 404
    first = await ask(http, "/agui/careful", said("", resume=answer), mine)
    assert first.text == "ok=True"
    assert first.events[0]["parentRunId"] == told.events[0]["runId"]
    assert first.is_whole()
    assert (await ask(http, "/agui/careful", said("", resume=answer), mine)).events == first.events


async def test_a_dismissed_interrupt_ends_cancelled(running: Running, http: httpx2.AsyncClient) -> None:
    """AG-UI's status `cancelled`: the new run ends at once and the agent's coroutine with it."""
    mine = bearer(running)
    told = await ask(http, "/agui/careful", said("do it"), mine)
    [interrupt] = told.events[-1]["outcome"]["interrupts"]
    dismissed = [{"interruptId": interrupt["id"], "status": "cancelled"}]
    ended = await ask(http, "/agui/careful", said("", resume=dismissed), mine)
    assert ended.kinds == ["RUN_STARTED", "RUN_FINISHED"]
    assert ended.events[-1]["outcome"] == {"type": "cancelled"}
    assert ended.is_whole()


async def test_threads_are_the_tenants_and_the_members_own(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """The same name for two users or in two tenants is two threads; another user's thread is 404 by its id."""
    told = await ask(http, "/agui/words", said("mine"), bearer(running))
    thread = told.events[0]["threadId"]
    refused = await http.post("/agui/words", json=said("x", thread), headers=bearer(running, "eve"))
    assert (refused.status_code, refused.json()["code"]) == (404, "thread_not_found")
    eves = await ask(http, "/agui/words", said("mine too"), bearer(running, "eve"))
    assert eves.text == "mine too "
    assert eves.events[0]["threadId"] != thread
    again = await ask(http, "/agui/words", said("mine again"), bearer(running))
    assert again.events[0]["threadId"] == thread
    other = await ask(http, "/agui/words", said("ours"), bearer(running, "ada", tenant="globex"))
    assert other.events[0]["threadId"] != thread
    by_id = await ask(http, "/agui/words", said("theirs", thread), bearer(running, "ada", tenant="globex"))
    assert by_id.events[0]["threadId"] != thread
    run_id = told.events[0]["runId"]
    for stranger in (bearer(running, "eve"), bearer(running, "ada", tenant="globex")):
        refused = await http.get(f"/agui/words/runs/{run_id}", headers=stranger)
        assert (refused.status_code, refused.json()["code"]) == (404, "run_not_found")


async def test_a_pydantic_ai_agent_is_behind_it(running: Running, http: httpx2.AsyncClient) -> None:
    """Reasoning, a tool call and text of a Pydantic AI agent come through as AG-UI's own events."""
    told = await ask(http, "/agui/weather", said("skiing"), bearer(running, name="Ada"))
    assert "TOOL_CALL_RESULT" in told.kinds
    assert "REASONING_MESSAGE_CONTENT" in told.kinds
    assert told.text == "Oslo: snow, dear Ada for skiing. "
    assert told.is_whole()


async def test_what_is_refused_says_why(running: Running, http: httpx2.AsyncClient) -> None:
    """No credential, no such agent, no user message, a picture, a client's tool result, a bad position."""
    mine = bearer(running)
    anonymous = await http.post("/agui/words", json=said("x"))
    assert (anonymous.status_code, anonymous.json()["code"]) == (401, "auth_required")
    assert anonymous.headers["www-authenticate"].startswith("Bearer")
    assert (await http.get("/agui")).status_code == 401
    tool = {"id": "r", "role": "tool", "toolCallId": "c", "content": "42"}
    picture = {"id": "p", "role": "user", "content": [{"type": "image", "source": {}}]}
    for path, body, status, code in (
        ("/agui/nobody", said("x"), 404, "agent_not_found"),
        ("/agui/words", said(""), 422, "no_user_message"),
        ("/agui/words", said("x") | {"messages": [picture]}, 422, "content_not_text"),
        (
            "/agui/words",
            said("x") | {"messages": [*said("x")["messages"], tool]},
            422,
            "tool_results_not_taken",
        ),
        ("/agui/words", {"threadId": "t"}, 422, "bad_body"),
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
    assert [agent["name"] for agent in agents] == ["words", "patient", "careful", "weather", "flood"]
    found = AgentCapabilities.model_validate(agents[0]["capabilities"])
    assert found.transport is not None
    assert (found.transport.streaming, found.transport.websocket, found.transport.resumable) == (True,) * 3
    assert found.transport.http_binary is False
    assert found.human_in_the_loop is not None
    assert found.human_in_the_loop.interrupts is True
    assert found.execution is not None
    assert found.execution.max_execution_time == 600_000
    one = await http.get("/agui/words", headers=bearer(running))
    assert one.json() == agents[0]


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
    body = json.dumps(said("go", message="m-1"))
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
    whole = await ask(http, "/agui/flood", said("go", message="m-1"), bearer(running))
    assert whole.is_whole()
    assert len(whole.text) == 150 * 16_000
