"""Rules between options: each environment's and platform's demands, and contradictions."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.domain.environment import Environment
from narthex.errors import ConfigError
from narthex.ports.broker import PRESENCE_TTL_S
from narthex.settings import load

CI = {"NARTHEX_E2E_OIDC_ISSUER": "https://ci.example", "NARTHEX_E2E_OIDC_AUDIENCE": "https://chat.example"}
PRODUCTION = {"ENVIRONMENT": "production", "NARTHEX_ALLOWED_HOSTS": "chat.example.com"}


def problem(environ: dict[str, str], **flags: object) -> str:
    """The one problem of settings that must not load."""
    with pytest.raises(ConfigError) as caught:
        load(flags, environ)
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0]


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ("development", "127.0.0.1"),
        ("testing", "127.0.0.1"),
        ("staging", "0.0.0.0"),
        ("production", "0.0.0.0"),
    ],
)
def test_each_environment_listens_where_it_should(environment: str, host: str) -> None:
    """Loopback for developers, every address behind a platform."""
    settings = load({}, PRODUCTION | {"ENVIRONMENT": environment})
    assert settings.host == host
    assert settings.source("host") == "ENVIRONMENT"


def test_remote_development_must_be_asked_for() -> None:
    """A developer's gateway that listens to the network is a decision of its own."""
    assert "--allow-remote-development" in problem({}, host="0.0.0.0")
    assert load({"allow_remote_development": True}, {}).host == "0.0.0.0"
    assert load({"host": "::1"}, {}).host == "::1"


@pytest.mark.parametrize("mark", ["K_SERVICE", "KUBERNETES_SERVICE_HOST"])
def test_a_platform_without_environment_is_refused(mark: str) -> None:
    """An unset variable must not open anything."""
    with pytest.raises(ConfigError) as caught:
        load({}, {mark: "x", "NARTHEX_SINGLE_INSTANCE": "1"})
    assert any("ENVIRONMENT" in text for text in caught.value.problems)


def test_an_unknown_environment_is_refused() -> None:
    """Also one that only looks like another."""
    assert "Production" in problem({"ENVIRONMENT": "Production"})


@pytest.mark.parametrize(
    "variable",
    ["E2E_TESTING", "PYTEST_RUNNING", "STAGING_E2E_TEST", "E2E_OAUTH_SIMULATION_KEY", "E2E_TEST_ENV"],
)
def test_production_refuses_each_end_to_end_variable_by_name(variable: str) -> None:
    """The table's last row, through settings: the value is not shown."""
    value = {"E2E_OAUTH_SIMULATION_KEY": "canary-key-0123456789", "E2E_TEST_ENV": "staging"}.get(
        variable, "1"
    )
    found = problem(PRODUCTION | {variable: value})
    assert variable in found
    assert "canary" not in found


def test_production_refuses_a_key_from_a_file_too(tmp_path: Path) -> None:
    """However it came."""
    path = tmp_path / "key"
    path.write_text("canary-key-0123456789")
    assert "E2E_OAUTH_SIMULATION_KEY_FILE" in problem(
        PRODUCTION | {"E2E_OAUTH_SIMULATION_KEY_FILE": str(path)}
    )


def test_production_refuses_a_previous_key_and_ci_tokens() -> None:
    """Test identities are never admitted there, with any credential."""
    assert "NARTHEX_E2E_PREVIOUS_KEY" in "\n".join(_all(PRODUCTION | {"NARTHEX_E2E_PREVIOUS_KEY": "k" * 40}))
    ci = CI | {"NARTHEX_E2E_OIDC_SUBJECT": "repo:a/b:*"}
    assert "NARTHEX_E2E_OIDC_ISSUER" in problem(PRODUCTION | ci)
    load({}, {"ENVIRONMENT": "staging"} | ci)


