"""A client for scenarios: the wire by hand over the `websockets` package, so that nothing is smoothed over.

It keeps every frame it was shown. Rules: a wait is for an event and has a deadline; a refusal is data, not an
accident; every byte is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.typing import Origin, Subprotocol

from narthex.domain.digest import digest_of
from narthex.e2e.traffic import current

WAIT_S: Final = 20.0
SOON_S: Final = 5.0
Event = dict[str, Any]


class Refused(AssertionError):
    """The handshake was refused: `status`, and the problem body when it was one."""

    def __init__(self, status: int, problem: dict[str, Any], headers: dict[str, str]) -> None:
        super().__init__(f"refused with {status} {problem.get('code', '')}: {problem.get('detail', '')}")
        self.status = status
        self.problem = problem
        self.headers = headers


class RpcFault(AssertionError):
    """An RPC or a command was answered with an error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message


class Person:
    """One connected device.

    Attributes:
        events: every publication of a thread, by channel, with its offset, in the order of arrival.
        notices: events of the user's own channel.
        connected: the connect reply.
        close_code: 0 while open.
        seen: every reply and push, as it came.
        made: threads that this device created.
    """

    def __init__(self, socket: ClientConnection, peer: str) -> None:
        self.socket = socket
        self.peer = peer
        self.connected: dict[str, Any] = {}
        self.events: dict[str, list[tuple[int, Event]]] = {}
        self.notices: list[Event] = []
        self.pushes: list[dict[str, Any]] = []
        self.seen: list[dict[str, Any]] = []
        self.positions: dict[str, tuple[int, str]] = {}
        self.close_code = 0
        self.close_reason = ""
        self.pings = 0
        self.made: list[str] = []
        self._number = 0
        self._asked: dict[int, str] = {}
        self._replies: dict[int, dict[str, Any]] = {}
        self._changed = asyncio.Event()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def knock(
        cls,
        url: str,
        headers: dict[str, str] | None = None,
        *,
        origin: str | None = None,
        subprotocols: list[str] | None = None,
    ) -> Person:
        """Only the upgrade. Raises Refused."""
        parts = urlsplit(url)
        peer = f"{parts.scheme}://{parts.netloc}"
        traffic = current()
        traffic.out(len(url) + sum(len(name) + len(value) for name, value in (headers or {}).items()))
        try:
            socket = await connect(
                url,
                additional_headers=headers or {},
                origin=Origin(origin) if origin else None,
                subprotocols=[Subprotocol(name) for name in subprotocols] if subprotocols else None,
                open_timeout=WAIT_S,
                close_timeout=2,
                ping_interval=None,
                max_size=2**24,
                proxy=None,
            )
        except InvalidStatus as refused:
            body = refused.response.body or b""
            traffic.back(max(1, len(body)), peer)
            problem: dict[str, Any] = {}
            with contextlib.suppress(json.JSONDecodeError, UnicodeDecodeError):
                problem = json.loads(body)
            raise Refused(
                refused.response.status_code,
                problem,
                {k.lower(): v for k, v in refused.response.headers.raw_items()},
            ) from refused
        traffic.back(1, peer)
        somebody = cls(socket, peer)
        traffic.people.append(somebody)
        return somebody

    async def connect(self, **params: Any) -> dict[str, Any]:
        """The `connect` command; its result."""
        reply = await self.command("connect", **params)
        self.connected = reply["connect"]
        return self.connected

    async def close(self) -> None:
        """Leave properly."""
        await self.socket.close()
        await self._reader

    def drop(self) -> None:
        """Cut the line: no close frame, as when a phone enters a tunnel."""
        self.socket.transport.abort()

    # -- commands ------------------------------------------------------------------------------------------

    async def command(self, member: str, **body: Any) -> dict[str, Any]:
        """Send a command; its reply. Raises RpcFault for an error, AssertionError when the line ends."""
        self._number += 1
        number = self._number
        self._asked[number] = str(body.get("channel", ""))
        await self.raw(json.dumps({"id": number, member: body}))
        await self.until(lambda: number in self._replies or bool(self.close_code), f"the reply to {member}")
        if number not in self._replies:
            raise AssertionError(
                f"closed with {self.close_code} {self.close_reason} instead of a reply to {member}"
            )
        reply = self._replies.pop(number)
        if "error" in reply:
            raise RpcFault(reply["error"]["code"], reply["error"]["message"])
        return reply

    async def raw(self, text: str | bytes) -> None:
        """Send a frame as it is."""
        current().out(len(text))
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(text)

    async def rpc(self, method: str, **data: Any) -> Any:
        """An RPC's result."""
        result = (await self.command("rpc", method=method, data=data))["rpc"].get("data")
        if method == "thread.create":
            self.made.append(result["thread_id"])
        return result

    async def follow(self, thread_id: str, *, offset: int | None = None, epoch: str = "") -> dict[str, Any]:
        """Subscribe to a thread; with `offset`, recover from there. The subscribe result."""
        channel = f"thread:{thread_id}"
        body: dict[str, Any] = {"channel": channel}
        if offset is not None:
            body |= {"recover": True, "offset": offset, "epoch": epoch}
        result: dict[str, Any] = (await self.command("subscribe", **body))["subscribe"]
        return result

    async def thread(self, title: str = "e2e") -> str:
        """A new thread that is followed from its beginning."""
        thread_id: str = (await self.rpc("thread.create", title=title))["thread_id"]
        await self.follow(thread_id, offset=0)
        return thread_id

    async def start(self, text: str, thread_id: str, **more: Any) -> str:
        """`run.start`; the run id."""
        params = {"text": text, "thread_id": thread_id, "client_message_id": uuid.uuid4().hex} | more
        run_id: str = (await self.rpc("run.start", **params))["run_id"]
        return run_id

    async def ask(self, text: str, thread_id: str | None = None) -> list[Event]:
        """Say something and wait for the whole, proven run."""
        thread = thread_id or await self.thread()
        run_id = await self.start(text, thread)
        return await self.whole(thread, run_id)

    # -- what was seen -------------------------------------------------------------------------------------

    def run_events(self, thread_id: str, run_id: str) -> list[Event]:
        """Events of one run as they came."""
        return [
            event for _, event in self.events.get(f"thread:{thread_id}", []) if event.get("runId") == run_id
        ]

    def terminal(self, thread_id: str, run_id: str) -> Event | None:
        """The run's terminal event, if it came."""
        events = self.run_events(thread_id, run_id)
        return next((event for event in events if event["type"] in ("RUN_FINISHED", "RUN_ERROR")), None)

    async def whole(self, thread_id: str, run_id: str, timeout_s: float = WAIT_S) -> list[Event]:
        """All events of a run, proven: every seq once, count and digest right, offsets contiguous."""
        await self.until(
            lambda: self.terminal(thread_id, run_id) is not None, f"the end of run {run_id}", timeout_s
        )
        events = self.run_events(thread_id, run_id)
        prove(events)
        offsets = [offset for offset, _ in self.events[f"thread:{thread_id}"]]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets))), (
            "an offset is missing or came twice"
        )
        return events

    async def view(self, thread_id: str) -> dict[str, Any]:
        """`thread.get` once the thread's ended runs are kept as messages, which the notice of their end says.

        A run's last event is published first and its messages are written after it, so that a crash between the two
        loses nothing; until then `thread.get` lists the run under `runs`.
        """
        events = [event for _, event in self.events.get(f"thread:{thread_id}", [])]
        ended = {event["runId"] for event in events if event["type"] in ("RUN_FINISHED", "RUN_ERROR")}

        def kept() -> bool:
            told = {n["value"]["runId"] for n in self.notices if n["name"] == "narthex.run_ended"}
            return ended <= told

        await self.until(kept, "the notice that the run has ended")
        found: dict[str, Any] = await self.rpc("thread.get", thread_id=thread_id)
        return found

    async def eventually(
        self, ask: Callable[[], Awaitable[bool]], what: str, timeout_s: float = SOON_S
    ) -> None:
        """Ask until the answer is yes, for what the server promises soon and not at once."""
        ends_at = time.monotonic() + timeout_s
        while not await ask():
            if time.monotonic() > ends_at:
                raise AssertionError(f"did not see {what} within {timeout_s:g} s")
            await asyncio.sleep(0.1)

    def replied(self, number: int) -> bool:
        """Whether a command that was sent raw has its reply."""
        return any(message.get("id") == number for message in self.seen)

    async def until(self, holds: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until something that came in makes `holds` true."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"did not see {what} within {timeout_s:g} s") from None

    async def ended(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the end of the line; the close code."""
        await self.until(lambda: bool(self.close_code), "the close", timeout_s)
        return self.close_code

    async def _read(self) -> None:
        traffic = current()
        try:
            async for frame in self.socket:
                traffic.back(len(frame), self.peer)
                for line in str(frame).split("\n"):
                    await self._take(json.loads(line))
                self._changed.set()
        except (ConnectionClosed, OSError):
            pass
        self.close_code = self.socket.close_code or 1006
        self.close_reason = self.socket.close_reason or ""
        self._changed.set()

    async def _take(self, message: dict[str, Any]) -> None:
        if not message:
            self.pings += 1
            await self.raw("{}")
            return
        self.seen.append(message)
        if "push" in message:
            push = message["push"]
            self.pushes.append(push)
            if "pub" in push:
                self._publication(push["channel"], push["pub"])
        else:
            self._replies[message["id"]] = message
            self._joined(message, self._asked.pop(message["id"], ""))

    def _joined(self, reply: dict[str, Any], channel: str) -> None:
        """Take in what a reply brings of channels, before any push that is behind it in the same frame."""
        subs = dict(reply.get("connect", {}).get("subs", {}))
        if "subscribe" in reply:
            subs[channel] = reply["subscribe"]
        for name, sub in subs.items():
            self.positions[name] = (sub.get("offset", 0), sub.get("epoch", ""))
            for publication in sub.get("publications", []):
                self._publication(name, publication)

    def _publication(self, channel: str, publication: dict[str, Any]) -> None:
        event = publication["data"]
        offset = publication.get("offset", 0)
        if channel.startswith("user:"):
            self.notices.append(event)
        elif offset:
            self.events.setdefault(channel, []).append((offset, event))
            self.positions[channel] = (offset, self.positions.get(channel, (0, ""))[1])


def prove(events: list[Event]) -> None:
    """Every `seq` once and in order, `count` and `digest` right."""
    expected = 1
    for event in events:
        first = event.get("seq_from", event["seq"])
        assert first == expected, f"expected seq {expected}, the server sent {first} ({event['type']})"
        expected = event["seq"] + 1
    last = events[-1]
    assert last["count"] == last["seq"], f"count {last['count']} is not the last seq {last['seq']}"
    assert last["digest"] == digest_of(events), "the digest does not match what was received"


def text_of(events: list[Event]) -> str:
    """The answer's text."""
    return "".join(event["delta"] for event in events if event["type"] == "TEXT_MESSAGE_CONTENT")


def types_of(events: list[Event]) -> list[str]:
    """Types in order, runs of the same joined."""
    found: list[str] = []
    for event in events:
        if not found or found[-1] != event["type"]:
            found.append(event["type"])
    return found
