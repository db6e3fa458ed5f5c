"""Rules for names, TCP and TLS.

Not here: HTTP.
"""

from __future__ import annotations

from narthex.doctor.diagnosis.findings import Finding, found
from narthex.doctor.knowledge import Sure
from narthex.doctor.observations import Dial, Observations, Tls

_CERTIFICATES = {
    "expired": "certificate_expired",
    "not_yet_valid": "certificate_not_yet_valid",
    "wrong_name": "certificate_name",
    "untrusted": "certificate_untrusted",
}


def host_of(seen: Observations) -> str:
    """The host without its port."""
    return seen.endpoint.rsplit(":", 1)[0].strip("[]")


def unreachable(seen: Observations) -> Finding | None:
    """No name, or no TCP on any address."""
    if not seen.lookup.addresses:
        return found("dns_no_name", host=host_of(seen), error=seen.lookup.error or "no address")
    if any(dial.outcome == "ok" for dial in seen.dials) or not seen.dials:
        return None
    outcomes = {dial.outcome: dial for dial in reversed(seen.dials)}  # the first of each
    if refused := outcomes.get("refused"):
        # Elsewhere a firewall may refuse in the host's name.
        sure: Sure = "certain" if seen.loopback else "likely"
        return found("nothing_listens", endpoint=seen.endpoint, ms=refused.ms, sure=sure)
    if "timeout" in outcomes:
        return found("connect_timeout", endpoint=seen.endpoint, timeout_s=f"{seen.asked.timeout_s:g}")
    return found("host_unreachable", endpoint=seen.endpoint, error=seen.dials[0].detail)


def one_address(seen: Observations) -> Finding | None:
    """Some addresses connect and some do not."""
    good = [dial for dial in seen.dials if dial.outcome == "ok"]
    bad = [dial for dial in seen.dials if dial.outcome != "ok"]
    if not good or not bad:
        return None
    # `localhost` mostly has ::1 and 127.0.0.1; clients fall back at once when one is refused there.
    if seen.loopback and all(dial.outcome == "refused" for dial in bad):
        return None
    return found(
        "one_address_fails", count=len(seen.dials), good=_listed(good), bad=_listed(bad),
        outcome=bad[0].outcome,
    )  # fmt: skip


def tls_fault(seen: Observations, tls: Tls) -> Finding | None:
    """TLS did not come up."""
    host = host_of(seen)
    if tls.outcome == "ok":
        return None
    if tls.outcome in _CERTIFICATES:
        return found(
            _CERTIFICATES[tls.outcome], host=host, not_after=tls.not_after or "a past day",
            names=", ".join(tls.names) or "no name", error=tls.detail, issuer=tls.issuer or "unknown",
        )  # fmt: skip
    if tls.outcome == "not_tls" or seen.other_scheme == "http":
        return found("wss_to_plain_port", endpoint=seen.endpoint)
    if tls.outcome == "alpn":
        return found("speaks_h2", endpoint=seen.endpoint)
    error = tls.detail or ("no answer in time" if tls.outcome == "timeout" else "failed")
    return found("tls_failed", endpoint=seen.endpoint, error=error)


def _listed(dials: list[Dial]) -> str:
    return ", ".join(dial.address for dial in dials)
