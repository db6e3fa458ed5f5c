"""The settings as a whole: all option groups in one frozen value, with the results of the rules.

Not here: the options (`groups.py`), reading and checking them (`loading.py`). Rules: only `load` makes one; a
component that uses an option gets its plain value from `wiring`, never this object.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Literal, NamedTuple

from pydantic import PrivateAttr, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from narthex.domain import engine_urls
from narthex.domain.addresses import Network, TrustedProxies
from narthex.domain.environment import EnvironmentPolicy
from narthex.domain.limits import Limits
from narthex.domain.origins import HostPolicy, OriginPolicy
from narthex.domain.plans import Plan, with_overrides
from narthex.domain.secrets import LiveSecrets
from narthex.errors import Bug
from narthex.settings.groups import (
    AdmissionOptions,
    E2eOptions,
    EngineOptions,
    GuardOptions,
    LimitOptions,
    LogOptions,
    RunOptions,
    ServerOptions,
    StatusOptions,
    TableOptions,
    TokenOptions,
    option_fields,
)
from narthex.settings.options import facts
from narthex.settings.tables import Claims, IssuerSettings

CLOUD_RUN_SOCKET_LIFE_S: Final = 3_300.0
"""With 5 % of jitter and the minute that a busy one is given: below the 3,600 s of the longest request."""


RENEWABLE: Final[Mapping[str, tuple[str, ...]]] = {
    "admin_key": ("admin_key",),
    "metrics_token": ("metrics_token",),
    "status_token": ("status_token",),
    "e2e_key": ("e2e_key", "e2e_previous_key"),
}
"""Group → its secrets, which a running process takes anew; all others need a restart."""


class RuleResults(NamedTuple):
    """Results of the rules, and the sources of the options.

    Attributes:
        policy: the environment's row; None when there are problems with it.
        sources: by option, of those that are not the default.
        referenced: secrets that a file or a secret manager holds.
        reload: reads every source again.
        live: by group of `RENEWABLE`, once asked for.
        latest: of `referenced`, those that were renewed since.
    """

    policy: EnvironmentPolicy | None = None
    origins: OriginPolicy = OriginPolicy()
    hosts: HostPolicy = HostPolicy()
    proxies: TrustedProxies = TrustedProxies()
    scrapers: tuple[Network, ...] = ()
    warnings: tuple[str, ...] = ()
    sources: Mapping[str, str] = {}
    referenced: frozenset[str] = frozenset()
    reload: Callable[[], Settings] | None = None
    live: dict[str, LiveSecrets] | None = None
    latest: dict[str, SecretStr | None] | None = None


class Settings(
    ServerOptions,
    LogOptions,
    AdmissionOptions,
    TokenOptions,
    E2eOptions,
    EngineOptions,
    LimitOptions,
    RunOptions,
    GuardOptions,
    StatusOptions,
    TableOptions,
    BaseSettings,
):
    """Validated settings, consistent with each other. Only `narthex.settings.load` makes them."""

    model_config = SettingsConfigDict(extra="forbid", frozen=True)

    platform: Literal["", "cloud-run", "kubernetes"] = ""
    tracing: str = ""  # the variable of OpenTelemetry that turns tracing on; empty: it is off

    _results: RuleResults = PrivateAttr(default=RuleResults())

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Accepts only the values that `load` passes: pydantic must not read the process's environment by itself."""
        del settings_cls, env_settings, dotenv_settings, file_secret_settings
        return (init_settings,)

    @property
    def warnings(self) -> tuple[str, ...]:
        """Settings that work but should change; each a sentence with its remedy."""
        return self._results.warnings

    def seal(self, results: RuleResults) -> None:
        """Keep the results of the rules. Only `load` calls it."""
        self._results = results

    @property
    def policy(self) -> EnvironmentPolicy:
        """The environment's row of docs/design.md#environments."""
        if self._results.policy is None:
            raise Bug("settings_unsealed", "Settings were not created by narthex.settings.load.")
        return self._results.policy

    @property
    def base_url(self) -> str:
        """`public_url` with `root_path`: the URL below which clients find every route; empty: not prescribed."""
        return self.public_url and self.public_url.rstrip("/") + self.root_path

    @property
    def origins(self) -> OriginPolicy:
        """`allowed_origins`, parsed."""
        return self._results.origins

    @property
    def hosts(self) -> HostPolicy:
        """`allowed_hosts`, parsed."""
        return self._results.hosts

    @property
    def proxies(self) -> TrustedProxies:
        """`trusted_proxies`, parsed; on Cloud Run the last hop when none are given."""
        return self._results.proxies

    @property
    def scrapers(self) -> tuple[Network, ...]:
        """`trusted_scrapers`, parsed."""
        return self._results.scrapers

    def limits(self) -> Limits:
        """The limits as the value that is enforced and advertised."""
        return Limits(**{name: getattr(self, name) for name in Limits.__struct_fields__})

    def plan_table(self) -> dict[str, Plan]:
        """Every plan with the file's changes and `max_connections_per_user`."""
        changes = {name: plan.model_dump() for name, plan in self.plans.items()}
        return with_overrides(changes, connections=self.max_connections_per_user)

    def source(self, name: str) -> str:
        """Where option `name` came from: `default`, a variable, a flag, or the file."""
        return self._results.sources.get(name, "default")

    def all_issuers(self) -> tuple[IssuerSettings, ...]:
        """The issuer of the flat options, if they name one, then `[[issuers]]`."""
        flat = self.flat_issuer()
        return (flat, *self.issuers) if flat.key_sources() else self.issuers

    def flat_issuer(self) -> IssuerSettings:
        """The issuer that the flat JWT options describe, whether or not it is complete."""
        return IssuerSettings(
            name="default",
            issuer=self.jwt_issuer or self.oidc_issuer,
            audience=self.jwt_audience,
            audience_claim=self.jwt_audience_claim,
            algorithms=self.jwt_algorithms,
            secret=self.jwt_secret,
            public_key=self.jwt_public_key,
            jwks_url=self.jwks_url,
            discovery=None if self.jwks_url else self.oidc_issuer,
            introspection_url=self.introspection_url,
            introspection_client_id=self.introspection_client_id,
            introspection_client_secret=self.introspection_client_secret,
            tenant=self.jwt_tenant or None,
            tenants=self.jwt_tenants,
            permissions_allowed=self.jwt_permissions_allowed,
            plans_allowed=self.jwt_plans_allowed,
            claims=Claims(
                tenant=self.claim_tenant,
                plan=self.claim_plan,
                permissions=self.claim_permissions,
                name=self.claim_name,
                e2e=self.claim_e2e,
                test_run=self.claim_test_run,
            ),
        )

    @property
    def provider_enabled(self) -> bool:
        """Whether the embedded provider answers under `/auth`."""
        if self.embedded_provider == "auto":
            signs_in = bool(
                self.oidc_client_id
            )  # people who sign in at another provider get a session of the embedded one
            return self.environment in ("development", "testing") or signs_in or not self.all_issuers()
        return self.embedded_provider == "on"

    @property
    def open_login(self) -> bool:
        """Whether any e-mail may sign in at the embedded provider, without a password."""
        return not self.users and not self.policy.environment.remote

    def socket_life_s(self) -> float:
        """Seconds after which a socket is rotated, 0 for never: Cloud Run cuts every request at 3,600."""
        if self.max_socket_life_s is not None:
            return self.max_socket_life_s
        return CLOUD_RUN_SOCKET_LIFE_S if self.platform == "cloud-run" else 0.0

    def admin_keys(self) -> LiveSecrets:
        """The live keys of the server API."""
        return self._live("admin_key")

    def metrics_tokens(self) -> LiveSecrets:
        """The live tokens of scrapers."""
        return self._live("metrics_token")

    def status_tokens(self) -> LiveSecrets:
        """The live tokens of those that send samples for the status page."""
        return self._live("status_token")

    @property
    def status_embedded(self) -> bool:
        """Whether this gateway keeps and serves the status page itself."""
        if self.status_url or self.status_page == "off":
            return False
        return self.status_page == "on" or not self.platform or self.single_instance

    def e2e_keys(self) -> LiveSecrets:
        """The live end-to-end keys, the current one first."""
        return self._live("e2e_key")

    def _live(self, group: str) -> LiveSecrets:
        """The secrets of a group of `RENEWABLE`: one object, which `renew_secrets` changes."""
        known = self._results.live
        if known is None:  # not sealed yet: the rules ask
            return LiveSecrets(self._secrets_of(group))
        if group not in known:
            known[group] = LiveSecrets(self._secrets_of(group))
        return known[group]

    def _secrets_of(self, group: str) -> Iterator[str]:
        for name in RENEWABLE[group]:
            if (value := getattr(self, name)) is not None:
                yield value.get_secret_value()

    def renew_secrets(self, mask: Callable[[list[str]], None]) -> tuple[list[str], list[str]]:
        """Read every source again, and use the secrets that were renewed. Blocks; call it on a thread of its own.

        Args:
            mask: takes every secret, before a new one counts.

        Returns:
            Names of options: those whose new secret counts from now, and those whose new one needs a restart.

        Raises:
            ConfigError: a source cannot be read, or what it holds is refused; the old secrets go on to count.
        """
        results = self._results
        assert results.reload is not None, "only `load` makes settings"
        assert results.latest is not None, "only `load` makes settings"
        fresh = results.reload()
        mask(fresh.secret_values())
        renewed: list[str] = []
        stale: list[str] = []
        for name in sorted(results.referenced):
            if getattr(fresh, name) == results.latest.get(name, getattr(self, name)):
                continue
            results.latest[name] = getattr(fresh, name)
            group = next((group for group, names in RENEWABLE.items() if name in names), "")
            (renewed if group else stale).append(name)
            if group:
                self._live(group).renew(fresh._secrets_of(group))  # noqa: SLF001 - of the same class
        return renewed, stale

    @property
    def has_references(self) -> bool:
        """Whether a secret comes from a file or a secret manager, where it can be renewed."""
        return bool(self._results.referenced)

    def agent_secrets_by_name(self) -> dict[str, str]:
        """`agent_secrets` by agent name; entries without `=` are a problem of `rules.py` and left out here."""
        text = self.agent_secrets.get_secret_value() if self.agent_secrets else ""
        pairs = (entry.strip().partition("=") for entry in text.replace("\n", ",").split(","))
        return {name.strip(): secret.strip() for name, found, secret in pairs if found and secret.strip()}

    def secret_values(self) -> list[str]:
        """Every live secret, for redaction (`adapters.telemetry.redaction.Redactor.register`).

        Of an engine's URL it is the password: the rest is needed to read an error message.
        """
        found = list(self.agent_secrets_by_name().values())
        webhooks = self.status_webhooks.get_secret_value() if self.status_webhooks else ""
        found += re.findall(r"whsec_[\w+/=]+", webhooks)
        for name, (_, field) in option_fields().items():
            value = getattr(self, name)
            if isinstance(value, SecretStr):
                secret = value.get_secret_value()
                found += engine_urls.secrets_of(secret) if facts(name, field).url else [secret]
        for table in (*self.issuers, *self.users):
            values = (getattr(table, name) for name in type(table).model_fields)
            found += [value.get_secret_value() for value in values if isinstance(value, SecretStr)]
        return [value for value in found if value]
