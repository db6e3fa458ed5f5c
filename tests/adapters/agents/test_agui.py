"""Pydantic AI agents in this process, and the same agents behind a real AG-UI endpoint."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import msgspec
import pytest
from pydantic_ai.ui.ag_ui import AGUIAdapter
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from narthex.adapters.agents.agui_stream import Conversation, Translation
from narthex.adapters.agents.loading import load_agent
from narthex.domain import events as ev
from narthex.domain.agent_input import AgentInput
from narthex.errors import ConfigError, DependencyError
from narthex.ports.agents import Agent, AgentError, Answer, ChatMessage, Question, ToolCall
from tests.adapters.agents import pydantic_agents
from tests.adapters.agents.serving import served
from tests.adapters.agents.talk import USER, Input, talk
from tests.timing import within

HERE = "tests.adapters.agents.pydantic_agents"
SEEN: list[dict[str, object]] = []


async def endpoint(request: Request) -> Response:
    """An AG-UI server as Pydantic AI's documentation builds it."""
    SEEN.append({"body": await request.json(), "authorization": request.headers.get("authorization")})
    agent = getattr(pydantic_agents, request.path_params["name"])
    deps = USER if request.path_params["name"] == "weather" else None
    return await AGUIAdapter.dispatch_request(request, agent=agent, deps=deps)


def scripted(*lines: str, status: int = 200, kind: str = "text/event-stream") -> Route:
    """A route that answers every request with these SSE events."""

    async def answer(request: Request) -> Response:
        async def body() -> AsyncIterator[str]:
            for line in lines:
                yield line

        return StreamingResponse(body(), status_code=status, media_type=kind)

    return Route("/scripted", answer, methods=["POST"])


@pytest.fixture(params=["in process", "behind an endpoint"])
async def agents(request: pytest.FixtureRequest) -> AsyncIterator[dict[str, Agent]]:
    """The same agents, loaded both ways."""
    names = ("weather", "deleter", "broken", "endless")
    if request.param == "in process":
        yield {name: load_agent(f"{HERE}:{name}") for name in names}
        return
    app = Starlette(routes=[Route("/{name}", endpoint, methods=["POST", "GET"])])
    async with served(app) as url:
        yield {name: load_agent(f"agui+{url}/{name}") for name in names}


async def test_thinking_tools_and_text(agents: dict[str, Agent]) -> None:
    """Reasoning, the tool call with its arguments and result, and text arrive as AG-UI events in legal order."""
    assert agents["weather"].name == "weather"
    heard = await talk(agents["weather"], Input("me"))
    assert "".join(e["delta"] for e in heard.of("REASONING_MESSAGE_CONTENT")) == "I need the weather."
    (call,) = heard.of("TOOL_CALL_START")
    assert (call["toolCallId"], call["toolCallName"]) == ("call-0123456789", "weather")
    assert "".join(e["delta"] for e in heard.of("TOOL_CALL_ARGS")) == '{"city": "Oslo"}'
    assert heard.of("TOOL_CALL_RESULT")[0]["content"] == "Oslo: snow, dear Alice"
    assert heard.text.strip() == "Oslo: snow, dear Alice for me."
    assert not {e["type"] for e in heard.events} & ev.GATEWAY_ONLY


async def test_the_conversation_is_given(agents: dict[str, Agent]) -> None:
    """The agent gets the earlier messages, calls of tools and their results among them."""
    history = (
        "first",
        ChatMessage(role="assistant", content="answer", message_id="a"),
        ChatMessage(
            role="assistant", content="", message_id="c", tool_calls=(ToolCall(call_id="x-1", name="x"),)
        ),
        ChatMessage(role="tool", content="42", message_id="t", name="x", tool_call_id="x-1"),
        "second",
    )
    assert (await talk(agents["weather"], Input(*history))).text.strip().endswith("for second.")


