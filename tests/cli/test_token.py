"""`narthex token`, `token inspect`, `keys` and `auth hash`: their output, and that a server would agree."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from narthex.adapters.tokens.compact import Compact, take_apart
from narthex.adapters.tokens.passwords import Argon2Passwords
from narthex.cli.arguments import seconds_of
from narthex.cli.main import run
from narthex.errors import EXIT_CONFIG, EXIT_FINDINGS, EXIT_OK, EXIT_UNREACHABLE, EXIT_USAGE, ClientError
from tests.adapters.tokens.issuer import SECRET


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The flag that names a fresh data directory."""
    monkeypatch.chdir(tmp_path)
    return ["--data-dir", str(tmp_path / "data")]


def printed(capsys: pytest.CaptureFixture[str], words: list[str], code: int = EXIT_OK) -> str:
    """What a command prints on standard output."""
    assert run(words) == code
    return capsys.readouterr().out.strip()


def inspected(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    token: str,
    data: list[str],
    code: int,
) -> dict[str, Any]:
    """The output of `inspect --json` for a token from standard input."""
    monkeypatch.setattr("sys.stdin", io.StringIO(token + "\n"))
    found: dict[str, Any] = json.loads(printed(capsys, ["token", "inspect", "--json", *data], code))
    return found


def test_a_token_is_all_that_is_printed_and_it_would_be_admitted(
    data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first start of a server, in an empty directory, with everything from the options."""
    options = ["--sub", "ada", "--tenant", "acme", "--plan", "mid", "--ttl", "90s", "--permission", "admin"]
    token = printed(capsys, ["token", *options, *data])
    parts = take_apart(token)
    assert isinstance(parts, Compact)
    assert parts.claims["exp"] - parts.claims["iat"] == 90
    found = inspected(capsys, monkeypatch, token, data, EXIT_OK)
    assert (found["admitted"], found["user"], found["plan"]) == (True, "acme/ada", "mid")
    assert found["permissions"] == ["admin"]


def test_another_data_directory_does_not_admit_it(
    data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The keys belong to the directory; the report gives reason and remedy, and never shows a signature."""
    token = printed(capsys, ["token", *data])
    elsewhere = ["--data-dir", str(tmp_path / "elsewhere")]
    found = inspected(capsys, monkeypatch, token, elsewhere, EXIT_FINDINGS)
    assert found["admitted"] is False
    assert found["code"] == "unknown_key"
    assert found["why"]
    assert found["remedy"]
    monkeypatch.setattr("sys.stdin", io.StringIO(f"Bearer {token}"))
    words = printed(capsys, ["token", "inspect", "-", *elsewhere], EXIT_FINDINGS)
    assert "Not admitted here: unknown_key" in words
    assert '"developer"' in words
    assert token.rpartition(".")[2] not in words + json.dumps(found)


@pytest.mark.parametrize("junk", ["", "opaque", "a.b.c", "....", "é"])
def test_anything_can_be_inspected(
    junk: str, data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No input is a bug."""
    assert inspected(capsys, monkeypatch, junk, data, EXIT_FINDINGS)["code"] == "token_malformed"


def test_with_a_secret_and_no_provider_it_signs_with_the_secret(
    data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Issuer, audience and claim names are the configured ones."""
    for name, value in {
        "NARTHEX_JWT_SECRET": SECRET,
        "NARTHEX_JWT_ISSUER": "https://id.example",
        "NARTHEX_JWT_AUDIENCE": "gateway",
        "NARTHEX_CLAIM_TENANT": "app.org",
        "NARTHEX_EMBEDDED_PROVIDER": "off",
    }.items():
        monkeypatch.setenv(name, value)
    token = printed(capsys, ["token", "--tenant", "acme", *data])
    parts = take_apart(token)
    assert isinstance(parts, Compact)
    assert (parts.algorithm, parts.claims["app"]) == ("HS256", {"org": "acme"})
    found = inspected(capsys, monkeypatch, token, data, EXIT_OK)
    assert found["user"] == "acme/developer"


def test_where_nothing_could_be_admitted_it_says_so(
    data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only another issuer counts: a configuration problem with its remedy; and inspect cannot tell."""
    monkeypatch.setenv("NARTHEX_JWKS_URL", "http://127.0.0.1:9/jwks.json")
    token = printed(capsys, ["token", *data])
    monkeypatch.setenv("NARTHEX_EMBEDDED_PROVIDER", "off")
    assert run(["token", *data]) == EXIT_CONFIG
    assert "NARTHEX_EMBEDDED_PROVIDER=on" in capsys.readouterr().err
    found = inspected(capsys, monkeypatch, token, data, EXIT_UNREACHABLE)
    assert found["verdict"] == "unavailable"


@pytest.mark.parametrize(
    "words",
    [
        *(["--ttl", text] for text in ("0", "soon", "9999999d")),
        *(["--tenant", "e2e"], ["--tenant", "a\nb"], ["--sub", ""]),
    ],
)
def test_bad_options_are_said_in_a_sentence(
    words: list[str], data: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """A usage error (exit 2) with a remedy, nothing on standard output."""
    assert run(["token", *words, *data]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "remedy:" in captured.err


def test_an_unknown_plan_is_refused_with_the_known_ones(
    data: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The gateway would silently treat its user as free; a plan of the settings is a known one."""
    assert run(["token", "--plan", "gold", *data]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "'gold'" in captured.err
    assert "guest, free, early, mid, enterprise" in captured.err
    (tmp_path / "narthex.toml").write_text("[plans.gold]\nconnections = 7\n")
    token = printed(capsys, ["token", "--plan", "gold", *data])
    assert inspected(capsys, monkeypatch, token, data, EXIT_OK)["plan"] == "gold"


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["--tenant", "staff"], "the tenant 'staff'"),
        (["--plan", "enterprise"], "the plan 'enterprise'"),
        (["--permission", "chat", "--permission", "admin"], "'admin'"),
    ],
)
def test_what_the_signing_issuer_may_not_say_is_refused(
    words: list[str],
    named: str,
    data: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The gateway would refuse the tenant and silently drop plan and permission."""
    (tmp_path / "narthex.toml").write_text(
        f'embedded_provider = "off"\n[[issuers]]\nname = "partners"\nsecret = "{SECRET}"\n'
        'tenants = ["acme-*", "acme"]\nplans_allowed = ["free", "mid"]\npermissions_allowed = ["chat"]\n'
    )
    given = ["--tenant", "acme", "--plan", "mid", "--permission", "chat"]
    token = printed(capsys, ["token", *given, *data])
    found = inspected(capsys, monkeypatch, token, data, EXIT_OK)
    assert (found["user"], found["plan"], found["permissions"]) == ("acme/developer", "mid", ["chat"])
    tenant = [] if "--tenant" in words else ["--tenant", "acme"]
    assert run(["token", *tenant, *words, *data]) == EXIT_USAGE
    captured = capsys.readouterr()
    assert captured.out == ""
    assert named in captured.err
    assert "partners" in captured.err


@pytest.mark.parametrize(
    ("text", "seconds"), [("90", 90), ("90s", 90), ("15m", 900), ("1h", 3_600), ("7d", 604_800)]
)
def test_lengths_of_time(text: str, seconds: float) -> None:
    """The usual units."""
    assert seconds_of("ttl", text) == seconds
    with pytest.raises(ClientError):
        seconds_of("ttl", text + "x")


def test_keys_are_listed_made_and_rotated_without_private_parts(
    data: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rotation keeps old tokens valid, one with --now ends them."""
    assert json.loads(printed(capsys, ["keys", "list", "--json", *data])) == []
    assert "no keys yet" in printed(capsys, ["keys", "list", *data])
    (first,) = json.loads(printed(capsys, ["keys", "generate", "--json", *data]))
    assert json.loads(printed(capsys, ["keys", "generate", "--json", *data])) == [first]
    assert (first["purpose"], first["algorithm"], first["state"]) == ("provider", "ES256", "signing")
    token = printed(capsys, ["token", *data])
    rotated = json.loads(printed(capsys, ["keys", "rotate", "--algorithm", "EdDSA", "--json", *data]))
    assert [(key["algorithm"], key["state"]) for key in rotated] == [("EdDSA", "next"), ("ES256", "signing")]
    assert inspected(capsys, monkeypatch, token, data, EXIT_OK)["admitted"]
    leaked = json.loads(printed(capsys, ["keys", "rotate", "--now", "--json", *data]))
    assert [key["state"] for key in leaked].count("signing") == 1
    assert [key["state"] for key in leaked].count("retired") == 2
    assert inspected(capsys, monkeypatch, token, data, EXIT_FINDINGS)["code"] == "unknown_key"
    printed(capsys, ["keys", "rotate", "--purpose", "e2e", *data])
    everything = printed(capsys, ["keys", "list", "--json", *data])
    assert '"e2e"' in everything
    assert '"d"' not in everything
    assert "jwk" not in everything


async def test_the_hash_of_a_password_verifies(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From standard input; a short one is refused."""
    import asyncio

    def hashed(text: str) -> tuple[int, str]:
        out = io.StringIO()
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        monkeypatch.setattr("sys.stdout", out)
        return run(["auth", "hash"]), out.getvalue().strip()

    code, encoded = await asyncio.to_thread(hashed, "correct horse\n")
    assert code == EXIT_OK
    assert await Argon2Passwords().verify(encoded, "correct horse")
    assert await asyncio.to_thread(hashed, "short\n") == (EXIT_FINDINGS, "")
