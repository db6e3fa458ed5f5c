"""Components open in order and close in reverse order; a drain is paced and fits into its grace period."""

from __future__ import annotations

import asyncio

import pytest

from narthex.app.connection import Connection
from narthex.app.drain import close_paced
from narthex.app.lifecycle import Component, Lifecycle, LifecycleState
from narthex.app.registry import ConnectionRegistry
from narthex.errors import DependencyError
from narthex.protocol.codes import Disconnect


class Stub(Connection):
    """A connection that only notes its close."""

    __slots__ = ("at", "busy", "code")

    def __init__(self, *, busy: bool = False) -> None:
        self.busy = busy
        self.at = 0.0
        self.code = 0

    def close(self, disconnect: Disconnect) -> None:
        self.code = disconnect.code
        self.at = asyncio.get_running_loop().time()


def room(name: str, log: list[str], fails: int = 0) -> Component:
    """A component that notes its calls and fails to open `fails` times."""
    left = [fails]

    async def opening() -> None:
        if left[0]:
            left[0] -= 1
            raise DependencyError("broker", "away")
        log.append(f"+{name}")

    async def closing() -> None:
        log.append(f"-{name}")

    return Component(name, opening, closing)


def lifecycle(components: list[Component], states: list[LifecycleState], grace_s: float = 0.2) -> Lifecycle:
    async def drain_runs(_: float) -> None:
        return None

    return Lifecycle(
        components,
        ConnectionRegistry(),
        drain_runs,
        lambda: lambda _: False,
        grace_s=grace_s,
        on_state=states.append,
    )


async def test_a_room_that_cannot_be_opened_yet_is_tried_again_alone() -> None:
    """An engine that is down at first is no reason to restart the process, or components that were opened before."""
    log: list[str] = []
    states: list[LifecycleState] = []
    components = [room("store", log), room("broker", log, fails=2), room("runs", log)]
    life = lifecycle(components, states)
    for _ in range(2):
        with pytest.raises(DependencyError) as raised:
            await life.start()
        assert life.state is LifecycleState.STARTING
        assert life.fault == ("broker", raised.value)
    assert log == ["+store", "-broker", "-broker"]
    await life.start()
    assert life.fault is None
    await life.drain()
    await life.stop()
    assert states == [LifecycleState.READY, LifecycleState.DRAINING, LifecycleState.STOPPED]
    assert log[3:] == ["+broker", "+runs", "-runs", "-broker", "-store"]


async def test_a_component_that_cannot_be_closed_keeps_no_other_open() -> None:
    """Last opened first; every error is raised at the end, and the state is stopped all the same."""
    log: list[str] = []
    states: list[LifecycleState] = []

    async def failing() -> None:
        log.append("-bad")
        raise RuntimeError("a bug")

    bad = Component("bad", room("bad", log).open, failing)
    life = lifecycle([room("one", log), bad, room("two", log)], states)
    await life.start()
    with pytest.raises(ExceptionGroup) as caught:
        await life.stop()
    assert [str(fault) for fault in caught.value.exceptions] == ["a bug"]
    assert log == ["+one", "+bad", "+two", "-two", "-bad", "-one"]
    assert states == [LifecycleState.READY, LifecycleState.STOPPED]
    await life.stop()
    assert (log[6:], states) == ([], [LifecycleState.READY, LifecycleState.STOPPED])


async def test_the_error_of_a_start_is_the_first_one() -> None:
    """A component that can neither be opened nor closed: the reported cause is that of the opening."""

    async def opening() -> None:
        raise DependencyError("broker", "the cause")

    async def closing() -> None:
        raise RuntimeError("never opened")

    life = lifecycle([Component("broker", opening, closing)], [])
    with pytest.raises(DependencyError, match="the cause"):
        await life.start()
    await life.stop()


async def test_a_stop_while_a_room_is_being_opened_closes_it_once() -> None:
    """SIGTERM while waiting for an engine: the start is cancelled, and open components are closed in order."""
    log: list[str] = []

    async def hanging() -> None:
        await asyncio.Event().wait()

    async def closing() -> None:
        log.append("-broker")

    life = lifecycle([room("store", log), Component("broker", hanging, closing)], [])
    starting = asyncio.create_task(life.start())
    await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    await life.stop()
    assert log == ["+store", "-broker", "-store"]


async def test_thousands_are_spread_and_the_idle_go_first() -> None:
    """No second has all of them; followers of a run wait for its end."""
    loop = asyncio.get_running_loop()
    people = [Stub(busy=number % 10 == 0) for number in range(2_000)]
    ended = asyncio.Event()
    loop.call_later(0.5, ended.set)
    began = loop.time()
    closed = await close_paced(people, lambda c: c.busy, grace_s=1.5, runs_ended=ended, now=loop.time)
    took = loop.time() - began
    assert closed == 2_000
    assert all(person.code == 3001 for person in people)
    assert 0.8 < took < 1.6
    assert (
        min(person.at for person in people if person.busy)
        > max(person.at for person in people if not person.busy) - 0.1
    )
    bins = [0] * 20
    for person in people:
        bins[int((person.at - began) / 0.1)] += 1
    assert max(bins) < 600


async def test_a_handful_goes_at_once() -> None:
    """Ctrl-C on a laptop does not take six seconds."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await close_paced(
        [Stub() for _ in range(5)], lambda _: False, grace_s=10, runs_ended=asyncio.Event(), now=loop.time
    )
    assert loop.time() - began < 1


async def test_a_drain_that_comes_while_starting_is_final() -> None:
    """A component that opens after SIGTERM does not make the gateway ready again."""
    states: list[LifecycleState] = []
    opened = asyncio.Event()

    async def nothing() -> None:
        return None

    async def opening() -> None:
        await opened.wait()

    life = lifecycle([Component("slow", opening, nothing)], states)
    starting = asyncio.get_running_loop().create_task(life.start())
    await asyncio.sleep(0)
    await life.drain()
    opened.set()
    await starting
    await life.stop()
    assert states == [LifecycleState.DRAINING, LifecycleState.STOPPED]


async def test_runs_that_cannot_be_ended_keep_no_socket_open() -> None:
    """The store is down when SIGTERM comes: all clients are told to reconnect all the same."""
    registry: ConnectionRegistry[Connection] = ConnectionRegistry()
    people = [Stub(busy=True) for _ in range(3)]
    for person in people:
        registry.add(person)

    async def drain_runs(_: float) -> None:
        raise DependencyError("store", "away")

    life = Lifecycle([], registry, drain_runs, lambda: lambda _: True, grace_s=0.2, on_state=lambda _: None)
    await life.start()
    with pytest.raises(DependencyError):
        await life.drain()
    assert [person.code for person in people] == [3001, 3001, 3001]