@pytest.mark.parametrize(("approved", "result"), [(True, "deleted"), (False, "denied")])
async def test_an_approval_becomes_a_question(agents: dict[str, Agent], approved: bool, result: str) -> None:
    """The tool runs only after a user approved."""
    pydantic_agents.deleted.clear()
    run = Input("delete it", answers=({"approved": approved},))
    heard = await talk(agents["deleter"], run)
    ((schema, text),) = run.asked
    assert "delete_all" in text
    assert schema["required"] == ["approved"]
    assert pydantic_agents.deleted == (["all"] if approved else [])
    assert heard.text.startswith("Result: ")
    assert result in heard.text


async def test_a_failing_agent_says_so(agents: dict[str, Agent]) -> None:
    """RUN_ERROR of the stream becomes the run's."""
    with pytest.raises(AgentError):
        await talk(agents["broken"], Input("hi"))


async def test_cancelling_stops_the_stream(agents: dict[str, Agent]) -> None:
    """Within a second."""
    stream = agents["endless"].function(Input("hi"))
    for _ in range(5):
        await anext(stream)
    async with asyncio.timeout(1):
        await stream.aclose()  # type: ignore[attr-defined]  # an async generator, as the engine knows too


async def test_the_endpoint_is_told_who_asks_and_gets_its_secret() -> None:
    """The user's identity without a token in forwardedProps; the configured bearer token in the header."""
    SEEN.clear()
    app = Starlette(routes=[Route("/{name}", endpoint, methods=["POST"])])
    async with served(app) as url:
        agent = load_agent(f"mine=agui+{url}/weather", secrets={"mine": "s3cret"})
        await talk(agent, Input("me"))
    assert SEEN[0]["authorization"] == "Bearer s3cret"
    body = SEEN[0]["body"]
    assert isinstance(body, dict)
    assert body["forwardedProps"]["narthex"]["user"]["subject"] == "alice"
    assert (body["threadId"], body["runId"]) == ("thread", "run")


@pytest.mark.parametrize(
    ("route", "code", "words"),
    [
        (scripted("data: {}\n\n", status=401), "agent_unavailable", "answered 401"),
        (scripted("<html>", kind="text/html"), "agent_unavailable", "text/html instead of"),
        (scripted("data: nonsense\n\n"), "agent_failed", "nonsense"),
        (scripted("data: {nonsense\n\n"), "agent_event_invalid", "not a JSON object"),
        (scripted("data: []\n\n"), "agent_event_invalid", "not an AG-UI event"),
        (scripted('data: {"type": "TEXT_ME'), "agent_event_order", "without RUN_FINISHED"),
        (
            scripted('data: {"type": "CUSTOM", "value": ' + "[" * 1_500 + "]" * 1_500 + "}\n\n"),
            "agent_event_invalid",
            "too deep",
        ),
        (scripted("data: \xff\n\n"), "agent_failed", "\xff"),
        (scripted('data: {"type": "RUN_STARTED"}\n\n'), "agent_event_order", "without RUN_FINISHED"),
        (scripted(), "agent_event_order", "without RUN_FINISHED"),
        (scripted("data: " + "x" * 1_100_000 + "\n\n"), "agent_flood", "more than 1 MB"),
        (
            scripted('data: {"type": "RUN_ERROR", "message": "No money.", "code": "no_money"}\n\n'),
            "no_money",
            "No money.",
        ),
        (
            scripted('data: {"type": "RUN_ERROR", "message": "x", "code": "Bad Code!"}\n\n'),
            "agent_failed",
            "x",
        ),
        (
            scripted('data: {"type":"RUN_FINISHED","outcome":{"type":"cancelled"}}\n\n'),
            "agent_failed",
            "cancelled",
        ),
        (
            scripted('data: {"type":"RUN_FINISHED","outcome":{"interrupts":[{"id":"i"}]}}\n\n'),
            "agent_flood",
            "more than 20 questions",
        ),
    ],
)
async def test_a_bad_endpoint_is_named(route: Route, code: str, words: str) -> None:
    """Each fault of an endpoint ends in a code and a sentence."""
    async with served(Starlette(routes=[route])) as url:
        run = Input("hi", answers=tuple(range(20)))
        with pytest.raises(AgentError) as caught:
            await talk(load_agent(f"agui+{url}/scripted"), run)
    assert caught.value.code == code
    assert words in caught.value.message


