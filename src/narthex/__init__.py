"""narthex: an authenticated WebSocket gateway for AI-agent chat.

Public names: `create_gateway` (narthex in your own program), `agent` (declare one), `RunInput` (what an agent
is given), `AgentUser` (who asks), `AgentError` (fail in words for people), and the modules `narthex.client` (the
Python helper), `narthex.testing`. They are loaded on first use, so that the command line stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from narthex._version import __version__

if TYPE_CHECKING:
    from narthex.ports.agents import AgentError, AgentUser, RunInput, agent
    from narthex.wiring.embedding import create_gateway

__all__ = ["AgentError", "AgentUser", "RunInput", "__version__", "agent", "create_gateway"]

_WHERE = {
    "AgentError": "narthex.ports.agents",
    "AgentUser": "narthex.ports.agents",
    "RunInput": "narthex.ports.agents",
    "agent": "narthex.ports.agents",
    "create_gateway": "narthex.wiring.embedding",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'narthex' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(module), name)
