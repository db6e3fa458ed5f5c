"""The policy of each environment: the whole table of docs/design.md#environments, as pure functions.

Not here: reading the process's environment (settings passes it), admitting a connection (`admission`).
Rules: nothing else in narthex reads environment variables for policy; an unset variable never admits anyone;
a problem names variables and never the value of a secret.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Final

import msgspec

MIN_KEY_LENGTH: Final = 32  # 128 bits as hex; shorter ones work with a warning
SHOWN_VALUE_LENGTH: Final = 64  # of a plain variable in health: its accepted values are shorter

E2E_KEY: Final = "E2E_OAUTH_SIMULATION_KEY"
PREVIOUS_E2E_KEY: Final = "NARTHEX_E2E_PREVIOUS_KEY"
NO_KEY_REASON: Final = f"{E2E_KEY} is not set"

PLAIN_E2E_VARIABLES: Final[Mapping[str, str]] = {
    "E2E_TESTING": "1",
    "PYTEST_RUNNING": "1",
    "STAGING_E2E_TEST": "1",
    "E2E_TEST_ENV": "staging",
}
"""Plain variable → the one value by which end-to-end testing is detected. The fifth is `E2E_KEY`."""

PLATFORM_MARKS: Final[Mapping[str, str]] = {
    "K_SERVICE": "Cloud Run",
    "KUBERNETES_SERVICE_HOST": "Kubernetes",
}
"""Variable that a platform sets → the platform."""

# Names under which a key can come; the resolved keys themselves are an argument.
_KEY_NAMES: Final = (E2E_KEY, f"{E2E_KEY}_FILE", PREVIOUS_E2E_KEY, f"{PREVIOUS_E2E_KEY}_FILE")


class Environment(StrEnum):
    """The accepted values of `ENVIRONMENT`."""

    DEVELOPMENT = "development"
    TESTING = "testing"
    STAGING = "staging"
    PRODUCTION = "production"

    @property
    def remote(self) -> bool:
        """Whether it faces a network (staging, production) rather than a developer."""
        return self in (Environment.STAGING, Environment.PRODUCTION)


class E2EDetection(msgspec.Struct, frozen=True):
    """The result of reading the five variables.

    Attributes:
        enabled: end-to-end testing is detected.
        variables: those that are set and not empty, as health shows them: `"SET"` for the key.
        detecting: names of those by which it was detected.
    """

    enabled: bool
    variables: dict[str, str]
    detecting: tuple[str, ...] = ()


class EnvironmentPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the table.

    Attributes:
        environment: the row's environment.
        e2e: the result of the five variables.
        pre_connection_auth_required: a connection needs a valid credential before the upgrade. Where it is false, a
            connection without one is upgraded inert.
        auth_bypass_active: test identities are admitted by proof. No client is ever admitted without proof.
        reason: why the bypass is not active although end-to-end testing is detected, else empty.
        guests: guests from an allowed `Origin` are admitted.
        conformance: `/ws/conformance` exists.
        host: the address to listen on.
        admits: the clients that are admitted, in words (`narthex check`).
        warnings: settings that work but should change; each a sentence with its remedy.
    """

    environment: Environment
    e2e: E2EDetection
    pre_connection_auth_required: bool
    auth_bypass_active: bool
    reason: str = ""
    guests: bool = False
    conformance: bool = False
    host: str = "127.0.0.1"
    admits: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def is_testing(self) -> bool:
        """`is_testing` of the handshake record."""
        return self.environment is Environment.TESTING

    @property
    def is_production(self) -> bool:
        """Whether the strictest rules hold."""
        return self.environment is Environment.PRODUCTION

    def e2e_testing(self) -> dict[str, object]:
        """The member `e2e_testing` of `/ws/health`; in production `variables` is empty."""
        found: dict[str, object] = {
            "enabled": self.e2e.enabled,
            "variables": {} if self.is_production else dict(sorted(self.e2e.variables.items())),
            "auth_bypass_active": self.auth_bypass_active,
        }
        if self.reason:
            found["reason"] = self.reason
        return found


def detect_e2e(environ: Mapping[str, str], *, keys: Sequence[str] = ()) -> E2EDetection:
    """Detect end-to-end testing from the five variables.

    Args:
        environ: the process's environment.
        keys: the resolved keys: they may have come from a file or a secret manager instead of the variable.
    """
    variables: dict[str, str] = {}
    detecting: list[str] = []
    for name, detecting_value in PLAIN_E2E_VARIABLES.items():
        value = environ.get(name, "")
        if value:
            variables[name] = value[:SHOWN_VALUE_LENGTH]
        if value == detecting_value:
            detecting.append(name)
    if environ.get(E2E_KEY, "") or _live(keys):
        variables[E2E_KEY] = "SET"
        detecting.append(E2E_KEY)
    return E2EDetection(bool(detecting), variables, tuple(detecting))


