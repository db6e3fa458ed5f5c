"""`narthex.domain.environment`: every row of docs/design.md#environments's table, and every variable in every state."""

from __future__ import annotations

import itertools

import pytest

from narthex.domain.environment import (
    E2E_KEY,
    NO_KEY_REASON,
    PLAIN_E2E_VARIABLES,
    Environment,
    EnvironmentPolicy,
    decide,
    detect_e2e,
    is_loopback,
)

KEY = "0123456789abcdef0123456789abcdef"
E2E_VARIABLES = (*PLAIN_E2E_VARIABLES, E2E_KEY)
SETTING = {**PLAIN_E2E_VARIABLES, E2E_KEY: KEY}
"""Each of the five variables with a value by which end-to-end testing is detected."""


def keys_of(environ: dict[str, str]) -> list[str]:
    """The keys that settings resolve when the key is in its variable."""
    return [environ[E2E_KEY]] if environ.get(E2E_KEY) else []


def policy_of(environ: dict[str, str], **options: object) -> EnvironmentPolicy:
    """The policy of an environment that may start."""
    found = decide(environ, keys=keys_of(environ), **options)  # type: ignore[arg-type]  # a test's shorthand
    assert isinstance(found, EnvironmentPolicy), found
    return found


def problems_of(environ: dict[str, str], **options: object) -> list[str]:
    """The problems of an environment that may not start."""
    found = decide(environ, keys=keys_of(environ), **options)  # type: ignore[arg-type]  # a test's shorthand
    assert isinstance(found, list)
    return found


ROWS = [
    # environment, the environment's e2e variables, pre_connection_auth_required, auth_bypass_active
    ("development", {}, False, False),
    ("testing", {}, False, False),
    ("development", {E2E_KEY: KEY}, False, True),
    ("testing", {E2E_KEY: KEY, "PYTEST_RUNNING": "1"}, False, True),
    ("staging", {}, True, False),
    ("staging", {E2E_KEY: KEY}, False, True),
    ("staging", {E2E_KEY: KEY, "E2E_TEST_ENV": "staging"}, False, True),
    ("development", {"E2E_TESTING": "1"}, False, False),
    ("testing", {"PYTEST_RUNNING": "1"}, False, False),
    ("staging", {"E2E_TEST_ENV": "staging"}, True, False),
    ("staging", {"STAGING_E2E_TEST": "1", "E2E_TESTING": "1"}, True, False),
    ("production", {}, True, False),
]


@pytest.mark.parametrize(("environment", "variables", "required", "bypass"), ROWS)
def test_every_row_of_the_table(
    environment: str, variables: dict[str, str], required: bool, bypass: bool
) -> None:
    """What is required and what is open is the table's row, with a reason where the bypass is wanted and off."""
    policy = policy_of({"ENVIRONMENT": environment, **variables})
    assert policy.environment == environment
    assert policy.pre_connection_auth_required is required
    assert policy.auth_bypass_active is bypass
    wanted = bool(variables) and not bypass
    assert policy.reason == (NO_KEY_REASON if wanted else "")
    assert policy.e2e.enabled is bool(variables)


SUBSETS = [
    chosen
    for size in range(1, len(E2E_VARIABLES) + 1)
    for chosen in itertools.combinations(E2E_VARIABLES, size)
]


@pytest.mark.parametrize("chosen", SUBSETS, ids="+".join)
def test_any_set_of_variables_detects_and_opens_only_with_the_key(chosen: tuple[str, ...]) -> None:
    """Each variable alone and all together are detected; only the key opens the bypass, and nothing in production."""
    variables = {name: SETTING[name] for name in chosen}
    assert detect_e2e(variables).enabled
    assert set(detect_e2e(variables).variables) == set(chosen)
    for environment in ("development", "testing", "staging"):
        policy = policy_of({"ENVIRONMENT": environment, **variables})
        assert policy.e2e.enabled
        assert policy.auth_bypass_active is (E2E_KEY in chosen)
    problems = problems_of({"ENVIRONMENT": "production", **variables})
    for name in chosen:
        assert any(problem.startswith(f"{name} is set") for problem in problems)
    assert len(problems) == len(chosen)
    assert not any(KEY in problem for problem in problems)


@pytest.mark.parametrize("name", E2E_VARIABLES)
def test_empty_is_as_absent(name: str) -> None:
    """A variable that is there and empty detects nothing, shows nothing, and starts in production."""
    assert detect_e2e({name: ""}) == detect_e2e({})
    assert policy_of({"ENVIRONMENT": "production", name: ""}).e2e.variables == {}


@pytest.mark.parametrize("name", PLAIN_E2E_VARIABLES)
@pytest.mark.parametrize("value", ["0", "true", "yes", "production", " 1", "on"])
def test_other_values_of_plain_variables_detect_nothing(name: str, value: str) -> None:
    """Only the documented value detects; others are shown as what they are."""
    found = detect_e2e({name: value})
    assert not found.enabled
    assert found.variables == {name: value}


def test_the_key_shows_as_set_wherever_it_came_from() -> None:
    """A key from a file or a secret manager is detected like one from the variable, and its value is never shown."""
    assert detect_e2e({}, keys=[KEY]).variables == {E2E_KEY: "SET"}
    assert detect_e2e({E2E_KEY: KEY}).variables == {E2E_KEY: "SET"}
    policy = decide({"ENVIRONMENT": "staging"}, keys=[KEY])
    assert isinstance(policy, EnvironmentPolicy)
    assert policy.auth_bypass_active


