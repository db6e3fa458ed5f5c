"""`load`: precedence of sources, the texts of problems, and no secret in any of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from narthex.errors import EXIT_CONFIG, ConfigError
from narthex.settings import Settings, load

CANARY = "Kx9-canary-Value-42-Qz7"


def problems(
    environ: dict[str, str], flags: dict[str, Any] | None = None, file: Path | None = None
) -> list[str]:
    """The problems of settings that must not load."""
    with pytest.raises(ConfigError) as caught:
        load(flags or {}, environ, file)
    return caught.value.problems


def only(found: list[str]) -> str:
    """The one problem."""
    assert len(found) == 1, found
    return found[0]


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    """A settings file."""
    return tmp_path / "narthex.toml"


def test_defaults_are_those_of_the_design() -> None:
    """With nothing given it is development on loopback, port 8000."""
    settings = load({}, {})
    assert (settings.environment, settings.host, settings.port) == ("development", "127.0.0.1", 8000)
    assert settings.limits().max_message_bytes == 64 * 1024
    assert settings.plan_table()["mid"].connections == 50
    assert settings.provider_enabled
    assert settings.source("port") == "default"


def test_a_flag_beats_a_variable_beats_the_file(toml: Path) -> None:
    """The order of docs/settings.md, and each value knows where it came from."""
    toml.write_text("port = 1\nmax_message_bytes = 2048\nmax_headers = 40\n")
    environ = {"NARTHEX_PORT": "2", "NARTHEX_MAX_MESSAGE_BYTES": "4096"}
    settings = load({"port": 3}, environ, toml)
    assert (settings.port, settings.max_message_bytes, settings.max_headers) == (3, 4096, 40)
    sources = [settings.source(name) for name in ("port", "max_message_bytes", "max_headers", "max_lag_s")]
    assert sources == ["--port", "NARTHEX_MAX_MESSAGE_BYTES", f"max_headers in {toml}", "default"]


def test_the_platforms_port_is_honoured_and_our_own_variable_is_stronger() -> None:
    """Cloud Run sets PORT."""
    assert load({}, {"PORT": "9000"}).port == 9000
    assert load({}, {"PORT": "9000", "NARTHEX_PORT": "9001"}).port == 9001


def test_flags_that_were_not_given_count_as_nothing() -> None:
    """None and empty lists leave the environment in effect."""
    settings = load({"port": None, "agents": []}, {"NARTHEX_PORT": "7", "NARTHEX_AGENT": "a:b, c:d"})
    assert settings.port == 7
    assert settings.agents == ("a:b", "c:d")


def test_an_empty_variable_is_not_set() -> None:
    """Platforms pass unset variables on as empty ones."""
    settings = load({}, {"NARTHEX_PORT": "", "NARTHEX_JWT_SECRET": "", "NARTHEX_ADMIN_KEY_FILE": ""})
    assert settings.port == 8000
    assert settings.jwt_secret is None


def test_the_process_environment_does_not_slip_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is handed over counts, although the library could read os.environ itself."""
    monkeypatch.setenv("PORT", "1234")
    monkeypatch.setenv("port", "1235")
    monkeypatch.setenv("NARTHEX_PORT", "1236")
    assert load({}, {}).port == 8000


def test_every_problem_is_told_at_once(toml: Path) -> None:
    """Wrong values of all sources, broken rules and unknown names, in one error that exits 78."""
    toml.write_text('max_headers = 3\ncolour = "red"\n')
    environ = {
        "ENVIRONMENT": "production",
        "E2E_TESTING": "1",
        "NARTHEX_WORKERS": "many",
        "NARTHEX_JWT_SECRT": "x",
        "NARTHEX_ALLOWED_ORIGINS": "nonsense",
    }
    found = "\n".join(problems(environ, {"port": 70000}, toml))
    for expected in (
        "--port",
        "NARTHEX_WORKERS",
        "max_headers in",
        "colour in",
        "NARTHEX_JWT_SECRT",
        "NARTHEX_ALLOWED_ORIGINS",
        "NARTHEX_ALLOWED_HOSTS",
        "E2E_TESTING",
    ):
        assert expected in found
    assert EXIT_CONFIG == 78


