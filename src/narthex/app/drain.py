"""Drains without a reconnect storm: sockets closed in paced batches, those with nothing to lose first.

Not here: refusing new handshakes (the lifecycle's state is `draining`), ending runs (app/runs). Rules: done
within the grace; a handful of sockets goes at once, thousands are spread over more than half of the grace, so
that they reconnect spread as well; the code of the close makes SDKs reconnect.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from narthex.ports.broker import Broker, Control
from narthex.protocol.codes import SHUTDOWN, Disconnect

TICK_S: Final = 0.05
UNHURRIED_PER_S: Final = 100.0  # load balancers do not notice a pace below this
SPREAD: Final = 0.68  # of the grace over which closes are spread
COMMAND_AFTER_S: Final = 0.1  # the answer to the command leaves first
LATEST: Final = 0.85  # of the grace by which those that follow a run are closed too, active or not


class Closable(Protocol):
    """A live connection, as far as a drain needs it."""

    def close(self, disconnect: Disconnect) -> None:
        """Close it with a code and a reason; idempotent."""


async def close_paced(
    connections: Iterable[Closable],
    busy: Callable[[Any], bool],
    *,
    grace_s: float,
    runs_ended: asyncio.Event,
    now: Callable[[], float],
    disconnect: Disconnect = SHUTDOWN,
) -> int:
    """Close every connection; those for which `busy` holds wait for `runs_ended` as long as the pace allows.

    Args:
        connections: the live ones when draining began.
        busy: whether a run that this connection follows is active.
        grace_s: within which all are closed.
        runs_ended: set when every run has ended or moved.
        now: the loop's clock.
        disconnect: the code that they are closed with.

    Returns:
        The number of closed connections.
    """
    idle: list[Closable] = []
    waiting: list[Closable] = []
    for connection in connections:
        (waiting if busy(connection) else idle).append(connection)
    total = len(idle) + len(waiting)
    if not total:
        return 0
    began = now()
    span_s = max(TICK_S, grace_s * SPREAD)
    pace = max(UNHURRIED_PER_S, total / span_s)
    closed = 0
    while idle or waiting:
        elapsed = now() - began
        target = int(elapsed * pace) + 1
        while closed < target and (idle or waiting):
            if idle:
                idle.pop().close(disconnect)
            elif runs_ended.is_set() or elapsed >= grace_s * LATEST:
                waiting.pop().close(disconnect)
            else:
                break
            closed += 1
        await asyncio.sleep(TICK_S)
    return closed


class DrainCommands:
    """Drains that a command requests: of this node, of another, of all.

    Args:
        node: this node's id.
        broker: takes the command to other nodes.
        drain: begins this node's drain, as SIGTERM does.
    """

    def __init__(self, node: str, broker: Broker, drain: Callable[[], None]) -> None:
        self._node = node
        self._broker = broker
        self._drain = drain

    async def request(self, node: str) -> None:
        """Drain this node (empty), another by its id, or all (`*`). Raises DependencyError."""
        if node in ("", self._node):
            asyncio.get_running_loop().call_later(COMMAND_AFTER_S, self._drain)
        else:
            await self._broker.control(Control("drain", {}, "" if node == "*" else node))

    def control(self, _: Control) -> None:
        """Handle the control message `drain` for this node."""
        self._drain()