def test_production_names_the_variable_that_the_key_came_by() -> None:
    """An operator who must unset it should not have to guess."""
    problems = decide(
        {"ENVIRONMENT": "production", f"{E2E_KEY}_FILE": "/run/key", "NARTHEX_E2E_PREVIOUS_KEY": KEY},
        keys=["from-file", KEY],
    )
    assert isinstance(problems, list)
    assert any(f"{E2E_KEY}_FILE is set" in problem for problem in problems)
    assert any("NARTHEX_E2E_PREVIOUS_KEY is set" in problem for problem in problems)
    assert not any(KEY in problem or "from-file" in problem for problem in problems)


def test_a_variable_that_resolves_to_no_key_opens_nothing() -> None:
    """Detected, but without a key the bypass stays closed."""
    policy = decide({"ENVIRONMENT": "staging", E2E_KEY: "  "}, keys=[""])
    assert isinstance(policy, EnvironmentPolicy)
    assert policy.pre_connection_auth_required
    assert not policy.auth_bypass_active
    assert policy.reason == NO_KEY_REASON


def test_the_published_sample_of_health() -> None:
    """The response that the original system published for these two variables, member by member."""
    policy = policy_of({"ENVIRONMENT": "staging", "E2E_TEST_ENV": "staging", E2E_KEY: "test-key"})
    assert policy.e2e_testing() == {
        "enabled": True,
        "variables": {"E2E_OAUTH_SIMULATION_KEY": "SET", "E2E_TEST_ENV": "staging"},
        "auth_bypass_active": True,
    }
    assert not policy.pre_connection_auth_required


def test_production_shows_no_variables() -> None:
    """Not even those that detect nothing."""
    policy = policy_of({"ENVIRONMENT": "production", "E2E_TEST_ENV": "production"})
    assert policy.e2e_testing() == {"enabled": False, "variables": {}, "auth_bypass_active": False}


@pytest.mark.parametrize(
    "value", ["prod", "Production", "PRODUCTION", "dev", "local", " staging", "staging "]
)
def test_an_unknown_environment_is_a_problem(value: str) -> None:
    """Nothing is guessed from a misspelt environment."""
    assert any("ENVIRONMENT" in problem for problem in problems_of({"ENVIRONMENT": value}))


@pytest.mark.parametrize("unset", [{}, {"ENVIRONMENT": ""}])
@pytest.mark.parametrize("mark", ["K_SERVICE", "KUBERNETES_SERVICE_HOST"])
def test_a_platform_with_no_environment_is_a_problem(mark: str, unset: dict[str, str]) -> None:
    """An unset variable must not open anything: on a platform the error names the variable to set."""
    (problem,) = problems_of({mark: "x", **unset})
    assert "Set ENVIRONMENT" in problem
    assert mark in problem
    assert policy_of({mark: "x", "ENVIRONMENT": "staging"}).pre_connection_auth_required


def test_unset_away_from_platforms_is_development() -> None:
    """The default, on loopback."""
    policy = policy_of({})
    assert policy.environment is Environment.DEVELOPMENT
    assert policy.host == "127.0.0.1"


@pytest.mark.parametrize("environment", ["development", "testing"])
def test_development_listens_on_loopback_only(environment: str) -> None:
    """On other addresses only with the flag for it."""
    for host in ("0.0.0.0", "192.168.1.5", "::", "gateway.internal"):
        (problem,) = problems_of({"ENVIRONMENT": environment}, host=host)
        assert "--allow-remote-development" in problem
        allowed = policy_of({"ENVIRONMENT": environment}, host=host, allow_remote_development=True)
        assert allowed.host == host
    assert policy_of({"ENVIRONMENT": environment}, host="localhost").host == "localhost"


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_staging_and_production_listen_everywhere(environment: str) -> None:
    """A proxy in front is the entry; a given host takes precedence."""
    assert policy_of({"ENVIRONMENT": environment}).host == "0.0.0.0"
    assert policy_of({"ENVIRONMENT": environment}, host="127.0.0.1").host == "127.0.0.1"


@pytest.mark.parametrize("environment", ["staging", "production"])
def test_guests_are_for_development_and_testing(environment: str) -> None:
    """Asking for them elsewhere is a problem, not silently ignored."""
    assert policy_of({"ENVIRONMENT": "testing"}, allow_anonymous=True).guests
    assert any(
        "--allow-anonymous" in p for p in problems_of({"ENVIRONMENT": environment}, allow_anonymous=True)
    )


def test_the_raw_echo_is_never_in_production() -> None:
    """It has no rates and huge limits."""
    assert policy_of({"ENVIRONMENT": "staging"}, conformance_echo=True).conformance
    (problem,) = problems_of({"ENVIRONMENT": "production"}, conformance_echo=True)
    assert "NARTHEX_CONFORMANCE_ECHO" in problem


def test_every_problem_comes_at_once() -> None:
    """One start should be enough to see them all."""
    problems = problems_of(
        {"ENVIRONMENT": "production", "E2E_TESTING": "1", E2E_KEY: KEY},
        conformance_echo=True,
        allow_anonymous=True,
    )
    assert len(problems) == 4


def test_a_short_key_works_with_a_warning() -> None:
    """Without its value, and in development too."""
    short = {"ENVIRONMENT": "staging", E2E_KEY: "short-key"}
    policy = policy_of(short)
    assert policy.auth_bypass_active
    (warning,) = policy.warnings
    assert "9 characters" in warning
    assert "short-key" not in warning
    assert policy_of({**short, "ENVIRONMENT": "development"}).warnings == (warning,)
    assert policy_of({"ENVIRONMENT": "staging", E2E_KEY: KEY}).warnings == ()


def test_what_loopback_is() -> None:
    """The whole of 127/8, ::1 and the name."""
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "LOCALHOST")))
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "localhost.example.com", "")))