def _all(environ: dict[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load({}, environ)
    return caught.value.problems


def test_production_needs_its_host_names() -> None:
    """Or any name that resolves here would be served; the public URL has one."""
    assert "NARTHEX_ALLOWED_HOSTS" in problem({"ENVIRONMENT": "production"})
    named = load({}, {"ENVIRONMENT": "production", "NARTHEX_PUBLIC_URL": "https://Chat.example.com/"}).hosts
    assert named.allows("chat.example.com:8443")
    assert not named.allows("evil.example.com")
    assert not named.allows("localhost")  # but for probes of this machine (`served_to_probes`)


def test_staging_without_host_names_says_that_it_refuses_clients() -> None:
    """It starts, because probes and tests of the machine itself work."""
    staging = {"ENVIRONMENT": "staging", "NARTHEX_JWT_SECRET": "s" * 32}
    named = load({}, staging | {"NARTHEX_PUBLIC_URL": "https://chat.example.com"})
    assert named.hosts.allows("chat.example.com")
    assert named.hosts.allows("localhost")
    unnamed = load({}, staging)
    assert not unnamed.hosts.allows("chat.example.com")
    for given, warned in ((unnamed, True), (named, False)):
        assert any("NARTHEX_ALLOWED_HOSTS" in warning for warning in given.warnings) is warned


@pytest.mark.parametrize("name", ["NARTHEX_CONFORMANCE_ECHO", "NARTHEX_ALLOW_ANONYMOUS"])
def test_production_refuses_what_is_for_developers(name: str) -> None:
    """Each is named, by its variable or its flag."""
    flag = "--" + name.removeprefix("NARTHEX_").lower().replace("_", "-")
    found = problem(PRODUCTION | {name: "1"})
    assert name in found or flag in found


def test_sqlite_on_cloud_run_needs_a_promise() -> None:
    """Each instance would have a log and users of its own."""
    platform = {"K_SERVICE": "chat", "ENVIRONMENT": "staging"}
    found = _all(platform)
    assert [text.partition(" ")[0] for text in found] == ["NARTHEX_BROKER_URL", "NARTHEX_STORE_URL"]
    assert "NARTHEX_SINGLE_INSTANCE=1" in found[0]
    settings = load({}, platform | {"NARTHEX_SINGLE_INSTANCE": "1"})
    assert settings.platform == "cloud-run"
    assert settings.proxies.hops == 1
    engines = {"NARTHEX_BROKER_URL": "nats://n:4222", "NARTHEX_STORE_URL": "postgresql://u:p@h/d"}
    load({}, platform | engines)


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"NARTHEX_ALLOWED_ORIGINS": "*"}, "NARTHEX_ALLOWED_ORIGINS"),
        ({"NARTHEX_ALLOWED_HOSTS": "https://a.example/"}, "NARTHEX_ALLOWED_HOSTS"),
        ({"NARTHEX_TRUSTED_PROXIES": "everyone"}, "NARTHEX_TRUSTED_PROXIES"),
        ({"NARTHEX_PUBLIC_URL": "chat.example.com"}, "NARTHEX_PUBLIC_URL"),
        ({"NARTHEX_PUBLIC_URL": "https://chat.example.com/path"}, "NARTHEX_ROOT_PATH"),
        *(
            ({"NARTHEX_ROOT_PATH": path}, "NARTHEX_ROOT_PATH")
            for path in ("chat", "/", "/chat/", "//x", "/a/../b")
        ),
        *(
            ({"NARTHEX_ROOT_PATH": path}, "NARTHEX_ROOT_PATH")
            for path in ('/a"b', "/a b", "/a%2fb", "/.", "/a\n")
        ),
        ({"NARTHEX_BROKER_URL": "amqp://x"}, "NARTHEX_BROKER_URL"),
        ({"NARTHEX_BROKER_URL": "sqlite:///x"}, "NARTHEX_BROKER_URL"),
        ({"NARTHEX_STORE_URL": "mongodb://x"}, "NARTHEX_STORE_URL"),
        (CI, "NARTHEX_E2E_OIDC_SUBJECT"),
        (
            CI | {"NARTHEX_E2E_OIDC_SUBJECT": "repo:a/b:*", "NARTHEX_E2E_OIDC_AUDIENCE": ""},
            "NARTHEX_E2E_OIDC_AUDIENCE",
        ),
        ({"NARTHEX_E2E_PREVIOUS_KEY": "k" * 40}, "E2E_OAUTH_SIMULATION_KEY"),
        ({"NARTHEX_PONG_TIMEOUT_S": "25"}, "NARTHEX_PING_INTERVAL_S"),
        ({"NARTHEX_COMMANDS_PER_S": "500"}, "NARTHEX_COMMANDS_BURST"),
        (
            {"NARTHEX_MAX_MESSAGE_BYTES": "4194304", "NARTHEX_MAX_PENDING_BYTES": "8000000"},
            "NARTHEX_MAX_INFLATED",
        ),
        ({"NARTHEX_MAX_PENDING_BYTES": "20000"}, "NARTHEX_MAX_MESSAGE_BYTES"),
        ({"NARTHEX_MAX_CONNECTIONS": "100"}, "NARTHEX_MAX_CONNECTIONS_UNAUTHENTICATED"),
        ({"NARTHEX_ADMIN_KEY": "with.a.dot.0123456789"}, "NARTHEX_ADMIN_KEY"),
        ({"NARTHEX_AGENT_SECRETS": "a=b,c"}, "NARTHEX_AGENT_SECRETS"),
        ({"NARTHEX_AGENT_SECRETS": "a=b,a=c"}, "NARTHEX_AGENT_SECRETS"),
        ({"NARTHEX_DATA_DIR": "/dev/null/x"}, "NARTHEX_DATA_DIR"),
    ],
)
def test_contradictions_and_malformed_lists_are_named(environ: dict[str, str], named: str) -> None:
    """Each is one problem that names its variable."""
    assert named in problem(environ)


