"""Reads a file of variables for `--env-file`, as python-dotenv reads it. Only on request: no `.env` is looked for."""

from __future__ import annotations

from io import StringIO
from pathlib import Path

from dotenv import dotenv_values

from narthex.errors import ConfigError


def read_env_file(path: str) -> dict[str, str]:
    """The variables of the file `path`; names without `=` are left out.

    Raises:
        ConfigError: there is no such file, it cannot be read, or is no UTF-8.
    """
    if not path:
        raise ConfigError(["--env-file needs a file. Give its path: --env-file .env."])
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigError(
            [f"--env-file {path}: the file cannot be read ({reason}). Fix its path or mode."]
        ) from None
    found = dotenv_values(stream=StringIO(text))
    return {name: value for name, value in found.items() if value is not None}
