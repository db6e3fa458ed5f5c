"""`narthex.app.connection_controls`: what a node does when control messages are lost for good."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from narthex.app import connection_controls
from narthex.app.connection_controls import ConnectionControls
from narthex.app.controls import ControlDispatcher
from narthex.app.tasks import Tasks
from narthex.protocol.codes import FORCE_RECONNECT, Disconnect
from tests.app.runs.fakes import FakeMeter
from tests.timing import within


class Present:
    """A connection that notes its close."""

    def __init__(self) -> None:
        self.closed: list[Disconnect] = []
        self.at = 0.0

    def close(self, disconnect: Disconnect) -> None:
        self.closed.append(disconnect)
        self.at = asyncio.get_running_loop().time()


def controls_of(registry: list[Present], tasks: Tasks) -> ConnectionControls:
    """The part under test; the others are not reached."""
    nothing = cast("Any", None)
    dispatcher = ControlDispatcher(FakeMeter())
    return ConnectionControls(
        dispatcher, cast("Any", registry), nothing, nothing, nothing, nothing, tasks, FakeMeter()
    )


async def test_everybody_reconnects_and_not_at_the_same_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """All nodes lose the log together: the closes are spread, and a connection that is new is left alone."""
    monkeypatch.setattr(connection_controls, "LOST_WITHIN_S", 1.0)
    registry = [Present() for _ in range(2_000)]
    present = list(registry)
    tasks = Tasks("test", 10, lambda fault: pytest.fail(str(fault)))
    began = asyncio.get_running_loop().time()
    controls_of(registry, tasks).lost()
    registry.append(Present())
    await tasks.drain(within(10))
    assert all(one.closed == [FORCE_RECONNECT] for one in present)
    assert registry[-1].closed == []
    moments = sorted(one.at - began for one in present)
    assert moments[1_800] - moments[200] > 0.3


async def test_a_node_without_room_closes_them_at_once() -> None:
    """A removed user must not stay because a node is busy."""
    registry = [Present() for _ in range(50)]
    tasks = Tasks("test", 0, lambda fault: pytest.fail(str(fault)))
    controls_of(registry, tasks).lost()
    assert all(one.closed == [FORCE_RECONNECT] for one in registry)
