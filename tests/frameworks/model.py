"""A scripted model with OpenAI's interface: it calls the tool that the user names, else talks, and counts tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

TOOLS: Final = {
    "weather": ("get_weather", {"city": "Oslo"}),
    "background": ("change_background", {"colour": "red"}),
    "plan": ("approve_plan", {"steps": ["pack", "go"]}),
    "haiku": ("show_haiku", {"lines": ["snow", "falls", "on Oslo"]}),
    "work": ("do_steps", {}),
    "milk": ("add_item", {"item": "milk"}),
    "write": ("write_document", {"document": "Once upon a time there was snow."}),
    "delete": ("delete_all", {}),
}
USAGE: Final = {
    "prompt_tokens": 11,
    "completion_tokens": 5,
    "total_tokens": 16,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 1},
}


def _text(content: Any) -> str:
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _message(body: dict[str, Any]) -> dict[str, Any]:
    last = body["messages"][-1]
    offered = {one["function"]["name"] for one in body.get("tools") or []}
    words = _text(last.get("content")).split()  # some put the state before the text
    name, arguments = TOOLS.get(words[-1] if words else "", ("", {}))
    if last["role"] == "user" and name in offered:
        call = {"id": f"call_{name}_{len(body['messages']):04}_0123", "type": "function"}
        return {"tool_calls": [call | {"function": {"name": name, "arguments": json.dumps(arguments)}}]}
    return {"content": "Hello there friend." if last["role"] == "user" else "It snows."}


async def _stream(body: dict[str, Any], message: dict[str, Any]) -> AsyncIterator[str]:
    def chunk(delta: dict[str, Any], finish: str | None = None, **more: Any) -> str:
        choices = [{"index": 0, "delta": delta, "finish_reason": finish}]
        data = {
            "id": "c",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "scripted",
            "choices": choices,
        }
        return f"data: {json.dumps(data | more)}\n\n"

    yield chunk({"role": "assistant", "content": "" if "content" in message else None})
    for word in (message.get("content") or "").split(" "):
        if word:
            yield chunk({"content": f"{word} "})
    for index, call in enumerate(message.get("tool_calls") or []):
        yield chunk({"tool_calls": [{**call, "index": index}]})
    yield chunk({}, "tool_calls" if message.get("tool_calls") else "stop")
    if (body.get("stream_options") or {}).get("include_usage"):
        yield chunk({}, choices=[], usage=USAGE)
    yield "data: [DONE]\n\n"


async def _complete(request: Request) -> Response:
    body = await request.json()
    message = _message(body)
    if body.get("stream"):
        return StreamingResponse(_stream(body, message), media_type="text/event-stream")
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": None} | message,
        "finish_reason": "stop",
    }
    answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "scripted", "usage": USAGE}
    return JSONResponse(answer | {"choices": [choice]})


def model() -> Starlette:
    """The application; its base URL is `…/v1`."""
    return Starlette(routes=[Route("/v1/chat/completions", _complete, methods=["POST"])])
