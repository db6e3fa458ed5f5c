"""The contract of `ports/broker.py`: one class per numbered guarantee, run by every engine."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
from pathlib import Path

import pytest

from narthex.domain.ids import MAX_EXACT_INTEGER
from narthex.errors import DependencyError
from narthex.ports.broker import ANY_OFFSET, Broker, Control, LogMoved, Member, Position, Published
from tests.contracts.recorder import Recorder
from tests.contracts.rigs import BrokerRig, child
from tests.timing import within

ROOT = Path(__file__).parents[2]
THREAD = "default/thread:t1"


async def fill(broker: Broker, channel: str, count: int, start: int = 1) -> list[Published]:
    """Publish `{"n": start}` and so on, one after the other."""
    return [
        await broker.publish(channel, f'{{"n":{number}}}'.encode()) for number in range(start, start + count)
    ]


class TestDurableBeforeSeen:
    """Guarantee 1."""

    async def test_publication_is_in_the_log_when_publish_returns(self, broker: Broker) -> None:
        """An acknowledged publication is read back at its offset, with its data, tags and time."""
        placed = await broker.publish(
            THREAD, b'{"text":"h\xc3\xa4llo \\u0000"}', tags={"run": "r1", "x": "ä"}
        )
        page = await broker.history(THREAD)
        [found] = page.publications
        assert (found.offset, found.data, found.tags) == (
            placed.offset,
            b'{"text":"h\xc3\xa4llo \\u0000"}',
            {"run": "r1", "x": "ä"},
        )
        assert found.at > 1e9
        assert page.top == Position(placed.offset, placed.epoch)

    async def test_handler_is_told_the_same_as_the_log_holds(
        self, broker: Broker, recorder: Recorder
    ) -> None:
        """The handler's publication equals the log's, including the epoch."""
        broker.subscribe(THREAD)
        await broker.history(THREAD, limit=0)
        placed = await broker.publish(THREAD, b"[1, 2]", tags={"a": "b"})
        await recorder.until(lambda: bool(recorder.seen))
        [logged] = (await broker.history(THREAD)).publications
        assert recorder.seen == [(THREAD, logged, placed.epoch)]

    async def test_large_publications_survive_unchanged(self, broker: Broker) -> None:
        """64 KB of data, the limit of a message, is read back byte for byte."""
        data = b'"' + bytes(97 + i % 26 for i in range(64 * 1024 - 2)) + b'"'
        await broker.publish(THREAD, data)
        assert (await broker.history(THREAD)).publications[0].data == data


class TestContiguous:
    """Guarantee 2."""

    async def test_offsets_begin_at_one_without_holes(self, broker: Broker) -> None:
        """Sequential publishes get 1, 2, 3 …"""
        assert [placed.offset for placed in await fill(broker, THREAD, 5)] == [1, 2, 3, 4, 5]

    async def test_concurrent_publishers_share_one_order(self, broker: Broker) -> None:
        """50 tasks on 5 channels: every offset is given once, and the log agrees with every acknowledgement."""
        channels = [f"default/thread:c{index}" for index in range(5)]

        async def publish(task: int) -> list[tuple[str, int, bytes]]:
            done = []
            for turn in range(8):
                channel = channels[(task + turn) % 5]
                data = f'"{task}-{turn}"'.encode()
                done.append((channel, (await broker.publish(channel, data)).offset, data))
            return done

        told = [
            entry for part in await asyncio.gather(*(publish(task) for task in range(50))) for entry in part
        ]
        for channel in channels:
            mine = {offset: data for name, offset, data in told if name == channel}
            assert sorted(mine) == list(range(1, 81))
            page = await broker.history(channel)
            assert {found.offset: found.data for found in page.publications} == mine

    async def test_tenants_do_not_share_channels(self, broker: Broker) -> None:
        """The same name in two tenants is two logs."""
        await broker.publish("a/thread:x", b"1")
        await broker.publish("b/thread:x", b"2")
        assert [p.data for p in (await broker.history("a/thread:x")).publications] == [b"1"]
        assert (await broker.history("b/thread:x")).top.offset == 1

    async def test_any_printable_channel_name_is_a_log_of_its_own(self, broker: Broker) -> None:
        """Names with characters that are special to an engine neither fail nor collide."""
        names = [
            f"default/thread:{name}"
            for name in ("a.b", "a>b", "a*b", "a~b", "%", "a/b", "'", '"', "{x}", "é")
        ]
        for index, name in enumerate(names):
            await broker.publish(name, str(index).encode())
        for index, name in enumerate(names):
            assert [p.data for p in (await broker.history(name)).publications] == [str(index).encode()]


class TestOrdered:
    """Guarantee 3."""

    async def test_handler_sees_ascending_offsets(self, broker: Broker, recorder: Recorder) -> None:
        """200 concurrent publishes reach the handler as 1 … 200."""
        broker.subscribe(THREAD)
        await broker.history(THREAD, limit=0)
        await asyncio.gather(*(broker.publish(THREAD, str(n).encode()) for n in range(200)))
        await recorder.until(lambda: len(recorder.seen) >= 200)
        assert [publication.offset for publication in recorder.of(THREAD)] == list(range(1, 201))

    async def test_one_publishers_order_is_the_logs(self, broker: Broker) -> None:
        """Publishes started one after the other, without waiting in between, are stored in that order."""
        tasks = [asyncio.create_task(broker.publish(THREAD, str(n).encode())) for n in range(50)]
        placed = await asyncio.gather(*tasks)
        assert [entry.offset for entry in placed] == list(range(1, 51))


class TestAtLeastOnce:
    """Guarantee 4."""

    async def test_nothing_is_missed_between_history_and_handler(
        self, broker: Broker, recorder: Recorder
    ) -> None:
        """When a client subscribes during a stream, the handler receives every publication that history's page
        lacks.
        """
        going = asyncio.Event()

        async def stream() -> None:
            for number in range(300):
                await broker.publish(THREAD, str(number).encode())
                if number == 100:
                    going.set()

        streaming = asyncio.create_task(stream())
        await going.wait()
        broker.subscribe(THREAD)
        page = await broker.history(THREAD)
        await streaming
        await recorder.until(lambda: any(p.offset == 300 for p in recorder.of(THREAD)))
        read = {publication.offset for publication in page.publications}
        told = {publication.offset for publication in recorder.of(THREAD)}
        assert read | told == set(range(1, 301))
        assert max(read) == page.top.offset

    async def test_only_subscribed_channels_are_told(self, broker: Broker, recorder: Recorder) -> None:
        """The handler receives nothing of a channel that was never subscribed or is no longer subscribed."""
        broker.subscribe(THREAD)
        broker.subscribe(THREAD)
        broker.subscribe("default/thread:t2")
        await broker.history(THREAD, limit=0)
        await broker.history("default/thread:t2", limit=0)
        await broker.publish("default/thread:t3", b"1")
        await broker.publish("default/thread:t2", b"1")
        await recorder.until(lambda: bool(recorder.seen))
        broker.unsubscribe("default/thread:t2")
        await broker.publish(THREAD, b"2")
        await recorder.until(lambda: bool(recorder.of(THREAD)))
        assert {channel for channel, _, _ in recorder.seen} == {THREAD, "default/thread:t2"}

    async def test_subscribing_again_works(self, broker: Broker, recorder: Recorder) -> None:
        """An unsubscribe followed at once by a subscribe leaves the channel subscribed."""
        broker.subscribe(THREAD)
        await broker.history(THREAD, limit=0)
        broker.unsubscribe(THREAD)
        broker.subscribe(THREAD)
        await broker.history(THREAD, limit=0)
        await broker.publish(THREAD, b"1")
        await recorder.until(lambda: bool(recorder.seen))


class TestEpoch:
    """Guarantee 5."""

    async def test_epoch_survives_a_clean_restart(self, broker_rig: BrokerRig) -> None:
        """Stop and start on the same data: log, position and epoch are unchanged, also for an empty channel."""
        first = broker_rig.make()
        await first.start(Recorder(), "n1")
        placed = (await fill(first, THREAD, 3))[-1]
        empty = (await first.history("default/thread:empty", limit=0)).top
        await first.stop()
        second = broker_rig.make()
        await second.start(Recorder(), "n2")
        page = await second.history(THREAD, since=Position(1, placed.epoch))
        assert page.top == Position(3, placed.epoch)
        assert [found.offset for found in page.publications] == [2, 3]
        assert page.complete
        assert (await second.history("default/thread:empty", limit=0)).top == empty
        assert (await second.publish(THREAD, b"4")).offset == 4
        await second.stop()

    async def test_first_publication_keeps_the_empty_channels_epoch(self, broker: Broker) -> None:
        """A subscriber of an empty channel recovers its first publications."""
        top = (await broker.history(THREAD, limit=0)).top
        assert top.offset == 0
        assert top.epoch
        placed = await broker.publish(THREAD, b"1")
        assert placed.epoch == top.epoch
        assert (await broker.history(THREAD, since=top)).complete

    async def test_removed_channel_begins_a_new_epoch(self, broker: Broker) -> None:
        """After `remove` the log is empty, starts at 1 again and keeps its new epoch."""
        placed = (await fill(broker, THREAD, 3))[-1]
        await broker.remove(THREAD)
        page = await broker.history(THREAD, since=Position(3, placed.epoch))
        assert not page.complete
        assert page.publications == []
        assert page.top.offset == 0
        assert page.top.epoch != placed.epoch
        again = await broker.publish(THREAD, b"1")
        assert again == Published(1, page.top.epoch)
        await broker.remove(THREAD)
        third = (await broker.history(THREAD, limit=0)).top
        assert third.epoch not in (placed.epoch, again.epoch)

    async def test_remove_forgets_keys(self, broker: Broker) -> None:
        """A key of the removed log is unknown in the next one."""
        await broker.publish(THREAD, b"1", key="k")
        await broker.remove(THREAD)
        assert not (await broker.publish(THREAD, b"2", key="k")).duplicate

    async def test_other_epoch_is_never_recovered(self, broker: Broker) -> None:
        """A position of another log recovers nothing, and the page reports it."""
        await fill(broker, THREAD, 3)
        page = await broker.history(THREAD, since=Position(1, "someother"))
        assert (page.publications, page.complete, page.top.offset) == ([], False, 3)

    async def test_acknowledged_publications_survive_kill_9(self, broker_rig: BrokerRig) -> None:
        """A publisher is killed during its work, three times: every acknowledged publication is at its offset."""
        acknowledged: dict[tuple[str, int], str] = {}
        epochs: dict[str, set[str]] = {}
        for turn in range(3):
            told = await asyncio.to_thread(_publish_and_kill, broker_rig.spec(), turn * 1_000_000, 400)
            for line in told:
                channel, offset, epoch, number = line.split()
                acknowledged.setdefault((channel, int(offset)), number)
                epochs.setdefault(channel, set()).add(epoch)
        assert len(acknowledged) >= 1_000
        broker = broker_rig.make()
        await broker.start(Recorder(), "n1")
        for channel, seen in epochs.items():
            page = await broker.history(channel)
            assert [p.offset for p in page.publications] == list(range(1, page.top.offset + 1))
            assert seen == {page.top.epoch}
            log = {p.offset: p.data.decode() for p in page.publications}
            assert {o: n for (c, o), n in acknowledged.items() if c == channel}.items() <= log.items()
        await broker.stop()


def _publish_and_kill(spec: str, start: int, lines: int) -> list[str]:
    """The acknowledgements that a publisher process printed before it was killed."""
    process = subprocess.Popen(
        child("publisher", spec, str(start)), stdout=subprocess.PIPE, text=True, cwd=ROOT
    )
    assert process.stdout is not None
    try:
        told = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return [line for line in told if line.endswith("\n")]


class TestIdempotent:
    """Guarantee 6."""

    async def test_one_key_gives_one_publication(self, broker: Broker, recorder: Recorder) -> None:
        """The second publish with a key returns the first one's position, and the handler is called once."""
        broker.subscribe(THREAD)
        await broker.history(THREAD, limit=0)
        first = await broker.publish(THREAD, b"1", key="k")
        await broker.publish(THREAD, b"2")
        second = await broker.publish(THREAD, b"1", key="k")
        assert second == Published(first.offset, first.epoch, duplicate=True)
        await broker.publish(THREAD, b"3")
        await recorder.until(lambda: len(recorder.seen) >= 3)
        assert [publication.data for publication in recorder.of(THREAD)] == [b"1", b"2", b"3"]

    async def test_parallel_retries_of_one_key(self, broker: Broker) -> None:
        """40 concurrent publishes of one key: one publication, one original."""
        placed = await asyncio.gather(*(broker.publish(THREAD, b"1", key="k") for _ in range(40)))
        assert {entry.offset for entry in placed} == {1}
        assert sum(not entry.duplicate for entry in placed) == 1
        assert (await broker.history(THREAD, limit=0)).top.offset == 1

    async def test_keys_are_the_channels_own(self, broker: Broker) -> None:
        """One key in two channels is two publications."""
        await broker.publish(THREAD, b"1", key="k")
        assert not (await broker.publish("default/thread:t2", b"1", key="k")).duplicate

    async def test_keys_survive_a_restart(self, broker_rig: BrokerRig) -> None:
        """A retry after the broker was restarted finds its publication."""
        first = broker_rig.make()
        await first.start(Recorder(), "n1")
        placed = await first.publish(THREAD, b"1", key="k")
        await first.stop()
        second = broker_rig.make()
        await second.start(Recorder(), "n2")
        assert await second.publish(THREAD, b"1", key="k") == Published(placed.offset, placed.epoch, True)
        await second.stop()

    async def test_keys_end_with_a_removed_log_across_a_restart(self, broker_rig: BrokerRig) -> None:
        """Keys read back at a start belong to the new log only."""
        first = broker_rig.make()
        await first.start(Recorder(), "n1")
        await first.publish(THREAD, b"1", key="k")
        await first.remove(THREAD)
        await first.stop()
        second = broker_rig.make()
        await second.start(Recorder(), "n2")
        assert not (await second.publish(THREAD, b"2", key="k")).duplicate
        assert (await second.publish(THREAD, b"2", key="k")).duplicate
        await second.stop()

    async def test_keys_end_with_a_purged_log(self, broker_rig: BrokerRig) -> None:
        """An operator emptied the log while no node ran: the epoch is new, and no key is known."""
        first = broker_rig.make()
        await first.start(Recorder(), "n1")
        placed = await first.publish(THREAD, b"1", key="k")
        await first.stop()
        await broker_rig.purge()
        second = broker_rig.make()
        await second.start(Recorder(), "n2")
        again = await second.publish(THREAD, b"2", key="k")
        assert (again.offset, again.duplicate) == (1, False)
        assert again.epoch != placed.epoch
        await second.stop()

    async def test_keys_survive_trimming(self, broker: Broker) -> None:
        """A retry whose publication was trimmed meanwhile still gets its position."""
        placed = await broker.publish(THREAD, b"1", key="k")
        await fill(broker, THREAD, 3)
        await broker.trim(THREAD, Position(4, placed.epoch))
        assert await broker.publish(THREAD, b"1", key="k") == Published(placed.offset, placed.epoch, True)


