"""A user who sends a message every few seconds regardless of faults, and records the answers.

`run.start` needs the store and the broker, so it shows what a user experiences when either is down. Rules: a message
without a success answer is sent again under its `client_message_id`, at any gateway; an answered one must be present
exactly once.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tests.acceptance.sdk import Person
from tests.campaigns.follower import Line
from tests.campaigns.writer import SILENCE_S, SLOW_S
from tests.timing import within

PERIOD_S: Final = 3.0  # 20 a minute: the plan `free` allows 30
CONNECT_S: Final = 5.0
PAGE: Final = 50
ENDED: Final = frozenset({"finished", "failed", "cancelled"})
_decode: Final = msgspec.json.Decoder().decode


class Speaker:
    """See the module.

    Attributes:
        answers: the results of `run.start`, by `client_message_id`.
        errors: error replies and connections that broke meanwhile.
        silences: calls without an answer within `SILENCE_S` although their connection was up.
        slowest_s: the longest time until any answer.
        slow: descriptions of answers that took longer than `SLOW_S`.
        until: as for a writer.
    """

    def __init__(self, ports: Sequence[int], token: str, thread_id: str) -> None:
        self.answers: dict[str, dict[str, Any]] = {}
        self.errors = 0
        self.silences = 0
        self.slowest_s = 0.0
        self.slow: list[str] = []
        self.until: float | None = None
        self._ports = ports
        self._token = token
        self._thread_id = thread_id
        self._line: Line | None = None
        self._reading: asyncio.Task[None] | None = None

    async def run(self) -> None:
        """Run until every message that was due before `until` is answered."""
        loop = asyncio.get_running_loop()
        number, due = 0, loop.time()
        while self.until is None or due < self.until:
            await self._say(f"said-{number}")
            number, due = number + 1, due + PERIOD_S
            await asyncio.sleep(max(0.0, due - loop.time()))
        await self.drop()

    async def _say(self, message: str) -> None:
        loop = asyncio.get_running_loop()
        while True:
            reply, began = None, loop.time()
            try:
                line = await self._connected()
                began = loop.time()
                async with asyncio.timeout(SILENCE_S):
                    reply = await line.call(
                        "run.start", text="echo hello", thread_id=self._thread_id, client_message_id=message
                    )
            except TimeoutError:
                self.silences += self._line is not None
            except (OSError, EOFError, AssertionError, asyncio.CancelledError) as fault:
                if isinstance(fault, asyncio.CancelledError) and asyncio.current_task().cancelling():  # type: ignore[union-attr]  # we run in a task
                    raise
            took = loop.time() - began
            self.slowest_s = max(self.slowest_s, took)
            if took > SLOW_S:
                self.slow.append(f"run.start of {message}: {took:.1f} s, {str(reply)[:100]}")
            if reply is not None and "rpc" in reply:
                self.answers[message] = reply["rpc"]["data"]
                return
            self.errors += 1
            if reply is None:
                await self.drop()
            await asyncio.sleep(random.uniform(0.2, 1.0))

    async def _connected(self) -> Line:
        if self._reading is not None and self._reading.done():
            await self.drop()
        if self._line is None:
            line = Line(random.choice(self._ports), self._token)
            try:
                async with asyncio.timeout(CONNECT_S):
                    await line.live()
            except BaseException:
                line.end()
                raise
            self._line = line
            self._reading = asyncio.create_task(self._read(line))
        return self._line

    async def _read(self, line: Line) -> None:
        """Pass replies on until the connection ends; then fail the waiting callers."""
        try:
            async for raw in line.objects():
                line.answered(_decode(raw))
        except (OSError, EOFError):
            return
        finally:
            for future in line.waiting.values():
                future.cancel()

    async def drop(self) -> None:
        """Close the connection."""
        line, self._line = self._line, None
        if line is not None and self._reading is not None:
            line.end()
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            self._reading = None

    async def _kept(self, person: Person) -> list[str]:
        """The ids of all messages of the thread."""
        found: list[str] = []
        before: dict[str, Any] = {}
        while True:
            page = await person.rpc("thread.get", thread_id=self._thread_id, limit=PAGE, **before)
            messages = page["messages"]
            found += [message["message_id"] for message in messages]
            if len(messages) < PAGE:
                return found
            before = {"before": messages[0]["created_at"], "before_id": messages[0]["message_id"]}

    async def missing(self, person: Person) -> list[str]:
        """Answered messages that are not present exactly once, or whose run does not end; as sentences."""
        faults: list[str] = []
        kept = await self._kept(person)
        for message, answer in self.answers.items():
            if kept.count(answer["message_id"]) != 1:
                faults.append(f"{message} is there {kept.count(answer['message_id'])} times")
            async with asyncio.timeout(within(60)):
                while (await person.rpc("run.get", run_id=answer["run_id"]))["state"] not in ENDED:  # noqa: ASYNC110
                    await asyncio.sleep(
                        0.2
                    )  # the run's end is published in a channel that no client follows here
        return faults
