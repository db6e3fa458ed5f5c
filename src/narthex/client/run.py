"""A run for a program: an async iterator of its events, its text, and the proof that it is complete.

Not here: how events arrive (`feed`). Rules: every iteration begins at the run's first event, however late it starts;
there may be any number; an iteration ends with the run, or raises the reason why it cannot continue.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, Protocol

from narthex.client.assembler import Proof, Pushed, RunAssembler
from narthex.client.events import AguiEvent, Interrupt, RunError, RunFinished
from narthex.errors import ClientError


class Caller(Protocol):
    """The methods of its connection that a run uses; `gateway.Gateway` has them."""

    async def rpc(self, method: str, params: Mapping[str, Any] | None = None, *, repeat: bool = False) -> Any:
        """Call a method of the gateway."""

    async def follow_run(self, run_id: str) -> Run:
        """Follow a run from its first event."""


class RunIncomplete(ClientError):
    """Events of the run are lost: the channel's history no longer reaches back to them."""

    def __init__(self, run_id: str, missing: int) -> None:
        super().__init__(
            "run_incomplete",
            f"Event {missing} of run {run_id} is no longer in the channel's history.",
            "Read the thread with `thread.get`; it contains the messages that the run produced.",
            number=410,
        )


class Run:
    """One run. `async for event in run: …`, then `run.proof`.

    Attributes:
        run_id: its id.
        thread_id: the thread that it belongs to.
        message_id: of the message that started it; empty for a resumed or followed run.
        queued: whether the thread was busy at the request.
    """

    def __init__(
        self, gateway: Caller, run_id: str, thread_id: str, message_id: str = "", *, queued: bool = False
    ) -> None:
        self.run_id = run_id
        self.thread_id = thread_id
        self.message_id = message_id
        self.queued = queued
        self._gateway = gateway
        self._assembler = RunAssembler(run_id)
        # The gateway bounds it: it ends a run at its own limit of events. The digest needs all of them.
        self._seen: list[AguiEvent] = []
        self._failure: Exception | None = None
        self._changed = asyncio.Event()

    @property
    def events(self) -> list[AguiEvent]:
        """The gapless beginning of the run so far, merged deltas as they came."""
        return self._assembler.events

    @property
    def text(self) -> str:
        """The assistant's text so far; after a restart only the new attempt's."""
        return self._assembler.text()

    @property
    def terminal(self) -> RunFinished | RunError | None:
        """The event that ended it; None while it goes on."""
        return self._assembler.terminal

    @property
    def proof(self) -> Proof:
        """Whether all events have arrived: count and digest against the terminal event's."""
        return self._assembler.verify()

    @property
    def outcome(self) -> str:
        """`running`, `success`, `cancelled`, `interrupt` or `error`."""
        end = self.terminal
        if end is None:
            return "running"
        if end["type"] == "RUN_ERROR":
            return "error"
        outcome = end.get("outcome", "success")
        return outcome if isinstance(outcome, str) else outcome["type"]

    @property
    def interrupts(self) -> list[Interrupt]:
        """The questions that the run ended with; answer one with `resume`."""
        end = self.terminal
        if end is None or end["type"] != "RUN_FINISHED":
            return []
        outcome = end.get("outcome")
        return [] if outcome is None or isinstance(outcome, str) else outcome.get("interrupts", [])

    @property
    def ended(self) -> bool:
        """Whether no event will come any more."""
        return self._failure is not None or self.terminal is not None

    def __aiter__(self) -> AsyncIterator[AguiEvent]:
        return self._iterate()

    async def _iterate(self) -> AsyncIterator[AguiEvent]:
        at = 0
        while True:
            while at < len(self._seen):
                at += 1
                yield self._seen[at - 1]
            if self.terminal is not None:
                return
            if self._failure is not None:
                raise self._failure
            self._changed.clear()
            await self._changed.wait()

    async def wait(self, timeout_s: float | None = None) -> Proof:
        """Wait for the end and verify the run. Raises TimeoutError, and every error that iterating raises."""
        async with asyncio.timeout(timeout_s):
            async for _ in self:
                pass
        return self.proof

    async def cancel(self) -> Mapping[str, Any]:
        """Request cancellation; the run then finishes with outcome `cancelled`."""
        answer: Mapping[str, Any] = await self._gateway.rpc(
            "run.cancel", {"run_id": self.run_id}, repeat=True
        )
        return answer

    async def steer(self, text: str) -> None:
        """Send the agent a text while it works."""
        await self._gateway.rpc("run.steer", {"run_id": self.run_id, "text": text})

    async def resume(self, interrupt_id: str, payload: Any) -> Run:
        """Answer one of `interrupts`; the same answer again gives the same run."""
        params = {"run_id": self.run_id, "interrupt_id": interrupt_id, "payload": payload}
        answer = await self._gateway.rpc("run.resume", params, repeat=True)
        return await self._gateway.follow_run(answer["run_id"])

    # -- for the feed ---------------------------------------------------------------------------------------

    @property
    def has_gap(self) -> bool:
        """Whether later events wait for a missing one."""
        return self._assembler.has_gap

    @property
    def last(self) -> int:
        """The last `seq` that has arrived without a gap."""
        return self._assembler.last

    def take(self, event: Mapping[str, Any]) -> Pushed:
        """Add an event of this run from the channel."""
        pushed = self._assembler.push(event)
        if pushed.events:
            self._seen.extend(pushed.events)
            self._changed.set()
        return pushed

    def fail(self, error: Exception) -> None:
        """End every iteration with `error`, unless the run has ended by itself."""
        if not self.ended:
            self._failure = error
            self._changed.set()
