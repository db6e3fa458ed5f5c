"""`load` reads every source, checks every value and every rule, and reports all problems at once.

Not here: the options (`groups.py`), the sources (`sources.py`), the rules between options (`rules.py`). Rules:
called once, in the parent process, before a socket is opened; raises nothing but ConfigError.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Final, Literal, get_args, get_origin

from pydantic import SecretStr, ValidationError

from narthex.adapters.secrets.value import SecretReader
from narthex.errors import ConfigError
from narthex.extras import missing_extras
from narthex.settings.groups import option_fields
from narthex.settings.model import Settings
from narthex.settings.options import accepts, facts
from narthex.settings.requirements import ALL_PARTS, Part, requirements
from narthex.settings.rules import check_rules, platform_of
from narthex.settings.sources import Values, collect
from narthex.settings.table_problems import table_problem
from narthex.settings.tracing import tracing_problems, tracing_variable

LEVELS_ELSEWHERE: Final = {"trace": "debug", "warn": "warning", "critical": "error", "fatal": "error"}
"""Other programs' names of levels → ours, because LOG_LEVEL is shared by all of a platform."""

MAX_SHOWN: Final = 60
"""Characters of a wrong value that a problem repeats: enough to find it in a long file."""


def load(
    flags: Mapping[str, Any],
    environ: Mapping[str, str],
    file: Path | None = None,
    *,
    gcp: SecretReader | None = None,
    parts: Collection[Part] = ALL_PARTS,
) -> Settings:
    """Read and check the settings.

    Args:
        flags: option name (as in `narthex.toml`) → value; None and empty lists count as not given.
        environ: the process's environment.
        file: the settings file; None takes NARTHEX_CONFIG, else `narthex.toml` here if there is one.
        gcp: reads `gcp-secret://` names; None takes Google Secret Manager.
        parts: the engines that the process uses; rules for others are not looked at.

    Returns:
        Settings that hold together, with `warnings` for the operator.

    Raises:
        ConfigError: `problems` holds each one as a sentence that names the variable and the remedy.
    """
    given = collect(flags, environ, file, gcp)
    problems = list(given.problems)
    settings = _validated(given, problems)
    settings = settings.model_copy(
        update={"platform": platform_of(environ), "tracing": tracing_variable(environ)}
    )
    more, results = check_rules(settings, environ, frozenset(given.broken), parts, given.sources)
    problems += [*more, *(tracing_problems(environ) if "traces" in parts else ())]
    if problems or given.needs or results.policy is None:
        # Missing extras alone are reported when the engine is created; beside other problems they are reported here.
        lacking = missing_extras([*given.needs, *requirements(settings, parts)])
        raise ConfigError([*problems, *([lacking] if lacking else [])])
    changes: dict[str, object] = {"environment": str(results.policy.environment), "host": results.policy.host}
    settings = settings.model_copy(update=changes)
    settings.seal(
        results._replace(
            sources={"host": "ENVIRONMENT"} | given.sources,
            referenced=frozenset(given.referenced),
            reload=lambda: load(flags, environ, file, gcp=gcp, parts=parts),
            live={},
            latest={},
        )
    )
    return settings


def _validated(given: Values, problems: list[str]) -> Settings:
    """Returns the settings with the default in place of each invalid value, whose problem is recorded."""
    values: dict[str, Any] = {name: _folded(name, value) for name, value in given.values.items()}
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


def _folded(name: str, value: object) -> object:
    """A choice in the case that it is declared in: `DEBUG`, as many programs write it, is `debug`."""
    field = option_fields().get(name)
    if field is None or not isinstance(value, str):
        return value
    if name == "log_level":
        value = LEVELS_ELSEWHERE.get(value.strip().lower(), value)
    choices = get_args(field[1].annotation) if get_origin(field[1].annotation) is Literal else ()
    return next((choice for choice in choices if str(choice).lower() == value.strip().lower()), value)


def _problem(name: str, source: str, detail: Any) -> str:
    field = option_fields().get(name)
    if field is None:
        return table_problem(name, source, detail)
    what = str(detail["msg"])
    what = what[:1].lower() + what[1:]
    known = facts(name, field[1])
    shown = "" if known.secret or known.url else f", not {_shown(detail['input'])}"
    return f"{source} is wrong: {what}{shown}. Give {accepts(field[1])}."


def _shown(value: object) -> str:
    if isinstance(value, SecretStr):
        return "a secret"
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else text[:MAX_SHOWN] + "…"
