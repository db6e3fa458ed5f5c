"""The command line of the simulation; see the package."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Final, NamedTuple

from tests.history import report, summary
from tests.simulation.mutants import FENCED, MUTANTS
from tests.simulation.plan import draw
from tests.simulation.shrink import shrink
from tests.simulation.world import Outcome, run

CHUNK: Final = 20
"""Seeds that one worker takes at a time."""
WITHIN: Final = 5_000
"""Seeds within which a seeded fault must be found."""


class Verdict(NamedTuple):
    """The result of a seed."""

    seed: int
    kinds: tuple[str, ...]
    text: str


def judge(seeds: Sequence[int], mutant: str = "") -> list[Verdict]:
    """Play some seeds, in a worker."""
    found = []
    for seed in seeds:
        outcome = play(seed, mutant)
        text = "\n".join([report(outcome.findings, 3), *outcome.bugs[:3]]).strip()
        found.append(Verdict(seed, tuple(sorted(outcome.kinds)), text))
    return found


def play(seed: int, mutant: str = "") -> Outcome:
    """Play one seed, with a seeded fault if one is named."""
    if not mutant:
        return run(draw(seed))
    seeded = (MUTANTS | FENCED)[mutant]
    with seeded.app():
        return run(draw(seed), seeded.prepare)


def verdicts(seeds: Sequence[int], workers: int, mutant: str = "") -> Iterator[Verdict]:
    """All seeds over all cores, in order."""
    chunks = [seeds[at : at + CHUNK] for at in range(0, len(seeds), CHUNK)]
    with ProcessPoolExecutor(workers) as pool:
        try:
            for found in pool.map(judge, chunks, [mutant] * len(chunks)):
                yield from found
        finally:
            pool.shutdown(cancel_futures=True)


def main(arguments: Sequence[str]) -> int:
    """The exit code: 1 when a seed fails (with `--mutant`: when none does)."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", metavar="A..B", help="a range, both ends included")
    parser.add_argument("--seed", type=int, help="one seed, told in full")
    parser.add_argument("--shrink", action="store_true", help="with --seed: leave out what is not needed")
    parser.add_argument("--mutant", default="", choices=["", *MUTANTS, *FENCED], help="with a seeded fault")
    parser.add_argument(
        "--mutants", action="store_true", help="every seeded fault: the first seed that finds it"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    given = parser.parse_args(arguments)
    if given.mutants:
        return _table(given.workers)
    if given.seed is not None:
        return _one(given.seed, given.mutant, small=given.shrink)
    first, _, last = (given.seeds or "1..200").partition("..")
    return _range(range(int(first), int(last or first) + 1), given.workers, given.mutant)


def _range(seeds: Sequence[int], workers: int, mutant: str) -> int:
    began, done, failed = time.monotonic(), 0, 0
    for verdict in verdicts(seeds, workers, mutant):
        done += 1
        if verdict.kinds:
            failed += 1
            print(f"seed {verdict.seed}: {', '.join(verdict.kinds)}\n{verdict.text}", flush=True)
            if mutant:
                break
        if done % 500 == 0 or done == len(seeds):
            rate = done / (time.monotonic() - began)
            print(f"{done} of {len(seeds)} seeds, {failed} failed, {rate:.1f} a second", flush=True)
    if mutant:
        print(f"{mutant}: {'found' if failed else 'NOT FOUND'} after {done} seeds")
        return 0 if failed else 1
    return 1 if failed else 0


def _one(seed: int, mutant: str, *, small: bool) -> int:
    outcome = play(seed, mutant)
    if small and outcome.failed:
        seeded = (MUTANTS | FENCED).get(mutant)

        def again(plan: object) -> Outcome:
            if seeded is None:
                return run(plan)  # type: ignore[arg-type]  # a Plan, as `shrink` says
            with seeded.app():
                return run(plan, seeded.prepare)  # type: ignore[arg-type]  # as above

        _, outcome = shrink(outcome.plan, again)
    plan = outcome.plan
    print(f"seed {seed}: slow {plan.slow}, clocks ahead {plan.ahead_s}, repeated {plan.clumsy}")
    for step in plan.steps:
        print(f"{step.at:10.3f} {step.what} {step.who} {step.value:g} {step.text}".rstrip())
    print(f"{outcome.turns} callbacks, {summary(outcome.history)}")
    print(report(outcome.findings) or "nothing was found")
    print("\n".join(outcome.bugs))
    return 1 if outcome.failed else 0


def _shows(verdict: Verdict, mutant: str) -> bool:
    """Whether the checker found the fault. An exception alone may come from a mutant that no longer fits the code."""
    return bool(set(verdict.kinds) - {"bug"}) or (mutant == "never-ready" and bool(verdict.kinds))


def _table(workers: int) -> int:
    """Every seeded fault: its reverted fix, the first seed that finds it, and the finding."""
    missed = 0
    for name, mutant in MUTANTS.items():
        found = next(
            (one for one in verdicts(range(1, WITHIN + 1), workers, name) if _shows(one, name)), None
        )
        missed += found is None
        told = "NOT FOUND" if found is None else f"seed {found.seed}: {', '.join(found.kinds)}"
        print(f"| {name} | {mutant.item} | {mutant.what} | {told} |", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # the order of sets of strings is part of a history
        os.environ["PYTHONHASHSEED"] = "0"
        os.execv(sys.executable, [sys.executable, "-m", "tests.simulation", *sys.argv[1:]])
    sys.exit(main(sys.argv[1:]))