def decide(
    environ: Mapping[str, str],
    *,
    keys: Sequence[str] = (),
    host: str = "",
    allow_remote_development: bool = False,
    allow_anonymous: bool = False,
    conformance_echo: bool = False,
) -> EnvironmentPolicy | list[str]:
    """Find the row of the table, or every reason why the process must not start.

    Args:
        environ: the process's environment.
        keys: the resolved end-to-end keys, at most two live ones.
        host: the address asked for; empty: the environment's own.
        allow_remote_development: development and testing may listen beyond loopback.
        allow_anonymous: guests are wanted.
        conformance_echo: `/ws/conformance` is wanted.

    Returns:
        The policy, or a list of problems (at least one), each a full sentence with its remedy. Settings
        raise them as `ConfigError` (exit 78).
    """
    environment = find_environment(environ)
    if not isinstance(environment, Environment):
        return [environment]
    e2e = detect_e2e(environ, keys=keys)
    problems = [
        *_production_problems(environment, e2e, environ, conformance_echo),
        *_exposure_problems(environment, host, allow_remote_development, allow_anonymous),
    ]
    if problems:
        return problems
    bypass = e2e.enabled and bool(_live(keys))
    required = environment.remote and not bypass
    return EnvironmentPolicy(
        environment=environment,
        e2e=e2e,
        pre_connection_auth_required=required,
        auth_bypass_active=bypass,
        reason=NO_KEY_REASON if e2e.enabled and not bypass else "",
        guests=allow_anonymous,
        conformance=conformance_echo,
        host=host or _default_host(environment, allow_remote_development),
        admits=_admits(environment, bypass, allow_anonymous),
        warnings=_warnings(keys),
    )


def find_environment(environ: Mapping[str, str]) -> Environment | str:
    """`ENVIRONMENT`, or the problem with it. Empty counts as unset: platforms pass unset variables on as empty."""
    value = environ.get("ENVIRONMENT", "")
    if value in Environment.__members__.values():
        return Environment(value)
    names = "development, testing, staging or production"
    if value:
        return f"ENVIRONMENT is {value[:40]!r}, which is not {names}. Set it to one of them."
    for mark, platform in PLATFORM_MARKS.items():
        if environ.get(mark):
            return f"ENVIRONMENT is not set, and {mark} says that this is {platform}. Set ENVIRONMENT to {names}."
    return Environment.DEVELOPMENT


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or an address of loopback, which only this machine can reach."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _live(keys: Sequence[str]) -> list[str]:
    return [key for key in keys if key]


def _production_problems(
    environment: Environment, e2e: E2EDetection, environ: Mapping[str, str], conformance_echo: bool
) -> list[str]:
    if environment is not Environment.PRODUCTION:
        return []
    names = [name for name in e2e.detecting if name != E2E_KEY]
    if E2E_KEY in e2e.detecting:
        names += [name for name in _KEY_NAMES if environ.get(name)] or [E2E_KEY]
    problems = [
        f"{name} is set, and ENVIRONMENT is production: production never admits end-to-end tests. "
        f"Unset {name}, or test against staging."
        for name in names
    ]
    if conformance_echo:
        problems.append(
            "NARTHEX_CONFORMANCE_ECHO is set, and ENVIRONMENT is production. Unset NARTHEX_CONFORMANCE_ECHO."
        )
    return problems


def _exposure_problems(
    environment: Environment, host: str, allow_remote_development: bool, allow_anonymous: bool
) -> list[str]:
    problems: list[str] = []
    if environment.remote:
        if allow_anonymous:
            problems.append(
                f"--allow-anonymous is given, and ENVIRONMENT is {environment}: guests are admitted only in "
                f"development and testing. Remove it."
            )
    elif host and not is_loopback(host) and not allow_remote_development:
        problems.append(
            f"--host is {host[:64]!r}, and ENVIRONMENT is {environment}, which listens on loopback only. Set "
            "ENVIRONMENT to staging or production, or give --allow-remote-development."
        )
    return problems


def _default_host(environment: Environment, allow_remote_development: bool) -> str:
    # Every address is right only where something in front, or an explicit flag, takes the responsibility.
    return "0.0.0.0" if environment.remote or allow_remote_development else "127.0.0.1"  # noqa: S104 - docs/design.md#admission


def _admits(environment: Environment, bypass: bool, guests: bool) -> tuple[str, ...]:
    found = ["a valid credential before the upgrade"]
    if not environment.remote:
        found.append("a token in the first `connect` command")
    if guests:
        found.append("guests from an allowed Origin")
    if bypass:
        found.append("a test identity by proof of the key, or by a token of the simulation exchange")
    return tuple(found)


def _warnings(keys: Sequence[str]) -> tuple[str, ...]:
    short = [len(key) for key in _live(keys) if len(key) < MIN_KEY_LENGTH]
    return tuple(
        f"The end-to-end key has {length} characters; make it {MIN_KEY_LENGTH} or more "
        "(`openssl rand -hex 32`) in the server and in its testers."
        for length in short
    )
