"""Rows that the contract suites of the stores write."""

from __future__ import annotations

from typing import Final

from narthex.ports.runs import Interrupt, Run
from narthex.ports.store import Store
from narthex.ports.threads import Message, Thread

AGENTS: Final = ("concierge",)
"""The agents of the runs below."""


def thread(
    thread_id: str, tenant: str = "a", *, by: str = "ann", at: float = 1.0, title: str = "Title"
) -> Thread:
    """A thread."""
    return Thread(
        thread_id=thread_id, tenant=tenant, title=title, created_by=by, created_at=at, updated_at=at
    )


def message(message_id: str, thread_id: str = "t1", *, at: float = 2.0, content: str = "hello") -> Message:
    """A user's message."""
    return Message(
        message_id=message_id, thread_id=thread_id, role="user", author="ann", content=content, created_at=at
    )


def run(run_id: str, thread_id: str = "t1", *, tenant: str = "a", user: str = "ann", at: float = 1.0) -> Run:
    """A queued run whose client message id equals its run id."""
    return Run(
        run_id=run_id,
        thread_id=thread_id,
        tenant=tenant,
        user_id=user,
        agent="concierge",
        state="queued",
        client_message_id=run_id,
        message_id="m-" + run_id,
        created_at=at,
    )


async def start(store: Store, *runs: Run) -> None:
    """Queue runs in existing threads."""
    for entry in runs:
        await store.threads.create(thread(entry.thread_id, entry.tenant))
        await store.runs.start(entry, queue_limit=100)


def ids(runs: list[Run]) -> list[str]:
    """Their ids, in order."""
    return [entry.run_id for entry in runs]


def interrupt(interrupt_id: str, thread_id: str = "t1") -> Interrupt:
    """An approval that stays open for a minute."""
    return Interrupt(
        interrupt_id=interrupt_id,
        run_id="r1",
        thread_id=thread_id,
        tenant="a",
        text="May I?",
        schema="{}",
        created_at=40.0,
        expires_at=100.0,
        node="n1",
    )


async def finish(store: Store, claimed: Run, state: str = "finished") -> bool:
    """End a run."""
    return await store.runs.finish(
        claimed, state=state, count=3, digest="d", text="answer", error="", now=30.0
    )
