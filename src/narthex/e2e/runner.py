"""Runs scenarios: selects, orders, bounds, counts, and decides whether a skip is allowed.

Not here: starting or finding the system under test (`session`), rendering results (`reports`). Rules: a scenario runs
in a task of its own with a `ScenarioTraffic` of its own; one that exchanged no byte with its server has failed; a
category whose dependency failed is not run, and its results say so; the negatives are part of every run.
"""

from __future__ import annotations

import asyncio
import fnmatch
import time
import traceback
import zlib
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import groupby

from narthex.e2e.results import Result, Status, result_of
from narthex.e2e.scenario import DEPENDS_ON, Category, Scenario
from narthex.e2e.skipping import SkipScenario
from narthex.e2e.skips import allowed
from narthex.e2e.system_under_test import SystemUnderTest
from narthex.e2e.traffic import CURRENT, ScenarioTraffic
from narthex.errors import ClientError

Progress = Callable[[Scenario, Result | None], None]
"""Called when a scenario begins (None) and when it has ended."""


def silent(scenario: Scenario, result: Result | None) -> None:
    """A progress callback that does nothing."""


def select(
    scenarios: Sequence[Scenario],
    categories: Collection[Category],
    *,
    pattern: str = "",
    resume_from: str = "",
) -> list[Scenario]:
    """Select the scenarios to run, in order.

    Args:
        scenarios: all there are, ordered by category.
        categories: the requested categories.
        pattern: a part of a name or title, or a glob over names.
        resume_from: leave out the scenarios before this one (its name, or its last part).

    Returns:
        The selected scenarios. The negatives are among them unless only `unit` was requested.

    Raises:
        ClientError: nothing matches, or there is no such scenario to resume from.
    """
    chosen = [found for found in scenarios if found.category in categories and _matches(found, pattern)]
    if not chosen:
        raise ClientError(
            "nothing_selected", "No scenario matches.", "See --list-categories, or widen --pattern."
        )
    if resume_from:
        places = [
            place
            for place, found in enumerate(chosen)
            if resume_from in (found.name, found.name.rpartition(".")[2])
        ]
        if not places:
            raise ClientError(
                "nothing_to_resume",
                f"{resume_from[:80]} is not among the selected scenarios.",
                "Check --resume-from.",
            )
        chosen = chosen[places[0] :]
    if any(found.serves for found in chosen):
        wanted = {found.name for found in chosen}
        chosen = [found for found in scenarios if found.name in wanted or found.always]
    return chosen


def _matches(scenario: Scenario, pattern: str) -> bool:
    if any(sign in pattern for sign in "*?["):
        return fnmatch.fnmatchcase(scenario.name, pattern)
    return pattern.lower() in f"{scenario.name} {scenario.title}".lower()


