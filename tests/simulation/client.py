"""Simulated users: each reader is a device that connects, follows, reconnects and recovers, as the SDKs do.

Not here: their actions (`plan`), the correct answers (tests/history). Rules: all their frames pass through a `Tap`; a
reader trusts every answer and checks nothing; requests are repeated under their own idempotency key until they are
answered, as a page does.
"""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from narthex.app.connection import Connection
from narthex.domain.identity import Identity
from narthex.ports.edge import DirectSender, SendProgress
from narthex.protocol.framing import Framing, Prepared
from tests.history import Recorder, Tap
from tests.simulation.loop import WORLD, VirtualLoop
from tests.simulation.network import Delays, Pipe
from tests.simulation.node import Node

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder().decode
BACKOFF_FIRST_S: Final = 0.3
BACKOFF_LAST_S: Final = 3.0
ANSWER_S: Final = 12.0
SILENT_S: Final = 14.0
"""Without a ping for this long a client gives the connection up: 8 s and the SDKs' own margin."""
HIGH_MARK: Final = 2_000
"""Bytes in flight from which a client counts as slow: few, because histories are short."""


class Wire:
    """One connection's two ends; the node's is a `ports.edge.Socket`."""

    framing = Framing.HTTP_STREAM
    session = ""
    direct_sender: DirectSender | None = None

    def __init__(
        self,
        loop: VirtualLoop,
        delays: Delays,
        receiver: Connection,
        life: str,
        got: Callable[[bytes], None],
        over: Callable[[int], None],
    ) -> None:
        self._loop = loop
        self._receiver = receiver
        self._got = got
        self._over = over
        self._under_way = 0
        self._taken = 0
        self._full = False
        self._ended = False
        self.down = Pipe(loop, delays, self._down, WORLD)
        self._back = Pipe(loop, delays, self._took, life)
        self.up = Pipe(loop, delays, self._up, life)

    # -- the node's end ------------------------------------------------------------------------------------

    def send(self, message: Prepared) -> None:
        """See `Socket`."""
        self.send_frames(message.framed(self.framing))

    def send_frames(self, frames: bytes) -> None:
        """See `Socket`."""
        if self._ended:
            return
        self._under_way += len(frames)
        self.down.put(frames)
        if self._under_way > HIGH_MARK and not self._full:
            self._full = True
            self._receiver.writable(False)

    def send_rest(self, rest: bytes) -> None:
        """See `Socket`."""
        self.send_frames(rest)

    def buffered(self) -> int:
        """See `Socket`."""
        return max(0, self._under_way - HIGH_MARK)

    def send_progress(self) -> SendProgress:
        """See `Socket`."""
        return SendProgress(self._under_way, self._taken)

    def close(self, code: int, reason: str) -> None:
        """See `Socket`: the close frame follows the data already sent."""
        if not self._ended:
            self.down.put(code)
            self._end(code)

    def abort(self) -> None:
        """See `Socket`."""
        self.close(1006, "")

    def _end(self, code: int) -> None:
        if not self._ended:
            self._ended = True
            self._loop.call_soon(self._receiver.closed, code, "")

    def _took(self, size: int) -> None:
        """The client has read this much."""
        self._under_way -= size
        self._taken += size
        if self._full and self._under_way <= HIGH_MARK // 2 and not self._ended:
            self._full = False
            self._receiver.writable(True)

    def _up(self, item: bytes | int) -> None:
        if isinstance(item, int):
            self._end(item)
        elif not self._ended:
            self._receiver.message(item, binary=False)

    # -- the client's end ----------------------------------------------------------------------------------

    def _down(self, item: bytes | int) -> None:
        if isinstance(item, int):
            self._over(item)
            return
        if self._full:
            self._back.put(len(item))
        else:
            self._took(len(item))
        self._got(item)

    def say(self, frame: str) -> None:
        """A frame of the client."""
        self.up.put(frame.encode())

    def hang_up(self) -> None:
        """The client closes its end; the node gets a reset."""
        self.down.broken = True
        self.up.put(1006)


