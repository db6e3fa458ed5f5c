"""All lies, one per class: the wrong answer, and the scenarios that must notice it with a matching failure text.

Not here: the transport (`server`); the lies themselves, in modules by the changed answer. Rules: a lie changes one
answer and keeps all others correct; a lie about events keeps `count` and `digest` right, unless they are the lie, so
that only an assertion about the content can notice it.
"""

from __future__ import annotations

from tests.e2e.lies import events, handshakes, http, pushes, recovery, replies, two_gateways
from tests.e2e.lies.registry import LIES

PARTS = (http, handshakes, replies, recovery, pushes, events, two_gateways)
"""The modules that register lies when they are imported."""

__all__ = ["LIES", "PARTS"]
