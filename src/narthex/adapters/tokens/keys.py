"""Verification keys: selects the keys to try for a token, by algorithm and id. joserfc does the cryptography.

Not here: where keys come from. Rules: which algorithms a key serves is decided when it is loaded, from its type
and its own `alg`, never from a token (so HMAC with an asymmetric key cannot happen); symmetric keys never come
from a URL; a key's material never reaches an error.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from base64 import b64decode, urlsafe_b64encode
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Literal, cast

import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from cryptography.x509 import load_der_x509_certificate, load_pem_x509_certificate
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey, import_key
from joserfc.jws import JWSRegistry

from narthex.domain.secrets import equal
from narthex.ports.telemetry import Reading

ALGORITHMS: Final = (
    *("HS256", "HS384", "HS512", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA", "Ed25519"),
)
"""Every algorithm that can be allowed (docs/design.md#admission; `Ed25519` is RFC 9864's name). Never `none`."""

SYMMETRIC: Final = frozenset(ALGORITHMS[:3])
MIN_RSA_BITS: Final = 2048  # RFC 7518 section 3.3
MAX_KEYS: Final = 100  # of one set; the largest public issuers publish about ten
MAX_TRIES: Final = (
    16  # for a token that names no key: each try costs up to 100 µs; large issuers publish about ten
)

_HASHES: Final = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}
_MODELS: Final = {name: JWSRegistry.algorithms[name] for name in ALGORITHMS}


class Mac:
    """HMAC (RFC 2104) with one key and one hash, whose blocks of the key are hashed once and not for each token.

    0.7 µs a token, where OpenSSL's one-shot HMAC takes 1.4 µs, and 5 µs in a server that does other things between.

    Args:
        secret: the key.
        name: of the hash.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: bytes, name: str) -> None:
        size = hashlib.new(name).block_size
        block = (secret if len(secret) <= size else hashlib.new(name, secret).digest()).ljust(size, b"\0")
        self._inner = hashlib.new(name, bytes(byte ^ 0x36 for byte in block))
        self._outer = hashlib.new(name, bytes(byte ^ 0x5C for byte in block))

    def digest(self, message: bytes) -> bytes:
        """The code of a message."""
        inner, outer = self._inner.copy(), self._outer.copy()
        inner.update(message)
        outer.update(inner.digest())
        return outer.digest()


class VerificationKey(msgspec.Struct, frozen=True):
    """One key: its `kid` (empty: it has no name) and the algorithms that it serves."""

    kid: str
    key: Any  # Any: one of joserfc's four key classes; msgspec need not look inside
    algorithms: frozenset[str]
    ends_at: float = 0.0  # of its certificate, seconds since the epoch; 0: it has none
    macs: dict[str, Mac] = {}  # by algorithm, of an HMAC key: the general path takes three times as long

    def __repr__(self) -> str:
        """Without the key."""
        return f"VerificationKey(kid={self.kid!r})"

    def verifies(self, algorithm: str, signing_input: bytes, signature: bytes) -> bool:
        """Whether the signature is this key's. `algorithm` must be one of `algorithms`."""
        mac = self.macs.get(algorithm)
        if mac is not None:
            return equal(mac.digest(signing_input), signature)
        try:
            return _MODELS[algorithm].verify(signing_input, signature, self.key)
        except (JoseError, ValueError):
            return False


def sign_compact(header: dict[str, Any], claims: dict[str, Any], algorithm: str, key: Key) -> str:
    """A compact JWS of `claims` (RFC 7515 section 7.1); `algorithm` is one of `ALGORITHMS`."""
    parts = [
        urlsafe_b64encode(json.dumps(part, separators=(",", ":")).encode()).rstrip(b"=")
        for part in ({"typ": "JWT", **header}, claims)
    ]
    signing_input = b".".join(parts)
    signature = urlsafe_b64encode(_MODELS[algorithm].sign(signing_input, key)).rstrip(b"=")
    return (signing_input + b"." + signature).decode()


class UnusableKey(ValueError):
    """A key that cannot be used; the message says why and holds none of it."""


