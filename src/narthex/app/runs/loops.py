"""A node's four loops: claim queued runs, renew its own, take over runs without an owner, and close runs that were
cancelled in the queue.

Not here: executing runs (`local_runs`), judging other nodes' leases (`observed`). Rules: each loop is one task; an
engine that is down costs a turn, never the loop; the next turn finds the work of any lost control message (claims and
orphans every `poll_s`, cancels every `renew_s`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from narthex.app.runs.closing import close_cancelled
from narthex.app.runs.journal import BrokerGone
from narthex.app.runs.local_runs import LocalRuns
from narthex.app.runs.observed import ObservedLeases
from narthex.errors import DependencyError, NarthexError

log = structlog.get_logger("narthex.runs", log_name="narthex.runs")

GAP_S: Final = 2.0  # between two looks at leases: a loaded machine's turn still counts, a suspension does not
BATCH: Final = 64  # runs claimed or taken over in one step: a few ms of work before the loop turns


class RunLoops:
    """The loops over this node's runs; `start` and `stop` own their tasks."""

    def __init__(self, local_runs: LocalRuns) -> None:
        self._local_runs = local_runs
        self._services = local_runs.services
        self._wake = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        limits = self._services.limits
        gap_s = min(max(2 * limits.poll_s, GAP_S), limits.lease_s / 2)  # never one look alone
        self._observed = ObservedLeases(limits.lease_s, gap_s)

    def wake(self) -> None:
        """Look for runs to claim now."""
        self._wake.set()

    def start(self) -> None:
        """Begin all four."""
        limits = self._services.limits
        loop = asyncio.get_running_loop()
        self._tasks = [
            loop.create_task(self._forever("claim", self._claim, self._woken), name="runs claim"),
            loop.create_task(self._forever("renew", self._renew, _pause(limits.renew_s)), name="runs renew"),
            loop.create_task(
                self._forever("take_over", self._take_over, _pause(limits.poll_s)), name="runs reap"
            ),
            loop.create_task(self._forever("close", self._close, _pause(limits.poll_s)), name="runs close"),
        ]

    def stop_claiming(self) -> None:
        """Drain: claim no more; renewal goes on so that ending runs can still end."""
        for task in (*self._tasks[:1], *self._tasks[2:]):  # none where agents do not run
            task.cancel()

    async def stop(self) -> None:
        """End all loops."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []

    async def _forever(
        self, name: str, turn: Callable[[], Awaitable[None]], pause: Callable[[], Awaitable[None]]
    ) -> None:
        while True:
            try:
                await turn()
            except Exception as fault:
                self._services.meter.count("run_loop_failures", loop=name)
                if isinstance(fault, NarthexError):
                    log.warning("run_loop_failed", loop=name, code=fault.code, reason=fault.message)
                else:
                    log.exception("run_loop_bug", loop=name)
                await asyncio.sleep(min(1.0, self._services.limits.poll_s))
            await pause()

    async def _woken(self) -> None:
        try:
            async with asyncio.timeout(self._services.limits.poll_s):
                await self._wake.wait()
        except TimeoutError:
            pass

    async def _claim(self) -> None:
        services, local_runs = self._services, self._local_runs
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            room = min(BATCH, services.limits.max_running - len(local_runs.leases))
            if room <= 0 or local_runs.draining:
                return
            asked_at = loop.time()
            runs = await services.runs.claim(services.owner, services.now(), services.limits.lease_s, room)
            for run in runs:
                local_runs.begin(run, asked_at + services.limits.lease_s)
            if len(runs) < room:
                return

    async def _renew(self) -> None:
        services, local_runs = self._services, self._local_runs
        if not local_runs.leases and not local_runs.waiting:
            return
        asked_at = asyncio.get_running_loop().time()
        # The runs that were ours at the request; one claimed meanwhile is not judged.
        held = {run_id: (lease, lease.wall_ahead_s()) for run_id, lease in local_runs.leases.items()}
        ours = set(
            await services.runs.renew(services.owner, services.now(), services.limits.lease_s, held.keys())
        )
        for run_id, (lease, ahead_s) in held.items():
            if run_id in ours:
                lease.extend(asked_at + services.limits.lease_s, ahead_s)
            elif local_runs.leases.get(run_id) is lease and local_runs.give_up(run_id):
                services.meter.count("runs_lost")
        for run in await services.runs.cancel_requests(services.owner):
            execution = local_runs.executions.get(run.run_id)
            if execution is not None:
                execution.cancel(run.cancel_requested_by)

    async def _take_over(self) -> None:
        services, local_runs = self._services, self._local_runs
        if local_runs.draining:
            return
        local_runs.retry_unfinished()
        local_runs.drop_given_up()
        limits, loop = services.limits, asyncio.get_running_loop()
        asked_at = loop.time()
        leases = await services.runs.leases()
        lapsed = self._observed.lapsed(leases, asked_at, loop.time(), local_runs.leases)
        for start in range(0, len(lapsed), BATCH):
            asked_at = loop.time()
            runs = await services.runs.take_over(
                services.owner, lapsed[start : start + BATCH], services.now(), limits.lease_s
            )
            for run in runs:
                services.meter.count("runs_taken_over")
                log.warning("run_taken_over", run_id=run.run_id, attempt=run.attempt, agent=run.agent)
                local_runs.begin(run, asked_at + limits.lease_s)
        if any(lease.state == "queued" for lease in lapsed):
            self.wake()

    async def _close(self) -> None:
        """Close runs that no node closed, because the broker was down or the node that took the cancel died."""
        for run in await self._services.runs.unclosed(BATCH):
            try:
                await close_cancelled(self._services, self._local_runs, run)
            except BrokerGone:
                return
            except DependencyError:
                raise
            except Exception:  # of this run: those behind it must be closed all the same
                self._services.meter.count("run_loop_failures", loop="close")
                log.exception("run_not_closed", run_id=run.run_id)
                continue
            self.wake()


def _pause(seconds: float) -> Callable[[], Awaitable[None]]:
    async def pause() -> None:
        await asyncio.sleep(seconds)

    return pause
