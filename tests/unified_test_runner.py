"""The unified test runner: `python tests/unified_test_runner.py …` is `narthex test …`, with this checkout's scenarios.

    python tests/unified_test_runner.py --env staging --category e2e --real-services
    python tests/unified_test_runner.py --env staging --categories e2e websocket
    python tests/unified_test_runner.py --list-categories

Not here: anything else; see docs/testing.md.
"""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> int:
    """Run `narthex test` with the arguments of this command line; returns the exit code."""
    # Python put tests/ first, whose folders have the names of narthex's rooms; the scenarios are those of src/.
    sys.path[:] = [str(HERE.parent / "src"), *(path for path in sys.path if path != str(HERE))]
    from narthex.cli.main import run

    return run(["test", *sys.argv[1:]])


if __name__ == "__main__":
    sys.exit(main())
