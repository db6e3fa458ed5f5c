"""Message rows → an agent's input: the conversation as it was when the run's message was sent.

Not here: making the rows (`compaction`).
"""

from __future__ import annotations

from typing import Final

import msgspec

from narthex.app.runs.services import RunServices, identity_of
from narthex.ports.agents import AgentUser, ChatMessage
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
    return [_message(row) for row in (*said, *([rows[place]] if place is not None else []))]


def _message(row: Message) -> ChatMessage:
    name = row.author
    if row.role == "tool":
        name = msgspec.json.decode(row.detail, type=dict[str, object]).get("toolCallName", "")  # type: ignore[assignment]  # ours: compaction writes a str
    return ChatMessage(role=row.role, content=row.content, message_id=row.message_id, name=name)


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
