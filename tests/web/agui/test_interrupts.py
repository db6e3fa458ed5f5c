"""Questions of an agent over AG-UI, and their answers."""

from __future__ import annotations

from typing import Any

import httpx2

from narthex.testing import Running
from tests.web.agui.client import ask, bearer, connecting, said


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


def answer(name: str, payload: Any) -> dict[str, Any]:
    """An entry of `resume`."""
    return {"interruptId": name, "status": "resolved", "payload": payload}


async def test_several_interrupts_are_answered_in_one_resume(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """Each with its own members; a reload shows all of them; the agent gets the answers in its own order."""
    mine = bearer(running)
    asked = await ask(http, "/agui/pair", said("do it"), mine)
    really, which = asked.events[-1]["outcome"]["interrupts"]
    assert (really["id"], really["reason"], really["toolCallId"], really["metadata"]) == (
        "really-1",
        "tool_call",
        "call-of-the-tool-1",
        {"danger": 3},
    )
    assert (which["id"], which["message"], which["responseSchema"]) == (
        "which-1",
        "Which?",
        {"type": "string"},
    )
    reload = await ask(http, "/agui/pair/connect", connecting(), mine)
    again = reload.events[-1]["outcome"]["interrupts"]
    assert [one | {"expiresAt": ""} for one in again] == [one | {"expiresAt": ""} for one in (really, which)]
    both = [answer("which-1", "b"), answer("really-1", {"ok": True})]
    done = await ask(http, "/agui/pair", said("", resume=both), mine)
    assert done.text == "{'ok': True} b"
    assert done.is_whole()


async def test_an_answer_to_one_of_several_interrupts_is_kept_until_the_others_come(
    running: Running, http: httpx2.AsyncClient
) -> None:
    """409 names how many are left; a wrong answer takes nothing back; the first answer counts."""
    mine = bearer(running)
    await ask(http, "/agui/pair", said("do it"), mine)
    first = await http.post(
        "/agui/pair", json=said("", resume=[answer("really-1", {"ok": True})]), headers=mine
    )
    assert (first.status_code, first.json()["code"]) == (409, "interrupts_open")
    assert "1 more" in first.json()["detail"]
    reload = await ask(http, "/agui/pair/connect", connecting(), mine)
    assert [one["id"] for one in reload.events[-1]["outcome"]["interrupts"]] == ["which-1"]
    wrong = await http.post("/agui/pair", json=said("", resume=[answer("which-1", 7)]), headers=mine)
    assert (wrong.status_code, wrong.json()["code"]) == (422, "payload_invalid")
    both = [answer("really-1", {"ok": False}), answer("which-1", "b")]
    assert (await ask(http, "/agui/pair", said("", resume=both), mine)).text == "{'ok': True} b"
