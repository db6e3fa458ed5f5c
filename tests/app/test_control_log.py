"""Control messages with a lasting effect reach every node in order, including a node that missed them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from typing import Any, NamedTuple

import pytest

from narthex.app import control_log
from narthex.app.control_log import CHANNEL, ControlLog
from narthex.errors import DependencyError
from narthex.ports.broker import Control, Page, Position, Published
from tests.app.lossy import LossyBroker, SharedLog
from tests.contracts.recorder import Recorder
from tests.timing import within


def message(number: int, node: str = "", kind: str = "disconnect") -> Control:
    """A message that differs from the others."""
    return Control(kind, {"user": f"default/u{number}"}, node)


class Node(NamedTuple):
    """One node of the two."""

    engine: LossyBroker
    log: ControlLog
    recorder: Recorder

    def told(self) -> list[str]:
        """The users that it was to disconnect, in order."""
        return [str(one.data["user"]).removeprefix("default/u") for one in self.recorder.controls]


@pytest.fixture
async def nodes(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Node]]:
    """Two nodes on one log, n0 and n1."""
    monkeypatch.setattr(control_log, "RETRY_S", 0.001)
    shared = SharedLog()
    made = [Node(engine := LossyBroker(shared), ControlLog(engine), Recorder()) for _ in range(2)]
    for number, node in enumerate(made):
        await node.log.start(node.recorder, f"n{number}")
    yield made
    for node in made:
        await node.log.stop()


async def test_every_node_gets_what_is_for_it_in_order(nodes: list[Node]) -> None:
    """One to all, one to a node; messages from before a node's start are not repeated to it."""
    one, two = nodes
    await one.log.control(message(1))
    await two.log.control(message(2, node="n1"))
    await one.log.control(message(3))
    assert one.told() == ["1", "3"]
    assert two.told() == ["1", "2", "3"]
    late = Recorder()
    third = ControlLog(LossyBroker(one.engine.log))
    await third.start(late, "n3")
    assert late.controls == []
    await one.log.control(message(4))
    assert [one.data["user"] for one in late.controls] == ["default/u4"]
    await third.stop()


async def test_what_matters_for_a_moment_is_not_logged(nodes: list[Node]) -> None:
    """Typing uses the engine's own channel, and no log grows by it."""
    await nodes[0].log.control(Control("ephemeral", {"channel": "default/thread:t", "data": "{}"}))
    assert [one.kind for one in nodes[1].recorder.controls] == ["ephemeral"]
    assert CHANNEL not in nodes[0].engine.log.channels


async def test_a_node_of_the_version_before_gets_them_too(nodes: list[Node]) -> None:
    """It does not follow the log: it gets a plain message for each entry, once, also for a resent one."""
    one, two = nodes
    old = Recorder()
    await LossyBroker(one.engine.log).start(old, "n3")
    await one.log.control(message(1, node="n1"))
    one.engine.away = True
    with pytest.raises(DependencyError):
        await one.log.control(message(2))
    one.engine.away = False
    await two.recorder.until(lambda: two.told() == ["1", "2"])
    await old.until(lambda: len(old.controls) == 2)
    assert [one.data["user"] for one in old.controls] == ["default/u1", "default/u2"]
    assert (one.told(), two.told()) == (["2"], ["1", "2"])


