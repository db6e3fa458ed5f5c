"""A load that accounts for every publication: writers that know the acknowledged ones, watchers that know the received
ones.

Not here: faults (the tests inject them), processes (`tests/acceptance/fleet.py`). Rules: nothing is judged while it
runs, only in `Load.verdict`; a rate counts the offered publications, and those acknowledged while they were offered,
faults included.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence
from typing import Any, NamedTuple

from tests.acceptance.program import Program
from tests.acceptance.sdk import person
from tests.campaigns.speaker import Speaker
from tests.campaigns.watcher import RawWatcher, SdkWatcher, Watcher
from tests.campaigns.writer import SILENCE_S, Writer
from tests.timing import within


class Verdict(NamedTuple):
    """The result of a campaign.

    Attributes:
        seconds: how long publications were offered.
        acknowledged: all of them, in the end; as many were offered.
        in_time: how many were acknowledged while they were offered.
        waits_s: from the time at which one was due to its acknowledgement, faults included.
        lost: acknowledged publications that a watcher did not receive.
        said: a user's messages that were answered with a run; `missing` of them are absent or duplicated.
        refused: error answers to that user, lost connections included.
    """

    seconds: float
    acknowledged: int
    in_time: int
    waits_s: list[float]
    said: int
    refused: int
    missing: list[str]
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
    def offered_rate(self) -> float:
        """Publications that were due, per second."""
        return self.acknowledged / self.seconds

    @property
    def rate(self) -> float:
        """Acknowledgements per second while publications were offered, faults included."""
        return self.in_time / self.seconds

    @property
    def resumed_in_time(self) -> float:
        """The share of interruptions that were over within 10 s."""
        return sum(one <= 10 for one in self.resumed_s) / max(1, len(self.resumed_s))

    def __str__(self) -> str:
        times, waits = sorted(self.resumed_s) or [0.0], sorted(self.waits_s) or [0.0]
        return (
            f"{self.seconds:.0f} s, {self.offered_rate:.1f}/s offered, {self.rate:.1f}/s acknowledged meanwhile, "
            f"wait p50 {waits[len(waits) // 2] * 1e3:.0f} ms, p99 {waits[int(len(waits) * 0.99)]:.2f} s, "
            f"max {waits[-1]:.2f} s; "
            f"{self.acknowledged} acknowledged, {self.deliveries} delivered, lost {self.lost}, twice {self.twice}, "
            f"said {self.said}, missing {len(self.missing)}, refused {self.refused}, "
            f"gaps {len(self.gaps)}, disordered {self.disordered}, errors {self.errors}, silences {self.silences}, "
            f"slowest answer {self.slowest_s:.1f} s, slow {len(self.slow)}, "
            f"recovered:false {self.unrecovered}, epochs {self.epochs}, "
            f"{len(self.resumed_s)} interruptions: p50 {times[len(times) // 2]:.2f} s, "
            f"p99 {times[int(len(times) * 0.99)]:.2f} s, within 10 s {self.resumed_in_time:.2%}"
        )


class Load:
    """Writers and watchers on gateways that may stop and restart on their ports.

    Args:
        gateways: all of one fleet.
        channels: how many threads.
        rate: publications a second, over all.
        writers: of each channel.
        watchers: of each channel.
        sdks: on how many channels the first watcher is the real SDK.
        patience_s: after which a writer without an answer uses another gateway.
    """

    def __init__(
        self,
        gateways: Sequence[Program],
        *,
        channels: int,
        rate: float,
        writers: int = 2,
        watchers: int = 2,
        sdks: int = 4,
        patience_s: float = SILENCE_S,
    ) -> None:
        self._gateways = gateways
        self._ports = [gateway.port for gateway in gateways]
        self._channels = channels
        self._rate = rate
        self._per_channel = (writers, watchers)
        self._sdks = sdks
        self._patience_s = patience_s
        self.writers: list[Writer] = []
        self.watchers: dict[str, list[Watcher]] = defaultdict(list)
        self._writing: list[asyncio.Task[None]] = []
        self._watching: list[asyncio.Task[None]] = []
        self._began = 0.0
        self.seconds = 0.0
        self.missing: list[str] = []

    async def start(self) -> None:
        """Create the threads, subscribe all watchers, then start to write."""
        token = await self._gateways[0].login("ada@example.com")
        async with person(self._gateways[0].ws, token) as ada:
            threads = [(await ada.rpc("thread.create"))["thread_id"] for _ in range(self._channels + 1)]
        self._token = token
        self.speaker = Speaker(self._ports, token, threads.pop())
        writers, watchers = self._per_channel
        for thread_id in threads:
            channel = f"thread:{thread_id}"
            rate = self._rate / self._channels / writers
            self.writers += [
                Writer(self._ports, channel, f"{thread_id[:6]}.{n}", rate, self._patience_s)
                for n in range(writers)
            ]
            for number in range(watchers):
                real = number == 0 and len(self.watchers) <= self._sdks
                self.watchers[channel].append(
                    (SdkWatcher if real else RawWatcher)(self._ports, token, channel)
                )
        self._watching = [asyncio.create_task(one.run()) for one in self.all_watchers]
        async with asyncio.timeout(within(30)):
            for watcher in self.all_watchers:
                await watcher.live.wait()
        self._writing = [asyncio.create_task(one.run()) for one in self.talkers]
        self._began = asyncio.get_running_loop().time()

    @property
    def talkers(self) -> list[Writer | Speaker]:
        """All clients that send."""
        return [*self.writers, self.speaker]

    @property
    def all_watchers(self) -> list[Watcher]:
        """The watchers of all channels."""
        return [one for many in self.watchers.values() for one in many]

    async def resumed(self, timeout_s: float = 60.0) -> None:
        """Wait until all watchers are subscribed again."""
        async with asyncio.timeout(within(timeout_s)):
            while not all(one.live.is_set() for one in self.all_watchers):  # noqa: ASYNC110 - events of many
                await asyncio.sleep(0.05)

    async def progress(self, timeout_s: float = 60.0) -> float:
        """Wait until every writer got another acknowledgement; returns how long that took."""
        began = asyncio.get_running_loop().time()
        before = [len(writer.acks) for writer in self.writers]
        async with asyncio.timeout(within(timeout_s)):
            while any(len(one.acks) <= was for one, was in zip(self.writers, before, strict=True)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # acknowledgements of many
        return asyncio.get_running_loop().time() - began

    async def settle(self, timeout_s: float = 60.0) -> None:
        """Stop writing, wait until every watcher is at the end of its channel, then stop all."""
        until = asyncio.get_running_loop().time()
        self.seconds = until - self._began
        for one in self.talkers:
            one.until = until
        async with asyncio.timeout(within(timeout_s)):
            await asyncio.gather(*self._writing)
            for channel, watchers in self.watchers.items():
                closing = Writer(self._ports, channel, "end", 1, self._patience_s)
                last = await closing.publish(f"end:{channel}")
                closing.drop()
                for watcher in watchers:
                    while (watcher.epoch, watcher.offset) != (last.epoch, last.offset):  # noqa: ASYNC110 - of many
                        await asyncio.sleep(0.02)
        gateway = next(one for one in self._gateways if one.process and one.process.poll() is None)
        async with person(gateway.ws, self._token) as ada:
            self.missing = await self.speaker.missing(ada)
        await self.stop()

    async def stop(self) -> None:
        """End every task."""
        tasks = [*self._writing, *self._watching]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for writer in self.writers:
            writer.drop()
        await self.speaker.drop()
        await asyncio.sleep(0.05)  # a closed transport ends in a later turn of the loop

    def verdict(self) -> Verdict:
        """Compare the received publications with the acknowledged ones."""
        lost = disordered = 0
        for writer in self.writers:
            for watcher in self.watchers[writer.channel]:
                lost += sum(watcher.seen.get((ack.epoch, ack.offset)) != ack.mark for ack in writer.acks)
            pairs = zip(writer.acks, writer.acks[1:], strict=False)
            disordered += sum(one.epoch == two.epoch and one.offset >= two.offset for one, two in pairs)
        watchers = self.all_watchers
        acks = [ack for writer in self.writers for ack in writer.acks]
        return Verdict(
            seconds=self.seconds,
            in_time=sum(ack.at <= self._began + self.seconds for ack in acks),
            waits_s=[ack.waited_s for ack in acks],
            acknowledged=len(acks),
            said=len(self.speaker.answers),
            refused=self.speaker.errors,
            missing=self.missing,
            errors=sum(writer.errors for writer in self.writers),
            silences=sum(writer.silences for writer in self.writers) + self.speaker.silences,
            slowest_s=max(one.slowest_s for one in self.talkers),
            slow=[slow for one in self.talkers for slow in one.slow],
            deliveries=sum(len(watcher.seen) for watcher in watchers),
            lost=lost,
            twice=sum(len(watcher.twice) for watcher in watchers),
            gaps=[gap for watcher in watchers for gap in watcher.gaps],
            disordered=disordered,
            unrecovered=sum(watcher.unrecovered for watcher in watchers),
            epochs=len({ack.epoch for ack in acks}),
            resumed_s=[one for watcher in watchers for one in watcher.resumed_s],
        )


@contextlib.asynccontextmanager
async def under_load(load: Load) -> Any:
    """Run a load; it is stopped in any case."""
    try:
        await load.start()
        yield load
    finally:
        await load.stop()