def test_ci_tokens_of_everybody_are_refused() -> None:
    """A subject of `*` would admit every workflow of a public CI."""
    ci = CI | {"NARTHEX_E2E_OIDC_SUBJECT": "*"}
    assert "every workflow" in problem(ci)


@pytest.mark.parametrize("environment", ["development", "staging"])
def test_a_short_key_works_with_a_warning(environment: str) -> None:
    """In development too: there is where the key of staging is tried."""
    key = {"E2E_OAUTH_SIMULATION_KEY": "short-key"}
    (warning, *_) = load({}, key | {"ENVIRONMENT": environment}).warnings
    assert "32" in warning
    assert "short-key" not in warning


def test_two_keys_may_be_live() -> None:
    """During a rotation; the current one first."""
    keys = {"E2E_OAUTH_SIMULATION_KEY": "a" * 32, "NARTHEX_E2E_PREVIOUS_KEY": "b" * 32}
    settings = load({}, keys | {"ENVIRONMENT": "testing"})
    assert tuple(settings.e2e_keys()) == ("a" * 32, "b" * 32)
    assert settings.policy.auth_bypass_active


def test_a_remote_gateway_that_nobody_can_enter_is_warned_about() -> None:
    """It starts, because `narthex token` works, and the warning explains it."""
    assert any("narthex token" in text for text in load({}, {"ENVIRONMENT": "staging"}).warnings)
    with_issuer = {"ENVIRONMENT": "staging", "NARTHEX_JWKS_URL": "https://i.example/jwks"}
    assert not load({}, with_issuer | {"NARTHEX_ALLOWED_HOSTS": "chat.example.com"}).warnings


def test_agents_run_apart_only_on_shared_engines() -> None:
    """A gateway that claims nothing, over a SQLite that no worker can open, would leave every run waiting."""
    assert "NARTHEX_BROKER_URL" in problem({"NARTHEX_RUN_AGENTS": "0"})
    assert "NARTHEX_STORE_URL" in problem({"NARTHEX_RUN_AGENTS": "0", "NARTHEX_BROKER_URL": "nats://n:4222"})
    engines = {"NARTHEX_BROKER_URL": "nats://n:4222", "NARTHEX_STORE_URL": "postgresql://u:p@h/d"}
    assert not load({}, engines | {"NARTHEX_RUN_AGENTS": "0"}).run_agents


def test_sockets_are_rotated_where_the_platform_would_cut_them() -> None:
    """3,300 s on Cloud Run, which cuts at 3,600 at the latest; elsewhere not at all; a number always counts."""
    platform = {"K_SERVICE": "chat", "ENVIRONMENT": "staging", "NARTHEX_SINGLE_INSTANCE": "1"}
    assert load({}, {}).socket_life_s() == 0
    assert load({}, platform).socket_life_s() == 3_300
    assert load({}, platform | {"NARTHEX_MAX_SOCKET_LIFE_S": "0"}).socket_life_s() == 0
    assert load({}, {"NARTHEX_MAX_SOCKET_LIFE_S": "900"}).socket_life_s() == 900


def test_pings_come_within_the_life_of_presence() -> None:
    """They renew it: past a minute a gateway would show no members, and its connections could not be woken."""
    assert load({"ping_interval_s": 55}, {}).ping_interval_s < PRESENCE_TTL_S
    assert "ping_interval_s" in problem({"NARTHEX_PING_INTERVAL_S": "60"}).lower()


def test_the_policy_is_the_tables_row() -> None:
    """The published example: staging, detected by variable and key."""
    environ = {"ENVIRONMENT": "staging", "E2E_TEST_ENV": "staging", "E2E_OAUTH_SIMULATION_KEY": "test-key"}
    policy = load({}, environ).policy
    assert policy.environment is Environment.STAGING
    assert not policy.pre_connection_auth_required
    assert policy.e2e_testing() == {
        "enabled": True,
        "variables": {"E2E_OAUTH_SIMULATION_KEY": "SET", "E2E_TEST_ENV": "staging"},
        "auth_bypass_active": True,
    }
