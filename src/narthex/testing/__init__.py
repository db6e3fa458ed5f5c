"""narthex for your tests: a gateway on a free port, and tools for tests of a guarded WebSocket endpoint.

Public names: `gateway` and `Running` (a real gateway), `Issuer` (tokens), `ws_connect` and `assert_refused` (handshakes
that say why), `StagingIdentities` and `sign_in_page` (confined identities at a staging). The pytest plugin makes
fixtures of them. They are loaded on first use, so that the plugin costs nothing where no test uses it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from narthex.testing.handshakes import ConnectFailed, assert_refused, ws_connect
    from narthex.testing.identities import ConfinedIdentity, StagingIdentities, sign_in_page
    from narthex.testing.issuer import Issuer
    from narthex.testing.running import Running, gateway

__all__ = [
    "ConfinedIdentity",
    "ConnectFailed",
    "Issuer",
    "Running",
    "StagingIdentities",
    "assert_refused",
    "gateway",
    "sign_in_page",
    "ws_connect",
]

_WHERE = {
    "ConnectFailed": "handshakes",
    "Issuer": "issuer",
    "Running": "running",
    "StagingIdentities": "identities",
    "ConfinedIdentity": "identities",
    "assert_refused": "handshakes",
    "gateway": "running",
    "sign_in_page": "identities",
    "ws_connect": "handshakes",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'narthex.testing' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"narthex.testing.{module}"), name)