@pytest.mark.parametrize(
    ("variable", "value", "remedy"),
    [
        ("NARTHEX_PORT", "99999", "Give a whole number from 0 to 65535."),
        ("NARTHEX_WORKERS", "0", "Give a whole number from 1 to 64."),
        ("NARTHEX_LOG_FORMAT", "xml", "Give one of auto, json, console."),
        ("NARTHEX_ALLOW_ANONYMOUS", "perhaps", "Give 1 (on) or 0 (off)."),
        ("NARTHEX_PING_INTERVAL_S", "soon", "Give a number from 1 to 55."),
        ("NARTHEX_MAX_CONNECTIONS_PER_USER", "-1", "Give a whole number from 1 to 100000."),
    ],
)
def test_a_wrong_value_names_the_variable_the_value_and_the_remedy(
    variable: str, value: str, remedy: str
) -> None:
    """The reader can fix it without the documentation."""
    found = only(problems({variable: value}))
    assert found.startswith(f"{variable} is wrong: ")
    assert repr(value) in found
    assert found.endswith(remedy)


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [
        ("NARTHEX_JWT_SECRT", "NARTHEX_JWT_SECRET"),
        ("NARTHEX_ALLOWED_ORIGIN", "NARTHEX_ALLOWED_ORIGINS"),
        ("NARTHEX_PROT", "NARTHEX_PORT"),
    ],
)
def test_an_unknown_variable_is_a_problem_with_a_guess(wrong: str, meant: str) -> None:
    """A misspelt variable must not be a setting that silently does not hold; its value is not shown."""
    found = only(problems({wrong: CANARY}))
    assert f"Did you mean {meant}?" in found
    assert CANARY not in found


def test_an_unknown_variable_unlike_any_other_points_to_the_documentation() -> None:
    """No guess is better than a wild one."""
    assert "docs/settings.md" in only(problems({"NARTHEX_ZZZZQQQQ": "1"}))


def test_variables_of_tests_and_clients_are_left_alone() -> None:
    """They are no settings of the gateway."""
    load({}, {"NARTHEX_TEST_TIME_UNIT": "2", "NARTHEX_TOKEN": "x", "NARTHEX_URL": "http://x"})


def test_what_kubernetes_sets_for_a_service_called_narthex_is_no_setting() -> None:
    """NARTHEX_PORT=tcp://… is the platform's, and must neither break the start nor become the port."""
    links = {
        "NARTHEX_PORT": "tcp://10.0.0.7:8000",
        "NARTHEX_SERVICE_HOST": "10.0.0.7",
        "NARTHEX_SERVICE_PORT": "8000",
        "NARTHEX_SERVICE_PORT_HTTP": "8000",
        "NARTHEX_PORT_8000_TCP": "tcp://10.0.0.7:8000",
        "NARTHEX_PORT_8000_TCP_PROTO": "tcp",
        "NARTHEX_NATS_SERVICE_HOST": "10.0.0.8",
        "NARTHEX_NATS_PORT": "tcp://10.0.0.8:4222",
        "KUBERNETES_SERVICE_HOST": "10.0.0.1",
        "ENVIRONMENT": "staging",
    }
    assert load({}, links).port == 8000
    assert load({"port": 81}, links).port == 81


def test_elsewhere_such_a_variable_is_a_misspelt_one() -> None:
    """Only Kubernetes gets the benefit of the doubt."""
    assert "NARTHEX_SERVICE_HOST" in only(problems({"NARTHEX_SERVICE_HOST": "10.0.0.7"}))


# -- secrets ---------------------------------------------------------------------------------------------------


def test_a_secret_comes_from_a_file(tmp_path: Path) -> None:
    """`_FILE` as Docker and Kubernetes mount it, one trailing line break dropped."""
    path = tmp_path / "secret"
    path.write_text(CANARY + "\n")
    for variable, name in (
        ("NARTHEX_JWT_SECRET", "jwt_secret"),
        ("E2E_OAUTH_SIMULATION_KEY", "e2e_key"),
        ("NARTHEX_ADMIN_KEY", "admin_key"),
    ):
        settings = load({}, {variable + "_FILE": str(path)})
        assert getattr(settings, name).get_secret_value() == CANARY
        assert settings.source(name) == variable + "_FILE"


def test_a_secret_and_its_file_at_once_are_a_problem(tmp_path: Path) -> None:
    """A user should not need to know which one takes precedence."""
    path = tmp_path / "secret"
    path.write_text("other")
    found = only(problems({"NARTHEX_ADMIN_KEY": CANARY, "NARTHEX_ADMIN_KEY_FILE": str(path)}))
    assert "NARTHEX_ADMIN_KEY_FILE are both set" in found
    assert CANARY not in found


def test_an_unreadable_secret_is_one_problem_and_no_weaker_source_steps_in(toml: Path) -> None:
    """An unreadable key must not be replaced by an older one."""
    toml.write_text('admin_key = "an-older-key-of-the-file"\n')
    found = only(problems({"NARTHEX_ADMIN_KEY_FILE": "/nowhere/at/all"}, file=toml))
    assert "NARTHEX_ADMIN_KEY_FILE: the file /nowhere/at/all cannot be read" in found


