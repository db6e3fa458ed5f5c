"""Talks to a narthex once the socket is open: connect, echo, an event, a forced drop and a resume.

Not here: the wire's rules (docs/protocol.md), the socket (`live`). Rules: the only thing it makes is a thread of its
own, deleted again within the same conversation: the deletion is the event that is missed and recovered.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

from narthex.doctor.dialing import elapsed_ms
from narthex.doctor.documents import member, objects
from narthex.doctor.exchanging import Line, UpgradeFailed, open_socket
from narthex.doctor.live import LiveSocket
from narthex.doctor.observations import Attempt, ConversationStep
from narthex.protocol.client import (
    ClientSession,
    MalformedMessage,
    Push,
    ReceivedPublication,
    Reply,
    StreamPosition,
)

THREAD_TITLE: Final = "narthex doctor"
MAX_UNRELATED: Final = 200  # pushes of a busy user that may come before the expected one

Found = TypeVar("Found")


class StepFailed(Exception):
    """A step failed; the message describes the answer."""


class Wire:
    """Commands, replies and publications of the Centrifuge protocol on a live socket."""

    def __init__(self, socket: LiveSocket, timeout_s: float) -> None:
        self.socket = socket
        self.session = ClientSession()
        self._timeout_s = timeout_s
        self._kept: list[Reply | Push] = []  # messages that came while `Wire` waited for another one

    async def ask(self, command: str, **body: Any) -> dict[str, Any]:
        """Send one command and wait for its reply; returns its result.

        Raises:
            StepFailed: an error reply, a close, silence.
        """
        number = self.session.send(command, body)
        reply = await self._until(
            lambda found: found if isinstance(found, Reply) and found.id == number else None,
            f"no reply to {command}",
        )
        if reply.error is not None:
            raise StepFailed(f"{command}: error {reply.error.code} {reply.error.message}")
        return reply.result

    async def rpc(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method; returns its data."""
        return member(await self.ask("rpc", method=method, data=params), "data")

    async def notice(self, name: str) -> ReceivedPublication:
        """Wait for a `CUSTOM` event of this name."""
        return await self._until(
            lambda found: (
                found.pub if isinstance(found, Push) and found.pub and _names(found.pub.data, name) else None
            ),
            f"no {name}",
        )

    async def publication(self, channel: str, deadline: float) -> ReceivedPublication:
        """The next publication on a channel, by `deadline` of `time.perf_counter()`."""
        return await self._until(
            lambda found: found.pub if isinstance(found, Push) and found.channel == channel else None,
            f"no event on {channel.split(':', maxsplit=1)[0]}",
            deadline,
        )

    async def _until(
        self, wanted: Callable[[Reply | Push], Found | None], otherwise: str, deadline: float = 0.0
    ) -> Found:
        deadline = deadline or time.perf_counter() + self._timeout_s
        for _ in range(MAX_UNRELATED):
            for number, message in enumerate(self._kept):
                if (found := wanted(message)) is not None:
                    del self._kept[number]
                    return found
            for payload in self.session.data_to_send():
                self.socket.send(payload)
            text = await self.socket.receive(max(0.0, deadline - time.perf_counter()))
            if text is None:
                raise StepFailed(self._end(otherwise))
            try:
                messages = self.session.receive(text)
            except MalformedMessage as error:
                raise StepFailed(f"a message that is not of the protocol: {error}") from error
            self._kept += [message for message in messages if isinstance(message, Reply | Push)]
        raise StepFailed(otherwise)

    def _end(self, otherwise: str) -> str:
        if self.socket.close is not None:
            return f"{otherwise}: closed {self.socket.close.code} {self.socket.close.reason}".strip()
        return f"{otherwise}: the socket ended" if self.socket.ended else f"{otherwise} in time"


class NarthexSockets:
    """Opens sockets with the user's credential; `end` closes every one."""

    def __init__(self, line: Line, address: str) -> None:
        self._line = line
        self._address = address
        self._open: list[LiveSocket] = []

    async def connect(self, **body: Any) -> tuple[Wire, dict[str, Any]]:
        """Open a socket and connect; returns the wire and the result of `connect`, whose members are `body`.

        Raises:
            UpgradeFailed: the upgrade was refused.
            StepFailed: `connect` was.
        """
        socket = await open_socket(self._line, self._address, Attempt(name="talk", presents="good"))
        self._open.append(socket)
        wire = Wire(socket, self._line.timeout_s)
        return wire, await wire.ask("connect", **body)

    async def end(self) -> None:
        """Close them all."""
        for socket in self._open:
            await socket.leave()


async def converse(line: Line, address: str) -> list[ConversationStep]:
    """Run all steps in order; stops at the first one that fails."""
    talk = _Conversation(line, address)
    try:
        await talk.run()
    finally:
        await talk.end()
    return talk.steps


class _Conversation:
    def __init__(self, line: Line, address: str) -> None:
        self.steps: list[ConversationStep] = []
        self._line = line
        self._connections = NarthexSockets(line, address)
        self._thread_id = ""
        self._began = time.perf_counter()

    async def run(self) -> None:
        name = "connect"
        try:
            self._begin()
            wire, _ = await self._connections.connect()
            self._done(name)
            name = "echo"
            marker = f"narthex-doctor-{time.time_ns()}"
            if (await wire.rpc("echo", marker=marker)).get("marker") != marker:
                raise StepFailed("echo came back changed")
            self._done(name)
            channel = next((key for key in wire.session.positions if key.startswith("user:")), "")
            if not channel:
                return
            name = "event"
            self._thread_id = thread_id_of(await wire.rpc("thread.create", title=THREAD_TITLE))
            created = await wire.notice("narthex.thread_created")
            self._done(name)
            name = "resume"
            wire.socket.abort()
            await self._resume(channel, wire.session.positions[channel]._replace(offset=created.offset))
            self._done(name)
        except (StepFailed, UpgradeFailed) as error:
            text = self._line.secrets.scrub(str(error))
            self.steps.append(ConversationStep(name=name, ok=False, ms=elapsed_ms(self._began), detail=text))

    async def end(self) -> None:
        if self._thread_id:
            with contextlib.suppress(StepFailed, UpgradeFailed):
                other, _ = await self._connections.connect()
                await other.rpc("thread.delete", thread_id=self._thread_id)
        await self._connections.end()

    async def _resume(self, channel: str, missed_after: StreamPosition) -> None:
        other, _ = await self._connections.connect()
        await other.rpc("thread.delete", thread_id=self._thread_id)
        self._thread_id = ""
        await other.notice("narthex.thread_deleted")
        _, connected = await self._connections.connect(subs={channel: missed_after.recovery})
        resumed = member(connected, "subs", channel)
        if not resumed.get("recovered"):
            raise StepFailed("the position was not recovered after a drop")
        missed = objects(resumed.get("publications"))
        if not any(_names(found.get("data"), "narthex.thread_deleted") for found in missed):
            raise StepFailed("an event that was published during the drop did not arrive afterwards")

    def _begin(self) -> None:
        self._began = time.perf_counter()

    def _done(self, name: str) -> None:
        self.steps.append(ConversationStep(name=name, ok=True, ms=elapsed_ms(self._began)))
        self._begin()


def _names(event: object, name: str) -> bool:
    return isinstance(event, dict) and event.get("name") == name


def thread_id_of(thread: dict[str, Any]) -> str:
    """The id in the answer of `thread.create`."""
    return str(thread.get("thread_id", ""))