class TestErrors:
    """Guarantee 7."""

    async def test_not_started(self, broker_rig: BrokerRig) -> None:
        """Every call before `start` raises an error."""
        broker = broker_rig.make()
        with pytest.raises(DependencyError):
            await broker.publish(THREAD, b"1")
        with pytest.raises(DependencyError):
            await broker.history(THREAD)

    async def test_stopped(self, broker_rig: BrokerRig) -> None:
        """Every call after `stop` raises an error; a second stop is allowed."""
        broker = broker_rig.make()
        await broker.start(Recorder(), "n1")
        await broker.publish(THREAD, b"1")
        await broker.stop()
        await broker.stop()
        with pytest.raises(DependencyError):
            await broker.publish(THREAD, b"1")
        with pytest.raises(DependencyError):
            await broker.ping()

    async def test_stop_finishes_what_was_accepted(self, broker_rig: BrokerRig) -> None:
        """Publishes in progress at `stop` finish or raise; none hangs, and acknowledged ones are in the log."""
        broker = broker_rig.make()
        await broker.start(Recorder(), "n1")
        tasks = [asyncio.create_task(broker.publish(THREAD, str(n).encode())) for n in range(100)]
        await asyncio.sleep(0)
        await broker.stop()
        outcomes = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10)
        placed = {entry.offset for entry in outcomes if isinstance(entry, Published)}
        assert all(isinstance(entry, Published | DependencyError) for entry in outcomes)
        again = broker_rig.make()
        await again.start(Recorder(), "n2")
        assert placed <= {p.offset for p in (await again.history(THREAD)).publications}
        await again.stop()

    async def test_durability_is_said(self, broker: Broker) -> None:
        """Every adapter describes in one sentence which failures an acknowledged publication survives."""
        assert broker.durability.endswith(".")

    async def test_ping(self, broker: Broker) -> None:
        """A round trip leaves nothing that a client could see, even when repeated."""
        for _ in range(3):
            await broker.ping()


