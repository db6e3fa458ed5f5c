"""A decision that waits is cancelled when its client leaves, and takes nothing with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from narthex.adapters.edge.edge import Edge
from narthex.adapters.edge.rules import HeadRules, Upgrade
from narthex.adapters.edge.tcp import TcpConnection
from narthex.adapters.edge.upgrades import PendingDecision
from narthex.adapters.edge.upstream.dialing import Upstream
from narthex.adapters.edge.upstream.handler import RelayHandler
from narthex.ports.edge import UpgradeHandler
from tests.adapters.edge.upstream.harness import Everyone, hand_on
from tests.app.handshake_harness import KEY, head, open_entrance

UPGRADE = cast("Upgrade", None)  # only an accepted handshake needs it


class Transport:
    """A transport that is lost at once when the edge aborts it."""

    def __init__(self) -> None:
        self.aborted = False
        self.written = b""

    def abort(self) -> None:
        self.aborted = True

    def write(self, data: bytes) -> None:
        self.written += data

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def pending(handler: UpgradeHandler, request: Any) -> tuple[PendingDecision, asyncio.Task[None]]:
    """A connection whose decision has begun to wait, and that has not had a loop iteration yet."""
    edge = Edge(handler, rules=HeadRules(allowed_host=lambda _: True))
    edge.start(asyncio.get_running_loop())
    tcp = TcpConnection(edge)
    tcp.transport = cast("asyncio.Transport", Transport())
    tcp.peer = request.peer
    decision = handler.decide(request)
    assert asyncio.iscoroutine(decision)
    stage = PendingDecision(tcp, request, UPGRADE, b"")
    before = asyncio.all_tasks()
    stage.wait(decision)
    (task,) = asyncio.all_tasks() - before
    return stage, task


@pytest.mark.parametrize("way", ["connection_lost", "expired", "end"])
async def test_a_test_identity_whose_client_leaves_at_once_gives_its_slot_back(
    tmp_path: Path, way: str
) -> None:
    """Its admission must be recorded, which waits; the slot was taken before, and the task has not run yet."""
    async with open_entrance(tmp_path) as found:
        stage, task = pending(found.handshakes, head(None, ("x-e2e-bypass-key", KEY)))
        assert found.limiter.total == 1
        _leave(stage, way)
        await asyncio.wait((task,))
        assert found.limiter.total == 0


@pytest.mark.parametrize("way", ["connection_lost", "expired", "end"])
async def test_a_relayed_connection_whose_client_leaves_at_once_ends_its_receiver(way: str) -> None:
    """The guard's admission gave it a slot before the upstream is asked."""
    admission = Everyone()
    handler = RelayHandler(
        admission,
        Upstream("127.0.0.1", 9),
        hand_on,
        timeout_s=5.0,
        handshake_timeout_s=10.0,
        result=lambda *_: None,
    )
    stage, task = pending(cast("UpgradeHandler", handler), head("ann"))
    handler.edge = stage.tcp.edge
    receiver = admission.admitted.get_nowait()
    _leave(stage, way)
    await asyncio.wait((task,))
    assert receiver.events.get_nowait()[0] == "closed"


def _leave(stage: PendingDecision, way: str) -> None:
    if way == "connection_lost":
        stage.connection_lost(None)
    elif way == "expired":
        stage.expired()
    else:
        stage.end()
