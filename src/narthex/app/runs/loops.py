"""A node's five loops: claim queued runs, renew its own, take over runs without an owner, close runs that were
cancelled in the queue, and look for queued runs that no node claims.

Not here: executing runs (`local_runs`), judging other nodes' leases (`observed`). Rules: each loop is one task; an
engine that is down costs a turn, never the loop; the next turn finds the work of any lost control message (claims and
orphans every `poll_s`, cancels every `renew_s`). While the node drains, it claims only runs that go on with an agent
which waits here; it lifts its other reservations, so that other nodes claim those runs at once.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from narthex.app.runs.closing import close_cancelled
from narthex.app.runs.journal import BrokerGone
from narthex.app.runs.local_runs import LocalRuns
from narthex.app.runs.observed import ObservedLeases
from narthex.app.tasks import end_tasks
from narthex.errors import DependencyError, NarthexError
from narthex.ports.broker import Control

log = structlog.get_logger("narthex.runs", log_name="narthex.runs")

GAP_S: Final = 2.0  # between two looks at leases: a loaded machine's turn still counts, a suspension does not
BATCH: Final = 64  # runs claimed or taken over in one step: a few ms of work before the loop turns
COURTESY: Final = 0.25  # of a lease: how much later a node without users takes over what it would start again


class RunLoops:
    """The loops over this node's runs; `start` and `stop` own their tasks."""

    def __init__(self, local_runs: LocalRuns) -> None:
        self._local_runs = local_runs
        self._services = local_runs.services
        self._wake = asyncio.Event()
        self._look_now = asyncio.Event()
        self._taking = asyncio.Lock()  # while a statement may give this node runs
        self._tasks: dict[str, asyncio.Task[None]] = {}
        limits = self._services.limits
        gap_s = min(max(2 * limits.poll_s, GAP_S), limits.lease_s / 2)  # never one look alone
        self._observed = ObservedLeases(limits.lease_s, gap_s)

    def wake(self) -> None:
        """Look for runs to claim now."""
        self._wake.set()

    def changed(self) -> None:
        """Another node claims no runs any more: look now which ones are for this node."""
        self._look_now.set()

    def start(self) -> None:
        """Begin all five."""
        limits = self._services.limits
        loop = asyncio.get_running_loop()
        loops = {
            "claim": self._forever("claim", self._claim, _woken(self._wake, limits.poll_s)),
            "renew": self._forever("renew", self._renew, _pause(limits.renew_s)),
            "take_over": self._forever("take_over", self._take_over, _pause(limits.poll_s)),
            "close": self._forever("close", self._close, _pause(limits.poll_s)),
            "look": self._forever("look", self._look, _woken(self._look_now, limits.look_s)),
        }
        self._tasks = {name: loop.create_task(work, name=f"runs {name}") for name, work in loops.items()}

    async def drain(self, within_s: float) -> None:
        """Begin to drain. Returns once no claim of a run for a new agent is under way: a cancelled one would leave runs
        in the store that are this node's, and that no task of it knows.
        """
        self._services.coverage.draining = True
        if not self._tasks:  # no agents run here
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                with contextlib.suppress(DependencyError):  # `_renew` repeats it
                    await self.unreserve()
                self._local_runs.run_beside(self._announce())
                with contextlib.suppress(DependencyError):
                    await self._claim()

    async def unreserve(self) -> bool:
        """While the node drains: leave the runs that it has reserved to other nodes. Returns whether there were any.

        Raises:
            DependencyError: repeat it.
        """
        services = self._services
        return bool(await services.runs.unreserve(services.owner, self._local_runs.waiting.keys()))

    async def _announce(self) -> None:
        """Let other nodes claim, also those that serve no users and leave runs to this one as long as it does."""
        with contextlib.suppress(NarthexError):  # nodes look by themselves as well
            await self._services.coverage.announce()
            await self._services.broker.control(Control("runs_available", {"look": True}))

    async def settle(self, within_s: float) -> None:
        """Wait for a claim that is under way."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s), self._taking:
                pass

    async def stop(self) -> None:
        """End all loops."""
        await end_tasks(*self._tasks.values())
        self._tasks = {}

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

    async def _claim(self) -> None:
        services, local_runs = self._services, self._local_runs
        loop = asyncio.get_running_loop()
        while True:
            self._wake.clear()
            async with self._taking:
                room = min(BATCH, services.limits.max_running - len(local_runs.leases))
                agents = services.coverage.claimable()
                # As `_renew`, which keeps every reservation alive, also one whose agent gave up waiting meanwhile.
                held = local_runs.reserving or local_runs.leases
                reserving = local_runs.waiting or (held and not local_runs.draining)
                if room <= 0 or not (agents or reserving):
                    return
                asked_at = loop.time()
                runs = await services.runs.claim(
                    services.owner, services.now(), services.limits.lease_s, room, agents
                )
                for run in runs:
                    local_runs.begin(run, asked_at + services.limits.lease_s)
            if len(runs) < room:
                return

    async def _renew(self) -> None:
        services, local_runs = self._services, self._local_runs
        if local_runs.draining and await self.unreserve():
            local_runs.run_beside(self._announce())
        if not local_runs.leases and not local_runs.waiting and not local_runs.reserving:
            return
        asked_at = asyncio.get_running_loop().time()
        # The runs that were ours at the request; one claimed meanwhile is left out.
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
        local_runs.retry_unfinished()
        local_runs.drop_given_up()
        if local_runs.draining:
            return
        limits, loop = services.limits, asyncio.get_running_loop()
        asked_at = loop.time()
        leases = await services.runs.leases()
        courtesy_s = 0.0 if services.serves_users() else limits.lease_s * COURTESY
        lapsed = [
            lease
            for lease in self._observed.lapsed(leases, asked_at, loop.time(), local_runs.leases, courtesy_s)
            if not lease.restartable or lease.state == "queued" or services.coverage.covers(lease.agent)
        ]
        for start in range(0, len(lapsed), BATCH):
            async with self._taking:
                if services.coverage.draining:
                    return
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

    async def _look(self) -> None:
        self._look_now.clear()
        if await self._services.coverage.look():
            self.wake()

    async def _close(self) -> None:
        """Close runs that no node closed, because the broker was down or the node that took the cancel died."""
        for run in await self._services.runs.unclosed(BATCH):
            try:
                await close_cancelled(self._services, self._local_runs.drop_waiting, run)
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


def _woken(wake: asyncio.Event, seconds: float) -> Callable[[], Awaitable[None]]:
    async def pause() -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await wake.wait()

    return pause
