"""A guard in front of an upstream, both on loopback: the real edge with an admission that a test chooses."""

from __future__ import annotations

import queue
from typing import Any

from narthex.adapters.edge.edge import Edge
from narthex.adapters.edge.limits import EdgeLimits
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.upstream.dialing import Upstream
from narthex.adapters.edge.upstream.handler import RelayHandler
from narthex.adapters.edge.upstream.heads import HandedOn
from narthex.adapters.edge.upstream.relay import RelayedSocket
from narthex.app.connection_context import ConnectionContext
from narthex.domain.admission import Admit
from narthex.domain.carriers import admission_headers, parse_carriers
from narthex.domain.identity import Identity
from narthex.domain.refusals import Refusal
from narthex.ports.edge import Accept, Decision, Deny, RequestHead
from tests.adapters.edge.harness import TIME_UNIT_S, PathHandler, Running

PATHS = PathHandler.paths | {"/refused"}
SLOTS: Any = None


class Admitted:
    """A receiver that keeps the calls of its relay."""

    def __init__(self, context: ConnectionContext) -> None:
        self.context = context
        self.events: queue.Queue[tuple[Any, ...]] = queue.Queue()
        self.socket: RelayedSocket | None = None

    def opened(self, socket: Any) -> None:
        self.socket = socket
        self.events.put(("opened",))

    def message(self, data: bytes, *, binary: bool) -> None:
        raise AssertionError("a relay passes no messages")

    def writable(self, ready: bool) -> None:
        raise AssertionError("a relay asks nobody")

    def closed(self, code: int, reason: str) -> None:
        self.events.put(("closed", code, reason))

    def next(self) -> tuple[Any, ...]:
        """The next call; fails when none comes."""
        return self.events.get(timeout=TIME_UNIT_S)


class Everyone:
    """An admission that admits alice on every path but `/refused`."""

    def __init__(self) -> None:
        self.admitted: queue.Queue[Admitted] = queue.Queue()

    def decide(self, head: RequestHead) -> Decision:
        if head.path == "/refused":
            return Deny(refusal=Refusal(code="auth_required"), trace_id="t")
        carriers = parse_carriers(admission_headers(head.headers), head.query)
        admit = Admit(
            identity=Identity(subject="alice ü"), subprotocol=carriers.subprotocol, explain=carriers.explain
        )
        receiver = Admitted(ConnectionContext(admit, SLOTS, trace_id="0" * 32, address="192.0.2.7"))
        self.admitted.put(receiver)
        return Accept(receiver=receiver, subprotocol=admit.subprotocol)

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        del refusal, head
        return "t"


class Guarding(Running):
    """A guard in a thread, in front of `port`.

    Args:
        port: the upstream's.
        limits: of the edge.
        loop: a key of `LOOPS`.
        timeout_s: the upstream's.
    """

    def __init__(
        self, port: int, limits: EdgeLimits | None = None, *, loop: str = "uvloop", timeout_s: float = 5.0
    ) -> None:
        super().__init__(limits, loop=loop)
        self.admission = Everyone()
        self.results: queue.Queue[str] = queue.Queue()
        handler = RelayHandler(
            self.admission,
            Upstream("127.0.0.1", port),
            hand_on,
            timeout_s=timeout_s,
            handshake_timeout_s=self.edge.limits.handshake_s,
            result=lambda result, _refusal, _trace: self.results.put(result),
        )
        rules = HeadRules(allowed_host=lambda host: host == "localhost", websocket_paths=PATHS)
        self.edge = handler.edge = Edge(handler, rules=rules, limits=limits)

    def admitted(self) -> Admitted:
        """The receiver of the next admitted connection."""
        return self.admission.admitted.get(timeout=TIME_UNIT_S)


def hand_on(head: RequestHead, context: ConnectionContext) -> HandedOn:
    """All headers but the subprotocols, of which `ours` is the guard's own."""
    offered = ", ".join(head.all("sec-websocket-protocol")).split(", ")
    protocols = [name for name in offered if name not in ("", "jwt-auth", "narthex.explain")]
    headers = [header for header in head.headers if header[0] != "sec-websocket-protocol"]
    if protocols:
        headers.append(("sec-websocket-protocol", ", ".join(protocols)))
    own = [("Narthex-Subject", "alice")]
    return HandedOn(headers, head.query, context.address, context.scheme, protocols, own)
