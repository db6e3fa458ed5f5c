"""Reads a handshake request: all facts in its head, read once, before any decision.

Not here: the decision (app/handshake). Rules: made once per request; only the client's
address, the trace id and names of carriers are logged.
"""

from __future__ import annotations

import msgspec

from narthex.app.entropy import ENTROPY
from narthex.domain.addresses import ClientAddress, TrustedProxies, client_of
from narthex.domain.admission import HandshakeFacts
from narthex.domain.carriers import ParsedCarriers, admission_headers, parse_carriers
from narthex.domain.identity import PROBE_QUERY
from narthex.domain.origins import claimed_origin, served_to_probes
from narthex.domain.traces import TraceContext, trace_context
from narthex.ports.edge import RequestHead


class HandshakeRequest(msgspec.Struct, kw_only=True):
    """See the module.

    Attributes:
        carriers: its carriers.
        facts: the input of `domain.admission`.
        client: address and scheme.
        trace_id: 32 hex digits: W3C `traceparent`'s, or random.
        parent: the position in the trace that its `traceparent` names; None: it has none.
        fresh_id: 32 random hex digits.
        started_at: monotonic seconds: when the request began.
        deadline: monotonic seconds: when a waiting client is refused because no verdict came.
        head: as received.
        probe: whether it is health's own attempt without a credential, which is local.
        tests: whether test identities are admitted here: elsewhere no client counts as a test.
        upgrade: whether it is a WebSocket's upgrade, and no plain HTTP request.
    """

    carriers: ParsedCarriers
    facts: HandshakeFacts
    client: ClientAddress
    trace_id: str
    parent: TraceContext | None
    fresh_id: str
    started_at: float
    deadline: float
    head: RequestHead
    probe: bool
    tests: bool
    upgrade: bool

    @property
    def local(self) -> bool:
        """Whether it comes from this machine by a loopback name, with no proxy between."""
        return _local(self.head, self.facts.host)

    @property
    def traffic(self) -> str:
        """`e2e` when the client declares itself a test, else `user`: selects the breaker of a needed fetch.

        A request without a credential needs no fetch; it is `probe` when health itself makes it.
        """
        if self.probe:
            return "probe"
        return "e2e" if self.tests and self.carriers.test_run else "user"


def read_request(
    head: RequestHead,
    trusted: TrustedProxies,
    *,
    now: float,
    wait_s: float,
    handshake_timeout_s: float,
    sees_refusal: bool = False,
    upgrade: bool = True,
    tests: bool = True,
) -> HandshakeRequest:
    """Read a head.

    Args:
        head: parsed by the edge.
        trusted: proxies whose forwarding headers count.
        now: monotonic seconds.
        wait_s: the longest wait for keys or store.
        handshake_timeout_s: the longest handshake; whichever of the two ends first is the one deadline.
        sees_refusal: it only asks (preflight, tickets) and gets every refusal with its reason.
        upgrade: it is a WebSocket's upgrade, and no plain HTTP request.
        tests: whether test identities are admitted here.
    """
    headers = admission_headers(head.headers)
    client = client_of(
        head.peer[0],
        head.secure,
        headers.get("x-forwarded-for", ()),
        headers.get("x-forwarded-proto", ()),
        trusted,
    )
    carriers = parse_carriers(headers, head.query, secure=client.scheme == "https")
    hosts = headers.get("host")
    host = hosts[0] if hosts else ""
    origins = headers.get("origin")
    origin = origins[0] if origins else None
    origin = claimed_origin(
        origin, headers.get("sec-fetch-site", ()), scheme=client.scheme, host=host, upgrade=upgrade
    )
    random = ENTROPY.take(32).hex()
    traces = headers.get("traceparent")
    parent = trace_context(traces[0], ",".join(headers.get("tracestate", ()))) if traces else None
    started_at = head.received_at or now
    return HandshakeRequest(
        carriers=carriers,
        facts=HandshakeFacts(
            carriers=carriers,
            origin=origin,
            host=host,
            scheme=client.scheme,
            sees_refusal=sees_refusal or carriers.explain,
            fresh_id=random[:32],
        ),
        client=client,
        trace_id=random[32:] if parent is None else parent.trace_id,
        parent=parent,
        fresh_id=random[:32],
        started_at=started_at,
        deadline=min(now + wait_s, started_at + handshake_timeout_s),
        head=head,
        probe=head.query == PROBE_QUERY and not carriers.credentials and _local(head, host),
        tests=tests,
        upgrade=upgrade,
    )


def _local(head: RequestHead, host: str) -> bool:
    return served_to_probes(host, head.peer[0], (name for name, _ in head.headers))
