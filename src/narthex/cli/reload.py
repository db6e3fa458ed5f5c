"""`narthex serve --reload`: starts the server again when a source file below the working directory changes.

Development only. The server is a child process, so that every module is loaded anew; connected clients reconnect and
recover. Not here: watching files (watchfiles). Rules: a server that cannot start (a syntax error, a wrong setting) is
tried again at the next change; its drain is short unless a setting says how long.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from narthex.errors import EXIT_OK, ConfigError
from narthex.extras import Need, require

GRACE_VARIABLE: Final = "NARTHEX_DRAIN_GRACE_S"
SUFFIXES: Final = (".py", ".toml")  # a file of --env-file became the environment, which children inherit


def serve_again_and_again(words: Sequence[str], environment: str, data_dir: Path) -> int:
    """Run `narthex` with `words` without `--reload` until a signal, and anew after each change.

    Args:
        words: the command line's.
        environment: the gateway's; only development reloads.
        data_dir: is not watched.

    Raises:
        ConfigError: the environment is another, or watchfiles is not installed.
    """
    if environment != "development":
        raise ConfigError([f"--reload is for development, and ENVIRONMENT is {environment}. Leave it out."])
    require(Need("reload", "--reload"))
    from watchfiles import Change, DefaultFilter, run_process

    ignored = data_dir.resolve()

    class Sources(DefaultFilter):
        def __call__(self, change: Change, path: str) -> bool:
            own = path.endswith(SUFFIXES) and not Path(path).is_relative_to(ignored)
            return own and super().__call__(change, path)

    def changed(changes: set[tuple[Change, str]]) -> None:
        names = sorted(os.path.relpath(path) for _, path in changes)
        print(f"narthex: {', '.join(names[:3])} changed; starting again", file=sys.stderr, flush=True)

    os.environ.setdefault(GRACE_VARIABLE, "1")
    command = [sys.executable, "-m", "narthex", *(word for word in words if word != "--reload")]
    run_process(
        Path.cwd(),
        target=shlex.join(command),
        target_type="command",
        callback=changed,
        watch_filter=Sources(),
        sigint_timeout=15,
    )
    return EXIT_OK
