"""The gateways of `narthex serve --workers N`: what a worker of the supervisor runs.

Not here: starting and replacing workers (`supervisor`), the gateway itself (`gateway`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from narthex.settings import Settings, load
from narthex.wiring.supervisor import WorkerArguments, WorkerProgram


class _GatewayWorker:
    """One gateway that shares its port. `on_ready`: called once it answers."""

    def __init__(
        self,
        settings: Settings,
        orders: WorkerArguments,
        on_ready: Callable[[], None],
        on_drain: Callable[[], None],
    ) -> None:
        from narthex.wiring.engines import broker_at, make_broker, make_store
        from narthex.wiring.gateway import GatewayServer

        broker = broker_at(orders.broker_url) if orders.broker_url else make_broker(settings)
        store = make_store(settings, beside=True) if orders.beside else None
        self._on_ready = on_ready
        self._gateway = GatewayServer(settings, broker=broker, store=store, on_drain=on_drain)

    async def serve(self) -> bool:
        """See `WorkerServer`."""
        return await self._gateway.serve(reuse_port=True, on_ready=lambda _urls, _parts: self._on_ready())

    def stop(self) -> None:
        """See `WorkerServer`."""
        self._gateway.stop()


def _load(flags: Mapping[str, Any], config: Path | None) -> Settings:
    return load(flags, os.environ, config)


GATEWAYS: Final = WorkerProgram(_load, _GatewayWorker, engines=True)
