"""Computes a workload's settings from its own variables and command line.

Not here: reading the manifest (`readers`). Rules: no secret is read and no connection is made; a variable from a secret
gets a stand-in of the right form; a problem of the settings is a finding at the variable that it names.
"""

from __future__ import annotations

import secrets
import tempfile
from pathlib import Path
from typing import Final

from narthex.deploy.facts import Fact, ManifestFinding, Place, Workload
from narthex.errors import ConfigError
from narthex.settings import Settings, load
from narthex.settings.groups import option_fields
from narthex.settings.options import facts

MARKERS: Final = {
    "cloud-run": ("K_SERVICE", "narthex"),
    "kubernetes": ("KUBERNETES_SERVICE_HOST", "10.0.0.1"),
}
STAND_INS: Final = {
    "NARTHEX_BROKER_URL": "nats://broker:4222",
    "NARTHEX_STORE_URL": "postgresql://store/narthex",
}
WITHOUT_STAND_IN: Final = ("NARTHEX_JWT_PUBLIC_KEY", "NARTHEX_AGENT_SECRETS")
PLAIN_STAND_INS: Final = {
    "ENVIRONMENT": "staging",
    "NARTHEX_PUBLIC_URL": "https://gateway.example",
    "NARTHEX_ALLOWED_HOSTS": "gateway.example",
}
"""For variables without which serve does not start, where the manifest gives them a value that is not known here."""


def settings_of(workload: Workload, config: Path | None) -> Settings | list[ManifestFinding]:
    """Load the settings that the workload would start with, or say why it would not start.

    Args:
        workload: as it was read.
        config: the settings file that it is given, if there is one.
    """
    environ = _environ(workload)
    try:
        return load({"data_dir": Path(tempfile.gettempdir())}, environ, config, gcp=_stand_in, parts=())
    except ConfigError as error:
        unknown = bool(unknown_variables(workload))
        return [
            ManifestFinding(
                "settings",
                "warning" if unknown else "error",
                _place(workload, problem),
                f"narthex serve would refuse to start: {problem}",
                "The instance ends with exit code 78 before it opens its port.",
                "Correct the setting; narthex check shows the whole configuration.",
            )
            for problem in error.problems
        ]


def unknown_variables(workload: Workload) -> list[str]:
    """Variables whose value comes from elsewhere and is no secret's; `*`: there are more, of unknown names."""
    secret = _secret_variables()
    return [
        name
        for name, fact in workload.variables.items()
        if fact.value is None and name.removesuffix("_FILE") not in secret
    ]


def _secret_variables() -> set[str]:
    return {
        variable
        for name, (_, field) in option_fields().items()
        if (known := facts(name, field)).secret or known.url
        for variable in known.variables
    }


def _environ(workload: Workload) -> dict[str, str]:
    secret = _secret_variables()
    found: dict[str, str] = {}
    for name, fact in workload.variables.items():
        plain = name.removesuffix("_FILE")
        value = fact.value
        if plain in secret and (name != plain or value is None or value.startswith("gcp-secret:")):
            if plain not in WITHOUT_STAND_IN:
                found[plain] = STAND_INS.get(plain) or secrets.token_hex(32)
        elif value is not None and name != "*":
            found[name] = value
        elif name in PLAIN_STAND_INS:
            found[name] = PLAIN_STAND_INS[name]
    found |= _flags(workload.words)
    if "*" in workload.variables:  # the rest comes from elsewhere
        found.setdefault("ENVIRONMENT", "staging")
    if (marker := MARKERS.get(workload.platform)) is not None:
        found.setdefault(*marker)
    return found


def _flags(words: tuple[str, ...]) -> dict[str, str]:
    """Flags of `narthex serve` as the variables that they stand for."""
    options = {
        known.flag: known.variables[0]
        for name, (_, field) in option_fields().items()
        if (known := facts(name, field)).flag and known.variables
    }
    found: dict[str, str] = {}
    rest = list(words)
    while rest:
        word, _, value = rest.pop(0).partition("=")
        if word == "--no-agents":
            found["NARTHEX_RUN_AGENTS"] = "0"
        elif word in options and word != "--data-dir":
            if not value and rest and not rest[0].startswith("--"):
                value = rest.pop(0)
            found[options[word]] = value or "1"
    return found


def _place(workload: Workload, problem: str) -> Place:
    named = [name for name in workload.variables if name != "*" and name in problem]
    return workload.variables[min(named, key=problem.index)].place if named else workload.place


def _stand_in(_name: str) -> str:
    return secrets.token_hex(32)


def inline_secrets(workload: Workload) -> list[tuple[str, Fact[str | None]]]:
    """Variables whose secret is written into the manifest."""
    found = []
    for name, (_, field) in option_fields().items():
        known = facts(name, field)
        for variable in known.variables if known.secret else ():
            fact = workload.variables.get(variable)
            if fact is not None and fact.value and not fact.value.startswith("gcp-secret:"):
                found.append((variable, fact))
    return found
