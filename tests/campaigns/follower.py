"""A client that verifies what it receives: every publication in order and once, every run to its digest.

Not here: when it is cut off (the campaigns). Rules: nothing is sampled; a fault is kept as a sentence, so that a
campaign can report the fault and the client; it holds one thread's position through any number of sockets.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from pathlib import Path
from typing import Any

import jwt
import msgspec

from narthex.domain.digest import Digest
from tests.acceptance.crowd import Client
from tests.history import Recorder

SECRET = "a-secret-for-campaigns-that-is-long-enough-0123456789"
ROOT = Path(__file__).parents[2]
SERVED = {"NARTHEX_JWT_SECRET": SECRET, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
"""The environment of a campaign's server: the key of our tokens, and this checkout with our agents."""
_decode = msgspec.json.Decoder().decode


def token(subject: str, tenant: str = "acme", plan: str = "enterprise", ttl_s: float = 3600) -> str:
    """A token that a program with `NARTHEX_JWT_SECRET=SECRET` admits."""
    claims = {"sub": subject, "tenant": tenant, "plan": plan, "exp": int(time.time() + ttl_s)}
    return jwt.encode(claims, SECRET, algorithm="HS256")


class Line(Client):
    """A raw client whose connection can be cut without a close, and that calls RPC methods."""

    def __init__(self, port: int, secret: str) -> None:
        super().__init__("127.0.0.1", port, secret)
        self.ids = itertools.count(10)
        self.waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}

    def command(self, method: str, body: object, number: int = 0) -> int:
        """Send a command; returns its id."""
        number = number or next(self.ids)
        self.send(msgspec.json.encode({"id": number, method: body}).decode())
        return number

    def cut(self) -> None:
        """Drop the socket without a close frame."""
        if self._writer is not None:
            self._writer.transport.abort()

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """An RPC whose reply another task reads and passes to `answered`; returns the reply, result or error."""
        number = next(self.ids)
        self.waiting[number] = asyncio.get_running_loop().create_future()
        self.command("rpc", {"method": method, "data": params}, number)
        return await self._reply(number)

    async def _reply(self, number: int) -> dict[str, Any]:
        try:
            return await self.waiting[number]
        finally:
            self.waiting.pop(number, None)

    def answered(self, message: dict[str, Any]) -> bool:
        """Pass a reply to its waiting caller; False when no caller waits for it."""
        future = self.waiting.get(message.get("id", 0))
        if future is None or future.done():
            return False
        future.set_result(message)
        return True


class Proof:
    """One run as one client received it."""

    def __init__(self) -> None:
        self.digest = Digest()
        self.last = 0
        self.merged = 0
        self.terminal: dict[str, Any] | None = None
        self.text: list[str] = []

    @property
    def proven(self) -> bool:
        """Whether it ended with the count and the digest of the received events."""
        end = self.terminal
        return end is not None and end["count"] == self.last and end.get("digest") == self.digest.value()


