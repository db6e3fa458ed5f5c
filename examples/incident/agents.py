"""The chat's own wire and its one agent, a calculator. Neither `before.py` nor `after.py` changes a line of it.

A client sends `{"type": "chat", "id": …, "text": "6 * 7"}` and gets the events of one run, each with its `id`;
`{"type": "runs"}` lists the connection's runs. Anything else is answered by an event `error`, and the connection stays.
"""

import json
import operator
from collections.abc import AsyncIterator
from typing import Any

from fastapi import WebSocket

OPERATORS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}


async def converse(socket: WebSocket, user: str) -> None:
    """Serve an accepted connection until its client leaves."""
    runs: dict[str, str] = {}
    await socket.send_json({"type": "connection_ready", "user": user})
    async for text in socket.iter_text():
        try:
            message = json.loads(text)
            kind = message["type"]
            run, question = (str(message["id"]), str(message["text"])) if kind == "chat" else ("", "")
        except (ValueError, KeyError, TypeError):
            await socket.send_json({"type": "error", "detail": "Send a JSON object with type, id and text."})
            continue
        if kind == "runs":
            await socket.send_json({"type": "runs", "runs": runs})
        elif kind == "chat":
            runs[run] = "running"
            async for event in calculator(question):
                await socket.send_json({**event, "id": run})
                runs[run] = {"agent_completed": "completed", "agent_failed": "failed"}.get(
                    event["type"], "running"
                )
        else:
            await socket.send_json({"type": "error", "detail": f"There is no type {kind!r}."})


async def calculator(question: str) -> AsyncIterator[dict[str, Any]]:
    """The events of one run of the agent."""
    yield {"type": "agent_started"}
    yield {"type": "agent_thinking", "text": f"This is about {question!r}."}
    yield {"type": "tool_executing", "tool": "calculate"}
    try:
        left, sign, right = question.split()
        answer = OPERATORS[sign](float(left), float(right))
    except (ValueError, KeyError, ZeroDivisionError) as fault:
        yield {"type": "agent_failed", "reason": type(fault).__name__}
        return
    yield {"type": "tool_completed", "tool": "calculate"}
    yield {"type": "agent_completed", "text": f"{answer:g}"}
