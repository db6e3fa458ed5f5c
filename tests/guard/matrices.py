"""Tables of what a client may bring to a handshake, and the code that each gets from every target of the suite."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Final, NamedTuple

from joserfc.jwk import RSAKey

from tests.adapters.tokens import issuer
from tests.adapters.tokens.forgeries import HMAC_ISSUER, OTHER_ISSUER, forgeries
from tests.adapters.tokens.issuer import AUDIENCE, ISSUER, ec_key, ed_key, rsa_key
from tests.adapters.tokens.issuer import SECRET as ISSUER_SECRET
from tests.guard.cores import token
from tests.guard.targets import Target

KEY: Final = "e2e-simulation-key-0123456789abcdef"
FOREIGN: Final = "another-secret-of-at-least-32-bytes!"
UNPROVEN: Final = frozenset({"auth_required", "token_expired"})
"""Codes of connections that an inert upgrade is for."""

# A header cannot carry these unchanged; HTTP defines what happens to them.
NOT_IN_A_HEADER: Final = frozenset({"empty", "line break at the end", "not ASCII", "white space inside"})
LONGEST: Final = 8000
"""Servers refuse an upgrade with a longer header line by themselves, uvicorn with websockets by silence."""


class Attempt(NamedTuple):
    """One handshake, and the code that refuses it."""

    code: str
    headers: dict[str, str]
    query: str = ""


def bearer(text: str) -> dict[str, str]:
    """An `Authorization` header."""
    return {"Authorization": f"Bearer {text}"}


ATTEMPTS: Final = {
    "no credential": Attempt("auth_required", {}),
    "another secret": Attempt("token_invalid", bearer(token(secret=FOREIGN))),
    "expired": Attempt("token_expired", bearer(token(ttl_s=-100))),
    "no token": Attempt("token_malformed", bearer("not-a-token")),
    "alg none": Attempt(
        "algorithm_not_allowed",
        bearer("eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbm4iLCJleHAiOjk5OTk5OTk5OTl9."),
    ),
    "a claimed identity": Attempt("auth_required", {"Narthex-Subject": "root", "Narthex-Assertion": "x.y.z"}),
    "a foreign page": Attempt("origin_not_allowed", {"Origin": "https://evil.example", **bearer(token())}),
    "a foreign page without a credential": Attempt("origin_not_allowed", {"Origin": "https://evil.example"}),
    "a cookie from nowhere": Attempt("origin_not_allowed", {"Cookie": f"narthex_session={token()}"}),
    "a cookie of a foreign page": Attempt(
        "origin_not_allowed", {"Origin": "https://evil.example", "Cookie": f"narthex_session={token()}"}
    ),
    "two users": Attempt(
        "credential_conflict",
        {"Sec-WebSocket-Protocol": f"jwt-auth, jwt.{token('bob')}", **bearer(token("ann"))},
    ),
    "a wrong key": Attempt("e2e_key_wrong", {"X-E2E-Bypass-Key": "wrong-key-0123456789abcdefghijklmnop"}),
    "a key and a token": Attempt("credential_conflict", {"X-E2E-Bypass-Key": KEY, **bearer(token())}),
    "a forged subprotocol": Attempt(
        "token_invalid", {"Sec-WebSocket-Protocol": f"jwt-auth, jwt.{token(secret=FOREIGN)}"}
    ),
    "a token in the URL": Attempt("credential_in_url", {}, f"?access_token={token()}"),
    "an unknown ticket": Attempt("ticket_invalid", {}, "?ticket=unknown"),
}


async def attempted(target: Target) -> None:
    """Every attempt is refused with its code, and none reaches the application."""
    before = target.reached
    for name, (code, headers, query) in ATTEMPTS.items():
        expected = "upgraded" if target.inert and code in UNPROVEN else code
        assert await target.outcome(headers, query) == expected, name
    assert target.reached == before


async def forged(target: Target, canary: str) -> int:
    """Every forged token is refused with its code, and none reaches the application; returns their number."""
    before, count = target.reached, 0
    for name, (build, code) in forgeries(canary).items():
        if name in NOT_IN_A_HEADER:
            continue
        # Some are refused because of a second's difference, which a slow machine must not turn.
        issuer.NOW = time.time() + (20 if code == "token_not_yet_valid" else 0)
        expected = "upgraded" if target.inert and code == "token_expired" else code
        text = build()
        if len(text) > LONGEST and target.guarded:
            assert await target.preflight(bearer(text)) == code, name
        else:
            assert await target.outcome(bearer(text)) == expected, name
        count += 1
    assert target.reached == before
    return count


def issuers(directory: Path) -> dict[str, str]:
    """The environment of a server that trusts the three issuers of the forgery matrix."""
    ours = json.dumps({"keys": [key.as_dict(private=False) for key in (rsa_key(), ec_key(), ed_key())]})
    theirs = RSAKey.import_key({**rsa_key(2).as_dict(private=False), "kid": "rsa-1"})
    config = directory / "narthex.toml"
    config.write_text(
        f"""
        [[issuers]]
        name = "ours"
        issuer = "{ISSUER}"
        audience = ["{AUDIENCE}"]
        algorithms = ["RS256", "ES256", "EdDSA"]
        public_key = '{ours}'
        [[issuers]]
        name = "theirs"
        issuer = "{OTHER_ISSUER}"
        audience = ["{AUDIENCE}"]
        public_key = '{json.dumps(theirs.as_dict(private=False))}'
        [[issuers]]
        name = "hmac"
        issuer = "{HMAC_ISSUER}"
        audience = ["{AUDIENCE}"]
        secret = "{ISSUER_SECRET}"
        """
    )
    return {"NARTHEX_CONFIG": str(config), "NARTHEX_JWT_SECRET": ""}


class Row(NamedTuple):
    """A row of docs/design.md#environments: health's two members, and the outcome of four handshakes."""

    environ: dict[str, str]
    required: bool
    bypass: bool
    nothing: str
    key: str
    wrong_key: str
    user: str = "upgraded"


_PRODUCTION = {"ENVIRONMENT": "production", "NARTHEX_ALLOWED_HOSTS": "127.0.0.1"}
ROWS: Final = {
    "testing": Row(
        {}, required=False, bypass=False,
        nothing="auth_required", key="e2e_not_allowed_here", wrong_key="e2e_not_allowed_here",
    ),
    "testing, key": Row(
        {"E2E_OAUTH_SIMULATION_KEY": KEY}, required=False, bypass=True,
        nothing="auth_required", key="upgraded", wrong_key="e2e_key_wrong",
    ),
    "staging": Row(
        {"ENVIRONMENT": "staging"}, required=True, bypass=False,
        nothing="auth_required", key="e2e_not_allowed_here", wrong_key="e2e_not_allowed_here",
    ),
    "staging, key": Row(
        {"ENVIRONMENT": "staging", "E2E_OAUTH_SIMULATION_KEY": KEY, "E2E_TEST_ENV": "staging"},
        required=False, bypass=True, nothing="auth_required", key="upgraded", wrong_key="e2e_key_wrong",
    ),
    "staging, variables without a key": Row(
        {"ENVIRONMENT": "staging", "E2E_TEST_ENV": "staging", "E2E_TESTING": "1"}, required=True, bypass=False,
        nothing="auth_required", key="e2e_not_allowed_here", wrong_key="e2e_not_allowed_here",
    ),
    "production": Row(
        _PRODUCTION, required=True, bypass=False,
        nothing="auth_required", key="e2e_not_allowed_here", wrong_key="e2e_not_allowed_here",
    ),
}  # fmt: skip
