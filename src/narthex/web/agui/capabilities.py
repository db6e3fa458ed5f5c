"""What agents here can do, in AG-UI's AgentCapabilities: only what the gateway itself makes true is declared.

Rule: what depends on the agent's own code (tools, reasoning, sub-agents) is left undeclared, which in AG-UI means
unknown; what the gateway does not let through is declared false.
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
        "tools": {"clientProvided": False},
        "multimodal": {
            "input": {"image": False, "audio": False, "video": False, "pdf": False, "file": False}
        },
        "execution": {"maxExecutionTime": round(run_deadline_s * 1000)},
        "humanInTheLoop": {"supported": True, "interrupts": True},
    }
