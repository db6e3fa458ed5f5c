"""`load`: every source read, every value checked, every rule held, every problem told at once.

Not here: the options (`model.py`), the sources (`sources.py`), the rules between options (`rules.py`). Rules:
called once, in the parent process, before a socket is opened; raises nothing but ConfigError.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr, ValidationError

from narthex.adapters.secrets.value import SecretReader
from narthex.errors import ConfigError
from narthex.settings.model import Settings, option_fields
from narthex.settings.options import accepts, facts
from narthex.settings.rules import E2E_VARIABLES, judge, settle
from narthex.settings.sources import Values, collect

MAX_SHOWN: int = 60
"""Characters of a wrong value that a problem repeats: enough to find it in a long file."""


def load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None = None,
    *,
    gcp: SecretReader | None = None,
) -> Settings:
    """Read and check the settings.

    Args:
        flags: option name (as in `narthex.toml`) → value; None and empty lists count as not given.
        environ: the process's environment.
        file: the settings file; None takes NARTHEX_CONFIG, else `narthex.toml` here if there is one.
        gcp: reads `gcp-secret://` names; None takes Google Secret Manager.

    Returns:
        Settings that hold together, with `warnings` for the operator.

    Raises:
        ConfigError: `problems` holds each one as a sentence that names the variable and the remedy.
    """
    given = collect(flags, environ, file, gcp)
    problems = list(given.problems)
    e2e = _e2e_variables(given, environ)
    settings = _validated(given, problems)
    settings, derived = settle(settings, environ, given.sources)
    more, warnings = judge(settings, environ, e2e, frozenset(given.broken), given.sources)
    problems += more
    if problems:
        raise ConfigError(problems)
    settings._sources = given.sources | derived  # noqa: SLF001 - this function is the only maker of Settings
    settings._warnings = tuple(warnings)  # noqa: SLF001
    settings._e2e_variables = e2e  # noqa: SLF001
    return settings


def _e2e_variables(given: Values, environ: Mapping[str, str]) -> dict[str, str]:
    """Those of the five that are present; the key also when it came from a file or a Secret Manager name."""
    found = {name: environ[name] for name in E2E_VARIABLES if name in environ}
    if given.values.get("e2e_key"):
        found["E2E_OAUTH_SIMULATION_KEY"] = given.values["e2e_key"]
    return found


def _validated(given: Values, problems: list[str]) -> Settings:
    """The settings, with the default in place of each value that is wrong (its problem is noted)."""
    values = dict(given.values)
    for _ in range(2):
        try:
            return Settings(**values)
        except ValidationError as error:
            for detail in error.errors(include_url=False, include_context=False):
                name = str(detail["loc"][0])
                problems.append(_problem(name, given.sources.get(name, name), detail))
                given.broken.add(name)
                values.pop(name, None)
    return Settings()


def _problem(name: str, source: str, detail: Any) -> str:
    field = option_fields().get(name)
    where = source
    path = detail["loc"][1:]
    if path and field is None:
        where = name + "".join(f"[{p}]" if isinstance(p, int) else f".{p}" for p in path) + f" ({source})"
    what = str(detail["msg"])
    what = what[:1].lower() + what[1:]
    if field is None:
        return f"{where} is wrong: {what}. See docs/settings.md."
    known = facts(name, field[1])
    shown = "" if known.secret or known.url else f", not {_shown(detail['input'])}"
    return f"{where} is wrong: {what}{shown}. Give {accepts(field[1])}."


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "a secret"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
