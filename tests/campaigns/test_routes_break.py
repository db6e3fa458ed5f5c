"""A route between two NATS servers breaks for a second, and no gateway loses its own connection (issue 11, item 37).

Publications, removals and disconnections at one server do not reach the other, without any sign. Afterwards the
channels are quiet: a gateway must find out by itself. The history checker judges what clients received.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from narthex.app.staleness import BOUND_S
from tests.acceptance.fleet import ADMIN_KEY, Fleet, engines, shared
from tests.acceptance.program import Program
from tests.campaigns import follower
from tests.campaigns.caller import Caller, calling
from tests.campaigns.follower import SERVED
from tests.campaigns.routes import RoutedCluster, RoutedServer, routed_cluster
from tests.campaigns.watcher import RawWatcher
from tests.campaigns.writer import Writer
from tests.history import Bounds, Recorder, check, report, summary
from tests.timing import within

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(240)]

BROKEN_S: Final = 1.0
KNOWN_WITHIN_S: Final = (
    BROKEN_S + BOUND_S + within(1)
)  # counted from the acknowledgement; the route is restored meanwhile
THREADS: Final = 4
BURST: Final = 5


def token(user: str) -> str:
    """A token of the server API's default tenant."""
    return follower.token(user, tenant="default")


class Sides(NamedTuple):
    """A gateway at the stream's leader, one at a follower, and the route between them."""

    cluster: RoutedCluster
    leader: RoutedServer
    follower: RoutedServer
    near: Program
    far: Program
    recorder: Recorder

    def writer(self, channel: str) -> Writer:
        """Publishes at the leader's gateway."""
        return Writer([self.near.port], channel, uuid.uuid4().hex[:8], 50, within(20), self.recorder)


@contextlib.asynccontextmanager
async def sides(directory: Path, *arguments: str) -> AsyncIterator[Sides]:
    """Start everything."""
    async with routed_cluster() as cluster, engines() as (_, _, store_url):
        built = Fleet(directory, shared(cluster.url, store_url, **SERVED))
        try:
            await built.gateway(*arguments)  # creates the stream, so that it has a leader
            leader = await cluster.leader()
            follower = next(server for server in cluster.servers if server is not leader)
            await asyncio.to_thread(built.end)
            near = await built.gateway(*arguments, NARTHEX_BROKER_URL=leader.url)
            far = await built.gateway(*arguments, NARTHEX_BROKER_URL=follower.url)
            yield Sides(cluster, leader, follower, near, far, Recorder())
            print(built.log[-20_000:] if os.environ.get("NARTHEX_TEST_LOG") else "", flush=True)
        finally:
            await asyncio.to_thread(built.end)


@contextlib.asynccontextmanager
async def watched(all_: Sides, channel: str, users: list[str]) -> AsyncIterator[list[RawWatcher]]:
    """One watcher per user at the follower's gateway, and one at the leader's."""
    made = [
        RawWatcher(
            [port], token(user), channel, recorder=all_.recorder, reader=f"{user}-{side}-{channel}", user=user
        )
        for user in users
        for side, port in (("near", all_.near.port), ("far", all_.far.port))
    ]
    tasks = [asyncio.create_task(one.run()) for one in made]
    try:
        async with asyncio.timeout(within(20)):
            for one in made:
                await one.live.wait()
        yield made
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def round_(all_: Sides, ada: Caller, number: int) -> None:
    """One broken route, with publications, notices, a removal and a disconnection meanwhile."""
    bob, carol = f"bob{number}", f"carol{number}"
    channels = []
    for _ in range(THREADS):
        thread = (await ada.rpc("thread.create"))["thread_id"]
        channels.append(f"thread:{thread}")
        for user in (bob, carol):
            await ada.rpc("thread.members.add", thread_id=thread, user_id=user)
    removed = channels[0]
    async with contextlib.AsyncExitStack() as stack:
        watchers: dict[str, list[RawWatcher]] = {}
        for channel in channels:
            users = ["ada", bob] if channel == removed else ["ada"]
            watchers[channel] = await stack.enter_async_context(watched(all_, channel, users))
        caller = await stack.enter_async_context(
            calling(all_.far.port, token(carol), all_.recorder, f"{carol}-far", carol)
        )
        writers = [all_.writer(channel) for channel in (*channels, "user:ada")]
        await asyncio.gather(*(writer.publish(f"{number}-before-{writer.channel}") for writer in writers))
        loop = asyncio.get_running_loop()
        async with all_.cluster.cut(all_.leader, all_.follower):
            until = loop.time() + BROKEN_S
            asked_at = all_.recorder.now()
            await ada.rpc("thread.members.remove", thread_id=removed.partition(":")[2], user_id=bob)
            all_.recorder.removed(removed, bob, asked_at)
            answer = await all_.near.post(
                "/api/v1/disconnect",
                json={"tenant": "default", "user": carol, "code": 3503, "reason": "out"},
                headers={"Authorization": f"Bearer {ADMIN_KEY}"},
            )
            assert answer.status_code == 200, answer.text
            told_at = loop.time()
            for turn in range(BURST):
                await asyncio.gather(
                    *(writer.publish(f"{number}-{turn}-{writer.channel}") for writer in writers)
                )
            await asyncio.sleep(max(0.0, until - loop.time()))
        # A reader at the follower reconnects at once: its missing events must not be reported as recovered.
        for channel in channels[1:3]:
            watchers[channel][1].cut()
        async with asyncio.timeout(KNOWN_WITHIN_S):
            await caller.ended.wait()
        print(f"\ndisconnected after {caller.closed_at - told_at:.2f} s with {caller.code}")
        assert caller.code == 3503
        await asyncio.sleep(
            max(0.0, told_at + KNOWN_WITHIN_S - loop.time())
        )  # nothing to wait for: the bound must pass
        await asyncio.gather(*(writer.publish(f"{number}-after-{writer.channel}") for writer in writers))
        await asyncio.sleep(within(0.5))
        for writer in writers:
            writer.drop()