class Reader:
    """A device of a user: follows channels through any number of connections.

    Attributes:
        wants: channels that it should follow.
        at: its current position, by channel: (epoch, offset).
        wire: the present connection, while there is one.
    """

    def __init__(
        self,
        name: str,
        identity: Identity,
        nodes: Sequence[Node],
        loop: VirtualLoop,
        delays: Delays,
        noise: random.Random,
        recorder: Recorder,
    ) -> None:
        self.name = name
        self.identity = identity
        self.wants: list[str] = []
        self.at: dict[str, tuple[str, int]] = {}
        self.refused: set[str] = set()
        self.wire: Wire | None = None
        self.over = False
        self._nodes = nodes
        self._loop = loop
        self._delays = delays
        self._noise = noise
        self._recorder = recorder
        self._tap: Tap | None = None
        self._ids = itertools.count(1)
        self._asked: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._ended: asyncio.Future[int] | None = None
        self._live = False
        self._heard_at = 0.0
        self._attempt = 0
        self._user_channel = f"user:{identity.subject}"
        self._subscribing: set[str] = set()

    # -- life ----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run until the history ends."""
        while not self.over:
            code = await self._connection()
            self._live = False
            self.wire = None
            for future in self._asked.values():
                if not future.done():
                    future.cancel()
            self._asked.clear()
            self._subscribing.clear()
            if 3500 <= code < 4000 or code >= 4500:
                self.over = True
                return
            ceiling = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2**self._attempt)
            self._attempt = min(self._attempt + 1, 6)
            await asyncio.sleep(ceiling * (0.2 + 0.8 * self._noise.random()))

    async def _connection(self) -> int:
        ready = [node for node in self._nodes if node.ready and not node.paused]
        if not ready:
            return 1006
        node = ready[self._noise.randrange(len(ready))]
        await asyncio.sleep(self._delays.draw())
        wire: Wire | None = None
        refused = 0

        def accept() -> None:
            nonlocal wire, refused
            try:
                connection = node.admit(self.identity)
            except PermissionError:
                refused = 3500
                return
            if connection is None:
                refused = 1006
                return
            wire = Wire(self._loop, self._delays, connection, node.life, self._got, self._closed)
            connection.opened(wire)

        life = node.life
        node.within(accept)
        if wire is None:
            return refused or 1006
        self._tap = self._recorder.connection(self.name, self.identity.subject)
        self.wire = wire
        self._ended = self._loop.create_future()
        self._heard_at = self._loop.time()
        self._connect()
        self._look(node, life, wire)
        code = await self._ended
        wire.down.broken = True
        self._tap.closed(code)
        return code

    def _look(self, node: Node, life: str, wire: Wire) -> None:
        """Once a second: whether to keep the connection."""
        ended = self._ended
        if self.wire is not wire or ended is None or ended.done():
            return
        if node.parts is None or node.life != life:  # its machine answers with a reset
            ended.set_result(1006)
        elif self._loop.time() - self._heard_at > SILENT_S:
            wire.hang_up()
            ended.set_result(1006)
        else:
            self._loop.call_later(1.0, self._look, node, life, wire)

    def cut(self) -> None:
        """The network drops the connection."""
        if self.wire is not None and self._ended is not None and not self._ended.done():
            self.wire.hang_up()
            self._ended.set_result(1006)

    def vanish(self) -> None:
        """The network between both ends is lost without a sign to either."""
        if self.wire is not None:
            self.wire.down.broken = self.wire.up.broken = True

    def stall(self, seconds: float) -> None:
        """It reads nothing for a while."""
        if self.wire is not None:
            self.wire.down.stalled_until = self._loop.time() + seconds

    def _closed(self, code: int) -> None:
        if self._ended is not None and not self._ended.done():
            self._ended.set_result(code)

    # -- commands ------------------------------------------------------------------------------------------

    def _send(self, *commands: tuple[str, dict[str, Any]]) -> list[asyncio.Future[dict[str, Any]]]:
        """Send commands in one frame; returns their answers."""
        assert self.wire is not None
        assert self._tap is not None
        lines, futures = [], []
        for name, body in commands:
            number = next(self._ids)
            self._asked[number] = future = self._loop.create_future()
            futures.append(future)
            lines.append(_encode({"id": number, name: body}).decode())
        frame = "\n".join(lines)
        self._tap.sent(frame)
        self.wire.say(frame)
        return futures

    def _connect(self) -> None:
        place = self.at.get(self._user_channel)
        subs = {}
        if place is not None:
            subs = {self._user_channel: {"recover": True, "epoch": place[0], "offset": place[1]}}
        (answer,) = self._send(("connect", {"subs": subs} if subs else {}))
        answer.add_done_callback(self._connected)

    def _connected(self, answer: asyncio.Future[dict[str, Any]]) -> None:
        if answer.cancelled():
            return
        reply = answer.result()
        if "connect" not in reply:
            self.cut()
            return
        self._attempt = 0
        self._live = True
        for channel, told in (reply["connect"].get("subs") or {}).items():
            self._position(channel, told)
        for channel in self.wants:
            self.subscribe(channel)

    def subscribe(self, channel: str) -> None:
        """Follow a channel on the present connection, from the last position."""
        if not self._live or channel in self._subscribing or channel in self.refused:
            return
        self._subscribing.add(channel)
        (answer,) = self._send(("subscribe", self._wish(channel)))
        answer.add_done_callback(lambda done: self._subscribed(channel, done))

    def _wish(self, channel: str) -> dict[str, Any]:
        place = self.at.get(channel)
        if place is None:
            return {"channel": channel, "recover": True, "epoch": "", "offset": 0}
        return {"channel": channel, "recover": True, "epoch": place[0], "offset": place[1]}

    def _subscribed(self, channel: str, answer: asyncio.Future[dict[str, Any]]) -> None:
        self._subscribing.discard(channel)
        if answer.cancelled():
            return
        reply = answer.result()
        if "subscribe" in reply:
            self._position(channel, reply["subscribe"])
            return
        error = reply["error"]
        if error.get("temporary") or error["code"] == 105:
            self._later(channel)
        else:
            self.refused.add(channel)

    def _later(self, channel: str) -> None:
        self._loop.call_later(0.3 + 0.7 * self._noise.random(), self.subscribe, channel)

    def _position(self, channel: str, told: dict[str, Any]) -> None:
        offset = int(told.get("offset", 0))
        missed = told.get("publications") or ()
        if told.get("recovered") and missed:
            offset = int(missed[-1]["offset"])
        self.at[channel] = (str(told.get("epoch", "")), offset)

    def mount_twice(self, channel: str) -> None:
        """Leave and return twice in one tick, as StrictMode does; `presence` in the same frame."""
        if not self._live or channel in self._subscribing or channel not in self.wants:
            return
        self._subscribing.add(channel)
        wish, name = self._wish(channel), {"channel": channel}
        commands = [("unsubscribe", name), ("subscribe", wish), ("presence", name)]
        commands += [("unsubscribe", name), ("subscribe", wish)]
        answers = self._send(*commands)
        answers[-1].add_done_callback(lambda done: self._subscribed(channel, done))

    async def rpc(self, method: str, params: dict[str, Any], patience_s: float) -> dict[str, Any] | None:
        """Ask until the answer is not a temporary error; None when patience ended or it was refused."""
        until = self._loop.time() + patience_s
        while self._loop.time() < until and not self.over:
            if self._live:
                (answer,) = self._send(("rpc", {"method": method, "data": params}))
                await asyncio.wait({answer}, timeout=ANSWER_S)
                if answer.done() and not answer.cancelled():
                    reply = answer.result()
                    if "rpc" in reply:
                        found: dict[str, Any] = reply["rpc"]["data"]
                        return found
                    if not reply["error"].get("temporary"):
                        return None
            await asyncio.sleep(0.2 + 0.3 * self._noise.random())
        return None

    # -- received frames ------------------------------------------------------------------------------------

    def _got(self, frames: bytes) -> None:
        assert self._tap is not None
        self._heard_at = self._loop.time()
        self._tap.received(frames)
        for line in frames.split(b"\n"):
            if not line:
                continue
            if line == b"{}":
                if self.wire is not None:
                    self.wire.say("{}")
                continue
            found = _decode(line)
            if "push" in found:
                self._push(found["push"])
            else:
                future = self._asked.pop(int(found["id"]), None)
                if future is not None and not future.done():
                    future.set_result(found)

    def _push(self, push: dict[str, Any]) -> None:
        channel = str(push.get("channel", ""))
        if "pub" in push:
            offset = int(push["pub"].get("offset", 0))
            if offset and channel in self.at:
                self.at[channel] = (self.at[channel][0], offset)
        elif "unsubscribe" in push:
            if int(push["unsubscribe"].get("code", 0)) >= 2500:
                self._later(channel)
            else:
                self.refused.add(channel)

    def granted(self, channel: str) -> None:
        """It was added (again): a page subscribes when it learns of this."""
        self.refused.discard(channel)
        self.at.pop(channel, None)
        if channel not in self.wants:
            self.wants.append(channel)
        self.subscribe(channel)
