"""An agent's results of calls that an earlier run made."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest

from narthex.domain import events as ev
from narthex.ports.agents import Event, RunInput
from narthex.ports.threads import Message
from tests.app.runs.rig import Rig, agent

CALLS = ("call-0123456789-first", "call-0123456789-second")
DETAIL = '{"answered":true,"resultId":"r","by":"alice"}'


async def test_a_call_that_is_answered_meanwhile_does_not_cost_the_others_their_results(
    fake_rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A member answered one of two calls between the read of the rows and the write of the agent's results."""
    threads = fake_rig.fake_store.threads
    said: list[str] = []

    async def answers(run: RunInput) -> AsyncIterator[Event | str]:
        for call in CALLS:
            yield ev.tool_call_result(f"result-of-{call}", call, "by the agent")
            said.append(call)

    engine = await fake_rig.node(agent(answers))
    thread = await fake_rig.thread()
    rows = [
        Message(
            message_id=call,
            thread_id=thread,
            role="tool",
            author="bot",
            content="",
            created_at=1.0,
            run_id="earlier",
            detail='{"answered":false}',
        )
        for call in CALLS
    ]
    await threads.add_messages("acme", rows)
    read = threads.messages

    async def then_a_member_answers(*args: Any, **kwargs: Any) -> list[Message]:
        found = await read(*args, **kwargs)
        if len(said) == len(CALLS):
            by_member = msgspec.structs.replace(rows[0], content="by a member", detail=DETAIL)
            await threads.answer_calls("acme", thread, [by_member])
        return found

    monkeypatch.setattr(threads, "messages", then_a_member_answers)
    await fake_rig.ended(await fake_rig.say(engine, thread))
    kept = {one.message_id: one.content for one in await read("acme", thread, before=None, limit=10)}
    assert [kept[call] for call in CALLS] == ["by a member", "by the agent"]
