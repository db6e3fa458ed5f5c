"""Questions of one process to the others: each answers from its own memory, the asker waits a bounded time.

Not here: the questions themselves (`connection_list`). Rules: a process that does not answer in time is named, and the
others' answers are returned all the same; an answer that comes later is dropped.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Collection
from typing import Final, NamedTuple

from narthex.ports.broker import Control, ControlBus

PATIENCE_S: Final = 2.0
MAX_OPEN: Final = 100  # questions of operators at once; more wait for none

Data = dict[str, object]


class Answers(NamedTuple):
    """What the processes answered, by node, and the nodes that did not."""

    by_node: dict[str, Data]
    missing: list[str]


class _Open(NamedTuple):
    answers: dict[str, Data]
    waiting: set[str]
    done: asyncio.Event


class FleetQuestions:
    """See the module.

    Args:
        node: this node's id.
        broker: reaches the others.
        patience_s: how long an asker waits.
    """

    def __init__(self, node: str, broker: ControlBus, patience_s: float = PATIENCE_S) -> None:
        self._node = node
        self._broker = broker
        self._patience_s = patience_s
        self._handlers: dict[str, Callable[[Data], Data]] = {}
        self._open: dict[str, _Open] = {}
        self._replies: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """Questions that wait for answers."""
        return len(self._open)

    def on(self, subject: str, handler: Callable[[Data], Data]) -> None:
        """Register what answers questions about a subject; it must not block."""
        self._handlers[subject] = handler

    async def ask(self, subject: str, data: Data, nodes: Collection[str]) -> Answers:
        """Ask `nodes`, this one among them or not. Raises DependencyError when the broker takes no question."""
        found: dict[str, Data] = {}
        if self._node in nodes:
            found[self._node] = self._handlers[subject](data)
        others = set(nodes) - {self._node}
        if not others or len(self._open) >= MAX_OPEN:
            return Answers(found, sorted(others))
        number = secrets.token_hex(8)
        waiting = self._open[number] = _Open(found, others, asyncio.Event())
        try:
            question: Data = {"id": number, "from": self._node, "subject": subject, "data": data}
            await self._broker.control(Control("fleet_ask", question))
            async with asyncio.timeout(self._patience_s):
                await waiting.done.wait()
        except TimeoutError:
            pass
        finally:
            del self._open[number]
        return Answers(waiting.answers, sorted(waiting.waiting))

    def control(self, message: Control) -> None:
        """Handle the control messages `fleet_ask` and `fleet_answer`."""
        data = message.data
        if message.kind == "fleet_answer":
            self._answered(data)
        elif data.get("from") != self._node:
            handler, asked = self._handlers.get(str(data.get("subject"))), data.get("data")
            if handler is not None and isinstance(asked, dict):
                answer: Data = {"id": data.get("id"), "node": self._node, "data": handler(asked)}
                task = asyncio.get_running_loop().create_task(self._reply(answer, str(data.get("from"))))
                self._replies.add(task)
                task.add_done_callback(self._replies.discard)

    async def _reply(self, answer: Data, node: str) -> None:
        await self._broker.control(Control("fleet_answer", answer, node))

    def _answered(self, data: Data) -> None:
        waiting = self._open.get(str(data.get("id")))
        node, answer = str(data.get("node")), data.get("data")
        if waiting is None or not isinstance(answer, dict):
            return
        waiting.answers[node] = answer
        waiting.waiting.discard(node)
        if not waiting.waiting:
            waiting.done.set()
