"""The forgery matrix against the router, and against PyJWT as a second opinion."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from typing import Any

import jwt as pyjwt
import pytest
from cryptography.exceptions import UnsupportedAlgorithm
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import RSAKey

from narthex.adapters.tokens.compact import looks_like_jwt, nesting, take_apart
from narthex.adapters.tokens.keys import key_from_jwk, verification_key
from narthex.adapters.tokens.router import TokenRouter
from narthex.adapters.tokens.static_keys import StaticKeys
from narthex.domain.refusals import TABLE
from narthex.domain.verdict import Rejected, Valid, Verdict
from tests.adapters.tokens.forgeries import HMAC_ISSUER, OTHER_ISSUER, forgeries, good
from tests.adapters.tokens.issuer import (
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    claims,
    ec_key,
    ed_key,
    raw_token,
    rsa_key,
    rules,
    token,
)

CANARY = "http://127.0.0.1:9/never"  # replaced by the canary's own address where it matters


def router() -> TokenRouter:
    """Three issuers; two of them have a key of the same name."""
    ours = [
        key_from_jwk(key.as_dict(private=False), allow_symmetric=False)
        for key in (rsa_key(), ec_key(), ed_key())
    ]
    theirs = verification_key(RSAKey.import_key({**rsa_key(2).as_dict(private=False), "kid": "rsa-1"}))
    public = ("RS256", "ES256", "EdDSA")
    return TokenRouter(
        [
            StaticKeys(ours, rules(algorithms=public)),
            StaticKeys([theirs], rules(issuer=OTHER_ISSUER, algorithms=public)),
            StaticKeys.from_secret(SECRET, rules(issuer=HMAC_ISSUER, algorithms=("HS256",))),
        ]
    )


def verdict_of(text: str) -> Verdict:
    """The verdict, which must come without waiting."""
    verdict = router().verify(text, now=NOW, traffic="user")
    assert isinstance(verdict, Valid | Rejected)
    return verdict


@pytest.mark.parametrize("name", list(forgeries(CANARY)))
def test_a_forgery_is_refused_with_its_code(name: str) -> None:
    """Each forged token is rejected for good, with the code that says why and no part of it in the reason."""
    build, code = forgeries(CANARY)[name]
    text = build()
    verdict = verdict_of(text)
    assert isinstance(verdict, Rejected)
    assert verdict.code == code, verdict
    assert verdict.code in TABLE
    for part in text.split("."):
        assert len(part) < 8 or part not in verdict.detail + verdict.log_detail


@pytest.mark.parametrize("name", list(good()))
def test_a_good_token_is_admitted(name: str) -> None:
    """The same verifier admits every good token: the matrix refuses for its reasons only."""
    verdict = verdict_of(good()[name]())
    assert isinstance(verdict, Valid), verdict
    assert verdict.identity.subject == "alice"


def test_the_matrix_has_at_least_thirty() -> None:
    """The issue asks for thirty forgeries."""
    assert len(forgeries(CANARY)) >= 30


class _Canary(http.server.BaseHTTPRequestHandler):
    hits: list[str]

    def do_GET(self) -> None:
        self.hits.append(self.path)
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def canary() -> Iterator[tuple[str, list[str]]]:
    """A server that nobody may ask: its URL, and who did."""
    hits: list[str] = []
    handler = type("Canary", (_Canary,), {"hits": hits})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/jwks.json", hits
    server.shutdown()
    thread.join()
    server.server_close()


def test_nothing_that_a_token_names_is_fetched(canary: tuple[str, list[str]]) -> None:
    """The canary that `jku`, `x5u`, `kid` and `iss` name gets no hit."""
    url, hits = canary
    for build, _ in forgeries(url).values():
        verdict_of(build())
    verdict_of(token(rsa_key(), "RS256", iss=url))
    assert hits == []


# -- PyJWT's opinion ---------------------------------------------------------------------------------------


def pyjwt_accepts(text: str) -> bool:
    """Whether PyJWT, told the same rules, accepts the token."""
    try:
        issuer = pyjwt.decode(text, options={"verify_signature": False}).get("iss")
        header = pyjwt.get_unverified_header(text)
        kid = header.get("kid", "")
        keys: list[tuple[str, Any, str]]
        if issuer == ISSUER:
            keys = [
                ("RS256", rsa_key().public_key, "rsa-1"),
                ("ES256", ec_key().public_key, "ec-P-256-1"),
                ("EdDSA", ed_key().public_key, "ed-1"),
            ]
        elif issuer == OTHER_ISSUER:
            keys = [("RS256", rsa_key(2).public_key, "rsa-1")]
        elif issuer == HMAC_ISSUER:
            keys = [("HS256", SECRET, "")]
        else:
            return False
    except (pyjwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError):
        return False
    return any(
        _pyjwt_with(text, issuer, algorithm, key)
        for algorithm, key, name in keys
        if kid in ("", name) or not name
    )


def _pyjwt_with(text: str, issuer: str, algorithm: str, key: Any) -> bool:
    try:
        # PyJWT takes no clock: the moments of the token are shifted to now by freezing its own notion of it
        decoded = pyjwt.decode(
            text,
            key,
            algorithms=[algorithm],
            issuer=issuer,
            audience=AUDIENCE,
            options={
                "require": ["exp", "sub"],
                "verify_exp": False,
                "verify_nbf": False,
                "verify_iat": False,
            },
        )
        return _times_hold(decoded)
    except (pyjwt.PyJWTError, ValueError, TypeError, RecursionError, OverflowError, UnsupportedAlgorithm):
        return False


def _times_hold(decoded: dict[str, Any]) -> bool:
    """PyJWT's own time rules (api_jwt.py: int() of each, `<=` with leeway), at our moment instead of today's."""
    if int(decoded["exp"]) <= NOW - 30:
        return False
    return not any(int(decoded[name]) > NOW + 30 for name in ("nbf", "iat") if name in decoded)


STRICTER = {
    # PyJWT accepts these; docs/design.md#admission does not
    "jku on a good signature", "b64 true, no crit", "typed as a logout token", "exp a string", "exp true",
    "exp in milliseconds", "exp 1e999", "nbf a string", "sub empty", "sub of 256 characters", "sub with a line break",
    "sub half a surrogate", "e2e claimed at an issuer that may not", "e2e as text",
    "tenant e2e without being one", "tenant probe", "tenant with a line break", "tenant in another normal form",
    "subject in another normal form", "subject with a space at its end", "subject of 256 characters",
    "jti of 256 characters", "permissions an object", "9 KB",
    "duplicate claim", "duplicate claim in escapes", "duplicate header member", "deep JSON", "padding",
}  # fmt: skip


@pytest.mark.parametrize("name", list(forgeries(CANARY)))
def test_pyjwt_agrees_or_is_known_to_be_laxer(name: str) -> None:
    """A second implementation refuses too, but for the listed faults that it does not look for."""
    accepted = pyjwt_accepts(forgeries(CANARY)[name][0]())
    assert not accepted or name in STRICTER


@pytest.mark.parametrize("name", list(good()))
def test_pyjwt_admits_the_good_ones(name: str) -> None:
    """What is admitted here is admitted there: nothing is accepted that a second opinion refuses."""
    assert pyjwt_accepts(good()[name]())


_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(int(NOW) - 10**4, int(NOW) + 10**4),
    st.floats(allow_nan=False, allow_infinity=False),
    st.sampled_from([ISSUER, OTHER_ISSUER, AUDIENCE, "alice", "", "e2e", [AUDIENCE], [], {}]),
)


@given(
    changes=st.dictionaries(
        st.sampled_from(["iss", "aud", "sub", "exp", "nbf", "iat", "jti"]), _VALUES, max_size=3
    ),
    header=st.dictionaries(
        st.sampled_from(["kid", "typ", "crit", "jku", "cty", "x5t"]),
        st.sampled_from(["rsa-1", "JWT", "", "ec-P-256-1", "x"]),
        max_size=2,
    ),
)
def test_whatever_is_admitted_pyjwt_admits_too(changes: dict[str, Any], header: dict[str, Any]) -> None:
    """Over random claims and headers: admitted here implies accepted by PyJWT."""
    text = raw_token({"alg": "RS256", "kid": "rsa-1", **header}, {**claims(), **changes}, rsa_key(), "RS256")
    verdict = verdict_of(text)
    assert not isinstance(verdict, Valid) or pyjwt_accepts(text)


@given(st.text(max_size=200) | st.binary(max_size=200).map(lambda raw: raw.decode("latin-1")))
def test_any_text_gets_a_verdict(text: str) -> None:
    """No text raises."""
    assert isinstance(verdict_of(text), Rejected)


@given(
    st.recursive(st.none() | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=20)
)
def test_nesting_counts_as_a_parser_would(value: object) -> None:
    """The linear count of nesting equals the real depth."""
    import json

    def depth(item: object) -> int:
        return 1 + max((depth(child) for child in item), default=0) if isinstance(item, list) else 0

    assert nesting(json.dumps(value).encode()) == depth(value)


def test_nesting_is_linear_in_the_worst_text() -> None:
    """Escaped quotes without an end do not make the count quadratic."""
    assert nesting(b'"' + b'\\"' * 4000) == 0
    assert nesting(b'"\\') == 0
    assert nesting(b"{" * 6000) == 6000


def test_an_opaque_token_is_told_from_a_jwt() -> None:
    """Three base64url parts are a JWT's shape, anything else may be opaque."""
    assert looks_like_jwt("a.b.c")
    assert not looks_like_jwt("2YotnFZFEjr1zCsicMWpAA")
    assert isinstance(take_apart("2YotnFZFEjr1zCsicMWpAA"), Rejected)
