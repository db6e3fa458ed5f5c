"""A client that connects gets the thread and follows its runs; CopilotKit's names for the same."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx2
import pytest

from narthex.testing import Running
from tests.timing import within
from tests.web.agui.agents import SEEN, gates
from tests.web.agui.client import Told, ask, bearer, connecting, proven, real, said, stream, until


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


async def test_a_connection_that_follows_waits_for_a_thread_that_is_not_there(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """A page that opened a new thread sees the first message that another device sends in it, after a cut too."""
    mine = bearer(running)
    empty = (await http.get("/agui/words/threads/t-1", headers=mine)).json()
    assert (empty["threadId"], empty["messages"], empty["runs"]) == ("t-1", [], [])
    told = Told()
    body = connecting(follow=True)
    async with http.stream("POST", "/agui/words/connect", json=body, headers=mine) as response:
        reading = asyncio.ensure_future(stream(response, told))
        await until(lambda: len(told.events) >= 3)
        assert told.kinds == ["RUN_STARTED", "MESSAGES_SNAPSHOT", "RUN_FINISHED"]
        await ask(http, "/agui/words", said("hello", message="m-1"), mine)
        await until(lambda: told.kinds.count("RUN_FINISHED") == 2)
        reading.cancel()
    assert told.text == "hellohello "
    assert proven([event for event in told.events[3:] if "between" not in str(event.get("metadata"))])
    assert told.ids[0] == empty["lastEventId"]
    again = await ask(http, "/agui/words/connect", connecting(), mine | {"Last-Event-ID": told.ids[0]})
    assert again.events == told.events[3:]


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


async def test_activities_are_replayed_as_they_are_now(running: Running, http: httpx2.AsyncClient) -> None:
    """Snapshots and patches are folded as AG-UI's client does; no agent gets them as messages."""
    mine = bearer(running)
    live = await ask(http, "/agui/active", said("go"), mine)
    assert live.kinds.count("ACTIVITY_SNAPSHOT") == 4
    assert live.is_whole()
    reload = await ask(http, "/agui/active/connect", connecting(), mine)
    messages = reload.events[1]["messages"]
    assert [one["role"] for one in messages] == ["user", "activity", "assistant", "activity"]
    assert [one for one in messages if one["role"] == "activity"] == [
        {
            "id": "activity-of-the-plan",
            "role": "activity",
            "activityType": "PLAN",
            "content": {"steps": ["pack", "go"]},
        },
        {
            "id": "activity-of-the-search",
            "role": "activity",
            "activityType": "SEARCH",
            "content": {"found": 2},
        },
    ]
    await ask(http, "/agui/curious", said("and now"), mine)
    assert [one["role"] for one in SEEN[-1]["messages"]] == ["user", "assistant", "user"]
    export = f"/api/v1/threads/{real(live, 'threadId')}/export?format=md"
    assert '{"steps":["pack","go"]}' in (await http.get(export, headers=mine)).text


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


async def test_copilotkit_s_stop_ends_the_run_that_it_names(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """A queued run goes, and the one that another tab began stays; a stop without a known run ends all."""
    mine = bearer(running)
    path = "/agui/agent/patient/stop/t-stop"
    first, second = said("gate-first", "t-stop"), said("gate-second", "t-stop")

    async def states() -> list[str]:
        view = (await http.get("/agui/patient/threads/t-stop", headers=mine)).json()
        return [run["state"] for run in view["runs"]]

    async with http.stream("POST", "/agui/patient", json=first, headers=mine) as response:
        await stream(response, Told(), until=3)
        async with http.stream("POST", "/agui/patient", json=second, headers=mine):
            assert await states() == ["running", "queued"]
            stopped = await http.post(path, json={"runId": second["runId"]}, headers=mine)
            assert stopped.json() == {"stopped": True}
            assert await states() == ["running"]
            await http.post(
                path, json={"runId": second["runId"]}, headers=mine
            )  # over: nothing else is stopped
            assert await states() == ["running"]
        assert (await http.post(path, json={"runId": "unknown"}, headers=mine)).status_code == 200
    ended = await http.get(f"/agui/patient/runs/{first['runId']}", headers=mine)
    assert '"cancelled"' in ended.text


async def test_a_stop_that_is_faster_than_its_run_ends_it(
    running: Running, http: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user presses Stop while the request for the run is on its way, also of a new thread; another user's run of the
    same name goes on, and so does a later run.
    """
    mine = bearer(running)
    monkeypatch.setattr("narthex.app.agui.early_stops.KEPT_S", within(10))
    for thread, status in (("new", 404), ("new", 200)):
        body = said("gate-1", thread)
        stopped = await http.post(
            f"/agui/agent/patient/stop/{thread}", json={"runId": body["runId"]}, headers=mine
        )
        assert stopped.status_code == status
        eves = await ask(http, "/agui/words", said("hello", run=body["runId"]), bearer(running, "eve"))
        assert eves.events[-1]["outcome"] == {"type": "success"}
        told = await ask(http, "/agui/patient", body, mine)
        assert told.events[-1]["outcome"] == {"type": "cancelled"}
    monkeypatch.setattr("narthex.app.agui.early_stops.KEPT_S", 0.0)
    body = said("on time", "new")
    await http.post("/agui/agent/words/stop/new", json={"runId": body["runId"]}, headers=mine)
    assert (await ask(http, "/agui/words", body, mine)).text == "on time "


async def test_copilotkit_gets_the_reason_of_a_refusal(running: Running, http: httpx2.AsyncClient) -> None:
    """It shows the member `message` of the answer to `info`, and no other."""
    for answer in (
        await http.get("/agui/info", headers={"Authorization": "Bearer no-token"}),
        await http.post("/agui", json={"method": "info"}, headers={"Authorization": "Bearer no-token"}),
    ):
        told = answer.json()
        assert (answer.status_code, told["code"]) == (401, "token_malformed")
        assert told["message"] == f"{told['detail']} {told['remedy']}"
