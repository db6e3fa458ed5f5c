"""Keys from settings: every accepted form, every algorithm, and refusals before a port opens."""

from __future__ import annotations

import hmac
import json
import time
import warnings

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from joserfc.jwk import ECKey, Key, OctKey, RSAKey

from narthex.adapters.tokens.assembly import ClaimDefaults, IssuerSpec, Outside, build_router
from narthex.adapters.tokens.breaker import BreakerBoard
from narthex.adapters.tokens.compact import Compact, take_apart
from narthex.adapters.tokens.fetching import Fetcher
from narthex.adapters.tokens.keys import (
    ALGORITHMS,
    MAX_TRIES,
    KeyTable,
    Mac,
    key_from_pem,
    key_from_secret,
    keys_from_text,
)
from narthex.adapters.tokens.router import TokenRouter
from narthex.adapters.tokens.static_keys import StaticKeys
from narthex.adapters.tokens.verification import verify_token
from narthex.domain.verdict import Rejected, Valid
from narthex.errors import ConfigError
from tests.adapters.tokens.issuer import (
    AUDIENCE,
    ISSUER,
    NOW,
    SECRET,
    ec_key,
    ed_key,
    hmac_key,
    hs_token,
    rsa_key,
    rules,
    token,
)
from tests.adapters.tokens.meters import StateMeter

KEYS: dict[str, Key] = {
    **{f"{kind}{size}": rsa_key() for kind in ("RS", "PS") for size in (256, 384, 512)},
    **{f"HS{size}": hmac_key() for size in (256, 384, 512)},
    "ES256": ec_key("P-256"),
    "ES384": ec_key("P-384"),
    "ES512": ec_key("P-521"),
    "EdDSA": ed_key(),
    "Ed25519": ed_key(),
}


def text_of(key: Key, form: str) -> str:
    """A public key in the forms that settings allow."""
    if form == "jwk":
        return json.dumps(key.as_dict(private=False))
    if form == "jwks":
        return json.dumps({"keys": [key.as_dict(private=False)]})
    if form == "private":
        return json.dumps(key.as_dict(private=True))
    assert not isinstance(key, OctKey)
    pem = key.as_pem(private=form == "private pem").decode()
    return pem.replace("\n", "\\n") if form == "one line" else pem


def test_every_algorithm_of_the_design_has_a_key_here() -> None:
    """The table below leaves none out."""
    assert set(KEYS) == set(ALGORITHMS)


@pytest.mark.parametrize("form", ["pem", "private pem", "one line", "jwk", "jwks", "private"])
@pytest.mark.parametrize("algorithm", [name for name in ALGORITHMS if not name.startswith("HS")])
def test_every_asymmetric_algorithm_from_every_form(algorithm: str, form: str) -> None:
    """PEM (also on one line), private or public, JWK and JWK set: verified, and no `kid` is needed."""
    key = KEYS[algorithm]
    source = StaticKeys.from_text(text_of(key, form), rules(algorithms=[algorithm]))
    outcome = TokenRouter([source]).verify(token(key, algorithm), now=NOW, traffic="user")
    assert isinstance(outcome, Valid)
    assert outcome.algorithm == algorithm


@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512"])
def test_every_hmac_from_a_secret(algorithm: str) -> None:
    """A shared secret serves the three of them."""
    source = StaticKeys.from_secret(SECRET, rules())
    outcome = TokenRouter([source]).verify(token(hmac_key(), algorithm), now=NOW, traffic="user")
    assert isinstance(outcome, Valid)


def test_a_key_does_what_its_kind_does_and_no_more() -> None:
    """The algorithms come from the key: a curve serves one, `alg` and `use` narrow it."""
    assert key_from_pem(ec_key("P-384").as_pem(private=False)).algorithms == {"ES384"}
    assert key_from_secret(SECRET).algorithms == {"HS256", "HS384", "HS512"}
    narrow = {**rsa_key().as_dict(private=False), "alg": "PS512"}
    assert keys_from_text(json.dumps(narrow))[0].algorithms == {"PS512"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "{",
        '{"keys": []}',
        '{"kty": "oct"}',
        '{"kty": "RSA", "n": "AQAB", "e": "AQAB"}',
        '{"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"}',
        '{"kty": ["RSA"]}',
        "[" * 5_000,
        "{" * 5_000,
        "-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----",
    ],
)
def test_an_unusable_key_is_a_configuration_error_that_does_not_show_it(text: str) -> None:
    """The error names the fault without the value."""
    with pytest.raises(ConfigError) as caught:
        StaticKeys.from_text(text, rules())
    assert "NARTHEX_JWT_PUBLIC_KEY" in str(caught.value)
    assert len(text) < 6 or text[5:] not in str(caught.value)


