"""`python -m tests.mutants`: see the package.

Exit 0 when at least 92 % of the mutants that change behaviour are noticed.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Final

from tests.mutants.run import MAP, draw, map_tests, run

ENOUGH: Final = 0.92


def main() -> int:
    """Map, draw, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--seed", type=int, default=1, help="which mutants are drawn")
    parser.add_argument("--count", type=int, default=300, help="how many")
    parser.add_argument("--only", action="append", default=[], help="a path or pattern below src/narthex")
    parser.add_argument(
        "--results", type=Path, help="append each verdict to this file, and go on where it stops"
    )
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--map",
        nargs="*",
        metavar="TESTS",
        help="renew the map of which test executes which line, or add the tests of some paths",
    )
    parser.add_argument("--list", action="store_true", help="show the mutants and run nothing")
    given = parser.parse_args()
    if given.list:
        for mutant in draw(given.seed, given.count, given.only):
            print(mutant)
        return 0
    if given.map is not None or not MAP.exists():
        map_tests(given.map or ())
    if given.map is not None:
        return 0
    verdicts = run(draw(given.seed, given.count, given.only), given.workers, given.results)
    counts = Counter(verdict.outcome for verdict in verdicts)
    judged = len(verdicts) - counts["equivalent"]
    noticed = sum(verdict.noticed for verdict in verdicts)
    print(f"\nseed {given.seed}: " + ", ".join(f"{count} {name}" for name, count in sorted(counts.items())))
    for verdict in sorted(verdicts, key=lambda it: str(it.mutant)):
        if not verdict.noticed:
            print(f"  {verdict.outcome}: {verdict.mutant}")
    share = noticed / judged if judged else 1.0
    print(f"{noticed} of {judged} noticed: {share:.1%} (at least {ENOUGH:.0%} are wanted)")
    return 0 if share >= ENOUGH else 1


if __name__ == "__main__":
    sys.exit(main())