class TestCancelled:
    """`publish`: cancelling one call does not corrupt another."""

    async def test_cancelled_publishes_do_not_disturb_others(self, broker: Broker) -> None:
        """Every third of 200 publishes is cancelled mid-flight: the others get their own positions."""
        tasks = [
            asyncio.create_task(broker.publish(THREAD, str(n).encode(), key=f"k{n}")) for n in range(200)
        ]
        await asyncio.sleep(0)
        for task in tasks[::3]:
            task.cancel()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        page = await broker.history(THREAD)
        log = {p.offset: p.data for p in page.publications}
        assert sorted(log) == list(range(1, len(log) + 1))
        for number, outcome in enumerate(outcomes):
            if isinstance(outcome, Published):
                assert log[outcome.offset] == str(number).encode()
            else:
                assert number % 3 == 0
        assert len(set(log.values())) == len(log)

    async def test_cancelled_publish_can_be_retried_with_its_key(self, broker: Broker) -> None:
        """Whether or not the cancelled publish was stored, the retry leaves exactly one publication."""
        task = asyncio.create_task(broker.publish(THREAD, b"1", key="k"))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (await broker.publish(THREAD, b"1", key="k")).offset == 1
        assert len((await broker.history(THREAD)).publications) == 1


class TestHistory:
    """`history`, `known_position`, `trim`."""

    async def test_since_and_limit(self, broker: Broker) -> None:
        """`since` is exclusive; `limit` shortens the page without making it incomplete."""
        epoch = (await fill(broker, THREAD, 10))[-1].epoch
        page = await broker.history(THREAD, since=Position(4, epoch), limit=3)
        assert [p.offset for p in page.publications] == [5, 6, 7]
        assert page.complete
        assert page.top == Position(10, epoch)
        assert [p.offset for p in (await broker.history(THREAD, since=Position(8, ""))).publications] == [
            9,
            10,
        ]
        assert (await broker.history(THREAD, since=Position(10, epoch))).publications == []
        assert (await broker.history(THREAD, since=Position(10, epoch))).complete

    async def test_limit_zero_is_the_position(self, broker: Broker) -> None:
        """`limit=0` reads no publication."""
        epoch = (await fill(broker, THREAD, 2))[-1].epoch
        page = await broker.history(THREAD, limit=0)
        assert (page.publications, page.top) == ([], Position(2, epoch))

    async def test_beyond_the_end_is_not_complete(self, broker: Broker) -> None:
        """A position past the end of this log is not reported as recovered."""
        epoch = (await fill(broker, THREAD, 2))[-1].epoch
        for offset in (7, MAX_EXACT_INTEGER):
            page = await broker.history(THREAD, since=Position(offset, epoch))
            assert (page.publications, page.complete) == ([], False)
            page = await broker.history(THREAD, since=Position(offset, epoch), reverse=True)
            assert [p.offset for p in page.publications] == [2, 1]

    async def test_reverse(self, broker: Broker) -> None:
        """Newest first; `since` is then an exclusive upper bound."""
        epoch = (await fill(broker, THREAD, 10))[-1].epoch
        page = await broker.history(THREAD, reverse=True, limit=3)
        assert [p.offset for p in page.publications] == [10, 9, 8]
        assert page.complete
        page = await broker.history(THREAD, since=Position(4, epoch), reverse=True)
        assert [p.offset for p in page.publications] == [3, 2, 1]
        assert page.complete

    async def test_long_pages_come_whole(self, broker: Broker) -> None:
        """1,500 publications in one page, in order, in both directions."""
        await asyncio.gather(*(broker.publish(THREAD, str(n).encode()) for n in range(1_500)))
        ahead = (await broker.history(THREAD)).publications
        back = (await broker.history(THREAD, reverse=True)).publications
        assert [p.offset for p in ahead] == list(range(1, 1_501))
        assert back == ahead[::-1]

    async def test_trim(self, broker: Broker) -> None:
        """The newest end of the log is kept without a gap, the position stays, and the page reports the missing
        part.
        """
        epoch = (await fill(broker, THREAD, 10))[-1].epoch
        await broker.trim(THREAD, Position(6, epoch))
        page = await broker.history(THREAD)
        kept = [p.offset for p in page.publications]
        assert kept == list(range(kept[0], 11))
        assert kept[0] <= 7
        for since in range(10):
            page = await broker.history(THREAD, since=Position(since, epoch))
            assert page.complete is (kept[0] <= since + 1)
        assert (await broker.history(THREAD, since=Position(0, ""))).complete is (kept[0] == 1)
        await broker.trim(THREAD, Position(100, epoch))
        page = await broker.history(THREAD, limit=0)
        assert page.top == Position(10, epoch)
        assert (await broker.publish(THREAD, b"11")).offset == 11

    async def test_trimmed_log_survives_a_restart(self, broker_rig: BrokerRig) -> None:
        """A log trimmed to nothing continues its offsets after a restart, in the same epoch."""
        first = broker_rig.make()
        await first.start(Recorder(), "n1")
        epoch = (await fill(first, THREAD, 3))[-1].epoch
        await first.trim(THREAD, Position(3, epoch))
        await first.stop()
        second = broker_rig.make()
        await second.start(Recorder(), "n2")
        assert await second.publish(THREAD, b"4") == Published(4, epoch)
        await second.stop()

    async def test_known_position_never_runs_ahead(self, broker: Broker, recorder: Recorder) -> None:
        """The position known without waiting is one that the handler already received."""
        broker.subscribe(THREAD)
        await broker.history(THREAD, limit=0)
        placed = (await fill(broker, THREAD, 5))[-1]
        await recorder.until(lambda: len(recorder.seen) >= 5)
        known = broker.known_position(THREAD)
        assert known is None or known == Position(5, placed.epoch)

    async def test_a_crowd_reads_at_once(self, broker: Broker) -> None:
        """Five hundred readers, as after a network's return: they share the connections without pauses."""
        names = [f"{THREAD}-{number}" for number in range(500)]
        await asyncio.gather(*(broker.publish(name, b'"hello"') for name in names))
        async with asyncio.timeout(within(3)):
            pages = await asyncio.gather(*(broker.history(name) for name in names))
        assert [page.top.offset for page in pages] == [1] * len(names)


