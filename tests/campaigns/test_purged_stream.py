"""NATS's log stream is purged while every gateway is down: no client is told that nothing is missing (items 39,
pairs).
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import nats
import pytest

from tests.acceptance.fleet import Fleet, engines, shared
from tests.campaigns import follower
from tests.campaigns.caller import calling
from tests.campaigns.follower import SERVED
from tests.campaigns.watcher import RawWatcher
from tests.campaigns.writer import Writer
from tests.history import Bounds, Recorder, check, report, summary
from tests.timing import within

pytestmark = pytest.mark.acceptance


async def test_a_purge_and_a_restart(tmp_path: Path) -> None:
    """Two gateways are killed, the stream is purged, they restart, and the log grows past the readers' positions."""
    recorder, token = Recorder(), follower.token("ada", tenant="default")
    async with engines() as (broker, _, store_url):
        built = Fleet(tmp_path, shared(broker.url, store_url, **SERVED))
        tasks: list[asyncio.Task[None]] = []
        try:
            gateways = await built.gateways(2)
            async with calling(gateways[0].port, token, recorder, "ada-rpc", "ada") as ada:
                channel = f"thread:{(await ada.rpc('thread.create'))['thread_id']}"
            watchers = [
                RawWatcher([one.port], token, channel, recorder=recorder, reader=f"w{number}", user="ada")
                for number, one in enumerate(gateways)
            ]
            tasks = [asyncio.create_task(one.run()) for one in watchers]
            async with asyncio.timeout(within(20)):
                for one in watchers:
                    await one.live.wait()
            writer = Writer([one.port for one in gateways], channel, "mark", 50, within(20), recorder)
            for number in range(10):
                await writer.publish(f"before-{number}")
            await asyncio.sleep(within(0.3))
            for gateway in gateways:
                gateway.kill()
            client = await nats.connect(broker.url)
            await client.request("$JS.API.STREAM.PURGE.narthex-log", b"", timeout=within(5))
            await client.close()
            await asyncio.gather(*(gateway.start() for gateway in gateways))
            for number in range(15):
                await writer.publish(f"after-{number}")
            async with asyncio.timeout(within(40)):
                while any((one.epoch, one.offset) != writer.acks[-1][:2] for one in watchers):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            writer.drop()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.to_thread(built.end)
    findings = check(recorder.history(), Bounds(stale_s=0.0, run_end_s=0.0))
    counts = summary(recorder.history())
    print(f"\npurge and restart: {counts}")
    assert not findings, report(findings)
    assert counts["acknowledged"] == 25
    assert counts["unrecovered"] >= 2
    assert counts["epoch_changes"] == 2  # one each: of the thread, and of the user's own channel
