"""Models behind an OpenAI-compatible endpoint: scripted answers, and a real model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from narthex.adapters.agents.loading import load_agent
from narthex.adapters.agents.openai_answer import NOT_OFFERED
from narthex.adapters.agents.openai_http import openai_agent
from narthex.errors import ConfigError
from narthex.ports.agents import AgentError, ChatMessage
from tests.adapters.agents.serving import served
from tests.adapters.agents.talk import Input, talk

SEEN: list[dict[str, Any]] = []


def chunk(finish: str | None = None, **delta: str) -> str:
    """One chunk of a streamed completion."""
    body = {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    }
    return f"data: {json.dumps(body)}\n\n"


def called(function: dict[str, str], index: int = 0, **more: str) -> str:
    """One chunk with a piece of a tool call."""
    delta = {"tool_calls": [{"index": index, "function": function} | more]}
    return f"data: {json.dumps({'choices': [{'index': 0, 'delta': delta}]})}\n\n"


def model(*lines: str, status: int = 200) -> Starlette:
    """An endpoint that answers with these lines."""

    async def completions(request: Request) -> Response:
        SEEN.append({"body": await request.json(), "authorization": request.headers.get("authorization")})
        if status != 200:
            return JSONResponse({"error": {"message": "wrong key"}}, status_code=status)

        async def body() -> AsyncIterator[str]:
            for line in lines:
                yield line

        return StreamingResponse(body(), media_type="text/event-stream")

    async def models(request: Request) -> Response:
        return JSONResponse({"data": []})

    return Starlette(
        routes=[Route("/v1/chat/completions", completions, methods=["POST"]), Route("/v1/models", models)]
    )


async def test_text_and_reasoning() -> None:
    """Reasoning first as its own span, then the text; an empty first chunk is ignored."""
    app = model(
        chunk(role="assistant", content=""),
        chunk(reasoning_content="Hm"),
        chunk(reasoning_content="m."),
        chunk(content="Hel"),
        chunk(content="lo"),
        chunk(finish="stop"),
        'data: {"choices": [], "usage": {"total_tokens": 7}}\n\n',
        "data: [DONE]\n\n",
    )
    async with served(app) as url:
        heard = await talk(load_agent(f"openai+{url}/v1#tiny/model-1"), Input("hi"))
    assert heard.text == "Hello"
    assert "".join(e["delta"] for e in heard.of("REASONING_MESSAGE_CONTENT")) == "Hmm."
    assert [item["type"] if isinstance(item, dict) else item for item in heard.items][-4:-1] == [
        "REASONING_MESSAGE_END",
        "REASONING_END",
        "Hel",
    ]


COUNTED = {
    "prompt_tokens": 11,
    "completion_tokens": 5,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 1},
}
USAGE = {
    "inputTokens": 11,
    "outputTokens": 5,
    "totalTokens": 16,
    "cachedInputTokens": 2,
    "reasoningTokens": 1,
    "model": "tiny-2026",
}
"""The same in AG-UI's form."""


def counted(usage: dict[str, Any] | None = None) -> str:
    """The chunk behind the last choice, in which an endpoint counts."""
    body: dict[str, Any] = {"model": "tiny-2026", "choices": [], "usage": COUNTED if usage is None else usage}
    return f"data: {json.dumps(body)}\n\n"


@pytest.mark.parametrize(
    ("lines", "usage"),
    [
        ((chunk(content="x"), chunk(finish="stop"), counted()), [USAGE]),
        # Some count in every chunk: the last count is the whole one.
        ((counted({"total_tokens": 1}), chunk(content="x"), counted(), chunk(finish="stop")), [USAGE]),
        ((chunk(content="x"), chunk(finish="stop"), counted({})), []),
        ((chunk(content="x"), chunk(finish="stop")), []),
        (
            (chunk(content="x"), counted({"prompt_tokens": 3}), chunk(finish="stop")),
            [{"inputTokens": 3, "model": "tiny-2026"}],
        ),
    ],
    ids=["last", "each", "empty", "none", "partly"],
)
async def test_usage_is_what_the_endpoint_counted(lines: tuple[str, ...], usage: list[Any]) -> None:
    """In AG-UI's names, with the model's own name; what the endpoint did not count is left out."""
    async with served(model(*lines, "data: [DONE]\n\n")) as url:
        run = Input("hi")
        await talk(load_agent(f"openai+{url}/v1#tiny"), run)
    assert run.usage == usage