def test_a_secret_manager_name_is_read_through_the_adapter() -> None:
    """Any secret may be a name; the reader sees the whole name."""
    asked: list[str] = []

    def read(reference: str) -> str:
        asked.append(reference)
        return CANARY

    name = "gcp-secret://projects/p/secrets/s/versions/3"
    settings = load({}, {"E2E_OAUTH_SIMULATION_KEY": name, "NARTHEX_ADMIN_KEY": name}, gcp=read)
    assert asked == [name, name]
    assert tuple(settings.e2e_keys()) == (CANARY,)
    assert settings.policy.e2e.variables["E2E_OAUTH_SIMULATION_KEY"] == "SET"


def test_a_key_loses_its_outer_white_space() -> None:
    """HTTP strips header values, so such a key could never match."""
    assert tuple(load({}, {"E2E_OAUTH_SIMULATION_KEY": " key \n"}).e2e_keys()) == ("key",)


def test_no_problem_holds_a_secret(toml: Path) -> None:
    """Wherever a secret is, and whatever else is wrong with it."""
    toml.write_text(
        f"""
admin_key = {{ x = "{CANARY}" }}
jwt_secret = ["{CANARY}"]

[[issuers]]
name = "one"
secret = 5
public_key = "{CANARY}"
extra = "{CANARY}"

[[users]]
email = "nobody"
password_hash = "{CANARY}"
"""
    )
    environ = {
        "NARTHEX_STORE_URL": f"mysql://user:{CANARY}@host/db",
        "E2E_OAUTH_SIMULATION_KEY": CANARY,
        "ENVIRONMENT": "production",
        "NARTHEX_INTROSPECTION_CLIENT_SECRET": CANARY,
    }
    found = "\n".join(problems(environ, file=toml))
    assert "issuers[0].extra" in found
    assert "NARTHEX_STORE_URL has an unknown scheme" in found
    for start in range(len(CANARY) - 7):
        assert CANARY[start : start + 8] not in found


def test_settings_do_not_show_a_secret_when_they_are_printed() -> None:
    """Not in a repr that ends up in a traceback."""
    settings = load({}, {"NARTHEX_ADMIN_KEY": CANARY, "NARTHEX_STORE_URL": f"postgresql://u:{CANARY}@h/d"})
    assert CANARY not in repr(settings) + str(settings)


def test_every_live_secret_is_named_to_the_redactor(toml: Path) -> None:
    """Flat ones, those of the tables, and the password of an engine's URL, but not its host."""
    toml.write_text(
        '[[issuers]]\nname = "a"\nissuer = "https://a"\nsecret = "secret-of-a-table-entry-0123456789"\n'
    )
    environ = {
        "NARTHEX_ADMIN_KEY": "the-admin-key-0123456789",
        "E2E_OAUTH_SIMULATION_KEY": "the-e2e-key",
        "NARTHEX_STORE_URL": "postgresql://user:the-password@host/db",
    }
    found = load({}, environ, toml).secret_values()
    assert sorted(found) == sorted(
        ["the-admin-key-0123456789", "the-e2e-key", "the-password", "secret-of-a-table-entry-0123456789"]
    )


def test_remote_agents_tokens_are_told_apart_and_all_masked() -> None:
    """By name; a secret may hold `=`."""
    settings = load({}, {"NARTHEX_AGENT_SECRETS": "helper=abc-Secret-1==, other = def-Secret-2\n"})
    assert settings.agent_secrets_by_name() == {"helper": "abc-Secret-1==", "other": "def-Secret-2"}
    assert {"abc-Secret-1==", "def-Secret-2"} <= set(settings.secret_values())


# -- the file --------------------------------------------------------------------------------------------------


