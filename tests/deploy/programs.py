"""The programs that check manifests: where they are, or a skip that CI counts as a failure.

`.ci/run` installs helm and actionlint, which are Go modules, into `~/.cache/narthex-tools/bin`, where
they are looked for.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from narthex.extras import program_path
from tests.services import missing
from tests.timing import within

GO_TOOLS: Final = Path.home() / ".cache" / "narthex-tools" / "bin"


def program(name: str, remedy: str) -> str:
    """Its path."""
    built = GO_TOOLS / name
    return str(built) if built.exists() else program_path(name) or missing(name, remedy)


def checked(*command: str | Path, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run a checker to its end; its output. Fails with the output when it does not exit 0."""
    done = subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env=dict(env) if env is not None else None,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=within(60),
    )
    assert done.returncode == 0, f"{' '.join(map(str, command))}:\n{done.stdout[-4000:]}"
    return done.stdout