async def test_what_the_endpoint_is_asked() -> None:
    """The conversation without tools' messages, the system prompt first, the key in the header only."""
    SEEN.clear()
    history = (
        ChatMessage(role="user", content="a"),
        ChatMessage(role="tool", content="t", name="x"),
        ChatMessage(role="assistant", content="b"),
        "c",
    )
    async with served(model(chunk(content="x"), chunk(finish="stop"))) as url:
        agent = openai_agent(f"{url}/v1#m", name="gpt", secrets={"gpt": "key"}, system="Be kind.")
        assert (agent.name, agent.restartable) == ("gpt", True)
        await talk(agent, Input(*history))
        assert agent.check is not None
        await agent.check()
    assert SEEN[0]["authorization"] == "Bearer key"
    assert SEEN[0]["body"]["messages"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    assert SEEN[0]["body"]["model"] == "m"


@pytest.mark.parametrize(
    ("app", "code", "words"),
    [
        (model(status=401), "agent_unavailable", "answered 401"),
        (model(chunk(content="half")), "agent_unavailable", "cut its answer short"),
        (model("data: {]\n\n"), "agent_event_invalid", "not JSON"),
        (model('data: {"error": {"message": "No memory."}}\n\n'), "agent_failed", "No memory."),
        (model(chunk(finish="content_filter")), "agent_failed", "content filter"),
        (model('data: {"choices": [{"delta": {"cont'), "agent_unavailable", "cut its answer short"),
        (model("error: out of memory\n"), "agent_failed", "error: out of memory"),
        (
            model('data: {"choices": ' + "[" * 1_500 + "]" * 1_500 + "}\n\n"),
            "agent_event_invalid",
            "too deep",
        ),
        (model(*[called({"arguments": "x" * 1_000})] * 80), "agent_flood", "without a name"),
        (model(*[called({"name": "x" * 100})] * 3), "agent_flood", "256 characters"),
    ],
    ids=["key", "cut", "json", "error", "filter", "cut-json", "field", "deep", "nameless", "long-name"],
)
async def test_a_bad_endpoint_is_named(app: Starlette, code: str, words: str) -> None:
    """Each fault of an endpoint ends in a code and a sentence."""
    async with served(app) as url:
        with pytest.raises(AgentError) as caught:
            await talk(load_agent(f"openai+{url}/v1#m"), Input("hi"))
    assert caught.value.code == code
    assert words in caught.value.message


async def test_an_error_in_the_stream_does_not_quote_the_key() -> None:
    """Users can read its text, so a repeated key is removed."""
    app = model('data: {"error": {"message": "Key sk-very-secret has no money."}}\n\n')
    async with served(app) as url:
        with pytest.raises(AgentError) as caught:
            await talk(load_agent(f"openai+{url}/v1#m", secrets={"m": "sk-very-secret"}), Input("hi"))
    assert caught.value.message == "Key … has no money."


async def test_an_answer_that_was_cut_off_says_so() -> None:
    """The model's limit must not look like a normal end."""
    async with served(model(chunk(content="a lo"), chunk(finish="length"))) as url:
        heard = await talk(load_agent(f"openai+{url}/v1#m"), Input("hi"))
    assert heard.text == "a lo"
    assert heard.of("CUSTOM")[0]["value"] == {"reason": "length"}


@pytest.mark.parametrize(
    "line",
    [
        "event: ping\ndata: 1",
        'event: ping\ndata: "2026"',
        "event: ping\ndata: null",
        "data: null",
        "event: heartbeat\ndata: [1]",
        'event: heartbeat\ndata: {"message": "alive", "at": 1}',
        "event: keep-alive\ndata: x",
        "event: keep-alive\ndata: {x",
        "timestamp: 12",
        "x-request: 12",
    ],
)
async def test_keep_alives_and_unknown_fields_are_passed_over(line: str) -> None:
    """The answer around them is whole, and nothing is shown for them."""
    async with served(
        model(chunk(content="a"), f"{line}\n\n", chunk(content="b"), chunk(finish="stop"))
    ) as url:
        heard = await talk(load_agent(f"openai+{url}/v1#m"), Input("hi"))
    assert heard.items == ["a", "b"]


async def test_an_error_of_a_keep_alives_kind_is_told() -> None:
    """Its name does not hide it."""
    async with served(model('event: ping\ndata: {"error": "no memory"}\n\n')) as url:
        with pytest.raises(AgentError, match="no memory"):
            await talk(load_agent(f"openai+{url}/v1#m"), Input("hi"))


async def test_a_count_that_is_cut_leaves_a_complete_answer() -> None:
    """The reason of the end had arrived."""
    async with served(model(chunk(content="a"), chunk(finish="stop"), 'data: {"usage": {"tot')) as url:
        heard = await talk(load_agent(f"openai+{url}/v1#m"), Input("hi"))
    assert heard.items == ["a"]


def whole(**message: Any) -> str:
    """The whole answer behind its parts."""
    return f"data: {json.dumps({'choices': [{'message': message, 'finish_reason': 'tool_calls'}]})}\n\n"


LOOK = {"id": "t1", "function": {"name": "look", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("lines", "calls", "text"),
    [
        (
            (
                called({"name": "look", "arguments": "{}"}, id="t1"),
                whole(content=None, tool_calls=[LOOK]),
            ),
            [("look", "{}")],
            "",
        ),
        (
            (called({"name": "look", "arguments": "{}"}, id="t1"), whole(content="x", tool_calls=[LOOK])),
            [("look", "{}")],
            "x",
        ),
        ((chunk(content="x"), whole(content="x", tool_calls=[LOOK])), [("look", "{}")], "x"),
        (
            (
                called({"name": "look", "arguments": "{}"}, 0, id="t1"),
                called({"name": "find", "arguments": "["}, 1, id="t1"),
                called({"arguments": "]"}, 1, id="t1"),
                chunk(finish="stop"),
            ),
            [("look", "{}"), ("find", "[]")],
            "",
        ),
        (
            (
                called({"name": "look", "arguments": "{"}, id="t1"),
                called({"arguments": "1"}),
                called({"name": "find", "arguments": "["}, id="t2"),
                called({"arguments": "2"}),
                called({"arguments": "3}"}, id="t1"),
                called({"arguments": "4]"}, id="t2"),
                chunk(finish="stop"),
            ),
            [("look", "{13}"), ("find", "[24]")],
            "",
        ),
    ],
    ids=["repeated", "repeated-with-text", "only-in-the-whole", "one-id", "one-index"],
)
async def test_tool_calls_are_told_apart(
    lines: tuple[str, ...], calls: list[tuple[str, str]], text: str
) -> None:
    """Each is shown once, with its own arguments and a result that says that it was not executed."""
    async with served(model(*lines)) as url:
        heard = await talk(load_agent(f"openai+{url}/v1#m"), Input("hi"))
    found = {one["toolCallId"]: [one["toolCallName"], ""] for one in heard.of("TOOL_CALL_START")}
    for piece in heard.of("TOOL_CALL_ARGS"):
        found[piece["toolCallId"]][1] += piece["delta"]
    assert [tuple(one) for one in found.values()] == calls
    assert heard.text == text
    results = [(one["toolCallId"], one["content"]) for one in heard.of("TOOL_CALL_RESULT")]
    assert results == [(call_id, NOT_OFFERED) for call_id in found]


async def test_the_kind_of_a_part_does_not_quote_the_key() -> None:
    """Users can read the note."""
    line = 'data: {"choices": [{"delta": {"content": [{"type": "sk-very-secret"}]}}]}\n\n'
    async with served(model(line, chunk(content="x", finish="stop"))) as url:
        agent = load_agent(f"openai+{url}/v1#m", secrets={"m": "sk-very-secret"})
        heard = await talk(agent, Input("hi"))
    assert heard.of("CUSTOM")[0]["value"] == {"not_understood": "a part of type …"}


def test_names_and_mistakes() -> None:
    """The model's name becomes the agent's; without a model nothing is guessed."""
    assert load_agent("openai+http://h/v1#org/Tiny%20Model:8b").name == "org-Tiny-Model-8b"
    with pytest.raises(ConfigError, match="name the model"):
        load_agent("openai+http://h/v1")
