"""Finds out, without traffic and within a bound, that this node is behind the log: positions compared in bulk.

Not here: re-reading (`app/hub`). The broker pushes publications to a node; that can end without a sign (a route between
two servers that broke, a message that was dropped on the way). So every `COMPARE_EVERY_S` the position of every
followed channel, and of the control log, is compared with the log's end, and a channel that is behind is re-read or its
subscribers lose their position (3010). Rules: a channel that merely moves has `GRACE_S` to catch up before it is read;
a node that could not compare for `BOUND_S` trusts no position that it has at hand (`fresh`).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from typing import Final, Protocol

import structlog

from narthex.app.periodic import BackgroundTask
from narthex.errors import DependencyError
from narthex.ports.broker import ChannelLog, Position

COMPARE_EVERY_S: Final = 2.5
GRACE_S: Final = 0.5  # a publication on its way takes milliseconds
BOUND_S: Final = 5.0  # docs/design.md#bounded-staleness: one interval, a slow comparison, the grace, the read
RETRY_S: Final = 0.5
ASK_S: Final = (
    2.0  # an answer that was lost with a route must not hold up the next question for an engine's 12 s
)

_log = structlog.get_logger("narthex.staleness", log_name="narthex.staleness")


class Followed(Protocol):
    """The channels that a node follows (`app.hub.Hub`)."""

    def positions(self) -> Mapping[str, Position]:
        """The node's position in every channel whose position it knows."""

    def behind(self, known: Mapping[str, Position], ends: Mapping[str, Position]) -> list[str]:
        """The channels of `ends` whose position is still behind the log's end."""

    def resync(self, channels: list[str] | None) -> None:
        """Re-read them."""


class StalenessCheck(BackgroundTask):
    """See the module.

    Args:
        followed: see `Followed`.
        broker: of the channels' logs.
        on_behind: takes the number of channels that had to be re-read.
        every_s: interval of the comparisons.
        grace_s: see `GRACE_S`.
        clock: of monotonic seconds; None: the loop's.
    """

    def __init__(
        self,
        followed: Followed,
        broker: ChannelLog,
        on_behind: Callable[[int], None] = lambda _: None,
        *,
        every_s: float = COMPARE_EVERY_S,
        grace_s: float = GRACE_S,
        clock: Callable[[], float] | None = None,
    ) -> None:
        super().__init__(self._run, "staleness")
        self._followed = followed
        self._broker = broker
        self._on_behind = on_behind
        self._every_s = every_s
        self._grace_s = grace_s
        self._clock = clock
        self._compared_at = float("-inf")
        self._away = False

    async def start(self) -> None:
        """Begin; the broker must have started."""
        if self._task is None:
            self._compared_at = self._now()
        await super().start()

    def fresh(self) -> bool:
        """Whether the known positions were true at most `BOUND_S` ago."""
        return self._now() - self._compared_at <= BOUND_S

    async def compare(self) -> int:
        """Compare once and re-read channels that are behind; returns their number. Raises DependencyError."""
        began = self._now()
        known = self._followed.positions()
        try:
            async with asyncio.timeout(ASK_S):
                ends = await self._broker.behind(known)
        except TimeoutError as fault:
            raise DependencyError(
                "broker",
                f"The broker did not compare positions within {ASK_S:g} s.",
                "The node repeats the comparison.",
            ) from fault
        if ends:
            await asyncio.sleep(self._grace_s)
        behind = self._followed.behind(known, ends)
        if behind:
            _log.warning("behind_the_log", channels=len(behind), first=behind[0])
            self._followed.resync(behind)
            self._on_behind(len(behind))
        self._compared_at = began
        return len(behind)

    async def _run(self) -> None:
        wait_s = self._every_s
        while True:
            await asyncio.sleep(wait_s * random.uniform(0.9, 1.0))  # noqa: S311 - nodes must not ask in one wave
            try:
                await self.compare()
            except DependencyError as fault:
                if not self._away:
                    _log.warning("positions_not_compared", code=fault.code, detail=fault.message)
                self._away, wait_s = True, RETRY_S
            except Exception:  # a bug: no other task compares
                _log.exception("staleness_raised")
                wait_s = self._every_s
            else:
                self._away, wait_s = False, self._every_s

    def _now(self) -> float:
        return self._clock() if self._clock is not None else asyncio.get_running_loop().time()
