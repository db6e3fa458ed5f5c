"""What is said to a narthex once the socket is open: connect, echo, an event, a forced drop and a resume.

Not here: the wire's rules (docs/protocol.md), the socket (`live`). Rules: the only thing it makes is a thread of
its own, deleted again within the same conversation: the deletion is the event that is missed and recovered.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from narthex.doctor.dialing import elapsed_ms
from narthex.doctor.documents import json_object, member, objects
from narthex.doctor.exchanging import Line
from narthex.doctor.live import LiveSocket, Refused, open_socket
from narthex.doctor.observations import Attempt, Step

THREAD_TITLE: Final = "narthex doctor"
MAX_UNRELATED: Final = 200  # pushes of a busy user that may come before the one that is waited for

Wanted = Callable[[dict[str, Any]], bool]


class Failed(Exception):
    """A step did not work; the message says what was seen."""


class Wire:
    """Commands and replies of the Centrifuge protocol on a live socket."""

    def __init__(self, socket: LiveSocket, timeout_s: float) -> None:
        self.socket = socket
        self.pushes: list[dict[str, Any]] = []
        self._timeout_s = timeout_s
        self._last = 0
        self._lines: deque[str] = deque()  # of one message at most, which the socket bounds

    async def ask(self, **command: Any) -> dict[str, Any]:
        """Send one command and wait for its reply.

        Raises:
            Failed: an error reply, a close, silence.
        """
        self._last += 1
        self.socket.send(json.dumps({"id": self._last, **command}))
        (name,) = command
        reply = await self._until(lambda found: found.get("id") == self._last, f"no reply to {name}")
        if reply.get("error"):
            error = member(reply, "error")
            raise Failed(f"{name}: error {error.get('code')} {error.get('message', '')}")
        return member(reply, name)

    async def rpc(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method; its data."""
        return member(await self.ask(rpc={"method": method, "data": params}), "data")

    async def notice(self, name: str) -> dict[str, Any]:
        """Wait for a `CUSTOM` event of this name; the publication."""
        for push in self.pushes:
            if _names(push, name):
                return push
        found = await self._until(lambda frame: _names(member(frame, "push", "pub"), name), f"no {name}")
        return member(found, "push", "pub")

    async def publication(self, channel: str, deadline: float) -> dict[str, Any]:
        """The next publication on a channel, by `deadline` of `time.perf_counter()`."""
        for number, push in enumerate(self.pushes):
            if push.get("channel") == channel:
                return self.pushes.pop(number)
        found = await self._until(
            lambda frame: member(frame, "push").get("channel") == channel and "pub" in member(frame, "push"),
            f"no event on {channel.split(':', maxsplit=1)[0]}",
            deadline,
        )
        return member(found, "push", "pub")

    async def _until(self, wanted: Wanted, otherwise: str, deadline: float = 0.0) -> dict[str, Any]:
        deadline = deadline or time.perf_counter() + self._timeout_s
        for _ in range(MAX_UNRELATED):
            while self._lines:
                frame = _decoded(self._lines.popleft())
                if not frame:
                    self.socket.send("{}")  # a ping of the protocol
                elif wanted(frame):
                    return frame
                elif publication := member(frame, "push", "pub"):
                    self.pushes.append({**publication, "channel": member(frame, "push").get("channel", "")})
            text = await self.socket.receive(max(0.0, deadline - time.perf_counter()))
            if text is None:
                raise Failed(self._end(otherwise))
            self._lines.extend(text.splitlines())
        raise Failed(otherwise)

    def _end(self, otherwise: str) -> str:
        if self.socket.close is not None:
            return f"{otherwise}: closed {self.socket.close.code} {self.socket.close.reason}".strip()
        return f"{otherwise}: the socket ended" if self.socket.ended else f"{otherwise} in time"


async def converse(line: Line, address: str) -> list[Step]:
    """Everything, in order; stops at the first step that fails."""
    talk = _Conversation(line, address)
    try:
        await talk.run()
    finally:
        await talk.end()
    return talk.steps


class _Conversation:
    def __init__(self, line: Line, address: str) -> None:
        self.steps: list[Step] = []
        self._line = line
        self._address = address
        self._open: list[LiveSocket] = []
        self._thread_id = ""
        self._began = time.perf_counter()

    async def run(self) -> None:
        name = "connect"
        try:
            self._begin()
            wire, connected = await self._connect()
            self._done(name)
            name = "echo"
            marker = f"narthex-doctor-{time.time_ns()}"
            if (await wire.rpc("echo", marker=marker)).get("marker") != marker:
                raise Failed("echo came back changed")
            self._done(name)
            channel = next((key for key in member(connected, "subs") if key.startswith("user:")), "")
            if not channel:
                return
            name = "event"
            self._thread_id = thread_id_of(await wire.rpc("thread.create", title=THREAD_TITLE))
            publication = await wire.notice("narthex.thread_created")
            self._done(name)
            name = "resume"
            wire.socket.abort()
            await self._resume(channel, member(connected, "subs", channel), publication)
            self._done(name)
        except (Failed, Refused) as error:
            text = self._line.secrets.scrub(str(error))
            self.steps.append(Step(name=name, ok=False, ms=elapsed_ms(self._began), detail=text))

    async def end(self) -> None:
        if self._thread_id:
            with contextlib.suppress(Failed, Refused):
                other, _ = await self._connect()
                await other.rpc("thread.delete", thread_id=self._thread_id)
        for socket in self._open:
            await socket.leave()

    async def _resume(self, channel: str, subscription: dict[str, Any], publication: dict[str, Any]) -> None:
        other, _ = await self._connect()
        await other.rpc("thread.delete", thread_id=self._thread_id)
        self._thread_id = ""
        await other.notice("narthex.thread_deleted")
        offset = publication.get("offset", 0)
        position = {"recover": True, "offset": offset, "epoch": subscription.get("epoch", "")}
        wire, connected = await self._connect(subs={channel: position})
        resumed = member(connected, "subs", channel)
        if not resumed.get("recovered"):
            raise Failed("the position was not recovered after a drop")
        if not any(_names(found, "narthex.thread_deleted") for found in objects(resumed.get("publications"))):
            raise Failed("an event that was published during the drop did not come afterwards")
        del wire

    async def _connect(self, **extra: Any) -> tuple[Wire, dict[str, Any]]:
        socket = await open_socket(self._line, self._address, Attempt(name="talk", presents="good"))
        self._open.append(socket)
        wire = Wire(socket, self._line.timeout_s)
        return wire, await wire.ask(connect=extra)

    def _begin(self) -> None:
        self._began = time.perf_counter()

    def _done(self, name: str) -> None:
        self.steps.append(Step(name=name, ok=True, ms=elapsed_ms(self._began)))
        self._begin()


def _decoded(raw: str) -> dict[str, Any]:
    found = json_object(raw)
    if found is None:
        raise Failed("a message that is no JSON object")
    return found


def _names(publication: dict[str, Any], name: str) -> bool:
    return member(publication, "data").get("name") == name


def thread_id_of(thread: dict[str, Any]) -> str:
    """The id in the answer of `thread.create`."""
    inner = member(thread, "thread") or thread
    return str(inner.get("id") or inner.get("thread_id") or "")
