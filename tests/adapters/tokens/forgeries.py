"""The forgery matrix: named tokens that must be refused, each with the code that says why, and good ones.

Used by the verifier's own tests and by the tests of a running gateway.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any, Final

from joserfc.jwk import OctKey, RSAKey

from tests.adapters.tokens import issuer
from tests.adapters.tokens.issuer import (
    ISSUER,
    claims,
    ec_key,
    ed_key,
    encoded,
    hs_token,
    raw_token,
    rsa_key,
    token,
)

OTHER_ISSUER: Final = "https://other.example"
HMAC_ISSUER: Final = "https://hmac.example"


def _unsigned(algorithm: str) -> str:
    return f"{encoded({'alg': algorithm, 'typ': 'JWT'})}.{encoded(claims())}."


def _hmac_with(secret: bytes, header: dict[str, Any], **changes: Any) -> str:
    signing_input = f"{encoded(header)}.{encoded(claims(**changes))}"
    return f"{signing_input}.{encoded(hmac.new(secret, signing_input.encode(), hashlib.sha256).digest())}"


def _public_pem() -> bytes:
    return rsa_key().as_pem(private=False)


def _other_kid_owner() -> RSAKey:
    """The other issuer's key under the kid that the first issuer uses too."""
    return RSAKey.import_key({**rsa_key(2).as_dict(private=True), "kid": "rsa-1"})


def _attacker_key() -> RSAKey:
    return RSAKey.import_key({**rsa_key(3).as_dict(private=True), "kid": "rsa-1"})


def _flip_last(text: str) -> str:
    head, _, signature = text.rpartition(".")
    flipped = ("A" if signature[0] != "A" else "B") + signature[1:]
    return f"{head}.{flipped}"


def _payload_swapped() -> str:
    header, _, signature = token(rsa_key(), "RS256").split(".")
    return f"{header}.{encoded(claims(sub='admin'))}.{signature}"


def _json_claims(text: str) -> str:
    return raw_token({"alg": "RS256", "kid": "rsa-1"}, text.encode(), rsa_key(), "RS256")


def _with_claim_text(extra: str) -> str:
    return _json_claims(json.dumps(claims())[:-1] + "," + extra + "}")


