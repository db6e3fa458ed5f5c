"""`narthex token`: makes a token for the server on the same data directory; `narthex token inspect`: explains a token.

Rules: `token` prints the token and nothing else on standard output, so that `$(narthex token)` works; `inspect`
reads from standard input by default (arguments show up in process lists) and never prints a signature.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from cyclopts import App, Parameter

from narthex.adapters.tokens.compact import Compact, take_apart
from narthex.adapters.tokens.keys import key_from_secret, sign_compact
from narthex.app.revocations import Revocations
from narthex.cli.arguments import seconds_of, usage
from narthex.cli.flags import Config, DataDir, OfGuard
from narthex.domain.identity import E2E_TENANT, PROBE_TENANT, Identity
from narthex.domain.ids import ID_RULE, valid_id
from narthex.domain.moments import valid_moment
from narthex.domain.trust import Binding
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.errors import EXIT_FINDINGS, EXIT_OK, EXIT_UNREACHABLE, ClientError, ConfigError
from narthex.ports.later import settled
from narthex.ports.store import Store
from narthex.settings import IssuerSettings, Settings, load
from narthex.settings.trust import trust_of

if TYPE_CHECKING:
    from narthex.wiring.tokens import Tokens

T = TypeVar("T")
DEFAULT_SUBJECT = "developer"
DEFAULT_PERMISSIONS = ("chat",)

app = App(name="token", help="Mint a token, or inspect one.")


@app.default
def token(
    *,
    sub: Annotated[str, Parameter(help="Subject of the token.")] = DEFAULT_SUBJECT,
    tenant: Annotated[str, Parameter(help="Tenant of the user.")] = "default",
    plan: Annotated[str, Parameter(help="Plan of the user.")] = "free",
    ttl: Annotated[str, Parameter(help="Lifetime: 90s, 15m, 1h, 7d.")] = "1h",
    name: Annotated[str, Parameter(help="Display name.")] = "",
    permission: Annotated[
        tuple[str, ...], Parameter(help="Permission; repeat for more.")
    ] = DEFAULT_PERMISSIONS,
    guard: OfGuard = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> int:
    """Print a token that `narthex serve`, or with --guard a guard, on the same data directory admits.

    Examples:
        narthex token --sub ada --ttl 8h
        narthex token --sub you --permission operator
    """
    try:
        ttl_s = _checked(ttl, tenant, sub)
    except ClientError as error:
        return usage(error)
    settings = settings_of(data_dir, config, guard=guard)
    identity = Identity(subject=sub, tenant=tenant, plan=plan, name=name or sub, permissions=permission)
    try:
        print(asyncio.run(mint(settings, identity, ttl_s, guard=guard)))
    except ClientError as error:
        return usage(error)
    return EXIT_OK


def _checked(ttl: str, tenant: str, sub: str) -> float:
    """Refuse what no token may hold; the time to live in seconds. Raises ClientError."""
    ttl_s = seconds_of("ttl", ttl)
    if ttl_s < 1:
        raise ClientError("bad_ttl", f"--ttl: {ttl} is less than a second.", "Give one like 90s, 15m or 1h.")
    if tenant in (E2E_TENANT, PROBE_TENANT) or not valid_id(tenant):
        raise ClientError(
            "bad_tenant",
            f"No token can be made for tenant {tenant!r}.",
            f"Use {ID_RULE}; test identities come from the exchange.",
        )
    if not valid_id(sub):
        raise ClientError("bad_subject", f"The subject is not {ID_RULE}.", "Choose another --sub.")
    if not valid_moment(time.time() + ttl_s):
        raise ClientError(
            "bad_ttl",
            f"--ttl: no gateway admits a token that lives for {ttl}.",
            "Give it in seconds, or as 7d.",
        )
    return ttl_s


def settings_of(data_dir: Path | None, config: Path | None, *, guard: bool) -> Settings:
    """The settings of the server. Raises ConfigError, also where only a guard has a store in the data directory."""
    if guard:
        from narthex.guard.core import guard_settings

        return guard_settings({"data_dir": data_dir}, config)
    from narthex.wiring.engines import SHARED_FILE, STORE_FILE

    settings = load({"data_dir": data_dir}, os.environ, config)
    directory = settings.data_dir
    if (
        not settings.store_url
        and not (directory / STORE_FILE).exists()
        and (directory / SHARED_FILE).exists()
    ):
        raise ConfigError([f"{directory} is the data directory of a guard, not of a gateway. Add --guard."])
    return settings


async def mint(settings: Settings, identity: Identity, ttl_s: float, *, guard: bool = False) -> str:
    """A token for `identity` that a server with these settings admits, with the plan and the rights that it names.

    Raises:
        ClientError: the server would refuse the tenant, or count the plan or a permission for nothing.
        ConfigError: only other people's issuers count here, and none by a secret that is known.
        DependencyError: the store cannot be opened.
    """
    plans = settings.plan_table()
    if identity.plan not in plans:
        raise ClientError(
            "bad_plan",
            f"--plan: no plan is named {identity.plan!r}; the gateway would treat the user as free.",
            f"Choose from {', '.join(plans)}, or define the plan in [plans.NAME] of narthex.toml.",
        )
    if not settings.provider_enabled:
        return _with_secret(settings, identity, ttl_s)

    async def work(store: Store) -> str:
        ring = _tokens(settings, store).provider_keys
        assert ring is not None  # provider_enabled was asked above
        await ring.load_or_create()
        return ring.mint(identity, ttl_s=ttl_s, now=time.time())

    return await with_store(settings, work, guard=guard)


def _tokens(settings: Settings, store: Store) -> Tokens:
    """The identities and tokens of a server with these settings."""
    from narthex.adapters.telemetry.metrics import PrometheusMeter
    from narthex.wiring.tokens import make_tokens

    return make_tokens(settings, store.credentials, PrometheusMeter(), time.time)


async def with_store(settings: Settings, work: Callable[[Store], Awaitable[T]], *, guard: bool = False) -> T:
    """Do `work` with the store of a gateway or of a guard, opened beside a server that may be running."""
    from narthex.adapters.telemetry.logging import configure_logging
    from narthex.wiring.engines import make_shared_store, make_store

    # standard output is for the answer, which contains every failure too
    configure_logging(level="error", secrets=settings.secret_values(), hooks=False)
    store = make_shared_store(settings) if guard else make_store(settings, beside=True)
    await store.start()
    try:
        return await work(store)
    finally:
        await store.stop()


def _with_secret(settings: Settings, identity: Identity, ttl_s: float) -> str:
    """Sign with a configured HMAC secret, in the names that its issuer uses."""
    trust = trust_of(settings, remote=settings.policy.environment.remote)
    for issuer, binding in zip(settings.all_issuers(), trust.issuers, strict=True):
        if issuer.secret is not None:
            _check_binding(identity, issuer.name, binding)
            return _signed(issuer, issuer.secret.get_secret_value(), identity, ttl_s)
    problem = (
        "The embedded provider is off and no issuer has a secret: nothing minted here would be admitted."
    )
    raise ConfigError([f"{problem} Ask the configured issuer, or set NARTHEX_EMBEDDED_PROVIDER=on."])


def _check_binding(identity: Identity, issuer: str, binding: Binding) -> None:
    """Refuse what the issuer whose secret signs may not say (docs/authentication.md). Raises ClientError."""
    refused = ""
    if (binding.tenant and identity.tenant != binding.tenant) or not binding.may_name(identity.tenant):
        refused = f"--tenant: the issuer {issuer!r} may not name the tenant {identity.tenant!r}"
    elif not binding.may_plan(identity.plan):
        refused = f"--plan: the issuer {issuer!r} may not give the plan {identity.plan!r}"
    else:
        granted = binding.granted(identity.permissions, identity.tenant)
        dropped = [name for name in identity.permissions if name not in granted]
        if dropped and identity.permissions != DEFAULT_PERMISSIONS:
            refused = f"--permission: the issuer {issuer!r} may not give {', '.join(map(repr, dropped))}"
    if refused:
        raise ClientError(
            "not_allowed",
            f"{refused}.",
            "Choose another, or change tenant, tenants, permissions_allowed or plans_allowed of the issuer.",
        )


def _signed(issuer: IssuerSettings, secret: str, identity: Identity, ttl_s: float) -> str:
    names, now = issuer.claims, int(time.time())
    claims: dict[str, Any] = {"sub": identity.subject, "iat": now, "exp": int(now + ttl_s)}
    if issuer.issuer:
        claims["iss"] = issuer.issuer
    if issuer.audience:
        claims["aud"] = issuer.audience[0]
    values = {
        names.tenant: identity.tenant,
        names.plan: identity.plan,
        names.name: identity.name,
        names.permissions: list(identity.permissions),
    }
    for name, value in values.items():
        _put(claims, name, value)
    algorithm = next((item for item in issuer.algorithms if item.startswith("HS")), "HS256")
    return sign_compact({"alg": algorithm}, claims, algorithm, key_from_secret(secret).key)


def _put(claims: dict[str, Any], path: str, value: object) -> None:
    *parents, last = path.split(".") if "://" not in path else [path]
    for part in parents:
        claims = claims.setdefault(part, {})
    claims[last] = value


@app.command
def inspect(
    source: Annotated[
        str, Parameter(help="The token; `-` reads it from standard input.", allow_leading_hyphen=True)
    ] = "-",
    /,
    *,
    json_: Annotated[bool, Parameter(name="--json", help="For machines.")] = False,
    guard: OfGuard = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> int:
    """Show the content of a token, whether it would be admitted here, and if not, why.

    Examples:
        narthex token inspect -
    """
    text = (sys.stdin.read() if source == "-" else source).strip()
    text = text.removeprefix("Bearer ").strip()
    settings = settings_of(data_dir, config, guard=guard)
    report = asyncio.run(_report(settings, text, guard=guard))
    print(json.dumps(report) if json_ else _in_words(report))
    if report["verdict"] == "unavailable":
        return EXIT_UNREACHABLE
    return EXIT_OK if report["admitted"] else EXIT_FINDINGS


async def _report(settings: Settings, text: str, *, guard: bool) -> dict[str, Any]:
    async def work(store: Store) -> dict[str, Any]:
        now = time.time()
        tokens = _tokens(settings, store)
        verdict: Verdict = await settled(tokens.verifier.verify(text, now=now, traffic="user"))
        await tokens.verifier.stop()
        await tokens.fetcher.stop()
        revocations = Revocations(store.credentials, None)
        await revocations.reload()
        return _verified(take_apart(text), verdict, revocations, now)

    return await with_store(settings, work, guard=guard)


def _verified(
    parts: Compact | Rejected, verdict: Verdict, revocations: Revocations, now: float
) -> dict[str, Any]:
    report: dict[str, Any] = {"admitted": False, "verdict": "rejected", "code": "", "why": ""}
    if isinstance(parts, Compact):
        report |= {"algorithm": parts.algorithm, "key_id": parts.key_id, "claims": parts.claims}
        report["times"] = {
            name: _moment(parts.claims[name], now)
            for name in ("iat", "nbf", "exp")
            if isinstance(parts.claims.get(name), int | float)
        }
    if isinstance(verdict, Valid) and revocations.covers(verdict.identity):
        verdict = Rejected("token_revoked")
    if isinstance(verdict, Unavailable):
        return report | {"verdict": "unavailable", "code": "auth_unavailable", "why": verdict.cause}
    if isinstance(verdict, Rejected):
        from narthex.domain.refusals import TABLE

        row = TABLE[verdict.code]
        return report | {
            "code": verdict.code,
            "why": verdict.detail or verdict.log_detail or row.title + ".",
            "remedy": row.remedy,
        }
    identity = verdict.identity
    return report | {
        "admitted": True,
        "verdict": "valid",
        "user": identity.user,
        "plan": identity.plan,
        "permissions": list(identity.permissions),
        "class": str(identity.identity_class),
    }


def _moment(value: float, now: float) -> str:
    try:
        at = datetime.fromtimestamp(value, UTC).isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return "beyond any calendar"
    seconds = value - now
    return f"{at} ({'in ' if seconds > 0 else ''}{abs(seconds):,.0f} s{'' if seconds > 0 else ' ago'})"


def _in_words(report: dict[str, Any]) -> str:
    lines = []
    if "claims" in report:
        lines.append(f"algorithm  {report['algorithm']}")
        lines.append(f"key        {report['key_id'] or '(names none)'}")
        for name, value in report["claims"].items():
            shown = report["times"].get(name) or json.dumps(value, ensure_ascii=True)
            lines.append(f"{name:<10} {shown}")
    else:
        lines.append("It is not a JWT; only an issuer with introspection could verify it.")
    if report["admitted"]:
        rights = ", ".join(report["permissions"]) or "none"
        lines.append(f"\nAdmitted here as {report['user']} (plan {report['plan']}).")
        lines.append(f"Permissions that count here: {rights}.")
    else:
        lines.append(f"\nNot admitted here: {report['code']}. {report['why']}")
        if report.get("remedy"):
            lines.append(report["remedy"])
    return "\n".join(lines)


__all__ = ["app", "inspect", "mint", "settings_of", "token", "with_store"]
