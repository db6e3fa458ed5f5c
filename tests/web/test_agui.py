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


SEEN: list[dict[str, Any]] = []


async def curious(run: RunInput) -> AsyncIterator[Any]:
    """Keeps what it was given; calls the client's tool until it has its result; counts in its state."""
    messages = [
        {
            "role": one.role,
            "content": one.content,
            "id": one.message_id,
            "calls": [(call.call_id, call.name, call.arguments) for call in one.tool_calls],
            "of": one.tool_call_id,
        }
        for one in run.messages
    ]
    SEEN.append(
        {
            "state": run.state,
            "tools": run.tools,
            "context": run.context,
            "forwarded": run.forwarded,
            "parent": run.parent_run_id,
            "version": run.protocol_version,
            "messages": messages,
        }
    )
    if messages[-1]["content"] == "later":
        yield {"type": "SOMETHING_NEW", "threadId": "mine", "value": None, "messageId": "x"}
    if messages[-1]["content"] == "tool":
        yield {"type": "TOOL_CALL_START", "toolCallId": "call-of-the-client", "toolCallName": "colour"}
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": "call-of-the-client", "delta": '{"to": "red"}'}
        yield {"type": "TOOL_CALL_END", "toolCallId": "call-of-the-client"}
        return
    if messages[-1]["content"] == "first":
        yield {"type": "STATE_SNAPSHOT", "snapshot": {"count": 1, "list": ["a"]}}
        yield {"type": "STATE_DELTA", "delta": [{"op": "add", "path": "/list/-", "value": "b"}]}
    run.report(usage=[{"model": "m", "inputTokens": 3, "outputTokens": 5}], result={"sum": 8})
    yield f"heard {messages[-1]['content']}"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    gates.clear()
    agents = [
        Agent(name="words", function=words, description="Says it back."),
        Agent(name="patient", function=patient),
        Agent(name="careful", function=careful),
        pydantic_agent("weather", weather),
        Agent(name="flood", function=flood),
        Agent(name="curious", function=curious),
    ]
    async with gateway(tmp_path, agents=agents, admin_key=ADMIN, max_lag_s=1) as found:
        yield found


@pytest.fixture
async def http(running: Running) -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=within(20)) as client:
        yield client