def forgeries(canary_url: str) -> dict[str, tuple[Callable[[], str], str]]:
    """Name → (token, expected code). `canary_url` is used wherever a token may name an address."""
    rsa, ec, ed = rsa_key(), ec_key(), ed_key()
    jwk = _attacker_key().as_dict(private=False)
    deep = "[" * 500 + "]" * 500
    return {
        # no signature
        "alg none": (lambda: _unsigned("none"), "algorithm_not_allowed"),
        "alg nOnE": (lambda: _unsigned("nOnE"), "algorithm_not_allowed"),
        "alg NONE": (lambda: _unsigned("NONE"), "algorithm_not_allowed"),
        "alg empty": (lambda: _unsigned(""), "token_malformed"),
        "alg RS256, empty signature": (lambda: token(rsa, "RS256").rpartition(".")[0] + ".", "token_invalid"),
        # algorithm confusion
        "HS256 with the public PEM": (
            lambda: _hmac_with(_public_pem(), {"alg": "HS256", "kid": "rsa-1"}),
            "algorithm_not_allowed",
        ),
        "HS256 with the public PEM, no kid": (
            lambda: _hmac_with(_public_pem(), {"alg": "HS256"}),
            "algorithm_not_allowed",
        ),
        "HS256 with the EC key's JWK": (
            lambda: _hmac_with(
                json.dumps(ec.as_dict(private=False)).encode(), {"alg": "HS256", "kid": "ec-P-256-1"}
            ),
            "algorithm_not_allowed",
        ),
        "RS256 at the HMAC issuer": (
            lambda: token(rsa, "RS256", iss=HMAC_ISSUER),
            "algorithm_not_allowed",
        ),
        "RS512 where only RS256 is allowed": (lambda: token(rsa, "RS512"), "algorithm_not_allowed"),
        "ES256 naming the RSA key": (
            lambda: token(ec, "ES256", {"kid": "rsa-1"}),
            "algorithm_not_allowed",
        ),
        "unknown algorithm": (
            lambda: raw_token({"alg": "XX999", "kid": "rsa-1"}, claims(), rsa, "RS256"),
            "algorithm_not_allowed",
        ),
        "alg is a list": (lambda: raw_token({"alg": ["RS256"]}, claims(), rsa, "RS256"), "token_malformed"),
        # headers that bring or name keys, or change the rules
        "jku": (lambda: token(_attacker_key(), "RS256", {"jku": canary_url}), "token_invalid"),
        "x5u": (lambda: token(_attacker_key(), "RS256", {"x5u": canary_url}), "token_invalid"),
        "jwk": (lambda: token(_attacker_key(), "RS256", {"jwk": jwk}), "token_invalid"),
        "jku on a good signature": (lambda: token(rsa, "RS256", {"jku": canary_url}), "token_invalid"),
        "crit unknown": (lambda: token(rsa, "RS256", {"crit": ["exp"], "exp": 1}), "token_invalid"),
        "crit empty": (lambda: token(rsa, "RS256", {"crit": []}), "token_invalid"),
        "b64 false": (lambda: token(rsa, "RS256", {"b64": False, "crit": ["b64"]}), "token_invalid"),
        "b64 true, no crit": (lambda: token(rsa, "RS256", {"b64": True}), "token_invalid"),
        "typed as a logout token": (lambda: token(rsa, "RS256", {"typ": "logout+jwt"}), "token_invalid"),
        # kid tricks
        "unknown kid": (lambda: token(rsa, "RS256", {"kid": "nobody"}), "unknown_key"),
        "kid is a path": (lambda: token(rsa, "RS256", {"kid": "../../dev/null"}), "unknown_key"),
        "kid is SQL": (lambda: token(rsa, "RS256", {"kid": "' OR 1=1 --"}), "unknown_key"),
        "kid is a URL": (lambda: token(rsa, "RS256", {"kid": canary_url}), "unknown_key"),
        "kid is a number": (lambda: token(rsa, "RS256", {"kid": 1}), "token_malformed"),
        "kid with a line break": (lambda: token(rsa, "RS256", {"kid": "a\nlevel=error"}), "token_malformed"),
        "kid of 300 characters": (lambda: token(rsa, "RS256", {"kid": "k" * 300}), "token_malformed"),
        "two issuers, one kid: the other's key": (
            lambda: token(_other_kid_owner(), "RS256"),
            "token_invalid",
        ),
        "two issuers, one kid: our key, their name": (
            lambda: token(rsa, "RS256", iss=OTHER_ISSUER),
            "token_invalid",
        ),
        # signatures
        "somebody's key under our kid": (lambda: token(_attacker_key(), "RS256"), "token_invalid"),
        "one bit of the signature": (lambda: _flip_last(token(rsa, "RS256")), "token_invalid"),
        "payload swapped": (_payload_swapped, "token_invalid"),
        "ES256 signature in DER": (
            lambda: token(ec, "ES256").rpartition(".")[0] + "." + encoded(b"\x30\x44" + bytes(68)),
            "token_invalid",
        ),
        "ES256 signature of zeros": (
            lambda: token(ec, "ES256").rpartition(".")[0] + "." + encoded(bytes(64)),
            "token_invalid",
        ),
        "EdDSA signature cut short": (
            lambda: token(ed, "EdDSA").rpartition(".")[0] + "." + encoded(bytes(32)),
            "token_invalid",
        ),
        "wrong HMAC secret": (
            lambda: token(OctKey.import_key("x" * 40), "HS256", iss=HMAC_ISSUER),
            "token_invalid",
        ),
        "empty HMAC secret": (lambda: _hmac_with(b"\0", {"alg": "HS256"}, iss=HMAC_ISSUER), "token_invalid"),
        # times
        "no exp": (lambda: token(rsa, "RS256", exp=...), "token_invalid"),
        "exp null": (lambda: token(rsa, "RS256", exp=None), "token_invalid"),
        "exp a string": (lambda: token(rsa, "RS256", exp=str(int(issuer.NOW) + 600)), "token_invalid"),
        "exp true": (lambda: token(rsa, "RS256", exp=True), "token_invalid"),
        "exp in milliseconds": (
            lambda: token(rsa, "RS256", exp=int(issuer.NOW + 600) * 1000),
            "token_invalid",
        ),
        "exp negative": (lambda: token(rsa, "RS256", exp=-1), "token_invalid"),
        "exp 1e999": (
            lambda: _json_claims(json.dumps(claims(exp=...))[:-1] + ',"exp":1e999}'),
            "token_invalid",
        ),
        "exp NaN": (
            lambda: _json_claims(json.dumps(claims(exp=...))[:-1] + ',"exp":NaN}'),
            "token_malformed",
        ),
        "exp of 5,000 digits": (
            lambda: _json_claims(json.dumps(claims(exp=...))[:-1] + ',"exp":' + "9" * 5000 + "}"),
            "token_malformed",
        ),
        "expired beyond leeway": (lambda: token(rsa, "RS256", exp=int(issuer.NOW) - 31), "token_expired"),
        "nbf beyond leeway": (lambda: token(rsa, "RS256", nbf=int(issuer.NOW) + 31), "token_not_yet_valid"),
        "nbf a string": (lambda: token(rsa, "RS256", nbf="1"), "token_invalid"),
        "iat in the future": (lambda: token(rsa, "RS256", iat=int(issuer.NOW) + 31), "token_not_yet_valid"),
        # names
        "wrong iss": (lambda: token(rsa, "RS256", iss="https://evil.example"), "wrong_issuer"),
        "no iss": (lambda: token(rsa, "RS256", iss=...), "wrong_issuer"),
        "iss a list": (lambda: token(rsa, "RS256", iss=[ISSUER]), "wrong_issuer"),
        "iss with a slash more": (lambda: token(rsa, "RS256", iss=ISSUER + "/"), "wrong_issuer"),
        "iss in capitals": (lambda: token(rsa, "RS256", iss=ISSUER.upper()), "wrong_issuer"),
        "wrong aud": (lambda: token(rsa, "RS256", aud="somebody-else"), "wrong_audience"),
        "no aud": (lambda: token(rsa, "RS256", aud=...), "wrong_audience"),
        "aud a number": (lambda: token(rsa, "RS256", aud=1), "wrong_audience"),
        "aud a part of ours": (lambda: token(rsa, "RS256", aud="narthex"), "wrong_audience"),
        "no sub": (lambda: token(rsa, "RS256", sub=...), "token_invalid"),
        "sub empty": (lambda: token(rsa, "RS256", sub=""), "token_invalid"),
        "sub a number": (lambda: token(rsa, "RS256", sub=1), "token_invalid"),
        "sub of 256 characters": (lambda: token(rsa, "RS256", sub="a" * 256), "token_invalid"),
        "sub with a line break": (lambda: token(rsa, "RS256", sub="a\nb"), "token_invalid"),
        "sub half a surrogate": (
            lambda: _json_claims(json.dumps(claims(sub=...))[:-1] + ',"sub":"\\ud800"}'),
            "token_invalid",
        ),
        # what a user must not claim
        "e2e claimed at an issuer that may not": (
            lambda: token(rsa, "RS256", e2e=True),
            "e2e_not_allowed_here",
        ),
        "e2e as text": (lambda: token(rsa, "RS256", e2e="true"), "token_invalid"),
        "the e2e issuer, not registered": (
            lambda: token(rsa, "RS256", iss="narthex-e2e"),
            "e2e_not_allowed_here",
        ),
        "tenant e2e without being one": (lambda: token(rsa, "RS256", tenant="e2e"), "tenant_mismatch"),
        "tenant probe": (lambda: token(rsa, "RS256", tenant="probe"), "tenant_mismatch"),
        "tenant with a line break": (lambda: token(rsa, "RS256", tenant="a\nb"), "token_invalid"),
        "tenant in another normal form": (
            lambda: token(rsa, "RS256", tenant="caf\u0065\u0301"),
            "token_invalid",
        ),
        "subject in another normal form": (
            lambda: token(rsa, "RS256", sub="caf\u0065\u0301"),
            "token_invalid",
        ),
        "subject with a space at its end": (lambda: token(rsa, "RS256", sub="ann "), "token_invalid"),
        "subject of 256 characters": (lambda: token(rsa, "RS256", sub="x" * 256), "token_invalid"),
        "jti of 256 characters": (lambda: token(rsa, "RS256", jti="x" * 256), "token_invalid"),
        "permissions an object": (lambda: token(rsa, "RS256", permissions={"admin": 1}), "token_invalid"),
        # form
        "9 KB": (lambda: token(rsa, "RS256", pad="x" * 9000), "token_malformed"),
        "duplicate claim": (lambda: _with_claim_text('"sub":"admin"'), "token_malformed"),
        "duplicate claim in escapes": (lambda: _with_claim_text('"s\\u0075b":"admin"'), "token_malformed"),
        "duplicate header member": (
            lambda: raw_token(b'{"alg":"none","kid":"rsa-1","alg":"RS256"}', claims(), rsa, "RS256"),
            "token_malformed",
        ),
        "deep JSON": (lambda: _with_claim_text(f'"deep":{deep}'), "token_malformed"),
        "very deep JSON": (lambda: _json_claims("[" * 5000), "token_malformed"),
        "claims a list": (lambda: _json_claims("[1]"), "token_malformed"),
        "claims not JSON": (lambda: _json_claims("hello"), "token_malformed"),
        "claims not UTF-8": (
            lambda: raw_token({"alg": "RS256", "kid": "rsa-1"}, b'{"sub":"\xff"}', rsa, "RS256"),
            "token_malformed",
        ),
        "header not JSON": (lambda: raw_token(b"{", claims(), rsa, "RS256"), "token_malformed"),
        "two parts": (lambda: token(rsa, "RS256").rpartition(".")[0], "token_malformed"),
        "four parts": (lambda: token(rsa, "RS256") + ".x", "token_malformed"),
        "five parts (encrypted)": (lambda: "a.b.c.d.e", "token_malformed"),
        "padding": (lambda: token(rsa, "RS256") + "==", "token_malformed"),
        "standard base64": (lambda: "+/+/." + token(rsa, "RS256").partition(".")[2], "token_malformed"),
        "white space inside": (lambda: token(rsa, "RS256").replace(".", ". ", 1), "token_malformed"),
        "line break at the end": (lambda: token(rsa, "RS256") + "\n", "token_malformed"),
        "empty": (lambda: "", "token_malformed"),
        "two dots": (lambda: "..", "token_malformed"),
        "not ASCII": (lambda: token(rsa, "RS256").replace("e", "é", 1), "token_malformed"),
        "one character part": (lambda: "a." + token(rsa, "RS256").partition(".")[2], "token_malformed"),
    }


