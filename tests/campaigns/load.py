"""A load that accounts for every publication: writers that know what was acknowledged, watchers that know what came.

Not here: faults (the tests inject them), processes (`tests/acceptance/fleet.py`). Rules: a writer repeats a
publication under its key until it is acknowledged, at any gateway; a watcher comes back as SDKs do (full jitter,
exponential) and recovers; nothing is judged while it runs, all of it in `Load.verdict`.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from tests.acceptance.crowd import Client
from tests.acceptance.fleet import ADMIN_KEY
from tests.acceptance.program import Program
from tests.acceptance.sdk import person
from tests.timing import within

BACKOFF_FIRST_S: Final = 0.5  # centrifuge-js: minReconnectDelay, maxReconnectDelay
BACKOFF_LAST_S: Final = 20.0
CONNECT_S: Final = 5.0  # its time-out
SILENCE_S: Final = within(
    25
)  # a publish that is neither acknowledged nor refused by then was met with silence
SLOW_S: Final = 5.0
_decode: Final = msgspec.json.decode


class Ack(NamedTuple):
    """Where an acknowledged publication lies."""

    epoch: str
    offset: int
    mark: str


class Writer:
    """Publishes to one channel, one publication after the other, at whichever gateway answers.

    Attributes:
        acks: in the order of sending.
        errors: answers and connections that were no acknowledgement.
        silences: requests that nobody answered within `SILENCE_S`.
        slowest_s: the longest time until any answer.
        slow: answers that took over `SLOW_S`, in words.
    """

    def __init__(self, ports: Sequence[int], channel: str, name: str, rate: float) -> None:
        self.acks: list[Ack] = []
        self.errors = 0
        self.silences = 0
        self.slowest_s = 0.0
        self.slow: list[str] = []
        self.stopping = False
        self._ports = ports
        self._channel = channel
        self._name = name
        self._period_s = 1 / rate
        self._port = 0
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def run(self) -> None:
        """Until `stopping`; what is being sent then is sent to its end."""
        loop = asyncio.get_running_loop()
        await asyncio.sleep(random.random() * self._period_s)
        next_at = loop.time()
        number = 0
        while not self.stopping:
            await self.publish(f"{self._name}:{number}")
            number += 1
            next_at = max(next_at + self._period_s, loop.time() - 1.0)
            await asyncio.sleep(max(0.0, next_at - loop.time()))
        self.drop()

    async def publish(self, mark: str) -> Ack:
        """One publication, however often it must be tried."""
        while True:
            began = asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(SILENCE_S):
                    ack = await self._post(mark)
            except TimeoutError:
                self.silences += 1
                ack = None
            except (OSError, EOFError):
                ack = None
            took = asyncio.get_running_loop().time() - began
            self.slowest_s = max(self.slowest_s, took)
            if took > SLOW_S:
                self.slow.append(f"{took:.1f} s at port {self._port}, {'ack' if ack else 'no ack'}")
            if ack is not None:
                self.acks.append(ack)
                return ack
            self.errors += 1
            self.drop()
            await asyncio.sleep(random.uniform(0.02, 0.2))

    async def _post(self, mark: str) -> Ack | None:
        if self._stream is None:
            self._port = random.choice(self._ports)
            self._stream = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._stream
        data = {"type": "CUSTOM", "name": "campaign", "value": mark}
        body = msgspec.json.encode({"channel": self._channel, "data": data, "key": mark})
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
        placed = _decode(answer)
        return Ack(placed["epoch"], placed["offset"], mark)

    def drop(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None


class Watcher:
    """One subscriber of one channel, through any number of connections.

    Attributes:
        seen: what its callback was given, by (epoch, offset).
        twice: positions that it was given again.
        gaps: offsets that followed another than their predecessor, without an explicit `recovered: false`.
        unrecovered: how often it was told `recovered: false`.
        resumed_s: how long each interruption took.
    """

    def __init__(self, ports: Sequence[int], token: str, channel: str) -> None:
        self.seen: dict[tuple[str, int], str] = {}
        self.twice: list[tuple[str, int]] = []
        self.gaps: list[str] = []
        self.unrecovered = 0
        self.resumed_s: list[float] = []
        self.live = asyncio.Event()
        self.epoch = ""
        self.offset = 0
        self.down_at: float | None = None
        self._ports = ports
        self._token = token
        self._channel = channel
        self._attempt = 0
        self._client: Client | None = None

    async def run(self) -> None:
        """Until it is cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(
                OSError, EOFError, AssertionError, TimeoutError
            ):  # all the same to an SDK
                await self._life()
            if self.down_at is None and self.live.is_set():
                self.down_at = loop.time()
            self.live.clear()
            ceiling = min(BACKOFF_LAST_S, BACKOFF_FIRST_S * 2**self._attempt)
            self._attempt += 1
            await asyncio.sleep(random.uniform(0, ceiling))

    def cut(self) -> None:
        """Drop the connection, as a bad network does."""
        if self._client is not None:
            self._client.end()

    async def _life(self) -> None:
        client = self._client = Client("127.0.0.1", random.choice(self._ports), self._token)
        try:
            async with asyncio.timeout(CONNECT_S):
                await client.live()
                body: dict[str, Any] = {"channel": self._channel, "recoverable": True, "positioned": True}
                if self.epoch:
                    body |= {"recover": True, "epoch": self.epoch, "offset": self.offset}
                client.send(msgspec.json.encode({"id": 2, "subscribe": body}).decode())
            while True:
                opcode, payload = await client.frame()
                if opcode == 8:
                    return
                if payload == b"{}":
                    client.send("{}")
                    continue
                for line in payload.split(b"\n"):
                    if line == b"{}":
                        client.send("{}")
                    elif line:
                        self._object(_decode(line))
        finally:
            client.end()

    def _object(self, found: dict[str, Any]) -> None:
        push = found.get("push")
        if push is not None:
            if push.get("channel") == self._channel and "pub" in push:
                self._publication(push["pub"])
        elif found.get("id") == 2:
            assert "subscribe" in found, found
            self._subscribed(found["subscribe"])

    def _subscribed(self, reply: dict[str, Any]) -> None:
        was_there = bool(self.epoch)
        if was_there and not reply.get("recovered"):
            self.unrecovered += 1
            self.epoch, self.offset = reply["epoch"], int(reply.get("offset", 0))
        self.epoch = reply["epoch"]
        if not was_there:
            self.offset = int(reply.get("offset", 0))
        elif reply.get("recovered"):
            for publication in reply.get("publications", ()):
                self._publication(publication)
        self._attempt = 0
        self.live.set()
        if self.down_at is not None:
            self.resumed_s.append(asyncio.get_running_loop().time() - self.down_at)
            self.down_at = None

    def _publication(self, publication: dict[str, Any]) -> None:
        place = (self.epoch, int(publication["offset"]))
        if place in self.seen:
            self.twice.append(place)
            return
        if place[1] != self.offset + 1:
            self.gaps.append(f"{self._channel} {self.epoch}: {self.offset} -> {place[1]}")
        self.offset = place[1]
        self.seen[place] = str(publication["data"]["value"])