async def test_a_copy_that_is_lost_fails_nothing(nodes: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """The log has the entry by then."""
    one, two = nodes

    async def control(_: Control) -> None:
        raise DependencyError("broker", "away")

    monkeypatch.setattr(one.engine, "control", control)
    await one.log.control(message(1))
    assert two.told() == ["1"]


async def test_a_comparison_repairs_what_was_not_told(nodes: list[Node]) -> None:
    """A deaf node finds out by comparing, gets the missed messages once and in order, and names no such channel."""
    one, two = nodes
    two.engine.deaf = True
    for number in (1, 2, 3):
        await one.log.control(message(number))
    assert two.told() == []
    two.engine.deaf = False
    assert dict(await two.log.behind({})) == {}
    await two.recorder.until(lambda: len(two.recorder.controls) == 3)
    await one.log.control(message(4))
    await two.log.behind({})
    assert two.told() == ["1", "2", "3", "4"]
    reads = len(two.engine.reads)
    await two.log.behind({"default/thread:t": Position(0, "e1")})
    assert two.engine.compared[-1] == {"default/thread:t": Position(0, "e1"), CHANNEL: Position(4, "e1")}
    assert len(two.engine.reads) == reads


async def test_a_gap_is_read_before_what_comes_after_it(nodes: list[Node]) -> None:
    """Two were missed, the third arrives: all three, in order; a repeat is dropped."""
    one, two = nodes
    two.engine.deaf = True
    await one.log.control(message(1))
    await one.log.control(message(2))
    two.engine.deaf = False
    await one.log.control(message(3))
    await two.recorder.until(lambda: len(two.recorder.controls) == 3)
    repeated = one.engine.log.channels[CHANNEL][2]
    two.log._receiver.publication(CHANNEL, repeated, "e1")
    assert two.told() == ["1", "2", "3"]


async def test_a_resync_reads_the_log_and_is_passed_on(nodes: list[Node]) -> None:
    """The node trusts an engine that reports possibly missed messages."""
    one, two = nodes
    two.engine.deaf = True
    await one.log.control(message(1))
    two.log._receiver.resync(["default/thread:t"])
    assert two.told() == []
    two.log._receiver.resync(None)
    await two.recorder.until(lambda: len(two.recorder.controls) == 1)
    assert two.recorder.resyncs == [["default/thread:t"], None]


async def test_an_engine_that_is_away_is_waited_for(nodes: list[Node]) -> None:
    """Reading continues once it is back; nothing is skipped."""
    one, two = nodes
    two.engine.deaf = two.engine.away = True
    await one.log.control(message(1))
    two.log._receiver.resync(None)
    await one.log.control(message(2))
    two.engine.deaf = two.engine.away = False
    await one.log.control(message(3))
    await two.recorder.until(lambda: len(two.recorder.controls) == 3)
    assert two.told() == ["1", "2", "3"]


async def test_lost_messages_are_said_to_be(nodes: list[Node]) -> None:
    """The log was replaced: the users to disconnect are unknown, and the node reports that once."""
    one, two = nodes
    lost: asyncio.Queue[None] = asyncio.Queue()
    two.log.on_lost(lambda: lost.put_nowait(None))
    await one.log.control(message(1))
    two.engine.log.lose("e2")
    await two.log.behind({})
    await asyncio.wait_for(lost.get(), within(5))
    await one.log.control(message(2))
    await two.recorder.until(lambda: two.told() == ["1", "2"])
    assert lost.empty()


async def test_one_that_the_engine_did_not_take_is_sent_again(nodes: list[Node]) -> None:
    """The sender gets an error, and the message arrives all the same once the engine is back, before later ones of its
    kind.
    """
    one, two = nodes
    one.engine.away = True
    for number in (1, 2):
        with pytest.raises(DependencyError):
            await one.log.control(message(number))
    one.engine.away = False
    await two.recorder.until(lambda: len(two.recorder.controls) == 2)
    assert two.told() == ["1", "2"]
    assert [one.data.get("late") for one in two.recorder.controls] == [True, True]
    await one.log.control(message(3))
    assert "late" not in two.recorder.controls[-1].data


async def test_a_malformed_entry_is_left_out(nodes: list[Node]) -> None:
    """An entry that is not a control message (of a newer version) does not hold up the next ones."""
    one, two = nodes
    await one.engine.publish(CHANNEL, b'{"kind":7}')
    await one.log.control(message(1))
    assert two.told() == ["1"]


async def test_a_broker_can_be_started_again(nodes: list[Node]) -> None:
    """After a stop it starts at the log's end again: messages in between belong to another lifetime."""
    one, two = nodes
    await two.log.stop()
    await one.log.control(message(1))
    await two.log.start(two.recorder, "n1")
    await one.log.control(message(2))
    assert two.told() == ["2"]


async def test_a_stopped_broker_reads_no_more(nodes: list[Node]) -> None:
    """A read of the control log that waited for its engine ends with the node, and is not made by a later one."""
    one, two = nodes
    two.engine.deaf = two.engine.away = True
    await one.log.control(message(1))
    two.log._receiver.resync(None)
    reading = two.log._receiver._reading
    assert reading is not None
    await two.log.stop()
    assert reading.done()
    two.engine.deaf = two.engine.away = False
    assert two.told() == []


async def test_one_whose_acknowledgement_was_lost_is_executed_once(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine stored it without confirming: the resent message has the key of the first attempt."""
    one, two = nodes
    keys: list[str | None] = []
    again = asyncio.Event()
    took = one.engine.publish

    async def publish(channel: str, data: bytes, *, key: str | None = None) -> Published:
        keys.append(key)
        if keys.count(key) == 1:  # as an engine does: a key is taken once
            await took(channel, data)
        if len(keys) == 1:
            raise DependencyError("broker", "no answer in time")
        again.set()
        return Published(1, "e1", keys.count(key) > 1)

    monkeypatch.setattr(one.engine, "publish", publish)
    with pytest.raises(DependencyError):
        await one.log.control(message(1))
    await asyncio.wait_for(again.wait(), within(5))
    await one.log.control(message(2))
    assert two.told() == ["1", "2"]


async def test_what_its_sender_repeats_is_not_sent_again(nodes: list[Node]) -> None:
    """A sender that steers a run or drains a node gets the error: neither is done twice, or once the engine is back."""
    one, two = nodes
    one.engine.away = True
    for kind in ("run", "drain"):
        with pytest.raises(DependencyError):
            await one.log.control(message(1, kind=kind))
    with pytest.raises(DependencyError):
        await one.log.control(message(2))
    one.engine.away = False
    await two.recorder.until(lambda: bool(two.recorder.controls))
    assert two.told() == ["2"]


@pytest.mark.parametrize("deaf", [False, True])
async def test_a_message_that_cannot_be_executed_does_not_end_the_following(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch, *, deaf: bool
) -> None:
    """A handler that raises, for a live message or while reading the log: later messages are executed."""
    one, two = nodes
    execute = two.recorder.control

    def control(found: Control) -> None:
        if found.data["user"] == "default/u1":
            raise KeyError("user")
        execute(found)

    monkeypatch.setattr(two.recorder, "control", control)
    two.engine.deaf = deaf
    for number in (1, 2):
        await one.log.control(message(number))
    two.engine.deaf = False
    if deaf:
        await two.log.behind({})
    await two.recorder.until(lambda: two.told() == ["2"])
    await one.log.control(message(3))
    await two.recorder.until(lambda: two.told() == ["2", "3"])


async def test_what_every_node_has_had_for_an_hour_is_trimmed(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It contains texts for agents: it is trimmed, once, up to the node's position an hour before."""
    one = nodes[0]
    trimmed = asyncio.Queue[Position]()

    async def trim(channel: str, through: Position) -> None:
        assert channel == CHANNEL
        trimmed.put_nowait(through)

    monkeypatch.setattr(one.engine, "trim", trim)
    await one.log.control(message(1))
    await one.log.behind({})
    await one.log.control(message(2))
    await one.log.behind({})
    monkeypatch.setattr(control_log, "KEPT_S", 0.0)
    await one.log.behind({})
    assert await asyncio.wait_for(trimmed.get(), within(5)) == Position(1, "e1")
    await one.log.behind({})
    assert await asyncio.wait_for(trimmed.get(), within(5)) == Position(2, "e1")
    await one.log.behind({})
    await asyncio.sleep(0)
    assert trimmed.empty()


async def test_what_came_during_a_comparison_is_not_read_again(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node that received what the comparison found meanwhile, and more, is not behind; a log that shrank is read."""
    one = nodes[0]
    compare = one.engine.behind

    async def behind(known: Mapping[str, Position]) -> Mapping[str, Position]:
        await one.log.control(message(2))
        found = await compare(known)
        await one.log.control(message(3))
        return found

    await one.log.control(message(1))
    one.engine.reads.clear()
    monkeypatch.setattr(one.engine, "behind", behind)
    await one.log.behind({})
    await asyncio.sleep(0)  # a read would start now
    assert one.told() == ["1", "2", "3"]
    assert one.engine.reads == []
    monkeypatch.undo()
    monkeypatch.setattr(control_log, "RETRY_S", 0.001)
    lost: asyncio.Queue[None] = asyncio.Queue()
    one.log.on_lost(lambda: lost.put_nowait(None))
    del one.engine.log.channels[CHANNEL][1:]  # in the same epoch
    await one.log.behind({})
    await asyncio.wait_for(lost.get(), within(5))


def held_read(node: Node, monkeypatch: pytest.MonkeyPatch) -> tuple[asyncio.Event, asyncio.Event]:
    """Hold the answers of a node's reads of the log; returns the events "a read was answered" and "pass it on"."""
    real, asked, may = node.engine.history, asyncio.Event(), asyncio.Event()

    async def slow(*args: Any, **options: Any) -> Page:
        page = await real(*args, **options)
        asked.set()
        await may.wait()
        return page

    monkeypatch.setattr(node.engine, "history", slow)
    return asked, may


async def test_a_flood_during_a_read_is_read_and_not_skipped(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """More arrives than is kept while the log is read: all of it is executed once, in order."""
    monkeypatch.setattr(control_log, "MAX_HELD", 1)
    one, two = nodes
    asked, may = held_read(two, monkeypatch)
    two.log._receiver.resync(None)
    await asked.wait()
    for number in (1, 2, 3):
        await one.log.control(message(number))
    may.set()
    await two.recorder.until(lambda: len(two.recorder.controls) == 3)
    await one.log.control(message(4))
    assert two.told() == ["1", "2", "3", "4"]


async def test_a_read_that_began_before_the_engine_came_back_is_begun_anew(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its request went to a connection that is gone, and the engine's time-out is 12 s."""
    one, two = nodes
    real, asked = two.engine.history, asyncio.Event()

    async def gone(*args: Any, **options: Any) -> Page:
        asked.set()
        return await asyncio.Future()

    monkeypatch.setattr(two.engine, "history", gone)
    two.engine.deaf = True
    two.log._receiver.resync(None)
    await asked.wait()
    await one.log.control(message(1))
    monkeypatch.setattr(two.engine, "history", real)
    two.log._receiver.resync(None)
    await two.recorder.until(lambda: two.told() == ["1"])


@pytest.mark.parametrize("channels", [None, [CHANNEL]], ids=["all", "the log"])
async def test_a_resync_during_a_read_makes_another(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch, channels: list[str] | None
) -> None:
    """Messages lost after the first read's answer was made are found by the second."""
    one, two = nodes
    asked, may = held_read(two, monkeypatch)
    two.log._receiver.resync(None)
    await asked.wait()
    two.engine.deaf = True
    await one.log.control(message(1))
    two.log._receiver.resync(channels)
    may.set()
    await two.recorder.until(lambda: bool(two.told()))
    two.engine.deaf = False
    await one.log.control(message(2))
    await two.recorder.until(lambda: two.told()[-1] == "2")
    assert two.told() == ["1", "2"], "each once"


async def test_a_bug_of_the_engine_does_not_end_the_reading(
    nodes: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise the node would execute no control message any more."""
    one, two = nodes
    real, calls = two.engine.history, [0]

    async def broken(*args: Any, **options: Any) -> Page:
        calls[0] += 1
        if calls[0] == 1:
            raise RuntimeError("a bug")
        return await real(*args, **options)

    monkeypatch.setattr(two.engine, "history", broken)
    two.engine.deaf = True
    await one.log.control(message(1))
    two.log._receiver.resync(None)
    await two.recorder.until(lambda: two.told() == ["1"])
    assert calls == [2]


async def test_a_start_that_cannot_read_the_log_leaves_no_engine_running() -> None:
    """A node that does not know the log's end must not start to follow it."""
    engine = LossyBroker(SharedLog())
    stopped: list[bool] = []

    async def history(*args: Any, **options: Any) -> Page:
        raise DependencyError("broker", "It is away.", "Start it.")

    async def stop() -> None:
        stopped.append(True)

    engine.history, engine.stop = history, stop  # type: ignore[method-assign]
    log = ControlLog(engine)
    with pytest.raises(DependencyError):
        await log.start(Recorder(), "n0")
    assert stopped == [True]
    assert await log.behind({}) == {}
