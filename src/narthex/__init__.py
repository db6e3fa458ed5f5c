"""narthex: an authenticated WebSocket gateway for AI-agent chat.

Public names: `create_gateway` (narthex in your own program), `agent` (declare one), `RunInput` (what an agent
is given), `Guard` (admission around a WebSocket endpoint of your own), `identity` and `current_identity` (its user),
`Identity`, `AgentUser` (who asks), `AgentError` (fail in words for people), `Question` (one of several asked at once),
and the modules `narthex.client` (the Python helper), `narthex.testing`. They are loaded on first use, so that the
command line stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from narthex._version import __version__

if TYPE_CHECKING:
    from narthex.domain.identity import Identity
    from narthex.guard import Guard, current_identity, identity
    from narthex.ports.agents import AgentError, AgentUser, Question, RunInput, agent
    from narthex.wiring.embedding import create_gateway

__all__ = [
    "AgentError",
    "AgentUser",
    "Guard",
    "Identity",
    "Question",
    "RunInput",
    "__version__",
    "agent",
    "create_gateway",
    "current_identity",
    "identity",
]

_WHERE = {
    "AgentError": "narthex.ports.agents",
    "AgentUser": "narthex.ports.agents",
    "Guard": "narthex.guard",
    "Identity": "narthex.domain.identity",
    "Question": "narthex.ports.agents",
    "RunInput": "narthex.ports.agents",
    "agent": "narthex.ports.agents",
    "create_gateway": "narthex.wiring.embedding",
    "current_identity": "narthex.guard",
    "identity": "narthex.guard",
}


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    module = _WHERE.get(name)
    if module is None:
        raise AttributeError(f"module 'narthex' has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(module), name)
