"""Key material: valid keys, their algorithms, the keys that a token is tried with, and wrong signatures."""

from __future__ import annotations

import hashlib
import hmac
import json
from base64 import urlsafe_b64decode

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ed448, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import Key

from narthex.adapters.tokens.keys import (
    ALGORITHMS,
    MAX_KEYS,
    MAX_TRIES,
    KeyTable,
    Mac,
    UnusableKey,
    key_from_jwk,
    key_from_pem,
    key_from_secret,
    keys_from_jwks,
    keys_from_text,
    sign_compact,
    verification_key,
)
from tests.adapters.tokens.issuer import SECRET, ec_key, ed_key, hmac_key, rsa_key

KEYS: dict[str, Key] = {
    **dict.fromkeys(("HS256", "HS384", "HS512"), hmac_key()),
    **dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), rsa_key()),
    **dict.fromkeys(("EdDSA", "Ed25519"), ed_key()),
    **{name: ec_key(f"P-{bits}") for name, bits in (("ES256", 256), ("ES384", 384), ("ES512", 521))},
}


@given(st.binary(max_size=300), st.binary(max_size=100), st.sampled_from(["sha256", "sha384", "sha512"]))
def test_a_code_is_that_of_rfc_2104(secret: bytes, message: bytes, name: str) -> None:
    """As the standard library computes it, for keys that are shorter and longer than a block."""
    assert Mac(secret, name).digest(message) == hmac.new(secret, message, name).digest()


@pytest.mark.parametrize("size", [63, 64, 65, 127, 128, 129])
def test_a_code_with_a_key_of_about_a_block(size: int) -> None:
    """A longer key is hashed first."""
    for name in ("sha256", "sha512"):
        expected = hmac.new(b"k" * size, b"m", name).digest()
        assert Mac(b"k" * size, name).digest(b"m") == expected
        assert hashlib.new(name).block_size in (64, 128)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_signature_is_its_keys_and_no_others(algorithm: str) -> None:
    """Changed, cut or empty it does not verify, and never raises."""
    key = verification_key(KEYS[algorithm])
    head, payload, text = sign_compact({"alg": algorithm}, {"sub": "ann"}, algorithm, KEYS[algorithm]).split(
        "."
    )
    assert json.loads(urlsafe_b64decode(head + "==")) == {"typ": "JWT", "alg": algorithm}
    signed, signature = f"{head}.{payload}".encode(), urlsafe_b64decode(text + "==")
    assert algorithm in key.algorithms
    assert key.verifies(algorithm, signed, signature)
    for wrong in (b"", signature[:-1], signature[:-1] + bytes([signature[-1] ^ 1])):
        assert not key.verifies(algorithm, signed, wrong)
    assert not key.verifies(algorithm, signed + b"x", signature)
    assert SECRET not in repr(key)


