"""`narthex check`: reports what `serve` would do with these settings, without opening a port.

Not here: the checks themselves (`settings`, `wiring.start_checks`, `wiring.connection_checks`). Rules: never a secret's
value; the same settings, read as by `serve`; the exit code is the one that `serve` would end with (78, or 69 where only
a program is missing), with every problem at once; connections are made only with `--connect`, and change nothing.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from narthex._version import __version__
from narthex.adapters.machine import descriptors_to_come
from narthex.cli.deploy import Platform
from narthex.cli.flags import NO_FLAGS, SettingsFlags
from narthex.domain.descriptors import capacity
from narthex.errors import EXIT_CONFIG, EXIT_OK, EXIT_UNREACHABLE, ConfigError, DependencyError
from narthex.settings import SettingRow, Settings, describe

if TYPE_CHECKING:
    from narthex.wiring.connection_checks import ConnectionCheck


def check(
    *files: Annotated[Path, Parameter(name="FILES", negative_iterable=())],
    flags: SettingsFlags = NO_FLAGS,
    as_json: Annotated[bool, Parameter(name="--json", negative=(), show_default=False)] = False,
    every: Annotated[bool, Parameter(name="--all", negative=(), show_default=False)] = False,
    connect: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    platform: Platform | None = None,
) -> int:
    """Report what serve would do with these settings, or check the manifests of a deployment; start nothing.

    Exits 78 when serve would refuse to start, 69 when a program is missing or, with --connect, when an engine, an
    issuer or an agent does not answer. With --platform 1 when a manifest has an error.

    Examples:
        narthex check
        narthex check --platform cloud-run service.yaml deploy.sh
        narthex check --platform kubernetes deploy/

    Args:
        flags: as for serve.
        as_json: for machines.
        every: show every setting, not only those that differ from the default.
        connect: connect to the engines, the issuers and the agents, and leave; nothing there is changed.
        platform: check FILES, manifests of this platform, against the settings that they give to narthex.
        files: manifests, scripts with `gcloud` commands, configurations of proxies, or directories of them.
    """
    if platform is not None or files:
        from narthex.cli.manifests import check_manifests

        return check_manifests(platform, files, flags, as_json=as_json)
    sys.path.insert(0, "")  # as `serve`: `--agent myagents:parrot` finds the module beside where one stands
    from narthex.wiring.start_checks import check_start

    trials: list[ConnectionCheck] = []
    try:
        settings = flags.settings()
        check_start(settings)
        if connect:
            trials = _tried(settings)
    except (ConfigError, DependencyError) as error:
        if not as_json:
            raise
        problems = error.problems if isinstance(error, ConfigError) else [str(error)]
        print(json.dumps({"ok": False, "problems": problems}, indent=2))
        return EXIT_CONFIG if isinstance(error, ConfigError) else EXIT_UNREACHABLE
    failed = [trial for trial in trials if not trial.ok]
    if as_json:
        connections = {"connections": [trial._asdict() for trial in trials]} if connect else {}
        print(json.dumps(report(settings) | connections | {"ok": not failed}, indent=2))
    else:
        print(render(settings, every=every, trials=trials))
        for trial in failed:
            print(f"error: {_named(trial)}: {trial.detail} {trial.remedy}".rstrip(), file=sys.stderr)
    return EXIT_UNREACHABLE if failed else EXIT_OK


def _tried(settings: Settings) -> list[ConnectionCheck]:
    from narthex.adapters.telemetry.logging import configure_logging
    from narthex.wiring.connection_checks import check_connections

    # the report contains every failure; a library's own warnings would appear between its lines
    configure_logging(level="error", secrets=settings.secret_values(), hooks=False)
    return asyncio.run(check_connections(settings))


def _named(trial: ConnectionCheck) -> str:
    return f"{trial.kind} {trial.name}".rstrip()


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
        "capacity": _capacity(settings),
        "warnings": list(settings.warnings),
        "settings": [row._asdict() for row in describe(settings)],
    }


def render(settings: Settings, *, every: bool, trials: Sequence[ConnectionCheck] = ()) -> str:
    """The answer for people."""
    policy = settings.policy
    facts = [
        ("environment", policy.environment.value),
        ("listens on", f"{policy.host}:{settings.port}"),
        (
            "before the upgrade",
            "a credential is required"
            if policy.pre_connection_auth_required
            else "a credential is not required; a client without one can send only `connect`",
        ),
        ("who gets in", *policy.admits),
        ("test identities", _test_identities(settings)),
        ("connections", _connections(settings)),
        ("tokens from", *(token_sources(settings) or ["no source"])),
    ]
    failed = any(not trial.ok for trial in trials)
    lines = [
        f"narthex {__version__} would start{', but a service that it needs does not respond' if failed else ''}:",
        "",
    ]
    for name, *values in facts:
        lines.append(f"  {name:<20}{values[0]}")
        lines += [f"  {'':<20}{value}" for value in values[1:]]
    if trials:
        width = max(len(_named(trial)) for trial in trials)
        lines += ["", "Connections:", ""]
        lines += [
            f"  {'ok  ' if trial.ok else 'FAIL'} {_named(trial):<{width}}  {trial.detail}  {trial.ms:g} ms"
            for trial in trials
        ]
    rows = [row for row in describe(settings) if every or row.source != "default"]
    lines += ["", "Settings:" if every else "Settings that are not the default (--all shows every one):", ""]
    lines += _table(rows) if rows else ["  none"]
    lines += ["", *(f"warning: {warning}" for warning in settings.warnings)] if settings.warnings else []
    return "\n".join(lines)


def _capacity(settings: Settings) -> dict[str, int]:
    """The number of connections that `serve` would allow under this shell's limit of open files."""
    fitted = capacity(settings.limits(), descriptors_to_come())
    return {
        "descriptors": fitted.descriptors,
        "max_connections": fitted.limits.max_connections,
        "max_connections_per_address": fitted.limits.max_connections_per_address,
        "max_connections_unauthenticated": fitted.limits.max_connections_unauthenticated,
    }


def _connections(settings: Settings) -> str:
    found = _capacity(settings)
    said = f"{found['max_connections']:,}, {found['max_connections_per_address']:,} of one address"
    if found["max_connections"] < settings.max_connections:
        said += (
            f" (not {settings.max_connections:,}: the process may open {found['descriptors']:,} files; raise the"
            " limit with ulimit -n or LimitNOFILE=)"
        )
    return said


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
    """Whose tokens are admitted, one phrase each, and for which tenants."""
    found: list[str] = []
    for issuer in settings.all_issuers():
        tenants = (issuer.tenant,) if issuer.tenant else issuer.tenants
        bound = f", for the tenants {', '.join(tenants)}" if tenants else ", for any tenant"
        (kind, *_) = issuer.key_sources()
        where = {"secret": "HMAC secret", "public_key": "public key"}.get(kind) or str(getattr(issuer, kind))
        found.append(f"{issuer.name}: {where}" + (f", iss {issuer.issuer}" if issuer.issuer else "") + bound)
    if settings.provider_enabled:
        users = "any e-mail" if settings.open_login else f"{len(settings.users)} users"
        found.append(f"the embedded provider ({users})")
    return found


def _table(rows: list[SettingRow]) -> list[str]:
    names = max(len(row.variable or row.name) for row in rows)
    values = min(40, max(len(row.value) for row in rows))
    return [f"  {row.variable or row.name:<{names}}  {row.value:<{values}}  {row.source}" for row in rows]
