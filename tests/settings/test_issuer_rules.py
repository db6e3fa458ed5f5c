"""Rules of token issuers: one source of keys, fitting algorithms, addresses that cannot be overheard."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.errors import ConfigError
from narthex.settings import describe, load
from narthex.settings.trust import trust_of

SECRET = "s" * 40


def problem(environ: dict[str, str], toml: str = "", directory: Path | None = None) -> str:
    """The one problem of settings that must not load."""
    file = None
    if directory is not None:
        file = directory / "narthex.toml"
        file.write_text(toml)
    with pytest.raises(ConfigError) as caught:
        load({}, environ, file)
    assert len(caught.value.problems) == 1, caught.value.problems
    return caught.value.problems[0]


@pytest.mark.parametrize(
    "environ",
    [
        {"NARTHEX_JWT_SECRET": SECRET},
        {"NARTHEX_JWT_SECRET": SECRET, "NARTHEX_JWT_ALGORITHMS": "HS256,HS512", "NARTHEX_JWT_ISSUER": "me"},
        {"NARTHEX_JWT_PUBLIC_KEY": "-----BEGIN PUBLIC KEY-----", "NARTHEX_JWT_ALGORITHMS": "ES256"},
        {"NARTHEX_JWKS_URL": "https://i.example/jwks", "NARTHEX_OIDC_ISSUER": "https://i.example"},
        {"NARTHEX_OIDC_ISSUER": "https://i.example", "NARTHEX_JWT_AUDIENCE": "chat,api"},
        {"NARTHEX_OIDC_ISSUER": "http://127.0.0.1:9/"},
        {"NARTHEX_JWKS_URL": "http://issuer.internal/jwks", "ENVIRONMENT": "testing"},
    ],
)
def test_sound_issuers_load(environ: dict[str, str]) -> None:
    """Each way to configure an issuer makes one issuer."""
    (issuer,) = load({}, environ).all_issuers()
    assert len(issuer.key_sources()) == 1


@pytest.mark.parametrize(
    ("environ", "named"),
    [
        ({"NARTHEX_JWT_SECRET": SECRET, "NARTHEX_JWKS_URL": "https://i.example/jwks"}, "NARTHEX_JWKS_URL"),
        ({"NARTHEX_JWT_SECRET": SECRET, "NARTHEX_JWT_ALGORITHMS": "RS256"}, "NARTHEX_JWT_ALGORITHMS"),
        ({"NARTHEX_JWT_PUBLIC_KEY": "k", "NARTHEX_JWT_ALGORITHMS": "HS256"}, "NARTHEX_JWT_ALGORITHMS"),
        ({"NARTHEX_JWT_SECRET": SECRET, "NARTHEX_JWT_ALGORITHMS": "none"}, "'none'"),
        ({"NARTHEX_JWT_SECRET": "short", "ENVIRONMENT": "staging"}, "RFC 7518"),
        ({"NARTHEX_JWKS_URL": "http://i.example/jwks", "ENVIRONMENT": "staging"}, "https://"),
        ({"NARTHEX_JWKS_URL": "file:///etc/passwd"}, "https://"),
        ({"NARTHEX_JWKS_URL": "https://[::1/jwks"}, "NARTHEX_JWKS_URL must be an https:// URL"),
        ({"NARTHEX_OIDC_ISSUER": "https://i.example:port"}, "NARTHEX_OIDC_ISSUER must be an https:// URL"),
        ({"NARTHEX_JWT_ISSUER": "me"}, "NARTHEX_JWT_ISSUER is set, but no key is"),
        ({"NARTHEX_INTROSPECTION_URL": "https://i.example/introspect"}, "NARTHEX_INTROSPECTION_CLIENT_ID"),
        (
            {
                "NARTHEX_JWKS_URL": "https://i.example/jwks",
                "NARTHEX_OIDC_ISSUER": "https://i.example",
                "NARTHEX_JWT_ISSUER": "https://other.example",
            },
            "differ",
        ),
    ],
)
def test_unsound_issuers_are_refused(environ: dict[str, str], named: str) -> None:
    """Above all: HMAC with a public key, and keys that an attacker on the path could replace."""
    assert named in problem(environ)


@pytest.mark.parametrize(
    ("toml", "named"),
    [
        ('[[issuers]]\nname = "a"\nissuer = "a"\n', "issuers[0] has no source of keys"),
        (
            '[[issuers]]\nname = "a"\nissuer = "a"\njwks_url = "https://x/j"\ndiscovery = "https://x"\n',
            "issuers[0].jwks_url",
        ),
        (
            '[[issuers]]\nissuer = "a"\njwks_url = "https://x/j"\n[[issuers]]\nissuer = "b"\njwks_url = "https://y/j"\n',
            "2 issuers are called",
        ),
        (
            '[[issuers]]\nname = "a"\njwks_url = "https://x/j"\n[[issuers]]\nname = "b"\nissuer = "b"\njwks_url = "https://y/j"\n',
            "'a' has no `iss`",
        ),
    ],
)
def test_issuers_of_the_file_are_held_to_the_same(toml: str, named: str, tmp_path: Path) -> None:
    """With several, each must have a distinct `iss`."""
    assert named in problem({}, toml, tmp_path)


def test_an_issuer_whose_secret_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    """Not a second one for having no keys."""
    found = problem({}, '[[issuers]]\nname = "a"\nissuer = "a"\nsecret_file = "none"\n', tmp_path)
    assert "issuers[0].secret" in found
    assert "cannot be read" in found


def test_an_empty_list_of_rights_gives_none(tmp_path: Path) -> None:
    """As for `[[issuers]]`: `[]` means nothing, and not everything; an empty variable is not set."""
    file = tmp_path / "narthex.toml"
    file.write_text("jwt_permissions_allowed = []\njwt_plans_allowed = []\n")
    settings = load({}, {"NARTHEX_JWT_SECRET": SECRET}, file)
    (binding,) = trust_of(settings, remote=True).issuers
    assert binding.granted(["chat", "admin"], "default") == ()
    assert not binding.may_plan("enterprise")
    shown = {row.name: row.value for row in describe(settings)}
    assert (shown["jwt_permissions_allowed"], shown["jwt_plans_allowed"]) == ("none", "none")
    unset = load({}, {"NARTHEX_JWT_SECRET": SECRET, "NARTHEX_JWT_PERMISSIONS_ALLOWED": ""})
    (binding,) = trust_of(unset, remote=True).issuers
    assert binding.granted(["chat"], "default") == ("chat",)


def test_a_pattern_is_no_tenant(tmp_path: Path) -> None:
    """`tenant = "acme-*"` would put all users into one tenant with that name."""
    toml = f'[[issuers]]\nissuer = "https://a.example"\nsecret = "{SECRET}"\ntenant = "acme-*"\n'
    assert "issuers[0].tenant is 'acme-*'" in problem({}, toml, tmp_path)


def test_a_user_on_a_plan_that_is_none_is_refused(tmp_path: Path) -> None:
    """The gateway would silently treat the user as `free`; a plan of the file is known."""
    user = '[[users]]\nemail = "ada@example.com"\nplan = "gold"\n'
    found = problem({}, user, tmp_path)
    assert "ada@example.com has plan 'gold'" in found
    assert "guest, free, early, mid, enterprise" in found
    file = tmp_path / "narthex.toml"
    file.write_text(user + "[plans.gold]\nconnections = 7\n")
    assert load({}, {}, file).plan_table()["gold"].connections == 7
