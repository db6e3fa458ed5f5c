"""narthex: an authenticated WebSocket gateway for AI-agent chat.

Public names: `create_gateway` (narthex in your own program), `agent` (declare one), `RunInput` (what an
agent is given), `client` (the Python helper). They are loaded on first use so that the command line stays fast.
"""

from __future__ import annotations

__version__ = "0.1.0"
