"""The scenarios, a file a group. The ten of the staging suite come first, as the entries under tests/ number them."""

from __future__ import annotations

import importlib
from typing import Final

STAGING: Final = (
    *("websocket_events", "message_flow", "agent_pipeline", "agent_orchestration"),
    *("response_streaming", "failure_recovery", "startup_resilience", "lifecycle_events"),
    *("coordination", "critical_path"),
)
"""Files of tests/e2e/staging, in their order."""

OTHERS: Final = (
    *("unit", "smoke", "startup", "websocket", "auth", "security"),
    *("chat", "agent", "integration", "resilience", "performance"),
)
"""Groups that are named like their categories."""


def load() -> None:
    """Import every group: importing registers its scenarios."""
    for name in (*STAGING, *OTHERS):
        importlib.import_module(f"narthex.e2e.scenarios.{name}")