class Follower:
    """See the module.

    Attributes:
        recorder: with one, every frame is recorded for the history checker, as `reader` of `user`.
        runs: proofs by run id.
        faults: descriptions of the faults.
        replays_s: from dialling to having recovered all missed events, for each reconnect.
        lags_s: from the creation of a delta (its text has the time) until it is read here.
    """

    def __init__(
        self,
        port: int,
        secret: str,
        channel: str = "",
        *,
        recorder: Recorder | None = None,
        reader: str = "",
        user: str = "",
    ) -> None:
        self._recorder, self._reader, self._user = recorder, reader, user
        self.port, self.secret, self.channel = port, secret, channel
        self.offset, self.epoch = 0, ""
        self.runs: dict[str, Proof] = {}
        self.faults: list[str] = []
        self.replays_s: list[float] = []
        self.lags_s: list[float] = []
        self.events = 0
        self.cuts = 0
        self.closes: list[int] = []
        self.recovered = asyncio.Event()
        self.changed = asyncio.Event()
        self.line: Line | None = None

    # -- one socket ----------------------------------------------------------------------------------------

    async def attend(self) -> None:
        """One lifetime of a socket: reconnect, catch up, follow until it ends. A network error ends it."""
        began = time.monotonic()
        line = self.line = self.dial()
        if self._recorder is not None:
            line.tap = self._recorder.connection(self._reader, self._user)
        self.recovered.clear()
        try:
            if await line.open() != 101:
                self.closes.append(line.status)
                return
            line.command("connect", {}, 1)
            if self.channel:
                self._subscribe(line)
            await self._read(line, began)
        except (OSError, asyncio.IncompleteReadError):
            self.closes.append(1006)
        finally:
            for future in line.waiting.values():
                future.cancel()
            line.end()

    def dial(self) -> Line:
        """A new socket, not connected yet."""
        return Line(self.port, self.secret)

    def _subscribe(self, line: Line) -> None:
        body = {"channel": self.channel, "recover": True, "offset": self.offset, "epoch": self.epoch}
        line.command("subscribe", body, 2)

    def join(self, channel: str) -> None:
        """Follow a thread, also on a live socket."""
        self.channel = channel
        if self.line is not None:
            self._subscribe(self.line)

    async def _read(self, line: Line, began: float) -> None:
        async for raw in line.objects():
            self._message(line, _decode(raw), began)
        self.closes.append(line.close_code)

    def _message(self, line: Line, message: dict[str, Any], began: float) -> None:
        push = message.get("push")
        if push is not None:
            if "pub" in push and push["channel"] == self.channel:
                self.take(push["pub"], live=True)
        elif "subscribe" in message:
            self._joined(message["subscribe"], time.monotonic() - began)
        elif not line.answered(message) and "error" in message:
            self.faults.append(f"reply {message}")

    def _joined(self, result: dict[str, Any], took_s: float) -> None:
        if not result.get("recovered"):
            self.faults.append(f"not recovered from {self.offset}")
        if self.epoch and result["epoch"] != self.epoch:
            self.faults.append("another epoch")
        for publication in result.get("publications") or []:
            self.take(publication)
        self.epoch = result["epoch"]
        if self.offset != result["offset"]:
            self.faults.append(f"recovered to {self.offset}, not to {result['offset']}")
        self.replays_s.append(took_s)
        self.recovered.set()

    # -- received events ------------------------------------------------------------------------------------

    def take(self, publication: dict[str, Any], *, live: bool = False) -> None:
        """Check one publication: it must follow the last one."""
        event, offset = publication["data"], publication.get("offset", 0)
        if not offset:
            return  # typing, read markers: not in the history
        seq = event.get("seq", 0)
        span = seq - event.get("seq_from", seq) + 1 if seq else 1
        if offset != self.offset + span:
            self.faults.append(f"{offset} (of {span}) after {self.offset}")
        self.offset = max(offset, self.offset)
        self.events += span
        if seq:
            self._prove(event, live=live)
        self.changed.set()

    def _prove(self, event: dict[str, Any], *, live: bool) -> None:
        proof = self.runs.setdefault(event["runId"], Proof())
        if proof.terminal is not None:
            self.faults.append(f"{event['type']} after the end of {event['runId']}")
        if event.get("seq_from", event["seq"]) != proof.last + 1:
            self.faults.append(f"seq {event['seq']} after {proof.last}")
        proof.last = event["seq"]
        proof.merged += "seq_from" in event
        proof.digest.feed(event)
        kind = event["type"]
        if kind == "TEXT_MESSAGE_CONTENT":
            proof.text.append(event["delta"])
            head = event["delta"].partition(" ")[0]
            if live and len(head) > 12 and head.isdigit():
                self.lags_s.append((time.monotonic_ns() - int(head)) / 1e9)
        elif kind == "CUSTOM" and event["name"] == "narthex.restarted":
            proof.text.clear()
        elif kind in ("RUN_FINISHED", "RUN_ERROR"):
            proof.terminal = event

    async def until_over(self, run_id: str) -> Proof:
        """Wait for a run's terminal event."""
        while True:
            proof = self.runs.get(run_id)
            if proof is not None and proof.terminal is not None:
                return proof
            self.changed.clear()
            await self.changed.wait()


@contextlib.asynccontextmanager
async def attending(*followers: Follower) -> Any:
    """Run their sockets in the background; they are ended afterwards."""
    tasks = [asyncio.get_running_loop().create_task(follower.attend()) for follower in followers]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def start_run(port: int, secret: str, text: str, message: str, **params: Any) -> dict[str, Any]:
    """`run.start` over a separate socket; returns the result, or raises an AssertionError with the error."""
    line = Line(port, secret)
    await line.live()
    try:
        number = line.command(
            "rpc", {"method": "run.start", "data": {"text": text, "client_message_id": message, **params}}
        )
        while True:
            _, payload = await line.frame()
            for raw in payload.split(b"\n"):
                reply = _decode(raw) if raw else {}
                if reply.get("id") == number:
                    assert "rpc" in reply, reply
                    result: dict[str, Any] = reply["rpc"]["data"]
                    return result
    finally:
        line.end()


def quantile(values: list[float], share: float) -> float:
    """The value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))] if ordered else 0.0
