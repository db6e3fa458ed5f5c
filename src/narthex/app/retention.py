"""The limit of history: deletes messages and threads past their owner's plan, rows first, then their parts in the logs.

Not here: the limit itself (`domain/plans.py`, the store), owners' plans (`app/owner_plans.py`). Rules: batches are
bounded and as far apart as they took, so that half of the store's time is always left for other work; instances may do
it at once; a round that fails is counted, logged and tried again next time; this task hides nothing: reads leave
out old data by themselves, and only entries in a channel's log are there until a round has come.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Mapping
from typing import Final

import msgspec
import structlog

from narthex.app.periodic import Periodic
from narthex.domain.channels import channel_key, thread_channel
from narthex.domain.plans import Plan, kept_since
from narthex.errors import DependencyError, NarthexError
from narthex.ports.broker import Broker, Control, Position
from narthex.ports.telemetry import Meter
from narthex.ports.threads import LogCut, Purged, Threads

EVERY_S: Final = 600.0  # limits are days: 10 min more are 1 % of the shortest
BATCH: Final = 500  # rows of one transaction: about 10 ms of the store's writer
CUTS: Final = 100  # logs of one page
MAX_FAULTS: Final = 5  # in a row: the broker is down, and each request may take its whole time-out
MAX_BATCHES: Final = 2_000  # of one round: a million rows; the next round goes on


log = structlog.get_logger("narthex.gateway", log_name="narthex.gateway")


class PurgeResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one round, for the log."""

    threads: int
    messages: int
    runs: int
    logs: int
    duration_s: float


class Retention(Periodic):
    """See the module. `stop` leaves a batch under way done or undone as a whole.

    Args:
        threads: of the store.
        broker: whose logs are cut.
        plans: by name.
        meter: counts deletions and failed rounds, and shows when the last one ended.
        on_round: takes every round that deleted something; by default it is logged.
        on_fault: takes the reason why a round failed; by default it is logged.
        clock: seconds since the epoch.
        every_s: interval, with jitter so that instances do not meet.
    """

    def __init__(
        self,
        threads: Threads,
        broker: Broker,
        plans: Mapping[str, Plan],
        meter: Meter,
        *,
        on_round: Callable[[PurgeResult], None] | None = None,
        on_fault: Callable[[BaseException], None] | None = None,
        clock: Callable[[], float] = time.time,
        every_s: float = EVERY_S,
    ) -> None:
        super().__init__(self._purge, every_s=every_s)
        self._threads = threads
        self._broker = broker
        self._plans = plans
        self._meter = meter
        self._on_round = on_round or _log_round
        self._on_fault = on_fault or _log_fault
        self._clock = clock

    async def _purge(self) -> None:
        try:
            done = await self.purge_once()
        except Exception as fault:  # also a bug: the task must run again next time
            self._meter.count("history_purge_failures")
            self._on_fault(fault)
            return
        if done.threads or done.messages or done.runs or done.logs:
            self._on_round(done)

    async def purge_once(self) -> PurgeResult:
        """Delete all data that is past its limit now. Raises DependencyError; earlier deletions stay."""
        began = time.monotonic()
        total = Purged()
        for _ in range(MAX_BATCHES):
            batch_began = time.monotonic()
            now = self._clock()
            purged = await self._threads.purge(kept_since(self._plans, now), limit=BATCH, now=now)
            total = _sum(total, purged)
            self._count(purged)
            if not purged.more:
                break
            await asyncio.sleep(time.monotonic() - batch_began)
        logs = await self._cut_logs()
        self._meter.gauge("history_purge_timestamp_seconds", self._clock())
        return PurgeResult(
            threads=total.threads,
            messages=total.messages,
            runs=total.runs,
            logs=logs,
            duration_s=round(time.monotonic() - began, 3),
        )

    def _count(self, purged: Purged) -> None:
        for kind, number in (
            ("threads", purged.threads),
            ("messages", purged.messages),
            ("runs", purged.runs),
        ):
            if number:
                self._meter.count("history_purged", number, kind=kind)

    # -- logs ----------------------------------------------------------------------------------------------

    async def _cut_logs(self) -> int:
        """Finish deletions in the broker, also those of before a crash or an outage. Each is safe to repeat.

        A log that cannot be cut does not stop the others; the first fault is raised at the end.
        """
        done, in_a_row = 0, 0
        faults: dict[LogCut, Exception] = {}
        while cuts := [cut for cut in await self._threads.log_cuts(CUTS) if cut not in faults]:
            for cut in cuts:
                try:
                    await self._cut(cut)
                    await self._threads.log_cut_done(cut)
                except Exception as fault:  # also a bug: the contents of one log must not keep the others
                    faults[cut] = fault
                    in_a_row += 1
                    if in_a_row == MAX_FAULTS:
                        raise
                    continue
                done, in_a_row = done + 1, 0
        if faults:
            raise next(iter(faults.values()))
        return done

    async def _cut(self, cut: LogCut) -> None:
        key = channel_key(cut.tenant, thread_channel(cut.thread_id))
        if cut.before:
            through = await self._last_before(key, cut.before)
            if through is not None:
                await self._broker.trim(key, through)
            return
        with contextlib.suppress(DependencyError):  # a subscribed client only gets no more events
            await self._broker.control(Control("unsubscribe", {"channel": key, "user": "", "stored": True}))
        await self._broker.remove(key)

    async def _last_before(self, key: str, moment: float) -> Position | None:
        """The position of the last publication that is older than `moment`, None for none; a dozen small reads."""
        oldest = await self._broker.history(key, limit=1)
        if not oldest.publications or oldest.publications[0].at >= moment:
            return None
        epoch = oldest.top.epoch
        low, high = oldest.publications[0].offset, oldest.top.offset  # `low` is older
        while low < high:
            middle = (low + high + 1) // 2
            page = await self._broker.history(key, since=Position(middle - 1, ""), limit=1)
            if page.top.epoch != epoch:  # the log was replaced
                return await self._last_before(key, moment)
            if page.publications and page.publications[0].at < moment:
                low = middle
            else:
                high = middle - 1
        return Position(low, epoch)


def _sum(one: Purged, other: Purged) -> Purged:
    return Purged(
        threads=one.threads + other.threads,
        messages=one.messages + other.messages,
        runs=one.runs + other.runs,
    )


def _log_round(done: PurgeResult) -> None:
    log.info("history purged", **msgspec.to_builtins(done))


def _log_fault(fault: BaseException) -> None:
    """History past its limit stays for now; reads go on leaving it out."""
    if isinstance(fault, NarthexError):
        log.warning("history not purged", code=fault.code, detail=fault.message, remedy=fault.remedy)
    else:
        log.error("bug", where="retention", exc_info=fault)
