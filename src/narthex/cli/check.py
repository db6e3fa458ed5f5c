"""`narthex check`: what `serve` would do with these settings, without opening a port.

Not here: the checks themselves (`settings`, and what `wiring` makes of keys and agents). Rules: never a secret's
value; the same settings, read the same way as by `serve`; exit 78 with every problem at once.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from narthex import __version__
from narthex.cli.flags import NO_FLAGS, SettingsFlags
from narthex.errors import EXIT_CONFIG, EXIT_OK, ConfigError
from narthex.settings import Row, Settings, describe

if TYPE_CHECKING:
    from narthex.ports.credentials import Credentials


def check(
    flags: SettingsFlags = NO_FLAGS,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), show_default=False)] = False,
    every: Annotated[bool, Parameter(name="--all", negative=(), show_default=False)] = False,
) -> int:
    """Say what serve would do with these settings; start nothing. Exits 78 when it would refuse to start.

    Args:
        flags: as for serve.
        as_json: for machines.
        every: show every setting, not only those that differ from the default.
    """
    try:
        settings = flags.settings()
        rehearse(settings)
    except ConfigError as error:
        if not as_json:
            raise
        print(json.dumps({"ok": False, "problems": error.problems}, indent=2))
        return EXIT_CONFIG
    if as_json:
        print(json.dumps(report(settings), indent=2))
    else:
        print(render(settings, every=every))
    return EXIT_OK


def rehearse(settings: Settings) -> None:
    """What serve does before it opens anything: make sense of the keys and load the agents.

    Raises:
        ConfigError: with every problem of both. Nothing is fetched, stored or started.
    """
    # `--agent myagents:parrot` finds the module beside where one stands, as with serve.
    sys.path.insert(0, "")
    from narthex.adapters.telemetry.metrics import PrometheusMeter
    from narthex.wiring.agents import load_agents
    from narthex.wiring.tokens import make_tokens

    async def no_facts() -> Mapping[str, object]:
        return {}

    problems: list[str] = []
    nothing_is_stored = cast("Credentials", None)
    for attempt in (
        lambda: make_tokens(settings, nothing_is_stored, PrometheusMeter(), time.time),
        lambda: load_agents(settings, no_facts),
    ):
        try:
            attempt()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def report(settings: Settings) -> dict[str, Any]:
    """The answer of `--json`."""
    policy = settings.policy
    return {
        "ok": True,
        "version": __version__,
        "environment": policy.environment.value,
        "listen": {"host": policy.host, "port": settings.port},
        "pre_connection_auth_required": policy.pre_connection_auth_required,
        "e2e_testing": policy.e2e_testing(),
        "admits": list(policy.admits),
        "token_sources": token_sources(settings),
        "warnings": list(settings.warnings),
        "settings": [row._asdict() for row in describe(settings)],
    }


def render(settings: Settings, *, every: bool) -> str:
    """The answer for people."""
    policy = settings.policy
    facts = [
        ("environment", policy.environment.value),
        ("listens on", f"{policy.host}:{settings.port}"),
        (
            "before the upgrade",
            "a credential is required"
            if policy.pre_connection_auth_required
            else "a credential is not required; who brings none can do nothing but `connect`",
        ),
        ("who gets in", *policy.admits),
        ("test identities", _test_identities(settings)),
        ("tokens from", *(token_sources(settings) or ["nobody"])),
    ]
    lines = [f"narthex {__version__} would start:", ""]
    for name, *values in facts:
        lines.append(f"  {name:<20}{values[0]}")
        lines += [f"  {'':<20}{value}" for value in values[1:]]
    rows = [row for row in describe(settings) if every or row.source != "default"]
    lines += ["", "Settings:" if every else "Settings that are not the default (--all shows every one):", ""]
    lines += _table(rows) if rows else ["  none"]
    lines += ["", *(f"warning: {warning}" for warning in settings.warnings)] if settings.warnings else []
    return "\n".join(lines)


def _test_identities(settings: Settings) -> str:
    policy = settings.policy
    if not policy.e2e.enabled:
        return "not admitted (end-to-end testing is not detected)"
    detected = "detected by " + ", ".join(policy.e2e.detecting)
    return (
        f"admitted by proof; {detected}"
        if policy.auth_bypass_active
        else f"not admitted: {policy.reason}; {detected}"
    )


def token_sources(settings: Settings) -> list[str]:
    """Whose tokens are admitted, one phrase each."""
    found: list[str] = []
    for issuer in settings.all_issuers():
        (kind, *_) = issuer.key_sources()
        where = {"secret": "HMAC secret", "public_key": "public key"}.get(kind) or str(getattr(issuer, kind))
        found.append(f"{issuer.name}: {where}" + (f", iss {issuer.issuer}" if issuer.issuer else ""))
    if settings.provider_enabled:
        users = "any e-mail" if settings.environment == "development" and not settings.users else None
        found.append(f"the embedded provider ({users or f'{len(settings.users)} users'})")
    return found


def _table(rows: list[Row]) -> list[str]:
    names = max(len(row.variable or row.name) for row in rows)
    values = min(40, max(len(row.value) for row in rows))
    return [f"  {row.variable or row.name:<{names}}  {row.value:<{values}}  {row.source}" for row in rows]