def test_the_file_is_found_by_its_variable_or_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NARTHEX_CONFIG names it; without it `narthex.toml` here counts, and need not be there."""
    named = tmp_path / "other.toml"
    named.write_text("port = 11\n")
    monkeypatch.chdir(tmp_path)
    assert load({}, {"NARTHEX_CONFIG": str(named)}).port == 11
    assert load({}, {}).port == 8000
    (tmp_path / "narthex.toml").write_text("port = 12\n")
    assert load({}, {}).port == 12


def test_a_named_file_that_is_missing_is_a_problem(tmp_path: Path) -> None:
    """A file that is named on purpose must exist."""
    assert "cannot be read" in only(problems({}, file=tmp_path / "none.toml"))


def test_a_broken_file_is_named_with_the_place_but_not_the_text(toml: Path) -> None:
    """The line may hold a secret."""
    toml.write_text(f'port = 1\nadmin_key = "{CANARY}\n')
    found = only(problems({}, file=toml))
    assert "is no TOML" in found
    assert "line 2" in found
    assert CANARY[:8] not in found


def test_the_environment_cannot_be_set_in_the_file_or_by_a_flag(toml: Path) -> None:
    """One place decides, and it is the environment."""
    toml.write_text('environment = "development"\ne2e_key = "x"\n')
    found = problems({"ENVIRONMENT": "production", "NARTHEX_ALLOWED_HOSTS": "a.example"}, file=toml)
    assert any("Set the variable ENVIRONMENT" in problem for problem in found)
    assert any("Set the variable E2E_OAUTH_SIMULATION_KEY" in problem for problem in found)
    assert "NARTHEX_ENVIRONMENT" in only(problems({"NARTHEX_ENVIRONMENT": "development"}))
    assert "cannot be given as a flag" in only(problems({}, {"environment": "development"}))


def test_tables_of_the_file(toml: Path, tmp_path: Path) -> None:
    """Issuers with secrets in files beside it, users, and changes of plans."""
    (tmp_path / "hash").write_text("$argon2id$x")
    toml.write_text(
        """
jwks_url = "https://first.example/jwks"
jwt_issuer = "https://first.example"

[[issuers]]
name = "second"
issuer = "https://second.example"
discovery = "https://second.example"
audience = ["chat"]
claims = { tenant = "hd" }

[[users]]
email = "ada@example.com"
password_hash_file = "hash"

[plans.free]
connections = 7
history_days = 0
"""
    )
    settings = load({}, {}, toml)
    assert [issuer.name for issuer in settings.all_issuers()] == ["default", "second"]
    assert settings.all_issuers()[1].claims.tenant == "hd"
    (user,) = settings.users
    assert user.password_hash is not None
    assert user.password_hash.get_secret_value() == "$argon2id$x"
    plan = settings.plan_table()["free"]
    assert (plan.connections, plan.history_days, plan.concurrent_runs) == (7, None, 2)


def test_one_flat_limit_holds_for_every_plan() -> None:
    """NARTHEX_MAX_CONNECTIONS_PER_USER is in docs/settings.md."""
    settings = load({}, {"NARTHEX_MAX_CONNECTIONS_PER_USER": "4"})
    assert {plan.connections for plan in settings.plan_table().values()} == {4}


def test_settings_cannot_be_made_without_load() -> None:
    """What was not checked has no policy."""
    from narthex.errors import Bug

    with pytest.raises(Bug):
        _ = Settings().policy


def test_other_programs_variables_count_where_nothing_of_ours_is_set(toml: Path) -> None:
    """LOG_LEVEL and FORWARDED_ALLOW_IPS are set for all of a platform: our file, which is ours, is stronger."""
    both = {"LOG_LEVEL": "WARN", "FORWARDED_ALLOW_IPS": "10.0.0.0/8,127.0.0.1"}
    settings = load({}, both)
    assert (settings.log_level, settings.source("log_level")) == ("warning", "LOG_LEVEL")
    assert settings.proxies.proxied("10.2.3.4")
    assert not settings.proxies.proxied("192.0.2.1")
    toml.write_text('log_level = "debug"\ntrusted_proxies = ["192.0.2.0/24"]\n')
    settings = load({}, both, toml)
    assert settings.log_level == "debug"
    assert not settings.proxies.proxied("10.2.3.4")
    assert load({}, {"LOG_LEVEL": "", "FORWARDED_ALLOW_IPS": ""}).source("log_level") == "default"


def test_trusting_every_client_s_headers_is_for_development() -> None:
    """`FORWARDED_ALLOW_IPS=*`, which images carry, ends a start in staging and production."""
    everywhere = {"FORWARDED_ALLOW_IPS": "*"}
    assert load({}, everywhere).proxies.proxied("203.0.113.9")
    for environment in ("staging", "production"):
        found = problems(
            everywhere | {"ENVIRONMENT": environment, "NARTHEX_ALLOWED_HOSTS": "chat.example.com"}
        )
        assert any(
            "FORWARDED_ALLOW_IPS=*" in problem and "NARTHEX_TRUSTED_PROXIES" in problem for problem in found
        )
        set_too = everywhere | {"ENVIRONMENT": environment, "NARTHEX_TRUSTED_PROXIES": "1"}
        assert load({}, set_too | {"NARTHEX_ALLOWED_HOSTS": "chat.example.com"}).proxies.hops == 1
    assert "FORWARDED_ALLOW_IPS holds 'proxy'" in only(problems({"FORWARDED_ALLOW_IPS": "proxy"}))
    assert "NARTHEX_TRUSTED_PROXIES holds '*'" in only(problems({"NARTHEX_TRUSTED_PROXIES": "*"}))
