"""What runs in the forked process of one mutant: pytest over the tests that execute the changed line.

Not here: which tests (run.py). Rules: the parent process has imported the libraries and nothing of narthex; this
process leads a process group, so that servers which a test started end with it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Final

from tests.mutants import plugin

LIBRARIES: Final = (
    *("pytest", "hypothesis", "hypothesis.strategies", "asyncio", "sqlite3", "logging.config"),
    *(
        "aiohttp",
        "httpx2",
        "starlette.testclient",
        "websockets",
        "picows",
        "valkey.asyncio",
        "nats",
        "asyncpg",
    ),
    *("joserfc.jwt", "cryptography.x509", "prometheus_client", "pydantic", "stamina", "xdist", "execnet"),
)
"""Imported once; those that are missing are passed over."""


def run_tests(tests: Sequence[str], mutant: str, output: str) -> None:
    """Run pytest until a test fails, with the mutant in place, and end this process with pytest's exit code."""
    os.setsid()
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    plugin.install(mutant)
    sys.dont_write_bytecode = True
    import pytest

    # Plain assertions: pytest's import hook would stand before the mutant's, since narthex brings a pytest plugin.
    options = ["-x", "-q", "--no-header", "--tb=no", "--assert=plain", "-p", "no:cacheprovider"]
    os._exit(pytest.main([*options, *tests]))