async def test_several_interrupts_of_an_endpoint_are_asked_at_once() -> None:
    """With their members; the next request has all answers, a dismissed one too, and what was said so far."""
    bodies: list[dict[str, Any]] = []
    first = [
        {"type": "RUN_STARTED"},
        ev.text_start("m-of-the-answer-1"),
        ev.text_content("m-of-the-answer-1", "Two things. "),
        ev.text_end("m-of-the-answer-1"),
        {"type": "STATE_DELTA", "delta": [{"op": "add", "path": "/n", "value": 1}]},
        {
            "type": "RUN_FINISHED",
            "outcome": {
                "type": "interrupt",
                "interrupts": [
                    {"id": "i-1", "reason": "tool_call", "toolCallId": "c-1", "metadata": {"a": 1}},
                    {"id": "i-2", "reason": "x", "message": "Which?", "responseSchema": {"type": "string"}},
                    {"id": "i-3", "reason": "y", "responseSchema": {"pattern": "not checked here"}},
                ],
            },
        },
    ]

    async def answer(request: Request) -> Response:
        bodies.append(await request.json())
        events = first if len(bodies) == 1 else [{"type": "RUN_FINISHED"}]
        lines = "".join(f"data: {json.dumps(event)}\n\n" for event in events)
        return Response(lines, media_type="text/event-stream")

    class Dismissive(Input):
        async def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
            first, *rest = await super().ask_all(questions)
            return [msgspec.structs.replace(first, status="cancelled", payload=None), *rest]

    async with served(Starlette(routes=[Route("/bot", answer, methods=["POST"])])) as url:
        run = Dismissive("hi", answers=(None, "b", 7), given=AgentInput(forwarded={"mine": 1}))
        heard = await talk(load_agent(f"agui+{url}/bot"), run)
    assert heard.text == "Two things. "
    assert [
        (one.question_id, one.text, one.reason, one.tool_call_id, one.metadata, one.dismissable)
        for one in run.questions
    ] == [
        ("i-1", "tool_call", "tool_call", "c-1", {"a": 1}, True),
        ("i-2", "Which?", "x", "", {}, True),
        ("i-3", "y", "y", "", {}, True),
    ]
    assert [dict(one.schema) for one in run.questions] == [{}, {"type": "string"}, {}]
    assert bodies[1]["resume"] == [
        {"interruptId": "i-1", "status": "cancelled"},
        {"interruptId": "i-2", "status": "resolved", "payload": "b"},
        {"interruptId": "i-3", "status": "resolved", "payload": 7},
    ]
    assert [one["content"] for one in bodies[1]["messages"]] == ["hi", "Two things. "]
    assert bodies[1]["state"] == {"n": 1}
    assert bodies[1]["forwardedProps"]["mine"] == 1
    assert "resume" not in bodies[0]


async def test_answers_of_a_coroutine_that_is_gone_are_in_the_first_request() -> None:
    """The endpoint remembers where it stopped: `resumable`."""
    bodies: list[dict[str, Any]] = []

    async def answer(request: Request) -> Response:
        bodies.append(await request.json())
        return Response('data: {"type": "RUN_FINISHED"}\n\n', media_type="text/event-stream")

    async with served(Starlette(routes=[Route("/bot", answer, methods=["POST"])])) as url:
        agent = load_agent(f"agui+{url}/bot")
        assert agent.resumable
        run = Input("hi")
        run.resume = [Answer(question_id="i-1", status="resolved", payload={"ok": True})]
        await talk(agent, run)
    assert [body["resume"] for body in bodies] == [
        [{"interruptId": "i-1", "status": "resolved", "payload": {"ok": True}}]
    ]


