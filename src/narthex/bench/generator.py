"""The generator's process: takes one job on standard input, does it, and writes the figure on standard output.

Not here: the scenarios of jobs (`load/`). Rules: a job is bounded by its numbers and by `DEADLINE_S`; a failure
is reported on standard error and by a non-zero exit code.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, Final

import msgspec

from narthex.bench.cpu import raise_open_files
from narthex.bench.load.dialects import BenchTarget
from narthex.bench.results import Figure
from narthex.errors import DependencyError

DEADLINE_S: Final = 600.0
OPEN_FILES: Final = 20_000


class GeneratorJob(msgspec.Struct, kw_only=True):
    """One scenario on one target."""

    scenario: str
    target: BenchTarget
    options: dict[str, Any] = {}


def measure(job: GeneratorJob) -> Figure:
    """Do a job in a process of its own.

    Raises:
        DependencyError: it failed or took too long.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-m", "narthex.bench.generator"],
            input=msgspec.json.encode(job),
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
    except subprocess.TimeoutExpired as fault:
        raise DependencyError(
            "generator",
            f"{job.scenario} on {job.target.name} took over {DEADLINE_S:.0f} s.",
            "Lower the load.",
        ) from fault
    if done.returncode:
        said = done.stderr.decode(errors="replace")[-2000:]
        raise DependencyError("generator", f"{job.scenario} on {job.target.name} failed:\n{said}", "")
    return msgspec.json.decode(done.stdout, type=Figure)


def perform(job: GeneratorJob) -> Figure:
    """Do a job in this process."""
    from narthex.bench.load import runs, scenarios

    raise_open_files(OPEN_FILES)
    doing: Callable[..., Figure] = getattr(runs if job.scenario == "runs" else scenarios, job.scenario)
    return doing(job.target, **job.options)


if __name__ == "__main__":
    sys.stdout.buffer.write(
        msgspec.json.encode(perform(msgspec.json.decode(sys.stdin.buffer.read(), type=GeneratorJob)))
    )