def good() -> dict[str, Callable[[], str]]:
    """Tokens that must be admitted by the same verifier."""
    return {
        "RS256": lambda: token(rsa_key(), "RS256"),
        "ES256": lambda: token(ec_key(), "ES256"),
        "EdDSA": lambda: token(ed_key(), "EdDSA"),
        "no kid": lambda: raw_token({"alg": "RS256"}, claims(), rsa_key(), "RS256"),
        "at+jwt": lambda: token(rsa_key(), "RS256", {"typ": "at+jwt"}),
        "aud in a list": lambda: token(rsa_key(), "RS256", aud=["x", "narthex-tests"]),
        "expired within leeway": lambda: token(rsa_key(), "RS256", exp=int(issuer.NOW) - 29),
        "nbf within leeway": lambda: token(rsa_key(), "RS256", nbf=int(issuer.NOW) + 29),
        "exp a float": lambda: token(rsa_key(), "RS256", exp=issuer.NOW + 600.5),
        "no iat": lambda: token(rsa_key(), "RS256", iat=...),
        "deep enough": lambda: _with_claim_text('"deep":' + "[" * 20 + "]" * 20),
        "the other issuer": lambda: token(_other_kid_owner(), "RS256", iss=OTHER_ISSUER),
        "the HMAC issuer": lambda: hs_token(iss=HMAC_ISSUER),
        "the largest that fits": lambda: token(rsa_key(), "RS256", pad="x" * 5000),
    }