async def test_an_endpoint_that_is_not_there() -> None:
    """Both the run and the health check report it."""
    agent = load_agent("agui+http://127.0.0.1:9/agent")
    with pytest.raises(
        AgentError,
        match=r"^This agent's server cannot be reached, or the connection to it was lost\. Try again\.",
    ):
        await talk(agent, Input("hi"))
    assert agent.check is not None
    with pytest.raises(DependencyError, match="cannot be reached"):
        await agent.check()


async def test_the_health_check_takes_any_answer_but_a_failure() -> None:
    """An AG-UI endpoint has no GET: 405 is alive, 503 is not."""

    async def sick(request: Request) -> Response:
        return PlainTextResponse("no", status_code=503)

    async with served(Starlette(routes=[scripted(), Route("/sick", sick)])) as url:
        well = load_agent(f"agui+{url}/scripted").check
        ill = load_agent(f"agui+{url}/sick").check
        assert well is not None
        assert ill is not None
        await well()
        with pytest.raises(DependencyError, match="answers 503"):
            await ill()


async def test_an_endpoint_that_repeats_the_secret_tells_nobody() -> None:
    """Some quote the key that they refuse; every member of the thread can read a run's error."""

    async def quotes(request: Request) -> Response:
        return PlainTextResponse(f"bad key {request.headers['authorization']}", status_code=401)

    async with served(Starlette(routes=[Route("/quotes", quotes, methods=["POST"])])) as url:
        agent = load_agent(f"agui+{url}/quotes", secrets={"quotes": "sk-very-secret"})
        with pytest.raises(AgentError) as caught:
            await talk(agent, Input("hi"))
    assert "answered 401" in caught.value.message
    assert "bad key" not in caught.value.message


async def test_the_health_check_reads_no_body() -> None:
    """A GET of an endless stream is answered as soon as its head arrives."""

    async def streams(request: Request) -> Response:
        async def body() -> AsyncIterator[bytes]:
            while not await request.is_disconnected():
                yield b": on and on\n\n"
                await asyncio.sleep(0.01)

        return StreamingResponse(body(), media_type="text/event-stream")

    async with served(Starlette(routes=[Route("/streams", streams)])) as url:
        check = load_agent(f"agui+{url}/streams").check
        assert check is not None
        async with asyncio.timeout(within(2)):
            await check()


@pytest.mark.parametrize("spec", ["agui+http://user:pass@host/x", "agui+http:///x"])
def test_a_secret_in_the_url_is_refused(spec: str) -> None:
    """URLs end up in logs; the message does not repeat it."""
    with pytest.raises(ConfigError) as caught:
        load_agent(spec)
    assert "pass" not in str(caught.value).replace("password", "")


def test_something_else_of_pydantic_ai_is_refused() -> None:
    """The name of a model or message is not an agent."""
    with pytest.raises(ConfigError, match="is a ModelResponse"):
        load_agent(f"{HERE}:not_an_agent")


def test_old_thinking_events_become_reasoning() -> None:
    """THINKING_* has no ids; each span and message gets one."""
    translate = Translation()
    kinds = ["START", "TEXT_MESSAGE_START", "TEXT_MESSAGE_CONTENT", "TEXT_MESSAGE_END", "END"]
    out = [e for kind in kinds for e in translate.event({"type": f"THINKING_{kind}", "delta": "x"})]
    assert [e["type"].removeprefix("REASONING_") for e in out] == [
        "START",
        "MESSAGE_START",
        "MESSAGE_CONTENT",
        "MESSAGE_END",
        "END",
    ]
    assert len({e["messageId"] for e in out}) == 2
    assert all(ev.shape_fault(e) is None for e in out)


