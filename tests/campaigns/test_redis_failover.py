"""Redis fails over or loses power with a lost tail, with clients connected: no silent loss, no false recovery.

Judged by the history checker, which knows only what clients received. In each round a different server responds, or one
with another past: a replica that was detached and is promoted, or an append-only file without its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from tests.acceptance.fleet import Fleet, shared
from tests.acceptance.sdk import person
from tests.campaigns.test_engines_fail import postgres
from tests.campaigns.watcher import RawWatcher
from tests.campaigns.writer import SILENCE_S, Writer
from tests.history import Bounds, Kind, Recorder, check, report, summary
from tests.services import ValkeyServer, missing
from tests.timing import within
from tests.valkey_pair import ValkeyPair, valkey_pair

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(1_800)]

CHANNELS = 3
WATCHERS = 3
TAIL = 4
Fault = Callable[[ValkeyPair, Callable[[], Awaitable[None]]], Awaitable[None]]


async def promoted(pair: ValkeyPair, tail: Callable[[], Awaitable[None]]) -> None:
    """The replica is detached, misses the tail, and is promoted after `kill -9` of the primary."""
    await pair.level()
    await pair.detach()
    await tail()
    await pair.fail_over()


async def truncated(pair: ValkeyPair, tail: Callable[[], Awaitable[None]]) -> None:
    """Power loss: the end of the append-only file is lost."""
    await tail()
    await pair.truncate(random.randint(200, 4_000))


class Campaign:
    """Two gateways, channels with writers and watchers, and the history of received frames."""

    def __init__(self, ports: list[int], token: str, channels: list[str]) -> None:
        self.recorder = Recorder()
        self._channels = channels
        self._numbers = iter(range(1_000_000))
        self._publishing: set[asyncio.Task[object]] = set()
        self.writers = [
            Writer(ports, channel, f"w{number}", 1, SILENCE_S, self.recorder)
            for number, channel in enumerate(channels * 2)
        ]
        self.watchers = [
            RawWatcher(ports, token, channel, recorder=self.recorder, reader=f"r{number}", user="ada")
            for number, channel in enumerate(channels * WATCHERS)
        ]

    async def publish(self) -> None:
        """One publication of every writer, until acknowledged."""
        number = next(self._numbers)
        await asyncio.gather(*(one.publish(f"{one._name}:{number}") for one in self.writers))

    async def tail(self) -> None:
        """Publish the tail that is to be lost."""
        for _ in range(TAIL):
            await self.publish()

    async def live(self) -> None:
        """Wait until every watcher follows."""
        async with asyncio.timeout(within(60)):
            for one in self.watchers:
                await one.live.wait()

    async def level(self) -> None:
        """Publish once more and wait until every watcher received it, or is in a later epoch."""
        async with asyncio.timeout(within(60)):
            while True:
                await self.publish()
                last = {one.channel: one.acks[-1] for one in self.writers}
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(within(10)):
                        for one in self.watchers:
                            ack = last[one._channel]
                            while one.epoch != ack.epoch or one.offset < ack.offset:  # noqa: ASYNC110 - of many
                                await asyncio.sleep(0.02)
                        return

    async def round(self, pair: ValkeyPair, fault: Fault, *, busy: bool) -> None:
        """One fault, with or without publications in flight; half of the watchers are cut off meanwhile."""
        await self.level()
        stop = asyncio.Event()

        async def publishing(writer: Writer) -> None:
            while not stop.is_set():
                await writer.publish(f"{writer._name}:{next(self._numbers)}")
                await asyncio.sleep(0.01)

        tasks = [asyncio.create_task(publishing(one)) for one in self.writers] if busy else []
        excuses = (Kind.SILENCE, Kind.NO_REPLY, Kind.EPOCH_NOT_TOLD)
        with self.recorder.fault(fault.__name__, excuses=excuses):
            await fault(pair, self._still if busy else self.tail)
            for one in self.watchers[::2]:
                one.cut()
            if busy:
                await self._acknowledged(3)
            else:
                await self.publish()
            stop.set()
            await asyncio.gather(*tasks)
            await self.live()

    async def _still(self) -> None:
        """With busy writers their own publications are the tail."""
        await self._acknowledged(TAIL)

    async def _acknowledged(self, more: int) -> None:
        """Wait until every writer has this many further acknowledgements."""
        wanted = [(one, len(one.acks) + more) for one in self.writers]
        async with asyncio.timeout(within(60)):
            while any(len(one.acks) < count for one, count in wanted):  # noqa: ASYNC110 - events of many
                await asyncio.sleep(0.01)


def with_clock(server: ValkeyServer, offset: str) -> None:
    """From its next start the server's wall clock is off; elapsed time is not."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        missing("libfaketime", "apt-get install libfaketime")
    server.through = ("env", f"LD_PRELOAD={found[0]}", f"FAKETIME={offset}", "DONT_FAKE_MONOTONIC=1")


