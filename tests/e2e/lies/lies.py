"""All lies, one a class: which answer is untrue, and which scenarios must notice it with which words.

Not here: how an answer is changed on its way (`server`); the lies themselves, by what they change. Rules: a lie changes
one answer and keeps all others true; a lie about events keeps `count` and `digest` right, unless they are the lie, so
that only an assertion about the content can notice it.
"""

from __future__ import annotations

from tests.e2e.lies import events, handshakes, http, pushes, recovery, replies, two_gateways
from tests.e2e.lies.registry import LIES

PARTS = (http, handshakes, replies, recovery, pushes, events, two_gateways)
"""The modules that register lies when they are imported."""

__all__ = ["LIES", "PARTS"]
