"""A client for scenarios: `protocol.client` over the `websockets` package, without an SDK that would hide faults.

Not here: the protocol (`protocol.client`). Rules: it never reconnects by itself, filters nothing, and keeps every text
message that the server sent; a wait is for an event and has a deadline; a refusal is a value; every byte is counted.
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
from narthex.protocol.client import ClientSession, MalformedMessage, Message, Push, Reply, StreamPosition

WAIT_S: Final = 20.0
SOON_S: Final = 5.0
Event = dict[str, Any]


class HandshakeRefused(AssertionError):
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


async def fault_of(attempt: Awaitable[object], otherwise: str) -> RpcFault:
    """The error by which the server refuses a command. Raises AssertionError with `otherwise` when it succeeds."""
    try:
        await attempt
    except RpcFault as fault:
        return fault
    raise AssertionError(otherwise)


class ScenarioClient:
    """One connected device.

    Attributes:
        events: every publication of a thread, by channel, with its offset, in the order of arrival.
        notices: events of the user's own channel.
        connected: the result of `connect`.
        close_code: 0 while open; 1002 where the server broke the protocol, which `close_reason` then describes.
        seen: every text message of the server, unchanged.
        replies: every reply, by the id of its command, in the order of arrival.
        pushes: every push, recovered publications included.
        made: threads that this client created.
        session: numbers the commands, counts the pings.
        positions: by channel, the offset of the last publication received, and the epoch.
    """

    def __init__(self, socket: ClientConnection, peer: str) -> None:
        self.socket = socket
        self.peer = peer
        self.connected: dict[str, Any] = {}
        self.events: dict[str, list[tuple[int, Event]]] = {}
        self.notices: list[Event] = []
        self.pushes: list[Push] = []
        self.seen: list[str] = []
        self.replies: dict[int, Reply] = {}
        self.close_code = 0
        self.close_reason = ""
        self.made: list[str] = []
        self.session = ClientSession()
        self.positions = self.session.positions
        self._changed = asyncio.Event()
        self._reader = asyncio.get_running_loop().create_task(self._read())

    @classmethod
    async def try_connect(
        cls,
        url: str,
        headers: dict[str, str] | None = None,
        *,
        origin: str | None = None,
        subprotocols: list[str] | None = None,
    ) -> ScenarioClient:
        """Upgrade only, without `connect`. Raises HandshakeRefused."""
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
            raise HandshakeRefused(
                refused.response.status_code,
                problem,
                {k.lower(): v for k, v in refused.response.headers.raw_items()},
            ) from refused
        traffic.back(1, peer)
        client = cls(socket, peer)
        traffic.connections.append(client)
        return client

    async def connect(self, **params: Any) -> dict[str, Any]:
        """Send the `connect` command; returns its result."""
        self.connected = await self.command("connect", **params)
        return self.connected

    async def close(self) -> None:
        """Close with a close handshake."""
        await self.socket.close()
        await self._reader

    def drop(self) -> None:
        """Cut the connection without a close frame, as when a phone enters a tunnel."""
        self.socket.transport.abort()

    # -- commands ------------------------------------------------------------------------------------------

    async def command(self, member: str, **body: Any) -> dict[str, Any]:
        """Send a command; returns its result. Raises RpcFault for an error, AssertionError when the connection ends."""
        number = self.session.send(member, body)
        await self._send_queued()
        await self.until(lambda: number in self.replies or bool(self.close_code), f"the reply to {member}")
        if number not in self.replies:
            raise AssertionError(
                f"closed with {self.close_code} {self.close_reason} instead of a reply to {member}"
            )
        reply = self.replies[number]
        if reply.error is not None:
            raise RpcFault(reply.error.code, reply.error.message)
        return reply.result

    async def raw(self, text: str | bytes) -> None:
        """Send a text message unchanged."""
        current().out(len(text))
        with contextlib.suppress(ConnectionClosed):
            await self.socket.send(text, text=True)

    async def _send_queued(self) -> None:
        for message in self.session.data_to_send():
            await self.raw(message)

    async def rpc(self, method: str, **data: Any) -> Any:
        """Call an RPC; returns its result."""
        result: Any = (await self.command("rpc", method=method, data=data)).get("data")
        if method == "thread.create":
            self.made.append(result["thread_id"])
        return result

    async def follow(self, thread_id: str, *, offset: int | None = None, epoch: str = "") -> dict[str, Any]:
        """Subscribe to a thread; with `offset`, recover from there. Returns the subscribe result."""
        channel = f"thread:{thread_id}"
        body: dict[str, Any] = {"channel": channel}
        if offset is not None:
            body |= StreamPosition(offset, epoch).recovery
        return await self.command("subscribe", **body)

    async def continue_from(self, before: ScenarioClient, thread_id: str) -> None:
        """Take over a connection's events and its position, both at one moment, and follow the thread from there."""
        offset, epoch = before.positions[f"thread:{thread_id}"]
        self.events = {channel: list(found) for channel, found in before.events.items()}
        result = await self.follow(thread_id, offset=offset, epoch=epoch)
        assert result["recovered"], "the position was not recovered"

    async def thread(self, title: str = "e2e") -> str:
        """Create a thread and follow it from its beginning."""
        thread_id: str = (await self.rpc("thread.create", title=title))["thread_id"]
        await self.follow(thread_id, offset=0)
        return thread_id

    async def start(self, text: str, thread_id: str, **more: Any) -> str:
        """Call `run.start`; returns the run id."""
        params = {"text": text, "thread_id": thread_id, "client_message_id": uuid.uuid4().hex} | more
        run_id: str = (await self.rpc("run.start", **params))["run_id"]
        return run_id

    async def begin(self, text: str, thread_id: str, events: int) -> str:
        """`start`, and wait until more than `events` of its events have arrived; returns the run id."""
        run_id = await self.start(text, thread_id)
        await self.until(lambda: len(self.run_events(thread_id, run_id)) > events, "the run under way")
        return run_id

    async def ask(self, text: str, thread_id: str | None = None) -> list[Event]:
        """Send a message and wait for the whole, verified run."""
        thread = thread_id or await self.thread()
        run_id = await self.start(text, thread)
        return await self.whole(thread, run_id)

    # -- observations --------------------------------------------------------------------------------------

    def run_events(self, thread_id: str, run_id: str) -> list[Event]:
        """Events of one run in the order of arrival."""
        return [
            event for _, event in self.events.get(f"thread:{thread_id}", []) if event.get("runId") == run_id
        ]

    def terminal(self, thread_id: str, run_id: str) -> Event | None:
        """The run's terminal event, or None if it has not arrived."""
        events = self.run_events(thread_id, run_id)
        return next((event for event in events if event["type"] in ("RUN_FINISHED", "RUN_ERROR")), None)

    async def whole(self, thread_id: str, run_id: str, timeout_s: float = WAIT_S) -> list[Event]:
        """All events of a run, verified: every seq once, count and digest right, offsets contiguous."""
        await self.until(
            lambda: self.terminal(thread_id, run_id) is not None, f"the end of run {run_id}", timeout_s
        )
        events = self.run_events(thread_id, run_id)
        verify_run(events)
        offsets = [offset for offset, _ in self.events[f"thread:{thread_id}"]]
        assert offsets == list(range(offsets[0], offsets[0] + len(offsets))), (
            "an offset is missing or arrived twice"
        )
        return events

    async def view(self, thread_id: str) -> dict[str, Any]:
        """Wait until the thread's ended runs are stored as messages (the notice of their end), then call `thread.get`.

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
        """Repeat a request until its answer is yes, for state that the server promises soon and not at once."""
        ends_at = time.monotonic() + timeout_s
        while not await ask():
            if time.monotonic() > ends_at:
                raise AssertionError(f"did not see {what} within {timeout_s:g} s")
            await asyncio.sleep(0.1)

    async def until(self, holds: Callable[[], bool], what: str, timeout_s: float = WAIT_S) -> None:
        """Wait until a message from the server makes `holds` true."""
        try:
            async with asyncio.timeout(timeout_s):
                while not holds():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError(f"did not see {what} within {timeout_s:g} s") from None

    async def ended(self, timeout_s: float = WAIT_S) -> int:
        """Wait for the end of the connection; returns the close code."""
        await self.until(lambda: bool(self.close_code), "the close", timeout_s)
        return self.close_code

    async def _read(self) -> None:
        traffic = current()
        try:
            async for frame in self.socket:
                traffic.back(len(frame), self.peer)
                self.seen.append(str(frame))
                for message in self.session.receive(frame):
                    self._take(message)
                await self._send_queued()
                self._changed.set()
        except MalformedMessage as fault:
            self.close_code, self.close_reason = 1002, f"a malformed message: {fault}"
            self.drop()
        except (ConnectionClosed, OSError):
            pass
        self.close_code = self.close_code or self.socket.close_code or 1006
        self.close_reason = self.close_reason or self.socket.close_reason or ""
        self._changed.set()

    def _take(self, message: Message) -> None:
        if isinstance(message, Reply):
            self.replies[message.id] = message
        elif isinstance(message, Push):
            self.pushes.append(message)
            if message.pub is not None and message.channel.startswith("user:"):
                self.notices.append(message.pub.data)
            elif message.pub is not None and message.pub.offset:
                self.events.setdefault(message.channel, []).append((message.pub.offset, message.pub.data))


def verify_run(events: list[Event]) -> None:
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
