"""Runs an agent without an engine and collects its output, as the engine's intake would."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from narthex.domain import events as ev
from narthex.domain.agent_input import AgentInput
from narthex.domain.event_order import EventOrder
from narthex.ports.agents import Agent, AgentUser, Answer, ChatMessage, Event, Question

USER = AgentUser(subject="alice", tenant="acme", plan="mid", name="Alice", permissions=("admin",))


class Input:
    """A `RunInput`: `answers` are given to `ask` one after the other, `steering` is a queue."""

    def __init__(
        self, *messages: str | ChatMessage, answers: tuple[Any, ...] = (), given: AgentInput | None = None
    ) -> None:
        given = given or AgentInput()
        self.state, self.tools, self.context = given.state, given.tools, given.context
        self.forwarded, self.parent_run_id = given.forwarded, given.parent_run_id
        self.protocol_version = given.protocol_version
        self.resume: list[Answer] = []
        self.usage: list[Mapping[str, Any]] = []
        self.result: Any = None
        self.questions: list[Question] = []
        self.run_id = "run"
        self.thread_id = "thread"
        self.messages = [
            ChatMessage(role="user", content=one, message_id=f"m{at}") if isinstance(one, str) else one
            for at, one in enumerate(messages)
        ]
        self.user = USER
        self.deadline = time.time() + 60
        self.attempt = 1
        self.steering: asyncio.Queue[str] = asyncio.Queue()
        self.asked: list[tuple[Mapping[str, Any], str]] = []
        self._answers = list(answers)

    @property
    def steer(self) -> AsyncIterator[str]:
        """Steering messages of users."""
        return self._steer()

    async def _steer(self) -> AsyncIterator[str]:
        while True:
            yield await self.steering.get()

    def report(self, *, usage: Sequence[Mapping[str, Any]] = (), result: Any = None) -> None:
        """Keep it."""
        self.usage += usage
        self.result = result if result is not None else self.result

    async def ask_all(self, questions: Sequence[Question]) -> list[Answer]:
        """As `ask`, each in turn."""
        self.questions += questions
        return [
            Answer(
                question_id=one.question_id,
                status="resolved",
                payload=await self.ask(one.schema, one.text, answerable_by=one.answerable_by),
            )
            for one in questions
        ]

    async def ask(self, schema: Mapping[str, Any], text: str, *, answerable_by: str = "") -> Any:
        """Answer from the list; a TimeoutError when there is none."""
        self.asked.append((schema, text))
        if not self._answers:
            raise TimeoutError
        return self._answers.pop(0)


class Heard:
    """An agent's output."""

    def __init__(self) -> None:
        self.items: list[Event | str] = []

    @property
    def text(self) -> str:
        """Plain text and text deltas, together."""
        return "".join(
            item if isinstance(item, str) else item["delta"]
            for item in self.items
            if isinstance(item, str) or item["type"] == "TEXT_MESSAGE_CONTENT"
        )

    @property
    def events(self) -> list[Event]:
        """The events."""
        return [item for item in self.items if isinstance(item, dict)]

    def of(self, kind: str) -> list[Event]:
        """The events of one type."""
        return [event for event in self.events if event["type"] == kind]


async def talk(agent: Agent, run: Input) -> Heard:
    """Run to the end; every event must be well formed and in legal order."""
    heard, order = Heard(), EventOrder()
    order.check(ev.run_started("thread", "run"))
    async for item in agent.function(run):
        heard.items.append(item)
        if isinstance(item, dict):
            assert ev.shape_fault(item) is None, item
            assert order.check(item, from_agent=True) is None, item
    assert not order.open_entities()
    return heard