def bearer(running: Running, subject: str = "ada", **identity: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {running.token(subject, **identity)}"}


def said(text: str, thread: str = "t-1", message: str = "", run: str = "", **more: Any) -> dict[str, Any]:
    """RunAgentInput as a stock client sends it."""
    asked = RunAgentInput(
        thread_id=thread,
        run_id=run or str(uuid.uuid4()),
        messages=[UserMessage(id=message or str(uuid.uuid4()), content=text)] if text else [],
        **{"state": {}, "tools": [], "context": [], "forwarded_props": {}} | more,
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
            if "id" in fields:  # not in the middle of a snapshot
                self.ids.append(fields["id"])
            self.events.append(json.loads(fields["data"]))
            if self.events[-1]["type"] != "SOMETHING_NEW":
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
    ids = events[0]["metadata"]["narthex"]
    names = {name: ids[name] for name in ("threadId", "runId")}
    for event in events:
        ours = {"RUN_STARTED", "RUN_FINISHED", "RUN_ERROR"}
        kept = {n: v for n, v in event.items() if n != "metadata" or event["type"] not in ours}
        digest.feed(kept | (ids if event["type"] == "RUN_STARTED" else names))
    proof = events[-1]["metadata"]["narthex"]
    return bool(proof["digest"] == digest.value())


def real(told: Told, name: str = "runId") -> str:
    """The gateway's own id, which the stream tells beside the client's."""
    return str(told.events[0]["metadata"]["narthex"][name])


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
    assert whole.events[0]["runId"] == body["runId"]
    assert whole.events[0]["threadId"] == "t-1"
    run_id = real(whole)
    followed = Told()
    path = f"/agui/words/runs/{run_id}"
    async with http.stream("GET", path, headers=mine | {"Last-Event-ID": whole.ids[2]}) as response:
        await stream(response, followed)
    assert [e | {"metadata": 0} for e in followed.events[:-1]] == [
        e | {"metadata": 0} for e in whole.events[3:-1]
    ]
    assert (followed.events[-1]["threadId"], followed.events[-1]["runId"]) == (
        real(whole, "threadId"),
        run_id,
    )
    named = Told()
    async with http.stream("GET", f"/agui/words/runs/{body['runId']}?threadId=t-1", headers=mine) as response:
        assert (await stream(response, named)).events == whole.events
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
    resumed = said("", resume=answer)
    first = await ask(http, "/agui/careful", resumed, mine)
    assert first.text == "ok=True"
    assert first.events[0]["runId"] == resumed["runId"]
    assert first.events[0]["parentRunId"] == told.events[0]["runId"]
    assert first.is_whole()
    assert (await ask(http, "/agui/careful", resumed, mine)).events == first.events


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
    thread = real(told, "threadId")
    refused = await http.post("/agui/words", json=said("x", thread), headers=bearer(running, "eve"))
    assert (refused.status_code, refused.json()["code"]) == (404, "thread_not_found")
    eves = await ask(http, "/agui/words", said("mine too"), bearer(running, "eve"))
    assert eves.text == "mine too "
    assert real(eves, "threadId") != thread
    again = await ask(http, "/agui/words", said("mine again"), bearer(running))
    assert real(again, "threadId") == thread
    other = await ask(http, "/agui/words", said("ours"), bearer(running, "ada", tenant="globex"))
    assert real(other, "threadId") != thread
    by_id = await ask(http, "/agui/words", said("theirs", thread), bearer(running, "ada", tenant="globex"))
    assert real(by_id, "threadId") != thread
    run_id = real(told)
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
    ]
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


async def test_what_a_client_sends_reaches_the_agent(running: Running, http: httpx2.AsyncClient) -> None:
    """Tools, context, state, forwardedProps, version and parent; its message id is the thread's."""
    mine = bearer(running)
    sent = said(
        "later",
        message="from-the-client",
        tools=[{"name": "colour", "description": "Paints.", "parameters": {"type": "object"}}],
        context=[{"description": "page", "value": "home"}],
        state={"theme": "dark"},
        forwarded_props={"a": 1, "narthex": {"input": True}},
        protocol_version="1.0.0",
        parent_run_id="earlier",
    )
    told = (await ask(http, "/agui/curious", sent, mine)).events
    seen = SEEN[-1]
    assert seen["tools"][0]["name"] == "colour"
    assert seen["context"] == [{"description": "page", "value": "home"}]
    assert (seen["state"], seen["forwarded"], seen["version"], seen["parent"]) == (
        {"theme": "dark"},
        {"a": 1},
        "1.0.0",
        "earlier",
    )
    assert seen["messages"][-1]["id"] == "from-the-client"
    assert told[0]["parentRunId"] == "earlier"
    assert told[0]["input"]["state"] == {"theme": "dark"}
    assert told[0]["input"]["runId"] == sent["runId"]
    # A type that AG-UI does not have passes as it is, and counts in the digest.
    assert {"type": "SOMETHING_NEW", "value": None, "messageId": "x"} in told
    assert proven(told)
    assert (told[-1]["usage"], told[-1]["result"]) == (
        [{"model": "m", "inputTokens": 3, "outputTokens": 5}],
        {"sum": 8},
    )
    run_id = told[0]["metadata"]["narthex"]["runId"]
    found = (await http.get(f"/api/v1/runs/{run_id}", headers=mine)).json()
    assert found["usage"] == told[-1]["usage"]


async def test_the_state_comes_back_in_the_next_run(running: Running, http: httpx2.AsyncClient) -> None:
    """A snapshot and a delta are what the next run has, of a client without one; a client's own state counts."""
    mine = bearer(running)
    await ask(http, "/agui/curious", said("first"), mine)
    await ask(http, "/agui/curious", said("next"), mine)
    assert SEEN[-1]["state"] == {"count": 1, "list": ["a", "b"]}
    await ask(http, "/agui/curious", said("mine", state={"count": 2}), mine)
    assert SEEN[-1]["state"] == {"count": 2}
    await ask(http, "/agui/curious", said("last"), mine)
    assert SEEN[-1]["state"] == {"count": 2}


async def test_a_client_s_tool_ends_the_run_and_its_result_goes_on(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """The call ends the run; the result in the next request begins one whose agent has call and result."""
    mine = bearer(running)
    asked = said("tool", message="m-tool")
    called = await ask(http, "/agui/curious", asked, mine)
    assert called.kinds[-2:] == ["TOOL_CALL_END", "RUN_FINISHED"]
    call = {"id": "call-of-the-client", "type": "function", "function": {"name": "colour", "arguments": "{}"}}
    result = {"id": "result-1", "role": "tool", "toolCallId": "call-of-the-client", "content": "painted"}
    answer = said("x") | {
        "messages": [*asked["messages"], {"id": "a", "role": "assistant", "toolCalls": [call]}, result]
    }
    went_on = await ask(http, "/agui/curious", answer, mine)
    assert went_on.text == "heard painted"
    assert went_on.is_whole()
    made, returned = SEEN[-1]["messages"][-2:]
    assert made["calls"] == [("call-of-the-client", "colour", '{"to": "red"}')]
    assert (returned["role"], returned["of"], returned["id"]) == ("tool", "call-of-the-client", "result-1")
    assert (await ask(http, "/agui/curious", answer, mine)).events == went_on.events
    thread = (await http.get(f"/api/v1/threads/{real(went_on, 'threadId')}", headers=mine)).json()
    [kept] = [one for one in thread["messages"] if one["role"] == "tool"]
    assert kept["content"] == "painted"


async def test_a_run_is_cancelled_by_either_name(running: Running, http: httpx2.AsyncClient) -> None:
    """By the client's own runId and by the gateway's; another user's run is 404; a client may cancel by leaving."""
    mine = bearer(running)
    for wished in ("name", "id", "leave"):
        props = {"narthex": {"onDisconnect": "cancel"}} if wished == "leave" else {}
        sent = said(f"gate-{wished}", f"t-{wished}", forwarded_props=props)
        told = Told()
        async with http.stream("POST", "/agui/patient", json=sent, headers=mine) as response:
            await stream(response, told, until=3)
            name = {"name": sent["runId"], "id": real(told)}.get(wished)
            if name is not None:
                path = f"/agui/patient/runs/{name}/cancel"
                assert (await http.post(path, headers=bearer(running, "eve"))).status_code == 404
                done = await http.post(path, headers=mine)
                assert (done.status_code, done.json()["run_id"]) == (200, real(told))
        rest = Told()
        async with http.stream("GET", f"/agui/patient/runs/{real(told)}", headers=mine) as response:
            await stream(response, rest)
        assert rest.events[-1]["outcome"] == {"type": "cancelled"}, wished


async def test_the_id_of_a_message_names_one_message(running: Running, http: httpx2.AsyncClient) -> None:
    """The same message with another runId is answered again and not sent twice; another text with its id is refused."""
    mine = bearer(running)
    first = await ask(http, "/agui/words", said("hello", message="m"), mine)
    again = await ask(http, "/agui/words", said("hello", message="m"), mine)
    assert real(first) != real(again)
    thread = (await http.get(f"/api/v1/threads/{real(first, 'threadId')}", headers=mine)).json()
    assert thread["messages"][0]["message_id"] == "m"
    assert [one["role"] for one in thread["messages"]] == ["user", "assistant", "assistant"]
    other = await http.post("/agui/words", json=said("bye", message="m"), headers=mine)
    assert (other.status_code, other.json()["code"]) == (409, "message_id_used")


async def test_a_busy_thread_does_as_the_request_says(running: Running, http: httpx2.AsyncClient) -> None:
    """Refused, cancelled and followed, or waiting: by `busy`."""
    mine = bearer(running)

    def wish(text: str, busy: str) -> dict[str, Any]:
        return said(text, forwarded_props={"narthex": {"busy": busy}})

    async with http.stream("POST", "/agui/patient", json=said("gate-busy"), headers=mine) as response:
        told = await stream(response, Told(), until=3)
        refused = await http.post("/agui/words", json=wish("no", "reject"), headers=mine)
        assert (refused.status_code, refused.json()["code"]) == (409, "thread_busy")
        thread = (await http.get(f"/api/v1/threads/{real(told, 'threadId')}", headers=mine)).json()
        assert [one["content"] for one in thread["messages"]] == ["gate-busy"]
        went_on = await ask(http, "/agui/words", wish("go on", "interrupt"), mine)
        assert went_on.text == "go on "
    cancelled = await http.get(f"/agui/patient/runs/{real(told)}", headers=mine)
    assert '"outcome":{"type":"cancelled"}' in cancelled.text
    assert (await ask(http, "/agui/words", wish("idle", "reject"), mine)).text == "idle "


def connecting(thread: str = "t-1", run: str = "", **wishes: Any) -> dict[str, Any]:
    """The body of a connect."""
    return (
        said("", thread, run=run) | {"forwardedProps": {"narthex": wishes}}
        if wishes
        else said("", thread, run=run)
    )


async def test_a_reload_in_mid_run_gets_the_thread_and_the_rest_of_the_run(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """Snapshot, then the run from its first event to its end, under the client's names; nothing ran twice."""
    mine = bearer(running)
    earlier = await ask(http, "/agui/curious", said("first", message="m-0"), mine)
    sent = said("gate-reload", message="m-1")
    told = Told()
    async with http.stream("POST", "/agui/patient", json=sent, headers=mine) as response:
        await stream(response, told, until=3)
    reload = Told()
    body = connecting(run="reload-1")
    async with http.stream("POST", "/agui/curious/connect", json=body, headers=mine) as response:
        reading = asyncio.ensure_future(stream(response, reload))
        await until(lambda: len(reload.events) >= 7)
        gates["gate-reload"].set()
        async with asyncio.timeout(within(10)):
            await reading
    snapshot = ["RUN_STARTED", "MESSAGES_SNAPSHOT", "STATE_SNAPSHOT", "RUN_FINISHED"]
    assert reload.kinds[:4] == snapshot
    assert (reload.events[0]["threadId"], reload.events[0]["runId"]) == ("t-1", "reload-1")
    messages = reload.events[1]["messages"]
    assert [(one["role"], one["content"]) for one in messages] == [
        ("user", "first"),
        ("assistant", "heard first"),
        ("user", "gate-reload"),
    ]
    assert messages[0]["id"] == "m-0"
    assert messages[1]["id"] == next(
        e["messageId"] for e in earlier.events if e["type"] == "TEXT_MESSAGE_START"
    )
    assert reload.events[2]["snapshot"] == {"count": 1, "list": ["a", "b"]}
    rest = reload.events[4:]
    assert (rest[0]["type"], rest[0]["runId"], rest[-1]["type"]) == (
        "RUN_STARTED",
        sent["runId"],
        "RUN_FINISHED",
    )
    assert proven(rest)
    assert real(told) == rest[0]["metadata"]["narthex"]["runId"]
    # Again, when all is over: everything is in the snapshot, and the stream ends.
    over = await ask(http, "/agui/patient/connect", connecting(), mine)
    assert over.kinds == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
    assert over.events[1]["messages"][-1]["content"] == "begun ended"
    kept = (await http.get("/agui/curious/threads/t-1", headers=mine)).json()
    assert kept["messages"] == over.events[1]["messages"]
    assert (kept["state"], kept["runs"]) == ({"count": 1, "list": ["a", "b"]}, [])


async def test_a_connection_that_was_cut_goes_on_after_the_last_event(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """With `Last-Event-ID` the rest of the run comes without a snapshot, and nothing is missing or twice."""
    mine = bearer(running)
    sent = said("a b c d e f g h")
    async with http.stream("POST", "/agui/words", json=sent, headers=mine) as response:
        await stream(response, Told(), until=1)
    told = Told()
    async with http.stream("POST", "/agui/words/connect", json=connecting(), headers=mine) as response:
        await stream(response, told, until=6)
    assert told.kinds[:4] == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED", "RUN_STARTED"]
    last = {"Last-Event-ID": told.ids[-1]}
    async with http.stream("POST", "/agui/words/connect", json=connecting(), headers=mine | last) as response:
        await stream(response, told)
    assert told.text == "a b c d e f g h "
    assert proven(told.events[3:])


async def test_a_connection_that_follows_gets_runs_of_other_devices(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """A message of another device comes within the run that answers it; then the next run follows."""
    mine = bearer(running)
    await ask(http, "/agui/words", said("hello", message="m-0"), mine)
    told = Told()
    async with http.stream(
        "POST", "/agui/words/connect", json=connecting(follow=True), headers=mine
    ) as response:
        reading = asyncio.ensure_future(stream(response, told))
        await until(lambda: len(told.events) >= 3)
        for number in (1, 2):
            await ask(http, "/agui/words", said(f"again {number}", message=f"m-{number}"), mine)
        await until(lambda: told.kinds.count("RUN_FINISHED") == 3)
        reading.cancel()
    assert told.events[3]["type"] == "RUN_STARTED"
    spoken = {"type": "TEXT_MESSAGE_START", "messageId": "m-1", "role": "user"}
    assert told.events[4] == spoken | {"metadata": {"narthex": {"between": True}}}
    assert told.text == "again 1again 1 again 2again 2 "


async def test_a_reload_shows_open_questions_and_an_unknown_thread_is_empty(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """The preamble's outcome has the interrupts, which `resume` answers; another user's thread is 404."""
    mine = bearer(running)
    asked = await ask(http, "/agui/careful", said("do it"), mine)
    [interrupt] = asked.events[-1]["outcome"]["interrupts"]
    reload = await ask(http, "/agui/careful/connect", connecting(), mine)
    [again] = reload.events[-1]["outcome"]["interrupts"]
    assert again | {"expiresAt": ""} == interrupt | {"expiresAt": ""}
    answer = [{"interruptId": again["id"], "status": "resolved", "payload": {"ok": True}}]
    assert (await ask(http, "/agui/careful", said("", resume=answer), mine)).text == "ok=True"
    empty = await ask(http, "/agui/careful/connect", connecting("unknown"), mine)
    assert [event.get("messages") for event in empty.events] == [None, [], None]
    others = await http.post(
        "/agui/careful/connect", json=connecting(real(asked, "threadId")), headers=bearer(running, "eve")
    )
    assert (others.status_code, others.json()["code"]) == (404, "thread_not_found")


async def test_copilotkit_s_names_for_the_same(running: Running, http: httpx2.AsyncClient) -> None:
    """Both of its transports: info, run, connect and stop, by path and in an envelope."""
    mine = bearer(running)
    assert "words" in (await http.get("/agui/info", headers=mine)).json()["agents"]
    told = await ask(http, "/agui/agent/words/run", said("hello"), mine)
    assert told.text == "hello "
    reload = await ask(http, "/agui/agent/words/connect", connecting(), mine)
    assert reload.events[1]["messages"][-1]["content"] == "hello "

    def envelope(method: str, body: object, **params: str) -> dict[str, Any]:
        return {"method": method, "params": {"agentId": "words"} | params, "body": body}

    assert (await http.post("/agui", json={"method": "info"}, headers=mine)).json()["mode"] == "sse"
    for path in ("/agui", "/agui/words"):
        again = await ask(http, path, envelope("agent/run", said("more", path)), mine)
        assert again.text == "more "
        found = await ask(http, path, envelope("agent/connect", connecting(path)), mine)
        assert found.events[1]["messages"][-1]["content"] == "more "
    async with http.stream("POST", "/agui/patient", json=said("gate-stop", "t-9"), headers=mine) as response:
        held = await stream(response, Told(), until=3)
        stopped = await http.post("/agui", json=envelope("agent/stop", {}, threadId="t-9"), headers=mine)
        assert stopped.json() == {"stopped": True}
    ended = await http.get(f"/agui/patient/runs/{real(held)}", headers=mine)
    assert '"cancelled"' in ended.text