def test_chunks_keep_their_halves_for_the_engine() -> None:
    """Only it knows which message a chunk without an id continues; other members are cleaned."""
    translate = Translation()
    first = {"type": "TEXT_MESSAGE_CHUNK", "messageId": "m", "delta": "\ud83d"}
    rest = {"type": "TEXT_MESSAGE_CHUNK", "delta": "\ude00!"}
    assert [translate.event(first), translate.event(rest)] == [[first], [rest]]
    assert translate.event(first | {"name": "x\ud83d"}) == [first | {"name": "x\ufffd"}]


async def test_what_another_gateway_sends_between_its_runs_is_no_output() -> None:
    """A gateway behind this one marks what its users said meanwhile."""
    mark = {"metadata": {"narthex": {"between": True}}}
    events = [
        {"type": "MESSAGES_SNAPSHOT", "messages": [], **mark},
        {**ev.text_start("u", "user"), **mark},
        {**ev.text_content("u", "not mine"), **mark},
        {**ev.text_end("u"), **mark},
        {**ev.text_start("m"), "metadata": {"narthex": {"between": False}}},
        ev.text_content("m", "mine"),
        ev.text_end("m"),
        {"type": "RUN_FINISHED"},
    ]
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    async with served(Starlette(routes=[scripted(*lines)])) as url:
        heard = await talk(load_agent(f"agui+{url}/scripted"), Input("hi"))
    assert heard.text == "mine"
    assert [one["type"] for one in heard.events] == [
        "TEXT_MESSAGE_START",
        "TEXT_MESSAGE_CONTENT",
        "TEXT_MESSAGE_END",
    ]


def test_a_resumed_request_has_what_was_said() -> None:
    """Text, parallel tool calls and results are folded into AG-UI messages; a snapshot replaces them."""
    conversation = Conversation([ChatMessage(role="user", content="go", message_id="u")])
    for event in (
        ev.text_start("m"),
        ev.text_content("m", "Let me "),
        ev.text_content("m", "look."),
        ev.tool_call_start("c1", "f", parent_message_id="m"),
        ev.tool_call_args("c1", "{}"),
        ev.tool_call_start("c2", "g", parent_message_id="m"),
        ev.tool_call_result("r1", "c1", "one"),
        ev.tool_call_start("c3", "h"),
        ev.tool_call_start("c4", "h"),
        ev.state_snapshot({"a": 1}),
    ):
        conversation.feed(event)
    request = conversation.request(Input("x"), [])
    roles = [
        (m["role"], m.get("content"), [c["id"] for c in m.get("toolCalls", [])]) for m in request["messages"]
    ]
    assert roles == [
        ("user", "go", []),
        ("assistant", "Let me look.", ["c1", "c2"]),
        ("tool", "one", []),
        ("assistant", None, ["c3", "c4"]),
    ]
    assert request["state"] == {"a": 1}
    conversation.feed(
        {"type": "MESSAGES_SNAPSHOT", "messages": [{"id": "x", "role": "user", "content": "y"}]}
    )
    assert len(conversation.messages) == 1


def test_the_state_of_a_conversation_is_bounded_and_its_own() -> None:
    """Small `copy` patches double it; an agent in this process keeps the state that it got."""
    first = {"list": [1]}
    conversation = Conversation([], first)
    add = ev.state_delta([{"op": "add", "path": "/list/-", "value": 2}])
    conversation.feed(add)
    given = conversation.request(Input("x"), [])["state"]
    conversation.feed(add)
    assert (first, given, conversation.state) == ({"list": [1]}, {"list": [1, 2]}, {"list": [1, 2, 2]})
    conversation.feed({"type": "STATE_DELTA", "delta": 5})
    conversation.feed(ev.state_snapshot({"a": "x" * 1_000}))
    for number in range(20):
        conversation.feed(ev.state_delta([{"op": "copy", "from": "", "path": f"/{number}"}]))
    assert conversation.state == {}
    conversation.feed(ev.state_snapshot({"n": 1}))
    assert conversation.state == {"n": 1}