class Verdict(NamedTuple):
    """What a campaign came to. `lost` are acknowledged publications that a watcher was not given."""

    acknowledged: int
    errors: int
    silences: int
    slowest_s: float
    slow: list[str]
    deliveries: int
    lost: int
    twice: int
    gaps: list[str]
    disordered: int
    unrecovered: int
    epochs: int
    resumed_s: list[float]

    @property
    def resumed_in_time(self) -> float:
        """The share of interruptions that were over within 10 s."""
        return sum(one <= 10 for one in self.resumed_s) / max(1, len(self.resumed_s))

    def __str__(self) -> str:
        times = sorted(self.resumed_s) or [0.0]
        return (
            f"{self.acknowledged} acknowledged, {self.deliveries} delivered, lost {self.lost}, twice {self.twice}, "
            f"gaps {len(self.gaps)}, disordered {self.disordered}, errors {self.errors}, silences {self.silences}, "
            f"slowest answer {self.slowest_s:.1f} s, slow {len(self.slow)}, "
            f"recovered:false {self.unrecovered}, epochs {self.epochs}, "
            f"{len(self.resumed_s)} interruptions: p50 {times[len(times) // 2]:.2f} s, "
            f"p99 {times[int(len(times) * 0.99)]:.2f} s, within 10 s {self.resumed_in_time:.2%}"
        )