def verification_key(key: Key, kid: str | None = None) -> VerificationKey:
    """Wrap a joserfc key. Raises UnusableKey when no allowed algorithm can use it."""
    if isinstance(key, RSAKey) and key.public_key.key_size < MIN_RSA_BITS:
        raise UnusableKey(f"An RSA key of fewer than {MIN_RSA_BITS} bits is not accepted.")
    served = set()
    for name, model in _MODELS.items():
        try:
            model.check_key(key)
            key.check_key_op("verify")
        except JoseError:
            continue
        served.add(name)
    if not served:
        raise UnusableKey("The key's type, curve or use does not fit any allowed signature algorithm.")
    macs: dict[str, Mac] = {}
    if isinstance(key, OctKey):
        macs = {algorithm: Mac(key.raw_value, _HASHES[algorithm]) for algorithm in served}
    name = kid if kid is not None else _own_kid(key)
    return VerificationKey(name, key, frozenset(served), macs=macs)


def _own_kid(key: Key) -> str:
    found = key.get("kid")
    return found if isinstance(found, str) else ""


def key_from_secret(secret: str | bytes, kid: str = "") -> VerificationKey:
    """An HMAC key. Raises UnusableKey when it is empty or really a PEM or SSH key (algorithm confusion)."""
    raw = secret.encode() if isinstance(secret, str) else secret
    if not raw:
        raise UnusableKey("The secret is empty.")
    if b"-----BEGIN " in raw or raw.startswith((b"ssh-", b"ecdsa-sha2-")):
        raise UnusableKey("It is an asymmetric key, not a secret.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # short secrets are reported by settings, in words of our own
            return verification_key(OctKey.import_key(raw), kid)
    except (JoseError, ValueError) as error:
        raise UnusableKey("It cannot be used as a secret.") from error


def key_from_pem(pem: str | bytes, kid: str = "") -> VerificationKey:
    """A public key, private key (its public half is used) or certificate in PEM. Raises UnusableKey."""
    raw = pem.encode() if isinstance(pem, str) else pem
    ends_at = 0.0
    try:
        if b"CERTIFICATE" in raw:
            certificate = load_pem_x509_certificate(raw)
            native: object = certificate.public_key()
            ends_at = certificate.not_valid_after_utc.timestamp()
        elif b"PRIVATE" in raw:
            native = load_pem_private_key(raw, password=None).public_key()
        else:
            native = load_pem_public_key(raw)
    except (ValueError, TypeError) as error:
        raise UnusableKey("It is not a readable PEM key or certificate.") from error
    return msgspec.structs.replace(verification_key(_from_native(native), kid), ends_at=ends_at)


def _from_native(native: object) -> Key:
    if isinstance(native, rsa.RSAPublicKey):
        return RSAKey(native, native)
    if isinstance(native, ec.EllipticCurvePublicKey):
        return ECKey(native, native)
    if isinstance(native, ed25519.Ed25519PublicKey | ed448.Ed448PublicKey):
        return OKPKey(native, native)
    raise UnusableKey("Its type is not RSA, EC, Ed25519 or Ed448.")


def key_from_jwk(jwk: Mapping[str, Any], *, allow_symmetric: bool) -> VerificationKey:
    """One JWK (RFC 7517); of a private one the public half is kept. Raises UnusableKey."""
    kind = jwk.get("kty")
    if kind == "oct" and not allow_symmetric:
        raise UnusableKey("A symmetric key in a published key set is not accepted.")
    if kind not in ("oct", "RSA", "EC", "OKP"):  # a tuple: it may be unhashable
        raise UnusableKey("Its `kty` is not oct, RSA, EC or OKP.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # weak keys are refused below, in words of our own
            key = import_key(cast("dict[str, str | list[str]]", dict(jwk)), cast('Literal["oct"]', kind))
            if kind != "oct":
                public = {k: v for k, v in key.as_dict(private=False).items() if k != "key_ops"}
                key = import_key(public, cast('Literal["oct"]', kind))
            return msgspec.structs.replace(verification_key(key), ends_at=_end_of(jwk.get("x5c")))
    except UnusableKey:
        raise
    # joserfc and cryptography raise many kinds for malformed members; all mean the same here
    except Exception as error:
        raise UnusableKey("It is not a valid JWK.") from error


def _end_of(chain: object) -> float:
    """The end of the first certificate of a JWK's `x5c` (RFC 7517 section 4.7); 0.0 when it has no readable one. It
    is for the metrics: the signature is checked with the key, and no certificate is trusted for it.
    """
    if not isinstance(chain, list) or not chain or not isinstance(chain[0], str):
        return 0.0
    try:
        return load_der_x509_certificate(b64decode(chain[0])).not_valid_after_utc.timestamp()
    except ValueError:
        return 0.0


def keys_from_jwks(document: object, *, allow_symmetric: bool) -> tuple[list[VerificationKey], list[str]]:
    """The usable keys of a JWK set (or of a single JWK), and why each other one was left out.

    RFC 7517 section 5: keys that are not understood are ignored, not fatal.

    Raises:
        UnusableKey: it is no JWK set, has more than `MAX_KEYS` keys, or none that can be used.
    """
    if isinstance(document, dict) and "kty" in document:
        document = {"keys": [document]}
    listed = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(listed, list):
        raise UnusableKey("It is not a JWK set: the member `keys` is missing.")
    if len(listed) > MAX_KEYS:
        raise UnusableKey(f"The set has more than {MAX_KEYS} keys.")
    found: list[VerificationKey] = []
    skipped: list[str] = []
    for entry in listed:
        try:
            found.append(
                key_from_jwk(entry if isinstance(entry, dict) else {}, allow_symmetric=allow_symmetric)
            )
        except UnusableKey as error:
            skipped.append(str(error))
    if not found:
        raise UnusableKey("No key of the set can be used. " + " ".join(sorted(set(skipped))))
    return found, skipped


def keys_from_text(text: str) -> list[VerificationKey]:
    """Static keys as settings give them: PEM, a JWK or a JWK set in JSON. Raises UnusableKey."""
    stripped = text.strip()
    if not stripped.startswith("{"):
        return [key_from_pem(stripped.replace("\\n", "\n"))]  # one-line environment variables carry `\n`
    try:
        document = json.loads(stripped)
    except (ValueError, RecursionError) as error:
        raise UnusableKey("It is neither PEM nor JSON.") from error
    return keys_from_jwks(document, allow_symmetric=True)[0]


class KeyTable:
    """An immutable set of keys, indexed for the hot path."""

    def __init__(self, keys: Iterable[VerificationKey]) -> None:
        self.keys = tuple(keys)
        self.algorithms: frozenset[str] = frozenset().union(*(key.algorithms for key in self.keys))
        self._named: dict[str, tuple[VerificationKey, ...]] = {}
        for key in self.keys:
            if key.kid:
                self._named[key.kid] = (*self._named.get(key.kid, ()), key)
        self._unnamed = tuple(key for key in self.keys if not key.kid)
        self._choices = {
            (algorithm, kid): self._choice(algorithm, kid)
            for algorithm in self.algorithms
            for kid in ("", *self._named)
        }

    def __len__(self) -> int:
        return len(self.keys)

    def readings(self, name: str) -> Iterator[Reading]:
        """The earliest end of a key's certificate, for the metrics; none where no key has a certificate."""
        ends = [key.ends_at for key in self.keys if key.ends_at]
        if ends:
            yield "key_expiry_timestamp_seconds", (name,), min(ends)

    def knows(self, kid: str) -> bool:
        """Whether a token that names `kid` (empty: names none) finds a key to try."""
        return bool(self.named(kid))

    def named(self, kid: str) -> tuple[VerificationKey, ...]:
        """Keys to try for `kid`: those of that name, else keys without a name; all when it is empty."""
        if not kid:
            return self.keys
        return self._named.get(kid) or self._unnamed

    def select(self, algorithm: str, kid: str) -> list[VerificationKey]:
        """The keys to try, at most `MAX_TRIES` (`cut_off` says whether there are more). Not to be changed."""
        found = self._choices.get((algorithm, kid))
        return found if found is not None else self._choice(algorithm, kid)

    def cut_off(self, algorithm: str, kid: str) -> bool:
        """Whether more keys could be meant than `select` gives: then no signature is known to be bad."""
        if kid in self._named or len(self.keys) <= MAX_TRIES:
            return False
        return sum(algorithm in key.algorithms for key in self.named(kid)) > MAX_TRIES

    def _choice(self, algorithm: str, kid: str) -> list[VerificationKey]:
        return [key for key in self.named(kid) if algorithm in key.algorithms][:MAX_TRIES]