@contextlib.asynccontextmanager
async def campaign(directory: Path, pair: ValkeyPair) -> AsyncIterator[Campaign]:
    """Gateways and clients; the history is judged at the end."""
    async with postgres() as (_, store_url):
        fleet = Fleet(directory, shared(pair.url, store_url))
        tasks: list[asyncio.Task[None]] = []
        try:
            gateways = await fleet.gateways(2)
            token = await gateways[0].login("ada@example.com")
            async with person(gateways[0].ws, token) as ada:
                threads = [(await ada.rpc("thread.create"))["thread_id"] for _ in range(CHANNELS)]
            found = Campaign([one.port for one in gateways], token, [f"thread:{one}" for one in threads])
            tasks = [asyncio.create_task(one.run()) for one in found.watchers]
            await found.live()
            yield found
            await found.level()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            history = found.recorder.history()
            counts = summary(history)
            slow = [text for one in found.writers for text in one.slow]
            print(f"\n{counts}, {len(slow)} slow answers", *slow[-5:], sep="\n")
            found.recorder.save(directory / "history.jsonl")
            findings = check(history, Bounds(reply_s=within(20), silence_s=within(10)))
            assert not findings, f"{report(findings)}\nhistory: {directory / 'history.jsonl'}"
            assert not sum(one.silences for one in found.writers), slow
            assert counts["delivered"] > 0
            assert counts["epoch_changes"] > 0, "no fault lost anything: nothing was proven"
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            for writer in found.writers if tasks else ():
                writer.drop()
            await asyncio.to_thread(fleet.end)


async def rounds(directory: Path, fault: Fault, *, busy: bool, count: int, clock: str = "") -> None:
    """This many faults of one kind; after a promotion the other server becomes the replica."""
    async with valkey_pair() as pair:
        if clock:
            await asyncio.to_thread(pair.replica.kill)
            with_clock(pair.replica, clock)
            await asyncio.to_thread(pair.replica.start)
            await pair.follow()
        async with campaign(directory, pair) as found:
            for _ in range(count):
                await found.round(pair, fault, busy=busy)
                if fault is promoted:
                    await asyncio.to_thread(pair.replica.start)
                    await pair.follow()


@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("fault", [promoted, truncated])
async def test_a_lost_tail_is_never_silent(tmp_path: Path, fault: Fault, busy: bool) -> None:
    """Two rounds of each."""
    await rounds(tmp_path, fault, busy=busy, count=2)


async def test_a_fail_over_to_a_server_with_another_clock(tmp_path: Path) -> None:
    """The promoted replica's clock is an hour ahead, and the next one's is an hour behind it."""
    await rounds(tmp_path, promoted, busy=True, count=2, clock="+3600s")


@pytest.mark.soak
@pytest.mark.parametrize("busy", [True, False], ids=["busy", "idle"])
@pytest.mark.parametrize("fault", [promoted, truncated])
async def test_thirty_lost_tails(tmp_path: Path, fault: Fault, busy: bool) -> None:
    """Thirty rounds of each."""
    await rounds(tmp_path, fault, busy=busy, count=30)
