"""Reduces a failing plan: steps are removed as long as one of the same findings remains.

Rules: the noise stays that of the seed; the number of attempts is bounded; the result fails for one of the kinds of
findings
that the whole plan failed for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import msgspec

from tests.simulation.plan import Plan, Step
from tests.simulation.world import Outcome

MAX_TRIES: Final = 400


def shrink(plan: Plan, play: Callable[[Plan], Outcome]) -> tuple[Plan, Outcome]:
    """Return the smallest failing plan that was found, and its outcome.

    Raises:
        ValueError: the plan does not fail.
    """
    best = play(plan)
    if not best.failed:
        raise ValueError(f"seed {plan.seed} does not fail")
    wanted, tries = best.kinds, 0

    def fails(candidate: Plan) -> bool:
        nonlocal best, tries
        tries += 1
        outcome = play(candidate)
        if outcome.kinds & wanted:
            best = outcome
            return True
        return False

    for simpler in ({"slow": (0.0, 0.0)}, {"clumsy": 0.0}, {"ahead_s": tuple(0.0 for _ in plan.ahead_s)}):
        if fails(candidate := msgspec.structs.replace(plan, **simpler)):
            plan = candidate
    size = max(1, len(plan.steps) // 2)
    while tries < MAX_TRIES:
        start, cut = 0, False
        while start < len(plan.steps) and tries < MAX_TRIES:
            fewer: list[Step] = plan.steps[:start] + plan.steps[start + size :]
            if fails(candidate := msgspec.structs.replace(plan, steps=fewer)):
                plan, cut = candidate, True
            else:
                start += size
        if size == 1 and not cut:
            break
        size = max(1, size // 2)
    return plan, best
