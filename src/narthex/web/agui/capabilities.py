"""Describes an agent as AG-UI's AgentCapabilities.

Rules: only capabilities that the gateway itself guarantees are declared; those that depend on the agent's own code
(tools, reasoning, sub-agents) are left undeclared, which in AG-UI means unknown; those that the gateway does not pass
on are declared false.
"""

from __future__ import annotations

from narthex.ports.agents import Agent


def capabilities(agent: Agent, run_deadline_s: float) -> dict[str, object]:
    """An agent's AgentCapabilities, as JSON."""
    identity = {"name": agent.name, "provider": "narthex"}
    if agent.description:
        identity["description"] = agent.description
    return {
        "identity": identity,
        "transport": {
            "streaming": True,
            "websocket": True,  # /ws carries the same events, docs/protocol.md
            "httpBinary": False,
            "pushNotifications": False,
            "resumable": True,  # Last-Event-ID here, offset and epoch over the WebSocket
        },
        "tools": {"clientProvided": True},
        "multimodal": {
            "input": {"image": False, "audio": False, "video": False, "pdf": False, "file": False}
        },
        "execution": {"maxExecutionTime": round(run_deadline_s * 1000)},
        "humanInTheLoop": {"supported": True, "interrupts": True},
    }
