"""Faults in a table of narthex.toml are reported in the same style as others, with the key as written there."""

from __future__ import annotations

from pathlib import Path

import pytest

from narthex.errors import ConfigError
from narthex.settings import load


def problems(folder: Path, text: str) -> list[str]:
    """Of a settings file."""
    file = folder / "narthex.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load({}, {}, file)
    return [problem.replace(str(file), "FILE") for problem in caught.value.problems]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            "[plans.gold]\nconections = 3",
            (
                "plans.gold.conections in FILE is not a member of [plans.gold]. Did you mean connections? "
                "Rename or remove it."
            ),
        ),
        (
            "[plans.gold]\nconnections = 0",
            "plans.gold.connections in FILE is 0. Give a whole number from 1 to 100000.",
        ),
        (
            "[plans.gold]\nconnections = 'many'",
            "plans.gold.connections in FILE is 'many'. Give a whole number from 1 to 100000.",
        ),
        ("[plans]\ngold = 3", "plans.gold in FILE is no table. Write its members below [plans.gold]."),
        ("plans = [1]", "plans in FILE is not [plans.NAME] tables. See docs/settings.md."),
        ("[[users]]\nname = 'x'", "users[0].email in FILE is missing. Every [[users]] needs it."),
        ("[[users]]\nemail = 'nobody'", "users[0].email in FILE is 'nobody'. Give an e-mail address."),
        (
            "[[users]]\nemail = 'a@b'\npermissions = 7",
            "users[0].permissions in FILE is 7. Give a list of texts.",
        ),
        (
            "[[users]]\nemail = 'a@b'\npassword_hash = 4",
            "users[0].password_hash in FILE is wrong. Give a text.",
        ),
        ("users = 5", "users in FILE is not a list of tables: write [[users]]. See docs/settings.md."),
        (
            "issuers = 'x'",
            "issuers in FILE is not a list of tables: write [[issuers]]. See docs/settings.md.",
        ),
        (
            "[[issuers]]\nsecret = 'x'\nclaims = { tenat = 'x' }",
            (
                "issuers[0].claims.tenat in FILE is not a member of [[issuers]].claims. Did you mean tenant? "
                "Rename or remove it."
            ),
        ),
    ],
)
def test_a_wrong_member_is_named_with_what_it_takes(text: str, problem: str, tmp_path: Path) -> None:
    """Never pydantic's own sentence; one for each mistake."""
    found = problems(tmp_path, text)
    assert problem in found
    assert not [line for line in found if "input should" in line.lower() or "pydantic" in line]


def test_a_choice_is_taken_in_any_case() -> None:
    """`DEBUG` is what other programs write."""
    found = load({}, {"NARTHEX_LOG_LEVEL": "DEBUG", "NARTHEX_LOG_FORMAT": "Json"})
    assert (found.log_level, found.log_format) == ("debug", "json")


@pytest.mark.parametrize("environment", ["development", "testing"])
def test_short_secrets_are_warned_of_where_they_still_work(environment: str, tmp_path: Path) -> None:
    """The warning comes before a deploy to staging or production, which refuse them."""
    file = tmp_path / "narthex.toml"
    file.write_text("[[issuers]]\nname = 'b'\nissuer = 'https://b.example'\nsecret = 'short-too'\n")
    environ = {
        "ENVIRONMENT": environment,
        "NARTHEX_JWT_SECRET": "short",
        "NARTHEX_JWT_ISSUER": "https://a.example",
        "NARTHEX_ADMIN_KEY": "short-key",
        "NARTHEX_METRICS_TOKEN": "short",
        "E2E_OAUTH_SIMULATION_KEY": "a-short-key",
    }
    warnings = "\n".join(load({}, environ, file).warnings)
    for text in (
        "NARTHEX_JWT_SECRET has 5 bytes",
        "issuers[0].secret has 9 bytes",
        "NARTHEX_ADMIN_KEY is shorter",
        "NARTHEX_METRICS_TOKEN is shorter",
        "The end-to-end key has 11 characters",
    ):
        assert text in warnings
    assert "short-too" not in warnings
