"""`GET /agui/{agent}/threads/{id}`: which run made which message, and which run goes on from which."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from narthex.ports.agents import Agent, RunInput
from narthex.testing import Running, gateway
from tests.timing import within

CONFIRMED = {"type": "object", "properties": {"ok": {"type": "boolean"}}, "required": ["ok"]}


async def careful(run: RunInput) -> AsyncIterator[Any]:
    """Asks before it acts; fails, or calls a tool of the client, when told so."""
    said = run.messages[-1].content
    if said == "fail":
        yield "I begin. "
        raise RuntimeError("not today")
    if said == "tool":
        yield {"type": "TOOL_CALL_START", "toolCallId": "call-1", "toolCallName": "colour"}
        yield {"type": "TOOL_CALL_ARGS", "toolCallId": "call-1", "delta": "{}"}
        yield {"type": "TOOL_CALL_END", "toolCallId": "call-1"}
        return
    if said == "act":
        answer = await run.ask(CONFIRMED, "Really?")
        yield f"ok={answer['ok']}"
        return
    yield f"heard {said}"


@pytest.fixture
async def running(tmp_path: Path) -> AsyncIterator[Running]:
    async with gateway(tmp_path, agents=[Agent(name="careful", function=careful)]) as found:
        yield found


async def test_a_page_can_put_each_message_to_its_question(running: Running) -> None:
    """Answers to a message, runs that go on after a question or a client's tool, and a run that failed."""
    headers = {"Authorization": f"Bearer {running.token('ada')}"}
    async with httpx2.AsyncClient(
        base_url=running.http, trust_env=False, timeout=within(20), headers=headers
    ) as http:

        async def ask(**more: Any) -> str:
            body = {"threadId": "t", "runId": str(uuid.uuid4()), "messages": [], **more}
            answer = await http.post("/agui/careful", json=body)
            assert answer.status_code == 200, answer.text
            return str(answer.headers["narthex-run"])

        def user(name: str, text: str) -> list[dict[str, str]]:
            return [{"id": name, "role": "user", "content": text}]

        async def thread() -> dict[str, Any]:
            found: dict[str, Any] = (await http.get("/agui/careful/threads/t")).json()
            return found

        asked = await ask(messages=user("m-1", "act"))
        [question] = (await thread())["endedRuns"][0]["interrupts"]
        assert (question["message"], question["answeredBy"]) == ("Really?", "")
        answer = {"interruptId": question["id"], "status": "resolved", "payload": {"ok": True}}
        resumed = await ask(resume=[answer])
        called = await ask(messages=user("m-2", "tool"))
        [call] = (await thread())["messages"][-1]["toolCalls"]
        result = {"id": "r-1", "role": "tool", "toolCallId": call["id"], "content": "red"}
        told = await ask(messages=[result])
        failed = await ask(messages=user("m-3", "fail"))
        found = await thread()

    ended = {one["runId"]: one for one in found["endedRuns"]}
    assert [(one["runId"], one["messageId"], one["parentRunId"], one["state"]) for one in ended.values()] == [
        (asked, "m-1", "", "interrupted"),
        (resumed, "m-1", asked, "finished"),
        (called, "m-2", "", "finished"),
        (told, ended[told]["messageId"], "", "finished"),
        (failed, "m-3", "", "failed"),
    ]
    assert ended[asked]["interrupts"] == [question | {"answeredBy": "ada"}]
    assert ended[told]["messageId"] not in {"m-1", "m-2", "m-3"}
    assert ended[failed]["error"]
    texts = {message["id"]: message.get("content") for message in found["messages"]}
    made_by = {texts[name]: run for name, run in found["messageRuns"].items()}
    assert made_by == {"ok=True": resumed, None: called, "heard red": told, "I begin. ": failed}
    assert found["runs"] == []
