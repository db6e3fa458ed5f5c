"""Records authentication decisions: one structured record (docs/design.md#admission), at debug, and the metrics.

Not here: writing records (adapters/telemetry). Rules: exactly these members, `event, outcome, code, environment,
is_testing, is_e2e_testing, carriers (names only), key_id, algorithm, identity_class, test_run, client,
trace_id, duration_ms`; never a header value, a token, a prefix of one, or a body.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol

from narthex.domain.admission import AdmissionPolicy, Admit, CheckedCredential
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.domain.verdict import Rejected, Unavailable, Valid, Verdict
from narthex.ports.telemetry import Meter

Record = Callable[[Mapping[str, object]], None]
"""The writer of records at debug. Must not raise."""


class RefusalList(Protocol):
    """The operators' list of the newest refusals (`app.fleet.refusals`)."""

    def add(
        self,
        refusal: Refusal,
        carriers: tuple[str, ...],
        *,
        user: Identity | None,
        client: str,
        traffic: str,
        trace_id: str,
    ) -> None:
        """Record one."""


MAX_KEY_ID: Final = 64  # it is the client's text until the signature is verified


def outcome_of(result: Admit | Refusal) -> tuple[str, str]:
    """`outcome` and `code`, for the record and for `narthex_handshakes_total`."""
    if isinstance(result, Refusal):
        return "refused", result.code
    return ("inert", result.inert) if result.inert else ("admitted", "ok")


class DecisionRecorder:
    """Counts every decision, and writes its record when records are wanted.

    Args:
        policy: for the record.
        meter: counts.
        record: None when debug is off, so that none is built.
        refusals: gets every refusal, for the operators' list; None: there is no such list.
    """

    def __init__(
        self,
        policy: AdmissionPolicy,
        meter: Meter,
        record: Record | None,
        refusals: RefusalList | None = None,
    ) -> None:
        self._policy = policy
        self._meter = meter
        self._record = record
        self._refusals = refusals

    @property
    def wants_records(self) -> bool:
        """Whether `recorded` writes any record."""
        return self._record is not None

    def extracted(self, verdicts: Sequence[CheckedCredential]) -> None:
        """Count `narthex_credential_extractions_total`, for each verified credential."""
        for checked in verdicts:
            self._meter.credential(checked.carrier, result_of(checked.verdict))

    def counted(self, result: Admit | Refusal, traffic: str, duration_s: float, trace_id: str = "") -> None:
        """Count `narthex_handshakes_total`; `traffic` is the class where no user was identified."""
        identity = None if isinstance(result, Refusal) else result.identity
        if identity is not None:
            traffic = identity.identity_class._value_
        outcome, code = outcome_of(result)
        self._meter.handshake(outcome, code, traffic, duration_s, trace_id)

    def refused(
        self,
        refusal: Refusal,
        carriers: tuple[str, ...],
        verdicts: Sequence[CheckedCredential],
        *,
        client: str,
        traffic: str,
        trace_id: str,
    ) -> None:
        """Show a refusal to operators."""
        if self._refusals is not None:
            self._refusals.add(
                refusal,
                carriers,
                user=user_of(verdicts),
                client=client,
                traffic=traffic,
                trace_id=trace_id,
            )

    def recorded(
        self,
        result: Admit | Refusal,
        carriers: tuple[str, ...],
        verdicts: Sequence[CheckedCredential],
        *,
        client: str,
        trace_id: str,
        duration_s: float,
    ) -> None:
        """Write the record; and beside it the details of a refusal that only the log may contain."""
        if self._record is None:
            return
        key_id, algorithm = key_of(verdicts)
        outcome, code = outcome_of(result)
        identity = None if isinstance(result, Refusal) else result.identity
        self._record(
            {
                "event": "handshake",
                "outcome": outcome,
                "code": code,
                "environment": self._policy.environment.value,
                "is_testing": self._policy.is_testing,
                "is_e2e_testing": self._policy.is_e2e_testing,
                "carriers": list(carriers),
                "key_id": _plain(key_id),
                "algorithm": _plain(algorithm),
                "identity_class": identity.identity_class.value if identity else "",
                "test_run": identity.test_run if identity else "",
                "client": client,
                "trace_id": trace_id,
                "duration_ms": round(duration_s * 1000, 3),
            }
        )
        if isinstance(result, Refusal) and result.log_detail:
            self._record(
                {
                    "event": "refusal_detail",
                    "code": result.code,
                    "log_detail": result.log_detail,
                    "trace_id": trace_id,
                }
            )


def key_of(verdicts: Sequence[CheckedCredential]) -> tuple[str, str]:
    """`key_id` and `algorithm` of the first credential that has any."""
    for checked in verdicts:
        verdict = checked.verdict
        if not isinstance(verdict, Unavailable) and (verdict.key_id or verdict.algorithm):
            return verdict.key_id, verdict.algorithm
    return "", ""


def user_of(verdicts: Sequence[CheckedCredential]) -> Identity | None:
    """The user whom the first credential with a verified signature names, also where it has expired or was revoked."""
    for checked in verdicts:
        verdict = checked.verdict
        if isinstance(verdict, Valid):
            return verdict.identity
        if isinstance(verdict, Rejected) and (found := verdict.expired or verdict.revoked) is not None:
            return found
    return None


def result_of(verdict: Verdict) -> str:
    """The label `result` of `narthex_credential_extractions_total`."""
    if isinstance(verdict, Valid):
        return "valid"
    if isinstance(verdict, Rejected):
        return "expired" if verdict.expired is not None else "rejected"
    return "unavailable"


def _plain(text: str) -> str:
    """One short line of any text that a client wrote into its token's head."""
    return "".join(character for character in text[:MAX_KEY_ID] if character.isprintable())