class TestPresence:
    """`join`, `leave`, `members`."""

    async def test_join_and_leave(self, broker: Broker, recorder: Recorder) -> None:
        """Members are listed, and subscribers are notified once."""
        broker.subscribe(THREAD)
        await broker.history(THREAD, limit=0)
        one = Member("c1", "u1", {"name": "Ann"})
        await broker.join(THREAD, one)
        await broker.join(THREAD, one)
        await broker.join(THREAD, Member("c2", "u2"))
        assert dict(await broker.members(THREAD)) == {"c1": one, "c2": Member("c2", "u2")}
        assert dict(await broker.members("default/thread:t2")) == {}
        await broker.leave(THREAD, "c1")
        await broker.leave(THREAD, "c1")
        assert set(await broker.members(THREAD)) == {"c2"}
        await recorder.until(lambda: len(recorder.presences) >= 3)
        assert recorder.presences == [(THREAD, "c1", True), (THREAD, "c2", True), (THREAD, "c1", False)]


class TestControl:
    """`control`."""

    async def test_to_all_and_to_one(self, broker: Broker, recorder: Recorder) -> None:
        """A message to all nodes or to this node arrives; one to another node does not."""
        await broker.control(Control("drain", {"a": 1}))
        await broker.control(Control("revoke", {"b": [1, "x"]}, node="other"))
        await broker.control(Control("run", {"c": None}, node="n1"))
        await recorder.until(lambda: len(recorder.controls) >= 2)
        assert recorder.controls == [Control("drain", {"a": 1}), Control("run", {"c": None}, node="n1")]