def test_weak_and_misplaced_keys_are_refused() -> None:
    """RSA under 2,048 bits; a PEM, certificate or SSH key as a secret; an empty secret."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        small = RSAKey.generate_key(1024).as_pem(private=False).decode()
    with pytest.raises(ConfigError, match="2048"):
        StaticKeys.from_text(small, rules())
    for misplaced in (rsa_key().as_pem(private=False).decode(), "ssh-ed25519 AAAAC3Nz", ""):
        with pytest.raises(ConfigError, match="NARTHEX_JWT_SECRET"):
            StaticKeys.from_secret(misplaced, rules())


def test_algorithms_that_the_key_cannot_do_stop_the_start() -> None:
    """An allow-list that the key cannot serve would refuse every token."""
    with pytest.raises(ConfigError, match="ES256"):
        StaticKeys.from_text(text_of(ec_key(), "pem"), rules(algorithms=["RS256"]))


def test_a_short_secret_works_without_a_warning_of_the_library() -> None:
    """Settings warn with their own text."""
    key = key_from_secret("short")
    assert key.algorithms


def test_the_router_prefers_the_source_that_knows_the_key() -> None:
    """Two sources of one issuer: algorithm and `kid` choose."""
    first = StaticKeys.from_text(text_of(rsa_key(1), "jwk"), rules())
    second = StaticKeys.from_text(text_of(rsa_key(2), "jwk"), rules())
    third = StaticKeys.from_secret(SECRET, rules())
    router = TokenRouter([first, second, third])
    for text in (token(rsa_key(1), "RS256"), token(rsa_key(2), "RS256"), hs_token()):
        assert isinstance(router.verify(text, now=NOW, traffic="user"), Valid)


def test_a_source_without_an_issuer_takes_what_nobody_claims() -> None:
    """Also tokens without an `iss`; tokens of a configured issuer never reach it."""
    claimed = StaticKeys.from_text(text_of(rsa_key(), "jwk"), rules())
    anybody = StaticKeys.from_secret(SECRET, rules(issuer="", audiences=()))
    router = TokenRouter([claimed, anybody])
    for issuer in (..., "https://somebody.example"):
        assert isinstance(router.verify(hs_token(iss=issuer, aud=...), now=NOW, traffic="user"), Valid)
    outcome = router.verify(hs_token(), now=NOW, traffic="user")
    assert isinstance(outcome, Rejected)
    assert outcome.code == "algorithm_not_allowed"


async def test_a_router_with_nothing_says_so() -> None:
    """No issuer: every token has a wrong one, and health is degraded."""
    router = TokenRouter([])
    outcome = router.verify(hs_token(), now=NOW, traffic="user")
    assert isinstance(outcome, Rejected)
    assert outcome.code == "wrong_issuer"
    assert (await router.check()).status == "degraded"


def test_a_table_tries_few_keys_for_a_token_without_a_name() -> None:
    """Each attempt costs CPU; beyond the limit a signature is not called bad, because it may be good."""
    made = [ECKey.generate_key("P-256") for _ in range(MAX_TRIES + 1)]
    keys = [key_from_pem(key.as_pem(private=False)) for key in made]
    few, many = KeyTable(keys[:MAX_TRIES]), KeyTable(keys)
    assert len(few.select("ES256", "")) == len(many.select("ES256", "")) == MAX_TRIES == 16
    assert (few.cut_off("ES256", ""), many.cut_off("ES256", ""), many.cut_off("RS256", "")) == (
        False,
        True,
        False,
    )
    last = take_apart(token(made[-1], "ES256", {}))
    assert isinstance(last, Compact)
    outcomes = [
        verify_token(last, table, rules(algorithms={"ES256"}), NOW)
        for table in (few, many, KeyTable(keys[1:]))
    ]
    assert [getattr(outcome, "code", "valid") for outcome in outcomes] == [
        "token_invalid",
        "unknown_key",
        "valid",
    ]


def outside() -> Outside:
    """For builders; nothing is fetched."""
    meter = StateMeter()
    return Outside(Fetcher(), BreakerBoard(meter, meter.changes.append))


async def test_the_builder_makes_each_source_and_tells_every_problem_at_once() -> None:
    """One description, one source; problems of all issuers are reported together."""
    specs = [
        IssuerSpec(name="a", issuer=ISSUER, audience=(AUDIENCE,), secret=SECRET),
        IssuerSpec(name="b", issuer="https://b.example", public_key=text_of(rsa_key(), "pem")),
        IssuerSpec(name="c", issuer="https://c.example", jwks_url="https://c.example/jwks"),
        IssuerSpec(name="d", discovery="https://d.example"),
        IssuerSpec(name="e", introspection_url="https://e.example/introspect"),
    ]
    router = build_router(specs, ClaimDefaults(), outside())
    assert isinstance(router.verify(hs_token(), now=NOW, traffic="user"), Valid)
    with pytest.raises(ConfigError) as caught:
        build_router(
            [
                IssuerSpec(name="x", secret=text_of(rsa_key(), "pem")),
                IssuerSpec(name="y", public_key="nonsense"),
                IssuerSpec(name="z"),
                IssuerSpec(name="w", secret=SECRET, algorithms=("RS999",)),
                IssuerSpec(name="o1", introspection_url="https://a.example"),
                IssuerSpec(name="o2", introspection_url="https://b.example"),
            ],
            ClaimDefaults(),
            outside(),
        )
    assert len(caught.value.problems) == 5


@given(
    st.one_of(st.binary(max_size=80), st.binary(min_size=120, max_size=200)),
    st.binary(max_size=300),
    st.sampled_from(["sha256", "sha384", "sha512"]),
)
@example(b"k" * 64, b"", "sha256")
@example(b"k" * 65, b"m", "sha256")
@example(b"k" * 128, b"m", "sha512")
@example(b"k" * 129, b"m", "sha384")
def test_the_mac_is_the_standard_librarys(secret: bytes, message: bytes, name: str) -> None:
    """With keys shorter and longer than a block; and one message leaves nothing behind for the next."""
    mac = Mac(secret, name)
    for _ in range(2):
        assert mac.digest(message) == hmac.digest(secret, message, name)


def test_a_key_of_hmac_verifies_its_own_codes_only() -> None:
    """Each algorithm with its own hash; a code that is cut, of another hash or another key is refused."""
    key = key_from_secret(SECRET)
    for algorithm, name in (("HS256", "sha256"), ("HS384", "sha384"), ("HS512", "sha512")):
        code = hmac.digest(SECRET.encode(), b"text", name)
        assert key.verifies(algorithm, b"text", code)
        for wrong in (code[:-1], code + b"x", b"", hmac.digest(b"other", b"text", name)):
            assert not key.verifies(algorithm, b"text", wrong)
    assert not key.verifies("HS512", b"text", hmac.digest(SECRET.encode(), b"text", "sha256"))


def test_a_table_finds_what_a_search_would() -> None:
    """Prepared choices are the keys that serve the algorithm under that name, or without one; else none."""
    keys = [key_from_secret("a" * 32, "one"), key_from_secret("b" * 32, "two"), key_from_secret("c" * 32)]
    table = KeyTable([*keys, *keys_from_text(text_of(ec_key("P-256", "one"), "jwk"))])
    for algorithm in (*ALGORITHMS, "none", ""):
        for kid in ("", "one", "two", "three"):
            expected = [key for key in table.named(kid) if algorithm in key.algorithms]
            assert table.select(algorithm, kid) == expected


@pytest.mark.alone
def test_hs256_costs_little_over_the_signature() -> None:
    """The budget is 25 µs over joserfc's own decode; measured 16 µs in all where joserfc takes 17 (2 cores)."""
    from joserfc import jwt

    text, key = hs_token(), hmac_key()
    router = TokenRouter([StaticKeys.from_secret(SECRET, rules())])

    def best(work: object) -> float:
        assert callable(work)
        rounds = []
        for _ in range(5):
            began = time.perf_counter()
            for _ in range(500):
                work()
            rounds.append((time.perf_counter() - began) / 500)
        return min(rounds)

    ours = best(lambda: router.verify(text, now=NOW, traffic="user"))
    theirs = best(lambda: jwt.decode(text, key, ["HS256"]))
    assert ours < theirs + 25e-6
