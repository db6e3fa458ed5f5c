"""Trust between sources of identities, at the real program: no source can name another's tenant."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from narthex.adapters.tokens.keys import key_from_secret, sign_compact
from tests.acceptance.program import Program, running

pytestmark = pytest.mark.acceptance

STAFF_SECRET = "staff-secret-0123456789abcdef0123456789abcdef"
PARTNERS_SECRET = "partners-secret-0123456789abcdef0123456789"
STAFF = f"""
[[issuers]]
name = "staff"
issuer = "https://staff.example"
secret = "{STAFF_SECRET}"
tenant = "staff"
"""
PARTNERS = f"""
[[issuers]]
name = "partners"
issuer = "https://partners.example"
secret = "{PARTNERS_SECRET}"
"""
BOUND = 'tenants = ["acme", "beta-*"]\n'
STAGING = {"ENVIRONMENT": "staging", "NARTHEX_HOST": "127.0.0.1"}
E2E_KEY = "e2e-key-0123456789abcdef0123456789abcdef"
ADMIN_KEY = "admin-key-0123456789abcdef0123456789"


def signed(secret: str, issuer: str, **claims: Any) -> str:
    """A token of one of the two issuers."""
    now = int(time.time())
    body = {"iss": issuer, "sub": "mallory", "iat": now, "exp": now + 3600} | claims
    body = {name: value for name, value in body.items() if value is not None}
    return sign_compact({"alg": "HS256"}, body, "HS256", key_from_secret(secret).key)


def partner(**claims: Any) -> str:
    """A partner's token."""
    return signed(PARTNERS_SECRET, "https://partners.example", **claims)


def staff(**claims: Any) -> str:
    """A token of staff's own issuer."""
    return signed(STAFF_SECRET, "https://staff.example", **claims)


def bearer(token: str) -> dict[str, str]:
    """The Authorization header."""
    return {"Authorization": f"Bearer {token}"}


def written(directory: Path, text: str) -> Path:
    """A directory with a settings file."""
    (directory / "narthex.toml").write_text(text)
    return directory


@pytest.mark.parametrize("command", ["serve", "check"])
def test_an_ambiguous_configuration_is_refused_and_explained(tmp_path: Path, command: str) -> None:
    """The configuration that the docs once showed: `check` and `serve` exit 78 and name the issuer and its remedy."""
    program = Program(written(tmp_path, STAFF + PARTNERS), STAGING)
    done = program.run(command, *(("--port", "0") if command == "serve" else ()))
    assert done.returncode == 78, done.stderr
    assert "The issuer 'partners' (issuers[1]) may name any tenant" in done.stderr
    assert "issuers[1].tenants" in done.stderr


def test_in_development_an_ambiguous_configuration_is_a_warning(tmp_path: Path) -> None:
    """A developer may try it; `check` reports what staging would refuse."""
    done = Program(written(tmp_path, STAFF + PARTNERS), {}).run("check")
    assert done.returncode == 0, done.stderr
    assert "may name any tenant" in done.stdout


def test_the_embedded_provider_is_a_source(tmp_path: Path) -> None:
    """Users of the settings beside an issuer that may name their tenant: refused too."""
    users = '[[users]]\nemail = "ann@example.com"\npassword_hash = "$argon2id$v=19$m=65536,t=3,p=4$c2FsdA$aGFzaA"\n'
    program = Program(written(tmp_path, PARTNERS + users), STAGING | {"NARTHEX_EMBEDDED_PROVIDER": "on"})
    done = program.run("check")
    assert done.returncode == 78 and "the embedded provider" in done.stderr, done.stderr


async def test_a_partner_cannot_speak_for_staff(tmp_path: Path) -> None:
    """Another's tenant is `tenant_mismatch`; its own and its patterns are admitted; a fixed one stays."""
    async with running(written(tmp_path, STAFF + PARTNERS + BOUND), STAGING) as program:

        async def asked(token: str) -> dict[str, Any]:
            found: dict[str, Any] = (await program.get("/ws/preflight", headers=bearer(token))).json()
            return found

        forged = await asked(partner(tenant="staff", permissions=["admin"]))
        assert forged["code"] == "tenant_mismatch", forged
        for tenant in ("default", "acme2", "e2e", None):
            assert (await asked(partner(tenant=tenant)))["code"] == "tenant_mismatch"
        for tenant in ("acme", "beta-7"):
            assert (await asked(partner(tenant=tenant)))["user"]["tenant"] == tenant
        assert (await asked(staff(tenant="acme")))["user"]["tenant"] == "staff"
        # The purpose of the forgery: a partner's token does not administer staff's users.
        body = {"kind": "subject", "value": "ann", "tenant": "staff"}
        headers = bearer(partner(tenant="acme", permissions=["admin"]))
        answer = await program.post("/api/v1/revoke", json=body, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "tenant_mismatch")


async def test_rights_count_as_far_as_the_settings_allow(tmp_path: Path) -> None:
    """A permission and a plan that the issuer may not give are dropped; the rest of the token counts."""
    allowed = BOUND + 'permissions_allowed = ["chat"]\nplans_allowed = ["free", "early"]\n'
    async with running(written(tmp_path, STAFF + PARTNERS + allowed), STAGING) as program:
        token = partner(tenant="acme", permissions=["chat", "admin", "operator"], plan="enterprise")
        me = (await program.get("/ws/preflight", headers=bearer(token))).json()["user"]
        assert me["plan"] == "free"
        said = program.run("token", "inspect", token, "--data-dir", str(program.directory / "data")).stdout
        assert "Permissions that count here: chat." in said, said
        assert "partners: HMAC secret, iss https://partners.example, for the tenants acme, beta-*" in (
            program.run("check").stdout
        )
        answer = await program.post(
            "/api/v1/disconnect", json={"user": "bob", "tenant": "acme"}, headers=bearer(token)
        )
        assert (answer.status_code, answer.json()["code"]) == (403, "permission_denied")


async def test_a_test_identity_is_one_whoever_issued_it(tmp_path: Path) -> None:
    """An ordinary issuer's `e2e: true` for 30 days with `admin` gives 15 minutes, a test run, and the server's
    permissions.
    """
    env = STAGING | {
        "E2E_OAUTH_SIMULATION_KEY": E2E_KEY,
        "NARTHEX_E2E_PERMISSIONS": "chat",
        "NARTHEX_ADMIN_KEY": ADMIN_KEY,
    }
    async with running(written(tmp_path, STAFF), env) as program:
        claims = {"e2e": True, "permissions": ["admin"], "tenant": "staff"}
        now = int(time.time())
        long_lived = staff(**claims, exp=now + 30 * 86_400)
        me = (await program.get("/ws/preflight", headers=bearer(long_lived))).json()["user"]
        assert (me["tenant"], me["class"]) == ("e2e", "e2e")
        refused = await program.get("/ws/preflight", headers=bearer(staff(**claims, iat=None)))
        assert refused.json()["code"] == "token_invalid"
        old = staff(**claims, iat=now - 1000, exp=now + 30 * 86_400)
        assert (await program.get("/ws/preflight", headers=bearer(old))).json()["code"] == "token_expired"
        body = {"user": "someone", "tenant": "e2e"}
        answer = await program.post("/api/v1/disconnect", json=body, headers=bearer(long_lived))
        assert answer.json()["code"] == "permission_denied"
        results = {"test_run": "somebody-elses", "passed": 1, "failed": 0}
        answer = await program.post("/api/v1/e2e/results", json=results, headers=bearer(long_lived))
        assert answer.json()["code"] == "permission_denied"
