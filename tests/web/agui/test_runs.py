"""Runs over AG-UI: streamed whole, found again, continued after a cut, cancelled, and whose they are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from narthex.errors import DependencyError
from narthex.ports.agents import Agent
from narthex.testing import Running, gateway
from tests.app.test_connection import bugs
from tests.timing import within
from tests.web.agui.agents import gates, patient
from tests.web.agui.client import Told, ask, bearer, connecting, real, said, stream, until


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


@pytest.mark.parametrize("way", ["run", "connect", "watch"])
async def test_a_stream_outlives_a_store_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    """At a ping, or at the end of a run, a stream asks whether more is to come; without an answer it asks again, and
    nothing is a bug.
    """
    gates.clear()
    async with (
        gateway(
            tmp_path, agents=[Agent(name="patient", function=patient)], ping_interval_s=1.5, pong_timeout_s=1
        ) as running,
        httpx2.AsyncClient(base_url=running.http, trust_env=False, timeout=within(20)) as http,
    ):
        mine, told = bearer(running), Told()
        assert running.gateway.parts is not None
        parts = running.gateway.parts
        asked: list[str] = []

        async def away(*_: Any) -> Any:
            asked.append(way)
            raise DependencyError("store", "It is away.", "Wait.")

        if way == "run":
            path, body = "/agui/patient", said("gate-1")
        else:
            path = "/agui/patient/connect"
            body = connecting(follow=True) if way == "watch" else connecting()
        if way == "connect":
            first = http.stream("POST", "/agui/patient", json=said("gate-1"), headers=mine)
            async with first as response:
                await stream(response, Told(), until=3)
        async with http.stream("POST", path, json=body, headers=mine) as response:
            reading = asyncio.create_task(stream(response, told))
            await until(lambda: len(told.events) >= 3)
            with monkeypatch.context() as patched:
                for name in ("get", "active_in_thread"):
                    patched.setattr(parts.store.runs, name, away)
                patched.setattr(parts.store.threads, "get", away)
                if way == "connect":
                    gates.setdefault("gate-1", asyncio.Event()).set()
                await until(lambda: bool(asked), 10)
            gates.setdefault("gate-1", asyncio.Event()).set()
            if way == "watch":
                await ask(http, "/agui/patient", said("gate-1"), mine)
                await until(lambda: told.kinds.count("RUN_FINISHED") == 2)
                reading.cancel()
            await asyncio.wait([reading])
        assert told.kinds[-1] == "RUN_FINISHED"
        assert told.text.endswith("begun ended")
        assert bugs(running) == []
