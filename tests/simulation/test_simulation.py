"""The simulation itself: 2,000 seeds without a finding, exact replay, shrinking, and the detection of seeded faults."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.history import summary
from tests.simulation.__main__ import play
from tests.simulation.mutants import FENCED, MUTANTS
from tests.simulation.plan import Plan, draw
from tests.simulation.shrink import shrink
from tests.simulation.world import Outcome, run
from tests.timing import within

ROOT = Path(__file__).parents[2]
SEEDS = 2_000
SOAK_SEEDS = 10_000
QUICK = 200
"""Seeds that show the faults of `QUICK_MUTANTS`."""
QUICK_MUTANTS = (
    "commands-overtake",
    "positions-not-compared",
    "tail-lost-in-old-epoch",
    "keys-forgotten",
    "removals-ignored",
    "revoked-stay",
    "two-owners-publish",
    "end-unconditional",
)
RARE_MUTANTS = {"number-is-identity": "freeze_owner"}
"""Mutants that show with one step only, which few seeds have."""
RARE = 400


def command(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.simulation", *words],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        check=False,
        timeout=within(1_800),
    )


@pytest.mark.parametrize(
    ("first", "last"), [(1, SEEDS), pytest.param(SEEDS + 1, SOAK_SEEDS, marks=pytest.mark.soak)]
)
@pytest.mark.timeout(within(1_800))
def test_no_seed_breaks_a_promise(first: int, last: int) -> None:
    """Three nodes under crashes, partitions, clock steps and engine faults: no seed has a finding."""
    done = command("--seeds", f"{first}..{last}")
    print(done.stdout)
    count = last - first + 1
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    assert f"{count} of {count} seeds, 0 failed" in done.stdout


def records(outcome: Outcome) -> list[bytes]:
    return [msgspec.json.encode(record) for record in outcome.history]


def test_a_seed_replays_exactly() -> None:
    """The same seed gives the same history, record by record, regardless of what was played in between."""
    first = {seed: records(run(draw(seed))) for seed in range(30, 36)}
    for seed in reversed(first):
        assert records(run(draw(seed))) == first[seed], seed


def test_histories_are_not_empty() -> None:
    """A handful of seeds contains publications, recoveries, runs, faults and losses."""
    counts: dict[str, int] = {}
    for seed in range(1, 25):
        for name, count in summary(run(draw(seed)).history).items():
            counts[name] = counts.get(name, 0) + count
    assert counts["acknowledged"] > 300
    assert counts["delivered"] > 3_000
    assert counts["runstarted"] > 50
    assert counts["fault"] > 50
    assert min(counts[name] for name in ("recovered", "unrecovered", "membership", "cancelacknowledged")) > 5
    assert counts["epoch_changes"] > 5


@pytest.mark.parametrize("name", MUTANTS | FENCED)
def test_a_seeded_fault_changes_something(name: str) -> None:
    """The patched attribute exists, and the replaced SQL exists in this form."""
    mutant = (MUTANTS | FENCED)[name]
    with mutant.app():
        pass
    sources = "".join(path.read_text() for path in (ROOT / "src/narthex/adapters/stores/sql").glob("*.py"))
    assert mutant.sql is None or mutant.sql[0] in sources


@pytest.mark.parametrize("mutant", QUICK_MUTANTS)
@pytest.mark.timeout(within(300))
def test_a_seeded_fault_is_found(mutant: str) -> None:
    """A reverted fix, or an engine that breaks its contract, shows within a few seeds."""
    assert any(play(seed, mutant).failed for seed in range(1, QUICK + 1))


@pytest.mark.parametrize("mutant", RARE_MUTANTS)
@pytest.mark.timeout(within(300))
def test_a_seeded_fault_is_found_where_its_step_is_played(mutant: str) -> None:
    """The same, of the seeds that have the step."""
    wanted = RARE_MUTANTS[mutant]
    seeds = [seed for seed in range(1, RARE + 1) if any(step.what == wanted for step in draw(seed).steps)]
    assert any(play(seed, mutant).failed for seed in seeds)


def test_a_failing_plan_is_shrunk_to_a_few_steps() -> None:
    """Of dozens of steps only those remain without which the fault does not show."""
    seeded = MUTANTS["positions-not-compared"]

    def again(plan: Plan) -> Outcome:
        with seeded.app():
            return run(plan, seeded.prepare)

    plan = next(plan for plan in map(draw, range(1, QUICK + 1)) if again(plan).failed)
    small, outcome = shrink(plan, again)
    assert outcome.failed
    assert len(small.steps) < len(plan.steps)
    assert len(small.steps) <= 8
    assert records(again(small)) == records(outcome)


def test_a_plan_that_does_not_fail_cannot_be_shrunk() -> None:
    """A plan without steps breaks nothing, and `shrink` says so."""
    with pytest.raises(ValueError, match="does not fail"):
        shrink(Plan(seed=1, steps=[]), run)


def test_a_plan_survives_json() -> None:
    """A plan can be saved and played again elsewhere."""
    plan = draw(7)
    assert msgspec.json.decode(msgspec.json.encode(plan), type=Plan) == plan
