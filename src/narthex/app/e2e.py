"""The end-to-end path: proof of the key, and the record of every admission of a test identity.

Not here: admitting and confining test identities (`domain.admission`), the simulation
exchange (app/exchange). Rules: wrong keys are limited per client address across every surface that takes one,
and a limited address is refused before its key is compared; permissions come from the server's list; a test
identity is admitted only once its admission is recorded.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from narthex.app.attempts import WRONG_KEYS, WRONG_KEYS_WINDOW_S, Attempts
from narthex.domain.addresses import bucket
from narthex.domain.admission import key_proof_identity
from narthex.domain.carriers import E2E_KEY
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.secrets import any_equal
from narthex.domain.verdict import Valid
from narthex.errors import DependencyError
from narthex.ports.store import AuditRecord, Records
from narthex.ports.telemetry import Meter

AUDIT_KIND: Final = "e2e_admission"

_UNRECORDED: Final = Refusal(
    code="auth_unavailable", retry_after_s=1, log_detail="the admission could not be recorded"
)


class KeyProofs:
    """Checks keys, for every surface that takes one.

    Args:
        keys: the live ones; two during a rotation. They may be renewed (`LiveSecrets`).
        permissions: of the identities that a key proves.
        meter: counts wrong and limited ones.
        clock: seconds since the epoch.
        monotonic: seconds, for the limit.
    """

    def __init__(
        self,
        keys: Sequence[str],
        *,
        permissions: tuple[str, ...],
        meter: Meter,
        clock: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keys = keys
        self.permissions = permissions
        self._meter = meter
        self._clock = clock
        self._monotonic = monotonic
        self._wrong = Attempts(WRONG_KEYS, WRONG_KEYS_WINDOW_S)

    @property
    def possible(self) -> bool:
        """Whether there is a live key at all."""
        return any(self._keys)

    def wrong_keys(self) -> int:
        """Addresses with a wrong key lately, of at most `attempts.MAX_ENTRIES`."""
        return len(self._wrong)

    def check(self, candidate: str, address: str) -> Refusal | None:
        """Check a key.

        Args:
            candidate: the header's value, latin-1 decoded as HTTP servers do; empty is a wrong one.
            address: the client's.

        Returns:
            None when it is a live one, else `e2e_key_wrong` or `rate_limited`.
        """
        now = self._monotonic()
        key = bucket(address)
        wait_s = self._wrong.wait_s(key, now)
        if wait_s > 0:
            self._meter.e2e_admission("rate_limited")
            return Refusal(
                code="rate_limited",
                detail="Too many wrong end-to-end keys came from this address.",
                carriers_checked=(E2E_KEY,),
                retry_after_s=max(1, int(wait_s + 1)),
            )
        # Headers are latin-1 text of bytes that were UTF-8 when the key was typed.
        if any_equal(candidate.encode("latin-1", "replace"), self._keys):
            return None
        self._wrong.failed(key, now)
        self._meter.e2e_admission("wrong_key")
        return Refusal(
            code="e2e_key_wrong",
            detail="" if candidate else "X-E2E-Bypass-Key is missing or empty.",
            carriers_checked=(E2E_KEY,),
        )

    def prove(self, candidate: str, *, test_run: str, fresh_id: str, address: str) -> Valid | Refusal:
        """Check a key at the handshake; returns the test identity that it proves."""
        refusal = self.check(candidate, address)
        if refusal is not None:
            return refusal
        return Valid(
            key_proof_identity(
                test_run=test_run, fresh_id=fresh_id, permissions=self.permissions, now=self._clock()
            )
        )


class Admissions:
    """Records admissions of test identities; none is admitted unrecorded."""

    def __init__(self, records: Records, meter: Meter, clock: Callable[[], float] = time.time) -> None:
        self._records = records
        self._meter = meter
        self._clock = clock

    async def record(
        self, identity: Identity, *, surface: str, proof: str, address: str, trace_id: str, wait_s: float
    ) -> Refusal | None:
        """Append an audit record, then count.

        Args:
            identity: the test identity.
            surface: `handshake`, `connect` or `exchange`.
            proof: the carrier's name, or `oidc`.
            address: the client's.
            trace_id: of the request.
            wait_s: the longest wait.

        Returns:
            None once it is durable, or the refusal to answer with.
        """
        detail = {"surface": surface, "proof": proof, "test_run": identity.test_run, "client": address}
        record = AuditRecord(
            at=self._clock(),
            kind=AUDIT_KIND,
            tenant=identity.tenant,
            subject=identity.subject,
            detail=msgspec.json.encode(detail).decode(),
            trace_id=trace_id,
        )
        try:
            async with asyncio.timeout(wait_s):
                await self._records.audit(record)
        except (DependencyError, TimeoutError):
            self._meter.e2e_admission("unrecorded")
            return _UNRECORDED
        self._meter.e2e_admission("admitted")
        return None
