"""Message rows → an agent's input: the conversation as it was when the run's message was sent.

Not here: making the rows (`compaction`).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from narthex.app.runs.services import RunServices, identity_of
from narthex.domain.agent_ids import as_made
from narthex.domain.agent_input import AgentInput, decoded
from narthex.ports.agents import AgentUser, ChatMessage, ToolCall
from narthex.ports.runs import Run
from narthex.ports.threads import Message

MESSAGES: Final = 200  # the newest ones; the port's bound
_SHOWN: Final = frozenset({"user", "assistant", "system", "tool"})


def conversation(rows: list[Message], message_id: str) -> list[ChatMessage]:
    """The messages for a run, oldest first, ending with the one that began it.

    Users' later messages are left out (they begin runs of their own, which are queued); agents' answers
    that came after it was *sent*, while it waited in the queue, belong to the conversation. The rows come in the
    order of the log.
    """
    place = next(
        (n for n, row in enumerate(rows) if row.message_id == message_id and row.role == "user"), None
    )
    said = [
        row
        for n, row in enumerate(rows)
        if row.role in _SHOWN and not (place is not None and row.role == "user" and n >= place)
    ]
    return _renamed(
        _messages([*said, *([rows[place]] if place is not None else [])]), {row.run_id for row in rows}
    )


def _messages(rows: list[Message]) -> list[ChatMessage]:
    """The rows in the form that models take: a call stands in an assistant's message before its result. A call without
    a result is left out, because no model's API takes one.
    """
    messages: list[ChatMessage] = []
    for row in rows:
        if row.role != "tool":
            messages.append(
                ChatMessage(role=row.role, content=row.content, message_id=row.message_id, name=row.author)
            )
            continue
        detail: dict[str, Any] = msgspec.json.decode(row.detail)
        if not detail.get("answered", True):
            continue
        name = str(detail.get("toolCallName", ""))
        call = ToolCall(call_id=row.message_id, name=name, arguments=str(detail.get("args", "")))
        _call(messages, call, str(detail.get("parentMessageId", "")))
        result_id = str(detail.get("resultId") or f"{row.message_id}-result")
        messages.append(
            ChatMessage(
                role="tool",
                content=row.content,
                message_id=result_id,
                name=name,
                tool_call_id=row.message_id,
                error=str(detail.get("error") or ""),
            )
        )
    return messages


def _call(messages: list[ChatMessage], call: ToolCall, parent_id: str) -> None:
    """Put a call into its assistant's message: the named one, else the one that the last results answer."""
    answered: int | None = None
    for at in range(len(messages) - 1, -1, -1):
        message = messages[at]
        if message.role == "assistant":
            if message.message_id == parent_id or (
                not parent_id and message.tool_calls and answered == at + 1
            ):
                messages[at] = msgspec.structs.replace(message, tool_calls=(*message.tool_calls, call))
                return
            if not parent_id:
                break
        elif message.role == "tool":
            answered = at
        else:
            break
    messages.append(
        ChatMessage(
            role="assistant",
            content="",
            message_id=parent_id or call.call_id,
            tool_calls=(call,),
        )
    )


def _renamed(messages: list[ChatMessage], run_ids: set[str]) -> list[ChatMessage]:
    """The messages with the ids that their agents gave (`domain/agent_ids.py`): an agent that keeps the conversation
    too knows them by these.
    """
    names = as_made({message.message_id for message in messages}, run_ids)
    calls = as_made({call.call_id for message in messages for call in message.tool_calls}, run_ids)
    if not names and not calls:
        return messages
    return [
        msgspec.structs.replace(
            message,
            message_id=names.get(message.message_id, message.message_id),
            tool_call_id=calls.get(message.tool_call_id, message.tool_call_id),
            tool_calls=tuple(
                msgspec.structs.replace(call, call_id=calls.get(call.call_id, call.call_id))
                for call in message.tool_calls
            ),
        )
        for message in messages
    ]


async def load(services: RunServices, run: Run) -> tuple[list[ChatMessage], AgentUser]:
    """The input of the run's agent. Raises DependencyError."""
    rows = await services.threads.messages(run.tenant, run.thread_id, before=None, limit=MESSAGES)
    identity = identity_of(run)
    user = AgentUser(
        subject=identity.subject,
        tenant=identity.tenant,
        plan=identity.plan,
        name=identity.name,
        permissions=identity.permissions,
        e2e=identity.e2e,
        test_run=identity.test_run,
    )
    return conversation(rows, run.message_id), user


async def given_to(services: RunServices, run: Run) -> AgentInput:
    """What the client sent beside the message; where it sent no state, with the one that the agent's last run left.
    Raises DependencyError.
    """
    text, state = await services.runs.given(run)
    given = decoded(text)
    if given.state is None and state:
        given = msgspec.structs.replace(given, state=msgspec.json.decode(state))
    return given
