"""Comparing and naming secrets: the one place that does either.

Not here: where secrets come from (adapters/secrets, settings). Rules: two secrets are compared with
`hmac.compare_digest` and nothing else (tests/security walks the syntax tree for it); a store never keeps a
secret itself when its fingerprint is enough.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Iterator, Sequence
from typing import overload


def _raw(value: str | bytes) -> bytes:
    """UTF-8; lone surrogates (from a mangled environment) are kept apart instead of raising."""
    return value if isinstance(value, bytes) else value.encode("utf-8", "surrogatepass")


def equal(a: str | bytes, b: str | bytes) -> bool:
    """Whether two secrets are the same, in time that does not depend on where they differ.

    A `str` counts as its UTF-8 bytes. The length may be learnt from the time, the content may not
    (`hmac.compare_digest`).
    """
    return hmac.compare_digest(_raw(a), _raw(b))


def any_equal(candidate: str | bytes, live: Sequence[str | bytes]) -> bool:
    """Whether `candidate` is one of `live`. All are compared, so the time does not say which one it was.

    Two keys may be live during a rotation. An empty live key matches nothing: an unset variable must never
    admit a client.
    """
    found = False
    for key in live:
        same = equal(candidate, key)
        found |= same and len(key) > 0
    return found


class LiveSecrets(Sequence[str]):
    """Secrets that may be renewed while the process runs; consumers keep this object and copy nothing from it."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = tuple(secret for secret in secrets if secret)

    def renew(self, secrets: Iterable[str]) -> None:
        """Put these in place of the others."""
        self._secrets = tuple(secret for secret in secrets if secret)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[str, ...]: ...
    def __getitem__(self, index: int | slice) -> str | tuple[str, ...]:
        return self._secrets[index]

    def __len__(self) -> int:
        return len(self._secrets)

    def __repr__(self) -> str:
        return f"LiveSecrets({len(self._secrets)})"


class Lookalikes:
    """Recognises secrets of ours, and slips of the hand in them, without keeping any of them.

    A mistyped or cut-off key is still nearly the key: it must not be sent to an introspection service.
    Of each secret the hashes of all runs of `_RUN` characters are kept (Python's, keyed at random per process), in
    lower case; text that has one of them resembles it. Two random texts of hex digits share such a run about once in
    a million times.
    """

    _RUN = 8

    def __init__(self, secrets: Iterable[str]) -> None:
        self._runs = frozenset(run for secret in secrets for run in self._of(secret))

    def __call__(self, text: str) -> bool:
        """Whether `text` is one of them, part of one, or nearly one."""
        return bool(self._runs) and not self._runs.isdisjoint(self._of(text))

    def _of(self, text: str) -> Iterator[int]:
        lower = text.lower()
        for start in range(max(1, len(lower) - self._RUN + 1)):
            yield hash(lower[start : start + self._RUN])


def fingerprint(secret: str | bytes) -> str:
    """SHA-256 hex of a secret, as store key for what has at least 128 bits of entropy (tickets, tokens).

    Not for passwords: those need argon2id.
    """
    return hashlib.sha256(_raw(secret)).hexdigest()