class TestComparison:
    """Guarantee 8."""

    async def test_a_position_at_the_end_is_not_behind(self, broker: Broker) -> None:
        """A channel at the end of its log is not named; an empty one and one without a log are not named either."""
        placed = await fill(broker, THREAD, 3)
        empty = (await broker.history("default/thread:empty", limit=0)).top
        known = {THREAD: Position(3, placed[-1].epoch), "default/thread:empty": empty}
        assert dict(await broker.behind(known)) == {}
        assert dict(await broker.behind({})) == {}

    async def test_a_channel_that_went_on_is_named_with_its_end_until_it_is_followed(
        self, broker: Broker
    ) -> None:
        """Every comparison names a channel with newer publications until the node has reached the end."""
        [first] = await fill(broker, THREAD, 1)
        known = {THREAD: Position(1, first.epoch), "default/thread:other": Position(0, first.epoch)}
        assert dict(await broker.behind(known)) == {}
        await fill(broker, THREAD, 2)
        for _ in range(2):
            assert dict(await broker.behind(known)) == {THREAD: Position(3, first.epoch)}
        assert dict(await broker.behind(known | {THREAD: Position(3, first.epoch)})) == {}

    async def test_another_log_is_named(self, broker: Broker) -> None:
        """A removed channel and a position of another epoch are named with the log's current position."""
        [first] = await fill(broker, THREAD, 1)
        [other] = await fill(broker, "default/thread:other", 1)
        known = {THREAD: Position(1, first.epoch), "default/thread:other": Position(1, "another")}
        await broker.behind({THREAD: known[THREAD]})
        await broker.remove(THREAD)
        found = await broker.behind(known)
        assert found["default/thread:other"] == Position(1, other.epoch)
        assert found[THREAD].offset == 0
        assert found[THREAD].epoch != first.epoch

    async def test_few_of_many(self, broker: Broker) -> None:
        """2,500 channels of which two advanced: these two are named, including ones never read here."""
        channels = [f"default/thread:many{number}" for number in range(2_500)]
        epoch = (await broker.history(channels[0], limit=0)).top.epoch
        known = {channel: Position(0, epoch) for channel in channels}
        assert dict(await broker.behind(known)) == {}
        for channel in (channels[7], channels[2_400]):
            await fill(broker, channel, 1)
        assert dict(await broker.behind(known)) == {
            channels[7]: Position(1, epoch),
            channels[2_400]: Position(1, epoch),
        }