class Load:
    """Writers and watchers on gateways that may come and go on their ports.

    Args:
        gateways: all of one fleet.
        channels: how many threads.
        rate: publications a second, over all.
        writers: of each channel.
        watchers: of each channel.
    """

    def __init__(
        self, gateways: Sequence[Program], *, channels: int, rate: float, writers: int = 2, watchers: int = 2
    ) -> None:
        self._gateways = gateways
        self._ports = [gateway.port for gateway in gateways]
        self._channels = channels
        self._rate = rate
        self._per_channel = (writers, watchers)
        self.writers: list[Writer] = []
        self.watchers: dict[str, list[Watcher]] = defaultdict(list)
        self._writing: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []
        self._began = 0.0
        self.seconds = 0.0

    async def start(self) -> None:
        """Make the threads, subscribe everybody, then begin to write."""
        token = await self._gateways[0].login("ada@example.com")
        async with person(self._gateways[0].ws, token) as ada:
            threads = [(await ada.rpc("thread.create"))["thread_id"] for _ in range(self._channels)]
        writers, watchers = self._per_channel
        for thread_id in threads:
            channel = f"thread:{thread_id}"
            rate = self._rate / self._channels / writers
            self.writers += [
                Writer(self._ports, channel, f"{thread_id[:6]}.{n}", rate) for n in range(writers)
            ]
            self.watchers[channel] += [Watcher(self._ports, token, channel) for _ in range(watchers)]
        self._watching = [asyncio.create_task(one.run()) for one in self.all_watchers]
        async with asyncio.timeout(within(30)):
            for watcher in self.all_watchers:
                await watcher.live.wait()
        self._writing = [asyncio.create_task(one.run()) for one in self.writers]
        self._began = asyncio.get_running_loop().time()

    @property
    def all_watchers(self) -> list[Watcher]:
        """Of every channel."""
        return [one for many in self.watchers.values() for one in many]

    async def resumed(self, timeout_s: float = 60.0) -> None:
        """Wait until everybody is subscribed again."""
        async with asyncio.timeout(within(timeout_s)):
            while not all(one.live.is_set() for one in self.all_watchers):  # noqa: ASYNC110 - events of many
                await asyncio.sleep(0.05)

    async def progress(self, timeout_s: float = 60.0) -> float:
        """Wait until every writer got another acknowledgement; how long that took."""
        began = asyncio.get_running_loop().time()
        before = [len(writer.acks) for writer in self.writers]
        async with asyncio.timeout(within(timeout_s)):
            while any(len(one.acks) <= was for one, was in zip(self.writers, before, strict=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # acknowledgements of many
        return asyncio.get_running_loop().time() - began

    async def settle(self, timeout_s: float = 60.0) -> None:
        """Stop writing, then wait until every watcher is at the end of its channel; stop all."""
        for writer in self.writers:
            writer.stopping = True
        async with asyncio.timeout(within(timeout_s)):
            await asyncio.gather(*self._writing)
            self.seconds = asyncio.get_running_loop().time() - self._began
            for channel, watchers in self.watchers.items():
                closing = Writer(self._ports, channel, "end", 1)
                last = await closing.publish(f"end:{channel}")
                closing.drop()
                for watcher in watchers:
                    while (watcher.epoch, watcher.offset) != (last.epoch, last.offset):  # noqa: ASYNC110 - of many
                        await asyncio.sleep(0.02)
        await self.stop()

    async def stop(self) -> None:
        """End every task."""
        tasks = [*self._writing, *self._watching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self.writers:
            writer.drop()
        await asyncio.sleep(0.05)  # a closed transport ends in a later turn of the loop

    def verdict(self) -> Verdict:
        """Judge what was seen against what was acknowledged."""
        lost = disordered = 0
        epochs = {ack.epoch for writer in self.writers for ack in writer.acks}
        for writer in self.writers:
            for watcher in self.watchers[writer._channel]:
                lost += sum(watcher.seen.get((ack.epoch, ack.offset)) != ack.mark for ack in writer.acks)
            pairs = zip(writer.acks, writer.acks[1:], strict=False)
            disordered += sum(one.epoch == two.epoch and one.offset >= two.offset for one, two in pairs)
        watchers = self.all_watchers
        return Verdict(
            acknowledged=sum(len(writer.acks) for writer in self.writers),
            errors=sum(writer.errors for writer in self.writers),
            silences=sum(writer.silences for writer in self.writers),
            slowest_s=max(writer.slowest_s for writer in self.writers),
            slow=[slow for writer in self.writers for slow in writer.slow],
            deliveries=sum(len(watcher.seen) for watcher in watchers),
            lost=lost,
            twice=sum(len(watcher.twice) for watcher in watchers),
            gaps=[gap for watcher in watchers for gap in watcher.gaps],
            disordered=disordered,
            unrecovered=sum(watcher.unrecovered for watcher in watchers),
            epochs=len(epochs),
            resumed_s=[one for watcher in watchers for one in watcher.resumed_s],
        )


@contextlib.asynccontextmanager
async def under_load(load: Load) -> Any:
    """Run a load; stopped whatever happens."""
    try:
        await load.start()
        yield load
    finally:
        await load.stop()