def judge(recorder: Recorder, rounds: int) -> None:
    """No silence, no false recovery, no delivery after a removal, and something was judged."""
    findings = check(
        recorder.history(),
        Bounds(silence_s=KNOWN_WITHIN_S, removal_s=KNOWN_WITHIN_S, stale_s=0.0, run_end_s=0.0),
    )
    counts = summary(recorder.history())
    print(f"{rounds} broken routes: {counts}")
    assert not findings, report(findings)
    assert counts["acknowledged"] == rounds * (THREADS + 1) * (BURST + 2)
    assert counts["recovered"] >= rounds
    assert counts.get("epoch_changes", 0) == 0


async def campaign(directory: Path, rounds: int) -> None:
    """Several rounds on one cluster."""
    async with sides(directory) as all_:
        async with calling(all_.near.port, token("ada"), all_.recorder, "ada-rpc", "ada") as ada:
            for number in range(rounds):
                await round_(all_, ada, number)
        if path := os.environ.get("NARTHEX_TEST_HISTORY"):
            all_.recorder.save(Path(path))
        judge(all_.recorder, rounds)


async def test_a_route_that_breaks_while_the_owner_of_a_run_is_killed(tmp_path: Path) -> None:
    """Both together: notices that the other gateway missed, and a takeover; readers there see the run to its one
    end.
    """
    async with sides(tmp_path, "--agent", "tests.campaigns.agents:again") as all_:
        async with contextlib.AsyncExitStack() as stack:
            ada = await stack.enter_async_context(
                calling(all_.near.port, token("ada"), all_.recorder, "ada-rpc", "ada")
            )
            far = await stack.enter_async_context(
                calling(all_.far.port, token("ada"), all_.recorder, "ada-far", "ada")
            )
            thread = (await ada.rpc("thread.create"))["thread_id"]
            await far.command("subscribe", channel=f"thread:{thread}", recoverable=True, positioned=True)
            await ada.rpc(
                "run.start", thread_id=thread, text="rate=10 seconds=4", client_message_id="c1", agent="again"
            )
            async with asyncio.timeout(within(20)):
                await far.until("TEXT_MESSAGE_CONTENT")
            async with all_.cluster.cut(all_.leader, all_.follower):
                await asyncio.sleep(BROKEN_S / 2)
                all_.near.kill()
                await asyncio.sleep(BROKEN_S / 2)
            async with asyncio.timeout(within(60)):
                await far.until("RUN_FINISHED")
        findings = check(
            all_.recorder.history(), Bounds(silence_s=KNOWN_WITHIN_S, stale_s=0.0, run_end_s=0.0)
        )
        counts = summary(all_.recorder.history())
        print(f"\nroute and owner: {counts}")
        assert not findings, report(findings)
        assert counts["runstarted"] == 1


async def test_a_route_that_breaks_for_a_second(tmp_path: Path) -> None:
    """The short variant."""
    await campaign(tmp_path, rounds=1)


@pytest.mark.soak
@pytest.mark.timeout(1800)
async def test_thirty_routes_that_break(tmp_path: Path) -> None:
    """Thirty, or `NARTHEX_TEST_ROUNDS`."""
    await campaign(tmp_path, rounds=int(os.environ.get("NARTHEX_TEST_ROUNDS", "30")))
