"""The span of a handshake, made when it is decided: verdict, carriers, breaker; never a header value, a token, a body.

Not here: the record in the log (`handshake_record.py`). Rules: attributes follow OpenTelemetry's conventions for HTTP
where they have one; the path is the client's text and appears only where it is a route. How far a client's
`traceparent` is believed: its ids are kept, so that its trace finds ours and the other way round; whether the trace
is recorded is decided here, unless the operator says that a proxy sets the header (`NARTHEX_TRUST_TRACEPARENT`). A
refusal is recorded beyond the sampler within a budget, so that the trace id in it usually finds its trace.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from narthex.app.handshake_record import key_of, outcome_of, result_of
from narthex.app.handshake_request import HandshakeRequest
from narthex.domain.admission import Admit, CheckedCredential
from narthex.domain.refusals import TABLE, Refusal
from narthex.domain.traces import carried_trace
from narthex.ports.tracing import Kind, Span, Tracer, Value

SERVER_ERROR: Final = 500


class HandshakeTracer:
    """Begins the traces of clients.

    Args:
        tracer: an enabled one.
        trusted: whether a client's `traceparent` also decides whether the trace is recorded.
        breakers: the breakers that are not closed, each as `dependency: state`, for a class of traffic.
    """

    def __init__(self, tracer: Tracer, *, trusted: bool, breakers: Callable[[str], Sequence[str]]) -> None:
        self._tracer = tracer
        self._trusted = trusted
        self._breakers = breakers

    def decided(
        self,
        result: Admit | Refusal,
        request: HandshakeRequest,
        verdicts: Sequence[CheckedCredential],
        *,
        is_route: Callable[[str], object],
        duration_s: float,
    ) -> Span:
        """The span of a handshake that ends now; spans of its commands go below it. `is_route`: true for known
        paths.
        """
        span = self._tracer.begin(
            "handshake",
            kind="server",
            trace_id=request.trace_id,
            parent=request.parent,
            trusted=self._trusted,
            wanted=isinstance(result, Refusal),
            age_s=duration_s,
        )
        if span.recording:
            attributes = self._attributes(result, request, verdicts)
            if is_route(request.head.path):
                attributes |= {"http.route": request.head.path, "url.path": request.head.path}
            span.set(attributes)
            span.end(error=_error(result))
        return span

    def continued(
        self, carrier: Mapping[str, object], name: str, before: Span, kind: Kind = "server"
    ) -> Span | None:
        """A span in the trace that a client names after the handshake, linked with `before`.

        None: it names no trace, or the one that `before` is in already, which is a later position in it.
        """
        parent, known = carried_trace(carrier), before.context
        if parent is None or (known is not None and known.trace_id == parent.trace_id):
            return None
        links = [] if known is None else [known]
        return self._tracer.begin(name, kind=kind, parent=parent, trusted=self._trusted, links=links)

    def _attributes(
        self,
        result: Admit | Refusal,
        request: HandshakeRequest,
        verdicts: Sequence[CheckedCredential],
    ) -> dict[str, Value]:
        outcome, code = outcome_of(result)
        key_id, algorithm = key_of(verdicts)
        found: dict[str, Value] = {
            "http.request.method": request.head.method or "_OTHER",
            "http.response.status_code": _status(result, request),
            "url.scheme": request.client.scheme,
            "network.protocol.name": "http",
            "client.address": request.client.address,
            "narthex.handshake.outcome": outcome,
            "narthex.handshake.code": code,
            "narthex.handshake.carriers": [one.carrier for one in request.carriers.credentials],
            "narthex.handshake.verdicts": [result_of(checked.verdict) for checked in verdicts],
            "narthex.breaker": self._breakers(request.traffic) or "closed",
        }
        if request.facts.host:
            found["server.address"] = request.facts.host.rpartition(":")[0] or request.facts.host
        if algorithm:
            found |= {"narthex.key_id": key_id, "narthex.algorithm": algorithm}
        identity = None if isinstance(result, Refusal) else result.identity
        if identity is not None:
            found["narthex.identity_class"] = identity.identity_class.value
            if identity.test_run:
                found["narthex.test_run"] = identity.test_run
        return found


def _status(result: Admit | Refusal, request: HandshakeRequest) -> int:
    """The status that the client sees: a refusal that is explained by a close frame has been upgraded before."""
    if isinstance(result, Refusal) and not (request.upgrade and request.carriers.explain):
        return TABLE[result.code].http or 0
    return 101 if request.upgrade else 200


def _error(result: Admit | Refusal) -> str:
    """The code of a refusal that is the server's fault; the client's are no errors of a server's span."""
    return (
        result.code if isinstance(result, Refusal) and (TABLE[result.code].http or 0) >= SERVER_ERROR else ""
    )