class Runner:
    """Runs the selected scenarios.

    Args:
        system: the system under test, opened; None when only `unit` is run.
        parallel: scenarios at a time within a category.
        fail_fast: begin nothing after the first failure.
        progress: see `Progress`.
    """

    def __init__(
        self,
        system: SystemUnderTest | None,
        *,
        parallel: int = 1,
        fail_fast: bool = False,
        progress: Progress = silent,
    ) -> None:
        self._system = system
        self._parallel = max(1, parallel)
        self._fail_fast = fail_fast
        self._progress = progress
        self._failed: set[Category] = set()
        self._first_failure = ""

    async def run(self, scenarios: Iterable[Scenario]) -> list[Result]:
        """Run the scenarios; returns their results in the order of `scenarios`."""
        results: list[Result] = []
        for category, members in groupby(scenarios, key=lambda found: found.category):
            group = list(members)
            blocked = [str(needed) for needed in DEPENDS_ON[category] if needed in self._failed]
            if blocked:
                self._failed.add(category)
                why = f"not run: {', '.join(blocked)} failed, which {category} depends on"
                results += [self._untried(found, why) for found in group]
            else:
                results += await self._category(group)
        return results

    async def _category(self, group: list[Scenario]) -> list[Result]:
        gate = asyncio.Semaphore(self._parallel)

        async def guarded(found: Scenario) -> Result:
            async with gate:
                return await self._one(found)

        done: dict[str, Result] = {}
        beside = [found for found in group if not found.alone]
        for result in await asyncio.gather(*(guarded(found) for found in beside)):
            done[result.name] = result
        for found in group:
            if found.alone:
                done[found.name] = await self._one(found)
        return [done[found.name] for found in group]

    def _untried(self, scenario: Scenario, why: str) -> Result:
        result = result_of(scenario, Status.NOT_RUN, why)
        self._progress(scenario, result)
        return result

    async def _one(self, scenario: Scenario) -> Result:
        if self._fail_fast and self._first_failure:
            return self._untried(scenario, f"not run: {self._first_failure} failed (--fail-fast)")
        self._progress(scenario, None)
        began = time.monotonic()
        traffic = ScenarioTraffic(f"{zlib.crc32(scenario.name.encode()):08x}")
        # A task of its own: its context, and every reader that it starts, count into its own Traffic.
        result = await asyncio.create_task(self._executed(scenario, traffic), name=scenario.name)
        result.duration_s = round(time.monotonic() - began, 3)
        result.sent, result.received = traffic.sent, traffic.received
        result.contacted = sorted(traffic.contacted)
        if result.status is Status.FAILED:
            self._failed.add(scenario.category)
            self._first_failure = self._first_failure or scenario.name
        self._progress(scenario, result)
        return result

    async def _executed(self, scenario: Scenario, traffic: ScenarioTraffic) -> Result:
        CURRENT.set(traffic)
        try:
            async with asyncio.timeout(scenario.timeout_s):
                # `unit` needs no system; every other scenario is only selected together with one.
                await scenario.body(self._system)  # type: ignore[arg-type]  # see the line above
        except SkipScenario as skip:
            return self._skipped(scenario, skip.reason)
        except TimeoutError as fault:
            return self._failure(scenario, fault, f"not finished within {scenario.timeout_s:g} s")
        except Exception as fault:  # any exception of a scenario is its failure
            return self._failure(scenario, fault, _told(fault))
        finally:
            for connection in traffic.connections:
                if not connection.close_code:
                    connection.drop()
        if scenario.serves and not traffic.received:
            return result_of(scenario, Status.FAILED, "it sent no byte to the server under test")
        return result_of(scenario, Status.PASSED)

    def _skipped(self, scenario: Scenario, reason: str) -> Result:
        leave = allowed(scenario.name, self._system)
        if leave:
            return result_of(scenario, Status.SKIPPED, f"{reason}; allowed: {leave}")
        return result_of(scenario, Status.FAILED, f"skipped without being allowed to: {reason}")

    def _failure(self, scenario: Scenario, fault: BaseException, said: str) -> Result:
        # The server's text may hold half a surrogate, which neither a terminal nor a file takes.
        detail = f"{said} [{_place(fault)}]".encode("utf-8", "backslashreplace").decode()
        return result_of(scenario, Status.FAILED, self._system.hide(detail) if self._system else detail)


def _told(fault: BaseException) -> str:
    """The failure in words; for a bare assertion, the line that did not hold."""
    said = str(fault).strip()
    if isinstance(fault, AssertionError) and said:
        return said[:2_000]
    if isinstance(fault, AssertionError):
        return f"does not hold: {_frame(fault).line}"
    return f"{type(fault).__name__}: {said}"[:2_000]


def _place(fault: BaseException) -> str:
    frame = _frame(fault)
    return f"{frame.filename.rpartition('/')[2]}:{frame.lineno}"


def _frame(fault: BaseException) -> traceback.FrameSummary:
    """The innermost line of a scenario, else the innermost of all."""
    frames = traceback.extract_tb(fault.__traceback__)
    ours = [frame for frame in frames if "/scenarios/" in frame.filename]
    return (ours or list(frames))[-1]
