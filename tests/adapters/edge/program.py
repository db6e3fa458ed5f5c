"""The edge as a program of its own, for tests that measure or kill it: `python -m tests.adapters.edge.program`.

Prints one JSON line `{"port": …, "pid": …}`; drains for `DRAIN_S` seconds (environment) on SIGTERM.
"""

from __future__ import annotations

import asyncio
import json
import os

from narthex.adapters.edge import server as server_module
from narthex.adapters.edge.edge import Edge
from narthex.adapters.edge.limits import EdgeLimits, MessageLimits
from narthex.adapters.edge.listeners import listen
from narthex.adapters.edge.rules import HeadRules
from narthex.adapters.edge.server import EdgeServer, run
from narthex.domain.refusals import Refusal
from narthex.ports.edge import Accept, Decision, Deny, RequestHead, Socket
from tests.adapters.edge.harness import PathHandler, echo_app


class Silent:
    """A receiver that keeps nothing."""

    def opened(self, socket: Socket) -> None: ...

    def message(self, data: bytes, *, binary: bool) -> None: ...

    def writable(self, ready: bool) -> None: ...

    def closed(self, code: int, reason: str) -> None: ...


class DrainingHandler(PathHandler):
    """Refuses with `draining` once told to; `/ws` accepts messages and keeps none."""

    draining = False

    def decide(self, head: RequestHead) -> Decision:
        if self.draining:
            return Deny(refusal=Refusal(code="draining", retry_after_s=1), trace_id="t")
        if head.path == "/ws":
            return Accept(receiver=Silent())
        decision = super().decide(head)
        assert isinstance(decision, Accept | Deny)
        return decision

    def refused_early(self, refusal: Refusal, head: RequestHead | None) -> str:
        return "trace-0"


def main() -> None:
    handler = DrainingHandler()
    rules = HeadRules(allowed_host=lambda _: True, websocket_paths=PathHandler.paths)
    deflate = os.environ.get("DEFLATE") == "1"
    handshake_s = float(os.environ.get("HANDSHAKE_S", "10"))
    limits = EdgeLimits(handshake_s=handshake_s, app=MessageLimits(deflate=deflate))
    edge = Edge(handler, rules=rules, limits=limits)

    async def drain() -> None:
        handler.draining = True
        print(json.dumps({"draining": True}), flush=True)
        await asyncio.sleep(float(os.environ.get("DRAIN_S", "0")))

    def started(urls: list[str]) -> None:
        print(json.dumps({"port": int(urls[0].rsplit(":", 1)[1]), "pid": os.getpid()}), flush=True)

    async def serve() -> bool:
        server = EdgeServer(echo_app, edge, drain=drain, on_started=started, grace_s=8, lifespan="off")
        await server.serve(sockets=listen("127.0.0.1", 0))
        return not server.forced

    if "DATE_EVERY_S" in os.environ:
        server_module._DATE_EVERY_S = float(os.environ["DATE_EVERY_S"])  # type: ignore[misc]  # a test's
    print(json.dumps({"orderly": run(serve())}), flush=True)


if __name__ == "__main__":
    main()