@pytest.mark.parametrize(
    ("key", "serves"),
    [
        (hmac_key(), {"HS256", "HS384", "HS512"}),
        (rsa_key(), {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (ec_key("P-256"), {"ES256"}),
        (ec_key("P-384"), {"ES384"}),
        (ec_key("P-521"), {"ES512"}),
        (ed_key(), {"EdDSA", "Ed25519"}),
    ],
)
def test_a_key_serves_the_algorithms_of_its_kind(key: Key, serves: set[str]) -> None:
    """By type and curve: a token cannot choose another."""
    assert verification_key(key).algorithms == serves


@pytest.mark.parametrize(
    ("jwk", "reason"),
    [
        ({"kty": "oct", "k": "c2VjcmV0"}, "symmetric key in a published key set"),
        ({"kty": "none"}, "not oct, RSA, EC or OKP"),
        ({}, "not oct, RSA, EC or OKP"),
        ({"kty": "RSA", "n": "!", "e": "AQAB"}, "no valid JWK"),
        (
            {**ec_key("P-256").as_dict(private=False), "use": "enc"},
            "does not fit any allowed signature algorithm",
        ),
        ({**ec_key("secp256k1").as_dict(private=False)}, "does not fit any allowed signature algorithm"),
    ],
)
def test_what_is_no_usable_key_is_refused_with_the_reason(jwk: dict[str, str], reason: str) -> None:
    """The reason contains no part of it."""
    with pytest.raises(UnusableKey) as caught:
        key_from_jwk(jwk, allow_symmetric=False)
    assert reason.replace("no valid", "not a valid") in str(caught.value)


def test_of_a_private_key_the_public_half_is_kept() -> None:
    """A set that shows private keys by mistake can be verified with, but nothing here can sign with it."""
    private = rsa_key().as_dict(private=True) | {"key_ops": ["sign"]}
    key = key_from_jwk(private, allow_symmetric=False)
    assert (key.kid, key.key.is_private) == ("rsa-1", False)
    assert key_from_jwk({"kty": "oct", "k": "c2VjcmV0"}, allow_symmetric=True).kid == ""


@pytest.mark.parametrize(("bits", "good"), [(2_047, False), (2_048, True)])
def test_an_rsa_key_has_at_least_2048_bits(bits: int, good: bool) -> None:
    """RFC 7518 section 3.3."""
    native = rsa.generate_private_key(65_537, bits)
    pem = native.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if good:
        assert "RS256" in key_from_pem(pem, "k").algorithms
    else:
        with pytest.raises(UnusableKey, match="fewer than 2048 bits"):
            key_from_pem(pem)


def test_pem_of_every_type() -> None:
    """Public and private; types without a JWT algorithm are refused."""
    curve = ed448.Ed448PrivateKey.generate()
    pem = curve.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    assert key_from_pem(pem, "k").kid == "k"
    assert key_from_pem(pem, "k").algorithms == {"EdDSA"}
    for key in (ec_key("P-256"), ed_key()):
        public = key.as_pem(private=False).decode()
        one_line = public.strip().replace("\n", "\\n")
        assert keys_from_text(one_line)[0].algorithms == verification_key(key).algorithms
    other = dsa.generate_private_key(1_024).public_key()
    with pytest.raises(UnusableKey, match="not RSA, EC, Ed25519 or Ed448"):
        key_from_pem(other.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for text, reason in (
        ("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", "not a readable PEM"),
        ("{", "neither PEM nor JSON"),
        ('{"a": ' + "[" * 100_000, "neither PEM nor JSON"),
        ('{"a": 1}', "the member `keys` is missing"),
    ):
        with pytest.raises(UnusableKey, match=reason):
            keys_from_text(text)


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        ("", "empty"),
        ("-----BEGIN PUBLIC KEY-----", "asymmetric"),
        ("ssh-ed25519 AAAA", "asymmetric"),
        ("ecdsa-sha2-nistp256 AAAA", "asymmetric"),
    ],
)
def test_a_secret_is_no_other_key(secret: str, reason: str) -> None:
    """Algorithm confusion: with a public key as the secret every client could sign."""
    with pytest.raises(UnusableKey, match=reason):
        key_from_secret(secret)
    assert key_from_secret("a secret with ssh- and ecdsa-sha2- inside", "k").kid == "k"


def test_a_set_of_keys_has_a_bound_and_names_what_it_leaves_out() -> None:
    """A hundred are read, a hundred and one are refused; a single key is a set of one."""
    good = ec_key("P-256").as_dict(private=False)
    found, skipped = keys_from_jwks({"keys": [good] * (MAX_KEYS - 1) + ["x"]}, allow_symmetric=False)
    assert len(found) == MAX_KEYS - 1
    assert skipped == ["Its `kty` is not oct, RSA, EC or OKP."]
    assert len(keys_from_jwks(good, allow_symmetric=False)[0]) == 1
    with pytest.raises(UnusableKey, match=f"more than {MAX_KEYS} keys"):
        keys_from_jwks({"keys": [good] * (MAX_KEYS + 1)}, allow_symmetric=False)
    with pytest.raises(UnusableKey, match="No key of the set can be used"):
        keys_from_jwks({"keys": []}, allow_symmetric=False)


def test_which_keys_a_token_is_tried_with() -> None:
    """Those with its name, else those without one; a token without a name is tried with all, up to a limit."""
    named, other = (verification_key(ec_key(number=number), f"k{number}") for number in (1, 2))
    nameless = verification_key(ec_key(number=3), "")
    table = KeyTable([named, other, nameless])
    assert len(table) == 3
    assert table.select("ES256", "k1") == [named]
    assert table.select("ES256", "unknown") == [nameless]
    assert table.select("ES256", "") == [named, other, nameless]
    assert table.select("RS256", "k1") == []
    assert (table.knows("k1"), table.knows("unknown"), table.knows("")) == (True, True, True)
    assert not KeyTable([named]).knows("unknown")
    assert KeyTable([named, verification_key(ec_key(number=2), "k1")]).select("ES256", "k1")[1:]
    assert not KeyTable(()).knows("")


@pytest.mark.parametrize("more", [0, 1])
def test_a_token_without_a_name_is_tried_with_so_many_keys(more: int) -> None:
    """Past the limit no signature counts as bad."""
    keys = [verification_key(ec_key(), "") for _ in range(MAX_TRIES + more)]
    table = KeyTable([*keys, verification_key(rsa_key(), "rsa")])
    assert len(table.select("ES256", "")) == MAX_TRIES
    assert table.cut_off("ES256", "") is bool(more)
    assert table.cut_off("RS256", "rsa") is False
    assert table.cut_off("RS256", "") is False
