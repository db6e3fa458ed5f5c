"""`GET /agui/{agent}/threads/{id}`: which run made which message, and which run goes on from which."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from narthex.app.runs.compaction import compact
from narthex.ports.agents import Agent, Question, RunInput
from narthex.testing import gateway
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
    if said == "delete":
        call = uuid.uuid4().hex
        yield {"type": "TOOL_CALL_START", "toolCallId": call, "toolCallName": "delete"}
        yield {"type": "TOOL_CALL_END", "toolCallId": call}
        [allowed] = await run.ask_all([Question(schema=CONFIRMED, text="Really?", tool_call_id=call)])
        yield {
            "type": "TOOL_CALL_RESULT",
            "messageId": "result-of-delete",
            "toolCallId": call,
            "content": f"ok={allowed.payload['ok']}",
        }
        return
    if said == "again":
        yield ", ".join(f"{one.role} {one.content}" for one in run.messages)
        return
    if said == "act":
        answer = await run.ask(CONFIRMED, "Really?")
        yield f"ok={answer['ok']}"
        return
    if said in ("count", "count much"):
        run.report(
            usage=[{"model": "m", "inputTokens": 7, "outputTokens": 3}] * (1 if said == "count" else 200)
        )
    if said in ("sum", "sum much"):
        run.report(result={"sum": 8} if said == "sum" else "x" * 10_000)
    yield f"heard {said}"


class Client:
    """A user's requests in one thread."""

    def __init__(self, http: httpx2.AsyncClient) -> None:
        self._http = http

    async def ask(self, text: str = "", name: str = "", **more: Any) -> str:
        """Begin a run and wait for its end; its id."""
        messages = [{"id": name or str(uuid.uuid4()), "role": "user", "content": text}] if text else []
        body = {"threadId": "t", "runId": str(uuid.uuid4()), "messages": messages, **more}
        answer = await self._http.post("/agui/careful", json=body)
        assert answer.status_code == 200, answer.text
        return str(answer.headers["narthex-run"])

    async def answer(self, interrupt: dict[str, Any], payload: Any) -> str:
        """Answer a question; the id of the run that goes on."""
        entry = {"interruptId": interrupt["id"], "status": "resolved", "payload": payload}
        return await self.ask(resume=[entry])

    async def run(self, run_id: str) -> dict[str, Any]:
        """A run's record."""
        found: dict[str, Any] = (await self._http.get(f"/api/v1/runs/{run_id}")).json()
        return found

    async def connected(self) -> dict[str, Any]:
        """The last event of the replay of the thread."""
        body = {"threadId": "t", "runId": str(uuid.uuid4()), "messages": []}
        answer = await self._http.post("/agui/careful/connect", json=body)
        last: dict[str, Any] = json.loads(answer.text.strip().rpartition("data: ")[2])
        assert last["type"] == "RUN_FINISHED"
        return last

    async def thread(self) -> dict[str, Any]:
        """As it is stored."""
        found: dict[str, Any] = (await self._http.get("/agui/careful/threads/t")).json()
        return found


@pytest.fixture
async def ada(tmp_path: Path) -> AsyncIterator[Client]:
    async with gateway(tmp_path, agents=[Agent(name="careful", function=careful)]) as running:
        headers = {"Authorization": f"Bearer {running.token('ada')}"}
        async with httpx2.AsyncClient(
            base_url=running.http, trust_env=False, timeout=within(20), headers=headers
        ) as http:
            yield Client(http)


async def test_a_page_can_put_each_message_to_its_question(ada: Client) -> None:
    """Answers to a message, runs that go on after a question or a client's tool, and a run that failed."""
    asked = await ada.ask("act", "m-1")
    [question] = (await ada.thread())["endedRuns"][0]["interrupts"]
    assert (question["message"], question["answeredBy"]) == ("Really?", "")
    resumed = await ada.answer(question, {"ok": True})
    called = await ada.ask("tool", "m-2")
    [call] = (await ada.thread())["messages"][-1]["toolCalls"]
    result = {"id": "r-1", "role": "tool", "toolCallId": call["id"], "content": "red"}
    told = await ada.ask(messages=[result])
    failed = await ada.ask("fail", "m-3")
    found = await ada.thread()

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


async def test_the_result_of_a_call_that_waited_for_an_approval_is_stored(ada: Client) -> None:
    """The run after the answer returns what the call of the run before it asked for: thread and agent have both."""
    await ada.ask("delete")
    [question] = (await ada.thread())["interrupts"]
    await ada.answer(question, {"ok": True})
    asked, called, result = (await ada.thread())["messages"]
    assert (asked["role"], called["toolCalls"][0]["function"]["name"]) == ("user", "delete")
    assert (result["role"], result["content"]) == ("tool", "ok=True")
    assert result["toolCallId"] == called["toolCalls"][0]["id"]
    await ada.ask("again")
    assert (await ada.thread())["messages"][-1]["content"] == (
        "user delete, assistant , tool ok=True, user again"
    )


async def test_a_thread_shows_a_run_until_its_messages_are_stored(
    ada: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page that reads it between a run's last event and the storing of its answer follows the run: else it would
    show neither.
    """
    stored = asyncio.Event()

    async def late(*arguments: Any) -> None:
        await stored.wait()
        await compact(*arguments)

    monkeypatch.setattr("narthex.app.runs.execution.compact", late)
    run = await ada.ask("hello")
    found = await ada.thread()
    assert [one["runId"] for one in found["runs"]] == [run]
    assert [one["role"] for one in found["messages"]] == ["user"]
    stored.set()
    async with asyncio.timeout(within(20)):
        while (found := await ada.thread())["runs"]:  # noqa: ASYNC110 - the store has no event for it
            await asyncio.sleep(0.02)
    assert [one["content"] for one in found["messages"]] == ["hello", "heard hello"]
    assert [one["state"] for one in found["endedRuns"]] == ["finished"]


async def test_a_reload_has_the_tokens_of_ended_runs(ada: Client) -> None:
    """As the run's end had them; none of a run without a report, nor of one whose report would fill the page."""
    for text in ("count", "x", "count much"):
        await ada.ask(text)
    found = await ada.thread()
    assert [one.get("usage") for one in found["endedRuns"]] == [
        [{"model": "m", "inputTokens": 7, "outputTokens": 3}],
        None,
        None,
    ]


async def test_a_reload_has_what_ended_runs_returned(ada: Client) -> None:
    """A short result stands in the thread, a large one in the run; and a client that connects gets the last run's."""
    runs = [await ada.ask(text) for text in ("sum", "x", "sum much")]
    found = await ada.thread()
    assert [one.get("result") for one in found["endedRuns"]] == [{"sum": 8}, None, None]
    assert [(await ada.run(run))["result"] for run in runs] == [{"sum": 8}, None, "x" * 10_000]
    assert (await ada.connected())["result"] == "x" * 10_000
    await ada.ask("sum")
    assert (await ada.connected())["result"] == {"sum": 8}
    for text in ("x", "fail", "act"):
        await ada.ask(text)
        assert "result" not in await ada.connected(), text