class TestConditionalAppend:
    """Guarantee 9."""

    async def test_it_is_appended_at_the_expected_end_only(self, broker: Broker) -> None:
        """Before and behind the end nothing is appended, and the answer has the end."""
        start = (await broker.history(THREAD, limit=0)).top
        first = await broker.publish(THREAD, b"1", expected=start)
        assert first == Published(1, start.epoch)
        await broker.publish(THREAD, b"2")
        for offset in (0, 1, 3):
            with pytest.raises(LogMoved) as refused:
                await broker.publish(THREAD, b"x", expected=Position(offset, start.epoch))
            assert refused.value.end == Position(2, start.epoch)
        assert (await broker.publish(THREAD, b"3", expected=Position(2, start.epoch))).offset == 3
        assert [p.data for p in (await broker.history(THREAD)).publications] == [b"1", b"2", b"3"]

    async def test_another_log_takes_nothing(self, broker: Broker) -> None:
        """Nothing is appended to another log, neither at the offset that it happens to have nor at any other."""
        old = await broker.publish(THREAD, b"1")
        await broker.remove(THREAD)
        new = await broker.publish(THREAD, b"other")
        for offset in (1, ANY_OFFSET):
            with pytest.raises(LogMoved) as refused:
                await broker.publish(THREAD, b"2", expected=Position(offset, old.epoch))
            assert refused.value.end == Position(1, new.epoch)
        assert [p.data for p in (await broker.history(THREAD)).publications] == [b"other"]

    async def test_a_log_that_was_replaced_unseen_takes_nothing(self, broker_rig: BrokerRig) -> None:
        """An operator emptied the log. If that happens under a running node, this publish is the first call to
        notice.
        """
        broker = broker_rig.make()
        await broker.start(Recorder(), "n1")
        [*_, last] = await fill(broker, THREAD, 3)
        if not broker_rig.shared:
            await broker.stop()
        await broker_rig.purge()
        if not broker_rig.shared:
            broker = broker_rig.make()
            await broker.start(Recorder(), "n1")
        with pytest.raises(LogMoved) as refused:
            await broker.publish(THREAD, b"4", expected=Position(last.offset, last.epoch))
        assert refused.value.end.offset == 0
        assert refused.value.end.epoch != last.epoch
        assert (await broker.history(THREAD)).publications == []
        await broker.stop()

    async def test_the_epoch_alone(self, broker: Broker) -> None:
        """`ANY_OFFSET` appends at the end of the log of that epoch, also among others in one batch."""
        epoch = (await broker.publish(THREAD, b"1")).epoch
        expected = Position(ANY_OFFSET, epoch)
        placed = await asyncio.gather(
            *(broker.publish(THREAD, b"x", expected=expected if n % 2 else None) for n in range(20))
        )
        assert sorted(entry.offset for entry in placed) == list(range(2, 22))

    async def test_one_of_many_that_expect_the_same(self, broker: Broker) -> None:
        """Comparison and append are one step: of 20 concurrent ones, with others between them, one is appended."""
        start = (await broker.history(THREAD, limit=0)).top
        outcomes = await asyncio.gather(
            *(broker.publish(THREAD, b"x", expected=start) for _ in range(20)),
            *(broker.publish("default/thread:t2", b"x") for _ in range(20)),
            return_exceptions=True,
        )
        assert sum(isinstance(outcome, Published) for outcome in outcomes[:20]) == 1
        assert sum(isinstance(outcome, LogMoved) for outcome in outcomes[:20]) == 19
        assert (await broker.history(THREAD, limit=0)).top.offset == 1

    async def test_a_known_key_is_answered_first(self, broker: Broker) -> None:
        """A repeat gets the position of its first attempt, although the log no longer ends before it."""
        start = (await broker.history(THREAD, limit=0)).top
        placed = await broker.publish(THREAD, b"1", key="k", expected=start)
        await broker.publish(THREAD, b"2")
        again = await broker.publish(THREAD, b"1", key="k", expected=start)
        assert again == Published(placed.offset, placed.epoch, duplicate=True)

    async def test_a_refused_key_is_not_taken(self, broker: Broker) -> None:
        """The next attempt with the key counts as the first."""
        first = await broker.publish(THREAD, b"1")
        with pytest.raises(LogMoved):
            await broker.publish(THREAD, b"2", key="k", expected=Position(0, first.epoch))
        again = await broker.publish(THREAD, b"2", key="k", expected=Position(1, first.epoch))
        assert again == Published(2, first.epoch)

    async def test_a_trim_for_another_log_drops_nothing(self, broker: Broker) -> None:
        """Its offsets refer to other publications."""
        old = (await fill(broker, THREAD, 3))[-1]
        await broker.remove(THREAD)
        await fill(broker, THREAD, 3)
        await broker.trim(THREAD, Position(3, old.epoch))
        page = await broker.history(THREAD)
        assert ([p.offset for p in page.publications], page.complete) == ([1, 2, 3], True)
