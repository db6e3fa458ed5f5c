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
    ],
    ids=["key", "cut", "json", "error", "filter"],
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


def test_names_and_mistakes() -> None:
    """The model's name becomes the agent's; without a model nothing is guessed."""
    assert load_agent("openai+http://h/v1#org/Tiny%20Model:8b").name == "org-Tiny-Model-8b"
    with pytest.raises(ConfigError, match="name the model"):
        load_agent("openai+http://h/v1")
