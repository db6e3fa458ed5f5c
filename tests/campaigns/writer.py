"""A writer that records acknowledgements: it offers publications at fixed times, regardless of their outcome.

An open loop: publications that a fault delays are sent after it, so all offered ones are counted. Rules: a
publication is repeated under its key until it is acknowledged, at any gateway, but only for as long as a repeat is
promised to be found (docs/guarantees.md): then it is offered again as another one; one connection, kept alive.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import Final, NamedTuple

import msgspec

from tests.acceptance.fleet import ADMIN_KEY
from tests.history import Recorder
from tests.timing import within

SILENCE_S: Final = within(
    25
)  # a publish that is neither acknowledged nor refused by then counts as unanswered
SLOW_S: Final = 5.0
REPEATED_S: Final = 100.0
"""For how long after the first attempt another one is begun: keys count for 120 s, and an attempt may take 12. No time
unit makes it longer: a repeat that comes later may be a second publication, which would be no fault."""


class Ack(NamedTuple):
    """The position of an acknowledged publication, the time of the acknowledgement, and how long after it was due."""

    epoch: str
    offset: int
    mark: str
    at: float
    waited_s: float


class _Placed(msgspec.Struct):
    """The answer of `/api/v1/publish`."""

    epoch: str
    offset: int


_decode: Final = msgspec.json.Decoder(_Placed).decode


def _data(mark: str) -> dict[str, str]:
    return {"type": "CUSTOM", "name": "campaign", "value": mark}


class Writer:
    """Publishes to one channel, one publication after the other, at whichever gateway answers.

    Attributes:
        channel: which.
        acks: in the order of sending.
        until: loop time from which on nothing more is offered; what was is sent to its end.
        errors: answers and connections that were no acknowledgement.
        silences: requests that nobody answered within `patience_s`.
        slowest_s: the longest time until any answer.
        slow: answers that took over `SLOW_S`, in words.
        unknown: publications whose outcome was not learned within `REPEATED_S`.
        recorder: where attempts and acknowledgements are written down, under the name that clients give the channel.
    """

    def __init__(
        self,
        ports: Sequence[int],
        channel: str,
        name: str,
        rate: float,
        patience_s: float,
        recorder: Recorder | None = None,
    ) -> None:
        self.acks: list[Ack] = []
        self.errors = 0
        self.silences = 0
        self.slowest_s = 0.0
        self.slow: list[str] = []
        self.unknown = 0
        self.until: float | None = None
        self.channel = channel
        self._ports = ports
        self._name = name
        self._period_s = 1 / rate
        self._patience_s = patience_s
        self.recorder = recorder
        self._told_channel = channel.partition("/")[2] or channel
        self._port = 0
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        """Until everything that fell due before `until` is acknowledged."""
        loop = asyncio.get_running_loop()
        first = loop.time() + random.random() * self._period_s
        number = 0
        while True:
            due = first + number * self._period_s
            await asyncio.sleep(max(0.0, due - loop.time()))
            if self.until is not None and due > self.until:
                break
            await self.publish(f"{self._name}:{number}", due)
            number += 1
        self.drop()

    async def publish(self, mark: str, due: float | None = None) -> Ack:
        """One publication, however often it must be tried; `due` on the loop's clock."""
        loop = asyncio.get_running_loop()
        first: float | None = None
        due = loop.time() if due is None else due
        while True:
            began = loop.time()
            if first is None:
                first = began
            elif began - first > REPEATED_S:
                self.unknown += 1
                mark, first = f"{mark}+", began
            if self.recorder is not None:
                self.recorder.attempted(mark, self._told_channel, _data(mark))
            try:
                async with asyncio.timeout(self._patience_s):
                    placed = await self._post(mark)
            except TimeoutError:
                self.silences += 1
                placed = None
            except (OSError, EOFError):
                placed = None
            now = loop.time()
            self.slowest_s = max(self.slowest_s, now - began)
            if now - began > SLOW_S:
                answer = "ack" if placed else "no ack"
                self.slow.append(f"{now - began:.1f} s at port {self._port}, {answer}")
            if placed is not None:
                if self.recorder is not None:
                    self.recorder.acknowledged(mark, self._told_channel, placed.epoch, placed.offset)
                ack = Ack(placed.epoch, placed.offset, mark, now, now - due)
                self.acks.append(ack)
                return ack
            self.errors += 1
            self.drop()
            await asyncio.sleep(random.uniform(0.02, 0.2))

    async def _post(self, mark: str) -> _Placed | None:
        if self._stream is None:
            self._port = random.choice(self._ports)
            self._stream = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._stream
        body = msgspec.json.encode({"channel": self.channel, "data": _data(mark), "key": mark})
        writer.write(
            b"POST /api/v1/publish HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer %s\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"
            % (ADMIN_KEY.encode(), len(body), body)
        )
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        size = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        answer = await reader.readexactly(size)
        if not head.startswith(b"http/1.1 200"):
            return None
        return _decode(answer)

    def drop(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None
